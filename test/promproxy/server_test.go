package promproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// start returns a server that is closed with the test.
func start(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// upstream is a server that says what it was asked.
func upstream(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.Path, r.Form.Encode(), r.Header.Get("X-Scope-Orgid"))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// client follows no redirects and keeps no connections: one that is kept alive would
// tell of a pause too late.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// get returns the answer's status and body.
func get(ctx context.Context, address string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func queryURL(s *Server, promQL string) string {
	return s.URL() + "/api/v1/query?query=" + url.QueryEscape(promQL)
}

func seriesURL(s *Server, selector string) string {
	return s.URL() + "/api/v1/series?match[]=" + url.QueryEscape(selector)
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still not", what)
		case <-tick.C:
		}
	}
}

// ended waits for the last call to be over, which a client may learn first.
func ended(t *testing.T, s *Server) Call {
	t.Helper()
	var last Call
	eventually(t, "the call has ended", func() bool {
		calls := s.Calls("")
		if len(calls) > 0 {
			last = calls[len(calls)-1]
		}
		return last.Took > 0
	})
	return last
}

func TestForwardsAndRecords(t *testing.T) {
	s := start(t, Options{Upstream: upstream(t)})
	form := url.Values{"query": {"up{a=\"b\"}"}, "timeout": {"8s"}}
	for name, tc := range map[string]struct {
		method, target, body string
		want                 string
		call                 Call
	}{
		"GET": {
			method: "GET", target: "/api/v1/query?" + form.Encode(),
			want: "GET /api/v1/query " + form.Encode() + " team",
			call: Call{Path: "/api/v1/query", Endpoint: Query, Query: `up{a="b"}`, Timeout: "8s", RequestBytes: len(form.Encode())},
		},
		"POST with a prefix": {
			method: "POST", target: "/deep/prefix/api/v1/query?stats=all", body: form.Encode(),
			want: "POST /api/v1/query " + form.Encode() + " team",
			call: Call{Path: "/deep/prefix/api/v1/query", Endpoint: Query, Query: `up{a="b"}`, Timeout: "8s", RequestBytes: len("stats=all" + form.Encode())},
		},
		"series": {
			method: "GET", target: "/api/v1/series?match[]=up&match[]=down",
			want: "GET /api/v1/series " + url.Values{"match[]": {"up", "down"}}.Encode() + " team",
			call: Call{Path: "/api/v1/series", Endpoint: Series, Match: []string{"up", "down"}, RequestBytes: len("match[]=up&match[]=down")},
		},
		"no API": {
			method: "GET", target: "/-/healthy", want: "GET /-/healthy  team",
			call: Call{Path: "/-/healthy", Endpoint: "/-/healthy"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, s.URL()+tc.target, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Scope-Orgid", "team")
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			got := string(body)
			want := strings.Replace(tc.want, form.Encode(), sorted(tc.target, form), 1)
			if got != want {
				t.Errorf("upstream was asked %q, want %q", got, want)
			}
			c := ended(t, s)
			if c.Method != tc.method || c.Path != tc.call.Path || c.Endpoint != tc.call.Endpoint || c.Query != tc.call.Query ||
				c.Timeout != tc.call.Timeout || c.RequestBytes != tc.call.RequestBytes || strings.Join(c.Match, " ") != strings.Join(tc.call.Match, " ") {
				t.Errorf("recorded %+v, want %+v", c, tc.call)
			}
			if !c.OK() || c.AnswerBytes != int64(len(body)) || c.Header.Get("X-Scope-Orgid") != "team" || c.Time.IsZero() {
				t.Errorf("recorded %+v, want an answer of %d bytes", c, len(body))
			}
		})
	}
}

// sorted is the form with the parameters of the target's URL.
func sorted(target string, form url.Values) string {
	if !strings.Contains(target, "stats=all") {
		return form.Encode()
	}
	return url.Values{"query": form["query"], "timeout": form["timeout"], "stats": {"all"}}.Encode()
}

