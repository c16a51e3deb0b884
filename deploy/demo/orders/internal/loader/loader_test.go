package loader

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/flags"
)

// answerer is a transport that answers by itself, so that it can be in a bubble.
type answerer func(*http.Request) (*http.Response, error)

func (a answerer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

func status(code int) *http.Response {
	return &http.Response{StatusCode: code, Body: http.NoBody, Header: http.Header{}}
}

// loading gives a loader of the flags whose requests answer takes.
func loading(t *testing.T, answer answerer, args ...string) *loader {
	t.Helper()
	o, err := parse(append([]string{"--url", "http://web", "--publish", "0"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLoader(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range l.sessions {
		s.client.Transport = answer
	}
	return l
}

func TestRateIsThatAskedForHoweverSlowTheAnswersAre(t *testing.T) {
	for _, takes := range []time.Duration{0, 10 * time.Millisecond, 3 * time.Second} {
		t.Run(takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := loading(t, func(*http.Request) (*http.Response, error) {
					<-time.After(takes)
					return status(200), nil
				}, "--rate", "25", "--duration", "60s")
				l.run(t.Context())
				s := l.summary()
				if s.Requests != 1500 || s.Codes["200"] != 1500 || len(s.Skipped) != 0 {
					t.Errorf("%+v, want 1500 requests", s)
				}
				if math.Abs(s.RateAchieved-25) > 0.01 || math.Abs(s.RateAsked-25) > 0.01 {
					t.Errorf("achieved %v of %v, want 25", s.RateAchieved, s.RateAsked)
				}
			})
		})
	}
}

func TestRateOfEachSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := loading(t, func(*http.Request) (*http.Response, error) { return status(200), nil },
			"--sessions", "5", "--rate-per-session", "5", "--duration", "10s")
		l.run(t.Context())
		if n := l.summary().Requests; n != 250 {
			t.Errorf("%d requests, want 5 sessions × 5/s × 10s", n)
		}
	})
}

func TestSessionsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := loading(t, nil, "--sessions", "4", "--rate", "10", "--duration", "2s")
		var counts [4]atomic.Int64
		for i, s := range l.sessions {
			s.client.Transport = answerer(func(*http.Request) (*http.Response, error) {
				counts[i].Add(1)
				return status(200), nil
			})
		}
		l.run(t.Context())
		for i := range counts {
			if n := counts[i].Load(); n != 5 {
				t.Errorf("session %d sent %d requests, want 5", i, n)
			}
		}
	})
}

// A server that hangs for a second holds up the requests of that second too, and a loader
// that waited for it would not have sent them.
func TestLatencyIsFromWhenARequestWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		l := loading(t, func(*http.Request) (*http.Response, error) {
			if gone := time.Since(begin); gone < time.Second {
				<-time.After(time.Second - gone)
			}
			return status(200), nil
		}, "--rate", "100", "--duration", "2s")
		l.run(t.Context())
		s := l.summary()
		if s.Requests != 200 || s.Latency.Max != 1 || math.Abs(s.Latency.P50-0.01) > 0.02 || math.Abs(s.Latency.P90-0.8) > 0.03 {
			t.Errorf("%+v, want those of the first second to have waited for its end", s.Latency)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// The loader itself is late: a change of the rate wakes it, which nobody else did.
		l := loading(t, func(*http.Request) (*http.Response, error) { return status(200), nil }, "--rate", "1", "--duration", "1s")
		<-time.After(900 * time.Millisecond)
		l.run(t.Context())
		if s := l.summary(); s.Requests != 1 || s.Latency.Max != 0.9 {
			t.Errorf("%+v, want a latency of 0.9 s", s)
		}
	})
}

