package audit

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
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
				require.Equal(b, certificate.Equal, c.Verdict)
				require.Equal(b, int64(partitions*records*events), totals(c, certificate.Lake).Rows)
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
