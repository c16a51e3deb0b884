package load

import (
	"encoding/json"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/orders/program"
)

// summary is what the loader says with -o json, as far as it is looked at.
type summary struct {
	RateAsked, RateAchieved, Seconds float64
	Requests, Connections            int
	Codes, Skipped, NoAnswer         map[string]int
	LatencySeconds                   struct{ P50, Max float64 }
}

func summaryOf(t *testing.T, p *program.Process) summary {
	t.Helper()
	if code := p.Wait(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.Log())
	}
	var s summary
	if err := json.Unmarshal(p.Output(), &s); err != nil {
		t.Fatalf("%v in %s", err, p.Output())
	}
	return s
}

// target is a server that is loaded.
type target struct {
	*httptest.Server

	connections, requests atomic.Int64
}

func loaded(t *testing.T, answer http.HandlerFunc) *target {
	t.Helper()
	s := &target{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		answer(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func fine(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }

// Row B2: 5 clients with 5 requests a second each, without keep-alive, and the variant that
// burns CPU.
func TestClientsTimesRate(t *testing.T) {
	for _, test := range []struct {
		args        []string
		connections int
		request     string
	}{
		{[]string{"--rate-per-session", "5", "--keep-alive=false"}, 200, "GET /any"},
		{[]string{"--rate-per-session", "5"}, 5, "GET /any"},
		{[]string{"--rate", "25", "--path", "/token"}, 5, "POST /token"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			var mu sync.Mutex
			asked := map[string]int{}
			web := loaded(t, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				asked[r.Method+" "+r.URL.Path]++
				fine(w, r)
			})
			args := []string{"loader", "--url", web.URL, "--path", "/any", "--sessions", "5", "--duration", "8s", "--publish", "0", "-o", "json"}
			s := summaryOf(t, start(t, nil, nil, append(args, test.args...)...))
			if came := float64(web.requests.Load()) / s.Seconds; math.Abs(came-25) > 25*0.05 || math.Abs(s.RateAchieved-25) > 25*0.05 {
				t.Errorf("%v requests a second came, the loader says %+v; want 25 ± 5%%", came, s)
			}
			if n := int(web.connections.Load()); n < test.connections || n > test.connections+20 || n != s.Connections {
				t.Errorf("%d connections came, the loader says %d, want %d", n, s.Connections, test.connections)
			}
			if len(asked) != 1 || asked[test.request] != s.Requests {
				t.Errorf("asked for %v, want %d of %s", asked, s.Requests, test.request)
			}
		})
	}
}

// Row B24, scaled down: sessions that each send a number of requests.
func TestSessionsTimesCount(t *testing.T) {
	web := loaded(t, fine)
	p := start(t, nil, nil, "loader", "--url", web.URL, "--sessions", "50", "--count", "100", "--publish", "0", "-o", "json")
	s := summaryOf(t, p)
	if s.Requests != 5000 || s.Codes["200"] != 5000 || web.requests.Load() != 5000 {
		t.Errorf("%d requests came, the loader says %+v; want 50 × 100", web.requests.Load(), s)
	}
	// net/http gives up a connection whose writer was not scheduled for 50ms.
	if n := web.connections.Load(); n < 50 || n > 100 {
		t.Errorf("%d connections, want one of each session", n)
	}
}

func TestOneMetricOfEachStatusCodeReachesCloudWatch(t *testing.T) {
	cloud := aws(t)
	// CloudWatch is away at first: what comes of that time is put later.
	lift := cloud.Fault(fakeaws.Fault{Service: "cloudwatch", Operation: "PutMetricData", ErrorCode: "ServiceUnavailable"})
	var n atomic.Int64
	web := loaded(t, func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) % 10 {
		case 0:
			w.WriteHeader(http.StatusBadGateway)
		case 1:
			w.WriteHeader(http.StatusGatewayTimeout)
		case 2:
			panic(http.ErrAbortHandler)
		default:
			w.WriteHeader(http.StatusOK)
		}
	})
	p := start(t, cloud, nil, "loader", "--url", web.URL, "--path", "/any", "--rate", "50", "--keep-alive=false", "--publish", "1s", "-o", "json")
	eventually(t, "the loader says that CloudWatch is away", func() bool { return strings.Contains(p.Log(), "CloudWatch took no metrics") })
	lift()
	eventually(t, "the loader says that CloudWatch is back", func() bool { return strings.Contains(p.Log(), "CloudWatch takes metrics again") })
	if _, there := published(t.Context(), t, cloud, "502", "Sum"); !there {
		t.Error("502 is no metric while it runs")
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	s := summaryOf(t, p)
	codes := map[string]int{}
	for _, code := range []string{"0", "200", "502", "504"} {
		codes[code] = int(sum(t.Context(), t, cloud, code))
	}
	if !maps.Equal(codes, s.Codes) || codes["502"] == 0 || codes["0"] == 0 || s.NoAnswer["cut"] != codes["0"] {
		t.Errorf("published %v, counted %v, no answer %v", codes, s.Codes, s.NoAnswer)
	}
}

