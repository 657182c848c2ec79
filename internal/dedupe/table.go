package dedupe

import (
	"math"
	"math/bits"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// slot is one remembered key: 84 bits of it, above the time of its last occurrence. With 10^9 remembered keys, a new one is taken for one of them once in
// 10^16. The time is a step modulo 4096: twice the window is less (steps), and within that every slot is looked at, so an age is never ambiguous.
type slot struct {
	order uint32 // slots of a shard are in its order
	top   uint32 // its leading bits choose the shard; 0: the slot is free
	rest  uint32 // 20 bits of the key, 12 bits of time
}

func slotOf(k eventid.Key) slot {
	return slot{uint32(k.Hi), max(uint32(k.Hi>>32), 1), uint32(k.Lo) &^ timeMask}
}

const (
	slotBytes = 12
	timeBits  = 12
	timeMask  = 1<<timeBits - 1
	// steps bounds how many steps a window has.
	steps = 1 << (timeBits - 2)

	homesMin = 64
	// splitAt bounds a shard, and so the longest pause: one shard is rebuilt at a time.
	splitAt = 1 << 16
	// A shard is rebuilt when loadMax of its homes are taken, and then has headroom for so many more.
	loadMaxNum, loadMaxDen = 7, 8
	headroom               = 0.25
)

func (s slot) free() bool          { return s.top == 0 }
func (s slot) age(now int64) int64 { return (now - int64(s.rest)) & timeMask }

// is tells whether a slot is that of k, which has no time.
func (s slot) is(k slot) bool {
	return s.order == k.order && s.top == k.top && (s.rest^k.rest)>>timeBits == 0
}

func (s slot) at(now int64) slot {
	s.rest = s.rest&^timeMask | uint32(now)&timeMask
	return s
}

// shard is a part of a table: a hash table with linear probing whose slots are in order, so that a search that finds
// nothing ends early, and rebuilding is one pass from left to right. Slots from home on are a tail for the last clusters; the very
// last one is always free.
type shard struct {
	slots   []slot
	homes   uint64
	used    int
	depth   uint8 // all its keys share so many leading bits
	rebuilt int64 // table's time when its expired slots were last removed
}

func newShard(homes int, depth uint8, now int64) *shard {
	return &shard{slots: make([]slot, slotsOf(homes)), homes: uint64(homes), depth: depth, rebuilt: now}
}

func slotsOf(homes int) int64 { return int64(homes + min(homes/8, 256) + 8) }

func (s *shard) bytes() int64          { return int64(len(s.slots)) * slotBytes }
func (s *shard) home(order uint32) int { return int(uint64(order) * s.homes >> 32) }
func (s *shard) full() bool            { return s.used >= capacity(int(s.homes)) }
func capacity(homes int) int           { return homes * loadMaxNum / loadMaxDen }

// occur notes an occurrence. age is how long ago the one before it was; -1: none is remembered. ok is false if there was no place for it.
func (s *shard) occur(k slot, now int64) (age int64, ok bool) {
	i := s.home(k.order)
	for ; ; i++ {
		e := &s.slots[i]
		if e.is(k) { // a free slot is no key's: top is 0
			age = e.age(now)
			*e = e.at(now)
			return age, true
		}
		if e.free() || e.order > k.order {
			break
		}
	}
	free := i
	for !s.slots[free].free() {
		free++
	}
	if free == len(s.slots)-1 {
		return 0, false
	}
	copy(s.slots[i+1:free+1], s.slots[i:free])
	s.slots[i] = k.at(now)
	s.used++
	return -1, true
}

// find is occur that notes nothing.
func (s *shard) find(k slot, now int64) (age int64) {
	for i := s.home(k.order); ; i++ {
		e := s.slots[i]
		if e.free() || e.order > k.order {
			return -1
		}
		if e.is(k) {
			return e.age(now)
		}
	}
}

// compact moves those of slots that are at most keep old to their end, in order, and returns them. What lies before is garbage: the
// shard is not usable until spread has filled it again.
func compact(slots []slot, now, keep int64) []slot {
	w := len(slots)
	for r := w - 1; r >= 0; r-- {
		if e := slots[r]; !e.free() && e.age(now) <= keep {
			w--
			slots[w] = e
		}
	}
	return slots[w:]
}

// spread fills the shard with those of src, in order, whose bit of top is as wanted; bit 0 takes all. src may be the end of the shard's
// own slots, which it fitted into before: a slot is never written before it was read, because none comes to lie further right.
func (s *shard) spread(src []slot, bit, want uint32) {
	w, n := 0, 0
	for _, e := range src {
		if e.top&bit != want {
			continue
		}
		at := max(s.home(e.order), w)
		clear(s.slots[w:at])
		s.slots[at] = e
		w = at + 1
		n++
	}
	clear(s.slots[w:])
	s.used = n
}

// fits tells whether spread into a shard of so many homes would leave its last slot free.
func fits(homes int, src []slot, bit, want uint32) bool {
	s := shard{homes: uint64(homes)}
	w := 0
	for i := range src {
		if src[i].top&bit == want {
			w = max(s.home(src[i].order), w) + 1
		}
	}
	return int64(w) < slotsOf(homes)
}

// homesOf is how many homes n slots of src, chosen like spread's, should have.
func homesOf(n int, room float64, src []slot, bit, want uint32) int {
	homes := max(int(float64(n)*(1+room)*loadMaxDen/loadMaxNum)+1, homesMin)
	for !fits(homes, src, bit, want) { // the last cluster is longer than the tail; with random keys, hardly ever
		homes += homes / 4
	}
	return homes
}

// table remembers the last occurrence of each key of a partition: shards found by the leading bits of a key. A shard that is full is
// rebuilt without what has expired, at a size for what is left; one that still holds too much is split. So there is no long pause,
// and the bytes follow what is remembered, up and down.
type table struct {
	pool   *pool
	window int64 // steps
	now    int64 // step
	shards []*shard
	depth  uint8
	count  int
	bytes  int64
	floor  int64 // what is older may have been forgotten early

	swept      int // shards before this one have been rebuilt since sweepBegan, or are looked at no more this time
	sweepBegan int64
	shrunk     int // where shrink goes on

	touched uint32 // keeps touch from being optimised away
}

const never = math.MinInt64 / 2

func newTable(p *pool, window int64) *table {
	t := &table{pool: p, window: window}
	t.reset(0)
	p.tables[t] = struct{}{}
	return t
}

// reset forgets everything.
func (t *table) reset(now int64) {
	t.pool.bytes -= t.bytes
	first := newShard(homesMin, 0, now)
	t.shards, t.depth, t.count, t.bytes = []*shard{first}, 0, 0, first.bytes()
	t.now, t.floor, t.swept, t.sweepBegan, t.shrunk = now, never, 0, now, 0
	t.pool.bytes += t.bytes
}

// free gives its memory back. The table is not used any more.
func (t *table) free() {
	t.pool.bytes -= t.bytes
	delete(t.pool.tables, t)
}

// advance says that it is now (a step). Twice a window of it, every shard is rebuilt, full or not, so that expired events go also where
// no new ones come.
func (t *table) advance(now int64) {
	if now <= t.now {
		return
	}
	if now-t.now > t.window {
		t.reset(now) // everything has expired
		return
	}
	t.now = now
	for {
		due := int(2 * (now - t.sweepBegan) * int64(len(t.shards)) / t.window)
		if t.swept >= min(due, len(t.shards)) {
			break
		}
		if s := t.shards[t.swept]; s.rebuilt < t.sweepBegan && s.used > 0 {
			t.rebuild(t.swept, swept)
		}
		t.swept++
	}
	if t.swept >= len(t.shards) {
		t.swept, t.sweepBegan = 0, now
	}
}

func (t *table) at(k slot) int { return int(k.top >> (32 - t.depth)) }

// occur notes an occurrence of k now, and returns how many steps ago the one before it was; -1: none was within the window.
func (t *table) occur(key eventid.Key) int64 {
	k := slotOf(key)
	for {
		i := t.at(k)
		s := t.shards[i]
		age, ok := s.occur(k, t.now)
		switch {
		case !ok:
			t.rebuild(i, unlucky)
			continue
		case age > t.window:
			return -1
		case age < 0:
			t.count++
			if s.full() {
				t.rebuild(i, full)
			}
		}
		return age
	}
}

// ahead is how many keys are touched before they are looked up.
const ahead = 16

// touch reads where the keys belong. Lookups wait for memory most of their time; those of keys that were touched together
// wait together.
func (t *table) touch(keys []eventid.Key) {
	var sum uint32
	for i := range keys {
		k := slotOf(keys[i])
		s := t.shards[t.at(k)]
		sum += s.slots[s.home(k.order)].top
	}
	t.touched = sum
}

// find tells whether k occurred within the window.
func (t *table) find(key eventid.Key) bool {
	k := slotOf(key)
	age := t.shards[t.at(k)].find(k, t.now)
	return age >= 0 && age <= t.window
}

// effective is the window within which no event has been forgotten.
func (t *table) effective() int64 { return min(t.window, t.now-t.floor) }

// room is the headroom of a shard: not the same for all, so that they are not full at the same time.
func room(s *shard) float64 {
	h := bits.Reverse64(uint64(s.used)*0x9E3779B97F4A7C15) >> 32
	return headroom * (0.6 + 0.8*float64(h)/(1<<32))
}

// Why a shard is rebuilt.
type reason int

const (
	swept   reason = iota // what has expired must go
	full                  // it needs place for more
	unlucky               // its last cluster has reached the end, whatever its load
)

// rebuild removes what has expired from the shard at position i of the directory, then keeps, grows, shrinks or splits it. Where it
// must grow and the pool has no memory left, the oldest events are forgotten.
func (t *table) rebuild(i int, why reason) {
	s := t.shards[i]
	extra := room(s)
	before := s.used
	src := compact(s.slots, t.now, t.window)
	t.count -= before - len(src)
	s.rebuilt = t.now
	if why != swept && len(src) > splitAt && t.split(i, src, extra) {
		return
	}
	has, homes := int(s.homes), homesOf(len(src), extra, src, 0, 0)
	grow := why == full && float64(capacity(has)) < float64(len(src))*(1+headroom*0.6)
	if why == unlucky {
		grow, homes = true, max(homes, has*5/4)
	}
	if grow || homes < has*3/4 {
		if t.pool.reserve(t, slotsOf(homes)*slotBytes-s.bytes()) {
			n := newShard(homes, s.depth, t.now)
			n.spread(src, 0, 0)
			t.replace(i, s, n)
			return
		}
		keep := capacity(has) * 4 / 5
		if why == unlucky {
			keep = min(keep, len(src)*4/5)
		}
		src = t.forget(src, keep)
	}
	s.spread(src, 0, 0)
}

// replace puts n where s was.
func (t *table) replace(i int, s, n *shard) {
	span := 1 << (t.depth - s.depth)
	for j := i &^ (span - 1); span > 0; span-- {
		t.shards[j] = n
		j++
	}
	t.account(n.bytes() - s.bytes())
}

func (t *table) account(delta int64) {
	t.bytes += delta
	t.pool.bytes += delta
}

// split makes two shards of s by the next bit of the keys; false: there is no memory for it.
func (t *table) split(i int, src []slot, extra float64) bool {
	s := t.shards[i]
	bit := uint32(1) << (31 - s.depth)
	ones := 0
	for j := range src {
		if src[j].top&bit != 0 {
			ones++
		}
	}
	homes0, homes1 := homesOf(len(src)-ones, extra, src, bit, 0), homesOf(ones, extra, src, bit, bit)
	if !t.pool.reserve(t, (slotsOf(homes0)+slotsOf(homes1))*slotBytes-s.bytes()) {
		return false
	}
	zero, one := newShard(homes0, s.depth+1, t.now), newShard(homes1, s.depth+1, t.now)
	zero.spread(src, bit, 0)
	one.spread(src, bit, bit)
	if s.depth == t.depth {
		doubled := make([]*shard, 0, 2*len(t.shards))
		for _, s := range t.shards {
			doubled = append(doubled, s, s)
		}
		t.shards, t.depth, i = doubled, t.depth+1, 2*i
		t.swept, t.shrunk = 2*t.swept, 2*t.shrunk // where they point to stays the same
	}
	span := 1 << (t.depth - s.depth)
	for first, j := i&^(span-1), 0; j < span; j++ {
		if j < span/2 {
			t.shards[first+j] = zero
		} else {
			t.shards[first+j] = one
		}
	}
	t.account(zero.bytes() + one.bytes() - s.bytes())
	return true
}

// forget keeps the youngest of src, at most n: whole steps, so perhaps fewer.
func (t *table) forget(src []slot, n int) []slot {
	if len(src) <= n {
		return src
	}
	var byAge [steps + 1]int
	for _, e := range src {
		byAge[e.age(t.now)]++
	}
	sum, young := 0, 0
	for sum+byAge[young] <= n {
		sum += byAge[young]
		young++
	}
	keep := int64(young) - 1
	kept := compact(src, t.now, keep)
	t.count -= len(src) - len(kept)
	t.floor = max(t.floor, t.now-max(keep, 0))
	t.pool.forgot(len(src) - len(kept))
	return kept
}

// shrink forgets the oldest quarter of one shard and gives its memory back; false: there was nothing to give.
func (t *table) shrink() bool {
	for range t.shards {
		t.shrunk = (t.shrunk + 1) % len(t.shards)
		s := t.shards[t.shrunk]
		before := s.used
		src := compact(s.slots, t.now, t.window)
		t.count -= before - len(src)
		s.rebuilt = t.now
		src = t.forget(src, len(src)*3/4)
		if homes := homesOf(len(src), headroom/2, src, 0, 0); homes < int(s.homes) {
			n := newShard(homes, s.depth, t.now)
			n.spread(src, 0, 0)
			t.replace(t.shrunk, s, n)
			return true
		}
		s.spread(src, 0, 0)
	}
	return false
}

// pool is the memory that all tables share. Where it is used up, the largest table forgets its oldest.
type pool struct {
	max       int64
	bytes     int64
	tables    map[*table]struct{}
	forgotten int64
}

func (p *pool) forgot(n int) { p.forgotten += int64(n) }

// reserve tells whether t may have so many bytes more, after tables larger than t have been made to give some.
func (p *pool) reserve(t *table, bytes int64) bool {
	for bytes > 0 && p.bytes+bytes > p.max {
		largest := t
		for other := range p.tables {
			if other.bytes > largest.bytes {
				largest = other
			}
		}
		if largest == t || !largest.shrink() {
			return false
		}
	}
	return true
}
