package mskexporter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
	"github.com/pulsegrid/pulsegrid/internal/spill"
)

// spillway sends records to the object store while Kafka does not acknowledge them, and gives them back in order. It is a circuit breaker
// for each lane, a partition of a topic, whose probe is the lane's oldest record in the store:
//
//	          a record is not acknowledged within spill::after
//	direct ----------------------------------------------------> spilling
//	  ^                                                          |  ^
//	  | the last objects, while the lane's requests wait         |  | a probe fails: wait probe_interval
//	  +----------------------------------------------------------+--+
//
// Invariants:
//   - a request is acknowledged when each of its records is in Kafka or in the store;
//   - no record of a lane goes to Kafka directly while this gateway has records of the lane, or of its topic's, in the store: a source's
//     requests keep their order;
//   - records that may be in Kafka already (an unknown outcome) are spilled all the same; deduplication removes the second.
type spillway struct {
	client *client
	cfg    SpillConfig
	spool  *spill.Spool
	back   *giveBack
	detour *semaphore.Weighted // bytes of requests that go to the store
	share  int64               // of max_buffered_bytes for them

	tripped chan struct{} // of 1: there is something to do
}

const (
	// chaseObjects is how few objects are left when requests are made to wait for the rest: a second's work at most.
	chaseObjects  = 4
	adoptInterval = 30 * time.Second
	lookTimeout   = 3 * time.Second
	// loudTrips is how many lanes are named in the log as they fail, before it is enough to say how many there are.
	loudTrips = 8
)

func newSpillway(ctx context.Context, c *client, back *giveBack) (*spillway, error) {
	s := &spillway{client: c, cfg: c.cfg.Spill, back: back, share: c.cfg.MaxBufferedBytes / 2, tripped: make(chan struct{}, 1)}
	s.detour = semaphore.NewWeighted(s.share)
	if s.cfg.Gateway == "" {
		s.cfg.Gateway = string(c.gateway)
	}
	var err error
	s.spool, err = spill.Open(ctx, spill.Config{
		URL: s.cfg.URL, Gateway: s.cfg.Gateway, MaxObjectBytes: s.cfg.MaxObjectBytes, MaxLatency: s.cfg.MaxLatency,
		MaxBytes: s.cfg.MaxBytes, MaxAge: s.cfg.MaxAge,
		Left: func(err error) {
			c.log.Error("the object store does not give spilled requests back: they wait in it, and the others go on without them", zap.Error(err))
		},
	})
	if err != nil {
		return nil, err
	}
	// Objects of an earlier run come first. Until the store has been listed any lane may have some.
	c.lanes.born = func(l *lane) bool {
		return c.usable(l.topic) != nil || s.waits(l)
	}
	s.wake()
	return s, c.metrics.observeSpill(s.cfg.MaxBytes, s.spool.Backlog, c.lanes.spillingNow)
}

func (s *spillway) wake() {
	select {
	case s.tripped <- struct{}{}:
	default:
	}
}

// takeRoom takes a request's part of what may wait for the store.
func (s *spillway) takeRoom(ctx context.Context, r *room) error {
	if err := r.take(ctx, s.detour, min(r.bytes, s.share)); err != nil {
		return fmt.Errorf("half of the buffer waits for the object store: %w", err)
	}
	r.detour = true
	return nil
}

// deliver returns nil when each record is in Kafka or in the store. It may change the order of records of different lanes.
func (s *spillway) deliver(ctx context.Context, records []record, to []*lane, room *room) error {
	detour, leave := s.client.lanes.enter(to)
	defer leave()
	direct := 0 // those before it go to Kafka
	for i := range records {
		if !detour[i] {
			// Those between keep their order: they are rotated, not swapped.
			r, l := records[i], to[i]
			copy(records[direct+1:i+1], records[direct:i])
			copy(to[direct+1:i+1], to[direct:i])
			records[direct], to[direct] = r, l
			direct++
		}
	}
	out := &outcome{}
	if direct > 0 {
		out = s.client.produce(records[:direct])
		for i := range records[:direct] {
			if r := &records[i]; !r.stored && out.refused[r] == nil {
				s.trip(to[i], out.worst)
			}
		}
	}
	var rest []*record
	for i := range records {
		if r := &records[i]; !r.stored && out.refused[r] == nil {
			rest = append(rest, r)
		}
	}
	if len(rest) > 0 {
		if err := s.put(ctx, rest, room, out.stored > 0); err != nil {
			return err
		}
	}
	for _, err := range out.refused { // and the others are stored
		return permanent(reasonKafka, "%w (%d of the request's %d records are stored)", err, len(records)-len(out.refused), len(records))
	}
	return nil
}

// trip begins to spill what is for a lane.
func (s *spillway) trip(l *lane, why *failure) {
	s.spool.Block(l.id)
	first, now := s.client.lanes.trip(l)
	if first {
		if now <= loudTrips {
			s.client.log.Error("Kafka does not acknowledge: requests for this partition go to the object store until it does", zap.String("topic", l.topic), zap.Int32("partition", l.partition),
				zap.Int("such partitions", now), zap.Duration("spill::after", s.cfg.After), zap.Error(why))
		}
		s.client.observe(why)
	}
	s.wake()
}

