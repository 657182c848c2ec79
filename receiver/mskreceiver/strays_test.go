package mskreceiver

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Guarantee: whatever sequence of takes and replacements, each offset has the epoch of what was taken last there, as long as the
// steps are within their bound; dropping the oldest never makes a replacement look like what was taken.
func TestEpochsKnowEachOffset(t *testing.T) {
	rng := seeded(t)
	for range 2000 {
		var es epochs
		var model []step // by offset
		for epoch := int32(0); epoch < 4 && len(es) < maxSteps-2; epoch++ {
			for range 1 + rng.IntN(5) {
				es = es.take(int64(len(model)), epoch)
				model = append(model, step{epoch: epoch})
			}
			if rng.IntN(3) == 0 {
				from := rng.IntN(len(model))
				to := from + 1 + rng.IntN(len(model)-from)
				es = es.set(step{from: int64(from), epoch: epoch + 10, replaced: true}, int64(to))
				for i := from; i < to; i++ {
					model[i] = step{epoch: epoch + 10, replaced: true}
				}
			}
		}
		if len(es) == maxSteps {
			continue
		}
		for o, want := range model {
			require.Equal(t, want.replaced, es.inQuarantine(int64(o)), "%v at %d", es, o)
			require.False(t, es.differ(int64(o), want.epoch), "%v at %d", es, o)
			require.True(t, es.differ(int64(o), want.epoch+1), "%v at %d", es, o)
		}
		got, err := parseEpochs(string(es.appendText(nil)))
		require.NoError(t, err)
		require.Equal(t, es, got)
	}
	old := epochs{{from: 149, epoch: 1}} // of a version that kept one
	require.True(t, old.differ(100, 2))
	require.False(t, old.differ(100, 0))
	old = old.set(step{from: 100, epoch: 2, replaced: true}, 101)
	require.False(t, old.differ(100, 2))
	require.True(t, old.differ(101, 2), "what comes behind a replacement is one too")
	require.Nil(t, epochs(nil).take(3, -1))
	known := epochs{{from: 0, epoch: 0}, {from: 90, epoch: 1}, {from: 126, epoch: 2}}
	require.Equal(t, known, known.take(120, 1), "a range that is cut again: what lies behind stays known")
	for _, bad := range []string{"", "5", "5@", "@5", "-1@5", "5@9,6@9", "1@1,2@2,3@3,4@4,5@5,6@6,7@7,8@8,9@9"} {
		_, err := parseEpochs(bad)
		require.Error(t, err, bad)
	}
}

// quarantinedOffsets are the origin offsets of what is in quarantine for a reason.
func quarantinedOffsets(t *testing.T, brokers []string, code string) (out []int64) {
	t.Helper()
	cl := testClient(t, brokers, kgo.ConsumeTopics(signal.QuarantineTopic))
	defer cl.Close()
	end := endOfQuarantine(t, cl)
	for n := int64(0); n < end; {
		for _, r := range cl.PollFetches(t.Context()).Records() {
			n++
			got, _ := header(r, envelope.HeaderQuarantineCode)
			require.Equal(t, code, got)
			text, _ := header(r, envelope.HeaderOriginOffset)
			offset, err := strconv.ParseInt(text, 10, 64)
			require.NoError(t, err)
			out = append(out, offset)
		}
	}
	slices.Sort(out)
	return out
}

// requireReplaced waits until the group knows that [from, to) is in quarantine, and requires that nothing else is there. Commits of what came behind do not
// wait for that.
func requireReplaced(t *testing.T, cl *kgo.Client, from, to int64) {
	t.Helper()
	eventually(t, "the group knows what is in quarantine", func() bool {
		at, err := parsePosition(to, metadataOf(t, cl, "g", 0))
		return err == nil && at.epochs.inQuarantine(from) && at.epochs.inQuarantine(to-1) && !at.epochs.inQuarantine(to)
	})
	require.Equal(t, seq(from, to), quarantinedOffsets(t, cl.OptValue(kgo.SeedBrokers).([]string), codeReplaced))
}

func seq(from, to int64) (out []int64) {
	for o := from; o < to; o++ {
		out = append(out, o)
	}
	return out
}

// rewritten is a cluster whose log has leader epoch 0 below an offset and 2 from there on, as if it had been cut off and written anew.
func rewritten(t *testing.T, cut, end int) (*kfake.Cluster, *kgo.Client) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for n := 0; n < cut; n += min(cut-n, 600) {
		produce(t, cl, "kept", min(cut-n, 600), 1)
	}
	for range 2 {
		require.NoError(t, c.MoveTopicPartition(logsTopic, 0, (c.LeaderFor(logsTopic, 0)+1)%3))
	}
	cl.ForceMetadataRefresh()
	for n := cut; n < end; n += min(end-n, 600) {
		produce(t, cl, fmt.Sprintf("new-%d", n), min(end-n, 600), 1)
	}
	return c, cl
}

