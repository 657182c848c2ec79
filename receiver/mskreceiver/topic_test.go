package mskreceiver

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
	require.Regexp(t, "^v1 t=[0-9]+ i=1 e=5$", metadataOf(t, cl, "g", 0), "nothing is begun behind them, for what is stated has one id")
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
