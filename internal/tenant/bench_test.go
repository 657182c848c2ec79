package tenant

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// registry of n tenants, a hundred a file, each with a key and quotas. It returns the keys.
func large(n int) (files map[string]string, keys []string) {
	files = map[string]string{}
	for i := 0; i < n; i += 100 {
		var b strings.Builder
		b.WriteString("tenants:\n")
		for j := i; j < min(n, i+100); j++ {
			key, id, hash := NewKey()
			keys = append(keys, key)
			fmt.Fprintf(&b, `  - id: tenant-%d
    class: %s
    jurisdiction: eu
    keys: [{id: %s, hash: "%s"}]
    quotas:
      logs: {events_per_second: 5000, bytes_per_second: 6000000, burst: 60s}
      metrics: {events_per_second: 20000}
      traces: {fleet: {events_per_second: 40000, share: 0.05}}
    schema: {policy: warn}
`, j, []string{"small", "standard", "premium"}[j%3], id, hash)
		}
		files[fmt.Sprintf("tenants-%04d.yaml", i/100)] = b.String()
	}
	return files, keys
}

// BenchmarkLoad reads all files, as a gateway does when it starts.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		files, _ := large(n)
		b.Run(fmt.Sprint(n, "_tenants"), func(b *testing.B) {
			var before, after runtime.MemStats
			var last *Loader
			for b.Loop() {
				b.StopTimer()
				last = nil //nolint:ineffassign // the one before is garbage when memory is measured
				f := newFolder(b, files)
				runtime.GC()
				runtime.ReadMemStats(&before)
				b.StartTimer()
				if f.reload() != none {
					b.Fatal("refused")
				}
				b.StopTimer()
				runtime.GC()
				runtime.ReadMemStats(&after)
				last = f.loader
				b.StartTimer()
			}
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/1e6, "MB-held")
			runtime.KeepAlive(last)
		})
	}
}

// BenchmarkReload is after one file of a hundred tenants has changed.
func BenchmarkReload(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		files, _ := large(n)
		b.Run(fmt.Sprint(n, "_tenants"), func(b *testing.B) {
			f := newFolder(b, files)
			f.reload()
			for b.Loop() {
				b.StopTimer()
				f.write("tenants-0000.yaml", files["tenants-0000.yaml"])
				b.StartTimer()
				f.reload()
			}
		})
	}
}

// BenchmarkByKey is what a request costs to authenticate.
func BenchmarkByKey(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		files, keys := large(n)
		f := newFolder(b, files)
		f.reload()
		s := f.loader.Snapshot()
		b.Run(fmt.Sprint(n, "_tenants"), func(b *testing.B) {
			b.ReportAllocs()
			now := time.Now()
			i := 0
			for b.Loop() {
				if t, _, err := s.ByKey(keys[i%n], now); err != nil || t == nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
