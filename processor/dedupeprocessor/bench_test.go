package dedupeprocessor

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
)

// BenchmarkBlock is what dedupe adds to a block of 10,000 logs that the receiver has decoded and stamped, and, to compare, what
// decoding and stamping cost: the receiver's part alone, before anything is stored.
func BenchmarkBlock(b *testing.B) {
	const records, each = 20, 500
	req := otlptest.Logs(1, each)
	var decoder otlpdecode.Decoder
	nextID := uint64(0)
	decode := func(first int64, fresh bool) plog.Logs {
		all := plog.NewLogs()
		for r := range int64(records) {
			ld, err := decoder.Logs(req)
			if err != nil {
				b.Fatal(err)
			}
			rl := ld.ResourceLogs().At(0)
			source := eventid.Source("agent", rl.Resource())
			lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "a", Source: "agent", Topic: "t", Appended: time.UnixMilli(first + r)})
			for i, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
				if fresh {
					nextID++
				}
				lr.SetObservedTimestamp(1)
				id := eventid.Log(lr, source)
				id[0], id[1], id[2], id[3], id[4] = byte(nextID), byte(nextID>>8), byte(nextID>>16), byte(nextID>>24), byte(r)
				lineage.StampEvent(lr.Attributes(), lineage.Event{ID: id, Offset: first + r, Index: int32(i)})
			}
			ld.ResourceLogs().MoveAndAppendTo(all.ResourceLogs())
		}
		return all
	}
	report := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(records*each), "ns/event")
	}
	b.Run("decode and stamp", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			decode(0, true)
		}
		report(b)
	})
	for name, fresh := range map[string]bool{"new events": true, "copies": false} {
		b.Run("dedupe/"+name, func(b *testing.B) {
			p, err := NewFactory().CreateLogs(b.Context(), processortest.NewNopSettings(metadata.Type()), createDefaultConfig(), consumertest.NewNop())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = p.Shutdown(context.Background()) }()
			first := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				ld := decode(first, fresh)
				ctx := block.NewContext(b.Context(), block.Block{Topic: "t", First: first, Last: first + records - 1, Oldest: first})
				first += records
				b.StartTimer()
				if err := p.ConsumeLogs(ctx, ld); err != nil {
					b.Fatal(err)
				}
			}
			report(b)
		})
	}
}
