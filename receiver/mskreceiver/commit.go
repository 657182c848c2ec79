package mskreceiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
)

// topicPartition names a partition.
type topicPartition struct {
	topic string
	id    int32
}

// statement is what a partition's owner wants the group to know: how far it is, and what it is about to deliver. A later one
// replaces an earlier one, so that one commit says both "done to here" and "the next block ends there".
type statement struct {
	position
	owner    *partition // set by state
	number   uint64     // the owner's count of its statements
	due      time.Time  // when it must be on its way; it goes earlier with whatever else does
	finishes bool       // it finishes a block
}

// commitFunc sends one commit and returns what became of each partition; none: all is well. Its error is that of the whole request.
type commitFunc func(context.Context, map[topicPartition]statement) (map[topicPartition]error, error)

// committer commits statements: one request at a time, with everything that was stated meanwhile.
//
// Invariants:
//   - only what a partition's present owner states is committed: a statement of a partition that was forgotten is ignored;
//   - a partition's commits are made in the order of its statements;
//   - the owner hears that a statement is committed (partition.committed) only after the group has it: no block is delivered
//     before its intent is safe;
//   - a commit carries the member id that the partition was assigned to. The broker checks the id and the generation, not who
//     owns the partition; and a client that the group has expelled joins again under a new id, takes itself for the owner until
//     the join has ended, and would then commit with a generation that is good (commitWith);
//   - when forget has returned, no commit of those partitions is on its way, for the same reason.
//
// A commit that failed, for whatever reason, is made again for as long as the partition is owned, with growing waits: of the
// partitions that the coordinator refused, each for itself, and the others go on; of all, where there was no answer. That goes for a stale generation
// too: the group has given the partition away, nothing more of it begins here, and the client is about to say so (group.lost,
// group.revoked or group.rejoined).
type committer struct {
	commit commitFunc
	retry  RetryConfig
	log    *zap.Logger
	tel    *telemetry
	now    func() time.Time

	mu     sync.Mutex
	owners map[topicPartition]*partition
	dirty  map[topicPartition]statement
	failed map[topicPartition]*failure // the last commit was refused
	flight map[topicPartition]struct{} // being committed
	cancel context.CancelFunc          // of the flight
	change chan struct{}               // closed and replaced whenever dirty or flight shrinks
	wake   chan struct{}
}

// failure is a partition whose last commit was refused.
type failure struct {
	wait  *backoff
	until time.Time // nothing of it is committed before
}

func newCommitter(retry RetryConfig, log *zap.Logger, tel *telemetry) *committer {
	return &committer{
		retry: retry, log: log, tel: tel, now: time.Now,
		owners: map[topicPartition]*partition{},
		dirty:  map[topicPartition]statement{},
		failed: map[topicPartition]*failure{},
		change: make(chan struct{}),
		wake:   make(chan struct{}, 1),
	}
}

// own makes p the one whose statements count for its partition.
func (c *committer) own(p *partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owners[p.topicPartition] = p
	delete(c.dirty, p.topicPartition)
	delete(c.failed, p.topicPartition)
}

// state takes p's newest statement. It does not wait.
func (c *committer) state(p *partition, s statement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owners[p.topicPartition] != p {
		return // lost meanwhile: the new owner decides, and redoes what was intended
	}
	if old, ok := c.dirty[p.topicPartition]; ok {
		s.finishes = s.finishes || old.finishes
		if old.due.Before(s.due) {
			s.due = old.due
		}
	}
	s.owner = p
	c.dirty[p.topicPartition] = s
	c.signalWake()
}

func (c *committer) signalWake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// flush waits until everything that ps have stated is committed, or until ctx ends.
func (c *committer) flush(ctx context.Context, ps []*partition) error {
	c.mu.Lock()
	for _, p := range ps {
		if s, ok := c.dirty[p.topicPartition]; ok {
			s.due = time.Time{}
			c.dirty[p.topicPartition] = s
		}
		if f := c.failed[p.topicPartition]; f != nil {
			f.until = time.Time{} // once more, at once
		}
	}
	c.signalWake()
	c.mu.Unlock()
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
			return fmt.Errorf("offsets of %d partitions are not committed, their last blocks will be redone: %w", pending, ctx.Err())
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
			delete(c.failed, p.topicPartition)
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
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, any := c.due()
		left := due.Sub(c.now())
		if !any || left > 0 {
			var later <-chan time.Time
			if any {
				timer.Reset(left)
				later = timer.C
			}
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
			case <-later:
			}
			continue
		}
		err := c.once(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && failing:
			c.log.Info("offsets are committed again")
			failing = false
			wait.reset()
		case err != nil:
			c.tel.retry("commit")
			if !failing {
				c.log.Warn("cannot commit offsets; it is tried again, and until then no new block is delivered", zap.Error(explainCommit(err)))
				failing = true
			}
			if !sleep(ctx, nil, wait.next()) {
				return
			}
		}
	}
}

// due is when the next request must go.
func (c *committer) due() (due time.Time, any bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tp, s := range c.dirty {
		at := s.due
		if f := c.failed[tp]; f != nil && f.until.After(at) {
			at = f.until
		}
		if !any || at.Before(due) {
			due, any = at, true
		}
	}
	return due, any
}

