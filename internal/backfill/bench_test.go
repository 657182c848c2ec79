package backfill

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/legacy"
)

// BenchmarkDecode is what a line costs between the object and the pipelines, besides decompression.
func BenchmarkDecode(b *testing.B) {
	p := &Plan{Spec: Spec{Objects: "file:///x", Tenant: "acme"}, Settings: settings, Created: time.Unix(1_800_000_000, 0), Objects: make([]Object, 1)}
	p.Settings.MaxLineBytes = 1 << 20
	c := &chunk{}
	const lines = 1000
	for n := range lines {
		text := fmt.Sprintf(`{"service": "checkout", "host": "host-%d", "env": "prod", "type": "log", "event_id": "e-%d", "timestamp": %d, "level": "INFO", "message": "payment %d of customer 8862 took 528 ms", "attributes": {"n": %d, "http.route": "/pay/{id}", "cart": [2, 4]}}`,
			n%20, n, 1_767_225_600_000+n, n, n)
		c.lines = append(c.lines, line{offset: int64(n + 1), from: len(c.raw), to: len(c.raw) + len(text), size: int64(len(text))})
		c.raw = append(c.raw, text...)
	}
	d := newDecoder(p, legacy.Default())
	b.ReportAllocs()
	for b.Loop() {
		require.Equal(b, int64(lines), d.decode(c).tally.Logs)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*lines), "ns/line")
}
