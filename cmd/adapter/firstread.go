package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

const (
	// startPatience is how long the first read is tried: a RoleBinding takes effect, and an
	// API server that has just started lets in who has a right, some seconds later.
	startPatience = 30 * time.Second
	firstPause    = 250 * time.Millisecond
	longestPause  = 4 * time.Second
	// frontProxies is the ConfigMap that says which front proxy to believe
	// (https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/).
	frontProxies = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
	// maxRefusal is how much of a refusal is read.
	maxRefusal = 4 << 10
)

// firstRead is the read without which the adapter does not start: the library reads
// frontProxies once, and ends the process if that fails.
type firstRead struct {
	// stopped ends the waiting.
	stopped <-chan struct{}
	log     klog.Logger
	until   time.Time

	told atomic.Bool
	// cure is what to do if it was given up.
	cure atomic.Pointer[string]
}

// newFirstRead is for a read that is to begin now.
func newFirstRead(ctx context.Context) *firstRead {
	return &firstRead{stopped: ctx.Done(), log: klog.FromContext(ctx), until: time.Now().Add(startPatience)}
}

// wrap puts the patience into the library's client of the API server.
func (f *firstRead) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, frontProxies) {
			return next.RoundTrip(r)
		}
		return f.read(r, next)
	})
}

// roundTripper is a function that is an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// read reads, and again while it is refused and there is time.
func (f *firstRead) read(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		response, err := next.RoundTrip(r)
		cure := cureOf(response, err)
		f.cure.Store(&cure)
		left := time.Until(f.until)
		if cure == "" || left <= 0 || r.Context().Err() != nil {
			return response, err
		}
		refusal := refusalOf(response, err)
		if f.told.CompareAndSwap(false, true) {
			f.log.Info("Waiting for the API server to say which front proxy to believe", "refusal", refusal, "for", startPatience)
		}
		select {
		case <-time.After(min(pause, left)):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-f.stopped:
			f.cure.Store(nil)
			return nil, fmt.Errorf("%w while waiting for the API server: %s", context.Canceled, refusal)
		}
	}
}

// cureOf is what to do if a read ends like this and goes on doing so. It is empty for what
// does not change by itself, and for success.
func cureOf(response *http.Response, err error) string {
	switch {
	case err != nil:
		return "can the API server be reached from here?"
	case response.StatusCode == http.StatusUnauthorized:
		return "the API server does not take the token of the adapter's ServiceAccount, or the credentials of --authentication-kubeconfig"
	case response.StatusCode == http.StatusForbidden:
		return "bind the Role extension-apiserver-authentication-reader of kube-system to the adapter's ServiceAccount, by a RoleBinding there"
	case response.StatusCode == http.StatusTooManyRequests, response.StatusCode >= http.StatusInternalServerError:
		return "is the API server well?"
	}
	return ""
}

// refusalOf are the words of a refusal, which is used up.
func refusalOf(response *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	var status metav1.Status
	if err == nil && json.Unmarshal(text, &status) == nil {
		text = []byte(status.Message)
	}
	return strings.TrimSpace(response.Status + ": " + cmp.Or(strings.TrimSpace(string(text)), "no words"))
}

// withCure adds to the library's error, if it is of a read that was given up, what to do.
func (f *firstRead) withCure(err error) error {
	if cure := f.cure.Load(); err != nil && cure != nil && *cure != "" {
		return fmt.Errorf("%w: %s", err, *cure)
	}
	return err
}
