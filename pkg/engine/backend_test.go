package engine

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// ofBackend is a query to the backend of that name.
type ofBackend string

func (q ofBackend) Key() string     { return string(q) }
func (q ofBackend) Backend() string { return string(q) }

// fine is a source that answers everything.
type fine struct{}

func (fine) Fetch(_ context.Context, queries []sources.Query) []sources.Result {
	results := make([]sources.Result, len(queries))
	for i := range results {
		results[i].Samples = []sources.Sample{{Value: 1}}
	}
	return results
}

func TestBackendGoesWithItsLastQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{Sources: map[string]sources.Source{"b": fine{}}})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = e.Run(ctx) })
		request := func(name string) Request {
			return Request{Source: "b", Query: ofBackend(name), Interval: time.Minute, MaxAge: time.Hour}
		}
		e.Pin([]Request{request("kept")})
		for i := range 100 {
			e.Touch(request(strconv.Itoa(i)))
		}
		<-time.After(time.Hour)
		f := e.feeds["b"]
		f.mu.Lock()
		var names []string
		for name := range f.backends {
			names = append(names, name)
		}
		held := f.room
		f.mu.Unlock()
		if held.entries != 0 || held.samples != 0 {
			t.Errorf("%+v is counted of queries that nobody reads any more", held)
		}
		if !slices.Equal(names, []string{"kept"}) {
			t.Errorf("the backends are %v, want the one that is in demand", names)
		}
		cancel()
		running.Wait()
	})
}
