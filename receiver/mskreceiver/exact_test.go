package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: an owner crashes between any two steps of a block; the next one has other limits.
// Guarantees: it delivers the same ranges under the same names, as redone, and goes on behind them.
func TestAfterACrashTheSameBlocksAreDelivered(t *testing.T) {
	const records = 40
	for _, gap := range []string{"intended", "delivered", "committed"} {
		t.Run(gap, func(t *testing.T) {
			c := fakeCluster(t, 1)
			cl := testClient(t, c.ListenAddrs())
			produce(t, cl, "x", records, 1)
			first := newStore(func(context.Context, block.Block, plog.Logs) error {
				if gap == "intended" {
					return errors.New("not now")
				}
				return nil
			})
			cfg := testConfig(c.ListenAddrs(), "g")
			cfg.Block.MaxEvents = 14 // 7 records
			cfg.Block.MaxAge = time.Second
			if gap != "committed" {
				cfg.Block.MaxAge = time.Hour // so that only intents are in a hurry to be committed
			}
			r, stop := run(t, cfg, first)
			want := int64(0)
			switch gap {
			case "intended", "delivered":
				eventually(t, "four blocks were offered", func() bool { return len(first.offered(0)) >= 4 })
				eventually(t, "their ranges are intents", func() bool { return strings.Contains(metadataOf(t, cl, "g", 0), "e=") })
			case "committed":
				eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] >= 35 })
			}
			crash(r, stop)
			at, err := parsePosition(committed(t, cl, "g")[0], metadataOf(t, cl, "g", 0))
			require.NoError(t, err)
			want = at.next
			before := first.offered(0)

			second := newStore(nil)
			cfg = testConfig(c.ListenAddrs(), "g")
			cfg.Block.MaxEvents = 6
			run(t, cfg, second)
			eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == records })
			after := second.offered(0)
			requireTiles(t, after, want, records)
			for i, end := range at.ends {
				require.Equal(t, end, after[i].Next())
				require.True(t, after[i].Redo)
				require.False(t, after[i].Unstated, "the group knows what was begun")
				require.NotEqual(t, before[0].Worker, after[i].Worker)
				require.Equal(t, at.intended.UnixMilli(), after[i].Intended.UnixMilli())
			}
			for _, b := range after[len(at.ends):] {
				require.False(t, b.Redo)
			}
			for _, b := range before { // whatever was offered is finished, or an intent
				if b.Next() <= want {
					continue
				}
				require.Contains(t, at.ends, b.Next())
			}
			second.check(t)
		})
	}
}

// Scenario: an owner that takes over more intents than it may have in flight crashes too.
// Guarantee: the third owner redoes what is left of them.
func TestIntentsOutliveTwoCrashes(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 20, 1)
	commitText(t, cl, "g", 0, 0, "v1 i=1 e=3,5,9,12")
	second := newStore(func(ctx context.Context, b block.Block, _ plog.Logs) error {
		if b.First > 0 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.MaxInFlightBlocks = 1
	r, stop := run(t, cfg, second)
	eventually(t, "the first is finished", func() bool { return committed(t, cl, "g")[0] == 3 })
	crash(r, stop)
	require.Regexp(t, "^v1 t=[0-9]+ l=0@0 i=1 e=5,9,12$", metadataOf(t, cl, "g", 0))
	third := newStore(nil)
	run(t, testConfig(c.ListenAddrs(), "g"), third)
	eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 20 })
	for i, want := range []string{"3-4", "5-8", "9-11", "12-19"} {
		require.Equal(t, "otlp.logs.v1/0/"+want, third.offered(0)[i].String())
	}
}

// Scenario: the oldest block is stuck while those behind it are stored.
// Guarantees: nothing behind it is committed, no more blocks than the bound begin, and the group knows all that did.
func TestNothingIsCommittedBehindAnUnfinishedBlock(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 40, 1)
	release := make(chan struct{})
	s := newStore(func(ctx context.Context, b block.Block, _ plog.Logs) error {
		if b.First == 0 {
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.Block.MaxEvents = 4 // 2 records
	cfg.MaxInFlightBlocks = 3
	r, _ := run(t, cfg, s)
	stored := func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.blocks) }
	eventually(t, "two of three are stored", func() bool { return stored() == 2 && len(s.offered(0)) == 3 })
	time.Sleep(300 * time.Millisecond) // more would have begun by now
	require.Len(t, s.offered(0), 3)
	require.Zero(t, committed(t, cl, "g")[0])
	at, err := parsePosition(0, metadataOf(t, cl, "g", 0))
	require.NoError(t, err)
	require.Equal(t, []int64{2, 4, 6}, at.ends)
	require.True(t, at.fresh)
	require.Zero(t, r.group.partitions()[0].position.Load())
	close(release)
	eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 40 })
	requireTiles(t, s.offered(0), 0, 40)
	at, err = parsePosition(40, metadataOf(t, cl, "g", 0))
	require.NoError(t, err)
	require.Empty(t, at.ends)
	require.False(t, at.fresh)
	require.False(t, at.appended.IsZero())
	s.check(t)
}

