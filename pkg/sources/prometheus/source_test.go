package prometheus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources"
	"github.com/tidegauge/tidegauge/pkg/sources/sourcetest"
)

// fakePrometheus answers queries with the values of their text.
type fakePrometheus struct {
	values map[string]string
	// before, if not nil, is called before each answer, and may answer itself.
	before func(w http.ResponseWriter, r *http.Request) (answered bool)

	mu sync.Mutex
	// requests are those that came, with their parameters.
	requests []request
}

type request struct {
	method, path string
	query        url.Values
	form         url.Values
	header       http.Header
	host         string
}

func (f *fakePrometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.requests = append(f.requests, request{r.Method, r.URL.Path, query, r.Form, r.Header, r.Host})
	f.mu.Unlock()
	if f.before != nil && f.before(w, r) {
		return
	}
	if strings.HasSuffix(r.URL.Path, "/series") {
		io.WriteString(w, `{"status":"success","data":[{"__name__":"up","b":"1","a":"2"}]}`)
		return
	}
	text := r.Form.Get("query")
	value, known := f.values[text]
	switch {
	case text == "bad":
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": parse error"}`)
	case !known:
		io.WriteString(w, vectorOf(``))
	default:
		io.WriteString(w, vectorOf(fmt.Sprintf(`{"metric":{"q":%q},"value":[%s,%q]}`, text, r.Form.Get("time"), value)))
	}
}

func (f *fakePrometheus) asked() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// start serves the handler, and makes a source of it.
func start(t *testing.T, h http.Handler, change func(*Server)) (*Source, *httptest.Server) {
	t.Helper()
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	return newSource(t, web.URL, change), web
}

func newSource(t *testing.T, address string, change func(*Server)) *Source {
	t.Helper()
	c := Server{URL: address}
	if change != nil {
		change(&c)
	}
	s, err := New(Config{Servers: map[string]Server{DefaultServer: c}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fetchOne(t *testing.T, s *Source, promQL string) sources.Result {
	t.Helper()
	return s.Fetch(t.Context(), []sources.Query{NewQuery(DefaultServer, promQL, 0)})[0]
}

// gate lets calls pass unless it is closed.
type gate struct {
	mu   sync.Mutex
	shut chan struct{}
}

func (g *gate) close() (open func()) {
	shut := make(chan struct{})
	g.set(shut)
	return func() {
		g.set(nil)
		close(shut)
	}
}

func (g *gate) set(shut chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
}

func (g *gate) get() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

func (g *gate) pass(ctx context.Context) {
	if shut := g.get(); shut != nil {
		select {
		case <-shut:
		case <-ctx.Done():
		}
	}
}

func TestContract(t *testing.T) {
	for _, verb := range []string{http.MethodGet, http.MethodPost} {
		t.Run(verb, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) sourcetest.Harness {
				t.Helper()
				block, broken := new(gate), new(gate)
				f := &fakePrometheus{values: map[string]string{"a": "0.9", "b": "-7.5", "c": "9.1e18"}}
				f.before = func(w http.ResponseWriter, r *http.Request) bool {
					block.pass(r.Context())
					if broken.get() == nil {
						return false
					}
					http.Error(w, "wrong: "+r.Header.Get("Authorization"), http.StatusForbidden)
					return true
				}
				s, _ := start(t, f, func(s *Server) {
					s.Verb = verb
					s.HTTP = DefaultHTTP()
					s.HTTP.BearerToken = "SECRET"
				})
				query := func(promQL string) sources.Query { return NewQuery("", promQL, time.Minute) }
				return sourcetest.Harness{
					Source:  s,
					Good:    []sources.Query{query("a"), query("b"), query("c")},
					Values:  []float64{0.9, -7.5, 9.1e18},
					Twin:    query("a"),
					Bad:     query("bad"),
					Empty:   query("empty"),
					Block:   block.close,
					Break:   broken.close,
					Secrets: []string{"SECRET"},
				}
			})
		})
	}
}

func TestFetchSample(t *testing.T) {
	f := &fakePrometheus{values: map[string]string{"a": "0.9"}}
	s, _ := start(t, f, nil)
	before := time.Now().Truncate(time.Millisecond)
	got := s.Fetch(t.Context(), []sources.Query{NewQuery("default", "a", 2*time.Minute)})[0]
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	sample := got.Samples[0]
	if sample.Value != 0.9 || sample.Window != 2*time.Minute || sample.Labels.Get("q") != "a" || sample.Time.Before(before) || sample.Time.After(time.Now()) {
		t.Errorf("got %+v", sample)
	}
}

func TestFetchRequests(t *testing.T) {
	long := strings.Repeat("a", maxURLQuery)
	for _, test := range []struct {
		name, path, query string
		change            func(*Server)
		method, wantPath  string
	}{
		{"GET", "", "a", nil, "GET", "/api/v1/query"},
		{"GET below a path", "/a/b", "a", nil, "GET", "/a/b/api/v1/query"},
		{"GET below a path with a slash", "/a/b/", "a", nil, "GET", "/a/b/api/v1/query"},
		{"POST", "/a", "a", func(s *Server) { s.Verb = "POST" }, "POST", "/a/api/v1/query"},
		{"a long query is posted", "", long, nil, "POST", "/api/v1/query"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &fakePrometheus{values: map[string]string{test.query: "1"}}
			s, _ := start(t, f, func(s *Server) {
				s.URL += test.path
				s.CallTimeout = 1500 * time.Millisecond
				if test.change != nil {
					test.change(s)
				}
			})
			if got := fetchOne(t, s, test.query); got.Err != nil {
				t.Fatal(got.Err)
			}
			r := f.asked()[0]
			if r.method != test.method || r.path != test.wantPath || r.header.Get("User-Agent") != "tidegauge" {
				t.Errorf("asked by %s at %s as %s, want %s at %s", r.method, r.path, r.header.Get("User-Agent"), test.method, test.wantPath)
			}
			if (r.method == http.MethodPost) != (len(r.query) == 0) {
				t.Errorf("the URL has the parameters %v", r.query)
			}
			if r.form.Get("query") != test.query || r.form.Get("timeout") != "1s500ms" || len(r.form["time"]) != 1 || len(r.form) != 5 ||
				r.form.Get("partial_response") != "false" || r.form.Get("deny_partial_response") != "1" {
				t.Errorf("the parameters are %v", r.form)
			}
		})
	}
}

func TestFetchAsksOnceAndAtOneTime(t *testing.T) {
	f := &fakePrometheus{values: map[string]string{"a": "1", "b": "2"}}
	s, _ := start(t, f, nil)
	query := func(promQL string, window time.Duration) sources.Query { return NewQuery("", promQL, window) }
	got := s.Fetch(t.Context(), []sources.Query{query("a", 0), query("b", 0), query("a", 0), query("a", time.Minute)})
	for i, want := range []struct {
		value  float64
		window time.Duration
	}{{1, 0}, {2, 0}, {1, 0}, {1, time.Minute}} {
		if got[i].Err != nil || got[i].Samples[0].Value != want.value || got[i].Samples[0].Window != want.window {
			t.Errorf("result %d is %+v, want %+v", i, got[i], want)
		}
	}
	asked := f.asked()
	if len(asked) != 3 {
		t.Errorf("asked %d times, want 3", len(asked))
	}
	for _, r := range asked {
		if r.form.Get("time") != asked[0].form.Get("time") {
			t.Errorf("asked of %s and of %s", asked[0].form.Get("time"), r.form.Get("time"))
		}
	}
}

// flights counts calls, and holds each until there are as many as can be, or some time
// has passed.
type flights struct {
	mu        sync.Mutex
	now, most int
	full      chan struct{}
	limit     int
}

func (f *flights) fly() {
	f.mu.Lock()
	f.now++
	f.most = max(f.most, f.now)
	if f.now == f.limit {
		close(f.full)
		f.limit = -1
	}
	f.mu.Unlock()
	<-f.full
	f.mu.Lock()
	f.now--
	f.mu.Unlock()
}

func TestFetchBoundsCallsInFlight(t *testing.T) {
	calls := &flights{full: make(chan struct{}), limit: 3}
	f := &fakePrometheus{before: func(http.ResponseWriter, *http.Request) bool {
		calls.fly()
		return false
	}}
	s, _ := start(t, f, func(s *Server) { s.MaxCalls = 3 })
	var fetches sync.WaitGroup
	for i := range 4 {
		fetches.Go(func() {
			var queries []sources.Query
			for j := range 10 {
				queries = append(queries, NewQuery("", fmt.Sprintf("q%d_%d", i, j), 0))
			}
			s.Fetch(t.Context(), queries)
		})
	}
	fetches.Wait()
	if calls.most != 3 || len(f.asked()) != 40 {
		t.Errorf("%d of %d calls were in flight together, want 3 of 40", calls.most, len(f.asked()))
	}
}

func TestFetchKeepsWhatWasAnsweredInTime(t *testing.T) {
	slow := make(chan struct{})
	f := &fakePrometheus{values: map[string]string{"fast": "1", "slow": "2"}, before: func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Form.Get("query") == "slow" {
			close(slow)
			<-r.Context().Done()
		}
		return false
	}}
	s, _ := start(t, f, func(s *Server) { s.MaxCalls = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-slow
		cancel()
	}()
	got := s.Fetch(ctx, []sources.Query{NewQuery("", "fast", 0), NewQuery("", "slow", 0), NewQuery("", "later", 0)})
	if got[0].Err != nil || got[0].Samples[0].Value != 1 {
		t.Errorf("the answer that was there is %+v", got[0])
	}
	for i, end := range []string{": context canceled", "not asked in time: other queries took all the calls that may be in flight"} {
		r := got[1+i]
		if r.Err == nil || !strings.HasSuffix(r.Err.Error(), end) || !strings.HasPrefix(r.Err.Error(), `prometheus server "default" (http://127.0.0.1:`) {
			t.Errorf("the error is %v", r.Err)
		}
	}
}

