package dedupe

import "github.com/pulsegrid/pulsegrid/internal/eventid"

// decider decides about one record at a time, and keeps its memory from one to the next. Memory's lock guards it.
type decider struct {
	copies []int32
	// counts says how often a key occurs among the first counted events of a record.
	counts  map[eventid.Key]int
	counted int
}

// countsKept bounds the map that is kept from one record to the next.
const countsKept = 4096

// decide notes all occurrences of a record, now, and returns the positions of its copies, which are valid until the next call.
func (d *decider) decide(t *table, r *eventid.Record) []int32 {
	d.copies = d.copies[:0]
	d.counted = 0
	whole, parts := requestOf(t, r)
	if r.Whole && r.ByRequest == len(r.Rules) && !whole && !parts {
		return d.copies // new, with all of its events
	}
	for i, rule := range r.Rules {
		if i%ahead == 0 && len(r.Rules) > ahead {
			t.touch(r.Keys[i:min(i+ahead, len(r.Keys))])
		}
		var isCopy bool
		switch rule {
		case eventid.ByContent:
			isCopy = d.content(t, r, i)
		case eventid.ByUID:
			isCopy = t.occur(r.Keys[i]) >= 0
		case eventid.ByRequest:
			switch {
			case !r.Whole:
				isCopy = t.occur(r.IndexKey(i)) >= 0 || whole
			case whole:
				isCopy = true
			case parts:
				isCopy = t.find(r.IndexKey(i))
			}
		}
		if isCopy {
			d.copies = append(d.copies, int32(i))
		}
	}
	return d.copies
}

// requestOf notes that a request, or parts of it, occurred; it tells whether the whole request or parts of it had occurred before. An occurrence of the
// whole is one of each of its events, so these are asked for one by one only where there are parts.
func requestOf(t *table, r *eventid.Record) (whole, parts bool) {
	switch {
	case r.ByRequest == 0:
	case r.Whole:
		whole = t.occur(r.WholeKey()) >= 0
		parts = !whole && t.find(r.PartsKey())
	default:
		whole = t.find(r.WholeKey())
		parts = t.occur(r.PartsKey()) >= 0
	}
	return whole, parts
}

// content decides about an event by content and ordinal. Hardly any record has equal events, so equals are counted only where its key has occurred in this
// step of time: else that was in an earlier record, and the event is the first of its equals.
func (d *decider) content(t *table, r *eventid.Record, i int) bool {
	k := r.Keys[i]
	if !r.Whole {
		_, nth := r.At(i)
		return t.occur(k.Nth(nth)) >= 0
	}
	age := t.occur(k)
	if age != 0 {
		return age > 0
	}
	if nth := d.before(r, i); nth > 0 {
		return t.occur(k.Nth(nth)) >= 0
	}
	return true
}

// before is how many events before this one have its content.
func (d *decider) before(r *eventid.Record, i int) int {
	if d.counted == 0 {
		if len(d.counts) > countsKept || d.counts == nil {
			d.counts = map[eventid.Key]int{}
		}
		clear(d.counts)
	}
	for ; d.counted < i; d.counted++ {
		if r.Rules[d.counted] == eventid.ByContent {
			d.counts[r.Keys[d.counted]]++
		}
	}
	return d.counts[r.Keys[i]]
}

// touch touches the keys of the first records, and returns how many these are: at least one.
func (d *decider) touch(t *table, records []eventid.Record) int {
	var keys [ahead]eventid.Key
	n, i := 0, 0
	for ; i < len(records); i++ {
		r := &records[i]
		if n+len(r.Keys)+1 > ahead {
			break
		}
		n += copy(keys[n:], r.Keys)
		if r.ByRequest > 0 {
			keys[n] = r.WholeKey()
			n++
		}
	}
	t.touch(keys[:n])
	return max(i, 1)
}
