package mskexporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
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
	for _, e := range es {
		rs, err := c.records(e, envelope.Frame(ctx, e.Body))
		if err != nil {
			forgetFrames(records)
			return err
		}
		if len(rs) > 1 {
			c.metrics.splits.Add(ctx, 1, c.metrics.of[e.Signal])
		}
		records = append(records, rs...)
	}
	if len(records) == 0 {
		return nil
	}
	defer forgetFrames(records)
	release, err := c.admit(ctx, records)
	if err != nil {
		return err
	}
	defer release()
	if c.spillway != nil {
		return c.spillway.deliver(records)
	}
	return c.produce(records, c.cfg.Timeout)
}

// forgetFrames is for records whose fate is known, or that will not be sent.
func forgetFrames(records []record) {
	for i := range records {
		if f := records[i].forget; f != nil {
			f()
		}
	}
}

// admit waits for room for all of the records at once: a request is either in flight as a whole or not at all, so a refusal
// here means that nothing of it was sent.
func (c *client) admit(ctx context.Context, records []record) (release func(), err error) {
	var total int64
	for i := range records {
		total += records[i].size()
	}
	// More than there will ever be takes all there is.
	take := min(total, c.cfg.MaxBufferedBytes)
	if !c.room.TryAcquire(take) {
		wait, cancel := context.WithTimeout(ctx, c.maxWait())
		defer cancel()
		if err := c.room.Acquire(wait, take); err != nil {
			if ctx.Err() != nil {
				return nil, retryable(reasonCancelled, retryAfterFull, "the caller left while %d bytes waited for room in the buffer; nothing was sent: %w", total, context.Cause(ctx))
			}
			return nil, retryable(reasonBufferFull, retryAfterFull, "no room for %d bytes within max_wait %v: %d of max_buffered_bytes %d wait for Kafka; nothing was sent", total, c.cfg.MaxWait, c.buffered.Load(), c.cfg.MaxBufferedBytes)
		}
	}
	c.buffered.Add(total)
	return func() {
		c.buffered.Add(-total)
		c.room.Release(take)
	}, nil
}

// maxWait: when Kafka stops answering, the buffer is full of requests that are spilled a moment later.
func (c *client) maxWait() time.Duration {
	if c.spillway != nil {
		return c.cfg.MaxWait + c.cfg.Spill.After
	}
	return c.cfg.MaxWait
}

// delivery collects what became of a request's records.
type delivery struct {
	pending sync.WaitGroup

	mu     sync.Mutex
	stored int
	worst  *failure
}

var errTimeout = errors.New("no acknowledgement within timeout")

// produce sends the records and waits, at most so long, until each is acknowledged, refused or given up. The caller's context plays no
// part: cancelling a record fails every record behind it in its partition, other callers' included.
func (c *client) produce(records []record, wait time.Duration) error {
	ctx, cancel := context.WithCancelCause(c.alive)
	defer cancel(nil)
	timer := time.AfterFunc(wait, func() { cancel(errTimeout) })
	defer timer.Stop()
	var d delivery
	d.pending.Add(len(records))
	for i := range records {
		r := &records[i]
		c.kafka.Produce(ctx, r.kafka, func(_ *kgo.Record, err error) {
			defer d.pending.Done()
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
				err = cause
			}
			d.done(r, err)
		})
	}
	d.pending.Wait()
	c.metrics.acknowledged(records)
	c.observe(d.worst)
	if d.worst == nil {
		return nil
	}
	if d.stored > 0 {
		if d.worst.class == kafka.Retryable {
			d.worst.class = kafka.Unknown
		}
		d.worst.err = fmt.Errorf("%w (%d of the request's %d records are stored)", d.worst.err, d.stored, len(records))
	}
	return d.worst
}

// done is called once a record, by the Kafka client.
func (d *delivery) done(r *record, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		r.stored = true
		d.stored++
		return
	}
	class := kafka.Classify(err)
	if class == kafka.Permanent && !kafka.IsTooLarge(err) {
		class = kafka.Retryable // rights, topics, credentials: ours to mend, and a sender that is told no drops its data
		err = fmt.Errorf("refused until an operator mends it: %w", err)
	}
	if d.worst != nil && urgency[class] <= urgency[d.worst.class] {
		return
	}
	d.worst = &failure{class: class, reason: reasonKafka, err: fmt.Errorf("topic %s, tenant %q, %d events: %w", r.kafka.Topic, r.tenant, r.events, err)}
	if class != kafka.Permanent {
		d.worst.after = retryAfterOutage
	}
}

// urgency decides between the records of one request: as long as a retry can store one more of them, the caller shall retry; that
// nothing more can be done is said only when it is so.
var urgency = map[kafka.Class]int{kafka.Permanent: 1, kafka.Retryable: 2, kafka.Unknown: 3}
