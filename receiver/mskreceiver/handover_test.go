package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// Scenario: a member goes on fetching after the group has given its partition away, and does not know it.
// Guarantee: it cannot commit, and so begins no block.
func TestAZombieBeginsNoBlock(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	var zombie atomic.Pointer[string] // its member id
	c.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if id := zombie.Load(); id != nil && req.(*kmsg.HeartbeatRequest).MemberID == *id {
			return req.ResponseKind(), nil, true // all is well, it hears, and the group hears nothing of it
		}
		return nil, nil, false
	})
	var fenced atomic.Int32 // commits of the zombie
	c.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if id := zombie.Load(); id != nil && req.(*kmsg.OffsetCommitRequest).MemberID == *id {
			fenced.Add(1)
		}
		return nil, nil, false
	})
	s1, s2 := newStore(nil), newStore(nil)
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.SessionTimeout = 3 * time.Second
	r1, stop1 := run(t, cfg, s1)
	produce(t, cl, "x", 10, 1)
	eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 10 })
	id, _ := r1.client.GroupMetadata()
	zombie.Store(&id)
	r2, _ := run(t, testConfig(c.ListenAddrs(), "g"), s2)
	eventually(t, "the other has the partition", func() bool { return len(r2.group.partitions()) == 1 })
	p := r1.group.partitions()
	require.Len(t, p, 1, "the zombie takes itself for the owner")
	more := produce(t, cl, "y", 10, 1)
	eventually(t, "the other goes on", func() bool { return s2.hasAll(allBodies(more)) })
	eventually(t, "the zombie has fetched too, and tried to commit", func() bool { return fenced.Load() > 0 })
	eventually(t, "it has joined again", func() bool { id, _ := r1.client.GroupMetadata(); return id != *zombie.Load() })
	for _, b := range s1.offered(0) {
		require.Less(t, b.First, int64(10))
	}
	eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 20 })
	ranges := append(s1.offered(0), s2.offered(0)...)
	requireDisjoint(t, ranges)
	_ = stop1()
}

// Scenario: three members come, go and crash under load while pipelines fail, and leaders and coordinators move.
// Guarantees: every event is stored; all that was ever offered of a partition tiles it: whoever owned it delivered the same ranges.
func TestARebalanceStormKeepsTheSameBlocks(t *testing.T) {
	rnd := seeded(t)
	const partitions, members, rounds = 4, 3, 10
	c := fakeCluster(t, partitions)
	cl := testClient(t, c.ListenAddrs())
	var mu sync.Mutex
	chance := func(n int) bool { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) == 0 }
	s := newStore(func(ctx context.Context, _ block.Block, _ plog.Logs) error {
		if chance(5) {
			return errors.New("random failure")
		}
		if chance(5) {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				if chance(2) {
					return nil // it is stored, though nobody hears of it
				}
				return ctx.Err()
			}
		}
		return nil
	})
	type member struct {
		r    *mskReceiver
		stop func() error
	}
	join := func() member {
		cfg := testConfig(c.ListenAddrs(), "g")
		mu.Lock()
		cfg.Block.MaxEvents = 2 + rnd.IntN(12)
		cfg.MaxInFlightBlocks = 1 + rnd.IntN(5)
		mu.Unlock()
		cfg.ShutdownTimeout = 500 * time.Millisecond
		r, stop := run(t, cfg, s)
		return member{r, stop}
	}
	var all []member
	for range members {
		all = append(all, join())
	}
	var sets []map[int32]map[int64][]string
	for round := range rounds {
		sets = append(sets, produce(t, cl, fmt.Sprintf("r%d", round), 60, partitions))
		mu.Lock()
		i := rnd.IntN(members)
		mu.Unlock()
		if chance(2) {
			crash(all[i].r, all[i].stop)
		} else {
			_ = all[i].stop()
		}
		all[i] = join()
		if chance(4) {
			c.RehashCoordinators()
		}
		if chance(4) {
			c.ShufflePartitionLeaders()
		}
		for p, next := range committed(t, cl, "g") {
			for _, set := range sets {
				require.Empty(t, s.missingBelow(p, next, set[p]), "partition %d is committed up to %d", p, next)
			}
		}
	}
	want := allBodies(sets...)
	eventually(t, "all stored", func() bool { return s.hasAll(want) })
	eventually(t, "all committed", func() bool { return sumOffsets(committed(t, cl, "g")) == int64(len(want)/2) })
	for id, end := range committed(t, cl, "g") {
		requireTiles(t, s.offered(id), 0, end)
	}
	s.check(t)
}

