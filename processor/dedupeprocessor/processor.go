package dedupeprocessor

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/dedupe"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

type logsProcessor struct {
	*deduper
	next consumer.Logs
}

func (p logsProcessor) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	return p.consume(ctx, logs(ld), func() error { return p.next.ConsumeLogs(ctx, ld) })
}

type metricsProcessor struct {
	*deduper
	next consumer.Metrics
}

func (p metricsProcessor) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return p.consume(ctx, metrics(md), func() error { return p.next.ConsumeMetrics(ctx, md) })
}

type tracesProcessor struct {
	*deduper
	next consumer.Traces
}

func (p tracesProcessor) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return p.consume(ctx, traces(td), func() error { return p.next.ConsumeTraces(ctx, td) })
}

// deduper is the processor of one pipeline.
type deduper struct {
	memory   *dedupe.Memory
	signal   signal.Signal
	examples examples

	telemetry         *componentmeta.Telemetry
	attributes        componentmeta.Attributes
	byRule            [eventid.Rules]componentmeta.Attributes
	events, duplicate componentmeta.Counter
}

func newDeduper(set processor.Settings, cfg *Config, sig signal.Signal) (*deduper, error) {
	t := metadata.Telemetry(set.ID, set.TelemetrySettings)
	attr := attribute.String("signal", sig.String())
	d := &deduper{
		signal:     sig,
		examples:   examples{log: set.Logger},
		telemetry:  t,
		attributes: t.With(attr),
		events:     t.Counter("dedupe_events"),
		duplicate:  t.Counter("dedupe_duplicates"),
	}
	for rule := range eventid.Rules {
		d.byRule[rule] = t.With(attr, attribute.String("rule", rule.String()))
	}
	forgotten := t.Counter("dedupe_forgotten_early")
	d.memory = dedupe.NewMemory(dedupe.Options{
		Window: cfg.Window, MaxBytes: cfg.MaxMemoryBytes, Log: set.Logger,
		Forgot: func(n int64) { forgotten.Add(context.Background(), n, d.attributes) },
	})
	for name, value := range map[string]func(dedupe.Stats) int64{
		"dedupe_remembered_events": func(s dedupe.Stats) int64 { return int64(s.Remembered) },
		"dedupe_memory_bytes":      func(s dedupe.Stats) int64 { return s.Bytes },
		"dedupe_effective_window":  func(s dedupe.Stats) int64 { return int64(s.Effective.Seconds()) },
		"dedupe_waiting":           func(s dedupe.Stats) int64 { return int64(s.Waiting) },
	} {
		t.Gauge(name, func(record func(int64, ...attribute.KeyValue)) { record(value(d.memory.Stats()), attr) })
	}
	return d, t.Err()
}

func (d *deduper) Start(context.Context, component.Host) error { return nil }

func (d *deduper) Shutdown(context.Context) error {
	d.telemetry.Shutdown()
	return nil
}

func (d *deduper) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

// consume takes one batch, with or without a block in its context, and passes on what is left of it.
func (d *deduper) consume(ctx context.Context, b batch, next func() error) error {
	if intro := block.IntroductionOf(ctx); intro != nil {
		intro.Add(d.memory)
		return next()
	}
	events := b.count()
	var err error
	var removed counts
	if blk, ok := block.FromContext(ctx); ok {
		removed, err = d.block(ctx, blk, b, next)
	} else {
		removed, err = d.arrival(ctx, b, next)
	}
	if err == nil {
		d.events.Add(ctx, int64(events), d.attributes)
		for rule, n := range removed {
			if n > 0 {
				d.duplicate.Add(ctx, n, d.byRule[rule])
			}
		}
	}
	return err
}

// counts are numbers of events by rule.
type counts [eventid.Rules]int64

// block takes a block's events. A block of which nothing is left is passed on too: the store notes that it has it.
func (d *deduper) block(ctx context.Context, blk block.Block, b batch, next func() error) (removed counts, err error) {
	if blk.Events > 0 && len(blk.Records) == 0 {
		return counts{}, fmt.Errorf("block %s does not say what its events are compared by (block.Block.Records): its receiver must", blk)
	}
	copies, err := d.memory.Decide(ctx, blk, blk.Records)
	if err != nil {
		return counts{}, err
	}
	if len(copies) > 0 {
		find := finder{copies: copies}
		b.remove(func(attrs pcommon.Map) bool {
			e, ok := lineage.ReadEvent(attrs)
			if !ok {
				return false
			}
			rule, isCopy := find.rule(e.Offset, e.Index)
			if isCopy {
				removed[rule]++
				if blk.Account != nil {
					blk.Account.Add(e.Offset, block.Tally{Duplicates: 1})
				}
			}
			return isCopy
		})
	}
	if err := next(); err != nil {
		return counts{}, err // the same block, or parts of it, will come again, and be decided alike
	}
	d.memory.Stored(blk)
	d.examples.seen(blk, copies)
	return removed, nil
}

// arrival takes events from any pipeline.
func (d *deduper) arrival(ctx context.Context, b batch, next func() error) (removed counts, err error) {
	request, err := b.marshal()
	if err != nil {
		return counts{}, fmt.Errorf("encode a batch of %s: %w", d.signal, err)
	}
	var rec eventid.Record
	events := b.count()
	if err := eventid.NewReader(d.signal, false).Read(&rec, request, events, eventid.From{}); err != nil {
		return counts{}, err
	}
	call, copies, err := d.memory.Arrive(ctx, time.Now(), &rec)
	if err != nil {
		return counts{}, err
	}
	if len(copies) > 0 {
		position, at := int32(-1), 0
		b.remove(func(pcommon.Map) bool {
			position++
			isCopy := at < len(copies) && copies[at] == position
			if isCopy {
				removed[rec.Rules[position]]++
				at++
			}
			return isCopy
		})
	}
	if len(copies) == 0 || len(copies) < events {
		err = next()
	}
	call.End(err == nil)
	return removed, err
}
