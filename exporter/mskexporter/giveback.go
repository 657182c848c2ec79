package mskexporter

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/spill"
)

// giveBack produces what was spilled. It has a Kafka client of its own: brokers answer one produce request of a connection after the other, and
// a probe of a partition that hangs must not hang the requests of others. It implements spill.Sink.
type giveBack struct {
	client *client
	kafka  *producer
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

// Produce returns when it is known of each record whether Kafka has it, or after the time that a request would wait for it.
func (g *giveBack) Produce(ctx context.Context, rs []spill.Record) []error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.client.cfg.patience()+g.client.cfg.answer(), errTimeout)
	defer cancel()
	errs := make([]error, len(rs))
	var pending sync.WaitGroup
	stored := int64(0)
	kc := g.kafka.client()
	for i, r := range rs {
		if errs[i] = g.client.usable(r.Topic); errs[i] != nil {
			continue
		}
		pending.Add(1)
		kc.Produce(ctx, g.record(r), func(_ *kgo.Record, err error) {
			defer pending.Done()
			switch {
			case kafka.IsTooLarge(err):
				err = fmt.Errorf("%w: %w", spill.ErrRefused, err)
			case err != nil:
				err = fmt.Errorf("produce to topic %s, partition %d: %w", r.Topic, r.Partition, err)
			}
			errs[i] = err
		})
	}
	pending.Wait()
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
