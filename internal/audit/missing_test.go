package audit

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// Scenario: somebody deletes rows of each signal from ClickHouse: every third one, and those of a whole record.
// Guarantee: Missing is called with exactly these events, and the rows that internal/columns makes of them make ClickHouse equal to Kafka again, column by column.
func TestWhatClickHouseHasLostIsHandedOn(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
	for seed := range uint64(6) {
		r.produce(signal.Logs.Topic(), int32(seed%partitions), otlptest.Logs(seed, 9))
		r.produce(signal.Metrics.Topic(), int32(seed%partitions), otlptest.Metrics(seed, 9))
		r.produce(signal.Traces.Topic(), int32(seed%partitions), otlptest.Spans(seed, 9))
	}
	r.store()
	require.Equal(t, certificate.Equal, r.audit().Verdict)
	for _, s := range signal.All {
		r.alterHot(columns.ForSignal(s).Name + " DELETE WHERE event_index % 3 = 1 OR kafka_partition = 1 AND kafka_offset = 1")
	}
	events := map[signal.Signal]int{}
	builders := map[signal.Signal]*columns.Builder{}
	c := r.audit(func(c *Config) {
		c.Missing = func(m Missing) error {
			require.Equal(t, m.Signal.Topic(), m.Topic)
			events[m.Signal] += m.Events
			b := builders[m.Signal]
			if b == nil {
				b = columns.NewBuilder(memory.DefaultAllocator, columns.ForSignal(m.Signal))
				builders[m.Signal] = b
			}
			return data{signal: m.Signal, logs: m.Logs, metrics: m.Metrics, traces: m.Traces}.appendTo(b)
		}
	})
	lost := totals(c, certificate.Hot).Lost
	require.Greater(t, lost, int64(3*9))
	require.EqualValues(t, lost, events[signal.Logs]+events[signal.Metrics]+events[signal.Traces])
	for s, b := range builders {
		rec := b.NewRecordBatch()
		require.EqualValues(t, events[s], rec.NumRows(), s)
		r.insertHot(columns.ForSignal(s).Name, rec)
		rec.Release()
		b.Release()
	}
	after := r.audit()
	require.Equal(t, certificate.Equal, after.Verdict, shown(after))
}
