package mskexporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/spill"
)

// spillway sends requests to the object store while Kafka does not acknowledge them, and gives them back in order. It is a circuit
// breaker whose probe is the oldest object:
//
//	          a request is not acknowledged within spill::after
//	direct ----------------------------------------------------> spilling
//	  ^                                                          |  ^
//	  | the last objects, while requests wait (gate)             |  | a probe fails: wait probe_interval
//	  +----------------------------------------------------------+--+
//
// Invariants:
//   - a request is acknowledged when each of its records is in Kafka or in the store;
//   - no request goes to Kafka directly while this gateway has objects in the store: a source's requests keep their order;
//   - records that may be in Kafka already (an unknown outcome) are spilled all the same; deduplication removes the second.
type spillway struct {
	client *client
	cfg    SpillConfig
	spool  *spill.Spool

	// gate is held for reading by each delivery, and for writing while the last objects are drained.
	gate     sync.RWMutex
	spilling atomic.Bool
	tripped  chan struct{} // of 1: spilling has begun
}

const (
	// chaseObjects is how few objects are left when requests are made to wait for the rest: a second's work at most.
	chaseObjects  = 4
	adoptInterval = 30 * time.Second
)

func newSpillway(ctx context.Context, c *client) (*spillway, error) {
	s := &spillway{client: c, cfg: c.cfg.Spill, tripped: make(chan struct{}, 1)}
	if s.cfg.Gateway == "" {
		s.cfg.Gateway = string(c.gateway)
	}
	var err error
	s.spool, err = spill.Open(ctx, spill.Config{
		URL: s.cfg.URL, Gateway: s.cfg.Gateway, MaxObjectBytes: s.cfg.MaxObjectBytes, MaxLatency: s.cfg.MaxLatency,
		MaxBytes: s.cfg.MaxBytes, MaxAge: s.cfg.MaxAge,
	})
	if err != nil {
		return nil, err
	}
	s.trip() // objects of an earlier run come first; where there are none, the first look ends it
	return s, c.metrics.observeSpill(s.spool.Backlog, s.spilling.Load)
}

// trip begins to spill.
func (s *spillway) trip() bool {
	began := s.spilling.CompareAndSwap(false, true)
	select {
	case s.tripped <- struct{}{}:
	default:
	}
	return began
}

// deliver returns nil when each record is in Kafka or in the store.
func (s *spillway) deliver(records []record) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if !s.spilling.Load() {
		err := s.client.produce(records, s.cfg.After)
		if err == nil {
			return nil
		}
		if f := asFailure(err); f.class == kafka.Permanent {
			return f
		}
		if s.trip() {
			s.client.log.Error("Kafka does not acknowledge: requests go to the object store until it does", zap.Duration("spill::after", s.cfg.After), zap.Error(err))
		}
	}
	return s.put(records)
}

// put spills what Kafka has not acknowledged.
func (s *spillway) put(records []record) error {
	var out []spill.Record
	for i := range records {
		r := &records[i]
		if r.stored {
			continue
		}
		sr := spill.Record{Topic: r.kafka.Topic, Key: r.kafka.Key, Value: r.kafka.Value}
		for _, h := range r.kafka.Headers {
			if h.Key != envelope.HeaderFrame { // which names a frame of this run
				sr.Headers = append(sr.Headers, h)
			}
		}
		out = append(out, sr)
	}
	if err := s.spool.Put(context.WithoutCancel(s.client.alive), out); err != nil {
		f := &failure{class: kafka.Unknown, reason: reasonSpill, after: retryAfterOutage, err: fmt.Errorf("kafka does not acknowledge, and the spill does not take it: %w", err)}
		if errors.Is(err, spill.ErrFull) {
			f.class = kafka.Retryable
		}
		return f
	}
	for i := range records {
		if r := &records[i]; !r.stored {
			s.client.metrics.spilled.Add(context.Background(), 1, s.client.metrics.of[r.signal])
		}
	}
	return nil
}

// run gives back what was spilled, until ctx ends.
func (s *spillway) run(ctx context.Context) {
	adopt := time.NewTicker(adoptInterval)
	defer adopt.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.tripped:
			s.recover(ctx)
		case <-adopt.C:
			if s.client.ready.Load() {
				d, err := s.spool.Adopt(ctx, s.giveBack)
				s.report("another gateway's spilled requests are in Kafka", d, err)
			}
		}
	}
}

// recover tries until everything that this gateway has spilled is in Kafka and requests go there again.
func (s *spillway) recover(ctx context.Context) {
	last := ""
	for ctx.Err() == nil {
		err := s.tryRecover(ctx)
		if err == nil {
			return
		}
		if text := err.Error(); text != last && ctx.Err() == nil { // once for each cause
			s.client.log.Warn("spilled requests wait: Kafka or the object store fails", zap.Error(err))
			last = text
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.cfg.ProbeInterval):
		}
	}
}

var errUnready = errors.New("kafka's topics are not verified")

func (s *spillway) tryRecover(ctx context.Context) error {
	if !s.client.ready.Load() {
		return errUnready
	}
	d, err := s.spool.Drain(ctx, s.cfg.Gateway, chaseObjects, s.giveBack)
	if err == nil {
		s.gate.Lock()
		defer s.gate.Unlock()
		// Requests wait now, so not for longer than they would wait for Kafka.
		last, cancel := context.WithTimeoutCause(ctx, s.cfg.After, errTimeout)
		defer cancel()
		s.spool.Flush()
		var rest spill.Drained
		rest, err = s.spool.Drain(last, s.cfg.Gateway, 0, s.giveBack)
		d.Objects, d.Records, d.Bad = d.Objects+rest.Objects, d.Records+rest.Records, d.Bad+rest.Bad
	}
	s.report("spilled requests are in Kafka", d, err)
	if err != nil {
		return err
	}
	s.spilling.Store(false)
	return nil
}

// report counts what was set aside and logs what was given back.
func (s *spillway) report(what string, d spill.Drained, err error) {
	if d.Bad > 0 {
		s.client.metrics.damaged.Add(context.Background(), int64(d.Bad), s.client.metrics.plain)
		s.client.log.Error("spill objects that cannot be read were set aside under bad/: a person must look", zap.Int("objects", d.Bad))
	}
	if d.Objects > 0 {
		s.client.log.Info(what, zap.Int("objects", d.Objects), zap.Int("records", d.Records), zap.Bool("all", err == nil))
	}
}

// giveBack produces spilled records in their order and returns nil when Kafka has acknowledged all of them.
func (s *spillway) giveBack(ctx context.Context, rs []spill.Record) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.client.cfg.Timeout, errTimeout)
	defer cancel()
	records := make([]*kgo.Record, len(rs))
	for i, r := range rs {
		records[i] = &kgo.Record{Topic: r.Topic, Key: r.Key, Headers: r.Headers, Value: r.Value}
	}
	if err := s.client.kafka.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("produce to topic %s: %w", rs[0].Topic, err)
	}
	s.client.metrics.unspilled.Add(ctx, int64(len(rs)), s.client.metrics.plain)
	return nil
}
