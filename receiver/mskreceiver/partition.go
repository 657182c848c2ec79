package mskreceiver

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// partition is the worker of one assigned partition, from its assignment until it is revoked, lost, sent back by its store or
// shut down. A partition that comes back gets a new one.
//
//	placing --> warming up --> working --> ending
//
//	placing     until it is known where its first block begins (locate.go)
//	warming up  the records before that are told to the memories of its pipeline, nothing is delivered (warmup.go)
//	working     blocks are cut, intended, delivered, finished (flights.go)
//	ending      stopped (revoked, shutdown, sent back): nothing new begins, deliveries under way may end.
//	            abandoned (lost, sent back, out of time): ctx is cancelled too; what deliveries still return counts for nothing.
//
// Invariants:
//   - blocks tile the partition from where it was placed: a block begins behind the one before it (gather.go);
//   - a block is delivered only after the group has its range as an intent, and finished only after all its records are in the
//     store or in quarantine and every block before it is finished;
//   - a partition starts only after the worker that had it before in this process has ended (after): nobody delivers it twice
//     at a time, and a memory hears End before the next Begin;
//   - records of an earlier assignment never get here: the client tags each record with the ctx of the partition that was
//     assigned when it was fetched (group.go).
//
// run owns everything below "owned by run". mu guards inbox and stopped.
type partition struct {
	topicPartition
	signal signal.Signal
	number uint64 // block.Block.Worker
	member string // member id that it was assigned to
	deps   *deps
	log    *zap.Logger

	ctx    context.Context // of deliveries; carries the partition itself
	cancel context.CancelFunc
	stop   chan struct{} // closed: begin nothing new
	done   chan struct{} // closed: nobody works on it any more
	gone   chan struct{} // closed: it is no longer this member's
	after  <-chan struct{}

	mu      sync.Mutex
	inbox   []*entry
	gaps    []extent // between what has arrived, which are being looked into (gap.go); guarded by mu, as is what follows
	held    []*entry // what has arrived behind them
	stopped bool
	wake    chan struct{} // holds one token: the inbox, the pause or what is committed has changed

	plan   plan          // set once, before placed is closed
	placed chan struct{} // closed: plan is set
	frozen bool          // not fetched because it is being begun anew; guarded by the group

	// Owned by run.
	warm     *warmup // nil: the memories know all that they need
	gather   gathering
	expected int64  // offset of the next record that is new
	epochs   epochs // of all records below expected
	flights  flights
	strays   strays

	acked   atomic.Uint64 // number of the last statement that is committed
	oldest  atomic.Int64  // first offset of the oldest block that is not finished
	fresh   atomic.Bool   // no block has been finished by anybody
	mustCut atomic.Bool   // it gathers a range that is cut again, and may not be paused before that is complete
	resumes int           // how often in a row its store has sent it back

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
	memories   map[signal.Signal][]block.Memory
	waiting    func(delta int, err error) int // counts partitions that wait after a failure
	now        func() time.Time
}

// window is how far back the signal's memories want to be told.
func (d *deps) window(s signal.Signal) (most time.Duration) {
	for _, m := range d.memories[s] {
		most = max(most, m.Window())
	}
	return most
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

// workers counts the process's workers, of all receivers.
var workers atomic.Uint64

// newPartition returns a worker that has yet to run. after, if not nil, is closed when its predecessor has ended.
func newPartition(tp topicPartition, s signal.Signal, d *deps, log *zap.Logger, after <-chan struct{}) *partition {
	p := &partition{
		topicPartition: tp, signal: s, number: workers.Add(1), deps: d, after: after,
		log:     log.With(zap.String("topic", tp.topic), zap.Int32("partition", tp.id)),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		wake:    make(chan struct{}, 1),
		gone:    make(chan struct{}),
		placed:  make(chan struct{}),
		arrived: -1,
	}
	p.gather = gathering{limits: d.cfg.Block, inspect: p.inspect}
	p.flights.ended = make(chan landing)
	p.strays.ended = make(chan strayed)
	p.position.Store(-1)
	p.highWatermark.Store(-1)
	ctx, cancel := context.WithCancel(context.Background())
	p.ctx, p.cancel = context.WithValue(ctx, partitionKey{}, p), cancel
	return p
}

// place says where the partition begins, before anything is fetched of it. It is called once.
func (p *partition) place(pl plan) {
	p.plan = pl
	p.oldest.Store(pl.next)
	p.fresh.Store(pl.fresh)
	p.position.Store(pl.next)
	close(p.placed)
}

func (p *partition) isPlaced() bool {
	select {
	case <-p.placed:
		return true
	default:
		return false
	}
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
	switch {
	case p.stopped:
		p.mu.Unlock()
		return
	case len(p.gaps) > 0:
		p.held = append(p.held, entries...)
	default:
		p.inbox = append(p.inbox, entries...)
	}
	p.mu.Unlock()
	p.deps.budget.add(p, cost)
	p.signalWake()
}

// lostBefore returns the range of offsets, [from, to), that retention has removed before the first of records was fetched, since
// the partition was placed; to is at most from where there is none. Other gaps are as they should be: transaction markers and
// what compaction removed.
func (p *partition) lostBefore(records []*kgo.Record, logStart int64) (from, to int64) {
	from = max(p.arrived, p.plan.next, p.plan.start)
	p.arrived = records[len(records)-1].Offset + 1
	return from, min(logStart, records[0].Offset)
}

// signalWake makes the worker look at its inbox, its pause and its intents again.
func (p *partition) signalWake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// committed says that the group has the statement of that number.
func (p *partition) committed(number uint64) {
	p.acked.Store(number)
	p.signalWake()
}

// halt ends the worker gently: what is being delivered may end, nothing else begins.
func (p *partition) halt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.stopped = true
		p.inbox, p.held = nil, nil
		close(p.stop)
	}
}

