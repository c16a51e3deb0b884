package prometheus

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/tidegauge/tidegauge/internal/heap"
)

// BenchmarkMemory says how many bytes of memory a sample of a pod takes.
func BenchmarkMemory(b *testing.B) {
	const n = 10_000
	answer := vectorJSON(n)
	var held uint64
	for b.Loop() {
		before := heap.InUse()
		samples, err := decode(bytes.NewReader(answer))
		if err != nil {
			b.Fatal(err)
		}
		held = heap.InUse() - before
		runtime.KeepAlive(samples)
	}
	b.ReportMetric(float64(held)/n, "B/sample")
}
