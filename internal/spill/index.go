package spill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"
)

// Names that are no gateway's objects.
const (
	leaseName    = "lease"
	writableName = "writable" // written to see whether the store takes an object
	badPrefix    = "bad/"
)

// Backlog is what waits in the store.
type Backlog struct {
	Objects int
	Bytes   int64
	Oldest  time.Time // when the oldest object was closed; zero: there is none
}

// entry is an object in the store.
type entry struct {
	name     string
	position string
	at       time.Time
	bytes    int64
	lanes    []share // nil: more than namedLanes; any of the index's wide
	listing  uint32  // how many listings had begun when it came into the index
	left     bool    // guarded by index.mu; the store does not give it, so its lanes do not wait for it (Spool.read)
}

// waiting is what one lane has in objects that name their lanes.
type waiting struct {
	objects int
	bytes   int64
	oldest  time.Time // the oldest of them was closed then, or later
}

// index knows one gateway's objects and which lanes have records in them. Its memory is about 150 bytes an object: for objects with many
// lanes there is one set of lanes together, of which each may have any.
type index struct {
	mu      sync.Mutex
	entries []*entry            // guarded by mu; in the order of their names
	bytes   int64               // guarded by mu
	began   uint32              // guarded by mu; listings
	lanes   map[Lane]*waiting   // guarded by mu; of entries that name their lanes
	many    int                 // guarded by mu; how many entries do not
	wide    map[Lane]struct{}   // guarded by mu; the lanes that these may have
	anyLane bool                // guarded by mu; they may have others too: all that is known of one is its name
	seen    map[Lane]struct{}   // guarded by mu; while a sweep runs: lanes of such entries that it has read, or that came since it began
	unread  map[string]struct{} // guarded by mu; while a sweep runs: such entries that it has not read
}

func newIndex() *index { return &index{lanes: map[Lane]*waiting{}, wide: map[Lane]struct{}{}} }

// add takes an object into the index. of are the lanes of one with more than namedLanes; nil: they are not known.
func (x *index) add(e *entry, of []share) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.listing = x.began
	at, found := x.find(e.name)
	if found {
		x.forget(x.entries[at])
		x.entries[at] = e
	} else {
		x.entries = slices.Insert(x.entries, at, e)
	}
	x.bytes += e.bytes
	x.expect(e, of)
}

// expect has lanes wait for an entry. It is called with mu held.
func (x *index) expect(e *entry, of []share) {
	if e.lanes == nil {
		x.many++
		x.anyLane = x.anyLane || of == nil
		for _, l := range of {
			x.wide[l.lane] = struct{}{}
			if x.seen != nil {
				x.seen[l.lane] = struct{}{}
			}
		}
		if of == nil && x.unread != nil {
			x.unread[e.name] = struct{}{}
		}
	}
	for _, l := range e.lanes {
		w := x.lanes[l.lane]
		if w == nil {
			w = &waiting{oldest: e.at}
			x.lanes[l.lane] = w
		}
		w.objects++
		w.bytes += l.bytes
		if e.at.Before(w.oldest) {
			w.oldest = e.at
		}
	}
}

// find is called with mu held.
func (x *index) find(name string) (at int, found bool) {
	return slices.BinarySearchFunc(x.entries, name, func(o *entry, name string) int { return strings.Compare(o.name, name) })
}

// forget takes an entry out of the sums. It is called with mu held.
func (x *index) forget(e *entry) {
	x.bytes -= e.bytes
	x.pass(e)
}

// pass has no lane wait for an entry. It is called with mu held.
func (x *index) pass(e *entry) {
	if e.left {
		return
	}
	if e.lanes == nil {
		delete(x.unread, e.name)
		if x.many--; x.many == 0 {
			x.wide, x.anyLane = map[Lane]struct{}{}, false
		}
	}
	for _, l := range e.lanes {
		w := x.lanes[l.lane]
		w.bytes -= l.bytes
		if w.objects--; w.objects == 0 {
			delete(x.lanes, l.lane)
		}
	}
}

// leave has no lane wait for an object that the store does not give.
func (x *index) leave(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.has(e) {
		x.pass(e)
		e.left = true
	}
}

