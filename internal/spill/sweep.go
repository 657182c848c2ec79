package spill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"gocloud.dev/gcerrors"
	"golang.org/x/sync/errgroup"
)

const (
	// drainBatchBytes is how much is produced at once.
	drainBatchBytes = 4 << 20
	// drainObjects is how many objects are read at a time, and drainBytes how much they may take as they lie in the store, but for the
	// first. An object alone costs two of the store's answers, a tenth of a second, and a gateway under light load closes one as often.
	drainObjects = 16
	drainBytes   = 16 << 20
	// commitTimeout is how long a sweep that is to end may take to delete what it has produced.
	commitTimeout = 10 * time.Second
	// leaveAfter is how long the store may fail to give an object until the others are given back without it: longer than hiccups of a store, in which all
	// must wait to keep their order, and shorter than the time after which somebody is told that events wait.
	leaveAfter = 5 * time.Minute
	// askTimeout is how long a sweep may ask for objects that were left, before it goes on without them.
	askTimeout = 5 * time.Second
)

// errLeft says that the store has not given an object for leaveAfter: others do not wait for it any more.
var errLeft = errors.New("others do not wait for it")

// ErrRefused is wrapped by the errors of records that will never be taken: they are set aside and hold nothing up.
var ErrRefused = errors.New("refused for good")

// Sink takes records back. It is safe for concurrent use.
type Sink interface {
	// Route sets the partition of a record where it is not known and can be.
	Route(r *Record)
	// Produce takes records in their order and says of each what became of it: nil, it is durable; ErrRefused; anything else blocks its
	// lane.
	Produce(ctx context.Context, rs []Record) []error
}

// Drained is what was given back.
type Drained struct {
	Objects, Records int
	Bad              int // objects that could not be read, and records that were refused for good
}

func (d *Drained) add(o Drained) {
	d.Objects, d.Records, d.Bad = d.Objects+o.Objects, d.Records+o.Records, d.Bad+o.Bad
}

// blockedLanes are the lanes of this gateway that do not take records: they failed when something was last produced to them.
type blockedLanes struct {
	mu    sync.Mutex
	of    map[Lane]struct{} // guarded by mu
	ahead map[Lane]uint64   // guarded by mu; hash of a lane's oldest record, where a probe has produced it already
	next  Lane              // guarded by mu; the probe goes on here
}

func newBlockedLanes() blockedLanes {
	return blockedLanes{of: map[Lane]struct{}{}, ahead: map[Lane]uint64{}}
}

func (b *blockedLanes) snapshot() map[Lane]struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.of)
}

// Block says that the lane does not take records, until a probe finds that it does.
func (s *Spool) Block(lane Lane) {
	s.lanes.mu.Lock()
	defer s.lanes.mu.Unlock()
	s.lanes.of[lane] = struct{}{}
}

// Blocked tells whether the lane did not take what was last produced to it.
func (s *Spool) Blocked(lane Lane) bool {
	s.lanes.mu.Lock()
	defer s.lanes.mu.Unlock()
	_, is := s.lanes.of[lane]
	return is
}

// Drain gives back what this gateway has in the store, once through: the lanes that take records are swept, and meanwhile the blocked ones
// are probed. It returns an error where the store fails; that Kafka does not take records shows in Blocked.
func (s *Spool) Drain(ctx context.Context, sink Sink) (d Drained, err error) {
	blocked := s.lanes.snapshot() // the same for both: a lane is either swept or probed
	for lane := range blocked {
		if !s.has(lane) { // nothing to try it with: the next request does
			s.unblock(lane, nil)
			delete(blocked, lane)
		}
	}
	if err := s.Refresh(ctx); err != nil {
		return d, err
	}
	var g errgroup.Group
	var probed Drained
	if len(blocked) > 0 {
		g.Go(func() (err error) { probed, err = s.probe(ctx, blocked, sink); return err })
	}
	d, err = s.sweep(ctx, s.own, s.cfg.Gateway, maps.Clone(blocked), sink)
	err = errors.Join(err, g.Wait())
	d.add(probed)
	return d, err
}

// Sweep is Drain without the probe.
func (s *Spool) Sweep(ctx context.Context, sink Sink) (Drained, error) {
	if err := s.Refresh(ctx); err != nil {
		return Drained{}, err
	}
	return s.sweep(ctx, s.own, s.cfg.Gateway, s.lanes.snapshot(), sink)
}

// sweep gives back, once through, what a gateway has in the store of lanes that are not blocked. A lane that fails is blocked from then on.
func (s *Spool) sweep(ctx context.Context, x *index, gateway string, blocked map[Lane]struct{}, sink Sink) (d Drained, err error) {
	s.askAgain(ctx, x)
	x.beginSweep()
	defer x.endSweep()
	few, behind := 1, ""
	for ctx.Err() == nil {
		run := s.run(x, behind, blocked, few)
		if len(run) == 0 {
			return d, nil
		}
		if err := s.lead(ctx, gateway); err != nil {
			return d, err
		}
		one, err := s.give(ctx, x, run, blocked, sink)
		d.add(one)
		if errors.Is(err, errLeft) {
			continue // with a run that ends before it, or begins behind it
		}
		if err != nil {
			return d, fmt.Errorf("spill objects %s to %s: %w", run[0].name, run[len(run)-1].name, err)
		}
		behind, few = run[len(run)-1].name, min(2*few, drainObjects)
	}
	return d, ctx.Err()
}

