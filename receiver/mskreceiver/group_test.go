package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: members come, crash in their pipelines and go while records arrive and pipelines fail at random.
// Guarantees: every event is stored, and at any time everything below a committed offset is.
func TestMembersThatComeAndGoLoseNothing(t *testing.T) {
	rnd := seeded(t)
	const partitions = 6
	c := fakeCluster(t, partitions)
	cl := testClient(t, c.ListenAddrs())
	var mu sync.Mutex
	chance := func(n int) bool { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) == 0 }
	s := newStore(func(ctx context.Context, _ block.Block, _ plog.Logs) error {
		if chance(4) {
			return errors.New("random failure")
		}
		if chance(6) {
			select { // long enough for a revocation or shutdown to meet it
			case <-time.After(150 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	_, stay := run(t, testConfig(c.ListenAddrs(), "g"), s)
	var sets []map[int32]map[int64][]string
	for round := range 8 {
		cfg := testConfig(c.ListenAddrs(), "g")
		if chance(2) {
			cfg.ShutdownTimeout = 20 * time.Millisecond // as good as a crash
		}
		_, stop := run(t, cfg, s)
		for range 3 {
			sets = append(sets, produce(t, cl, fmt.Sprintf("r%d-%d", round, len(sets)), 36, partitions))
			time.Sleep(30 * time.Millisecond)
		}
		if chance(3) {
			c.RehashCoordinators()
		}
		if chance(3) {
			c.ShufflePartitionLeaders()
		}
		_ = stop() // its error says what was left to others
		for p, next := range committed(t, cl, "g") {
			for _, set := range sets {
				require.Empty(t, s.missingBelow(p, next, set[p]), "partition %d is committed up to %d", p, next)
			}
		}
	}
	want := allBodies(sets...)
	eventually(t, "all stored", func() bool { return s.hasAll(want) })
	eventually(t, "all committed", func() bool { return sumOffsets(committed(t, cl, "g")) == int64(len(want)/2) })
	require.NoError(t, stay())
	s.check(t)
}

// Scenario: a second member takes a partition while the first is delivering a block of it.
// Guarantee: the block ends, is committed, and the second member goes on behind it: nothing is delivered twice.
func TestARevokedPartitionEndsItsBlockFirst(t *testing.T) {
	c := fakeCluster(t, 2)
	cl := testClient(t, c.ListenAddrs())
	entered, release := make(chan struct{}, 16), make(chan struct{})
	s := newStore(func(ctx context.Context, b block.Block, _ plog.Logs) error {
		if b.First == 0 {
			entered <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	want := produce(t, cl, "x", 20, 2)
	r1, _ := run(t, testConfig(c.ListenAddrs(), "g"), s)
	<-entered
	<-entered
	r2, _ := run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "one is being revoked", func() bool { return len(r1.group.partitions()) == 1 })
	require.Empty(t, r2.group.partitions())
	close(release)
	eventually(t, "it has moved", func() bool { return len(r2.group.partitions()) == 1 })
	more := produce(t, cl, "y", 20, 2)
	eventually(t, "all committed", func() bool { return sumOffsets(committed(t, cl, "g")) == 40 })
	got := s.stored()
	for _, b := range allBodies(want, more) {
		require.Equal(t, 1, got[b], b)
	}
}

// Scenario: the coordinator forgets the member while it delivers; the delivery ends well afterwards.
// Guarantee: its offset is not committed by the lost owner, and the block is delivered again.
func TestALostPartitionCommitsNothing(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 5, 1)
	var entered atomic.Int32
	zombie, release := make(chan struct{}), make(chan struct{})
	s := newStore(func(ctx context.Context, _ block.Block, _ plog.Logs) error {
		if entered.Add(1) == 1 {
			<-ctx.Done() // cancelled because the partition is lost
			close(zombie)
			<-release
		}
		return nil
	})
	r, _ := run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "delivering", func() bool { return entered.Load() == 1 })
	var fenced atomic.Bool
	c.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if fenced.Swap(true) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	<-zombie
	eventually(t, "it has the partition again", func() bool { return len(r.group.partitions()) == 1 })
	time.Sleep(100 * time.Millisecond)
	require.EqualValues(t, 1, entered.Load(), "the new worker waits for the one that lost the partition")
	require.Zero(t, max(0, committed(t, cl, "g")[0]))
	close(release)
	eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 5 })
	require.EqualValues(t, 2, entered.Load())
}

// Guarantee: a record fetched for an earlier assignment of a partition never reaches the worker of a later one.
func TestRecordsOfAnEarlierAssignmentAreDropped(t *testing.T) {
	d := testDeps(t)
	g := newGroup(d, d.log(), map[string]signal.Signal{logsTopic: signal.Logs})
	tps := map[string][]int32{logsTopic: {0}}
	g.assigned(t.Context(), nil, tps)
	old := &kgo.Record{Topic: logsTopic, Offset: 7}
	g.OnFetchRecordBuffered(old)
	g.lost(t.Context(), nil, tps)
	g.assigned(t.Context(), nil, tps)
	p := partitionOf(old.Context)
	require.NotNil(t, p)
	p.push([]*kgo.Record{old})
	require.Empty(t, p.inbox)
	require.NotSame(t, p, g.partitions()[0])
	g.OnFetchRecordBuffered(old)
	require.Same(t, g.partitions()[0], partitionOf(old.Context))
	require.NoError(t, g.drain(t.Context(), g.close(), patience))
	require.Nil(t, partitionOf(context.Background()))
}

// Scenario: a topic is made anew, and one of its partitions has been placed in the new topic before the client is made to ask for it.
// Guarantees: no worker of before is left beside the worker that the client's next assignment begins, and that one waits for its predecessor.
func TestATopicMadeAnewLeavesNoWorkerBehind(t *testing.T) {
	d := testDeps(t)
	g := newGroup(d, d.log(), map[string]signal.Signal{logsTopic: signal.Logs})
	tps := map[string][]int32{logsTopic: {0, 1, 2}}
	late := map[string][]int32{logsTopic: {3}}
	g.purge = func(string) { g.assigned(t.Context(), nil, late) } // a rebalance comes between
	g.assigned(t.Context(), nil, tps)
	before := g.partitions()
	gone := map[int32]bool{} // of the workers of before, those that had ended when the client's assignment came
	g.subscribe = func(string) {
		for _, p := range before {
			select {
			case <-p.done:
				gone[p.id] = true
			default:
			}
		}
		g.assigned(t.Context(), nil, tps) // the client says nothing of those that it had
	}
	id := block.TopicID{2}
	for _, p := range before {
		switch p.id {
		case 0:
			p.place(plan{topic: id})
		case 1:
			p.place(plan{topic: block.TopicID{1}})
		}
	}
	g.beginAgain(logsTopic, id)
	for _, p := range before {
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Fatalf("the worker of partition %d goes on", p.id)
		}
	}
	after := g.partitions()
	require.Len(t, after, 3)
	for _, p := range after {
		require.NotContains(t, before, p)
		require.True(t, gone[p.id] || p.after != nil, "the worker of partition %d does not wait", p.id)
	}
	require.NoError(t, g.drain(t.Context(), g.close(), patience))
}

func TestOffsetsThatRetentionRemovedAreCounted(t *testing.T) {
	p := newPartition(topicPartition{logsTopic, 0}, signal.Logs, testDeps(t), testDeps(t).log(), nil)
	defer p.cancel()
	records := func(first, last int64) []*kgo.Record { return []*kgo.Record{{Offset: first}, {Offset: last}} }
	from, to := p.lostBefore(records(50, 59), 50)
	require.Equal(t, []int64{0, 50}, []int64{from, to})
	p.plan.next, p.arrived = 10, -1
	from, to = p.lostBefore(records(50, 59), 50)
	require.Equal(t, []int64{10, 50}, []int64{from, to})
	from, to = p.lostBefore(records(62, 70), 50)
	require.LessOrEqual(t, to, from, "60 and 61 are a gap, but not one that retention made")
	from, to = p.lostBefore(records(100, 109), 90)
	require.Equal(t, []int64{71, 90}, []int64{from, to})
}

func TestACommittedOffsetBehindRetentionGoesOnAtTheEarliestRecord(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 10, 1)
	s := newStore(nil)
	cfg := testConfig(c.ListenAddrs(), "g")
	_, stop := run(t, cfg, s)
	eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 10 })
	require.NoError(t, stop())
	produce(t, cl, "lost", 10, 1)
	more := produce(t, cl, "y", 5, 1)
	require.NoError(t, c.DeleteRecords(logsTopic, 0, 20))
	cfg2 := testConfig(c.ListenAddrs(), "g")
	cfg2.InitialOffset = Latest
	run(t, cfg2, s)
	eventually(t, "what is left is delivered", func() bool { return s.hasAll(allBodies(more)) })
}

