package schema_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const benchEvents = 500

func load(t testing.TB, files ...string) *schema.Registry {
	t.Helper()
	var fs []schema.File
	for i, content := range files {
		fs = append(fs, schema.File{Name: fmt.Sprintf("%d.yaml", i), Content: []byte(content)})
	}
	r, err := schema.Load(fs)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// cpuTime is what this process has used of the processor: on a busy machine elapsed time says nothing.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCheck prints beside its own rate how it compares with Count, which walks the same bytes once ("x_count").
func BenchmarkCheck(b *testing.B) {
	logs, now := otlptest.Handled(1, benchEvents), time.Unix(0, otlptest.Start)
	for name, r := range map[string]*schema.Registry{"20_attributes": load(b, otlptest.HandledSchema), "limits_only": schema.Empty()} {
		b.Run(name, func(b *testing.B) {
			c := schema.NewChecker(r, schema.DefaultLimits())
			start := cpuTime()
			for range 50 {
				_, _ = otlpwire.Count(signal.Logs, logs, otlpwire.Limits{})
			}
			count := (cpuTime() - start) / 50
			b.ReportAllocs()
			b.ResetTimer()
			start = cpuTime()
			for b.Loop() {
				res, err := c.Check(signal.Logs, logs, schema.Open, now)
				if err != nil || len(res.Findings) > 0 || res.Events != benchEvents || name != "limits_only" && res.Matched != benchEvents {
					b.Fatal(res, err)
				}
			}
			perOp := (cpuTime() - start) / time.Duration(b.N)
			b.ReportMetric(float64(perOp)/benchEvents, "cpu-ns/event")
			b.ReportMetric(float64(perOp)/float64(count), "x_count")
		})
	}
}
