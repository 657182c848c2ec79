package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// topicPartition names a partition.
type topicPartition struct {
	topic string
	id    int32
}

// committer commits the offsets behind finished blocks: one request at a time, with everything that was finished meanwhile.
//
// Invariants:
//   - only what a partition's present owner has marked is committed: a mark of a partition that was forgotten is ignored;
//   - a partition's commits are made in the order of its marks (they go back only where the client did, see gather.go);
//   - when forget has returned, no commit of those partitions is on its way. The client stamps a request with the generation
//     that it has when the request is made, and the broker checks the generation, not who owns the partition: a commit that
//     outlived its ownership could be taken for the next generation's.
//
// A commit that failed, for whatever reason, is made again for as long as the partition is owned; a stale generation ends by
// being forgotten.
type committer struct {
	// commit sends one commit and returns what became of each partition.
	commit func(context.Context, map[topicPartition]kgo.EpochOffset) map[topicPartition]error
	retry  RetryConfig
	log    *zap.Logger
	failed func() // counts a failed request

	mu     sync.Mutex
	owners map[topicPartition]*partition
	dirty  map[topicPartition]kgo.EpochOffset
	flight map[topicPartition]struct{} // being committed
	cancel context.CancelFunc          // of the flight
	change chan struct{}               // closed and replaced whenever dirty or flight shrinks
	wake   chan struct{}
}

func newCommitter(retry RetryConfig, log *zap.Logger, failed func()) *committer {
	return &committer{
		retry: retry, log: log, failed: failed,
		owners: map[topicPartition]*partition{},
		dirty:  map[topicPartition]kgo.EpochOffset{},
		change: make(chan struct{}),
		wake:   make(chan struct{}, 1),
	}
}

// own makes p the one whose marks count for its partition.
func (c *committer) own(p *partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owners[p.topicPartition] = p
}

// mark says that p has finished everything before o. It does not wait.
func (c *committer) mark(p *partition, o kgo.EpochOffset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owners[p.topicPartition] != p {
		return // lost meanwhile: the new owner decides, and delivers the block again
	}
	c.dirty[p.topicPartition] = o
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// flush waits until everything that was marked for ps is committed, or until ctx ends.
func (c *committer) flush(ctx context.Context, ps []*partition) error {
	for {
		c.mu.Lock()
		pending := c.pending(ps)
		change := c.change
		c.mu.Unlock()
		if pending == 0 {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return fmt.Errorf("offsets of %d partitions are not committed, their last blocks will be delivered again: %w", pending, ctx.Err())
		}
	}
}

func (c *committer) pending(ps []*partition) (n int) {
	for _, p := range ps {
		_, dirty := c.dirty[p.topicPartition]
		_, flying := c.flight[p.topicPartition]
		if dirty || flying {
			n++
		}
	}
	return n
}

// forget ends p's ownership: nothing more is committed for it. It ends a commit that is on its way.
func (c *committer) forget(ps []*partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range ps {
		if c.owners[p.topicPartition] == p {
			delete(c.owners, p.topicPartition)
			delete(c.dirty, p.topicPartition)
		}
	}
	for _, p := range ps {
		for {
			if _, flying := c.flight[p.topicPartition]; !flying {
				break
			}
			c.cancel()
			change := c.change
			c.mu.Unlock()
			<-change
			c.mu.Lock()
		}
	}
}

// run commits until ctx ends.
func (c *committer) run(ctx context.Context) {
	wait := newBackoff(c.retry)
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		err := c.once(ctx)
		switch {
		case err == nil && failing:
			c.log.Info("offsets are committed again")
			failing = false
			wait.reset()
		case err != nil && ctx.Err() == nil:
			c.failed()
			if !failing {
				c.log.Warn("cannot commit offsets; blocks go on being delivered, and the commit is tried again", zap.Error(err))
				failing = true
			}
			if !sleep(ctx, nil, wait.next()) {
				return
			}
			select {
			case c.wake <- struct{}{}:
			default:
			}
		}
	}
}

// once commits what is dirty.
func (c *committer) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	offsets := c.dirty
	if len(offsets) == 0 {
		c.mu.Unlock()
		return nil
	}
	c.dirty = map[topicPartition]kgo.EpochOffset{}
	c.flight = map[topicPartition]struct{}{}
	for tp := range offsets {
		c.flight[tp] = struct{}{}
	}
	c.cancel = cancel
	c.mu.Unlock()

	results := c.commit(ctx, offsets)

	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for tp, o := range offsets {
		err := results[tp]
		if err == nil {
			continue
		}
		if c.owners[tp] == nil {
			c.log.Warn("commit of a partition that is no longer ours was given up; its new owner delivers the block again",
				zap.String("topic", tp.topic), zap.Int32("partition", tp.id), zap.Int64("offset", o.Offset), zap.Error(err))
			continue
		}
		errs = append(errs, fmt.Errorf("topic %s, partition %d, offset %d: %w", tp.topic, tp.id, o.Offset, err))
		if _, newer := c.dirty[tp]; !newer {
			c.dirty[tp] = o
		}
	}
	c.flight = nil
	close(c.change)
	c.change = make(chan struct{})
	return errors.Join(errs...)
}

// commitTimeout bounds one commit, which also waits for a join of the group to end.
const commitTimeout = 30 * time.Second

// commitWith commits through the group member cl.
func commitWith(cl *kgo.Client) func(context.Context, map[topicPartition]kgo.EpochOffset) map[topicPartition]error {
	return func(ctx context.Context, offsets map[topicPartition]kgo.EpochOffset) map[topicPartition]error {
		ctx, cancel := context.WithTimeout(ctx, commitTimeout)
		defer cancel()
		request := map[string]map[int32]kgo.EpochOffset{}
		results := map[topicPartition]error{}
		for tp, o := range offsets {
			if request[tp.topic] == nil {
				request[tp.topic] = map[int32]kgo.EpochOffset{}
			}
			request[tp.topic][tp.id] = o
			results[tp] = errNoAnswer
		}
		cl.CommitOffsetsSync(ctx, request, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				for tp := range results {
					results[tp] = err
				}
				return
			}
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					results[topicPartition{t.Topic, p.Partition}] = kerr.ErrorForCode(p.ErrorCode)
				}
			}
		})
		return results
	}
}

var errNoAnswer = errors.New("the coordinator's answer does not mention the partition")