// abandon ends the worker at once.
func (p *partition) abandon() {
	p.halt()
	p.cancel()
}

func (p *partition) stopping() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

// run works until the partition is stopped. It returns the store's wish to be sent back, if that is what ended it.
func (p *partition) run() *block.ResumeError {
	defer close(p.done)
	defer p.deps.budget.remove(p)
	defer p.cancel()
	if p.after != nil {
		<-p.after // also when stopped: done means that nobody works on this partition any more
	}
	select {
	case <-p.placed:
	case <-p.stop:
		return nil
	}
	p.prepare()
	defer p.endMemories()
	for !p.stopping() {
		p.take()
		next := p.cut()
		p.launch()
		p.sendStrays()
		p.announce()
		p.await(next)
	}
	return p.land()
}

// prepare sets the worker up for its plan.
func (p *partition) prepare() {
	pl := &p.plan
	p.gather.next, p.gather.redo, p.gather.complete = pl.next, pl.ends, pl.start
	p.expected, p.epochs = pl.next, pl.epochs
	p.flights.begin(pl.position, pl.topic)
	if len(pl.ends) > 0 {
		p.log.Info("blocks that were intended and not finished are redone",
			zap.Int("blocks", len(pl.ends)), zap.Int64("first_offset", pl.next), zap.Int64("last_offset", pl.ends[len(pl.ends)-1]-1))
	}
	p.beginMemories()
	p.checkComplete()
}

// take moves what has arrived to where it belongs: before the first block to the memories, behind it to the next block.
func (p *partition) take() {
	p.mu.Lock()
	inbox := p.inbox
	p.inbox = nil
	p.mu.Unlock()
	var freed int64
	fresh := inbox[:0]
	for _, e := range inbox {
		switch offset := e.record.Offset; {
		case offset >= p.expected && !p.isStray(e):
			p.expected = offset + 1
			p.epochs = p.epochs.take(offset, e.record.LeaderEpoch)
			fresh = append(fresh, e)
		case p.isStray(e):
			p.expected = max(p.expected, offset+1)
			if p.warm != nil {
				p.warm.next = max(p.warm.next, offset+1)
			}
			p.stray(e)
		case p.warm != nil && offset < p.plan.known():
			if p.stopping() {
				return
			}
			p.remember(e)
			freed += e.cost
		default:
			freed += e.cost // the client went back, and reads again what has been taken
		}
	}
	if p.warm != nil && (len(fresh) > 0 || p.warm.next >= p.plan.known()) {
		p.warmed()
	}
	p.gather.add(fresh)
	p.checkComplete()
	if freed > 0 {
		p.deps.budget.add(p, -freed)
	}
}

// checkComplete finds out whether all records of the ranges that are cut again have arrived, where no record says so.
func (p *partition) checkComplete() {
	p.gather.complete = max(p.gather.complete, p.expected)
	if n := len(p.gather.redo); n > 0 && p.expected >= p.plan.end && p.plan.end < p.gather.redo[n-1] {
		p.gather.complete = p.gather.redo[n-1] // the log ended within them when the partition was placed
	}
	must := p.warm == nil && len(p.gather.redo) > 0 && len(p.strays.waiting) == 0
	if p.mustCut.Swap(must) != must {
		p.deps.budget.add(p, 0) // it may be paused, or may no longer
	}
}

// await waits until there may be something to do; next, if not zero, is when a block will be old enough.
func (p *partition) await(next time.Duration) {
	var old <-chan time.Time
	if next > 0 {
		timer := time.NewTimer(next)
		defer timer.Stop()
		old = timer.C
	}
	select {
	case <-p.stop:
	case <-p.wake:
	case l := <-p.flights.ended:
		p.settle(l)
	case r := <-p.strays.ended:
		p.straysEnded(r)
	case <-old:
	}
}

// inspect looks at a record that is about to join a block.
func (p *partition) inspect(e *entry) {
	p.deps.cfg.inspector(p.signal).inspect(e)
	for _, o := range p.plan.omissions {
		if o.offset == e.record.Offset && e.refusal == nil && len(o.events) > 0 && int(o.events[len(o.events)-1]) < e.events {
			e.omit(p.signal, slices.Clone(o.events), reasonRedone)
		}
	}
	if extra := beyondEstimate(e); extra > 0 {
		e.cost += extra
		p.deps.budget.add(p, extra)
	}
}