func TestWhatIsMoreThanMayBeInFlightIsSkippedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		l := loading(t, func(*http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-time.After(2 * time.Second)
			return status(200), nil
		}, "--rate", "100", "--duration", "4s", "--in-flight", "50")
		l.run(t.Context())
		s := l.summary()
		if most.Load() != 50 || s.Requests != 100 || s.Skipped[tooMany] != 300 {
			t.Errorf("%d at once, %+v; want 50, 100 requests and 300 skipped", most.Load(), s)
		}
		if math.Abs(s.RateAsked-100) > 0.1 || math.Abs(s.RateAchieved-25) > 0.1 {
			t.Errorf("asked %v, achieved %v", s.RateAsked, s.RateAchieved)
		}
		text := metricsOf(t, l)
		for _, want := range []string{`loader_skipped_total{reason="in_flight"} 300`, `loader_skipped_total{reason="late"} 0`, "loader_requests_total 100"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
		var table bytes.Buffer
		if err := s.WriteTable(&table); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(table.String(), "in_flight: 300") {
			t.Errorf("the summary does not say it:\n%s", &table)
		}
	})
}

func metricsOf(t *testing.T, l *loader) string {
	t.Helper()
	w := httptest.NewRecorder()
	l.admin().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	return w.Body.String()
}

func TestCountsByStatusCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		l := loading(t, func(r *http.Request) (*http.Response, error) {
			switch n.Add(1) % 8 {
			case 0:
				return status(502), nil
			case 1:
				return status(302), nil
			case 2:
				<-r.Context().Done()
				return nil, r.Context().Err()
			case 3:
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			case 4:
				return nil, &net.OpError{Op: "read", Err: syscall.ECONNRESET}
			case 5:
				return nil, &net.DNSError{}
			case 6:
				return nil, errors.New("another")
			}
			answer := status(200)
			answer.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), broken{}))
			return answer, nil
		}, "--rate", "8", "--duration", "2s", "--timeout", "100ms")
		l.run(t.Context())
		s := l.summary()
		if want := map[string]int{"0": 12, "302": 2, "502": 2}; !maps.Equal(s.Codes, want) {
			t.Errorf("codes %v, want %v", s.Codes, want)
		}
		if want := map[string]int{timedOut: 2, refused: 2, cut: 4, noName: 2, other: 2}; !maps.Equal(s.NoAnswer, want) {
			t.Errorf("reasons %v, want %v", s.NoAnswer, want)
		}
		text := metricsOf(t, l)
		for _, want := range []string{`loader_responses_total{code="0"} 12`, `loader_responses_total{code="502"} 2`, "loader_request_duration_seconds_count 16"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
	})
}

// broken is the end of a body that has not come.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestRateChangesWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := loading(t, func(*http.Request) (*http.Response, error) { return status(200), nil }, "--rate", "0")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var running sync.WaitGroup
		running.Go(func() { l.run(ctx) })
		put := func(body string) (int, string) {
			w := httptest.NewRecorder()
			l.admin().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPut, "/rate", strings.NewReader(body)))
			return w.Code, w.Body.String()
		}
		want := 0
		for _, rate := range []int{0, 10, 200, 12, 0, 50} {
			if code, text := put(fmt.Sprintf(`{"rate": %d}`, rate)); code != http.StatusOK || strings.TrimSpace(text) != fmt.Sprintf(`{"rate":%d}`, rate) {
				t.Fatalf("%d %s", code, text)
			}
			<-time.After(20 * time.Second)
			want += 20 * rate
			if got := l.summary().Requests; got < want-6 || got > want+6 {
				t.Errorf("%d requests after 20s at %d/s, want %d", got, rate, want)
			}
			if got := l.results.achieved(time.Now()); math.Abs(got-float64(rate)) > 0.11 {
				t.Errorf("achieved %v/s, want %d", got, rate)
			}
		}
		for _, body := range []string{"", "{}", `{"rate":"1"}`, `{"rate":-1}`, `{"rate":1e9}`, `{"rat":1}`, `{"RATE":1}`, `{"rate":1,"rate":2}`, `{"rate":1}{"rate":2}`, `{"rate":1} or so`, `{"rate":1e999}`, `{"rate":` + strings.Repeat(" ", 2000) + `1}`} {
			if code, text := put(body); code != http.StatusBadRequest || !strings.Contains(text, "rate") {
				t.Errorf("%.20s: %d %s, want 400 and why", body, code, text)
			}
		}
		if got := l.pace.get(); got != 50 {
			t.Errorf("the rate is %v after bad ones, want 50", got)
		}
		cancel()
		running.Wait()
	})
}

func TestClosedLoopSendsItsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var now, most atomic.Int64
		l := loading(t, func(*http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-time.After(100 * time.Millisecond)
			return status(200), nil
		}, "--sessions", "50", "--count", "200")
		l.run(t.Context())
		s := l.summary()
		if s.Requests != 10_000 || s.Codes["200"] != 10_000 || most.Load() != 50 || s.Loop != closedLoop {
			t.Errorf("%d at once, %+v; want 50 × 200", most.Load(), s)
		}
		if took := time.Since(begin); took != 20*time.Second || s.RateAchieved != 500 {
			t.Errorf("took %v at %v/s, want each to wait for the answer before", took, s.RateAchieved)
		}
		w := httptest.NewRecorder()
		l.admin().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/rate", strings.NewReader(`{"rate":1}`)))
		if w.Code != http.StatusConflict {
			t.Errorf("a closed loop takes a rate: %d", w.Code)
		}
	})
}

func TestStopWaitsForAnswers(t *testing.T) {
	for _, args := range [][]string{{"--rate", "10"}, {"--count", "1000"}} {
		synctest.Test(t, func(t *testing.T) {
			l := loading(t, func(r *http.Request) (*http.Response, error) {
				select {
				case <-time.After(3 * time.Second):
					return status(200), nil
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
			}, args...)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			l.run(ctx)
			s := l.summary()
			if s.Codes["200"] != s.Requests || s.Requests == 0 {
				t.Errorf("%v: %d requests, answers %v", args, s.Requests, s.Codes)
			}
		})
	}
}

// shop is a web that knows its connections.
type shop struct {
	*httptest.Server

	connections atomic.Int64
	mu          sync.Mutex
	asked       map[string]int
	bodies      []string
	cookies     map[string]int
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{asked: map[string]int{}, cookies: map[string]int{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked[r.Method+" "+r.URL.Path]++
		if len(body) > 0 {
			s.bodies = append(s.bodies, string(body))
		}
		if c, err := r.Cookie("sticky"); err == nil {
			s.cookies[c.Value]++
		} else {
			http.SetCookie(w, &http.Cookie{Name: "sticky", Value: strconv.Itoa(len(s.cookies)), Path: "/"})
			s.cookies[strconv.Itoa(len(s.cookies))]++
		}
		if r.Method == http.MethodPost && r.URL.Path == ordersPath {
			w.Header().Set("Location", ordersPath+"/7")
			w.WriteHeader(http.StatusCreated)
		}
		_, _ = w.Write([]byte("{}"))
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

// summed runs the mode and gives its summary.
func summed(t *testing.T, args ...string) Summary {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), append([]string{"-o", "json", "--publish", "0", "--admin-listen", "127.0.0.1:0"}, args...), &out); err != nil {
		t.Fatal(err)
	}
	var s Summary
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	return s
}

func TestKeepAliveIsReal(t *testing.T) {
	for _, test := range []struct {
		keepAlive string
		want      int
	}{{"true", 5}, {"false", 100}} {
		t.Run(test.keepAlive, func(t *testing.T) {
			web := newShop(t)
			s := summed(t, "--url", web.URL, "--sessions", "5", "--count", "20", "--keep-alive="+test.keepAlive)
			// net/http gives up a connection whose writer was not scheduled for 50ms.
			got := int(web.connections.Load())
			if got < test.want || got > test.want+test.want/5 || s.Connections != got || s.Requests != 100 {
				t.Errorf("%d connections of %d requests came, %d are said; want %d", got, s.Requests, s.Connections, test.want)
			}
		})
	}
}

func TestSessionsKeepTheirCookies(t *testing.T) {
	web := newShop(t)
	summed(t, "--url", web.URL, "--sessions", "3", "--count", "10")
	if want := map[string]int{"0": 10, "1": 10, "2": 10}; !maps.Equal(web.cookies, want) {
		t.Errorf("requests by cookie %v, want %v", web.cookies, want)
	}
}

func TestWhatIsAskedFor(t *testing.T) {
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"--mix", "place=1"}, []string{"POST /api/orders"}},
		{[]string{"--mix", "list=1"}, []string{"GET /api/orders"}},
		{[]string{"--mix", "update=1"}, []string{"POST /api/orders", "PATCH /api/orders/7"}},
		{[]string{"--mix", "get=1"}, []string{"POST /api/orders", "GET /api/orders/7"}},
		{[]string{"--mix", "place=1,list=4"}, []string{"POST /api/orders", "GET /api/orders"}},
		{[]string{"--path", "/token"}, []string{"POST /token"}},
		{[]string{"--path", "/who/am?i=1"}, []string{"GET /who/am"}},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			web := newShop(t)
			s := summed(t, append([]string{"--url", web.URL, "--sessions", "1", "--count", "100"}, test.args...)...)
			if s.Requests != 100 || len(s.NoAnswer) != 0 {
				t.Errorf("%+v", s)
			}
			for _, want := range test.want {
				if web.asked[want] == 0 {
					t.Errorf("no %s in %v", want, web.asked)
				}
			}
			if len(web.asked) != len(test.want) {
				t.Errorf("%v, want %v", web.asked, test.want)
			}
			for _, body := range web.bodies {
				var order struct {
					Item     string
					Quantity int
				}
				if err := json.Unmarshal([]byte(body), &order); err != nil || order.Quantity < 1 || order.Quantity > 1000 {
					t.Errorf("ordered %s: %v", body, err)
				}
			}
		})
	}
}

