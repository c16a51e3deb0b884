package check

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/pkg/config"
)

var (
	external = schema.GroupVersion{Group: "external.metrics.k8s.io", Version: "v1beta1"}
	custom   = schema.GroupVersion{Group: "custom.metrics.k8s.io", Version: "v1beta2"}
)

// kubeconfig starts an API server that answers so, and gives a file that leads to it.
func kubeconfig(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {token: hunter2}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lists answers with those resources, of the API that is asked for.
func lists(t *testing.T, w http.ResponseWriter, r *http.Request, names ...string) {
	t.Helper()
	list := metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: strings.TrimPrefix(r.URL.Path, "/apis/"), APIResources: []metav1.APIResource{},
	}
	for _, name := range names {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: name})
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(list); err != nil {
		t.Error(err)
	}
}

// served checks that APIs are served, for that long.
func served(t *testing.T, o Options, timeout time.Duration) (report *Report, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	o.Overlay = func(*config.Config) error { return nil }
	o.Namespace, o.MaxAge = "default", time.Minute
	began := time.Now()
	report, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return report, time.Since(began)
}

func TestAnAPIIsServedWhenItsResourcesAreListed(t *testing.T) {
	path := kubeconfig(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/apis/"+custom.Group) {
			lists(t, w, r, "pods/a", "pods/b")
			return
		}
		lists(t, w, r)
	})
	report, _ := served(t, Options{Served: []schema.GroupVersion{external, custom}, Kubeconfig: path}, time.Minute)
	if !report.OK() || len(report.Findings) > 0 {
		t.Errorf("got %+v", report.Findings)
	}
	got := fmt.Sprintf("%+v", report.Served)
	want := "[{API:external.metrics.k8s.io/v1beta1 Resources:0 Names:[] Error:} {API:custom.metrics.k8s.io/v1beta2 Resources:2 Names:[pods/a pods/b] Error:}]"
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got, want := report.Summary(), "checked 2 API versions: 0 errors, 0 warnings"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An APIService becomes available some seconds after its pods are ready.
func TestAnAPIIsAskedForUntilItIsServed(t *testing.T) {
	var asked atomic.Int64
	path := kubeconfig(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < 3 {
			http.Error(w, "service unavailable", http.StatusServiceUnavailable)
			return
		}
		lists(t, w, r)
	})
	var told []string
	report, took := served(t, Options{
		Served: []schema.GroupVersion{external}, Kubeconfig: path, Progress: func(text string) { told = append(told, text) },
	}, time.Minute)
	if !report.OK() || asked.Load() != 3 || took < 2*askAgain {
		t.Errorf("it is served after %d calls in %v: %+v", asked.Load(), took, report.Findings)
	}
	if len(told) > 1 || len(told) == 1 && !strings.Contains(told[0], "external.metrics.k8s.io/v1beta1 is not served yet: 503: ") {
		t.Errorf("was told %q", told)
	}
}

func TestAnAPIThatIsNotServedIsAnErrorInTheServersWords(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   []string
	}{
		"unavailable": {
			func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "error trying to reach service: connection refused", http.StatusServiceUnavailable)
			},
			[]string{"is not served: 503: ", "error trying to reach service: connection refused"},
		},
		"not registered": {http.NotFound, []string{"404: ", "404 page not found"}},
		"forbidden": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusForbidden)
				_, _ = fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"somebody cannot get path","reason":"Forbidden","code":403}`)
			},
			[]string{"403: somebody cannot get path"},
		},
		"another list": {
			func(w http.ResponseWriter, r *http.Request) {
				r.URL.Path = "/apis/apps/v1"
				lists(t, w, r)
			},
			[]string{`no list of its resources, but one of "apps/v1"`},
		},
		"no list": {
			func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "<html>") },
			[]string{"is not served: "},
		},
		"no answer": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, []string{"no answer within --timeout"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := kubeconfig(t, test.answer)
			report, took := served(t, Options{Served: []schema.GroupVersion{external}, Kubeconfig: path}, 1500*time.Millisecond)
			if took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			if report.OK() || len(report.Findings) != 1 || report.Served[0].Error == "" {
				t.Fatalf("got %+v and %+v, want an error", report.Findings, report.Served)
			}
			f := report.Findings[0]
			if f.Severity != Error || f.Object != "API external.metrics.k8s.io/v1beta1" || !strings.Contains(f.Cure, "kubectl describe apiservice v1beta1.external.metrics.k8s.io") {
				t.Errorf("got %+v", f)
			}
			for _, w := range test.want {
				if !strings.Contains(f.Message, w) {
					t.Errorf("got %q, want %q in it", f.Message, w)
				}
			}
			if strings.Contains(f.Message, "hunter2") {
				t.Error("the token is told")
			}
		})
	}
}

// The rest is judged whatever the API server says.
func TestFilesAreJudgedBesideAPIs(t *testing.T) {
	path := kubeconfig(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/apis/"+external.String() {
			lists(t, w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`)
	})
	report, _ := served(t, Options{
		Served: []schema.GroupVersion{external}, Kubeconfig: path, Texts: []Text{{File: "a.yaml", Text: []byte("rules: 1\n")}},
	}, time.Minute)
	wantFindings(t, report.Findings, []found{{Error, "a.yaml", 1, "rules", "a list is wanted here", ""}})
	if got, want := report.Summary(), "checked 1 configuration, 1 API version in 1 file: 1 error, 0 warnings"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
