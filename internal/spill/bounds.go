package spill

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrFull: what waits in the store has reached its bound of bytes or age, or a lane its share. Nothing was kept.
var ErrFull = errors.New("the spill has reached its bound")

// summary is what other gateways have in the store, as last listed.
type summary struct {
	objects int
	bytes   int64
	oldest  time.Time
	lanes   map[Lane]waiting
	many    time.Time // the oldest object whose lanes are not known; zero: there is none
}

func summarize(gateways map[string][]*entry) summary {
	x := summary{lanes: map[Lane]waiting{}}
	for _, entries := range gateways {
		for _, e := range entries {
			x.objects++
			x.bytes += e.bytes
			x.oldest = earlier(x.oldest, e.at)
			if e.lanes == nil {
				x.many = earlier(x.many, e.at)
			}
			for _, l := range e.lanes {
				w := x.lanes[l.lane]
				x.lanes[l.lane] = waiting{w.objects + 1, w.bytes + l.bytes, earlier(w.oldest, e.at)}
			}
		}
	}
	return x
}

// earlier is the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// full tells whether a lane may not have more in the store. A lane may have as much as all lanes together leave free: one that fails alone
// takes at most half of max_bytes, two a third each. So what a lane that is dead for hours has piled up never takes all the room of the
// others, which will need it when the cluster as a whole is away. Bytes of objects with many lanes count for no single lane.
func (s *Spool) full(lane Lane) error {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	s.othersMu.Lock()
	defer s.othersMu.Unlock()
	total := s.own.bytes + s.others.bytes
	free := s.cfg.MaxBytes - total
	if free <= 0 {
		return fmt.Errorf("%w: %d bytes wait in the store, max_bytes is %d", ErrFull, total, s.cfg.MaxBytes)
	}
	theirs := s.others.lanes[lane]
	has, oldest := theirs.bytes, theirs.oldest
	if w := s.own.lanes[lane]; w != nil {
		has, oldest = has+w.bytes, earlier(oldest, w.oldest)
	}
	if has >= free {
		return fmt.Errorf("%w: %d bytes of this partition wait in the store, and of max_bytes %d only %d are free; a partition gets no more than it leaves to the others", ErrFull, has, s.cfg.MaxBytes, free)
	}
	if s.aged(oldest) { // which is only a bound: the objects that made it may be drained
		oldest = theirs.oldest
		if w := s.own.lanes[lane]; w != nil {
			w.oldest = s.own.oldestOf(lane)
			oldest = earlier(oldest, w.oldest)
		}
	}
	if s.own.inWide(lane) {
		oldest = earlier(oldest, s.own.oldestMany())
	}
	oldest = earlier(oldest, s.others.many)
	if s.aged(oldest) {
		return fmt.Errorf("%w: the oldest object with records of this partition has waited %v, max_age is %v", ErrFull, s.now().Sub(oldest).Round(time.Second), s.cfg.MaxAge)
	}
	return nil
}

// Writable returns why nothing can be put into the store as a whole; nil: something can be. It writes an object, which is no part of what waits.
func (s *Spool) Writable(ctx context.Context) error {
	if b := s.Backlog(); b.Bytes >= s.cfg.MaxBytes {
		return fmt.Errorf("%w: %d bytes wait in the store, max_bytes is %d", ErrFull, b.Bytes, s.cfg.MaxBytes)
	}
	return s.bucket.WriteAll(ctx, s.cfg.Gateway+"/"+writableName, []byte(s.cfg.Gateway), nil)
}

func (s *Spool) aged(t time.Time) bool { return !t.IsZero() && s.now().Sub(t) >= s.cfg.MaxAge }

// oldestOf is called with mu held.
func (x *index) oldestOf(lane Lane) time.Time {
	for _, e := range x.entries {
		for _, l := range e.lanes {
			if l.lane == lane {
				return e.at
			}
		}
	}
	return time.Time{}
}

// oldestMany is called with mu held.
func (x *index) oldestMany() time.Time {
	for _, e := range x.entries {
		if e.lanes == nil {
			return e.at
		}
	}
	return time.Time{}
}