func TestRateIsChangedByTheAdminPort(t *testing.T) {
	web := loaded(t, fine)
	p := start(t, nil, nil, "loader", "--url", web.URL, "--rate", "0", "--publish", "0", "-o", "json")
	admin := p.URL("admin")
	put := func(rate string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, admin+"/rate", strings.NewReader(`{"rate":`+rate+`}`))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	if code := put("-1"); code != http.StatusBadRequest {
		t.Errorf("a rate below 0 is answered with %d", code)
	}
	<-time.After(300 * time.Millisecond)
	if n := web.requests.Load(); n != 0 {
		t.Errorf("%d requests at a rate of 0", n)
	}
	if code := put("100"); code != http.StatusOK {
		t.Errorf("a rate is answered with %d", code)
	}
	begin := time.Now()
	eventually(t, "300 requests came", func() bool { return web.requests.Load() >= 300 })
	if took := time.Since(begin); took < 2850*time.Millisecond {
		t.Errorf("300 requests at 100/s took %v", took)
	}
	status, text := get(t.Context(), t, admin+"/metrics")
	if status != http.StatusOK || !strings.Contains(text, "\nloader_rate 100\n") || !strings.Contains(text, `loader_responses_total{code="200"} 3`) {
		t.Errorf("%d %s", status, text)
	}
	if status, text := get(t.Context(), t, admin+"/summary"); status != http.StatusOK || !strings.Contains(text, `"requests": 3`) {
		t.Errorf("%d %s", status, text)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	if s := summaryOf(t, p); s.Requests != int(web.requests.Load()) || s.Codes["200"] != s.Requests {
		t.Errorf("%d came, the loader says %+v", web.requests.Load(), s)
	}
}

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"loader", 2, "orders loader: --url: want http://"},
		{"loader --rate x", 2, "rate"},
		{"simulator", 2, "orders simulator: --loaders"},
		{"echo --listen 127.0.0.1:99999", 1, "99999"},
		{"loader --url http://127.0.0.1:1 --admin-listen 127.0.0.1:99999 --publish 0", 1, "99999"},
		{"loader --url http://127.0.0.1:1 --sessions 2 --count 3 --publish 0", 0, ""},
	} {
		p := start(t, nil, nil, strings.Fields(test.args)...)
		if code := p.Wait(); code != test.code || !strings.Contains(p.Log(), test.want) {
			t.Errorf("%s: exit code %d, %s; want %d and %q", test.args, code, p.Log(), test.code, test.want)
		}
		if test.code == 0 && !strings.Contains(string(p.Output()), "no answer            refused: 6\n") {
			t.Errorf("%s:\n%s", test.args, p.Output())
		}
	}
}