func TestMixIsAsOftenAsItSays(t *testing.T) {
	web := newShop(t)
	summed(t, "--url", web.URL, "--sessions", "10", "--count", "200")
	if n := web.asked["POST /api/orders"]; n < 300 || n > 500 {
		t.Errorf("placed %d of 2000, want a fifth", n)
	}
}

// A request on a kept connection that is closed just then is sent again by net/http: that is
// no failure, but it is said.
func TestRepeatedRequestsAreSaid(t *testing.T) {
	var n atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 3 {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write([]byte("ok"))
	}))
	t.Cleanup(web.Close)
	s := summed(t, "--url", web.URL, "--path", "/x", "--sessions", "1", "--count", "5")
	if s.Repeated != 1 || s.Codes["200"] != 5 || s.Connections < 2 {
		t.Errorf("%+v, want 5 answers, one of them to a request that was sent twice", s)
	}
}

func TestWrongCommandLines(t *testing.T) {
	for _, test := range []struct{ args, words string }{
		{"", "--url: want http://"},
		{"--url web", "--url: want http://"},
		{"--url ftp://web", "--url: want http://"},
		{"--url http://me:secret@web", "--url: want http://"},
		{"--url http://web/x", "the path as --path"},
		{"--url http://web --path x", `--path: "x" does not start with /`},
		{"--url http://web --path //host/x", "does not start with /"},
		{"--url http://web --rate -1", "--rate: rate -1 is neither 0 nor from 0.001 to 10000"},
		{"--url http://web --rate NaN", "--rate: rate NaN"},
		{"--url http://web --rate-per-session 5000 --sessions 5", "--rate: rate 25000"},
		{"--url http://web --sessions 0", "--sessions: 0 is not from 1 to 10000"},
		{"--url http://web --in-flight 0", "--in-flight: 0 is not"},
		{"--url http://web --count -1", "--count: -1"},
		{"--url http://web --count 1 --rate-per-session 1", "--count: sessions that wait"},
		{"--url http://web --duration -1s", "--duration"},
		{"--url http://web --timeout 0s", "--timeout"},
		{"--url http://web --publish 10ms", "--publish"},
		{"--url http://web -o yaml", `--o: "yaml" is neither`},
		{"--url http://web --mix buy=1", `--mix: "buy" is no action`},
		{"--url http://web --mix place", "--mix"},
		{"--url http://web --mix place=0", "--mix: it has nothing to do"},
		{"--url http://web --mix place=999999999", "--mix"},
		{"--url http://web x", `what is "x"?`},
	} {
		err := run(t.Context(), strings.Fields(test.args), io.Discard)
		if _, ok := errors.AsType[*flags.Error](err); !ok || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v, want %q", test.args, err, test.words)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%v says a password", err)
		}
	}
}
