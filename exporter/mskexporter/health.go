package mskexporter

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// recent is what requests have met since it was asked for last.
type recent struct {
	stored, refused atomic.Int64
	why             atomic.Pointer[failure] // of one that was refused
}

// count takes what became of a request. What is said of the request alone, too large for instance, and one whose sender left tell nothing of the cell.
func (r *recent) count(err error) {
	if err == nil {
		r.stored.Add(1)
		return
	}
	if f := asFailure(err); f.class != kafka.Permanent && f.reason != reasonCancelled {
		r.why.Store(f)
		r.refused.Add(1)
	}
}

// watched has the host's health check ask whether requests can be accepted, where there is one. forget ends that.
func (c *client) watched(id component.ID, host component.Host) (forget func(), err error) {
	board, err := cellhealth.Find(host)
	if board == nil || err != nil {
		return func() {}, err
	}
	return board.Watch(id.String(), c.accepting), nil
}

// accepting returns why no request can be accepted; nil: some can. What requests have met since it was called last decides. Where there were none it asks
// Kafka, and the store of the spill if Kafka does not take any.
func (c *client) accepting(ctx context.Context) error {
	stored, refused := c.recent.stored.Swap(0), c.recent.refused.Swap(0)
	switch {
	case stored > 0:
		return nil
	case refused > 0:
		return fmt.Errorf("none of %d requests was acknowledged, one because: %w", refused, c.recent.why.Load())
	}
	if c.spillway == nil {
		return c.kafkaTakes(ctx)
	}
	half, cancel := halfOf(ctx)
	defer cancel()
	err := c.kafkaTakes(half)
	if err == nil {
		return nil
	}
	if spillErr := c.spillway.spool.Writable(ctx); spillErr != nil {
		return errors.Join(err, fmt.Errorf("the spill takes nothing: %w", spillErr))
	}
	return nil
}

// halfOf is ctx with half of its time: brokers that are away take all that they are given.
func halfOf(ctx context.Context) (context.Context, context.CancelFunc) {
	if end, ok := ctx.Deadline(); ok {
		return context.WithTimeout(ctx, time.Until(end)/2)
	}
	return context.WithCancel(ctx)
}

// kafkaTakes returns why records of no signal can be written; nil: there is a partition that has a leader and as many replicas in sync as it needs.
func (c *client) kafkaTakes(ctx context.Context) error {
	var names []string
	for _, s := range signal.All {
		for _, name := range c.cfg.Topics.names(s) {
			if c.usable(name) == nil {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("no topic can be used, %s because: %w", c.cfg.Topics.Logs.Name, c.usable(c.cfg.Topics.Logs.Name))
	}
	topics, err := kafka.ListTopics(ctx, kadm.NewClient(c.kafka.client()), names...)
	if err != nil {
		return fmt.Errorf("kafka does not answer: %w", err)
	}
	for _, s := range signal.All {
		enough := max(1, c.cfg.Topics.of(s).MinInSyncReplicas)
		for _, name := range c.cfg.Topics.names(s) {
			for _, p := range topics[name].Partitions {
				if p.Leader >= 0 && len(p.ISR) >= enough {
					return nil
				}
			}
		}
	}
	return fmt.Errorf("no partition of %d topics has a leader and enough replicas in sync", len(names))
}
