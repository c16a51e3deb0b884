package load

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/orders/program"
)

// driven is a loader that notes the rates that it is told.
type driven struct {
	*httptest.Server

	mu    sync.Mutex
	rates []float64
}

func newDriven(t *testing.T) *driven {
	t.Helper()
	d := &driven{}
	d.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body struct{ Rate float64 }
		if r.Method != http.MethodPut || r.URL.Path != "/rate" || json.NewDecoder(r.Body).Decode(&body) != nil {
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.rates = append(d.rates, body.Rate)
	}))
	t.Cleanup(d.Close)
	return d
}

func (d *driven) told() []float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.rates)
}

// isWave says whether rates are those of the steps of a wave from 0 to 100 from its begin,
// where some may be there twice.
func isWave(rates []float64, steps int) bool {
	for i, rate := range slices.Compact(rates) {
		want := 50 * (1 - math.Cos(2*math.Pi*float64(i%steps)/float64(steps)))
		if math.Abs(rate-want) > 0.01 {
			return false
		}
	}
	return true
}

// simulator is one of a wave of 20 steps of half a second.
func simulator(loaders string, more ...string) []string {
	return append([]string{
		"simulator", "--loaders", loaders, "--period", "10s", "--steps", "20", "--min", "0", "--max", "100", "--publish", "1s",
	}, more...)
}

// Row B21.
func TestSimulatorGoesOnAfterARestart(t *testing.T) {
	cloud, loader := aws(t), newDriven(t)
	depth := newQueue(t.Context(), t, cloud, "orders-sine")
	steps := func(n int) func() bool {
		return func() bool { return len(loader.told()) >= n }
	}
	p := start(t, cloud, nil, simulator(loader.URL)...)
	eventually(t, "6 steps were taken", steps(6))
	if status, text := get(t.Context(), t, p.URL("admin")+"/wave"); status != http.StatusOK || !strings.Contains(text, `"step":`) {
		t.Errorf("%d %s", status, text)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	p = start(t, cloud, nil, simulator(loader.URL)...)
	eventually(t, "12 steps were taken", steps(12))
	p.Kill()
	n := len(loader.told())
	p = start(t, cloud, nil, simulator(loader.URL)...)
	eventually(t, "it goes on after it was killed", steps(n+4))
	// What was killed may have sent the message of the next step, and not deleted its own.
	one := func() bool { d := depth(); return d == "1+0+0" || d == "0+1+0" || d == "0+0+1" }
	eventually(t, "no message of the killed one is left", one)
	p.Stop()
	if rates := loader.told(); !isWave(rates, 20) {
		t.Errorf("the rates are %v, want those of one wave", rates)
	}
	eventually(t, "one message is left", one)
	if workers, there := published(t.Context(), t, cloud, "load_workers", "Maximum"); !there || workers < 1 {
		t.Errorf("load_workers is %v, %v; want 1", workers, there)
	}
}

func TestTwoSimulatorsAreNotTwiceAsFast(t *testing.T) {
	cloud, loader := aws(t), newDriven(t)
	depth := newQueue(t.Context(), t, cloud, "orders-sine")
	begin := time.Now()
	p := start(t, cloud, nil, simulator(loader.URL, "--period", "20s")...)
	q := start(t, cloud, nil, simulator(loader.URL, "--period", "20s")...)
	eventually(t, "20 steps were taken", func() bool { return len(slices.Compact(loader.told())) >= 20 })
	if took := time.Since(begin); took < 19*time.Second {
		t.Errorf("20 steps of a second took %v", took)
	}
	p.Stop()
	q.Stop()
	if rates := loader.told(); !isWave(rates, 20) {
		t.Errorf("the rates are %v, want those of one wave", rates)
	}
	eventually(t, "one message is left", func() bool { d := depth(); return d == "1+0+0" || d == "0+1+0" || d == "0+0+1" })
}

// The whole: the simulator drives a real loader, a second one is away, and web has pods.
func TestSimulatorDrivesALoader(t *testing.T) {
	cloud, web := aws(t), loaded(t, fine)
	newQueue(t.Context(), t, cloud, "sine")
	loader := start(t, cloud, nil, "loader", "--url", web.URL, "--rate", "0", "--publish", "1s", "-o", "json")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/apis/apps/v1/namespaces/orders/deployments/web" && r.Header.Get("Authorization") == "Bearer token" && r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `{"status":{"readyReplicas":3}}`)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(api.Close)
	token, ca := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "ca.crt")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	for file, text := range map[string][]byte{token: []byte("token"), ca: certificate} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"ORDERS_QUEUE=sine", "ORDERS_WEB=orders/web", "ORDERS_KUBE_API=" + api.URL, "ORDERS_KUBE_TOKEN_FILE=" + token, "ORDERS_KUBE_CA_FILE=" + ca}
	p := start(t, cloud, env, simulator(loader.URL("admin")+","+gone.URL)...)
	eventually(t, "the loader is at its most, of which the other one has half", func() bool {
		_, text := get(t.Context(), t, loader.URL("admin")+"/rate")
		return strings.TrimSpace(text) == `{"rate":50}`
	})
	eventually(t, "the loader is at its least", func() bool {
		_, text := get(t.Context(), t, loader.URL("admin")+"/rate")
		return strings.TrimSpace(text) == `{"rate":0}`
	})
	if !strings.Contains(p.Log(), "a loader is skipped") || !strings.Contains(p.Log(), gone.URL) {
		t.Error("the log does not say which loader is skipped")
	}
	for name, want := range map[string]float64{"app_workers": 3, "load_workers": 1} {
		eventually(t, name+" is published", func() bool { _, there := published(t.Context(), t, cloud, name, "Average"); return there })
		least, _ := published(t.Context(), t, cloud, name, "Minimum")
		if n, _ := published(t.Context(), t, cloud, name, "SampleCount"); n == 0 || math.Mod(least, want) != 0 || least == 0 {
			t.Errorf("%s is %v of %v samples, want %v", name, least, n, want)
		}
	}
	eventually(t, "200 is published", func() bool { return sum(t.Context(), t, cloud, "200") > 0 })
	for _, one := range []*program.Process{p, loader} {
		if code := one.Stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
	if s := summaryOf(t, loader); s.Requests == 0 || s.Codes["200"] != s.Requests || sum(t.Context(), t, cloud, "200") != float64(s.Requests) {
		t.Errorf("%+v, of which %v are published", s, sum(t.Context(), t, cloud, "200"))
	}
}
