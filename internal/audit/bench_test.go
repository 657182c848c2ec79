package audit

import (
	"syscall"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// BenchmarkAudit audits 100,000 realistic logs in 200 records of 2 partitions, each event in both stores: events a second of the whole audit, and per second of
// this process's CPU.
func BenchmarkAudit(b *testing.B) {
	r := newRig(b, clickhousetest.Start(b))
	const records, events = 100, 500
	for p := range int32(partitions) {
		for seed := range uint64(records) {
			r.produce(logsTopic, p, otlptest.Logs(uint64(p)<<32+seed, events))
		}
	}
	r.noDedupe = true // the rig's own is plain and slow, and there are no duplicates
	r.store()
	for name, quick := range map[string]bool{"content": false, "quick": true} {
		b.Run(name, func(b *testing.B) {
			begun := cpu(b)
			for b.Loop() {
				c := r.audit(func(c *Config) { c.Quick = quick })
				require.Equal(b, Equal, c.Verdict)
				require.Equal(b, int64(partitions*records*events), totals(c, Lake).Rows)
			}
			total := float64(b.N * partitions * records * events)
			b.ReportMetric(total/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(total/(cpu(b)-begun).Seconds(), "events/core-s")
		})
	}
}

// cpu is what this process has used; ClickHouse is another one, and Kafka (kfake) is in it.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRowHash hashes realistic logs, every column.
func BenchmarkRowHash(b *testing.B) {
	builder := columns.NewBuilder(memory.DefaultAllocator, columns.Logs)
	d, err := unmarshal(signal.Logs, otlptest.Logs(1, 1000))
	require.NoError(b, err)
	require.NoError(b, d.appendTo(builder))
	rec := builder.NewRecordBatch()
	defer rec.Release()
	r, err := newTableReader(columns.Logs, rec, true)
	require.NoError(b, err)
	n := 0
	for b.Loop() {
		r.row(n % 1000)
		n++
	}
}
