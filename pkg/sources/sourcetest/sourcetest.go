// Package sourcetest holds the contract of sources.Source as tests, which every
// source runs against its own backend.
package sourcetest

import (
	"context"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// patience is how long the suite waits for what must happen. It is never reached
// by a source that keeps the contract.
const patience = 30 * time.Second

// soon is long enough for most calls to reach the backend, and nothing is wrong
// with one that does not.
const soon = 100 * time.Millisecond

// Harness is a source with a backend that the suite can disturb.
type Harness struct {
	// Source is what is tested.
	Source sources.Source
	// Good are at least two queries, each of which has one sample.
	Good []sources.Query
	// Values are the samples' values, which differ, in the order of Good.
	Values []float64
	// Twin is another query with the key of Good[0].
	Twin sources.Query
	// Bad is a query that the backend refuses.
	Bad sources.Query
	// Empty is a query that the backend answers without a value.
	Empty sources.Query
	// Block makes the backend answer no call until unblock is called.
	Block func() (unblock func())
	// Break makes the backend fail every call until mend is called.
	Break func() (mend func())
	// Secrets are texts that no error may have.
	Secrets []string
}

// Run tests the source that open makes, anew for each test.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	t.Helper()
	for _, test := range []struct {
		name  string
		check func(contract)
	}{
		{"an empty batch has no results", contract.emptyBatch},
		{"results are in the order of the queries", contract.order},
		{"equal queries have equal results", contract.twins},
		{"a refused query spoils no other", contract.refused},
		{"a query of another source spoils no other", contract.foreign},
		{"no value is no data", contract.noData},
		{"a broken backend fails every query and heals", contract.broken},
		{"a context that is done ends a fetch", contract.canceled},
		{"a context that was done before makes every query fail", contract.alreadyDone},
		{"fetches run side by side", contract.parallel},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := contract{open(t), t}
			test.check(c)
			noGoroutines(t, c.Source)
		})
	}
}

// contract is one test of the suite.
type contract struct {
	Harness

	t *testing.T
}

func (c contract) emptyBatch() {
	if got := c.Source.Fetch(c.t.Context(), nil); len(got) != 0 {
		c.t.Errorf("got %d results for no queries", len(got))
	}
}

func (c contract) order() {
	c.wantValues(c.fetch(c.Good...), c.Values)

	backwards, values := slices.Clone(c.Good), slices.Clone(c.Values)
	slices.Reverse(backwards)
	slices.Reverse(values)
	c.wantValues(c.fetch(backwards...), values)
}

func (c contract) twins() {
	if c.Twin.Key() != c.Good[0].Key() {
		c.t.Fatalf("the keys of equal queries differ: %q and %q", c.Twin.Key(), c.Good[0].Key())
	}
	got := c.fetch(c.Good[0], c.Good[1], c.Twin, c.Good[0])
	c.wantValues(got, []float64{c.Values[0], c.Values[1], c.Values[0], c.Values[0]})
}

func (c contract) refused() {
	got := c.fetch(c.Good[0], c.Bad, c.Good[1])
	c.wantValues([]sources.Result{got[0], got[2]}, c.Values[:2])
	if !errors.Is(got[1].Err, sources.ErrRejected) {
		c.t.Errorf("the error of a refused query is %v, and does not wrap ErrRejected", got[1].Err)
	}
}

// otherQuery is a query that no source made.
type otherQuery struct{}

// Key implements sources.Query.
func (otherQuery) Key() string { return "other" }

// Backend implements sources.Query.
func (otherQuery) Backend() string { return "other" }

func (c contract) foreign() {
	got := c.fetch(c.Good[0], otherQuery{}, c.Good[1])
	c.wantValues([]sources.Result{got[0], got[2]}, c.Values[:2])
	if got[1].Err == nil {
		c.t.Error("a query of another source has no error")
	}
}

func (c contract) noData() {
	got := c.fetch(c.Good[0], c.Empty)
	c.wantValues(got[:1], c.Values[:1])
	if !errors.Is(got[1].Err, sources.ErrNoData) {
		c.t.Errorf("the error of a query without a value is %v, and does not wrap ErrNoData", got[1].Err)
	}
}

