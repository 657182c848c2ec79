package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
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
// A partition's worker begins when it is known where (position): the client asks after it has announced the assignment and before
// it fetches. A worker whose store sends it back, or whose member was expelled, is replaced by one that begins anew (restart).
//
// Lock order: moves, then the client's own locks, then mu, which is a leaf but for the client's lock on paused partitions.
type group struct {
	deps    *deps
	log     *zap.Logger
	signals map[string]signal.Signal // by topic
	locator *locator
	// fetch asks the group for what it has committed of a partition; false: nothing.
	fetch func(context.Context, topicPartition) (committedOffset, bool, error)
	// seek makes the client fetch a partition from another offset; it drops what it has fetched of it. False: the client does not
	// read it, or not yet: it does so a moment after position.
	seek func(topic string, partition int32, offset int64) bool

	// purge makes the client forget a topic, and subscribe makes it ask for it anew: it takes no other id for a topic that it knows.
	purge, subscribe func(topic string)

	ready  chan struct{}   // closed: all that needs the client is set, which calls back from the moment that it is made
	ctx    context.Context // ends when the group is closed
	cancel context.CancelFunc

	moves sync.Mutex // held while partitions come, go or are sent back

	mu      sync.Mutex
	owned   map[topicPartition]*partition
	leaving map[topicPartition]*partition // stopped, but perhaps still delivering
	fetched map[topicPartition]committedOffset
	member  string                   // this member's id, as of the last join
	anew    map[string]block.TopicID // topics that were made anew while this member had partitions of them
	closed  bool
}

// committedOffset is what the group has of a partition that was just assigned.
type committedOffset struct {
	next  int64
	epoch int32
	text  string
}