// Scenario: it cannot be found out where one of the assigned partitions begins.
// Guarantees: the others begin, and it does as soon as it can be, from where it should.
func TestAPartitionThatCannotBePlacedHoldsNoOtherUp(t *testing.T) {
	c := fakeCluster(t, 3)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 60, 3)
	commitText(t, cl, "g", 1, 10, "v1 i=1 e=13")
	var healed atomic.Bool
	c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		q := req.(*kmsg.ListOffsetsRequest)
		resp := q.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, topic := range q.Topics {
			for _, p := range topic.Partitions {
				if p.Partition != 1 || healed.Load() {
					return nil, nil, false
				}
				rt := kmsg.NewListOffsetsResponseTopic()
				rt.Topic = topic.Topic
				rp := kmsg.NewListOffsetsResponseTopicPartition()
				rp.Partition, rp.ErrorCode = 1, kerr.KafkaStorageError.Code
				rt.Partitions = append(rt.Partitions, rp)
				resp.Topics = append(resp.Topics, rt)
			}
		}
		return resp, nil, true
	})
	m := newMemory(time.Hour)
	s := newStore(nil)
	s.memories = []block.Memory{m}
	run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "the others are done", func() bool { o := committed(t, cl, "g"); return o[0] == 20 && o[2] == 20 })
	require.Empty(t, s.offered(1))
	healed.Store(true)
	eventually(t, "it is done", func() bool { return committed(t, cl, "g")[1] == 20 })
	requireTiles(t, s.offered(1), 10, 20)
	require.EqualValues(t, 12, s.offered(1)[0].Last)
	require.Len(t, m.offsets(1), 10)
	require.Empty(t, m.faults)
	s.check(t)
}
