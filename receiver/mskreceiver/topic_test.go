package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// Scenario: while nobody of the group is there, the topic is deleted and made anew; the group's offset, and the blocks that it had
// begun, are of the old one.
// Guarantees: the new topic is read from its start, also with initial_offset latest, in blocks of other names, which are fresh and
// not redone.
func TestATopicMadeAnewWhileTheGroupIsAwayIsReadFromItsStart(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "old", 20, 1)
	s := newStore(func(_ context.Context, b block.Block, _ plog.Logs) error {
		if b.First >= 10 {
			return errors.New("not now")
		}
		return nil
	})
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.Block.MaxEvents = 10 // 5 records
	r, stop := run(t, cfg, s)
	eventually(t, "half is committed", func() bool { return committed(t, cl, "g")[0] == 10 && len(s.offered(0)) == 4 })
	crash(r, stop)
	old := block.TopicID(c.TopicInfo(logsTopic).TopicID)
	text := metadataOf(t, cl, "g", 0)
	require.Contains(t, text, " id="+old.String()+" ")
	require.Contains(t, text, " e=15,20")

	require.NoError(t, c.DeleteTopic(logsTopic))
	require.NoError(t, c.CreateTopic(logsTopic, 1, nil))
	commitText(t, cl, "g", 0, 10, text) // Kafka forgets the offsets of a topic that it deletes, but a late commit may bring them back
	fresh := testClient(t, c.ListenAddrs())
	want := produce(t, fresh, "new", 12, 1)
	next := newStore(nil)
	cfg = testConfig(c.ListenAddrs(), "g")
	cfg.InitialOffset = Latest
	run(t, cfg, next)
	eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 12 })
	require.True(t, next.hasAll(allBodies(want)))
	require.Len(t, next.stored(), 24)
	requireTiles(t, next.offered(0), 0, 12)
	now := block.TopicID(c.TopicInfo(logsTopic).TopicID)
	for _, b := range next.offered(0) {
		require.Equal(t, now, b.TopicID)
		require.False(t, b.Redo)
	}
	require.True(t, next.offered(0)[0].Fresh)
	require.NotEqual(t, s.offered(0)[0].Name(), next.offered(0)[0].Name())
	require.Contains(t, metadataOf(t, cl, "g", 0), "v1 id="+now.String()+" ")
	next.check(t)
}

// Scenario: an older version, which knew no topic ids, has begun blocks, and crashes.
// Guarantees: they are redone under the names that they were begun under, also by the owner after the next; the blocks behind them
// have the topic's id.
func TestBlocksBegunWithoutATopicIDAreRedoneWithoutOne(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 20, 1)
	commitText(t, cl, "g", 0, 0, "v1 i=1 e=3,5")
	stuck := newStore(func(_ context.Context, b block.Block, _ plog.Logs) error {
		if b.First > 0 {
			return errors.New("not now")
		}
		return nil
	})
	r, stop := run(t, testConfig(c.ListenAddrs(), "g"), stuck)
	eventually(t, "the first is finished", func() bool { return committed(t, cl, "g")[0] == 3 && len(stuck.offered(0)) == 2 })
	crash(r, stop)
	require.Regexp(t, "^v1 t=[0-9]+ l=0@0 i=1 e=5$", metadataOf(t, cl, "g", 0), "nothing is begun behind them, for what is stated has one id")
	s := newStore(nil)
	run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 20 })
	requireTiles(t, append(stuck.offered(0)[:1], s.offered(0)...), 0, 20)
	id := block.TopicID(c.TopicInfo(logsTopic).TopicID)
	for _, b := range append(stuck.offered(0), s.offered(0)...) {
		require.Equal(t, b.First >= 5, b.TopicID == id, b.Name())
		require.Equal(t, b.First < 5, b.Name() == b.String())
	}
	require.True(t, strings.HasPrefix(metadataOf(t, cl, "g", 0), "v1 id="+id.String()+" t="))
}

