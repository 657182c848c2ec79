package mskexporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/semaphore"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/spill"
)

// deliver writes what make returns and returns nil when Kafka holds all of it. It never returns before the fate of every record
// is known or given up, even when ctx has ended: the records' values are the caller's memory.
func (c *client) deliver(ctx context.Context, envelopes func() ([]envelope.Envelope, error)) error {
	began := time.Now()
	err := c.tryDeliver(ctx, envelopes)
	// The caller's ctx may have ended; a measurement is taken all the same.
	c.metrics.duration.Record(context.WithoutCancel(ctx), time.Since(began).Seconds(), c.metrics.plain)
	if err == nil {
		return nil
	}
	f := asFailure(err)
	c.metrics.failures.Add(context.WithoutCancel(ctx), 1, c.metrics.telemetry.With(attribute.String("class", f.class.String()), attribute.String("reason", f.reason)))
	return f.asConsumerError()
}

func (c *client) tryDeliver(ctx context.Context, envelopes func() ([]envelope.Envelope, error)) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	es, err := envelopes()
	if err != nil {
		return permanent(reasonInvalid, "%w", err)
	}
	var records []record
	var left []leftOut
	for _, e := range es {
		if len(e.Findings) > 0 && e.Lane != envelope.LaneQuarantine {
			forgetFrames(records)
			return retryable(reasonComposition, retryAfterOutage, "%s request of tenant %q has events that are to be quarantined, and nothing has taken them out; nothing was sent, an operator must put processor quarantine behind schema_validation in this pipeline", e.Signal, e.Tenant)
		}
		rs, out, err := c.records(ctx, e, envelope.Frame(ctx, e.Body))
		if err != nil {
			forgetFrames(records)
			return err
		}
		if len(rs) > 1 {
			c.metrics.splits.Add(ctx, 1, c.metrics.of[e.Signal])
		}
		records, left = append(records, rs...), append(left, out...)
	}
	switch {
	case len(records) == 0 && len(left) > 0:
		return left[0].failure
	case len(records) == 0:
		return nil
	}
	defer forgetFrames(records)
	if err := c.write(ctx, records); err != nil {
		return err
	}
	c.tell(ctx, left)
	return nil
}

// write returns when Kafka holds the records, or the store of the spill does.
func (c *client) write(ctx context.Context, records []record) error {
	err := c.tryWrite(ctx, records)
	c.recent.count(err)
	return err
}

func (c *client) tryWrite(ctx context.Context, records []record) error {
	to, err := c.assign(records)
	if err != nil {
		return err
	}
	room, err := c.admit(ctx, records, to)
	if err != nil {
		return err
	}
	defer room.release()
	if c.spillway != nil {
		return c.spillway.deliver(ctx, records, to, room)
	}
	out := c.produce(records)
	c.observe(out.worst)
	return out.err(len(records))
}

// assign gives each record its partition and returns their lanes. Without a spill it refuses what is for a topic that is not verified.
func (c *client) assign(records []record) ([]*lane, error) {
	to := make([]*lane, len(records))
	for i := range records {
		r := &records[i]
		topic := r.kafka.Topic
		if c.spillway == nil {
			if err := c.usable(topic); err != nil {
				return nil, retryable(reasonUnready, retryAfterOutage, "kafka is not ready, nothing was sent: %w", err)
			}
		}
		r.kafka.Partition = spill.Anywhere
		if n := c.router.count(topic); n > 0 {
			r.kafka.Partition = c.router.partition(r.kafka, n)
		}
		to[i] = c.lanes.get(topic, r.kafka.Partition)
	}
	return to, nil
}

// forgetFrames is for records whose fate is known, or that will not be sent.
func forgetFrames(records []record) {
	for i := range records {
		if f := records[i].forget; f != nil {
			f()
		}
	}
}

// room is what a request has of the buffer.
type room struct {
	bytes  int64
	detour bool // of the part for what goes to the store, too
	taken  []func()
}

func (r *room) release() {
	for _, release := range r.taken {
		release()
	}
}

func (r *room) take(ctx context.Context, of *semaphore.Weighted, n int64) error {
	if err := of.Acquire(ctx, n); err != nil {
		return err
	}
	r.taken = append(r.taken, func() { of.Release(n) })
	return nil
}

