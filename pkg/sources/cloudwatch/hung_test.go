package cloudwatch

import (
	"context"
	"fmt"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"

	"github.com/tidegauge/tidegauge/pkg/engine" //nolint:depguard // What both bound together is what is claimed here.
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// halfHung is an AWS that answers metrics, and takes expressions without ever answering.
func halfHung() *fakeAWS {
	f := &fakeAWS{values: map[string]float64{"a": 1}}
	f.before = func(ctx context.Context, _ string, in *cloudwatch.GetMetricDataInput) error {
		httptrace.ContextClientTrace(ctx).GotConn(httptrace.GotConnInfo{})
		wait := time.After(20 * time.Millisecond)
		for _, d := range in.MetricDataQueries {
			if d.Expression != nil {
				wait = nil
			}
		}
		select {
		case <-wait:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f
}

// TestHungQueriesLeaveRoomForOthers has queries that hang, each in a call to itself and many
// more than may be in flight, and others that are answered well. Once each of those that hang
// was asked, the others are answered as if they were alone, whichever of the two HPAs name.
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
	e := engine.New(engine.Options{Sources: map[string]sources.Source{"c": halfHung().source(DefaultConfig())}})
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	running.Go(func() { _ = e.Run(ctx) })
	defer func() {
		cancel()
		running.Wait()
	}()
	request := func(d MetricDataQuery) engine.Request {
		return engine.Request{Source: "c", Query: mustQuery(t, d), Interval: 15 * time.Second, MaxAge: 30 * time.Second}
	}
	var hangs, wells, pins []engine.Request
	for i := range hung {
		// A call has one query of Metrics Insights at most.
		hangs = append(hangs, request(MetricDataQuery{ID: "e1", Expression: fmt.Sprint("SELECT MAX(x) FROM y", i), Period: 60}))
	}
	for i := range 10 {
		wells = append(wells, request(of("m1", "a", "Average", int32(i+1)*60)))
	}
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

// TestShareOfCalls counts the calls in flight of Fetches that give way, and of one beside them
// that does not.
func TestShareOfCalls(t *testing.T) {
	yields, retries := sources.Yielding, sources.Retrying
	both := func(ctx context.Context) context.Context { return yields(retries(ctx)) }
	for _, tc := range []struct {
		name  string
		marks func(context.Context) context.Context
		of    int
		want  int
	}{
		{"yielding", yields, 8, 4},
		{"retrying", retries, 8, 3},
		{"both", both, 8, 3},
		{"yielding, of 3", yields, 3, 2},
		{"retrying, of 3", retries, 3, 1},
		{"both, of 1", both, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := DefaultConfig()
				config.MaxCalls, config.CallTimeout = tc.of, time.Minute
				f := new(fakeAWS)
				f.before = func(ctx context.Context, _ string, _ *cloudwatch.GetMetricDataInput) error {
					<-ctx.Done()
					return ctx.Err()
				}
				s := f.source(config)
				ctx, cancel := context.WithCancel(t.Context())
				var fetches sync.WaitGroup
				fetches.Go(func() { s.Fetch(tc.marks(ctx), ownWindows(t, 20, "")) })
				synctest.Wait()
				if n := len(f.asked()); n != tc.want {
					t.Errorf("%d calls are in flight, want %d", n, tc.want)
				}
				fetches.Go(func() { s.Fetch(ctx, ownWindows(t, 20, "")) })
				synctest.Wait()
				if n := len(f.asked()); n != tc.of {
					t.Errorf("%d calls are in flight beside a Fetch that gives no way, want %d", n, tc.of)
				}
				cancel()
				fetches.Wait()
				synctest.Wait()
				c, err := s.clients.get(clientKey{region: "eu-west-1"})
				if err != nil {
					t.Fatal(err)
				}
				if left := []int{len(c.slots), len(c.yielding), len(c.retrying)}; !slices.Equal(left, []int{0, 0, 0}) {
					t.Errorf("%v calls are in flight after the last Fetch", left)
				}
			})
		})
	}
}
