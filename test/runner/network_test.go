package runner

import (
	"io"
	"log" //nolint:depguard // what net/http takes
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestForwardTellsOnlyWhoAsked: a pod that is gone, and one that goes in the middle of an answer,
// are nothing for the screen of whoever runs the pods.
func TestForwardTellsOnlyWhoAsked(t *testing.T) {
	var screen strings.Builder
	before := log.Writer()
	log.SetOutput(&screen)
	t.Cleanup(func() { log.SetOutput(before) })
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	going := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
	}))
	t.Cleanup(going.Close)
	for name, to := range map[string]*httptest.Server{"gone": gone, "going": going} {
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			forward(w, r, strings.TrimPrefix(to.URL, "http://"))
		}))
		t.Cleanup(front.Close)
		text, err := get(t.Context(), http.DefaultClient, front.URL)
		if err == nil {
			t.Errorf("%s: answered with %q, want an error", name, text)
		}
		if name == "gone" && !strings.Contains(text, "refused") {
			t.Errorf("%s: whoever asked is told %v, %q, want why", name, err, text)
		}
	}
	if screen.Len() > 0 {
		t.Errorf("on the screen is %q", &screen)
	}
}