// connections counts those that a server has.
type connections struct{ opened, open atomic.Int64 }

func (c *connections) state(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		c.opened.Add(1)
		c.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		c.open.Add(-1)
	default:
	}
}

func (c *connections) wantNone(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); c.open.Load() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d connections are still there", c.open.Load(), c.opened.Load())
		}
		<-time.After(time.Millisecond)
	}
}

// TestCloseIdleConnections retires sources with a Fetch under way, which is to end well,
// and to leave no connection.
func TestCloseIdleConnections(t *testing.T) {
	for _, test := range authTests {
		t.Run(test.name, func(t *testing.T) {
			asked, block := make(chan struct{}, 10), new(gate)
			f := &fakePrometheus{values: map[string]string{"a": "1", "b": "2", "c": "3"}, before: func(_ http.ResponseWriter, r *http.Request) bool {
				asked <- struct{}{}
				block.pass(r.Context())
				return false
			}}
			seen := new(connections)
			web := httptest.NewUnstartedServer(f)
			web.Config.ConnState = seen.state
			web.Start()
			defer web.Close()
			s := newSource(t, web.URL, func(s *Server) {
				test.change(t, s)
				s.MaxCalls = 1
			})
			fetchOne(t, s, "a")
			<-asked
			if open := seen.open.Load(); open != 1 {
				t.Fatalf("there are %d connections before, want the idle one", open)
			}
			release, results := block.close(), make(chan []sources.Result)
			go func() {
				results <- s.Fetch(t.Context(), []sources.Query{NewQuery("", "a", 0), NewQuery("", "b", 0), NewQuery("", "c", 0)})
			}()
			<-asked
			s.CloseIdleConnections()
			release()
			for i, r := range <-results {
				if r.Err != nil || r.Samples[0].Value != float64(i+1) {
					t.Errorf("result %d is %+v", i, r)
				}
			}
			seen.wantNone(t)
			// A Fetch may have begun before, and make its first call only now.
			fetchOne(t, s, "a")
			seen.wantNone(t)
		})
	}
}