func TestUpstreamCanBeChanged(t *testing.T) {
	s := start(t, Options{})
	status, body, err := get(t.Context(), queryURL(s, "up"))
	if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, `"errorType":"unavailable"`) {
		t.Errorf("without an upstream: %d %q, %v", status, body, err)
	}
	if err := s.SetUpstream(upstream(t)); err != nil {
		t.Fatal(err)
	}
	if status, body, err := get(t.Context(), queryURL(s, "up")); err != nil || status != http.StatusOK {
		t.Errorf("with an upstream: %d %q, %v", status, body, err)
	}
	if err := s.SetUpstream("http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if status, body, err := get(t.Context(), queryURL(s, "up")); err != nil || status != http.StatusBadGateway {
		t.Errorf("with an upstream that is away: %d %q, %v", status, body, err)
	}
	for _, bad := range []string{"://", "prometheus:9090", "prometheus"} {
		if err := s.SetUpstream(bad); err == nil {
			t.Errorf("%q is taken for an upstream", bad)
		}
	}
}

func TestPauseRefusesConnections(t *testing.T) {
	s := start(t, Options{Upstream: upstream(t)})
	address := queryURL(s, "up")
	s.Pause()
	s.Pause()
	if _, _, err := get(t.Context(), address); err == nil {
		t.Error("answered while paused")
	}
	for range 2 {
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := get(t.Context(), address); err != nil {
		t.Errorf("after the pause: %v", err)
	}
	s.Close()
	if err := s.Resume(); err == nil {
		t.Error("resumed although closed")
	}
}

func TestPlayerComesBeforeTheUpstream(t *testing.T) {
	s := start(t, Options{Upstream: upstream(t)})
	s.Play(func(c Call) (Answer, bool) { return Scalar("1"), c.Query == "mine" })
	if _, body, err := get(t.Context(), queryURL(s, "mine")); err != nil || !strings.Contains(body, `"scalar"`) {
		t.Errorf("played %q, %v", body, err)
	}
	if _, body, err := get(t.Context(), queryURL(s, "other")); err != nil || !strings.HasPrefix(body, "GET ") {
		t.Errorf("not forwarded: %q, %v", body, err)
	}
	s.Play(nil)
	if _, body, err := get(t.Context(), queryURL(s, "mine")); err != nil || !strings.HasPrefix(body, "GET ") {
		t.Errorf("played after the end: %q, %v", body, err)
	}
}

func TestFaultIsForTheCallsThatItNames(t *testing.T) {
	s := start(t, Options{Upstream: upstream(t)})
	status := func(address string) int {
		t.Helper()
		status, _, err := get(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	lift := s.Fault(Fault{Endpoint: Query, Query: regexp.MustCompile("^sum"), Answer: TimedOut().Pointer()})
	for address, want := range map[string]int{
		queryURL(s, "sum(up)"):  http.StatusServiceUnavailable,
		queryURL(s, "up"):       http.StatusOK,
		seriesURL(s, "sum"):     http.StatusOK,
		s.URL() + "/-/healthy":  http.StatusOK,
		s.URL() + "/api/v1/foo": http.StatusOK,
	} {
		if got := status(address); got != want {
			t.Errorf("%s: status is %d, want %d", address, got, want)
		}
	}
	lift()
	if got := status(queryURL(s, "sum(up)")); got != http.StatusOK {
		t.Errorf("after the fault: status is %d", got)
	}

	s.Fault(Fault{Query: regexp.MustCompile("second"), Count: 2, Answer: BadData().Pointer()})
	for i, want := range []int{400, 400, 200} {
		if got := status(seriesURL(s, "a_second") + "&match[]=b"); got != want {
			t.Errorf("call %d: status is %d, want %d", i, got, want)
		}
	}

	s.Fault(Fault{Answer: Unavailable().Pointer()})
	s.Fault(Fault{Answer: BadData().Pointer()})
	if got := status(queryURL(s, "up")); got != http.StatusServiceUnavailable {
		t.Errorf("of two faults: status is %d, want that of the first", got)
	}
	s.ClearFaults()
	if got := status(queryURL(s, "up")); got != http.StatusOK {
		t.Errorf("without faults: status is %d", got)
	}
}

func TestDelayEndsWhenTheClientLeaves(t *testing.T) {
	s := start(t, Options{Upstream: upstream(t)})
	s.Fault(Fault{Delay: time.Hour})
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, _, err := get(ctx, queryURL(s, "up"))
		gone <- err
	}()
	eventually(t, "the call is recorded", func() bool { return len(s.Calls(Query)) == 1 })
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the client left with %v", err)
	}
	if c := ended(t, s); c.Complete || c.Took > time.Minute {
		t.Errorf("recorded %+v", c)
	}
}

func TestDelayedAnswerArrives(t *testing.T) {
	s := start(t, Options{Upstream: upstream(t)})
	const delay = 20 * time.Millisecond
	s.Fault(Fault{Delay: delay / 2})
	s.Fault(Fault{Delay: delay / 2})
	if status, _, err := get(t.Context(), queryURL(s, "up")); err != nil || status != http.StatusOK {
		t.Errorf("status is %d, %v", status, err)
	}
	if c := ended(t, s); c.Took < delay {
		t.Errorf("took %v, want %v", c.Took, delay)
	}
}

func TestCutConnectionNeverSendsAWholeAnswer(t *testing.T) {
	s := start(t, Options{Upstream: upstream(t)})
	s.Play(func(c Call) (Answer, bool) { return JSON(http.StatusOK, `{"status":"success"}`), c.Query != "" })
	for name, tc := range map[string]struct {
		address  string
		cutAfter int
		want     string
	}{
		"played":            {queryURL(s, "up"), 10, `{"status":`},
		"played, short":     {queryURL(s, "up"), 1000, `{"status":"success"}`},
		"forwarded":         {s.URL() + "/healthy", 5, "GET /"},
		"forwarded, short":  {s.URL() + "/healthy", 1000, "GET /healthy  "},
		"a fault's, before": {queryURL(s, "fault"), 1, "{"},
	} {
		t.Run(name, func(t *testing.T) {
			defer s.ClearFaults()
			s.Fault(Fault{Query: regexp.MustCompile("fault"), Answer: TimedOut().Pointer()})
			s.Fault(Fault{CutAfter: tc.cutAfter})
			_, body, err := get(t.Context(), tc.address)
			if !errors.Is(err, io.ErrUnexpectedEOF) || body != tc.want {
				t.Errorf("got %q, %v, want %q and no end", body, err, tc.want)
			}
			if c := ended(t, s); c.OK() || c.AnswerBytes != int64(len(tc.want)) {
				t.Errorf("recorded %+v", c)
			}
		})
	}
}

func TestCountsAndRecentCalls(t *testing.T) {
	s := start(t, Options{Upstream: upstream(t), Recent: 2})
	s.Fault(Fault{Endpoint: Query, Count: 1, Answer: ExecutionError().Pointer()})
	for _, address := range []string{queryURL(s, "a"), queryURL(s, "b"), seriesURL(s, "c")} {
		if _, _, err := get(t.Context(), address); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
	}
	counts := s.Counts()
	if counts.Calls[Query] != 2 || counts.OK[Query] != 1 || counts.Calls[Series] != 1 || counts.OK[Series] != 1 {
		t.Errorf("counts are %+v", counts)
	}
	if calls := s.Calls(""); len(calls) != 2 || calls[0].Query != "b" || calls[1].Match[0] != "c" {
		t.Errorf("the last calls are %+v", calls)
	}
	if calls := s.Calls(Series); len(calls) != 1 {
		t.Errorf("the last listings are %+v", calls)
	}
	s.Reset()
	if calls, counts := s.Calls(""), s.Counts(); len(calls)+len(counts.Calls)+len(counts.OK) != 0 {
		t.Errorf("after a reset: %+v, %+v", calls, counts)
	}
}

func TestUnreadableRequestsAreBadData(t *testing.T) {
	s := start(t, Options{Upstream: upstream(t)})
	if status, body, err := get(t.Context(), s.URL()+"/api/v1/query?query=%zz"); err != nil || status != http.StatusBadRequest {
		t.Errorf("%d %q, %v", status, body, err)
	}
	if c := ended(t, s); c.Status != http.StatusBadRequest {
		t.Errorf("recorded %+v", c)
	}
}

func TestTLS(t *testing.T) {
	known := httptest.NewTLSServer(http.NotFoundHandler()) // It has a certificate.
	defer known.Close()
	s := start(t, Options{TLS: known.TLS.Clone()})
	s.Play(Data{}.Play)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, queryURL(s, "up"), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := known.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status is %s", resp.Status)
	}
}