func newGroup(d *deps, log *zap.Logger, signals map[string]signal.Signal) *group {
	ctx, cancel := context.WithCancel(context.Background())
	return &group{
		deps: d, log: log, signals: signals, ready: make(chan struct{}), ctx: ctx, cancel: cancel,
		owned: map[topicPartition]*partition{}, leaving: map[topicPartition]*partition{}, fetched: map[topicPartition]committedOffset{}, anew: map[string]block.TopicID{},
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

// assigned starts a worker for each new partition, before the client fetches from it. The client calls it after every join, also
// where it brought nothing new.
func (g *group) assigned(_ context.Context, cl *kgo.Client, added map[string][]int32) {
	g.moves.Lock()
	defer g.moves.Unlock()
	member := ""
	if cl != nil {
		member, _ = cl.GroupMetadata()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.member = member
	for _, p := range g.owned {
		switch {
		case p.member == member:
		case p.isPlaced():
			go g.rejoined(p)
		default:
			p.member = member // it has stated nothing yet, and the client will ask where it begins
		}
	}
	n := 0
	for topic, ids := range added {
		for _, id := range ids {
			tp := topicPartition{topic, id}
			var after <-chan struct{}
			if old := g.leaving[tp]; old != nil {
				after = old.done
				delete(g.leaving, tp)
			}
			g.own(newPartition(tp, g.signals[topic], g.deps, g.log, after))
			n++
		}
	}
	if n > 0 {
		g.deps.tel.rebalanced("assigned", n)
		g.log.Info("partitions assigned", zap.Int("count", n), zap.Any("partitions", added))
	}
}

// own makes p the partition's worker.
func (g *group) own(p *partition) {
	p.member = g.member
	g.owned[p.topicPartition] = p
	g.deps.committer.own(p)
	g.deps.budget.attach(p)
	go func() {
		if back := p.run(); back != nil {
			g.sendBack(p, back)
		}
	}()
}

// offsetsFetched keeps what the group has committed for partitions that were just assigned; position needs the metadata.
func (g *group) offsetsFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, rg := range resp.Groups {
		for _, t := range rg.Topics {
			for _, p := range t.Partitions {
				tp := topicPartition{t.Topic, p.Partition}
				delete(g.fetched, tp)
				if p.ErrorCode == 0 && p.Offset >= 0 {
					c := committedOffset{next: p.Offset, epoch: p.LeaderEpoch}
					if p.Metadata != nil {
						c.text = *p.Metadata
					}
					g.fetched[tp] = c
				}
			}
		}
	}
	return nil
}

// position finds out where assigned partitions begin, tells their workers, and has the client fetch from there.
func (g *group) position(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	select {
	case <-g.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	queries := map[topicPartition]query{}
	owners := map[topicPartition]*partition{}
	g.mu.Lock()
	for topic, ps := range offsets {
		for id, o := range ps {
			tp := topicPartition{topic, id}
			if p := g.owned[tp]; p != nil {
				owners[tp] = p
				queries[tp] = query{position: g.committed(p, o.EpochOffset().Offset), window: g.deps.window(p.signal)}
			}
		}
	}
	g.mu.Unlock()
	if len(queries) == 0 {
		return offsets, nil
	}
	plans, failed := g.locator.locate(ctx, queries)
	if ctx.Err() != nil {
		return nil, ctx.Err() // the client asks again after the next join
	}
	for tp, err := range failed {
		g.log.Warn("cannot find out where an assigned partition begins; it is tried again, and the others go on",
			zap.String("topic", tp.topic), zap.Int32("partition", tp.id), zap.Error(err))
		offsets[tp.topic][tp.id] = kgo.NewOffset().At(max(0, queries[tp].next)) // nothing is fetched from there: it is frozen
		g.beginLater(owners[tp], queries[tp])
	}
	for tp, pl := range plans {
		g.reportPlan(owners[tp], pl, queries[tp].next >= 0)
		offsets[tp.topic][tp.id] = kgo.NewOffset().At(pl.from).WithEpoch(pl.before())
		owners[tp].place(pl)
	}
	return offsets, nil
}

// committed is what the group has of p's partition; start is where the client would begin.
func (g *group) committed(p *partition, start int64) position {
	c, ok := g.fetched[p.topicPartition]
	delete(g.fetched, p.topicPartition)
	if _, anew := g.anew[p.topic]; !ok && anew {
		start = atStart // whatever initial_offset says: the group had the topic, and Kafka has forgotten its offsets with the old one
	}
	if !ok {
		return position{next: start, epoch: -1, fresh: true}
	}
	return g.read(p, c)
}

// read returns what a committed offset says.
func (g *group) read(p *partition, c committedOffset) position {
	at, err := parsePosition(c.next, c.text)
	if err != nil {
		at = position{next: c.next}
		if c.text != "" {
			g.deps.tel.unreadable(p)
			p.log.Warn("the metadata of the committed offset is not this receiver's and is taken for none: "+
				"blocks that were begun and not committed may be cut differently", zap.Int64("offset", c.next), zap.String("metadata", c.text), zap.Error(err))
		}
	}
	at.epoch, at.stated = c.epoch, err == nil
	if len(at.epochs) == 0 && c.epoch >= 0 && c.next > 0 { // written by a version that kept only this one
		at.epochs = epochs{{from: c.next - 1, epoch: c.epoch}}
	}
	return at
}

// reportPlan reports what is wrong with where a partition begins. promised: somebody chose the offset.
func (g *group) reportPlan(p *partition, pl plan, promised bool) {
	if pl.gone != nil {
		g.mu.Lock()
		known := g.anew[p.topic] == pl.topic
		g.mu.Unlock()
		if known {
			return // it has been reported when it was found out
		}
		g.deps.tel.madeAnew(p)
		p.log.Error("the topic has been deleted and made anew: what the group had committed is of the old one and does not count, the new one is "+
			"read from its start; records of the old topic that were not delivered are lost",
			zap.Stringer("old_topic_id", pl.gone.topicID), zap.Stringer("topic_id", pl.topic), zap.Int64("delivered_to", pl.gone.next), zap.Int64s("begun", pl.gone.ends))
		return
	}
	if promised && pl.start > pl.next {
		g.lostOffsets(p, pl.next, pl.start)
	}
	if at := min(pl.end, pl.cut); at < pl.decided() {
		p.log.Error("Kafka's log of the partition was cut off below what had been read of it, by an unclean leader election or because Kafka was restored from a "+
			"copy: records that are or will be written at these offsets go to quarantine, and what is not in Kafka any more cannot be read again; "+
			"set unclean.leader.election.enable=false, and compare the stores with Kafka (pulsegrid audit)",
			zap.Int64("first_offset", at), zap.Int64("last_offset", pl.decided()-1), zap.Int64("log_end", pl.end))
	}
}

func (g *group) lostOffsets(p *partition, from, to int64) {
	g.deps.tel.lost(p, to-from)
	p.log.Error("records were removed by retention before they were read", zap.Int64("first_offset", from), zap.Int64("last_offset", to-1))
}

// sendBack replaces old, which has ended, by a worker that begins where its store says.
func (g *group) sendBack(old *partition, back *block.ResumeError) {
	g.deps.committer.forget([]*partition{old}) // what it stated is not so
	if !g.freeze(old) {
		return
	}
	g.deps.tel.sentBack(old)
	times := old.resumes + 1
	if old.flights.finished {
		times = 1
	}
	wait := newBackoff(g.deps.cfg.Retry)
	for range times - 1 {
		wait.next()
	}
	if !sleep(g.ctx, old.gone, wait.next()) {
		return
	}
	q := query{position: position{next: back.Next, epoch: -1, topicID: old.plan.topic}, window: g.deps.window(old.signal)}
	if back.Next == block.FromStart {
		q.next, q.fresh = atStart, true
	}
	g.restart(old, q, times)
}

// rejoined replaces a worker that the group had assigned to another member id of this client: the group expelled this member and
// let it join again. The client takes the partition for kept, but somebody else may have owned it meanwhile: where it is, only the
// group knows.
func (g *group) rejoined(old *partition) {
	g.log.Warn("the group had expelled this member; the partition is begun anew from what is committed",
		zap.String("topic", old.topic), zap.Int32("partition", old.id))
	old.abandon()
	g.deps.committer.forget([]*partition{old})
	<-old.done
	if g.freeze(old) {
		g.fromCommitted(old)
	}
}

// fromCommitted replaces old, which has ended and is frozen, by a worker that begins at what the group has.
func (g *group) fromCommitted(old *partition) {
	q := query{position: position{next: atStart, epoch: -1, fresh: true}, window: g.deps.window(old.signal)}
	if g.deps.cfg.InitialOffset == Latest {
		q.next = atEnd
	}
	ok := g.insist(old, "read what is committed", func() error {
		c, found, err := g.fetch(g.ctx, old.topicPartition)
		if err == nil && found {
			q.position = g.read(old, c)
		}
		return err
	})
	if ok {
		g.restart(old, q, 0)
	}
}

// beginAgain gives up the partitions of a topic that was deleted and made anew. What is delivered of the old topic is abandoned and
// nothing of it is committed. The client then joins again, and is assigned partitions of the new topic. It does so without a word about
// those that it had, also about one that has been placed in the new topic already.
func (g *group) beginAgain(topic string, id block.TopicID) {
	g.mu.Lock()
	g.anew[topic] = id
	g.mu.Unlock()
	ps := g.take(g.of(topic))
	for _, p := range ps {
		if p.isPlaced() && isOther(id, p.plan.topic) {
			g.deps.tel.madeAnew(p)
			p.log.Error("the topic has been deleted and made anew: the new one is read from its start; records of the old topic that were not delivered are lost",
				zap.Stringer("old_topic_id", p.plan.topic), zap.Stringer("topic_id", id), zap.Int64("delivered_to", p.position.Load()), zap.Int64("old_end", p.highWatermark.Load()))
		}
	}
	g.giveUp(ps)
	g.purge(topic)
	g.giveUp(g.take(g.of(topic))) // that were assigned meanwhile
	g.subscribe(topic)
}

// of are the partitions of a topic that are owned.
func (g *group) of(topic string) map[string][]int32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	which := map[string][]int32{}
	for tp := range g.owned {
		if tp.topic == topic {
			which[topic] = append(which[topic], tp.id)
		}
	}
	return which
}

// insist tries until it works; false: the partition is no longer ours.
func (g *group) insist(p *partition, what string, try func() error) bool {
	wait := newBackoff(g.deps.cfg.Retry)
	for failed := false; ; {
		err := try()
		if err != nil && !failed && g.ctx.Err() == nil {
			failed = true
			g.deps.waiting(1, err)
			defer g.deps.waiting(-1, nil)
			p.log.Warn("cannot begin the partition; it is tried again without end, and the partition waits", zap.String("operation", what), zap.Error(err))
		}
		if err == nil {
			return true
		}
		if !sleep(g.ctx, p.gone, wait.next()) {
			return false
		}
	}
}

// restart replaces old, which has ended and is frozen, by a worker that begins where q says, if the partition is still ours.
func (g *group) restart(old *partition, q query, resumes int) {
	var pl plan
	ok := g.insist(old, "find out where it begins", func() error {
		plans, failed := g.locator.locate(g.ctx, map[topicPartition]query{old.topicPartition: q})
		pl = plans[old.topicPartition]
		return failed[old.topicPartition]
	})
	if !ok {
		return
	}
	for !g.replace(old, pl, q.next >= 0, resumes) {
		if !sleep(g.ctx, old.gone, seekInterval) {
			return
		}
	}
}

// seekInterval is how often a client that does not read a partition yet is asked to read it from somewhere else.
const seekInterval = 20 * time.Millisecond

// replace has the client fetch from where pl says, and a new worker work from there; false: the client does not read the
// partition yet.
func (g *group) replace(old *partition, pl plan, promised bool, resumes int) bool {
	g.moves.Lock() // or the partition might be revoked, and assigned anew, before the client hears where to go on
	defer g.moves.Unlock()
	g.mu.Lock()
	current := g.owned[old.topicPartition] == old
	g.mu.Unlock()
	if !current {
		return true
	}
	if !g.seek(old.topic, old.id, pl.from) { // nothing is fetched of it meanwhile: it is frozen
		return false
	}
	p := newPartition(old.topicPartition, old.signal, g.deps, g.log, old.done)
	p.resumes = resumes
	g.reportPlan(p, pl, promised)
	p.place(pl)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.own(p)
	g.deps.budget.resume(old.topic, old.id)
	p.log.Info("the partition is begun anew", zap.Int64("first_offset", pl.next))
	return true
}

// beginLater begins a partition that cannot be placed now as soon as it can be.
func (g *group) beginLater(p *partition, q query) {
	if !g.freeze(p) {
		return
	}
	p.abandon()
	go func() {
		<-p.done
		g.restart(p, q, 0)
	}()
}

// freeze ends the fetching of a partition until it is begun anew; false: it is no longer ours, or that is being done.
func (g *group) freeze(p *partition) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.owned[p.topicPartition] != p || p.frozen {
		return false
	}
	p.frozen = true
	g.deps.budget.pause(p.topic, p.id)
	return true
}

// take removes partitions from the group and stops their workers.
func (g *group) take(which map[string][]int32) []*partition {
	g.moves.Lock()
	defer g.moves.Unlock()
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
	g.cancel()
	g.moves.Lock()
	defer g.moves.Unlock()
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
		close(p.gone)
		if p.frozen {
			p.frozen = false
			g.deps.budget.resume(p.topic, p.id) // or it would come back paused
		}
		delete(g.owned, p.topicPartition)
		g.leaving[p.topicPartition] = p
	}
}

// revoked gives partitions back in good order: blocks in flight may end and are committed, within the time that
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
	g.log.Warn("partitions lost: this member was silent for too long, or was fenced; their new owner redoes what was not finished",
		zap.Int("count", len(ps)), zap.Any("partitions", which))
	g.giveUp(ps)
}

// giveUp ends partitions that were taken at once, and commits nothing of them any more.
func (g *group) giveUp(ps []*partition) {
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
			errs = append(errs, fmt.Errorf("topic %s, partition %d: its blocks in flight had not ended after %v", p.topic, p.id, timeout-grace))
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
