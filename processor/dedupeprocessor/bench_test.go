package dedupeprocessor

import (
	"context"
	"math/rand/v2"
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
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// BenchmarkBlock is what dedupe adds to a block of 10,000 logs that the receiver has decoded and stamped, and, to compare, what
// decoding and stamping cost: the receiver's part alone, before anything is stored.
func BenchmarkBlock(b *testing.B) {
	const records, each = 20, 500
	req := otlptest.Logs(1, each)
	var decoder otlpdecode.Decoder
	// decode returns the events and what they are compared by: their own, or, if they are to be new, others.
	decode := func(first int64, fresh bool) (plog.Logs, []eventid.Record) {
		all, identities := plog.NewLogs(), make([]eventid.Record, records)
		reader := eventid.NewReader(signal.Logs, true)
		for r := range int64(records) {
			rec := &identities[r]
			*rec = eventid.Record{Offset: first + r, Appended: first + r}
			if err := reader.Read(rec, req, each, eventid.From{Tenant: "a", Source: []byte("agent")}); err != nil {
				b.Fatal(err)
			}
			ld, err := decoder.Logs(req)
			if err != nil {
				b.Fatal(err)
			}
			rl := ld.ResourceLogs().At(0)
			lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "a", Source: "agent", Topic: "t", Appended: time.UnixMilli(first + r)})
			for i, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
				if fresh {
					rec.Keys[i] = eventid.Key{Hi: rand.Uint64(), Lo: rand.Uint64()}
				}
				lineage.StampEvent(lr.Attributes(), lineage.Event{ID: rec.ID(i), Offset: first + r, Index: int32(i)})
			}
			ld.ResourceLogs().MoveAndAppendTo(all.ResourceLogs())
		}
		return all, identities
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
				ld, identities := decode(first, fresh)
				ctx := block.NewContext(b.Context(), block.Block{
					Topic: "t", First: first, Last: first + records - 1, Oldest: first, Events: records * each, Records: identities,
				})
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