// run is index.run, as far as objects are followed by none that is still on its way to the store: what is left of a run has the place of its last object, and
// would come behind it.
func (s *Spool) run(x *index, behind string, blocked map[Lane]struct{}, most int) []*entry {
	if x != s.own {
		return x.run(behind, "", blocked, most)
	}
	s.mu.Lock() // until the run is known: what is closed from now on comes behind it
	defer s.mu.Unlock()
	before := ""
	for o := range s.flying {
		if o.position != "" && (before == "" || o.position < before) {
			before = o.position
		}
	}
	return x.run(behind, before, blocked, most)
}

// giving is a run of objects on its way: what is to be produced next, and what will be left of them.
type giving struct {
	spool   *Spool
	ctx     context.Context
	sink    Sink
	own     bool // this gateway's objects
	blocked map[Lane]struct{}

	batch   []Record
	size    int
	rest    part
	refused part
	raw     map[Lane]int64 // the lanes of the object that is being read
	changed bool           // the objects have records that need not come again
	d       Drained
}

// part is an object that is made of others' records.
type part struct {
	buf   bytes.Buffer
	enc   *encoder
	lanes map[Lane]int64
}

func (p *part) add(r *Record) (err error) {
	if p.enc == nil {
		p.lanes = map[Lane]int64{}
		if p.enc, err = newEncoder(&p.buf); err != nil {
			return err
		}
	}
	p.lanes[r.lane()] += int64(r.size())
	return p.enc.add(*r)
}

// give produces the records of objects, in their order, and replaces the objects by what is left.
func (s *Spool) give(ctx context.Context, x *index, run []*entry, blocked map[Lane]struct{}, sink Sink) (Drained, error) {
	bodies, err := s.fetch(ctx, x, run)
	if err != nil {
		return Drained{}, err
	}
	g := &giving{spool: s, ctx: ctx, sink: sink, own: x == s.own, blocked: blocked}
	var bad []string
	lanes := make([]map[Lane]int64, len(run))
	for i, e := range run {
		g.raw = map[Lane]int64{}
		err := each(bodies[i], g.take)
		lanes[i] = g.raw
		if errors.Is(err, ErrDamaged) {
			bad = append(bad, e.name)
		} else if err != nil {
			return g.d, err
		}
		if bodies[i] == nil || errors.Is(err, ErrDamaged) || len(g.raw) == 0 {
			g.changed = true
		}
	}
	if err := g.flush(); err != nil {
		return g.d, err
	}
	g.d.Bad += len(bad)
	if !g.changed {
		for i, e := range run {
			x.read(e, lanes[i])
		}
		return g.d, nil
	}
	// What is produced must not come again because the gateway stops just now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	return g.d, s.replace(ctx, x, run, g, bad)
}

// take is called for each record in order.
func (g *giving) take(r Record) error {
	g.sink.Route(&r)
	lane := r.lane()
	g.raw[lane] += int64(r.size())
	if _, is := g.blocked[lane]; is {
		return g.rest.add(&r)
	}
	if g.own && g.spool.lanes.passed(lane, &r) {
		g.changed = true
		return nil
	}
	g.batch = append(g.batch, r)
	if g.size += r.size(); g.size < drainBatchBytes {
		return nil
	}
	return g.flush()
}

// passed tells whether the record was produced by a probe. Only a lane's oldest record can have been, so it is asked once.
func (b *blockedLanes) passed(lane Lane, r *Record) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, probed := b.ahead[lane]
	delete(b.ahead, lane)
	return probed && was == r.hash()
}

// flush produces the batch; records that are not taken are left.
func (g *giving) flush() error {
	if len(g.batch) == 0 {
		return nil
	}
	for i, err := range g.sink.Produce(g.ctx, g.batch) {
		r := &g.batch[i]
		switch {
		case err == nil:
			g.changed = true
			g.d.Records++
		case errors.Is(err, ErrRefused):
			g.changed = true
			g.d.Bad++
			if err := g.refused.add(r); err != nil {
				return err
			}
		default:
			g.blocked[r.lane()] = struct{}{}
			if g.own {
				g.spool.Block(r.lane())
			}
			if err := g.rest.add(r); err != nil {
				return err
			}
		}
	}
	g.batch, g.size = nil, 0
	return nil
}

