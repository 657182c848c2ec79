package dedupeprocessor

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/dedupe"
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
	cfg    *Config
	memory *dedupe.Memory
	lists  sync.Pool // of *list

	telemetry         *componentmeta.Telemetry
	signal            componentmeta.Attributes
	events, duplicate componentmeta.Counter
}

func newDeduper(set processor.Settings, cfg *Config, sig signal.Signal) (*deduper, error) {
	t := metadata.Telemetry(set.ID, set.TelemetrySettings)
	attr := attribute.String("signal", sig.String())
	d := &deduper{
		cfg:       cfg,
		lists:     sync.Pool{New: func() any { return &list{} }},
		telemetry: t,
		signal:    t.With(attr),
		events:    t.Counter("dedupe_events"),
		duplicate: t.Counter("dedupe_duplicates"),
	}
	forgotten := t.Counter("dedupe_forgotten_early")
	d.memory = dedupe.NewMemory(dedupe.Options{
		Window: cfg.Window, MaxBytes: cfg.MaxMemoryBytes, Log: set.Logger,
		Forgot: func(n int64) { forgotten.Add(context.Background(), n, d.signal) },
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
	blk, isBlock := block.FromContext(ctx)
	l := d.lists.Get().(*list)
	defer d.lists.Put(l)
	l.reset(d, isBlock)
	b.collect(l)

	var err error
	var duplicates int
	if isBlock {
		duplicates, err = d.block(ctx, blk, b, l, next)
	} else {
		duplicates, err = d.arrival(ctx, b, l, next)
	}
	if err == nil {
		d.events.Add(ctx, int64(l.total), d.signal)
		d.duplicate.Add(ctx, int64(duplicates), d.signal)
	}
	return err
}

// block takes a block's events. A block of which nothing is left is passed on too: the store notes that it has it.
func (d *deduper) block(ctx context.Context, blk block.Block, b batch, l *list, next func() error) (int, error) {
	duplicates, err := d.memory.Decide(ctx, blk, l.events)
	if err != nil {
		return 0, err
	}
	if blk.Account != nil {
		blk.Account.Duplicates.Add(int64(duplicates))
	}
	if duplicates > 0 {
		b.remove(l)
	}
	if err := next(); err != nil {
		return 0, err // the same block, or parts of it, will come again, and be decided alike
	}
	d.memory.Stored(blk)
	return duplicates, nil
}

// arrival takes events from any pipeline.
func (d *deduper) arrival(ctx context.Context, b batch, l *list, next func() error) (int, error) {
	call, duplicates, err := d.memory.Arrive(ctx, time.Now(), l.events)
	if err != nil {
		return 0, err
	}
	if duplicates > 0 {
		b.remove(l)
	}
	if duplicates == 0 || duplicates < l.total {
		err = next()
	}
	call.End(err == nil)
	return duplicates, err
}
