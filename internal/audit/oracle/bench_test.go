package oracle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// BenchmarkOracle reads and decides on requests of 500 realistic logs that occur once.
func BenchmarkOracle(b *testing.B) {
	var values [][]byte
	for seed := range uint64(50) {
		values = append(values, otlptest.Logs(seed, 500))
	}
	m := NewMemory(15 * time.Minute)
	now := time.Unix(1_700_000_000, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%len(values) == 0 {
			m = NewMemory(15 * time.Minute)
		}
		q, err := Read(signal.Logs, Record{Tenant: "acme", Offset: int64(i), Appended: now, Value: values[i%len(values)]})
		require.NoError(b, err)
		verdicts, _ := m.Add(q)
		require.Zero(b, verdicts[0].Rule)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*500), "ns/event")
}
