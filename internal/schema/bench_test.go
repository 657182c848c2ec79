package schema_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const benchEvents = 500

// twenty is a schema of 20 of the 24 attributes that otlptest.Logs gives each record.
const twenty = `
groups:
  - id: event.request.handled
    type: event
    name: request.handled
    attributes:
      - {id: http.request.method, requirement_level: required, annotations: {pulsegrid: {enum: closed}}, type: {members: [{id: a, value: GET}, {id: b, value: POST}, {id: c, value: PUT}, {id: d, value: DELETE}]}}
      - {id: http.route, type: string, requirement_level: required}
      - {id: http.response.status_code, type: int, requirement_level: required, annotations: {pulsegrid: {min: 100, max: 599}}}
      - {id: url.path, type: string, requirement_level: required}
      - {id: client.address, type: string}
      - {id: client.port, type: int}
      - {id: user.id, type: string, annotations: {pulsegrid: {pii: true}}}
      - {id: session.id, type: string, requirement_level: required}
      - {id: request.id, type: string, requirement_level: required}
      - {id: duration_ms, type: double, requirement_level: required}
      - {id: cpu_ms, type: double}
      - {id: bytes.in, type: int}
      - {id: bytes.out, type: int}
      - {id: cache.hit, type: boolean}
      - {id: retry, type: boolean}
      - {id: thread.id, type: int}
      - {id: code.line, type: int}
      - {id: zone, type: string}
      - {id: queue.depth, type: int}
      - {id: score, type: double}
`

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

// handled are realistic log records named request.handled, and the time of the first.
func handled(t testing.TB, n int) ([]byte, time.Time) {
	t.Helper()
	var req collectorlogs.ExportLogsServiceRequest
	if err := proto.Unmarshal(otlptest.Logs(1, n), &req); err != nil {
		t.Fatal(err)
	}
	for _, lr := range req.ResourceLogs[0].ScopeLogs[0].LogRecords {
		lr.EventName = "request.handled"
	}
	b, err := proto.Marshal(&req)
	if err != nil {
		t.Fatal(err)
	}
	return b, time.Unix(0, otlptest.Start)
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
	logs, now := handled(b, benchEvents)
	for name, r := range map[string]*schema.Registry{"20_attributes": load(b, twenty), "limits_only": schema.Empty()} {
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