// Scenario: the topic is deleted and made anew, with other partitions, under a member that delivers.
// Guarantees: what is being delivered of the old topic is abandoned, nothing of it is committed for the new one, which is read from its
// start, also with initial_offset latest and though Kafka has forgotten the group's offsets, in fresh blocks with its id.
func TestATopicMadeAnewUnderItsReaderIsReadFromItsStart(t *testing.T) {
	for _, forgotten := range []bool{true, false} {
		t.Run(fmt.Sprintf("offsets forgotten %v", forgotten), func(t *testing.T) {
			c := fakeCluster(t, 1)
			cl := testClient(t, c.ListenAddrs())
			old := block.TopicID(c.TopicInfo(logsTopic).TopicID)
			s := newStore(func(ctx context.Context, b block.Block, _ plog.Logs) error {
				if b.TopicID == old && b.First >= 10 {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})
			cfg := testConfig(c.ListenAddrs(), "g")
			cfg.InitialOffset = Latest
			cfg.Block.MaxEvents = 10 // 5 records
			r, _ := run(t, cfg, s)
			eventually(t, "placed", func() bool { ps := r.group.partitions(); return len(ps) == 1 && ps[0].isPlaced() })
			produce(t, cl, "old", 20, 1)
			eventually(t, "half is committed", func() bool { return committed(t, cl, "g")[0] == 10 && len(s.offered(0)) == 4 })
			text := metadataOf(t, cl, "g", 0)

			if forgotten { // Kafka forgets them with the topic; kfake keeps them
				var once atomic.Bool
				c.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
					c.KeepControl()
					q := req.(*kmsg.OffsetFetchRequest)
					if once.Load() || len(q.Groups) == 0 || len(q.Groups[0].Topics) == 0 {
						return nil, nil, false
					}
					resp := q.ResponseKind().(*kmsg.OffsetFetchResponse)
					g := kmsg.NewOffsetFetchResponseGroup()
					g.Group = q.Groups[0].Group
					for _, topic := range q.Groups[0].Topics {
						once.Store(once.Load() || slices.Contains(topic.Partitions, 1))
						rt := kmsg.NewOffsetFetchResponseGroupTopic()
						rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
						for _, id := range topic.Partitions {
							rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
							rp.Partition, rp.Offset, rp.LeaderEpoch = id, -1, -1
							rt.Partitions = append(rt.Partitions, rp)
						}
						g.Topics = append(g.Topics, rt)
					}
					resp.Groups = append(resp.Groups, g)
					return resp, nil, true
				})
			}
			require.NoError(t, c.DeleteTopic(logsTopic))
			require.NoError(t, c.CreateTopic(logsTopic, 2, nil))
			fresh := testClient(t, c.ListenAddrs())
			want := produce(t, fresh, "new", 24, 2)
			eventually(t, "all committed", func() bool { o := committed(t, fresh, "g"); return o[0] == 12 && o[1] == 12 })
			require.True(t, s.hasAll(allBodies(want)))
			now := block.TopicID(c.TopicInfo(logsTopic).TopicID)
			var ranges []block.Block
			s.mu.Lock()
			for _, b := range s.blocks {
				if b.TopicID == now && b.Partition == 0 {
					ranges = append(ranges, b)
				}
				require.False(t, b.Redo, b.Name())
			}
			for body, n := range s.count {
				require.LessOrEqual(t, n, 2, body)
			}
			s.mu.Unlock()
			slices.SortFunc(ranges, func(a, b block.Block) int { return int(a.First - b.First) })
			requireTiles(t, ranges, 0, 12)
			require.True(t, ranges[0].Fresh)
			require.Regexp(t, "^v1 id="+now.String()+" t=", metadataOf(t, fresh, "g", 0))
			require.NotEqual(t, text, metadataOf(t, fresh, "g", 0))
			s.check(t)
		})
	}
}

// Scenario: a topic is deleted and made anew, and before its reader notices, the group expels and readmits it: its partition begins anew, of the new
// topic, while the client goes on asking for the old one.
// Guarantee: the new topic is read from its start.
func TestATopicMadeAnewWhoseReaderBeginsBeforeItNoticesIsRead(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	expel := expulsions(c)
	s := newStore(nil)
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.SessionTimeout = 3 * time.Second
	r, _ := run(t, cfg, s)
	produce(t, cl, "old", 10, 1)
	eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 10 })
	before := r.group.partitions()

	require.NoError(t, c.DeleteTopic(logsTopic))
	require.NoError(t, c.CreateTopic(logsTopic, 1, nil))
	now := block.TopicID(c.TopicInfo(logsTopic).TopicID)
	expel.Store(true)
	eventually(t, "begun anew", func() bool {
		ps := r.group.partitions()
		return len(ps) == 1 && ps[0] != before[0] && ps[0].isPlaced() && ps[0].plan.topic == now
	})
	fresh := testClient(t, c.ListenAddrs())
	want := produce(t, fresh, "new", 12, 1)
	eventually(t, "all committed", func() bool { return committed(t, fresh, "g")[0] == 12 && s.hasAll(allBodies(want)) })
	s.check(t)
}