// takeBack undoes leave.
func (x *index) takeBack(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.has(e) && e.left {
		e.left = false
		x.expect(e, nil)
	}
}

// has tells whether e has not been removed meanwhile. It is called with mu held.
func (x *index) has(e *entry) bool {
	at, found := x.find(e.name)
	return found && x.entries[at] == e
}

// allLeft are the objects that were left.
func (x *index) allLeft() (out []*entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.entries {
		if e.left {
			out = append(out, e)
		}
	}
	return out
}

// remove takes objects out of the index.
func (x *index) remove(names ...string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, name := range names {
		at, found := x.find(name)
		if !found {
			continue
		}
		x.forget(x.entries[at])
		if at == 0 { // the usual case; the others need not move
			x.entries = x.entries[1:]
		} else {
			x.entries = slices.Delete(x.entries, at, at+1)
		}
	}
}

// beginListing returns what reconcile must be given with what the listing finds.
func (x *index) beginListing() uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.began++
	return x.began
}

// reconcile makes the index what a listing of the store found. Objects that came into it since the listing began stay.
func (x *index) reconcile(listing uint32, found []*entry) {
	in := make(map[string]bool, len(found))
	for _, e := range found {
		in[e.name] = true
	}
	x.mu.Lock()
	known := make(map[string]bool, len(x.entries))
	var gone []string
	for _, e := range x.entries {
		known[e.name] = true
		if !in[e.name] && e.listing < listing {
			gone = append(gone, e.name)
		}
	}
	x.mu.Unlock()
	x.remove(gone...)
	for _, e := range found {
		if !known[e.name] {
			x.add(e, nil)
		}
	}
}

// holds tells whether an object may have records of the lane.
func (x *index) holds(lane Lane) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lanes[lane] != nil || x.inWide(lane)
}

// inWide is called with mu held.
func (x *index) inWide(lane Lane) bool {
	if x.many == 0 {
		return false
	}
	_, in := x.wide[lane]
	return in || x.anyLane
}

// within counts the objects that may have records of one of the lanes, up to most.
func (x *index) within(lanes map[Lane]struct{}, most int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for _, e := range x.entries {
		if n >= most {
			break
		}
		if x.mayHold(e, lanes) {
			n++
		}
	}
	return n
}

// mayHold tells whether e may have a record of one of the lanes, and is not left. It is called with mu held.
func (x *index) mayHold(e *entry, lanes map[Lane]struct{}) bool {
	if e.left {
		return false
	}
	if e.lanes != nil {
		return slices.ContainsFunc(e.lanes, func(s share) bool { _, in := lanes[s.lane]; return in })
	}
	for l := range lanes {
		if x.inWide(l) {
			return true
		}
	}
	return false
}

// takes tells whether e may have a record of a lane that is not blocked, and is not left. It is called with mu held.
func (x *index) takes(e *entry, blocked map[Lane]struct{}) bool {
	if e.left {
		return false
	}
	if e.lanes != nil {
		return slices.ContainsFunc(e.lanes, func(s share) bool { _, is := blocked[s.lane]; return !is })
	}
	if x.anyLane {
		return true
	}
	for l := range x.wide {
		if _, is := blocked[l]; !is {
			return true
		}
	}
	return false
}

// run returns objects behind the one named, in order and with none between them, each of which may have records of lanes that are not
// blocked: at most so many, and at most drainBytes but for the first. They come before the position named; empty: none is.
func (x *index) run(behind, before string, blocked map[Lane]struct{}, most int) []*entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, found := x.find(behind)
	if found {
		at++
	}
	var out []*entry
	size := int64(0)
	for _, e := range x.entries[at:] {
		if before != "" && e.position >= before {
			break
		}
		if !x.takes(e, blocked) {
			if len(out) > 0 {
				break
			}
			continue
		}
		if size += e.bytes; len(out) == most || len(out) > 0 && size > drainBytes {
			break
		}
		out = append(out, e)
	}
	return out
}

// beginSweep starts to learn which lanes the objects with many lanes have.
func (x *index) beginSweep() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seen, x.unread = map[Lane]struct{}{}, map[string]struct{}{}
	for _, e := range x.entries {
		if e.lanes == nil && !e.left {
			x.unread[e.name] = struct{}{}
		}
	}
}

