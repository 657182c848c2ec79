package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// group holds the workers of the partitions that this member of the consumer group owns, and is what the client calls when that
// changes.
//
// The client runs the callbacks one at a time, but beside the poll loop: it is not asked to block rebalances while polling,
// because then a revocation, which waits for a block in flight, would in turn keep all other partitions from being polled. That
// leaves a race: the poll loop may still hold records of a partition that has been revoked, and even assigned anew, since. So
// each record is tagged when the client buffers it (OnFetchRecordBuffered): the client does that within a fetch session, which
// ends before a revocation is announced and begins after an assignment was. The poll loop gives a record to the worker that
// its tag names, and a worker that has been stopped drops it.
//
// Lock order: mu is a leaf.
type group struct {
	deps    *deps
	log     *zap.Logger
	signals map[string]signal.Signal // by topic

	mu      sync.Mutex
	owned   map[topicPartition]*partition
	leaving map[topicPartition]*partition // stopped, but perhaps still delivering
	closed  bool
}

func newGroup(d *deps, log *zap.Logger, signals map[string]signal.Signal) *group {
	return &group{
		deps: d, log: log, signals: signals,
		owned: map[topicPartition]*partition{}, leaving: map[topicPartition]*partition{},
	}
}

// OnFetchRecordBuffered implements kgo.HookFetchRecordBuffered.
func (g *group) OnFetchRecordBuffered(r *kgo.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.owned[topicPartition{r.Topic, r.Partition}]; p != nil {
		r.Context = p.ctx
	}
}

// assigned starts a worker for each new partition, before the client fetches from it.
func (g *group) assigned(_ context.Context, _ *kgo.Client, added map[string][]int32) {
	n := 0
	for topic, ids := range added {
		for _, id := range ids {
			if g.start(topicPartition{topic, id}) {
				n++
			}
		}
	}
	if n > 0 {
		g.deps.tel.rebalanced("assigned", n)
		g.log.Info("partitions assigned", zap.Int("count", n), zap.Any("partitions", added))
	}
}

func (g *group) start(tp topicPartition) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	var after <-chan struct{}
	if old := g.leaving[tp]; old != nil {
		after = old.done
		delete(g.leaving, tp)
	}
	p := newPartition(tp, g.signals[tp.topic], g.deps, g.log, after)
	g.owned[tp] = p
	g.deps.committer.own(p)
	g.deps.budget.attach(p)
	go p.run()
	return true
}

// position tells the workers where they begin, before the client fetches from there. It changes nothing.
func (g *group) position(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for topic, ps := range offsets {
		for id, o := range ps {
			if p := g.owned[topicPartition{topic, id}]; p != nil && o.EpochOffset().Offset >= 0 {
				p.begin.Store(o.EpochOffset().Offset)
				p.position.CompareAndSwap(-1, o.EpochOffset().Offset)
			}
		}
	}
	return offsets, nil
}

// take removes partitions from the group and stops their workers.
func (g *group) take(which map[string][]int32) []*partition {
	g.mu.Lock()
	defer g.mu.Unlock()
	var taken []*partition
	for topic, ids := range which {
		for _, id := range ids {
			if p := g.owned[topicPartition{topic, id}]; p != nil {
				taken = append(taken, p)
			}
		}
	}
	g.remove(taken)
	return taken
}

// close takes all partitions and lets no more come.
func (g *group) close() []*partition {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	taken := make([]*partition, 0, len(g.owned))
	for _, p := range g.owned {
		taken = append(taken, p)
	}
	g.remove(taken)
	return taken
}

func (g *group) remove(ps []*partition) {
	for tp, p := range g.leaving { // those that have ended meanwhile
		select {
		case <-p.done:
			delete(g.leaving, tp)
		default:
		}
	}
	for _, p := range ps {
		p.halt()
		delete(g.owned, p.topicPartition)
		g.leaving[p.topicPartition] = p
	}
}

// revoked gives partitions back in good order: the block in flight may end and its offset is committed, within the time that
// the group has for a rebalance; the client sends heartbeats meanwhile.
func (g *group) revoked(_ context.Context, _ *kgo.Client, which map[string][]int32) {
	ps := g.take(which)
	if len(ps) == 0 {
		return
	}
	g.deps.tel.rebalanced("revoked", len(ps))
	g.log.Info("partitions revoked", zap.Int("count", len(ps)), zap.Any("partitions", which))
	if err := g.drain(context.Background(), ps, g.deps.cfg.RebalanceTimeout*3/4); err != nil {
		g.log.Warn("partitions were given back before their work was done; the next owner repeats it", zap.Error(err))
	}
}

// lost gives up partitions that somebody else may own already: nothing of them is committed any more.
func (g *group) lost(_ context.Context, _ *kgo.Client, which map[string][]int32) {
	ps := g.take(which)
	if len(ps) == 0 {
		return
	}
	g.deps.tel.rebalanced("lost", len(ps))
	g.log.Warn("partitions lost: this member was silent for too long, or was fenced; their new owner repeats what was not committed",
		zap.Int("count", len(ps)), zap.Any("partitions", which))
	for _, p := range ps {
		p.abandon()
		g.deps.budget.detach(p)
	}
	g.deps.committer.forget(ps)
}

// commitGrace is what a drain keeps of its time for the last commit, at most.
const commitGrace = 5 * time.Second

// drain waits for stopped workers, commits what they finished and lets go of them. Its error says what was not done.
func (g *group) drain(ctx context.Context, ps []*partition, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	grace := min(commitGrace, timeout/4)
	work, cancelWork := context.WithTimeout(ctx, timeout-grace)
	defer cancelWork()
	var errs []error
	for _, p := range ps {
		select {
		case <-p.done:
		case <-work.Done():
		}
	}
	for _, p := range ps {
		select {
		case <-p.done:
		default:
			errs = append(errs, fmt.Errorf("topic %s, partition %d: the block in flight had not ended after %v", p.topic, p.id, timeout-grace))
			p.abandon()
		}
		g.deps.budget.detach(p)
	}
	errs = append(errs, g.deps.committer.flush(ctx, ps))
	g.deps.committer.forget(ps)
	return errors.Join(errs...)
}

// partitions are the owned ones.
func (g *group) partitions() []*partition {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*partition, 0, len(g.owned))
	for _, p := range g.owned {
		out = append(out, p)
	}
	return out
}
