package enrichmentprocessor

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

type logsProcessor struct {
	*enricher
	next consumer.Logs
}

func (p logsProcessor) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	return p.consume(ctx, func(w *walk) { w.logs(ld) }, func() error { return p.next.ConsumeLogs(ctx, ld) })
}

type metricsProcessor struct {
	*enricher
	next consumer.Metrics
}

func (p metricsProcessor) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return p.consume(ctx, func(w *walk) { w.metrics(md) }, func() error { return p.next.ConsumeMetrics(ctx, md) })
}

type tracesProcessor struct {
	*enricher
	next consumer.Traces
}

func (p tracesProcessor) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return p.consume(ctx, func(w *walk) { w.traces(td) }, func() error { return p.next.ConsumeTraces(ctx, td) })
}

// enricher is the processor of one pipeline. It splits, merges, reorders and drops nothing: a block goes on as it came.
type enricher struct {
	*shared
	signal *signalCounters
	walks  sync.Pool // of *walk
	stop   sync.Once
}

func newEnricher(set processor.Settings, cfg *Config, sig signal.Signal) (*enricher, error) {
	s, err := sharedOf(set, cfg)
	if err != nil {
		return nil, err
	}
	e := &enricher{shared: s, signal: s.counters[sig]}
	e.walks.New = func() any { return newWalk(s) }
	return e, nil
}

// Start finds the tenants and reads the tables, once for all pipelines of the component.
func (e *enricher) Start(ctx context.Context, host component.Host) error { return e.start(ctx, host) }

// Shutdown may be called without Start, and twice.
func (e *enricher) Shutdown(context.Context) error {
	var err error
	e.stop.Do(func() { err = e.leave() })
	return err
}

// Capabilities: attributes are added in place.
func (*enricher) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

// consume enriches a batch and hands it on. Nothing that is missing stops it.
func (e *enricher) consume(ctx context.Context, enrich func(*walk), next func() error) error {
	w := e.walks.Get().(*walk)
	defer e.walks.Put(w)
	w.begin()
	enrich(w)
	w.end()
	if err := next(); err != nil {
		return err // the same batch, or parts of it, will come again
	}
	e.signal.add(ctx, e.shared, &w.tally)
	return nil
}