func TestFetchUnknownServer(t *testing.T) {
	s, _ := start(t, new(fakePrometheus), nil)
	got := s.Fetch(t.Context(), []sources.Query{NewQuery("other", "a", 0)})[0]
	if want := `prometheus server "other" is not in the configuration: there are default`; got.Err == nil || got.Err.Error() != want {
		t.Errorf("the error is %v, want %s", got.Err, want)
	}
	none, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	err = none.Series(t.Context(), "default", "up", time.Time{}, time.Time{}, nil)
	if want := `prometheus server "default" is not in the configuration: there are none`; err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

func TestServersAreApart(t *testing.T) {
	good := httptest.NewServer(&fakePrometheus{values: map[string]string{"a": "1"}})
	defer good.Close()
	hanging := make(chan struct{}, 1)
	bad := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		hanging <- struct{}{}
		<-r.Context().Done()
	}))
	defer bad.Close()
	s, err := New(Config{Servers: map[string]Server{"good": {URL: good.URL}, "bad": {URL: bad.URL, MaxCalls: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan []sources.Result)
	go func() { failed <- s.Fetch(ctx, []sources.Query{NewQuery("bad", "a", 0), NewQuery("bad", "b", 0)}) }()
	<-hanging
	if got := s.Fetch(t.Context(), []sources.Query{NewQuery("good", "a", 0)})[0]; got.Err != nil || got.Samples[0].Value != 1 {
		t.Errorf("the server that answers gave %+v", got)
	}
	cancel()
	for _, r := range <-failed {
		if r.Err == nil {
			t.Errorf("the server that hangs gave %+v", r)
		}
	}
}

func TestSeries(t *testing.T) {
	for _, verb := range []string{http.MethodGet, http.MethodPost} {
		f := new(fakePrometheus)
		s, _ := start(t, f, func(s *Server) { s.URL, s.Verb = s.URL+"/prefix", verb })
		var got []string
		err := s.Series(t.Context(), "default", `{__name__=~"^up$"}`, time.Unix(1000, 0), time.UnixMilli(2000_500), func(name string, labels []string) {
			got = append(got, fmt.Sprint(name, labels))
		})
		if err != nil || !slices.Equal(got, []string{"up[a b]"}) {
			t.Errorf("%s: got %q and %v", verb, got, err)
		}
		r := f.asked()[0]
		if r.method != verb || r.path != "/prefix/api/v1/series" || r.form.Get("match[]") != `{__name__=~"^up$"}` || r.form.Get("start") != "1000.000" || r.form.Get("end") != "2000.500" {
			t.Errorf("asked %+v", r)
		}
	}
}

func TestSeriesErrors(t *testing.T) {
	visited := 0
	visit := func(string, []string) { visited++ }
	series := func(t *testing.T, h http.HandlerFunc) error {
		t.Helper()
		s, web := start(t, h, nil)
		defer web.CloseClientConnections()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		visited = 0
		return s.Series(ctx, "default", "up", time.Now(), time.Now(), visit)
	}
	for _, test := range []struct {
		name    string
		answer  http.HandlerFunc
		want    string
		visited int
	}{
		{"refused", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"match[]\""}`)
		}, `400 Bad Request: bad_data: invalid parameter "match[]"`, 0},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"status":"success","data":[{"__name__":"up"},{"__na`)
		}, "connection cut before the end of the answer", 1},
		{"never ending", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"status":"success","data":[{"__name__":"up"},`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "no answer in time", 1},
		{"dripping", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"status":"success","data":[{"__name__":"up"}`)
			for r.Context().Err() == nil {
				io.WriteString(w, `  `)
				w.(http.Flusher).Flush()
				<-time.After(time.Millisecond)
			}
		}, "no answer in time", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := series(t, test.answer)
			if err == nil || !strings.HasPrefix(err.Error(), `prometheus server "default" (http://127.0.0.1:`) || !strings.HasSuffix(err.Error(), "): "+test.want) {
				t.Errorf("the error is %v, want one that ends with %q", err, test.want)
			}
			if visited != test.visited {
				t.Errorf("visited %d series, want %d", visited, test.visited)
			}
		})
	}
}

