package backfill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	backoffMin       = 500 * time.Millisecond
	backoffMax       = 15 * time.Second
	introduceTimeout = 10 * time.Second
)

// flight is a block on its way to a store.
type flight struct {
	*tracked
	store       int
	stream      Stream
	batch       *batch
	first, last int64
	ended       bool // guarded by Job.mu
}

// introduce finds the memories of the pipelines, begins them, and returns how far back they want to be told.
func (p *pass) introduce() (window time.Duration, err error) {
	for i := range p.o.Stores {
		for s := range streams {
			ctx, cancel := context.WithTimeout(p.ctx, introduceTimeout)
			ctx, introduction := block.Introduce(ctx)
			err := p.consume(ctx, &p.o.Stores[i], s, &batch{logs: plog.NewLogs(), metrics: pmetric.NewMetrics(), traces: ptrace.NewTraces()})
			cancel()
			if err != nil {
				return 0, fmt.Errorf("introduction to the pipeline of %s of %s: %w", s, p.o.Stores[i].Name, err)
			}
			for _, m := range introduction.Memories() {
				m.Begin(p.topics[s], 0, p.cuts[s])
				p.memory = append(p.memory, memory{m, s})
				window = max(window, m.Window())
			}
		}
	}
	return window, nil
}

// consume hands data to a pipeline, which may keep and change it.
func (p *pass) consume(ctx context.Context, store *Store, s Stream, b *batch) error {
	switch s {
	case Metrics:
		return store.Metrics.ConsumeMetrics(ctx, b.metrics)
	case Traces:
		return store.Traces.ConsumeTraces(ctx, b.traces)
	case Quarantine:
		return store.Quarantine.ConsumeLogs(ctx, b.logs)
	}
	return store.Logs.ConsumeLogs(ctx, b.logs)
}

// copied is the batch's data for one try: other stores, and another try, need it as it was.
func (b *batch) copied(s Stream) *batch {
	c := *b
	switch s {
	case Metrics:
		c.metrics = pmetric.NewMetrics()
		b.metrics.CopyTo(c.metrics)
	case Traces:
		c.traces = ptrace.NewTraces()
		b.traces.CopyTo(c.traces)
	default:
		c.logs = plog.NewLogs()
		b.logs.CopyTo(c.logs)
	}
	return &c
}

// deliver offers a block until the store has it, or the pass has ended.
func (p *pass) deliver(f *flight) {
	begun := time.Now()
	for backoff := backoffMin; p.ctx.Err() == nil; backoff = min(2*backoff, backoffMax) {
		account, err := p.offer(f, begun)
		switch {
		case err == nil:
			failpoint.Hit("backfill-delivered")
			p.stored(f, account)
			return
		case p.ctx.Err() != nil:
			return
		}
		if resume, ok := errors.AsType[*block.ResumeError](err); ok {
			p.fail(fmt.Errorf("%w: %s: %w", errStartOver, p.describe(f), resume))
			return
		}
		if consumererror.IsPermanent(err) {
			p.fail(fmt.Errorf("refused for good: %s: %w", p.describe(f), err))
			return
		}
		if since := min(time.Since(begun), time.Since(time.Unix(0, p.success.Load()))); since > p.o.Patience {
			p.fail(fmt.Errorf("no block was taken for %s: %s: %w", since.Round(time.Second), p.describe(f), err))
			return
		}
		p.waitsFor(f, err)
		_ = sleep.For(p.ctx, backoff) // the loop looks at the context
	}
}

// waitsFor says why blocks are not taken, once until one is.
func (p *pass) waitsFor(f *flight, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == "" {
		p.waiting = fmt.Sprintf("%s: %v", p.o.Stores[f.store].Name, err)
		p.o.Log.Warn("a block was not taken; it is tried again", zap.String("block", p.describe(f)), zap.Error(err))
	}
}

// offer is one try.
func (p *pass) offer(f *flight, begun time.Time) (*block.Account, error) {
	s, b := f.stream, f.batch
	blk := block.Block{
		Topic: p.topics[s], TopicID: p.ids[s], First: f.first, Last: f.last, Signal: s.signal(), Events: b.events, Records: b.records, Bytes: b.bytes,
		Intended: begun, Worker: p.worker, Account: &block.Account{},
	}
	p.mu.Lock()
	blk.Oldest = p.open[f.store][s][0].first
	if f.last < p.redo {
		blk.Redo, blk.Intended = true, p.progress.begunAt(f.last)
	}
	p.mu.Unlock()
	for i := range b.records {
		blk.Account.Add(b.records[i].Offset, block.Tally{Events: int64(len(b.records[i].Rules))})
	}
	return blk.Account, p.consume(block.NewContext(p.ctx, blk), &p.o.Stores[f.store], s, b.copied(s))
}

// stored notes that a store has a block.
func (p *pass) stored(f *flight, account *block.Account) {
	p.success.Store(time.Now().UnixNano())
	p.mu.Lock()
	p.waiting = ""
	f.ended = true
	open := p.open[f.store][f.stream]
	for len(open) > 0 && open[0].ended {
		open = open[1:]
	}
	p.open[f.store][f.stream] = open
	if f.store == 0 && f.stream != Quarantine { // stores remove the same
		f.tally.Duplicates += account.Within(f.first, f.last).Duplicates
	}
	f.left--
	p.finish()
	p.mu.Unlock()
	if err := p.save(p.ctx, false); err != nil && p.ctx.Err() == nil {
		p.fail(err)
	}
}