// read tells the lanes of an object that was read and is left as it is.
func (x *index) read(e *entry, raw map[Lane]int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.lanes != nil {
		return
	}
	delete(x.unread, e.name)
	for l := range raw {
		x.seen[l] = struct{}{}
	}
}

// endSweep forgets the lanes that no object with many lanes has any more. It can tell when the sweep has read all of them.
func (x *index) endSweep() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.unread) == 0 && x.many > 0 {
		x.wide, x.anyLane = x.seen, false
	}
	x.seen, x.unread = nil, nil
}

// Holds tells whether the store may have records of the lane that this gateway has put there, or that are on their way there. Until the store
// has been listed it may.
func (s *Spool) Holds(lane Lane) bool { return !s.listed.Load() || s.has(lane) }

// has is Holds as far as it is known.
func (s *Spool) has(lane Lane) bool {
	s.mu.Lock()
	for o := range s.flying {
		if _, in := o.lanes[lane]; in {
			s.mu.Unlock()
			return true
		}
	}
	s.mu.Unlock()
	return s.own.holds(lane)
}

// Own counts this gateway's objects.
func (s *Spool) Own() int {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	return len(s.own.entries)
}

// Within counts this gateway's objects that may have records of one of the lanes, up to most.
func (s *Spool) Within(lanes map[Lane]struct{}, most int) int { return s.own.within(lanes, most) }

// Backlog is what waited when it was last listed, and what this gateway has added or drained since.
func (s *Spool) Backlog() Backlog {
	s.own.mu.Lock()
	b := Backlog{Objects: len(s.own.entries), Bytes: s.own.bytes}
	if b.Objects > 0 {
		b.Oldest = s.own.entries[0].at
	}
	s.own.mu.Unlock()
	s.othersMu.Lock()
	defer s.othersMu.Unlock()
	b.Objects += s.others.objects
	b.Bytes += s.others.bytes
	if !s.others.oldest.IsZero() && (b.Oldest.IsZero() || s.others.oldest.Before(b.Oldest)) {
		b.Oldest = s.others.oldest
	}
	return b
}

// list returns one gateway's objects in order; of all gateways where none is named.
func (s *Spool) list(ctx context.Context, gateway string) (map[string][]*entry, error) {
	var opts blob.ListOptions
	if gateway != "" {
		opts.Prefix = gateway + "/"
	}
	out := map[string][]*entry{}
	for it := s.bucket.List(&opts); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the spill: %w", err)
		}
		of, _, _ := strings.Cut(o.Key, "/")
		p, ok := parse(o.Key)
		if !ok || strings.HasPrefix(o.Key, badPrefix) {
			continue
		}
		e := &entry{name: o.Key, position: p.position, at: p.at, bytes: o.Size}
		if p.lanes != nil {
			e.lanes = evenShares(p.lanes, o.Size)
		}
		out[of] = append(out[of], e) // listings are in lexical order
	}
}

// Refresh lists what this gateway has in the store, where that is not known.
func (s *Spool) Refresh(ctx context.Context) error {
	if s.listed.Load() && !s.stale.Swap(false) {
		return nil
	}
	listing := s.own.beginListing()
	all, err := s.list(ctx, s.cfg.Gateway)
	if err != nil {
		s.stale.Store(true)
		return err
	}
	s.own.reconcile(listing, all[s.cfg.Gateway])
	s.listed.Store(true)
	return nil
}

// Look lists the store. It returns the gateways that have objects there, beside this one.
func (s *Spool) Look(ctx context.Context) ([]string, error) {
	listing := s.own.beginListing()
	all, err := s.list(ctx, "")
	if err != nil {
		return nil, err
	}
	s.own.reconcile(listing, all[s.cfg.Gateway])
	s.listed.Store(true)
	s.failing.keep(all)
	delete(all, s.cfg.Gateway)
	s.othersMu.Lock()
	s.others = summarize(all)
	s.othersMu.Unlock()
	return slices.Sorted(maps.Keys(all)), nil
}