// Scenario: 150 records were delivered, or begun; the log was then cut off at 100 and written anew, to 170, and the partition has another
// owner, with or without a memory to warm up.
// Guarantees: the 50 that replaced delivered ones are in quarantine, once, and in no block; the memory is told of none of them; what came
// behind is delivered; the owner after that does not put them there again.
func TestAnotherOwnerFindsWhatReplacedDeliveredRecords(t *testing.T) {
	for _, tc := range []struct {
		name  string
		at    int64
		epoch int32
		text  string
		cut   int // the log's later epoch begins here
	}{
		{"finished", 150, 0, "v1 t=1 l=0@0", 100},
		{"finished, and stated by a version that kept one epoch", 150, 0, "v1 t=1", 100},
		{"begun", 80, 0, "v1 t=1 l=0@0 i=1 e=90,120,150", 100},
		{"begun under a later leader, which is gone", 80, 0, "v1 t=1 l=0@0,7@100 i=1 e=90,120,150", 100},
		{"finished under a leader that had less of the epoch before than the one after it", 150, 1, "v1 t=1 l=0@0,1@100", 120},
	} {
		for _, window := range []time.Duration{0, time.Hour} {
			t.Run(fmt.Sprintf("%s, window %v", tc.name, window), func(t *testing.T) {
				c, cl := rewritten(t, tc.cut, 170)
				var o kadm.Offsets
				o.Add(kadm.Offset{Topic: logsTopic, At: tc.at, LeaderEpoch: tc.epoch, Metadata: tc.text})
				require.NoError(t, kadm.NewClient(cl).CommitAllOffsets(t.Context(), "g", o))
				m := newMemory(window)
				s := newStore(nil)
				if window > 0 {
					s.memories = []block.Memory{m}
				}
				_, stop := run(t, testConfig(c.ListenAddrs(), "g"), s)
				eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 170 })
				requireReplaced(t, cl, 100, 150)
				s.mu.Lock()
				for at := range s.events {
					require.True(t, at.offset >= tc.at && (at.offset < 100 || at.offset >= 150), at)
				}
				require.Len(t, s.events, 2*int(max(0, 100-tc.at)+20))
				s.mu.Unlock()
				requireTiles(t, s.offered(0), tc.at, 170)
				if window > 0 {
					require.Equal(t, seq(0, min(tc.at, 100)), m.offsets(0))
				}
				require.NoError(t, stop())
				s.check(t)

				next := newStore(nil)
				m = newMemory(time.Hour)
				next.memories = []block.Memory{m}
				more := produce(t, cl, "more", 3, 1)
				run(t, testConfig(c.ListenAddrs(), "g"), next)
				eventually(t, "it goes on", func() bool { return next.hasAll(allBodies(more)) })
				require.Len(t, quarantinedOffsets(t, c.ListenAddrs(), codeReplaced), 50)
				require.Equal(t, append(seq(0, 100), seq(150, 170)...), m.offsets(0))
				require.Empty(t, m.faults)
			})
		}
	}
}

// Scenario: a log that was cut off had far more records than a partition may hold in memory, and is written anew.
// Guarantees: all of them go to quarantine within the bound, and what comes behind is delivered.
func TestATruncationMayExceedTheMemoryBound(t *testing.T) {
	const cut, end = 600, 12_000
	c, cl := rewritten(t, cut, end)
	var o kadm.Offsets
	o.Add(kadm.Offset{Topic: logsTopic, At: end, LeaderEpoch: 0, Metadata: "v1 t=1 l=0@0"})
	require.NoError(t, kadm.NewClient(cl).CommitAllOffsets(t.Context(), "g", o))
	s := newStore(nil)
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.MaxInFlightBytes = 1 << 20
	cfg.Fetch.MaxBytes, cfg.Fetch.MaxPartitionBytes = 64<<10, 64<<10
	r, _ := run(t, cfg, s)
	want := produce(t, cl, "behind", 3, 1)
	var most int64
	eventually(t, "what comes behind is delivered", func() bool {
		used, _ := r.group.deps.budget.usage()
		most = max(most, used)
		return s.hasAll(allBodies(want))
	})
	require.LessOrEqual(t, most, 4*cfg.MaxInFlightBytes)
	requireReplaced(t, cl, cut, end)
	eventually(t, "nothing is held", func() bool { used, _ := r.group.deps.budget.usage(); return used == 0 })
}

// Scenario: the owner itself has read records, not begun yet, when the log is cut off below them and written anew.
// Guarantee: a record that came in another's place goes to quarantine only when the group knows that the first one is begun: else the
// owner after a crash would deliver it too.
func TestAReplacementWaitsUntilTheFirstRecordIsBegun(t *testing.T) {
	d := testDeps(t)
	put := make(chan int64, 10)
	d.quarantine = newQuarantine("q", "g")
	d.quarantine.produce = func(_ context.Context, records ...*kgo.Record) error {
		for _, r := range records {
			text, _ := header(r, envelope.HeaderOriginOffset)
			offset, _ := strconv.ParseInt(text, 10, 64)
			put <- offset
		}
		return nil
	}
	p := newPartition(topicPartition{logsTopic, 0}, signal.Logs, d, zap.NewNop(), nil)
	defer p.cancel()
	d.committer.own(p)
	d.budget.attach(p)
	p.place(plan{position: position{next: 10, epoch: -1}, from: 10, end: 12, cut: 10})
	p.prepare()
	record := func(offset int64, epoch int32) *kgo.Record {
		return &kgo.Record{Topic: logsTopic, Offset: offset, LeaderEpoch: epoch, Value: logsRequest("x")}
	}
	p.push([]*kgo.Record{record(10, 1), record(11, 1), record(11, 2)})
	d.cfg.Block.MaxAge = time.Hour
	p.take()
	p.cut()
	p.sendStrays()
	require.Len(t, p.strays.waiting, 1, "the first one is not begun")
	p.gather.limits.MaxAge = 0
	p.cut()
	p.sendStrays()
	require.Len(t, p.strays.waiting, 1, "the group does not know yet")
	p.acked.Store(p.flights.queue[0].intent)
	p.sendStrays()
	require.EqualValues(t, 11, <-put)
	p.straysEnded(<-p.strays.ended)
	require.True(t, p.epochs.inQuarantine(11))
	require.False(t, p.epochs.inQuarantine(10))
	p.push([]*kgo.Record{record(11, 2)})
	p.take()
	require.Empty(t, p.strays.waiting, "it is there already")
}
