package audit

import "time"

// window remembers which events occurred in one partition. It is the dedupe rule (internal/dedupe's doc comment) written down as plainly as
// it is stated: the time of an event is the latest append time of the records with events up to and including its own; an event is a
// duplicate if its tenant had an event of that id at a lower place of the partition, at most a window earlier; every occurrence counts, also
// that of a duplicate.
type window struct {
	length  int64 // nanoseconds
	now     int64 // the partition's time, Unix nanoseconds
	swept   int64 // time of the last sweep
	tenants map[string]int32
	seen    map[occurrence]last
}

type occurrence struct {
	tenant int32
	id     [16]byte
}

// last is when and where an event occurred last.
type last struct {
	at     int64
	offset int64
}

func newWindow(length time.Duration) *window {
	return &window{length: int64(length), tenants: map[string]int32{}, seen: map[occurrence]last{}}
}

// advance goes on to a record that holds events.
func (w *window) advance(appended time.Time) {
	w.now = max(w.now, appended.UnixNano())
	if w.swept == 0 {
		w.swept = w.now
	}
	if w.now-w.swept < w.length/4 {
		return
	}
	w.swept = w.now
	for key, l := range w.seen { // what is too old to matter
		if w.now-l.at > w.length {
			delete(w.seen, key)
		}
	}
}

// occurred records an event of the record and tells the offset of which it is a duplicate, if it is one.
func (w *window) occurred(tenant string, id [16]byte, offset int64) (of int64, duplicate bool) {
	if w.length == 0 {
		return 0, false
	}
	number, ok := w.tenants[tenant]
	if !ok {
		number = int32(len(w.tenants))
		w.tenants[tenant] = number
	}
	key := occurrence{number, id}
	before, known := w.seen[key]
	w.seen[key] = last{w.now, offset}
	return before.offset, known && w.now-before.at <= w.length
}