// Guarantee: blocks tile over transaction markers and what transactions aborted; a group that begins at the end begins fresh.
func TestBlocksTileOverTransactions(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	tx := testClient(t, c.ListenAddrs(), kgo.TransactionalID("tx"))
	s := newStore(nil)
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.Block.MaxEvents = 4
	r, _ := run(t, cfg, s)
	eventually(t, "placed", func() bool { return len(r.group.partitions()) == 1 })
	worker := r.group.partitions()[0]
	for i := range 12 {
		require.NoError(t, tx.BeginTransaction())
		produce(t, tx, fmt.Sprintf("tx%d", i), 2, 1)
		require.NoError(t, tx.EndTransaction(t.Context(), kgo.TransactionEndTry(i%3 != 0)))
	}
	last := produce(t, cl, "last", 1, 1) // behind the last marker
	var end int64
	for offset := range last[0] {
		end = offset + 1
	}
	require.EqualValues(t, 12*3+1, end)
	eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == end })
	requireTiles(t, s.offered(0), 0, end)
	require.Len(t, s.stored(), 8*4+2)
	require.Len(t, r.group.partitions(), 1)
	require.Same(t, worker, r.group.partitions()[0], "gaps that are as they should be begin nothing anew")
	require.True(t, s.offered(0)[0].Fresh)
	s.check(t)
}

// Scenario: retention removes records of intended ranges, and of what no block was decided for, while nobody owns the partition.
// Guarantees: the ranges are redone as they were, empty or in part; the next block spans what was lost.
func TestIntendedRangesOutliveRetention(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 30, 1)
	adm := testClient(t, c.ListenAddrs())
	for _, tc := range []struct {
		group    string
		ends     string
		logStart int64
		want     []string
	}{
		{"in-part", " i=1 e=4,8,12", 6, []string{"0-3", "4-7", "8-11", "12-29"}},
		{"beyond", " i=1 e=4,8", 9, []string{"0-3", "4-7", "8-29"}},
		{"without", "", 10, []string{"0-29"}},
	} {
		t.Run(tc.group, func(t *testing.T) {
			commitText(t, adm, tc.group, 0, 0, "v1"+tc.ends)
			require.NoError(t, c.DeleteRecords(logsTopic, 0, tc.logStart))
			s := newStore(nil)
			_, stop := run(t, testConfig(c.ListenAddrs(), tc.group), s)
			eventually(t, "all committed", func() bool { return committed(t, cl, tc.group)[0] == 30 })
			var got []string
			for _, b := range s.offered(0) {
				got = append(got, fmt.Sprintf("%d-%d", b.First, b.Last))
			}
			require.Equal(t, tc.want, got)
			require.Len(t, s.stored(), 2*int(30-tc.logStart))
			require.NoError(t, stop())
			s.check(t)
		})
	}
}

// commitText commits an offset and its metadata for a group without members.
func commitText(t *testing.T, cl *kgo.Client, group string, partition int32, offset int64, text string) {
	t.Helper()
	var o kadm.Offsets
	o.Add(kadm.Offset{Topic: logsTopic, Partition: partition, At: offset, LeaderEpoch: -1, Metadata: text})
	require.NoError(t, kadm.NewClient(cl).CommitAllOffsets(t.Context(), group, o))
}

// Guarantee: metadata that is not ours, or damaged, is taken for none, whatever it holds.
func TestForeignMetadataIsTakenForNone(t *testing.T) {
	for _, text := range []string{"", "kgo-1234", "v2 e=5", "v1 e=3,3", "v1 i=1 e=1,2"} {
		t.Run(text, func(t *testing.T) {
			c := fakeCluster(t, 1)
			cl := testClient(t, c.ListenAddrs())
			produce(t, cl, "x", 10, 1)
			commitText(t, cl, "g", 0, 2, text)
			s := newStore(nil)
			run(t, testConfig(c.ListenAddrs(), "g"), s)
			eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 10 })
			requireTiles(t, s.offered(0), 2, 10)
			require.False(t, s.offered(0)[0].Redo)
			require.False(t, s.offered(0)[0].Fresh)
			require.True(t, s.offered(0)[0].Unstated, "blocks may have been begun that nobody knows of")
		})
	}
}

