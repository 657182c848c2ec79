package mskreceiver

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
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

// process takes a block, or a part of one, to its end: every record is in the store or in quarantine, and marked. False: the
// partition is stopped first; what is not marked is delivered again by the next owner.
//
// A part that the pipeline refuses for good is halved until the refused records stand alone. Halving depends on nothing but
// the part's length, so that a repetition of the block asks for the same parts again.
func (p *partition) process(part []*entry) bool {
	tries := p.newTries(part)
	for {
		b, ok := p.decode(part, tries)
		if !ok {
			return false
		}
		if b.events == 0 {
			p.finish(part[len(part)-1])
			tries.end("done: nothing of it was left to deliver")
			return true
		}
		switch err := p.deliver(part, b); {
		case err == nil:
			p.deps.tel.delivered(p, part, p.deps.now())
			p.finish(part[len(part)-1])
			tries.end("delivered")
			return true
		case p.ctx.Err() != nil:
			tries.end("abandoned")
			return false // whatever it says: a cancelled pipeline's verdict is none
		case consumererror.IsPermanent(err) && len(part) > 1:
			tries.end("refused, so it is halved")
			return p.process(part[:len(part)/2]) && p.process(part[len(part)/2:])
		case consumererror.IsPermanent(err):
			part[0].refusal = &refusal{codeRefused, err.Error()} // the next round puts it into quarantine
		default:
			if !tries.wait("deliver", err) {
				return false
			}
		}
	}
}

// decode decodes part, and puts what is refused into quarantine first. It is done anew for each delivery: a pipeline may have
// changed the data that it was given, and a waiting partition should hold no more memory than its records.
func (p *partition) decode(part []*entry, tries *tries) (*batch, bool) {
	b := newBatch(p.signal, &p.decoder)
	var refused []*entry
	for _, e := range part {
		if e.refusal == nil {
			e.refusal = b.append(e)
		}
		if e.refusal != nil && !e.rejected {
			refused = append(refused, e)
		}
	}
	for len(refused) > 0 {
		err := p.deps.quarantine.put(p.ctx, refused, func(e *entry) { p.deps.tel.quarantined(p, e) })
		for len(refused) > 0 && refused[0].rejected {
			refused = refused[1:]
		}
		if err != nil && !tries.wait("quarantine", err) {
			return nil, false
		}
	}
	return b, true
}

// deliver offers b to the pipeline once.
func (p *partition) deliver(part []*entry, b *batch) error {
	blk := block.Block{
		Topic: p.topic, Partition: p.id, Signal: p.signal,
		First: part[0].record.Offset, Last: part[len(part)-1].record.Offset,
		Events: b.events,
	}
	for _, e := range part {
		blk.Bytes += len(e.record.Value)
	}
	select {
	case <-p.stop:
		return errStopped // it must not begin
	default:
	}
	start := p.deps.now()
	err := p.deps.sinks.consume(block.NewContext(p.ctx, blk), b)
	p.deps.tel.deliveryTook(p, p.deps.now().Sub(start), err)
	return err
}

// errStopped is never reported: the try that follows ends the worker.
var errStopped = errors.New("the partition is stopped")

// tries paces and reports the tries of one part: one line when it begins to fail, one when it no longer does.
type tries struct {
	p       *partition
	part    []*entry
	backoff *backoff
	failed  int
	since   time.Time
}

func (p *partition) newTries(part []*entry) *tries {
	return &tries{p: p, part: part, backoff: newBackoff(p.deps.cfg.Retry)}
}

// wait waits before the next try; false: the partition is stopped.
func (t *tries) wait(operation string, err error) bool {
	select {
	case <-t.p.stop:
		t.end("left to the partition's next owner")
		return false
	default:
	}
	t.failed++
	t.p.deps.tel.retry(operation)
	if t.failed == 1 {
		t.since = t.p.deps.now()
		t.p.deps.waiting(1, err)
		t.p.log.Warn("a block failed; it is tried again without end, and its partition waits",
			zap.String("operation", operation), zap.Int("attempt", t.failed), t.first(), t.last(), zap.Error(err))
	}
	if !sleep(t.p.ctx, t.p.stop, t.backoff.next()) {
		t.end("left to the partition's next owner")
		return false
	}
	return true
}

// end reports how a part that failed ended.
func (t *tries) end(how string) {
	if t.failed == 0 {
		return
	}
	t.p.deps.waiting(-1, nil)
	t.p.log.Info("a block that failed is no longer tried", zap.String("because", how),
		zap.Int("attempt", t.failed+1), zap.Duration("after", t.p.deps.now().Sub(t.since)), t.first(), t.last())
	t.failed = 0
	t.backoff.reset()
}

func (t *tries) first() zap.Field { return zap.Int64("first_offset", t.part[0].record.Offset) }
func (t *tries) last() zap.Field {
	return zap.Int64("last_offset", t.part[len(t.part)-1].record.Offset)
}
