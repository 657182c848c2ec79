package otlpwire

import (
	"testing"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const benchEvents = 500

// BenchmarkCount prints beside its own rate how many times as long pdata takes to decode the same request ("x_pdata").
func BenchmarkCount(b *testing.B) {
	for _, sig := range signal.All {
		req := otlptest.Realistic(sig, 1, benchEvents)
		b.Run(sig.String(), func(b *testing.B) {
			pdata := timed(b, 20, func() { _, _ = decode(sig, req) })
			b.SetBytes(int64(len(req)))
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				if n, err := Count(sig, req, Limits{}); n != benchEvents || err != nil {
					b.Fatal(n, err)
				}
			}
			perOp := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(float64(pdata)/float64(perOp), "x_pdata")
			b.ReportMetric(float64(perOp)/benchEvents, "ns/event")
		})
	}
}

func timed(b *testing.B, n int, fn func()) time.Duration {
	b.Helper()
	start := time.Now()
	for range n {
		fn()
	}
	return time.Since(start) / time.Duration(n)
}

func BenchmarkWalk(b *testing.B) {
	for _, sig := range signal.All {
		req := otlptest.Realistic(sig, 1, benchEvents)
		run := func(name string, fn func(*Event) bool) {
			b.Run(sig.String()+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(req)))
				b.ReportAllocs()
				for b.Loop() {
					_ = Walk(sig, req, fn)
				}
			})
		}
		run("events", func(*Event) bool { return true })
		run("three_attributes", func(e *Event) bool {
			_, _ = e.Attr("http.route")
			_, _ = e.Attr("score")
			_, _ = e.ResourceAttr("service.name")
			return true
		})
		run("all_attributes", func(e *Event) bool {
			for k, v := range e.Attributes().All() {
				if len(k) == 0 || v.Type() == TypeEmpty {
					panic("generated attributes have a key and a value")
				}
			}
			return true
		})
	}
}

func BenchmarkSplit(b *testing.B) {
	for _, sig := range signal.All {
		req := otlptest.Realistic(sig, 1, benchEvents)
		b.Run(sig.String()+"/every_tenth", func(b *testing.B) {
			b.SetBytes(int64(len(req)))
			b.ReportAllocs()
			for b.Loop() {
				_, _, _ = Split(sig, req, func(i int) bool { return i%10 == 0 })
			}
		})
		b.Run(sig.String()+"/by_size", func(b *testing.B) {
			b.SetBytes(int64(len(req)))
			b.ReportAllocs()
			for b.Loop() {
				_, _, _ = SplitBySize(sig, req, len(req)/4)
			}
		})
	}
}
