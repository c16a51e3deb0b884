package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(_ context.Context, q query) sources.Result {
			switch q {
			case "idle":
				return failure(sources.ErrNoData)
			case "bad":
				return failure(errors.New("no"))
			case "slow":
				pass(time.Second)
			}
			return value(1)
		})
		e := start(t, b, engine.Options{Backoff: engine.Backoff{First: time.Minute}})
		read := func(keys ...string) {
			for _, key := range keys {
				_, _ = e.Read(t.Context(), request(key))
			}
		}
		read("q", "idle", "bad", "q", "q", "idle", "bad")
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, _ = e.Read(ctx, request("slow"))
		b.sleepUntil(16 * time.Second)
		b.answers(failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")}))
		b.sleepUntil(31 * time.Second)
		read("q")
		err := testutil.CollectAndCompare(e, strings.NewReader(`
# HELP tidegauge_answer_age_seconds Age of the oldest last answer of a query in demand.
# TYPE tidegauge_answer_age_seconds gauge
tidegauge_answer_age_seconds{source="b"} 16
# HELP tidegauge_queries_in_demand Queries that are being refreshed.
# TYPE tidegauge_queries_in_demand gauge
tidegauge_queries_in_demand{source="b"} 4
# HELP tidegauge_queries_stale Queries in demand that were asked and have no answer young enough to serve.
# TYPE tidegauge_queries_stale gauge
tidegauge_queries_stale{source="b"} 1
# HELP tidegauge_reads_total Reads of queries, by result: fresh (from memory), last_good (from memory, while the source fails), waited (a value after the first fetch), nodata (the source has no value), unavailable (no answer young enough), abandoned (the reader left before the first fetch was over), refused (too many queries that no HPA names).
# TYPE tidegauge_reads_total counter
tidegauge_reads_total{result="abandoned",source="b"} 1
tidegauge_reads_total{result="fresh",source="b"} 2
tidegauge_reads_total{result="last_good",source="b"} 1
tidegauge_reads_total{result="nodata",source="b"} 2
tidegauge_reads_total{result="refused",source="b"} 0
tidegauge_reads_total{result="unavailable",source="b"} 2
tidegauge_reads_total{result="waited",source="b"} 1
# HELP tidegauge_served_age_seconds Age of the values that reads were given, counted from when the source was asked.
# TYPE tidegauge_served_age_seconds histogram
tidegauge_served_age_seconds_bucket{source="b",le="1"} 3
tidegauge_served_age_seconds_bucket{source="b",le="5"} 3
tidegauge_served_age_seconds_bucket{source="b",le="15"} 3
tidegauge_served_age_seconds_bucket{source="b",le="30"} 4
tidegauge_served_age_seconds_bucket{source="b",le="60"} 4
tidegauge_served_age_seconds_bucket{source="b",le="120"} 4
tidegauge_served_age_seconds_bucket{source="b",le="300"} 4
tidegauge_served_age_seconds_bucket{source="b",le="600"} 4
tidegauge_served_age_seconds_bucket{source="b",le="1800"} 4
tidegauge_served_age_seconds_bucket{source="b",le="+Inf"} 4
tidegauge_served_age_seconds_sum{source="b"} 16.02
tidegauge_served_age_seconds_count{source="b"} 4
`), "tidegauge_served_age_seconds", "tidegauge_answer_age_seconds", "tidegauge_queries_in_demand", "tidegauge_queries_stale", "tidegauge_reads_total")
		if err != nil {
			t.Error(err)
		}
		if problems, err := testutil.CollectAndLint(e); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
	})
}

func TestMetricsOfBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.answersBy(func(ctx context.Context, q query) sources.Result {
			switch {
			case q.Backend() == "dead" || q.Backend() == "probed" && time.Since(b.start) < time.Minute:
				return away
			case q.Backend() == "busy":
				return failure(&sources.ThrottledError{Err: errors.New("Rate exceeded")})
			case q.Backend() == "hung" || q.Backend() == "probed":
				<-ctx.Done()
				return failure(ctx.Err())
			}
			return value(1)
		})
		e := start(t, b, engine.Options{FetchTimeout: 20 * time.Minute})
		var pins []engine.Request
		for i := range 17 {
			pins = append(pins, request(fmt.Sprintf("hung/%02d", i)))
			e.Pin(pins)
			pass(2 * gather)
		}
		for _, backend := range []string{"dead", "probed", "busy", "well", "fine"} {
			pins = append(pins, pinsOf(backend, 5)...)
		}
		e.Pin(pins)
		b.sleepUntil(5 * time.Minute)
		for range 600 {
			// While the busy one is not being asked, and the dead one not probed.
			err := testutil.CollectAndCompare(e, strings.NewReader(`
# HELP tidegauge_backends Backends of a source that have queries, by state: closed (asked as usual), throttled (it has asked for fewer calls), open (nobody is there, and its queries wait), half_open (a few of them are being asked whether it is back).
# TYPE tidegauge_backends gauge
tidegauge_backends{source="b",state="closed"} 3
tidegauge_backends{source="b",state="half_open"} 1
tidegauge_backends{source="b",state="open"} 1
tidegauge_backends{source="b",state="throttled"} 1
# HELP tidegauge_fetches_in_flight Batches that a source is being asked.
# TYPE tidegauge_fetches_in_flight gauge
tidegauge_fetches_in_flight{source="b"} 17
# HELP tidegauge_queries_waiting Queries in demand that are due and not being asked, because their backend is away, has asked for fewer calls or has enough batches in flight.
# TYPE tidegauge_queries_waiting gauge
tidegauge_queries_waiting{source="b"} 12
`), "tidegauge_backends", "tidegauge_fetches_in_flight", "tidegauge_queries_waiting")
			if err == nil {
				return
			}
			pass(time.Second)
			if time.Since(b.start) > 10*time.Minute {
				t.Fatal(err)
			}
		}
	})
}
