package prometheus

import (
	"bytes"
	"runtime"
	"testing"
)

// BenchmarkMemory says how many bytes of memory a sample of a pod takes.
func BenchmarkMemory(b *testing.B) {
	const n = 10_000
	answer := vectorJSON(n)
	var held uint64
	for b.Loop() {
		before := heap()
		samples, err := decode(bytes.NewReader(answer))
		if err != nil {
			b.Fatal(err)
		}
		held = heap() - before
		runtime.KeepAlive(samples)
	}
	b.ReportMetric(float64(held)/n, "B/sample")
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
