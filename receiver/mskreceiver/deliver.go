package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// sinks are the pipelines' entries. One that is nil has no pipeline, and its signal's topics are not read.
type sinks struct {
	logs    consumer.Logs
	metrics consumer.Metrics
	traces  consumer.Traces
	obs     *receiverhelper.ObsReport
}

func newSinks(set receiver.Settings) (sinks, error) {
	obs, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{
		ReceiverID: set.ID, Transport: "kafka", LongLivedCtx: true, ReceiverCreateSettings: set,
	})
	return sinks{obs: obs}, err
}

func (s *sinks) has(sig signal.Signal) bool {
	switch sig {
	case signal.Logs:
		return s.logs != nil
	case signal.Metrics:
		return s.metrics != nil
	}
	return s.traces != nil
}

// consume hands b to its pipeline. The pipeline may keep and change b.
func (s *sinks) consume(ctx context.Context, b *batch) error {
	var err error
	switch events := b.events; b.signal {
	case signal.Logs:
		ctx = s.obs.StartLogsOp(ctx)
		err = s.logs.ConsumeLogs(ctx, b.logs)
		s.obs.EndLogsOp(ctx, "otlp_proto", events, err)
	case signal.Metrics:
		ctx = s.obs.StartMetricsOp(ctx)
		err = s.metrics.ConsumeMetrics(ctx, b.metrics)
		s.obs.EndMetricsOp(ctx, "otlp_proto", events, err)
	case signal.Traces:
		ctx = s.obs.StartTracesOp(ctx)
		err = s.traces.ConsumeTraces(ctx, b.traces)
		s.obs.EndTracesOp(ctx, "otlp_proto", events, err)
	}
	return err
}

// introduceTimeout bounds how long a pipeline may take to pass an introduction on.
const introduceTimeout = 10 * time.Second

// introduce asks a signal's pipeline for the memories in it. They are found even where the pipeline's answer is an error: a
// memory adds itself before it passes the batch on, and what comes behind it need not be ready yet.
func (s *sinks) introduce(ctx context.Context, sig signal.Signal) ([]block.Memory, error) {
	ctx, cancel := context.WithTimeout(ctx, introduceTimeout)
	defer cancel()
	ctx, introduction := block.Introduce(ctx)
	var err error
	switch sig {
	case signal.Logs:
		err = s.logs.ConsumeLogs(ctx, plog.NewLogs())
	case signal.Metrics:
		err = s.metrics.ConsumeMetrics(ctx, pmetric.NewMetrics())
	case signal.Traces:
		err = s.traces.ConsumeTraces(ctx, ptrace.NewTraces())
	}
	if err != nil {
		err = fmt.Errorf("introduction to the pipeline of %s: %w", sig, err)
	}
	return introduction.Memories(), err
}

// decoders keep their memory from one block to the next.
var decoders = sync.Pool{New: func() any { return &otlpdecode.Decoder{} }}

// deliver offers f until it is stored, refused or stopped, and says how it ended.
func (p *partition) deliver(f *flight) {
	tries := p.newTries(f)
	how, resume := p.try(f, tries)
	for how == waiting && resume == nil && tries.again {
		how, resume = p.try(f, tries)
	}
	tries.end(how, resume)
	p.flights.ended <- landing{flight: f, how: how, resume: resume}
}

// try offers f to the pipeline once, after what is refused of it has gone to quarantine. Waiting means that it is not stored:
// the delivery has been stopped, or is to be tried again, which tries knows.
//
// What the pipeline refuses for good is delivered without the events that it names (refused.go), or is halved until a refused record
// stands alone. That goes to quarantine, and its block is delivered without it: the stores see every offset.
func (p *partition) try(f *flight, tries *tries) (flightState, *block.ResumeError) {
	b, ok := p.decode(f, tries)
	if !ok {
		return waiting, nil
	}
	if p.stopping() {
		tries.again = false
		return waiting, nil // it must not begin
	}
	err := p.offer(f, b)
	resume, isResume := errors.AsType[*block.ResumeError](err)
	switch {
	case err == nil:
		failpoint.Hit("block-delivered")
		p.deps.tel.delivered(p, f.entries, p.deps.now())
		return delivered, nil
	case p.ctx.Err() != nil:
		tries.again = false // whatever it says: a cancelled pipeline's verdict is none
	case isResume && resume.Topic == p.topic && resume.Partition == p.id:
		return waiting, resume
	case consumererror.IsPermanent(err) && b.events > 0:
		f.named, f.because = f.names(err), err
		return refused, nil
	default:
		tries.wait("deliver", err)
	}
	return waiting, nil
}

