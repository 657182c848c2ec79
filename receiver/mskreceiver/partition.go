package mskreceiver

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// partition is the worker of one assigned partition, from its assignment until it is revoked, lost or shut down. A partition
// that comes back gets a new one.
//
//	           records arrive                 block complete
//	gathering ----------------> gathering -------------------> quarantining -> delivering -> finished (offset marked)
//	    ^                                                           |  ^          |  ^          |
//	    |                                                     error |  | retry    |  | retry    |
//	    |                                                           v  |          v  |          |
//	    |                                                          waiting       waiting        |
//	    +---------------------------------------------------------------------------------------+
//
//	stopped (revoked, shutdown): gathering and waiting end at once; delivering may end first. Nothing new begins.
//	abandoned (lost, out of time): ctx is cancelled too; whatever delivering still returns is ignored by the committer.
//
// Invariants:
//   - one block at a time is on its way; the next one gathers meanwhile, and the budget bounds it by pausing the partition;
//   - blocks are delivered in the order of their offsets, and marked only after all their records are in the store or in quarantine;
//   - a partition starts to deliver only after the worker that had it before in this process has ended (after);
//   - records of an earlier assignment never get here: the client tags each record with the ctx of the partition that was
//     assigned when it was fetched (group.go).
//
// run owns gather and decoder. mu guards inbox and stopped.
type partition struct {
	topicPartition
	signal signal.Signal
	deps   *deps
	log    *zap.Logger

	ctx    context.Context // of deliveries; carries the partition itself
	cancel context.CancelFunc
	stop   chan struct{} // closed: begin nothing new
	done   chan struct{} // closed: run has returned
	after  <-chan struct{}

	mu      sync.Mutex
	inbox   []*entry
	stopped bool
	wake    chan struct{} // holds one token: the inbox or the pause has changed

	gather  gathering
	decoder otlpdecode.Decoder

	begin         atomic.Int64 // committed offset that it was assigned with; -1: none
	position      atomic.Int64 // offset after the last finished record; -1: unknown yet
	arrived       int64        // offset after the last arrived record; -1: none yet. Owned by the poll loop.
	highWatermark atomic.Int64 // end of the partition as last heard; -1: unknown yet
}

// deps is what all partitions of a receiver share.
type deps struct {
	cfg        *Config
	sinks      *sinks
	quarantine *quarantine
	committer  *committer
	budget     *budget
	tel        *telemetry
	waiting    func(delta int, err error) int // counts partitions that wait after a failure
	now        func() time.Time
}

type partitionKey struct{}

// partitionOf returns the partition that a fetched record was tagged with; nil: it belonged to none.
func partitionOf(ctx context.Context) *partition {
	if ctx == nil {
		return nil
	}
	p, _ := ctx.Value(partitionKey{}).(*partition)
	return p
}

// newPartition returns a worker that has yet to run. after, if not nil, is closed when its predecessor has ended.
func newPartition(tp topicPartition, s signal.Signal, d *deps, log *zap.Logger, after <-chan struct{}) *partition {
	p := &partition{
		topicPartition: tp, signal: s, deps: d, after: after,
		log:     log.With(zap.String("topic", tp.topic), zap.Int32("partition", tp.id)),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		wake:    make(chan struct{}, 1),
		arrived: -1,
	}
	p.gather = gathering{limits: d.cfg.Block, inspect: p.inspect}
	p.begin.Store(-1)
	p.position.Store(-1)
	p.highWatermark.Store(-1)
	ctx, cancel := context.WithCancel(context.Background())
	p.ctx, p.cancel = context.WithValue(ctx, partitionKey{}, p), cancel
	return p
}

// push hands over fetched records in the order of their offsets. It never waits. Records for a stopped partition are dropped:
// they are not committed, and the next owner reads them.
func (p *partition) push(records []*kgo.Record) {
	now := p.deps.now()
	entries := make([]*entry, len(records))
	var cost int64
	for i, r := range records {
		entries[i] = &entry{record: r, arrived: now, cost: costOf(r)}
		cost += entries[i].cost
	}
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return
	}
	p.inbox = append(p.inbox, entries...)
	p.mu.Unlock()
	p.deps.budget.add(p, cost)
	p.signalWake()
}

// lostBefore returns the range of offsets, [from, to), that retention has removed before the first of records was fetched; to is
// at most from where there is none. Other gaps are as they should be: transaction markers and what compaction removed.
func (p *partition) lostBefore(records []*kgo.Record, logStart int64) (from, to int64) {
	from = p.arrived
	if from < 0 {
		from = p.begin.Load()
	}
	p.arrived = records[len(records)-1].Offset + 1
	if from < 0 {
		return 0, 0
	}
	return from, min(logStart, records[0].Offset)
}

// signalWake makes the worker look at its inbox and its pause again.
func (p *partition) signalWake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// halt ends the worker gently: what is being delivered may end, nothing else begins.
func (p *partition) halt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.stopped = true
		p.inbox = nil
		close(p.stop)
	}
}

// abandon ends the worker at once.
func (p *partition) abandon() {
	p.halt()
	p.cancel()
}

// run works until the partition is stopped.
func (p *partition) run() {
	defer close(p.done)
	defer p.deps.budget.remove(p)
	defer p.cancel()
	if p.after != nil {
		<-p.after // also when stopped: done means that nobody delivers this partition any more
	}
	for {
		blk, ok := p.nextBlock()
		if !ok || !p.process(blk) {
			return
		}
		var cost int64
		for _, e := range blk {
			cost += e.cost
		}
		p.deps.budget.add(p, -cost)
	}
}

// nextBlock waits for a block; false: stopped.
func (p *partition) nextBlock() ([]*entry, bool) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-p.stop:
			return nil, false
		default:
		}
		p.mu.Lock()
		p.gather.add(p.inbox)
		p.inbox = nil
		p.mu.Unlock()
		blk, wait := p.gather.cut(p.deps.now(), p.deps.budget.paused(p))
		if blk != nil {
			p.deps.tel.closed(p, blk, p.deps.now())
			return blk, true
		}
		var old <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			old = timer.C
		}
		select {
		case <-p.stop:
		case <-p.wake:
		case <-old:
		}
	}
}

// inspect looks at a record that is about to join a block.
func (p *partition) inspect(e *entry) {
	inspector{signal: p.signal, defaultTenant: p.deps.cfg.DefaultTenant}.inspect(e)
	if extra := eventsCost(e); extra > 0 {
		e.cost += extra
		p.deps.budget.add(p, extra)
	}
}

// finish marks everything up to and including e as finished.
func (p *partition) finish(e *entry) {
	next := e.record.Offset + 1
	p.position.Store(next)
	p.deps.committer.mark(p, kgo.EpochOffset{Epoch: e.record.LeaderEpoch, Offset: next})
}
