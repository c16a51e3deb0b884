package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestShutdownAsksLateConnections has a handshake end after the shutdown began, over a connection
// that stays open.
func TestShutdownAsksLateConnections(t *testing.T) {
	accepted := make(chan struct{}, 10)
	shutting := make(chan struct{}, 1)
	s := httptest.NewUnstartedServer(goAway(t.Context(), http.NotFoundHandler()))
	s.EnableHTTP2 = true
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			accepted <- struct{}{}
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	s.Config.RegisterOnShutdown(func() {
		select {
		case shutting <- struct{}{}:
		default: // It has begun before.
		}
	})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Fatalf("the answer came over %s", answer.Proto)
	}
	<-accepted

	late, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = late.Close() }) // It may be closed.
	<-accepted
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() { ended <- s.Config.Shutdown(ctx) }()
	<-shutting
	transport := s.Client().Transport.(*http.Transport).Clone()
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return late, nil }
	if _, err := transport.NewClientConn(t.Context(), "https", s.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error("the server waits for a client that it does not ask to go:", err)
	}
}
