package mskexporter

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/pulsegrid/pulsegrid/internal/spill"
)

// lane is a partition of a topic, or the topic where its partitions are not known yet: what fails and recovers as one. There is one for each
// partition that a record was for, a few hundred bytes each; Kafka bounds their number.
type lane struct {
	topic     string
	partition int32 // spill.Anywhere: not known
	id        spill.Lane
	topicID   spill.Lane          // the topic's lane: what it has in the store comes before
	room      *semaphore.Weighted // bytes that the lane may have in flight

	spilling bool // guarded by lanes.mu; requests go to the store
	closing  bool // guarded by lanes.mu; the last objects are given back, requests wait
	inflight int  // guarded by lanes.mu; requests that have entered and not left
}

// lanes are those of a client.
type lanes struct {
	perLane int64 // bytes
	// born tells whether a lane begins with its requests going to the store.
	born func(*lane) bool

	mu       sync.Mutex
	of       map[laneKey]*lane // guarded by mu
	spilling int               // guarded by mu; how many do
	moved    chan struct{}     // guarded by mu; closed, and made anew, when a lane is no longer closing, or has nothing in flight
}

type laneKey struct {
	topic     string
	partition int32
}

func newLanes(perLane int64) *lanes {
	return &lanes{perLane: perLane, of: map[laneKey]*lane{}, moved: make(chan struct{}), born: func(*lane) bool { return false }}
}

func (s *lanes) get(topic string, partition int32) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := laneKey{topic, partition}
	l := s.of[key]
	if l == nil {
		l = &lane{topic: topic, partition: partition, id: spill.LaneOf(topic, partition), topicID: spill.LaneOf(topic, spill.Anywhere), room: semaphore.NewWeighted(s.perLane)}
		if l.spilling = s.born(l); l.spilling {
			s.spilling++
		}
		s.of[key] = l
	}
	return l
}

// spillingNow is how many lanes' requests go to the store.
func (s *lanes) spillingNow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spilling
}

// any tells whether one of the lanes' requests go to the store.
func (s *lanes) any(of []*lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(of, func(l *lane) bool { return l.spilling })
}

// enter is called by a request with the lanes of its records. It waits while one of them is closing, and returns which of them spill, in their
// order. leave must be called when the request's fate is known.
func (s *lanes) enter(of []*lane) (detour []bool, leave func()) {
	s.mu.Lock()
	for slices.ContainsFunc(of, func(l *lane) bool { return l.closing }) {
		moved := s.moved
		s.mu.Unlock()
		<-moved
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	detour = make([]bool, len(of))
	for i, l := range of {
		l.inflight++
		detour[i] = l.spilling
	}
	return detour, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, l := range of {
			if l.inflight--; l.inflight == 0 && l.closing {
				s.wake()
			}
		}
	}
}

// wake is called with mu held.
func (s *lanes) wake() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// trip has the lane's requests go to the store. first tells that they did not before; now is how many lanes spill.
func (s *lanes) trip(l *lane) (first bool, now int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first = !l.spilling; first {
		l.spilling = true
		s.spilling++
	}
	return first, s.spilling
}

// beginClosing has requests of spilling lanes that fit wait, until those that have entered have left. endClosing must be called with the lanes
// that it returns, and with true where ctx has not ended before.
func (s *lanes) beginClosing(ctx context.Context, fits func(*lane) bool) (closing []*lane, quiet bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.of {
		if l.spilling && fits(l) {
			l.closing = true
			closing = append(closing, l)
		}
	}
	for slices.ContainsFunc(closing, func(l *lane) bool { return l.inflight > 0 }) {
		moved := s.moved
		s.mu.Unlock()
		select {
		case <-moved:
			s.mu.Lock()
		case <-ctx.Done():
			s.mu.Lock()
			return closing, false
		}
	}
	return closing, true
}

// endClosing lets requests go on, to Kafka where empty says that the lane has nothing in the store any more. It returns how many lanes spill.
func (s *lanes) endClosing(closing []*lane, empty func(*lane) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range closing {
		l.closing = false
		if l.spilling && empty(l) {
			l.spilling = false
			s.spilling--
		}
	}
	s.wake()
	return s.spilling
}

// candidates are the spilling lanes that fit.
func (s *lanes) candidates(fits func(*lane) bool) (out []*lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.of {
		if l.spilling && fits(l) {
			out = append(out, l)
		}
	}
	return out
}

// distinct returns each lane once, in one order for all requests: whoever waits for room in several waits for no one that waits for it.
func distinct(of []*lane) []*lane {
	out := slices.Clone(of)
	slices.SortFunc(out, func(a, b *lane) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	})
	return slices.Compact(out)
}