// once commits what is dirty, but for partitions whose wait is not over. Its error is that of the whole request.
func (c *committer) once(ctx context.Context) error {
	request, cancel := context.WithCancel(ctx)
	defer cancel()
	begun := c.now()
	c.mu.Lock()
	statements := map[topicPartition]statement{}
	c.flight = map[topicPartition]struct{}{}
	for tp, s := range c.dirty {
		if f := c.failed[tp]; f != nil && f.until.After(begun) {
			continue
		}
		statements[tp] = s
		c.flight[tp] = struct{}{}
		delete(c.dirty, tp)
	}
	c.cancel = cancel
	c.mu.Unlock()

	results, broken := c.commit(request, statements)
	c.tel.committed(c.now().Sub(begun))

	c.mu.Lock()
	defer c.mu.Unlock()
	given := request.Err() != nil && ctx.Err() == nil // up, by forget: that is no failure of the others
	var refused []error
	for tp, s := range statements {
		err := cmp.Or(broken, results[tp])
		if err == nil && s.finishes {
			failpoint.Hit("block-committed")
		}
		switch owned := c.owners[tp] == s.owner; {
		case err == nil && owned:
			s.owner.committed(s.number)
			c.succeeded(tp)
			continue
		case err == nil:
			continue
		case !owned:
			c.log.Warn("commit of a partition that is no longer ours was given up; its new owner redoes the blocks",
				zap.String("topic", tp.topic), zap.Int32("partition", tp.id), zap.Int64("offset", s.next), zap.Error(err))
			continue
		case !given && broken == nil && c.refused(tp):
			refused = append(refused, fmt.Errorf("topic %s, partition %d, offset %d: %w", tp.topic, tp.id, s.next, explainCommit(err)))
		}
		if newer, ok := c.dirty[tp]; ok {
			newer.finishes = newer.finishes || s.finishes
			s = newer
		}
		s.due = time.Time{}
		c.dirty[tp] = s
	}
	if len(refused) > 0 {
		c.log.Warn("cannot commit offsets of these partitions; it is tried again, and until then no new block of theirs is delivered", zap.Error(errors.Join(refused...)))
	}
	c.flight = nil
	close(c.change)
	c.change = make(chan struct{})
	if given {
		return nil
	}
	return broken
}

// refused lets a partition wait, each time longer; true: it is the first time. It is called with mu held.
func (c *committer) refused(tp topicPartition) (first bool) {
	c.tel.retry("commit")
	f := c.failed[tp]
	if first = f == nil; first {
		f = &failure{wait: newBackoff(c.retry)}
		c.failed[tp] = f
	}
	f.until = c.now().Add(f.wait.next())
	return first
}

// succeeded ends a partition's waits. It is called with mu held.
func (c *committer) succeeded(tp topicPartition) {
	if c.failed[tp] != nil {
		delete(c.failed, tp)
		c.log.Info("offsets of the partition are committed again", zap.String("topic", tp.topic), zap.Int32("partition", tp.id))
	}
}

// explainCommit says what the errors mean that fence a member off.
func explainCommit(err error) error {
	for _, fenced := range []error{errExpelled, kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.FencedInstanceID, kerr.FencedMemberEpoch, kerr.StaleMemberEpoch} {
		if errors.Is(err, fenced) {
			return fmt.Errorf("the group has given the partition to another member, this one joins again: %w", err)
		}
	}
	if errors.Is(err, kerr.OffsetMetadataTooLarge) {
		return fmt.Errorf("the brokers' offset.metadata.max.bytes must be %d, Kafka's default: %w", maxMetadataBytes, err)
	}
	return err
}

// commitTimeout bounds one commit, which also waits for a join of the group to end.
const commitTimeout = 30 * time.Second

// commitWith commits through the group member cl.
func commitWith(cl *kgo.Client) commitFunc {
	return func(ctx context.Context, statements map[topicPartition]statement) (map[topicPartition]error, error) {
		ctx, cancel := context.WithTimeout(ctx, commitTimeout)
		defer cancel()
		request := map[string]map[int32]kgo.EpochOffset{}
		results := map[topicPartition]error{}
		for tp, s := range statements {
			if request[tp.topic] == nil {
				request[tp.topic] = map[int32]kgo.EpochOffset{}
			}
			request[tp.topic][tp.id] = kgo.EpochOffset{Epoch: s.epoch, Offset: s.next}
			results[tp] = errNoAnswer
		}
		// The client calls this when it has stamped the request with its member id and generation.
		ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
			for i := range req.Topics {
				t := &req.Topics[i]
				t.Partitions = slices.DeleteFunc(t.Partitions, func(p kmsg.OffsetCommitRequestTopicPartition) bool {
					tp := topicPartition{t.Topic, p.Partition}
					switch s := statements[tp]; {
					case s.owner.member != req.MemberID:
						results[tp] = errExpelled
					case block.TopicID(t.TopicID) != s.topicID && t.TopicID != [16]byte{} && s.topicID != (block.TopicID{}):
						results[tp] = errOtherTopic
					default:
						return false
					}
					return true
				})
				for j := range t.Partitions {
					text := statements[topicPartition{t.Topic, t.Partitions[j].Partition}].text()
					t.Partitions[j].Metadata = &text
				}
			}
			req.Topics = slices.DeleteFunc(req.Topics, func(t kmsg.OffsetCommitRequestTopic) bool { return len(t.Partitions) == 0 })
			return nil
		})
		var broken error
		cl.CommitOffsetsSync(ctx, request, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				broken = err
				return
			}
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					results[topicPartition{t.Topic, p.Partition}] = kerr.ErrorForCode(p.ErrorCode)
				}
			}
		})
		return results, broken
	}
}

var (
	errNoAnswer   = errors.New("the coordinator's answer does not mention the partition")
	errOtherTopic = errors.New("the topic was deleted and made anew since the partition was assigned")
	errExpelled   = errors.New("the group has expelled the member that the partition was assigned to")
)