// Scenario: the client was expelled and has joined again under another id, before it is told what it still owns.
// Guarantee: nothing is committed for partitions that were assigned to its former id.
func TestACommitIsNotSentUnderAnotherMemberId(t *testing.T) {
	c := fakeCluster(t, 2)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 10, 2)
	r, _ := run(t, testConfig(c.ListenAddrs(), "g"), newStore(nil))
	eventually(t, "committed", func() bool { return sumOffsets(committed(t, cl, "g")) == 10 })
	id, _ := r.client.GroupMetadata()
	former, present := &partition{member: "former"}, &partition{member: id}
	of := func(p *partition, next int64) statement {
		return statement{position: position{next: next, epoch: -1}, owner: p}
	}
	results, err := commitWith(r.client)(t.Context(), map[topicPartition]statement{{logsTopic, 0}: of(former, 3), {logsTopic, 1}: of(present, 4)})
	require.NoError(t, err)
	require.ErrorIs(t, results[topicPartition{logsTopic, 0}], errExpelled)
	require.NoError(t, results[topicPartition{logsTopic, 1}])
	results, err = commitWith(r.client)(t.Context(), map[topicPartition]statement{{logsTopic, 0}: of(former, 3)})
	require.NoError(t, err)
	require.ErrorIs(t, results[topicPartition{logsTopic, 0}], errExpelled)
	require.Equal(t, map[int32]int64{0: 5, 1: 4}, committed(t, cl, "g"))
}

// expulsions lets a test have the group expel its member, once each time that it sets what is returned.
func expulsions(c *kfake.Cluster) *atomic.Bool {
	expel := new(atomic.Bool)
	c.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if !expel.Load() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.RebalanceInProgress.Code
		return resp, nil, true
	})
	c.ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if q := req.(*kmsg.JoinGroupRequest); q.MemberID == "" || !expel.Swap(false) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	return expel
}

// Scenario: the group expels its only member, which joins again under another id and is given the partitions that it takes for
// kept, while it delivers.
// Guarantees: it begins them anew from what is committed, and goes on with the same blocks.
func TestPartitionsKeptOverAnExpulsionAreBegunAnew(t *testing.T) {
	c := fakeCluster(t, 2)
	cl := testClient(t, c.ListenAddrs())
	expel := expulsions(c)
	m := newMemory(time.Hour)
	s := newStore(nil)
	s.memories = []block.Memory{m}
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.SessionTimeout = 3 * time.Second
	r, stop := run(t, cfg, s)
	sets := []map[int32]map[int64][]string{produce(t, cl, "x", 20, 2)}
	eventually(t, "committed", func() bool { return sumOffsets(committed(t, cl, "g")) == 20 })
	id, _ := r.client.GroupMetadata()
	before := r.group.partitions()
	expel.Store(true)
	renewed := func() bool {
		for _, p := range r.group.partitions() {
			if slices.Contains(before, p) || p.member == id {
				return false
			}
		}
		return len(r.group.partitions()) == 2
	}
	for i := 0; !renewed() && i < 1000; i++ {
		sets = append(sets, produce(t, cl, fmt.Sprintf("y%d", i), 2, 2))
		time.Sleep(20 * time.Millisecond)
	}
	require.True(t, renewed())
	sets = append(sets, produce(t, cl, "z", 20, 2))
	want := allBodies(sets...)
	eventually(t, "all committed", func() bool { return sumOffsets(committed(t, cl, "g")) == int64(len(want)/2) })
	require.True(t, s.hasAll(want))
	for id, end := range committed(t, cl, "g") {
		requireTiles(t, s.offered(id), 0, end)
	}
	require.NoError(t, stop())
	require.Empty(t, m.faults)
	require.Empty(t, m.told)
	s.check(t)
}