// decode decodes f, and puts what is refused into quarantine first. It is done anew for each try: a pipeline may have changed
// the data that it was given, and a waiting block should hold no more memory than its records.
func (p *partition) decode(f *flight, tries *tries) (*batch, bool) {
	decoder := decoders.Get().(*otlpdecode.Decoder)
	defer decoders.Put(decoder)
	b := newBatch(p.signal, decoder)
	var out []*entry
	for _, e := range f.entries {
		if e.refusal == nil {
			e.refusal = b.append(e)
		}
		if e.refusal != nil && !e.rejected {
			out = append(out, e)
		}
		for _, part := range e.parts {
			if !part.rejected {
				out = append(out, part)
			}
		}
	}
	b.leaveOut(f.entries)
	return b, p.reject(out, tries)
}

// reject puts refused records into quarantine, however long that takes; false: it was stopped.
func (p *partition) reject(out []*entry, tries *tries) bool {
	for len(out) > 0 {
		err := p.deps.quarantine.put(p.ctx, out, func(e *entry) { p.deps.tel.quarantined(p, e) })
		for len(out) > 0 && out[0].rejected {
			out = out[1:]
		}
		if err != nil && !tries.wait("quarantine", err) {
			return false
		}
	}
	return true
}

// offer hands b to the pipeline.
func (p *partition) offer(f *flight, b *batch) error {
	blk := block.Block{
		Topic: p.topic, TopicID: f.topicID, Partition: p.id, Signal: p.signal, First: f.first, Last: f.last, Events: b.events, Records: b.records,
		Oldest: p.oldest.Load(), Fresh: p.fresh.Load(), Intended: f.intended, Redo: f.redo, Account: &block.Account{},
		Worker: p.number, Unstated: !p.plan.stated,
		LogEnd: p.highWatermark.Load(),
	}
	for _, e := range f.entries {
		blk.Bytes += len(e.record.Value)
		blk.Account.Add(e.record.Offset, e.tally())
	}
	start := p.deps.now()
	err := p.deps.sinks.consume(block.NewContext(p.ctx, blk), b)
	p.deps.tel.deliveryTook(p, p.deps.now().Sub(start), err)
	return err
}

// tries paces and reports the tries of one block: one line when it begins to fail, one when it no longer does.
type tries struct {
	p       *partition
	f       *flight
	again   bool // it may be tried again
	backoff *backoff
	failed  int
	since   time.Time
}

func (p *partition) newTries(f *flight) *tries {
	return &tries{p: p, f: f, again: true, backoff: newBackoff(p.deps.cfg.Retry)}
}

// wait waits before the next try; false: the partition is stopped.
func (t *tries) wait(operation string, err error) bool {
	if t.p.stopping() {
		t.again = false
		return false
	}
	t.failed++
	t.p.deps.tel.retry(operation)
	if t.failed == 1 {
		t.since = t.p.deps.now()
		t.p.deps.waiting(1, err)
		t.p.log.Warn("a block failed; it is tried again without end, and no block behind it is finished",
			zap.String("operation", operation), zap.Int("attempt", t.failed), t.first(), t.last(), zap.Error(err))
	}
	t.again = sleep(t.p.ctx, t.p.stop, t.backoff.next())
	return t.again
}

// end reports how a block that failed ended.
func (t *tries) end(how flightState, resume *block.ResumeError) {
	if t.failed == 0 {
		return
	}
	because := "left to the partition's next owner"
	switch {
	case how == delivered:
		because = "delivered"
	case how == refused:
		because = "refused, so it is delivered without the events that are named, or halved"
	case resume != nil:
		because = "the store sends the partition back"
	}
	t.p.deps.waiting(-1, nil)
	t.p.log.Info("a block that failed is no longer tried", zap.String("because", because),
		zap.Int("attempt", t.failed+1), zap.Duration("after", t.p.deps.now().Sub(t.since)), t.first(), t.last())
}

func (t *tries) first() zap.Field { return zap.Int64("first_offset", t.f.first) }
func (t *tries) last() zap.Field  { return zap.Int64("last_offset", t.f.last) }