// put spills what Kafka has not acknowledged.
func (s *spillway) put(ctx context.Context, records []*record, room *room, some bool) error {
	if !room.detour {
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.client.cfg.MaxWait/2)
		defer cancel()
		if err := s.takeRoom(wait, room); err != nil {
			return &failure{class: kafka.Unknown, reason: reasonBufferFull, after: retryAfterOutage, err: fmt.Errorf("kafka does not acknowledge, and there is no room to spill: %w", err)}
		}
	}
	out := make([]spill.Record, len(records))
	for i, r := range records {
		out[i] = spill.Record{Topic: r.kafka.Topic, Partition: r.kafka.Partition, Key: r.kafka.Key, Value: r.kafka.Value}
		for _, h := range r.kafka.Headers {
			if h.Key != envelope.HeaderFrame { // which names a frame of this run
				out[i].Headers = append(out[i].Headers, h)
			}
		}
	}
	if err := s.spool.Put(context.WithoutCancel(s.client.alive), out); err != nil {
		f := &failure{class: kafka.Unknown, reason: reasonSpill, after: retryAfterOutage, err: fmt.Errorf("kafka does not acknowledge, and the spill does not take it: %w", err)}
		if errors.Is(err, spill.ErrFull) && !some {
			f.class = kafka.Retryable
		}
		return f
	}
	for _, r := range records {
		s.client.metrics.spilled.Add(context.Background(), 1, s.client.metrics.of[r.signal])
	}
	s.wake()
	return nil
}

// look lists what an earlier run has left in the store, so that the first requests need not go there. A store that does not answer is asked
// again later.
func (s *spillway) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_ = s.spool.Refresh(ctx)
}

// run gives back what was spilled, until ctx ends.
func (s *spillway) run(ctx context.Context) {
	last := ""
	for ctx.Err() == nil {
		again, err := s.cycle(ctx)
		text := ""
		if err != nil {
			if text = err.Error(); text != last && ctx.Err() == nil { // once for each cause
				s.client.log.Warn("spilled requests wait: Kafka or the object store fails", zap.Error(err))
			}
		}
		last = text
		if again && err == nil {
			continue
		}
		if err == nil && s.client.lanes.spillingNow() == 0 && s.spool.Own() == 0 {
			select {
			case <-ctx.Done():
			case <-s.tripped:
			}
		}
		_ = sleep.For(ctx, s.cfg.ProbeInterval) // the loop looks at the context
	}
}

// adopt gives back what gateways have left behind that are gone, until ctx ends.
func (s *spillway) adopt(ctx context.Context) {
	tick := time.NewTicker(adoptInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.client.anyUsable() {
			d, err := s.spool.Adopt(ctx, s.back)
			s.report("another gateway's spilled requests are in Kafka", d)
			if err != nil && ctx.Err() == nil {
				s.client.log.Warn("another gateway's spilled requests wait", zap.Error(err))
			}
		}
	}
}

var errUnready = errors.New("kafka's topics are not verified")

// cycle gives back once through what the store has, and lets requests go to Kafka again where nothing is left. again says that it is worth
// while to go on at once.
func (s *spillway) cycle(ctx context.Context) (again bool, err error) {
	if !s.client.anyUsable() {
		return false, errUnready
	}
	d, err := s.spool.Drain(ctx, s.back)
	s.report("spilled requests are in Kafka", d)
	closed, closeErr := s.close(ctx)
	return closed || d.Objects > 0 || d.Records > 0, errors.Join(err, closeErr)
}

// close lets requests of lanes go to Kafka again, of which nothing is left in the store but for a few objects that came meanwhile: those are given
// back while the lanes' requests wait.
func (s *spillway) close(ctx context.Context) (closed bool, err error) {
	c := s.client
	lives := func(l *lane) bool { return !s.spool.Blocked(l.id) && c.usable(l.topic) == nil }
	candidates := c.lanes.candidates(lives)
	if len(candidates) == 0 {
		return false, nil
	}
	is := map[*lane]bool{}
	ids := map[spill.Lane]struct{}{}
	for _, l := range candidates {
		is[l] = true
		ids[l.id], ids[l.topicID] = struct{}{}, struct{}{}
	}
	if s.spool.Within(ids, chaseObjects+1) > chaseObjects {
		return false, nil
	}
	// Requests wait now, so not for longer than they would wait for Kafka.
	wait, cancel := context.WithTimeoutCause(ctx, s.cfg.After, errTimeout)
	defer cancel()
	closing, quiet := c.lanes.beginClosing(wait, func(l *lane) bool { return is[l] && lives(l) })
	if quiet && slices.ContainsFunc(closing, func(l *lane) bool { return s.waits(l) }) {
		var d spill.Drained
		d, err = s.spool.Sweep(wait, s.back)
		s.report("spilled requests are in Kafka", d)
	}
	left := c.lanes.endClosing(closing, func(l *lane) bool {
		empty := quiet && lives(l) && !s.waits(l)
		closed = closed || empty
		return empty
	})
	if left == 0 {
		c.observe(nil)
	}
	return closed, err
}

// waits tells whether the store may have something that comes before the lane's next request.
func (s *spillway) waits(l *lane) bool { return s.spool.Holds(l.id) || s.spool.Holds(l.topicID) }

// report counts what was set aside and logs what was given back.
func (s *spillway) report(what string, d spill.Drained) {
	if d.Bad > 0 {
		s.client.metrics.damaged.Add(context.Background(), int64(d.Bad), s.client.metrics.plain)
		s.client.log.Error("spill objects that cannot be read, or records that Kafka refuses for good, were set aside under bad/: a person must look", zap.Int("number", d.Bad))
	}
	if d.Records > 0 {
		s.client.log.Info(what, zap.Int("objects", d.Objects), zap.Int("records", d.Records))
	}
}
