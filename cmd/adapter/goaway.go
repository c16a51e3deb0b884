package main

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// askAgain is how often clients are asked to connect elsewhere while the server shuts down.
const askAgain = 500 * time.Millisecond

// goAway has http.Server.Shutdown end connections that come late. It asks the clients of the
// HTTP/2 connections that there are when it begins to connect elsewhere. One whose handshake ends
// after that is never asked (golang.org/x/net/http2, serverInternalState.startGracefulShutdown):
// its client goes on reading here, and the process stays until the library's limit of a minute,
// which is longer than a pod has. The server is learned from its first request.
func goAway(ctx context.Context, next http.Handler) http.Handler {
	ctx = context.WithoutCancel(ctx)
	var registered sync.Once
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		registered.Do(func() {
			if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
				shutDownAgain(ctx, server)
			}
		})
		next.ServeHTTP(w, r)
	})
}

// shutDownAgain has the server's first Shutdown shut it down again and again, which asks all
// clients that are there by then.
func shutDownAgain(ctx context.Context, server *http.Server) {
	var begun atomic.Bool
	server.RegisterOnShutdown(func() {
		if begun.Swap(true) {
			return
		}
		for late := true; late; {
			ctx, cancel := context.WithTimeout(ctx, askAgain)
			late = errors.Is(server.Shutdown(ctx), context.DeadlineExceeded)
			cancel()
		}
	})
}