// Scenario: a member shuts down in good order while the oldest block is stuck and those behind it are stored.
// Guarantee: the next owner redoes them all as they were.
func TestAShutdownLeavesWhatIsNotFinishedAsIntents(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 40, 1)
	stored, stuck := make(chan struct{}, 100), make(chan struct{}, 100)
	s := newStore(func(ctx context.Context, b block.Block, _ plog.Logs) error {
		if b.First == 10 {
			stuck <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		stored <- struct{}{}
		return nil
	})
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.Block.MaxEvents = 10 // 5 records
	cfg.ShutdownTimeout = 400 * time.Millisecond
	_, stop := run(t, cfg, s)
	for range 5 { // 0, 5, then 15, 20, 25 behind the stuck one
		<-stored
	}
	<-stuck
	require.ErrorContains(t, stop(), "partition 0")
	require.EqualValues(t, 10, committed(t, cl, "g")[0])
	require.Contains(t, metadataOf(t, cl, "g", 0), " e=15,20,25,30")
	next := newStore(nil)
	run(t, testConfig(c.ListenAddrs(), "g"), next)
	eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 40 })
	requireTiles(t, next.offered(0), 10, 40)
	require.Equal(t, "otlp.logs.v1/0/10-14", next.offered(0)[0].String())
	require.Equal(t, "otlp.logs.v1/0/25-29", next.offered(0)[3].String())
}

// Guarantee: an intended range is cut again whole, though it is far more than the memory bound of its new owner.
func TestAnIntendedRangeMayExceedTheMemoryBound(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for range 10 {
		produce(t, cl, "x", 600, 1)
	}
	commitText(t, cl, "g", 0, 0, "v1 i=1 e=5900")
	s := newStore(nil)
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.MaxInFlightBytes = 1 << 20
	cfg.Fetch.MaxBytes, cfg.Fetch.MaxPartitionBytes = 64<<10, 64<<10
	run(t, cfg, s)
	eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 6000 })
	require.Equal(t, "otlp.logs.v1/0/0-5899", s.offered(0)[0].String())
	requireTiles(t, s.offered(0), 0, 6000)
}

// Scenario: Kafka cuts a log off, behind what was delivered of it, and writes other records there; and the client goes back.
// Guarantees: new records at old offsets go to quarantine with the next block, the same records again are dropped, and blocks tile.
func TestRecordsThatReplaceDeliveredOnesAreQuarantined(t *testing.T) {
	d := testDeps(t)
	var put []string
	d.quarantine = newQuarantine("q", "g")
	d.quarantine.produce = func(_ context.Context, records ...*kgo.Record) error {
		for _, r := range records {
			code, _ := header(r, envelope.HeaderQuarantineCode)
			put = append(put, fmt.Sprintf("%s %s", r.Value, code))
		}
		return nil
	}
	s := newStore(nil)
	d.sinks = &sinks{logs: s}
	set := receivertest.NewNopSettings(metadata.Type())
	obs, err := newSinks(set)
	require.NoError(t, err)
	d.sinks.obs = obs.obs
	d.committer.commit = func(context.Context, map[topicPartition]statement) (map[topicPartition]error, error) { return nil, nil }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); d.committer.run(ctx) }()
	defer func() { cancel(); <-ended }()

	d.cfg.Block.MaxAge = 0
	p := newPartition(topicPartition{logsTopic, 0}, signal.Logs, d, d.log(), nil)
	d.committer.own(p)
	d.budget.attach(p)
	p.place(plan{position: position{next: 10, epoch: -1}, from: 10, end: 20})
	go func() { _ = p.run() }()
	record := func(offset int64, epoch int32, body string) *kgo.Record {
		return &kgo.Record{Topic: logsTopic, Offset: offset, LeaderEpoch: epoch, Value: logsRequest(body)}
	}
	p.push([]*kgo.Record{record(10, 1, "a"), record(11, 1, "b")})
	eventually(t, "delivered", func() bool { return s.hasAll([]string{"a", "b"}) })
	p.push([]*kgo.Record{record(10, 1, "a"), {Topic: logsTopic, Offset: 11, LeaderEpoch: 2, Value: []byte("other")}, record(12, 2, "c")})
	eventually(t, "it goes on", func() bool { return s.hasAll([]string{"c"}) })
	p.halt()
	<-p.done
	require.Equal(t, []string{"other replaced"}, put)
	require.Equal(t, map[string]int{"a": 1, "b": 1, "c": 1}, s.stored())
	requireTiles(t, s.offered(0), 10, 13)
	used, _ := d.budget.usage()
	require.Zero(t, used)
}

// Scenario: records of a partition keep coming, and it keeps up.
// Guarantee: a block costs one commit, which says that the one before it is done and where it ends.
func TestABlockCostsOneCommit(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	var commits atomic.Int32
	c.ControlKey(int16(kmsg.OffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		commits.Add(1)
		return nil, nil, false
	})
	s := newStore(nil)
	cfg := testConfig(c.ListenAddrs(), "g")
	// A block that is full waits for the next block's intent as long as a block may be open: far longer than the next block takes.
	cfg.Block.MaxEvents, cfg.Block.MaxAge = 10, 3*time.Second
	run(t, cfg, s)
	for i := range 100 {
		produce(t, cl, fmt.Sprintf("x%d", i), 1, 1)
		time.Sleep(20 * time.Millisecond)
	}
	eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 100 })
	blocks := len(s.offered(0))
	t.Logf("%d commits for %d blocks", commits.Load(), blocks)
	require.Less(t, float64(commits.Load()), 1.5*float64(blocks)+2, "two a block would be without waiting for the next intent")
}
