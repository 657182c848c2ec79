package enrichmentprocessor

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
)

// BenchmarkBlock is the aggregator's own work for a block of one request of 500 logs of 24 attributes: decoding, ids and stamps, and making a record
// batch, without enrichment and with it, in CPU time. `times` is the ratio.
func BenchmarkBlock(b *testing.B) {
	const events = 500
	req := otlptest.Logs(1, events)
	alloc := memory.NewGoAllocator()
	builder := columns.NewBuilder(alloc, columns.Logs)
	defer builder.Release()
	store := func(_ context.Context, ld plog.Logs) error {
		if err := builder.AppendLogs(ld); err != nil {
			return err
		}
		builder.NewRecordBatch().Release()
		return nil
	}
	next, err := consumer.NewLogs(store)
	if err != nil {
		b.Fatal(err)
	}
	var decoder otlpdecode.Decoder
	digest := eventid.Digest(req)
	block := func(b *testing.B, to consumer.Logs) {
		ld, err := decoder.Logs(req)
		if err != nil {
			b.Fatal(err)
		}
		rl := ld.ResourceLogs().At(0)
		lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "a", Source: "agent", Topic: "t", Received: time.Unix(1_800_000_000, 0), Appended: time.Unix(1_800_000_000, 0)})
		for i, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
			lineage.StampEvent(lr.Attributes(), lineage.Event{ID: eventid.ID(digest, i), Offset: 1, Index: int32(i)})
		}
		if err := to.ConsumeLogs(b.Context(), ld); err != nil {
			b.Fatal(err)
		}
	}
	var hosts strings.Builder
	hosts.WriteString("key,team,slots:int\n")
	for i := range 10_000 {
		fmt.Fprintf(&hosts, "ip-10-%d-%d,payments,7\n", i>>8, i&255)
	}
	files := map[string]string{"hosts.csv": hosts.String(), "methods.csv": "key,safe:bool,kind\nGET,true,read\nPOST,false,write\nPUT,false,write\nDELETE,false,write\n"}
	constant := func(c *Config) { c.Cell, c.Jurisdiction, c.IngestDelay = "eu-1", "eu", false }
	for _, mode := range []struct {
		name   string
		change func(*Config)
	}{
		{"cell", constant},
		{"cell and delay", func(c *Config) { constant(c); c.IngestDelay = true }},
		{"cell, delay, table of resources, table of events", func(c *Config) {
			constant(c)
			c.IngestDelay = true
			c.Lookups = []LookupConfig{{Table: "hosts", Attribute: "host.name"}, {Table: "methods", From: fromEvent, Attribute: "http.request.method"}}
		}},
	} {
		b.Run(mode.name, func(b *testing.B) {
			r := newRig(b, mode.change, files)
			p, err := NewFactory().CreateLogs(b.Context(), processortest.NewNopSettings(metadata.Type()), r.cfg, next)
			if err != nil {
				b.Fatal(err)
			}
			if err := p.Start(b.Context(), r.host); err != nil {
				b.Fatal(err)
			}
			defer func(c component.Component) { _ = c.Shutdown(context.Background()) }(p)
			var without, with time.Duration
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%2 == 0 { // the first of two pays for what was before it
					without += cpu(func() { block(b, next) })
				}
				with += cpu(func() { block(b, p) })
				if i%2 == 1 {
					without += cpu(func() { block(b, next) })
				}
			}
			n := float64(b.N) * turn * events
			b.ReportMetric(float64(without.Nanoseconds())/n, "ns/event-without")
			b.ReportMetric(float64(with.Nanoseconds())/n, "ns/event-with")
			b.ReportMetric(with.Seconds()/without.Seconds(), "times")
		})
	}
}

const turn = 20 // blocks

// cpu is what a turn of blocks takes of the processors, the collection of their garbage included. Both take turns, so that both have the same machine.
func cpu(block func()) time.Duration {
	began := used()
	for range turn {
		block()
	}
	runtime.GC()
	return used() - began
}

func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
