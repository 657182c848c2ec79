package mskreceiver

import (
	"time"

	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
)

// flight is one block from the moment that its range is decided until it is finished.
//
//	intending --> ready --> delivering --> delivered --> finished (released: it and all before it are delivered)
//	    ^                    |      |
//	    |       halved <-----+      +--> stopped
//	    +---------+  (refused, once it is the oldest)
//
// Only run touches it, but for entries while it is delivering: then they belong to that delivery.
type flight struct {
	span
	topicID  block.TopicID
	intended time.Time
	intent   uint64 // number of the statement that carries its range; it is ready when that is committed
	state    flightState
	cost     int64
	named    *block.RefusedError // refused because of these events; nil: the store did not say
	because  error               // refused for that
}

type flightState uint8

const (
	waiting flightState = iota // for its intent, or for its turn
	delivering
	delivered
	refused
)

// flights are a partition's blocks that are not finished, in the order of their offsets. Owned by the partition's run.
type flights struct {
	queue   []*flight
	running int
	ended   chan landing

	done     position // what is finished; its ends are not kept here
	number   uint64   // of the last statement
	changed  bool     // there is something to state
	urgent   bool     // something waits for it
	finishes bool
	sentBack *block.ResumeError
	finished bool // a block has been finished
}

// landing is how a delivery ended.
type landing struct {
	flight *flight
	how    flightState // delivered, refused, or waiting: it was stopped
	resume *block.ResumeError
}

// begin takes over from at. Ranges that were intended without a topic id, by an older version, are redone without one: blocks' names
// have it.
func (f *flights) begin(at position, topic block.TopicID) {
	f.done = at
	if len(at.ends) == 0 {
		f.done.topicID = topic
	}
}

// cut makes flights of what has gathered, as many as may be under way. It returns after how long the next block will be old
// enough; zero: that does not depend on time.
func (p *partition) cut() time.Duration {
	fs := &p.flights
	if p.warm != nil {
		return 0
	}
	for len(fs.queue) < p.deps.cfg.MaxInFlightBlocks {
		if len(p.gather.redo) == 0 && fs.done.topicID != p.plan.topic {
			if len(fs.queue) > 0 {
				return 0 // finished under their old names first: what is stated has one topic id
			}
			fs.done.topicID = p.plan.topic
		}
		now := p.deps.now()
		s, wait, ok := p.gather.cut(now, p.deps.budget.paused(p))
		if !ok {
			return wait
		}
		f := &flight{span: s, topicID: fs.done.topicID, intended: now}
		if s.redo {
			f.intended = p.plan.intended
			p.checkComplete()
		} else {
			f.intent = fs.number + 1
			fs.changed, fs.urgent = true, true
		}
		for _, e := range s.entries {
			f.cost += e.cost
		}
		fs.queue = append(fs.queue, f)
		p.deps.tel.closed(p, s, now)
	}
	return 0
}

// launch begins the deliveries that are ready, oldest first.
func (p *partition) launch() {
	fs := &p.flights
	if len(fs.queue) > 0 && fs.queue[0].state == refused {
		p.refused(fs.queue[0])
	}
	acked := p.acked.Load()
	for _, f := range fs.queue {
		if fs.running >= p.deps.cfg.MaxInFlightBlocks || f.state == waiting && f.intent > acked {
			return
		}
		if f.state != waiting {
			continue
		}
		f.state = delivering
		fs.running++
		failpoint.Hit("block-intended")
		go p.deliver(f)
	}
}

// refused does what can be done about the oldest block, which its store refuses for good.
func (p *partition) refused(f *flight) {
	switch {
	case f.named != nil && p.omit(f):
	case len(f.entries) > 1:
		p.halve()
	default:
		f.entries[0].refusal = &refusal{codeRefused, f.because.Error()} // the next try puts it into quarantine
		f.state = waiting
	}
}

// halve makes two blocks of the oldest, which was refused: the two ranges become intents like any other, so that whoever goes on
// after a crash delivers the halves, of which one may be stored. Only the oldest is halved: so the ranges that are decided stay
// few, at most max_in_flight_blocks and one for each time that a block can be halved.
func (p *partition) halve() {
	fs := &p.flights
	whole := fs.queue[0]
	n := len(whole.entries) / 2
	left, right := *whole, *whole
	left.named, right.named = nil, nil
	left.entries, right.entries = whole.entries[:n:n], whole.entries[n:]
	left.last = left.entries[n-1].record.Offset
	right.first, right.cost = left.last+1, 0
	for _, e := range right.entries {
		right.cost += e.cost
	}
	left.cost -= right.cost
	for _, half := range []*flight{&left, &right} {
		half.state, half.intent = waiting, fs.number+1
	}
	fs.queue = append([]*flight{&left, &right}, fs.queue[1:]...)
	fs.changed, fs.urgent = true, true
}

// settle takes a delivery's end, and releases what is finished by it.
func (p *partition) settle(l landing) {
	fs := &p.flights
	fs.running--
	l.flight.state = l.how
	if l.resume != nil && fs.sentBack == nil {
		fs.sentBack = l.resume
		p.abandon()
	}
	if fs.sentBack != nil {
		return // what the store holds is not what the group was told: nothing is finished on top of that
	}
	var freed int64
	for len(fs.queue) > 0 && fs.queue[0].state == delivered {
		f := fs.queue[0]
		fs.queue = fs.queue[1:]
		freed += f.cost
		fs.done.next, fs.done.fresh = f.last+1, false
		for _, e := range f.entries {
			fs.done.epoch = e.record.LeaderEpoch
			fs.done.appended = e.record.Timestamp
		}
		fs.changed, fs.finishes, fs.finished = true, true, true
	}
	if freed > 0 {
		p.deps.budget.add(p, -freed)
	}
	p.oldest.Store(fs.done.next)
	p.fresh.Store(fs.done.fresh)
	p.position.Store(fs.done.next)
}

// linger is how long a finished block may wait for the next block's intent, to be committed with it. A partition whose records
// keep coming cuts a block in less.
func (c *BlockConfig) linger() time.Duration { return c.MaxAge + 100*time.Millisecond }

// announce states what has changed: how far the partition is, and which blocks are decided.
func (p *partition) announce() {
	fs := &p.flights
	if !fs.changed {
		return
	}
	s := statement{position: fs.done, finishes: fs.finishes, due: p.deps.now()}
	s.ends, s.intended = nil, time.Time{}
	for _, f := range fs.queue {
		s.ends = append(s.ends, f.last+1)
	}
	s.ends = append(s.ends, p.gather.redo...)
	s.epochs = p.epochs.below(s.decided())
	s.omissions = p.omissions()
	switch {
	case len(fs.queue) > 0:
		s.intended = fs.queue[0].intended
	case len(p.gather.redo) > 0:
		s.intended = p.plan.intended
	}
	if !fs.urgent {
		s.due = s.due.Add(p.deps.cfg.Block.linger())
	}
	fs.number++
	s.number = fs.number
	fs.changed, fs.urgent, fs.finishes = false, false, false
	p.deps.committer.state(p, s)
}

// land waits for the deliveries under way, and states what they finished.
func (p *partition) land() *block.ResumeError {
	fs := &p.flights
	for fs.running > 0 || p.strays.busy {
		select {
		case l := <-fs.ended:
			p.settle(l)
		case r := <-p.strays.ended:
			p.straysEnded(r)
		}
	}
	if fs.sentBack != nil {
		p.log.Warn("the store sends the partition back", zap.Int64("oldest_offset", fs.done.next), zap.Error(fs.sentBack))
		return fs.sentBack
	}
	p.announce()
	return nil
}
