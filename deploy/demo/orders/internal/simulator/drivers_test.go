package simulator

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/flags"
)

// record is a server that notes what it was asked.
type record struct {
	*httptest.Server

	mu    sync.Mutex
	asked []string
}

func (r *record) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = nil
	return asked
}

func (r *record) handler(answer func(w http.ResponseWriter, r *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.asked = append(r.asked, strings.TrimSpace(req.Method+" "+req.URL.Path+" "+string(body)))
		r.mu.Unlock()
		answer(w, req)
	})
}

func TestLoaderThatDoesNotAnswerIsSkipped(t *testing.T) {
	fine := &record{}
	fine.Server = httptest.NewServer(fine.handler(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"rate":1}`)) }))
	t.Cleanup(fine.Close)
	bad := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(bad.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	urls, err := parseLoaders(fine.URL + ", " + bad.URL + "/," + gone.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewRegistry()
	l := newLoaders(urls, r)
	l.drive(t.Context(), 30)
	l.drive(t.Context(), 0.0001)
	if got, want := fine.take(), []string{`PUT /rate {"rate":10}`, `PUT /rate {"rate":0}`}; !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
	if n, err := l.workers(t.Context()); n != 1 || err != nil {
		t.Errorf("%d workers, %v; want the one that answers", n, err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	failures := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			failures[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	if len(failures) != 2 || failures[bad.URL+"/rate"] != 2 || failures[gone.URL+"/rate"] != 2 {
		t.Errorf("failures %v, want two of each but the first", failures)
	}
}

// cluster is an API server, and a kube that asks it.
func cluster(t *testing.T, hpas string) (*kube, *record) {
	t.Helper()
	r := &record{}
	r.Server = httptest.NewTLSServer(r.handler(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Header.Get("Authorization") != "Bearer token":
			http.Error(w, "who is it?", http.StatusUnauthorized)
		case strings.HasSuffix(req.URL.Path, "/horizontalpodautoscalers"):
			_, _ = io.WriteString(w, hpas)
		case req.Method == http.MethodPatch && req.Header.Get("Content-Type") != "application/merge-patch+json":
			http.Error(w, "of no kind", http.StatusUnsupportedMediaType)
		default:
			_, _ = io.WriteString(w, `{"status":{"replicas":9,"readyReplicas":7}}`)
		}
	}))
	t.Cleanup(r.Close)
	token, ca := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "ca.crt")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	for file, text := range map[string][]byte{token: []byte("token\n"), ca: certificate} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, err := newKube(r.URL, token, ca)
	if err != nil {
		t.Fatal(err)
	}
	return k, r
}

func TestScalesTheLoadersDeployment(t *testing.T) {
	k, r := cluster(t, `{"items":[{"metadata":{"name":"web"},"spec":{"scaleTargetRef":{"kind":"Deployment","name":"web"}}}]}`)
	s := &scaled{kube: k, deployment: deployment{"orders", "loader"}}
	s.drive(t.Context(), 2.6)
	want := []string{
		"GET /apis/autoscaling/v2/namespaces/orders/horizontalpodautoscalers",
		`PATCH /apis/apps/v1/namespaces/orders/deployments/loader/scale {"spec":{"replicas":3}}`,
	}
	if got := r.take(); !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
	if n, err := s.workers(t.Context()); n != 7 || err != nil {
		t.Errorf("%d workers, %v; want the 7 that are ready", n, err)
	}
}

func TestWhatAnHPAOwnsIsLeftAlone(t *testing.T) {
	k, r := cluster(t, `{"items":[{"metadata":{"name":"by-depth"},"spec":{"scaleTargetRef":{"kind":"Deployment","name":"worker"}}}]}`)
	err := k.scale(t.Context(), deployment{"orders", "worker"}, 3)
	if err == nil || !strings.Contains(err.Error(), "HPA by-depth owns Deployment orders/worker") {
		t.Errorf("%v, want to be told who owns it", err)
	}
	if got := r.take(); len(got) != 1 {
		t.Errorf("asked %v, want no more than who owns it", got)
	}
}

func TestAPIServerThatRefuses(t *testing.T) {
	k, r := cluster(t, "{}")
	if err := os.WriteFile(k.tokenFile, []byte("another-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := k.scale(t.Context(), deployment{"orders", "loader"}, 3)
	if err == nil || !strings.Contains(err.Error(), "401 Unauthorized: who is it?") || strings.Contains(err.Error(), "another-secret") {
		t.Errorf("%v, want what the API server says, and no token", err)
	}
	if got := r.take(); len(got) != 1 {
		t.Errorf("asked %v, want nothing to be scaled when nobody knows who owns it", got)
	}
}

func TestWrongCommandLines(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, test := range []struct{ args, words string }{
		{"", "--loaders: want either"},
		{"--loaders http://l:1 --deployment a/b", "--loaders: want either"},
		{"--loaders l:1", "--loaders"},
		{"--loaders http://l:1,http://me:secret@l:1", "--loaders"},
		{"--loaders http://l:1/rate", "--loaders"},
		{"--loaders http://l:1 --steps 1", "--steps: 1 is not from 2"},
		{"--loaders http://l:1 --period 1s", "--period: 1s has steps of 16.666666ms"},
		{"--loaders http://l:1 --min -1", "--min"},
		{"--loaders http://l:1 --min NaN", "--min"},
		{"--loaders http://l:1 --min 6 --max 5", "--max"},
		{"--loaders http://l:1 --queue=", "--queue"},
		{"--loaders http://l:1 --web web", `--web: "web" is not NAMESPACE/NAME`},
	} {
		err := Run(t.Context(), strings.Fields(test.args))
		if _, ok := errors.AsType[*flags.Error](err); !ok || !strings.Contains(err.Error(), test.words) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", test.args, err, test.words)
		}
	}
	if err := Run(t.Context(), []string{"--deployment", "a/b"}); err == nil || !strings.Contains(err.Error(), "--kube-api") {
		t.Errorf("%v, want to be told how to name the API server", err)
	}
}

func TestWorkersThatAreNotKnownAreNotNone(t *testing.T) {
	s := &simulator{registry: prometheus.NewRegistry()}
	s.gauges = newGauges(s.registry)
	s.see(t.Context(), "app_workers", s.gauges.app, func(context.Context) (int, error) { return 0, errors.New("away") })
	w := httptest.NewRecorder()
	s.loop = &loop{}
	s.handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	if !strings.Contains(w.Body.String(), "\napp_workers NaN\n") {
		t.Error(fmt.Sprint("app_workers is not NaN in\n", w.Body))
	}
}