// Scenario: a store finds that it holds less than the group takes for finished.
// Guarantees: the partition goes back to where the store says, other blocks of it are cancelled first, and all before is redone;
// what retention has removed of it by then is spanned.
func TestAStoreSendsItsPartitionBack(t *testing.T) {
	for _, tc := range []struct {
		name string
		back int64
		from int64 // where it goes on
		lost int64 // removed by retention before
	}{
		{"to an offset", 4, 4, 0},
		{"to the start", block.FromStart, 0, 0},
		{"to what retention removed", 4, 4, 10},
		{"to the start that retention moved", block.FromStart, 10, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := fakeCluster(t, 2)
			cl := testClient(t, c.ListenAddrs())
			produce(t, cl, "x", 40, 2)
			var restored atomic.Bool
			var mu sync.Mutex
			held := tc.back // what the store holds up to, of partition 0, once it is restored; FromStart: nothing
			var after []block.Block
			s := newStore(func(_ context.Context, b block.Block, _ plog.Logs) error {
				if b.Partition != 0 || !restored.Load() {
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case b.First == held, held == block.FromStart && b.Fresh && b.First == b.Oldest:
					held = b.Next()
					after = append(after, b)
					return nil
				case b.Oldest > held && (held != block.FromStart || !b.Fresh):
					return &block.ResumeError{Topic: b.Topic, Partition: b.Partition, Next: held}
				}
				return errors.New("not its turn") // it came before the block before it
			})
			cfg := testConfig(c.ListenAddrs(), "g")
			cfg.Block.MaxEvents = 4
			run(t, cfg, s)
			eventually(t, "all committed", func() bool { return sumOffsets(committed(t, cl, "g")) == 40 })
			if tc.lost > 0 {
				require.NoError(t, c.DeleteRecords(logsTopic, 0, tc.lost))
			}
			restored.Store(true)
			produce(t, cl, "y", 20, 2)
			eventually(t, "all committed again", func() bool { return sumOffsets(committed(t, cl, "g")) == 60 })
			mu.Lock()
			defer mu.Unlock()
			requireTiles(t, after, tc.from, 30)
			for _, b := range after {
				require.True(t, b.Unstated, "blocks that the worker before had begun are cut anew")
				require.NotEqual(t, s.offered(0)[0].Worker, b.Worker)
			}
			s.check(t)
		})
	}
}

// requireDisjoint checks that two ranges are the same or have no offset in common.
func requireDisjoint(t *testing.T, ranges []block.Block) {
	t.Helper()
	for i, a := range ranges {
		for _, b := range ranges[:i] {
			require.True(t, a.String() == b.String() || a.Partition != b.Partition || a.First > b.Last || b.First > a.Last, "%s and %s", a, b)
		}
	}
}

// Scenario: another member has died without a word, and this one joins and is told to stop before the group has noticed.
// Guarantee: it stops at once, and is not a second dead member that the group must wait for.
func TestAReceiverThatStopsWhileItJoinsLeavesTheGroup(t *testing.T) {
	c := fakeCluster(t, 2)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 10, 2)
	dead := deadMember(t, cl, "g", time.Minute)

	r, stop := run(t, testConfig(c.ListenAddrs(), "g"), newStore(nil))
	members := func() (ids []string) {
		groups, err := kadm.NewClient(cl).DescribeGroups(t.Context(), "g")
		require.NoError(t, err)
		for _, m := range groups["g"].Members {
			ids = append(ids, m.MemberID)
		}
		return ids
	}
	eventually(t, "joining", func() bool { id, _ := r.client.GroupMetadata(); return slices.Contains(members(), id) })
	began := time.Now()
	require.NoError(t, stop())
	require.Less(t, time.Since(began), 30*time.Second, "not until the other's session ends")
	require.Equal(t, []string{dead}, members())
}

// deadMember joins a group and is never heard of again.
func deadMember(t *testing.T, cl *kgo.Client, group string, session time.Duration) (id string) {
	t.Helper()
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.ProtocolType = group, "consumer"
	join.SessionTimeoutMillis = int32(session.Milliseconds())
	join.RebalanceTimeoutMillis = join.SessionTimeoutMillis
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name, protocol.Metadata = kgo.CooperativeStickyBalancer().ProtocolName(), []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	join.Protocols = append(join.Protocols, protocol)
	var joined *kmsg.JoinGroupResponse
	for range 2 { // the first answer is the member's id
		var err error
		joined, err = join.RequestWith(t.Context(), cl)
		require.NoError(t, err)
		join.MemberID = joined.MemberID
	}
	require.NoError(t, kerr.ErrorForCode(joined.ErrorCode))
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.Generation, sync.MemberID = group, joined.Generation, joined.MemberID
	sync.ProtocolType, sync.Protocol = joined.ProtocolType, joined.Protocol
	synced, err := sync.RequestWith(t.Context(), cl)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(synced.ErrorCode))
	return joined.MemberID
}
