package mskexporter

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/spill"
)

// giveBack produces what was spilled. It has Kafka clients of its own, one for each of those that produce at a time: brokers answer one produce request of a
// connection after the other, and a probe of a partition that hangs must not hang the requests of others. It implements spill.Sink.
type giveBack struct {
	client *client
	idle   chan *producer // those that nobody produces with
}

// givers is how many produce at a time: a sweep, a probe, and the sweep of another gateway's objects.
const givers = 3

// newGiveBack takes clients that send nothing before they are flushed.
func newGiveBack(c *client, producers []*producer) *giveBack {
	g := &giveBack{client: c, idle: make(chan *producer, len(producers))}
	for _, p := range producers {
		g.idle <- p
	}
	return g
}

// Route gives a record its partition where the store does not tell, because nobody knew it, or the topic no longer has it.
func (g *giveBack) Route(r *spill.Record) {
	n := g.client.router.count(r.Topic)
	if n > 0 && (r.Partition < 0 || int(r.Partition) >= n) {
		r.Partition = g.client.router.partition(g.record(*r), n)
	}
}

func (*giveBack) record(r spill.Record) *kgo.Record {
	return &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Headers: r.Headers, Value: r.Value}
}

// Produce returns when it is known of each record whether Kafka has it, or after the time that a request would wait for it. Behind a record of a partition that
// failed none of the partition is taken. One that is too large for its topic alone is refused for good, although Kafka refuses its batch.
func (g *giveBack) Produce(ctx context.Context, rs []spill.Record) []error {
	p := <-g.idle
	defer func() { g.idle <- p }()
	errs := g.produce(ctx, p.client(), rs)
	if len(rs) > 1 {
		failed := map[spill.Lane]error{}
		for i, r := range rs {
			if errors.Is(errs[i], spill.ErrRefused) {
				lane := spill.LaneOf(r.Topic, r.Partition)
				if errs[i] = failed[lane]; errs[i] != nil {
					continue
				}
				if errs[i] = g.produce(ctx, p.client(), rs[i:i+1])[0]; errs[i] != nil && !errors.Is(errs[i], spill.ErrRefused) {
					failed[lane] = errs[i]
				}
			}
		}
	}
	stored := int64(0)
	for _, err := range errs {
		if err == nil {
			stored++
		}
		if errors.Is(err, kerr.UnknownTopicID) {
			g.client.lost()
		}
	}
	g.client.metrics.unspilled.Add(ctx, stored, g.client.metrics.plain)
	return errs
}

// produce relies on that the Kafka client fails all that it holds of a partition together, and holds all before it sends one.
func (g *giveBack) produce(ctx context.Context, kc *kgo.Client, rs []spill.Record) []error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.client.cfg.patience()+g.client.cfg.answer(), errTimeout)
	defer cancel()
	errs := make([]error, len(rs))
	usable := map[string]error{} // asked once for each topic, since it may change
	for i, r := range rs {
		err, asked := usable[r.Topic]
		if !asked {
			err = g.client.usable(r.Topic)
			usable[r.Topic] = err
		}
		if errs[i] = err; err != nil {
			continue
		}
		kc.Produce(ctx, g.record(r), func(_ *kgo.Record, err error) {
			switch {
			case kafka.IsTooLarge(err):
				err = fmt.Errorf("%w: %w", spill.ErrRefused, err)
			case err != nil:
				err = fmt.Errorf("produce to topic %s, partition %d: %w", r.Topic, r.Partition, err)
			}
			errs[i] = err
		})
	}
	_ = kc.Flush(context.WithoutCancel(ctx)) // until nothing is buffered: records end with ctx
	return errs
}
