package prometheus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/pkg/engine" //nolint:depguard // What both bound together is what is claimed here.
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// halfHung is a server that never answers queries whose names begin with hung.
type halfHung struct{}

func (halfHung) RoundTrip(r *http.Request) (*http.Response, error) {
	httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{})
	wait := time.After(20 * time.Millisecond)
	if strings.HasPrefix(r.URL.Query().Get("query"), "hung") {
		wait = nil
	}
	select {
	case <-wait:
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(vectorOf(`{"metric":{},"value":[1,"1"]}`))), Request: r}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// newHalfHung is the source of such a server, which is called a.
func newHalfHung(t *testing.T) *Source {
	t.Helper()
	s, err := New(Config{Servers: map[string]Server{"a": {URL: "http://a"}}})
	if err != nil {
		t.Fatal(err)
	}
	s.servers["a"].http.Transport = halfHung{}
	return s
}

// TestHungQueriesLeaveRoomForOthers has a server with queries that hang, many more than may
// be in flight, and others that it answers well. Once each of those that hang was asked, the
// others are answered as if they were alone, whichever of the two HPAs name.
func TestHungQueriesLeaveRoomForOthers(t *testing.T) {
	for _, hung := range []int{40, 120} {
		for _, pinned := range []string{"", "hung", "well", "hung well"} {
			if pinned == "" && hung > 40 {
				continue // Readers have half of the calls among themselves, and it takes longer.
			}
			t.Run(fmt.Sprintf("%d hung, pinned are %q", hung, pinned), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { leaveRoom(t, hung, pinned) })
			})
		}
	}
}

func leaveRoom(t *testing.T, hung int, pinned string) {
	t.Helper()
	e := engine.New(engine.Options{Sources: map[string]sources.Source{"p": newHalfHung(t)}})
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	running.Go(func() { _ = e.Run(ctx) })
	defer func() {
		cancel()
		running.Wait()
	}()
	requests := func(name string, n int) []engine.Request {
		var list []engine.Request
		for i := range n {
			list = append(list, engine.Request{Source: "p", Query: NewQuery("a", fmt.Sprint(name, i), 0), Interval: 15 * time.Second, MaxAge: 30 * time.Second})
		}
		return list
	}
	hangs, wells := requests("hung", hung), requests("well", 10)
	var pins []engine.Request
	for name, list := range map[string][]engine.Request{"hung": hangs, "well": wells} {
		if strings.Contains(pinned, name) {
			pins = append(pins, list...)
		}
	}
	e.Pin(pins)
	began := time.Now()
	for time.Since(began) < 12*time.Minute {
		for _, r := range hangs {
			e.Touch(r)
		}
		for _, r := range wells {
			read, stop := context.WithTimeout(ctx, 10*time.Second)
			if _, err := e.Read(read, r); err != nil && time.Since(began) > 8*time.Minute {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
			stop()
		}
		<-time.After(5 * time.Second)
	}
}

// TestQueryWithTooLittleTime has one call in flight, and asks more than fit into a Fetch.
func TestQueryWithTooLittleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHalfHung(t)
		a := s.servers["a"]
		a.queries = make(chan struct{}, 1)
		fetch := func(occupied time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			a.queries <- struct{}{}
			time.AfterFunc(occupied, func() { <-a.queries })
			err := s.Fetch(ctx, []sources.Query{NewQuery("a", "hung", 0)})[0].Err
			synctest.Wait()
			return err
		}
		for _, tc := range []struct {
			occupied time.Duration
			want     string
			is       error
		}{
			{time.Second, "no answer within 8s", sources.ErrTooSlow},
			{5 * time.Second, "no answer in the time that other queries left", nil},
			{7 * time.Second, "not asked in time: other queries took all the calls that may be in flight", sources.ErrNotAsked},
			{20 * time.Second, "not asked in time: other queries took all the calls that may be in flight", sources.ErrNotAsked},
		} {
			err := fetch(tc.occupied)
			if err == nil || !strings.HasSuffix(err.Error(), tc.want) {
				t.Errorf("after %v the error is %v, want %s", tc.occupied, err, tc.want)
			}
			for _, target := range []error{sources.ErrTooSlow, sources.ErrNotAsked, sources.ErrAway} {
				if is, want := errors.Is(err, target), errors.Is(tc.is, target); is != want {
					t.Errorf("after %v the error is %q: %v, want %v", tc.occupied, target, is, want)
				}
			}
			<-time.After(time.Minute)
		}
	})
}

// nobody is where packets are lost.
type nobody struct{}

func (nobody) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestQueryWithoutAConnection says what a query hears that got no connection.
func TestQueryWithoutAConnection(t *testing.T) {
	for _, tc := range []struct {
		name string
		// calls is how long a call may take, and occupied how long its Fetch has waited by then.
		calls, occupied time.Duration
		want            string
		is              error
	}{
		{"in its time", 8 * time.Second, 0, "no connection within 8s", sources.ErrAway},
		{"in the Fetch's time", 10500 * time.Millisecond, 0, "no connection in time", sources.ErrAway},
		{"in too little time", 8 * time.Second, 5 * time.Second, "not asked in time: other queries took all the calls that may be in flight", sources.ErrNotAsked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newHalfHung(t)
				a := s.servers["a"]
				a.http.Transport, a.queries = nobody{}, make(chan struct{}, 1)
				a.config.CallTimeout = tc.calls
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if tc.occupied > 0 {
					a.queries <- struct{}{}
					time.AfterFunc(tc.occupied, func() { <-a.queries })
				}
				err := s.Fetch(ctx, []sources.Query{NewQuery("a", "up", 0)})[0].Err
				if err == nil || !strings.HasSuffix(err.Error(), tc.want) || !errors.Is(err, tc.is) || errors.Is(err, sources.ErrTooSlow) {
					t.Errorf("the error is %v, want %s", err, tc.want)
				}
				synctest.Wait()
			})
		})
	}
}

func TestCallsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Servers: map[string]Server{"a": {URL: "http://a", MaxCallsPerSecond: 10}, "b": {URL: "http://b"}}})
		if err != nil {
			t.Fatal(err)
		}
		s.servers["a"].http.Transport, s.servers["b"].http.Transport = halfHung{}, halfHung{}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for _, tc := range []struct {
			server string
			least  int
			most   int
		}{{"b", 500, 500}, {"a", 40, 80}} {
			var queries []sources.Query
			for i := range 500 {
				queries = append(queries, NewQuery(tc.server, fmt.Sprintf("q%d", i), 0))
			}
			answered := 0
			for _, r := range s.Fetch(ctx, queries) {
				switch {
				case r.Err == nil:
					answered++
				case !errors.Is(r.Err, sources.ErrNotAsked):
					t.Errorf("%s: %v", tc.server, r.Err)
				}
			}
			if answered < tc.least || answered > tc.most {
				t.Errorf("%s answered %d in 10 s, want %d to %d", tc.server, answered, tc.least, tc.most)
			}
		}
		synctest.Wait()
	})
}