// admit waits for room for all of the records at once: a request is either in flight as a whole or not at all, so a refusal
// here means that nothing of it was sent. A lane has half of the buffer at most, and so has what goes to the store: one that is
// stuck, and a store that is, leave room to the others.
func (c *client) admit(ctx context.Context, records []record, to []*lane) (*room, error) {
	r := &room{}
	of := make(map[*lane]int64, 1)
	for i := range records {
		n := records[i].size()
		r.bytes += n
		of[to[i]] += n
	}
	wait, cancel := context.WithTimeout(ctx, c.maxWait())
	defer cancel()
	err := func() error {
		for _, l := range distinct(to) {
			if err := r.take(wait, l.room, min(of[l], c.lanes.perLane)); err != nil { // more than there will ever be takes all there is
				return fmt.Errorf("topic %s, partition %d has half of the buffer: %w", l.topic, l.partition, err)
			}
		}
		if c.spillway != nil && c.lanes.any(to) {
			if err := c.spillway.takeRoom(wait, r); err != nil {
				return err
			}
		}
		return r.take(wait, c.room, min(r.bytes, c.cfg.MaxBufferedBytes))
	}()
	if err == nil {
		c.buffered.Add(r.bytes)
		r.taken = append(r.taken, func() { c.buffered.Add(-r.bytes) })
		return r, nil
	}
	r.release()
	if ctx.Err() != nil {
		return nil, retryable(reasonCancelled, retryAfterFull, "the caller left while %d bytes waited for room in the buffer; nothing was sent: %w", r.bytes, context.Cause(ctx))
	}
	return nil, retryable(reasonBufferFull, retryAfterFull, "no room for %d bytes within max_wait %v: %d of max_buffered_bytes %d wait for Kafka; nothing was sent: %w", r.bytes, c.cfg.MaxWait, c.buffered.Load(), c.cfg.MaxBufferedBytes, err)
}

// maxWait: when Kafka stops answering, the buffer is full of requests that are spilled a moment later.
func (c *client) maxWait() time.Duration {
	if c.spillway != nil {
		return c.cfg.MaxWait + c.cfg.patience()
	}
	return c.cfg.MaxWait
}

// outcome collects what became of records.
type outcome struct {
	pending sync.WaitGroup

	mu      sync.Mutex
	stored  int               // guarded by mu
	worst   *failure          // guarded by mu
	refused map[*record]error // guarded by mu; for good
	lost    bool              // guarded by mu; a broker did not know a topic by its id
}

// err is the worst that became of a request of so many records.
func (o *outcome) err(of int) error {
	if o.worst == nil {
		return nil
	}
	if o.stored > 0 {
		if o.worst.class == kafka.Retryable {
			o.worst.class = kafka.Unknown
		}
		o.worst.err = fmt.Errorf("%w (%d of the request's %d records are stored)", o.worst.err, o.stored, of)
	}
	return o.worst
}

var errTimeout = errors.New("no acknowledgement within timeout")

// produce sends the records and waits until each is acknowledged, refused or given up. The Kafka client gives them up when they were tried for long
// enough; the context is for a broker that is frozen. The caller's context plays no part: cancelling a record fails every record behind it in its
// partition, other callers' included.
func (c *client) produce(records []record) *outcome {
	ctx, cancel := context.WithCancelCause(c.alive)
	defer cancel(nil)
	timer := time.AfterFunc(c.cfg.patience()+c.cfg.answer(), func() { cancel(errTimeout) })
	defer timer.Stop()
	kc := c.kafka.client()
	o := &outcome{}
	o.pending.Add(len(records))
	for i := range records {
		r := &records[i]
		kc.Produce(ctx, r.kafka, func(_ *kgo.Record, err error) {
			defer o.pending.Done()
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
				err = cause
			}
			o.done(r, err)
		})
	}
	o.pending.Wait()
	c.metrics.acknowledged(records)
	if o.lost {
		c.lost()
	}
	return o
}

// done is called once a record, by the Kafka client.
func (o *outcome) done(r *record, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		r.stored = true
		o.stored++
		return
	}
	if errors.Is(err, kerr.UnknownTopicID) {
		o.lost = true
	}
	class := kafka.Classify(err)
	if class == kafka.Permanent && !kafka.IsTooLarge(err) {
		class = kafka.Retryable // rights, topics, credentials: ours to mend, and a sender that is told no drops its data
		err = fmt.Errorf("refused until an operator mends it: %w", err)
	}
	err = fmt.Errorf("topic %s, tenant %q, %d events: %w", r.kafka.Topic, r.tenant, r.events, err)
	if class == kafka.Permanent {
		if o.refused == nil {
			o.refused = map[*record]error{}
		}
		o.refused[r] = err
	}
	if o.worst != nil && urgency[class] <= urgency[o.worst.class] {
		return
	}
	o.worst = &failure{class: class, reason: reasonKafka, err: err}
	if class != kafka.Permanent {
		o.worst.after = retryAfterOutage
	}
}

// urgency decides between the records of one request: as long as a retry can store one more of them, the caller shall retry; that
// nothing more can be done is said only when it is so.
var urgency = map[kafka.Class]int{kafka.Permanent: 1, kafka.Retryable: 2, kafka.Unknown: 3}
