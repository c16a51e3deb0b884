package engine_test

import (
	"context"
	"errors"
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
`), "tidegauge_answer_age_seconds", "tidegauge_queries_in_demand", "tidegauge_queries_stale", "tidegauge_reads_total")
		if err != nil {
			t.Error(err)
		}
		if problems, err := testutil.CollectAndLint(e); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
	})
}
