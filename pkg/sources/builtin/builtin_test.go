package builtin

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/prometheus"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// fakeServer is a Prometheus server whose every query has that value.
func fakeServer(t *testing.T, value string, before func(r *http.Request)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before != nil {
			before(r)
		}
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/series") {
			fmt.Fprintf(w, `{"status":"success","data":[{"__name__":"of_%s","pod":"a"}]}`, value)
			return
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[%d,"%s"]}]}}`, time.Now().Unix(), value)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func configOf(t *testing.T, text string) *config.Config {
	t.Helper()
	t.Setenv("AWS_REGION", "eu-west-1")
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serverAt(url string) string {
	return "prometheus: {servers: {default: {url: " + url + "}}}\n"
}

func open(t *testing.T, text string) *Set {
	t.Helper()
	s, err := Open(t.Context(), configOf(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ask(t *testing.T, source sources.Source) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r := source.Fetch(ctx, []sources.Query{prometheus.NewQuery("default", "up", 0)})
	if r[0].Err != nil {
		return r[0].Err.Error()
	}
	return fmt.Sprint(r[0].Samples[0].Value)
}

func list(t *testing.T, s *Set) string {
	t.Helper()
	var names []string
	err := s.Series(t.Context(), "default", "up", time.Now().Add(-time.Minute), time.Now(), func(name string, _ []string) {
		names = append(names, name)
	})
	if err != nil {
		return err.Error()
	}
	return strings.Join(names, " ")
}

// wantChanges reloads and compares what is said to have changed.
func wantChanges(t *testing.T, s *Set, text string, want Changes) {
	t.Helper()
	got, err := s.Reload(t.Context(), configOf(t, text))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the changes are %v, want %v, of\n%s", got, want, text)
	}
}

// TestReloadTellsWhatChanged changes several servers.
func TestReloadTellsWhatChanged(t *testing.T) {
	const before = "prometheus: {servers: {default: {url: 'http://a'}, eu: {url: 'http://b'}, us: {url: 'http://c'}}}\n"
	for name, test := range map[string]struct {
		text string
		want Changes
	}{
		"nothing":             {before, Changes{}},
		"a new one":           {strings.Replace(before, "eu:", "new: {url: 'http://d'}, eu:", 1), Changes{}},
		"one gone":            {strings.Replace(before, " us:", " new:", 1), Changes{Prometheus: {"us"}}},
		"others":              {strings.NewReplacer("http://a", "http://b", "'http://c'", "'http://c', headers: {X-Scope-OrgID: b}").Replace(before), Changes{Prometheus: {"default", "us"}}},
		"credentials":         {strings.Replace(before, "'http://b'", "'http://b', http: {basic_auth: {username: a, password: b}}", 1), Changes{Prometheus: {"eu"}}},
		"how calls are made":  {strings.Replace(before, "'http://b'", "'http://b', verb: POST, maxCalls: 3, callTimeout: 2s", 1), Changes{}},
		"the time of Fetches": {before + "fetchTimeout: 3s\n", Changes{}},
		"CloudWatch":          {before + "cloudwatch: {maxCalls: 3}\n", Changes{CloudWatch: {}}},
		"both":                {"cloudwatch: {maxCalls: 3}\n" + serverAt("http://a"), Changes{CloudWatch: {}, Prometheus: {"eu", "us"}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, before)
			wantChanges(t, s, test.text, test.want)
			wantChanges(t, s, test.text, Changes{})
		})
	}
}

func TestReloadReplacesWhatChanged(t *testing.T) {
	one, two := fakeServer(t, "1", nil), fakeServer(t, "2", nil)
	s := open(t, serverAt(one))
	backends := s.Sources()
	if len(backends) != 2 || backends[CloudWatch] == nil || backends[Prometheus] == nil {
		t.Fatalf("sources %v", backends)
	}
	if got := ask(t, backends[Prometheus]) + " " + list(t, s); got != "1 of_1" {
		t.Errorf("at first: %s", got)
	}
	cloudWatch, before := s.open[CloudWatch].source(), s.open[Prometheus].source()
	for _, same := range []string{serverAt(one), serverAt(one) + "maxAge: 1h\nexternalRules: []\n"} {
		wantChanges(t, s, same, Changes{})
		if s.open[Prometheus].source() != before {
			t.Errorf("%q: replaced, although its configuration is the same", same)
		}
	}
	wantChanges(t, s, serverAt(two), Changes{Prometheus: {"default"}})
	// Through the source that was given out before.
	if got := ask(t, backends[Prometheus]) + " " + list(t, s); got != "2 of_2" {
		t.Errorf("after the change: %s", got)
	}
	if s.open[CloudWatch].source() != cloudWatch {
		t.Error("CloudWatch was replaced too")
	}
	wantChanges(t, s, serverAt(two)+"cloudwatch: {maxCalls: 3}\n", Changes{CloudWatch: {}})
	if s.open[CloudWatch].source() == cloudWatch {
		t.Error("CloudWatch was not replaced")
	}
}

// TestReloadIsAllOrNothing changes two sources, of which one cannot be made.
func TestReloadIsAllOrNothing(t *testing.T) {
	url := fakeServer(t, "1", nil)
	s := open(t, serverAt(url))
	cloudWatch, before := s.open[CloudWatch].source(), s.open[Prometheus].source()
	missing := filepath.Join(t.TempDir(), "kubeconfig")
	bad := "prometheus: {servers: {default: {url: " + url + ", kubeconfig: " + missing + "}}}\ncloudwatch: {maxCalls: 3}\n"
	for range 2 {
		changes, err := s.Reload(t.Context(), configOf(t, bad))
		if changes != nil || err == nil || !strings.Contains(err.Error(), "source prometheus: servers.default.kubeconfig: ") || !strings.Contains(err.Error(), missing) {
			t.Errorf("the error is %v", err)
		}
		if s.open[CloudWatch].source() != cloudWatch || s.open[Prometheus].source() != before {
			t.Error("a source was replaced")
		}
	}
	if got := ask(t, s.Sources()[Prometheus]); got != "1" {
		t.Errorf("got %s", got)
	}
	if _, err := Open(t.Context(), configOf(t, bad)); err == nil {
		t.Error("the bad configuration opens")
	}
}

// TestFetchUnderWayEndsWhereItBegan replaces a source while it is being asked.
func TestFetchUnderWayEndsWhereItBegan(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	slow := fakeServer(t, "1", func(*http.Request) { asked <- struct{}{}; <-release })
	s := open(t, serverAt(slow))
	source, answer := s.Sources()[Prometheus], make(chan string, 1)
	go func() { answer <- ask(t, source) }()
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatal("nobody asks")
	}
	if _, err := s.Reload(t.Context(), configOf(t, serverAt(fakeServer(t, "2", nil)))); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, source); got != "2" {
		t.Errorf("the next Fetch gives %s, want 2", got)
	}
	close(release)
	if got := <-answer; got != "1" {
		t.Errorf("the Fetch under way gives %s, want 1", got)
	}
}

// TestSetIsOneCollector gathers before and after a reload from one registry.
func TestSetIsOneCollector(t *testing.T) {
	s := open(t, serverAt(fakeServer(t, "1", nil)))
	registry := prom.NewPedanticRegistry()
	if err := registry.Register(s); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{serverAt(fakeServer(t, "1", nil)), serverAt(fakeServer(t, "2", nil)) + "cloudwatch: {maxCalls: 3}\n"} {
		if _, err := s.Reload(t.Context(), configOf(t, text)); err != nil {
			t.Fatal(err)
		}
		ask(t, s.Sources()[Prometheus])
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range families {
			names = append(names, f.GetName())
		}
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "tidegauge_prometheus_") }) {
			t.Errorf("self-metrics %q", names)
		}
	}
}