func (c contract) broken() {
	mend := c.Break()
	first := c.fetch(c.Good...)
	second := c.fetch(c.Good...)
	mend()
	for i := range first {
		switch {
		case first[i].Err == nil || second[i].Err == nil:
			c.t.Errorf("query %d has no error while the backend is broken", i)
		case errors.Is(first[i].Err, sources.ErrNoData) || errors.Is(first[i].Err, sources.ErrRejected):
			c.t.Errorf("the failure of the backend is taken for an answer: %v", first[i].Err)
		case first[i].Err.Error() != second[i].Err.Error():
			c.t.Errorf("one failure has two texts: %q and %q", first[i].Err, second[i].Err)
		}
	}
	c.wantValues(c.fetch(c.Good...), c.Values)
}

func (c contract) canceled() {
	unblock := c.Block()
	defer unblock()
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	done := make(chan []sources.Result, 1)
	go func() { done <- c.Source.Fetch(ctx, c.Good) }()
	select {
	case got := <-done:
		c.wantErrors(got)
	case <-time.After(patience):
		c.t.Fatal("Fetch goes on although its context is done")
	}
}

func (c contract) alreadyDone() {
	ctx, cancel := context.WithCancel(c.t.Context())
	cancel()
	unblock := c.Block()
	defer unblock()
	c.wantErrors(c.Source.Fetch(ctx, c.Good))
}

func (c contract) parallel() {
	var fetches sync.WaitGroup
	for range 8 {
		fetches.Go(func() { c.wantValues(c.fetch(c.Good...), c.Values) })
	}
	fetches.Wait()
}

// fetch asks the queries and checks what holds of every result.
func (c contract) fetch(queries ...sources.Query) []sources.Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	got := c.Source.Fetch(ctx, queries)
	if len(got) != len(queries) {
		// FailNow is not for the goroutines that parallel starts.
		c.t.Errorf("got %d results for %d queries", len(got), len(queries))
		return make([]sources.Result, len(queries))
	}
	for i, r := range got {
		if (r.Err == nil) != (len(r.Samples) > 0) {
			c.t.Errorf("result %d has %d samples and the error %v", i, len(r.Samples), r.Err)
		}
		for _, s := range r.Samples {
			if s.Time.IsZero() {
				c.t.Errorf("result %d has a sample without a time", i)
			}
		}
		c.noSecrets(r.Err)
	}
	return got
}

func (c contract) noSecrets(err error) {
	c.t.Helper()
	if err == nil {
		return
	}
	for _, secret := range c.Secrets {
		if strings.Contains(err.Error(), secret) {
			c.t.Errorf("an error has a secret in it: %v", err)
		}
	}
}

func (c contract) wantErrors(got []sources.Result) {
	c.t.Helper()
	if len(got) != len(c.Good) {
		c.t.Fatalf("got %d results for %d queries", len(got), len(c.Good))
	}
	for i, r := range got {
		if r.Err == nil {
			c.t.Errorf("query %d has no error", i)
		}
		c.noSecrets(r.Err)
	}
}

func (c contract) wantValues(got []sources.Result, want []float64) {
	c.t.Helper()
	for i, r := range got {
		switch {
		case r.Err != nil:
			c.t.Errorf("result %d: %v", i, r.Err)
		case len(r.Samples) != 1 || r.Samples[0].Value != want[i]:
			c.t.Errorf("result %d is %+v, want the value %v", i, r.Samples, want[i])
		}
	}
}

// noGoroutines waits until no goroutine runs the code of the source's package.
func noGoroutines(t *testing.T, s sources.Source) {
	t.Helper()
	of := reflect.TypeOf(s)
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	deadline := time.Now().Add(patience)
	for {
		left := goroutinesOf(of.PkgPath() + ".")
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Fetch left goroutines behind:\n%s", strings.Join(left, "\n\n"))
		}
		<-time.After(time.Millisecond)
	}
}

// goroutinesOf are the stacks with a function of that prefix, less those of tests.
func goroutinesOf(prefix string) []string {
	buffer := make([]byte, 1<<20)
	stacks := strings.Split(string(buffer[:runtime.Stack(buffer, true)]), "\n\n")
	return slices.DeleteFunc(stacks, func(stack string) bool {
		return !strings.Contains(stack, prefix) || strings.Contains(stack, "testing.tRunner(")
	})
}
