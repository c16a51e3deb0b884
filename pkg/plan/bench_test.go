package plan

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/internal/heap"
	"github.com/tidegauge/tidegauge/pkg/engine"
	"github.com/tidegauge/tidegauge/pkg/rules"
	"github.com/tidegauge/tidegauge/pkg/sources"
)

// BenchmarkMemory says how many bytes of memory an object of an answer takes that was read,
// beside the answer.
func BenchmarkMemory(b *testing.B) {
	const n = 10_000
	answer := engine.Answer{Samples: make([]sources.Sample, n), Fetched: time.Now()}
	for i := range answer.Samples {
		answer.Samples[i].Labels = sources.NewLabels("namespace", "shop", "pod", fmt.Sprintf("web-5d59d67564-%05d", i))
	}
	var held uint64
	for b.Loop() {
		p := New(Options{})
		q := &query{question: rules.Question{ObjectLabel: "pod", NamespaceLabel: "namespace"}}
		before := heap.InUse()
		i := p.index(q, answer, "shop")
		held = heap.InUse() - before
		if len(i.objects) != n {
			b.Fatalf("%d objects", len(i.objects))
		}
		runtime.KeepAlive(q)
	}
	b.ReportMetric(float64(held)/n, "B/object")
}