func TestPanicIsAnError(t *testing.T) {
	s, _ := start(t, new(fakePrometheus), nil)
	quiet := klog.NewContext(t.Context(), klog.Logger{})
	// One more than there are places, as each is free again.
	for range maxListings + 1 {
		err := s.Series(quiet, "default", "up", time.Now(), time.Now(), func(string, []string) { panic("no") })
		if err == nil || !strings.HasSuffix(err.Error(), "internal error, of which the adapter's log has the details") {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestListingsLeaveQueriesTheirPlaces(t *testing.T) {
	listing := make(chan struct{})
	f := &fakePrometheus{values: map[string]string{"a": "1"}, before: func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "series") {
			listing <- struct{}{}
			<-r.Context().Done()
		}
		return false
	}}
	s, _ := start(t, f, func(s *Server) { s.MaxCalls = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	var listings sync.WaitGroup
	for range maxListings + 1 {
		listings.Go(func() { s.Series(ctx, "default", "up", time.Now(), time.Now(), func(string, []string) {}) })
	}
	for range maxListings {
		<-listing
	}
	if got := fetchOne(t, s, "a"); got.Err != nil {
		t.Error(got.Err)
	}
	cancel()
	listings.Wait()
}

func TestMetrics(t *testing.T) {
	f := &fakePrometheus{values: map[string]string{"a": "1"}}
	s, web := start(t, f, nil)
	fetchOne(t, s, "a")
	fetchOne(t, s, "empty")
	fetchOne(t, s, "bad")
	if err := s.Series(t.Context(), "default", "up", time.Now(), time.Now(), func(string, []string) {}); err != nil {
		t.Fatal(err)
	}
	web.Close()
	fetchOne(t, s, "a")
	got := gather(t, s)
	for name, want := range map[string]float64{
		`tidegauge_prometheus_calls_total{query,ok,default}`:                     2,
		`tidegauge_prometheus_calls_total{query,rejected,default}`:               1,
		`tidegauge_prometheus_calls_total{query,failed,default}`:                 1,
		`tidegauge_prometheus_calls_total{series,ok,default}`:                    1,
		`tidegauge_prometheus_call_duration_seconds{query,default}, how many`:    4,
		`tidegauge_prometheus_call_duration_seconds{series,default}, how many`:   1,
		`tidegauge_prometheus_received_bytes_total{series,default}`:              63,
		`tidegauge_prometheus_received_bytes_total{query,default}, more than 99`: 1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v of %v", name, got[name], want, got)
		}
	}
}

// gather are the source's numbers by name and the values of the labels.
func gather(t *testing.T, s *Source) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	numbers := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			name := family.GetName() + "{" + strings.Join(labels, ",") + "}"
			if m.Histogram != nil {
				numbers[name+", how many"] = float64(m.GetHistogram().GetSampleCount())
				continue
			}
			numbers[name] = m.GetCounter().GetValue()
			if numbers[name] > 99 {
				numbers[name+", more than 99"] = 1
			}
		}
	}
	return numbers
}

