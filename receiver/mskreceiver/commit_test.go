package mskreceiver

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// ownedPair are two partitions whose offsets the committer commits.
func ownedPair(t *testing.T, d *deps) (bad, good *partition) {
	t.Helper()
	own := func(id int32) *partition {
		p := newPartition(topicPartition{logsTopic, id}, signal.Logs, d, zap.NewNop(), nil)
		t.Cleanup(p.cancel)
		d.committer.own(p)
		return p
	}
	return own(0), own(1)
}

// Scenario: the coordinator refuses one partition's commits, with the default waits; another partition states its next block as
// soon as the last one is committed. Then a request gets no answer, and then all heals.
// Guarantees: the other partition does not wait for the refused one, and a refused one is tried less and less often; it is committed
// when it can be.
func TestARefusedCommitHoldsNoOtherPartitionUp(t *testing.T) {
	d := testDeps(t)
	c := d.committer
	bad, good := ownedPair(t, d)
	var refusals, silent, healed int // touched by the committer's goroutine until it has ended
	phase := make(chan string, 2)
	now := ""
	c.commit = func(_ context.Context, o map[topicPartition]statement) (map[topicPartition]error, error) {
		select {
		case now = <-phase:
		default:
		}
		_, has := o[bad.topicPartition]
		switch now {
		case "silent":
			now = ""
			silent++
			return nil, errors.New("connection reset")
		case "healed":
			healed++
			return nil, nil
		}
		if has {
			refusals++
		}
		return map[topicPartition]error{bad.topicPartition: kerr.TopicAuthorizationFailed}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.run(ctx) }()
	defer func() { cancel(); <-ended }()

	c.state(bad, statement{position: position{next: 1}, number: 1})
	number := uint64(0)
	states := func(d time.Duration) (n int) { // as fast as they are committed
		for end := time.Now().Add(d); time.Now().Before(end); n++ {
			number++
			c.state(good, statement{position: position{next: int64(number)}, number: number})
			for good.acked.Load() != number {
				select {
				case <-good.wake:
				case <-time.After(patience):
					t.Fatal("it waits for the refused partition")
				}
			}
		}
		return n
	}
	n := states(4 * time.Second)
	t.Logf("%d commits beside a refused one in 4 s", n)
	require.Greater(t, n, 500, "a wait for the refused partition is 200 ms at first and 30 s at last")
	require.Zero(t, bad.acked.Load())
	phase <- "silent"
	require.Positive(t, states(time.Second))
	phase <- "healed"
	require.Positive(t, states(time.Second))
	require.NoError(t, c.flush(t.Context(), []*partition{bad, good}), "a drain tries a refused partition at once")
	require.EqualValues(t, 1, bad.acked.Load())
	cancel()
	<-ended
	require.Equal(t, 1, silent)
	require.Positive(t, healed)
	require.LessOrEqual(t, refusals, 10, "0.2, 0.4, 0.8, 1.6, 3.2 s, each at least half")
	require.GreaterOrEqual(t, refusals, 3)
}

// Scenario: forget breaks off a request that is on its way for two partitions.
// Guarantee: the one that stays is committed at once: nobody has refused it.
func TestForgettingAPartitionDoesNotDelayTheOthers(t *testing.T) {
	d := testDeps(t)
	c := d.committer
	c.retry = RetryConfig{InitialInterval: time.Hour, MaxInterval: time.Hour}
	p, q := newPartition(topicPartition{logsTopic, 0}, signal.Logs, d, zap.NewNop(), nil), newPartition(topicPartition{logsTopic, 1}, signal.Logs, d, zap.NewNop(), nil)
	defer p.cancel()
	defer q.cancel()
	c.own(p)
	c.own(q)
	entered := make(chan struct{}, 1)
	first := true
	c.commit = func(ctx context.Context, _ map[topicPartition]statement) (map[topicPartition]error, error) {
		if first {
			first = false
			entered <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, nil
	}
	c.state(p, statement{position: position{next: 1}, number: 1})
	c.state(q, statement{position: position{next: 1}, number: 1})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.run(ctx) }()
	defer func() { cancel(); <-ended }()
	<-entered
	c.forget([]*partition{p})
	eventually(t, "committed", func() bool { return q.acked.Load() == 1 })
	require.Zero(t, p.acked.Load())
}

// Scenario: the coordinator refuses one partition, and its wait is an hour, as is the one after a request that got no answer.
// Guarantees: another partition that was committed in the same request goes on at once, and so does the refused one when its partition is drained; a
// commit ends its wait.
func TestARefusalLetsNobodyElseWait(t *testing.T) {
	d := testDeps(t)
	c := d.committer
	c.retry = RetryConfig{InitialInterval: time.Hour, MaxInterval: time.Hour}
	bad, good := ownedPair(t, d)
	var healed atomic.Bool
	c.commit = func(_ context.Context, o map[topicPartition]statement) (map[topicPartition]error, error) {
		if _, has := o[bad.topicPartition]; has && !healed.Load() {
			return map[topicPartition]error{bad.topicPartition: kerr.TopicAuthorizationFailed}, nil
		}
		return nil, nil
	}
	c.state(bad, statement{position: position{next: 1}, number: 1})
	c.state(good, statement{position: position{next: 1}, number: 1})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	ended := make(chan struct{})
	go func() { defer close(ended); c.run(ctx) }()
	defer func() { cancel(); <-ended }()
	eventually(t, "committed beside a refused one", func() bool { return good.acked.Load() == 1 })
	c.state(good, statement{position: position{next: 2}, number: 2})
	eventually(t, "committed after a refused one", func() bool { return good.acked.Load() == 2 })
	require.Zero(t, bad.acked.Load())
	healed.Store(true)
	require.NoError(t, c.flush(ctx, []*partition{bad, good}), "a drain tries a refused partition at once")
	require.EqualValues(t, 1, bad.acked.Load())
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Empty(t, c.failed)
}