// replace puts what is left of objects into one at the place of the last, and deletes them. Records of a lane that is left keep their order:
// no other object lies between those of a run.
func (s *Spool) replace(ctx context.Context, x *index, run []*entry, g *giving, bad []string) error {
	last := run[len(run)-1]
	name := ""
	if g.refused.enc != nil {
		if err := g.refused.enc.close(); err != nil {
			return err
		}
		if err := s.bucket.WriteAll(ctx, badPrefix+last.position+"-refused", g.refused.buf.Bytes(), nil); err != nil {
			return fmt.Errorf("set refused records aside: %w", err)
		}
	}
	if g.rest.enc != nil {
		if err := g.rest.enc.close(); err != nil {
			return err
		}
		lanes := shares(g.rest.lanes, int64(g.rest.buf.Len()))
		name = withLanes(last.position, lanes)
		if err := s.write(ctx, x, name, g.rest.buf.Bytes(), lanes); err != nil {
			return fmt.Errorf("write what is left: %w", err)
		}
	}
	isBad := map[string]bool{}
	for _, b := range bad {
		isBad[b] = true
	}
	var removed errgroup.Group
	removed.SetLimit(drainObjects)
	for _, e := range run {
		switch {
		case isBad[e.name]:
			removed.Go(func() error { return s.setAside(ctx, x, e.name) })
		case e.name != name:
			removed.Go(func() error { return s.delete(ctx, x, e.name) })
			g.d.Objects++
		}
	}
	return removed.Wait()
}

// fetch returns the objects as they lie in the store. One that another holder of the lease has deleted meanwhile is nil.
func (s *Spool) fetch(ctx context.Context, x *index, run []*entry) ([][]byte, error) {
	bodies := make([][]byte, len(run))
	var g errgroup.Group // each is asked for, whatever becomes of the others: it is noted since when the store does not give it
	for i, e := range run {
		g.Go(func() (err error) {
			if bodies[i], err = s.read(ctx, x, e); gcerrors.Code(err) == gcerrors.NotFound {
				return nil
			}
			return err
		})
	}
	return bodies, g.Wait()
}

// read returns an object. Where the store has not given it for leaveAfter the object is left, and the error wraps errLeft: it stays where it is, no lane waits for it, and each sweep asks for it
// again.
func (s *Spool) read(ctx context.Context, x *index, e *entry) ([]byte, error) {
	body, err := s.bucket.ReadAll(ctx, e.name)
	if ctx.Err() != nil {
		return body, err
	}
	if err == nil || gcerrors.Code(err) == gcerrors.NotFound {
		s.failing.end(e.name)
		return body, err
	}
	err = fmt.Errorf("read spill object %s: %w", e.name, err)
	long, told := s.failing.note(e.name, s.now())
	if !long {
		return nil, err
	}
	x.leave(e)
	if !told {
		s.cfg.Left(err)
	}
	return nil, fmt.Errorf("%w: %w", errLeft, err)
}

// askAgain takes objects back that were left, and that the store gives again.
func (s *Spool) askAgain(ctx context.Context, x *index) {
	left := x.allLeft()
	rand.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] }) // each has its turn
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var asked errgroup.Group
	asked.SetLimit(drainObjects)
	for _, e := range left {
		asked.Go(func() error {
			if _, err := s.read(ctx, x, e); err == nil {
				x.takeBack(e)
			}
			return nil
		})
	}
	_ = asked.Wait() // none fails
}

// failures are the objects that the store does not give, by their names.
type failures struct {
	mu sync.Mutex
	of map[string]failure // guarded by mu
}

type failure struct {
	since time.Time
	told  bool // that it lasts for leaveAfter
}

// note tells whether the store has failed to give an object for leaveAfter, and whether note has told so before.
func (f *failures) note(name string, now time.Time) (long, told bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	one, is := f.of[name]
	if !is {
		one.since = now
	}
	long, told = now.Sub(one.since) >= leaveAfter, one.told
	one.told = long
	f.of[name] = one
	return long, told
}

// end says that the store gives an object, or has none of that name.
func (f *failures) end(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.of, name)
}

// keep forgets all objects but these.
func (f *failures) keep(all map[string][]*entry) {
	in := map[string]bool{}
	for _, entries := range all {
		for _, e := range entries {
			in[e.name] = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.of, func(name string, _ failure) bool { return !in[name] })
}

// each calls fn for each record of an object. It holds no more than a record of it decompressed.
func each(body []byte, fn func(Record) error) error {
	if body == nil {
		return nil
	}
	dec, err := newDecoder(bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer dec.close()
	for {
		r, err := dec.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = fn(r)
		}
		if err != nil {
			return err
		}
	}
}

func (s *Spool) delete(ctx context.Context, x *index, name string) error {
	if err := s.bucket.Delete(ctx, name); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("delete drained spill object %s: %w", name, err)
	}
	x.remove(name)
	return nil
}

// setAside keeps an object that cannot be read where nobody drains it.
func (s *Spool) setAside(ctx context.Context, x *index, name string) error {
	if err := s.bucket.Copy(ctx, badPrefix+name, name, nil); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("set the damaged spill object %s aside: %w", name, err)
	}
	return s.delete(ctx, x, name)
}
