// Package heap says how much memory is in use, for tests and benchmarks that hold it to a
// bound.
package heap

import "runtime"

// InUse is how many bytes of the heap are in use once garbage, that which waits for a
// finalizer included, is collected.
func InUse() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
