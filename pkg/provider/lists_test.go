package provider

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidegauge/tidegauge/pkg/catalog"
)

// fakeNames are the names of both APIs.
type fakeNames struct {
	custom   []catalog.CustomName
	external []string
}

func (n *fakeNames) CustomNames() []catalog.CustomName { return n.custom }
func (n *fakeNames) ExternalNames() []string           { return n.external }

const (
	customList   = "/apis/custom.metrics.k8s.io/v1beta1"
	customList2  = "/apis/custom.metrics.k8s.io/v1beta2"
	externalList = "/apis/external.metrics.k8s.io/v1beta1"
)

// author writes the names as they are now.
type author struct {
	names *fakeNames
	wrote atomic.Int64
}

func (a *author) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.wrote.Add(1)
	accept := r.Header.Get("Accept")
	if accept == "text/none" {
		http.Error(w, "only JSON", http.StatusNotAcceptable)
		return
	}
	w.Header().Set("Content-Type", accept)
	_, _ = w.Write([]byte(r.URL.String() + ":"))
	if strings.HasPrefix(r.URL.Path, "/apis/custom") {
		for _, n := range a.names.custom {
			_, _ = w.Write([]byte(" " + n.Metric))
		}
		return
	}
	_, _ = w.Write([]byte(" " + strings.Join(a.names.external, " ")))
}

func newLists(t *testing.T) (*author, func(method, url, accept string) *httptest.ResponseRecorder) {
	a := &author{names: &fakeNames{custom: []catalog.CustomName{{Metric: "requests"}}, external: []string{"jobs"}}}
	h := KeepLists(a.names, a)
	return a, func(method, url, accept string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, url, http.NoBody)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
}

func TestListsAreWrittenOncePerChange(t *testing.T) {
	a, ask := newLists(t)
	want := func(url, accept, body string, wrote int64) {
		t.Helper()
		w := ask(http.MethodGet, url, accept)
		if w.Code != http.StatusOK || w.Body.String() != body || w.Header().Get("Content-Type") != accept {
			t.Errorf("%s as %s: got %d %v %q, want %q", url, accept, w.Code, w.Header(), w.Body, body)
		}
		if got := a.wrote.Load(); got != wrote {
			t.Errorf("%s as %s: %d were written, want %d", url, accept, got, wrote)
		}
	}
	want(customList, "a/json", customList+": requests", 1)
	want(customList, "a/json", customList+": requests", 1)
	want(customList, "a/proto", customList+": requests", 2)
	want(customList2, "a/json", customList2+": requests", 3)
	want(externalList, "a/json", externalList+": jobs", 4)
	want(externalList, "a/json", externalList+": jobs", 4)

	a.names.custom = []catalog.CustomName{{Metric: "sales"}}
	want(externalList, "a/json", externalList+": jobs", 4)
	want(customList, "a/json", customList+": sales", 5)
	a.names.custom = nil
	want(customList, "a/json", customList+":", 6)
	want(customList, "a/json", customList+":", 6)
	a.names.external = []string{"jobs"}
	want(externalList, "a/json", externalList+": jobs", 7)
}

func TestWhatIsNoListIsNotKept(t *testing.T) {
	a, ask := newLists(t)
	for _, tc := range []struct{ method, url, accept string }{
		{http.MethodGet, customList + "/namespaces/shop/pods/*/requests", "a/json"},
		{http.MethodGet, customList + "?timeout=3s", "a/json"},
		{http.MethodGet, "/apis/metrics.k8s.io/v1beta1", "a/json"},
		{http.MethodPost, customList, "a/json"},
		{http.MethodGet, externalList, "text/none"},
	} {
		before := a.wrote.Load()
		ask(tc.method, tc.url, tc.accept)
		if w := ask(tc.method, tc.url, tc.accept); a.wrote.Load() != before+2 {
			t.Errorf("%s %s as %s: %d %s was kept", tc.method, tc.url, tc.accept, w.Code, w.Body)
		}
	}
	if w := ask(http.MethodGet, externalList, "text/none"); w.Code != http.StatusNotAcceptable || w.Body.String() != "only JSON\n" {
		t.Errorf("got %d %q of an error", w.Code, w.Body)
	}
}

func TestListsAreBounded(t *testing.T) {
	a, ask := newLists(t)
	for i := range 3 * maxLists {
		ask(http.MethodGet, customList, strings.Repeat("x", i+1))
	}
	before := a.wrote.Load()
	for i := range 3 * maxLists {
		if w := ask(http.MethodGet, customList, strings.Repeat("x", i+1)); w.Code != http.StatusOK {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	}
	if got := a.wrote.Load() - before; got != 2*maxLists {
		t.Errorf("%d lists were written again, so that %d are kept, want %d", got, 3*maxLists-got, maxLists)
	}
}

func TestManyAskForAListAtOnce(t *testing.T) {
	a, ask := newLists(t)
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			if w := ask(http.MethodGet, customList, "a/json"); w.Body.String() != customList+": requests" {
				t.Errorf("got %q", w.Body)
			}
		})
	}
	asking.Wait()
	if got := a.wrote.Load(); got != 1 {
		t.Errorf("%d were written, want 1", got)
	}
}
