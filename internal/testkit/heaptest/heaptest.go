// Package heaptest measures what memory a piece of work takes.
package heaptest

import (
	"runtime"
	"runtime/metrics"
	"time"
)

// Peak runs do and returns by how many bytes the heap was larger than before at its highest: live objects, and garbage that was not yet
// collected. Nothing else should run in the process.
func Peak(do func()) int64 {
	runtime.GC()
	before := objects()
	quit, peak := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for most := before; ; {
			most = max(most, objects())
			select {
			case <-tick.C:
			case <-quit:
				peak <- most
				return
			}
		}
	}()
	do()
	close(quit)
	return <-peak - before
}

func objects() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
