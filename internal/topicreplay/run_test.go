package topicreplay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

const (
	source = "source.logs"
	target = "target.logs"
	events = 5 // in a record
)

type bench struct {
	*testing.T
	opts  []kgo.Opt
	admin *kadm.Client
}

// newBench is a Kafka with two topics of one partition.
func newBench(t *testing.T) *bench {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, source, target))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	b := &bench{T: t, opts: []kgo.Opt{kgo.SeedBrokers(k.ListenAddrs()...)}}
	b.admin = kadm.NewClient(b.client())
	return b
}

func (b *bench) client(more ...kgo.Opt) *kgo.Client {
	b.Helper()
	c, err := kgo.NewClient(append(more, b.opts...)...)
	require.NoError(b, err)
	b.Cleanup(c.Close)
	return c
}

func (b *bench) append(to *kgo.Client, n int) {
	b.Helper()
	for i := range n {
		require.NoError(b, to.ProduceSync(b.Context(), &kgo.Record{Topic: source, Value: otlptest.Realistic(signal.Logs, uint64(i), events)}).FirstErr())
	}
}

func (b *bench) config() Config {
	return Config{Kafka: b.opts, Request: Request{Target: target, Signal: signal.Logs, Topics: []string{source}}, DefaultTenant: "default", Log: zap.NewNop()}
}

// copied is the number of committed records of the target.
func (b *bench) copied() (n int) {
	b.Helper()
	marker := b.client(kgo.TransactionalID("marker"))
	require.NoError(b, marker.BeginTransaction())
	require.NoError(b, marker.ProduceSync(b.Context(), &kgo.Record{Topic: target, Key: []byte("end")}).FirstErr())
	require.NoError(b, marker.EndTransaction(b.Context(), kgo.TryCommit))
	reader := b.client(kgo.ConsumeTopics(target), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	for {
		for r := range reader.PollFetches(b.Context()).RecordsAll() {
			if string(r.Key) == "end" {
				return n
			}
			n++
		}
	}
}

// Scenario: the source ends with records of a transaction that was aborted; then ranges end at such a record and at its end.
// Guarantees: the replay comes to its end, and copies the committed records only.
func TestASourceMayHaveTransactions(t *testing.T) {
	b := newBench(t)
	b.append(b.client(), 3)
	aborted := b.client(kgo.TransactionalID("aborted"))
	require.NoError(t, aborted.BeginTransaction())
	b.append(aborted, 2) // offsets 3 and 4; its end is 5
	require.NoError(t, aborted.EndTransaction(t.Context(), kgo.TryAbort))
	for _, last := range []int64{-1, 4, 5} {
		c := b.config()
		if last >= 0 {
			c.Target = map[int64]string{4: "other.logs", 5: "third.logs"}[last]
			_, err := b.admin.CreateTopic(t.Context(), 1, 1, nil, c.Target)
			require.NoError(t, err)
			c.Ranges = []certificate.Range{{Topic: source, First: 1, Last: last}}
		}
		r, err := Run(t.Context(), c)
		require.NoError(t, err)
		require.True(t, r.Done)
		want := map[int64]int64{-1: 3, 4: 2, 5: 2}[last]
		require.Equal(t, want, r.Total.Copied)
		require.Equal(t, want*events, r.Total.Events)
	}
	require.Equal(t, 3, b.copied())
}

// Guarantees: a replay begins no more events a second than it may, gives way to live traffic, and says so.
func TestAReplayIsBoundedAndYields(t *testing.T) {
	b := newBench(t)
	b.append(b.client(), 60)
	c := b.config()
	c.Rate = 600 // 300 events in batches of 160 and more: the second one waits for the first
	var seen []Progress
	c.Progress = func(p Progress) { seen = append(seen, p) }
	c.Live = func(context.Context) (string, error) { return "group g is late", nil }
	begun := time.Now()
	_, err := Run(t.Context(), c)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(begun), 500*time.Millisecond, "160 events take 267 ms, and as much is left to live traffic")
	last := seen[len(seen)-1]
	require.Regexp(t, `^works (50|25|12|6|3)% of the time: group g is late$`, last.Yields) // halved every two seconds
	require.Equal(t, [2]int64{60, 60}, [2]int64{last.Read, last.Of})
	require.Greater(t, len(seen), 1)
}

// Scenario: a replay is stopped after its first batch; then Kafka forgets records that are left, or the topic is made anew.
// Guarantee: the same command says so, and copies nothing else in their place.
func TestWhatIsLeftMustBeThere(t *testing.T) {
	b := newBench(t)
	b.append(b.client(), 60)
	ctx, stop := context.WithCancel(t.Context())
	c := b.config()
	c.Rate = 400
	c.Progress = func(Progress) { stop() }
	r, err := Run(ctx, c)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, r.Done)
	first := r.Total.Copied
	require.Positive(t, first)
	require.Less(t, first, int64(60))
	c.Progress = nil
	forget := func(before int64) {
		_, err := b.admin.DeleteRecords(t.Context(), kadm.Offsets{source: {0: {Topic: source, At: before}}})
		require.NoError(t, err)
	}
	refusedWith := func(text string) {
		t.Helper()
		_, err := Run(t.Context(), c)
		_, ok := errors.AsType[RefusedError](err)
		require.True(t, ok, "%v", err)
		require.ErrorContains(t, err, text)
	}
	forget(50)
	refusedWith("Kafka's retention has removed offsets")
	_, err = b.admin.DeleteTopic(t.Context(), source)
	require.NoError(t, err)
	_, err = b.admin.CreateTopic(t.Context(), 1, 1, nil, source)
	require.NoError(t, err)
	b.append(b.client(), 60)
	refusedWith("topic " + source + " was made anew since the job was planned")
	require.Equal(t, int(first), b.copied())
}
