package promproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

const (
	apiPath = "/api/v1/"
	// maxBody is the longest body of a request, in bytes. Prometheus takes 10 MB.
	maxBody = 10 << 20
	// bufferBytes is how much of an answer is sent at once.
	bufferBytes = 64 << 10
)

// ServeHTTP answers a client of Prometheus.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, err := newCall(w, r)
	out := &recordingWriter{ResponseWriter: w}
	ended := s.calls.came(c)
	// A connection that is cut ends the handler by a panic.
	defer func() { ended(out.status, out.bytes, out.complete) }()
	if err != nil {
		send(out, Error(http.StatusBadRequest, "bad_data", err.Error()))
		return
	}
	var fault Fault
	for _, f := range s.faults.Take(func(f Fault) bool { return f.matches(c) }) {
		fault = fault.with(f)
	}
	if err := pause(r.Context(), fault.Delay); err != nil {
		panic(http.ErrAbortHandler) // Nobody is there to be answered.
	}
	out.cutAfter = int64(fault.CutAfter)
	s.answer(out, r, c, fault.Answer)
	if fault.CutAfter > 0 {
		out.cut()
	}
	klog.FromContext(r.Context()).V(4).Info("Answered", "endpoint", c.Endpoint, "status", out.status, "bytes", out.bytes)
}

// answer gives the fault's answer, the player's or the upstream server's.
func (s *Server) answer(w *recordingWriter, r *http.Request, c Call, instead *Answer) {
	s.mu.Lock()
	play, upstream := s.play, s.upstream
	s.mu.Unlock()
	if instead != nil {
		send(w, *instead)
		return
	}
	if play != nil {
		if a, ok := play(c); ok {
			send(w, a)
			return
		}
	}
	if upstream == nil {
		send(w, Error(http.StatusServiceUnavailable, "unavailable", "promproxy: nobody answers "+c.Endpoint+", there is no upstream server"))
		return
	}
	s.forward(w, r, upstream)
}

// forward passes the request on, without the path before /api.
func (s *Server) forward(w *recordingWriter, r *http.Request, upstream *url.URL) {
	failed := false
	proxy := &httputil.ReverseProxy{
		Transport: s.transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			if i := strings.Index(p.Out.URL.Path, apiPath); i >= 0 {
				p.Out.URL.Path, p.Out.URL.RawPath = p.Out.URL.Path[i:], ""
			}
			p.SetURL(upstream)
		},
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			failed = true
			if r.Context().Err() != nil {
				return // The client left.
			}
			send(w, Text(http.StatusBadGateway, "text/plain", fmt.Sprintf("promproxy: upstream: %v", err)))
		},
	}
	proxy.ServeHTTP(w, r)
	w.complete = w.complete || !failed
}

// newCall reads a request; its body can be read again.
func newCall(w http.ResponseWriter, r *http.Request) (Call, error) {
	c := Call{
		Time: time.Now(), Method: r.Method, Path: r.URL.Path, Endpoint: r.URL.Path,
		Header: r.Header.Clone(), RequestBytes: len(r.URL.RawQuery),
	}
	if _, endpoint, ok := strings.Cut(r.URL.Path, apiPath); ok {
		c.Endpoint = endpoint
	}
	form, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return c, fmt.Errorf("parsing URL: %w", err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return c, fmt.Errorf("reading body: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	c.RequestBytes += len(body)
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // No media type is no form.
	if media == "application/x-www-form-urlencoded" {
		posted, err := url.ParseQuery(string(body))
		if err != nil {
			return c, fmt.Errorf("parsing body: %w", err)
		}
		for name, values := range posted {
			form[name] = append(form[name], values...)
		}
	}
	c.Form, c.Query, c.Match, c.Timeout = form, form.Get("query"), form["match[]"], form.Get("timeout")
	return c, nil
}

// pause waits, unless the client leaves first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// recordingWriter counts what is sent, and cuts the connection where it is told to.
type recordingWriter struct {
	http.ResponseWriter

	status   int
	bytes    int64
	cutAfter int64 // bytes; 0 is never
	complete bool
}

// Unwrap is for http.ResponseController.
func (w *recordingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *recordingWriter) WriteHeader(status int) {
	if status >= http.StatusOK { // Others precede the answer.
		w.status = status
	}
	if w.cutAfter > 0 {
		w.Header().Del("Content-Length") // With it a short answer would be whole before its end.
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recordingWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	over := w.cutAfter > 0 && w.bytes+int64(len(p)) >= w.cutAfter
	if over {
		p = p[:w.cutAfter-w.bytes]
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	if over {
		w.cut()
	}
	return n, err
}

// cut ends the connection in the middle of an answer. It does not return.
func (w *recordingWriter) cut() {
	w.complete = false
	_ = http.NewResponseController(w.ResponseWriter).Flush() // What was written is to arrive.
	panic(http.ErrAbortHandler)
}

// ServeHTTP gives the answer to any request.
func (a Answer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	send(&recordingWriter{ResponseWriter: w}, a)
}

// send writes an answer.
func send(w *recordingWriter, a Answer) {
	maps.Copy(w.Header(), a.Header)
	w.WriteHeader(a.status())
	if a.Body != nil {
		body := bufio.NewWriterSize(w, bufferBytes)
		if err := errors.Join(a.Body(body), body.Flush()); err != nil {
			return // The client left.
		}
	}
	w.complete = true
}