func TestNoDataNamesTheQuery(t *testing.T) {
	s, web := start(t, new(fakePrometheus), nil)
	got := fetchOne(t, s, "sum(\n  x\n)")
	if want := fmt.Sprintf(`prometheus server "default" (%s): no data for sum( x )`, web.URL); !errors.Is(got.Err, sources.ErrNoData) || got.Err.Error() != want {
		t.Errorf("the error is %v, want %s", got.Err, want)
	}
}

// TestFetchesThatYieldLeaveRoom has queries that hang, as many as may be in flight at
// once, asked by Fetches that yield; another Fetch is answered beside them.
func TestFetchesThatYieldLeaveRoom(t *testing.T) {
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("query") != "good" {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}`)
	}))
	defer server.Close()
	defer close(hang)
	s, err := New(Config{Servers: map[string]Server{DefaultServer: {URL: server.URL, MaxCalls: 4}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var fetches sync.WaitGroup
	defer fetches.Wait()
	defer cancel()
	for i := range 4 {
		fetches.Go(func() {
			s.Fetch(sources.Yielding(ctx), []sources.Query{NewQuery("", fmt.Sprintf("slow%d", i), 0)})
		})
	}
	if got := fetchOne(t, s, "good"); got.Err != nil || got.Samples[0].Value != 7 {
		t.Errorf("got %v", got)
	}
}

// TestQueriesThatWereNotSent has one query that hangs and takes the only call: the other
// one was not asked, and says so.
func TestQueriesThatWereNotSent(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	defer server.Close()
	s, err := New(Config{Servers: map[string]Server{DefaultServer: {URL: server.URL, MaxCalls: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	got := s.Fetch(ctx, []sources.Query{NewQuery("", "slow", 0), NewQuery("", "other", 0)})
	sent, other := got[0].Err, got[1].Err
	if sent == nil || errors.Is(sent, sources.ErrNotAsked) {
		t.Errorf("the query that was sent: %v", sent)
	}
	if !errors.Is(other, sources.ErrNotAsked) || errors.Is(other, context.Canceled) || errors.Is(other, sources.ErrTooSlow) {
		t.Errorf("the query that was not sent: %v", other)
	}
}

// TestRetriesLeaveRoom has queries that hang, more than may be in flight at once, asked by
// Fetches that retry; another Fetch is answered beside them.
func TestRetriesLeaveRoom(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("query") != "good" {
			<-r.Context().Done()
		}
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}`)
	}))
	defer server.Close()
	s, err := New(Config{Servers: map[string]Server{DefaultServer: {URL: server.URL, MaxCalls: 4}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var fetches sync.WaitGroup
	defer fetches.Wait()
	defer cancel()
	for _, ctx := range []context.Context{sources.Retrying(ctx), sources.Yielding(ctx)} {
		for i := range 4 {
			fetches.Go(func() { s.Fetch(ctx, []sources.Query{NewQuery("", fmt.Sprintf("slow%d", i), 0)}) })
		}
	}
	if got := fetchOne(t, s, "good"); got.Err != nil || got.Samples[0].Value != 7 {
		t.Errorf("got %v", got)
	}
}
