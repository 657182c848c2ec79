package mskreceiver

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// memory records what it is told, and that it is told in order.
type memory struct {
	window time.Duration

	mu     sync.Mutex
	told   map[int32]map[int64][]eventid.Key // of partitions that are begun: keys of events by offset
	next   map[int32]int64
	begun  int
	ended  int
	faults []string
}

func newMemory(window time.Duration) *memory {
	return &memory{window: window, told: map[int32]map[int64][]eventid.Key{}, next: map[int32]int64{}}
}

func (m *memory) Window() time.Duration { return m.window }

func (m *memory) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

func (m *memory) Begin(_ string, partition int32, next int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told[partition] != nil {
		m.fault("begin of partition %d before its end", partition)
	}
	m.told[partition], m.next[partition] = map[int64][]eventid.Key{}, next
	m.begun++
}

func (m *memory) Remember(_ string, partition int32, r *eventid.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	told, offset := m.told[partition], r.Offset
	if told == nil || offset >= m.next[partition] || r.Tenant == "" || r.Appended == 0 || len(r.Rules) == 0 {
		m.fault("partition %d, offset %d, tenant %q", partition, offset, r.Tenant)
		return
	}
	for o := range told {
		if o >= offset {
			m.fault("offset %d after %d", offset, o)
		}
	}
	told[offset] = keysOf(r)
}

// keysOf are what a record's events are compared by, each with a key of its own.
func keysOf(r *eventid.Record) []eventid.Key {
	keys := slices.Clone(r.Keys)
	for i, rule := range r.Rules {
		if rule == eventid.ByRequest {
			keys[i] = r.IndexKey(i)
		}
	}
	return keys
}

func (m *memory) End(_ string, partition int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told[partition] == nil {
		m.fault("end of partition %d before its begin", partition)
	}
	delete(m.told, partition)
	m.ended++
}

func (m *memory) offsets(partition int32) (out []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for o := range m.told[partition] {
		out = append(out, o)
	}
	slices.Sort(out)
	return out
}

// Scenario: partitions whose last finished record's time is known, or not; at the log's end, or not; with poison in the window.
// Guarantees: memories are told exactly the records of the largest window before the first block, with the tenants and keys that
// these records' events were delivered with, and before that block; nothing of them is delivered or counted as delivered.
func TestMemoriesAreToldTheWindowBeforeTheFirstBlock(t *testing.T) {
	begin := time.UnixMilli(1_790_000_000_000)
	produceAt := func(t *testing.T, cl *kgo.Client, from, to int) {
		for i := from; i < to; i++ { // a record a minute
			value := logsRequest(fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i))
			if i == 25 {
				value = []byte("poison")
			}
			require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{
				Topic: logsTopic, Value: value, Timestamp: begin.Add(time.Duration(i) * time.Minute),
				Headers: []kgo.RecordHeader{{Key: envelope.HeaderTenant, Value: []byte("acme")}},
			}).FirstErr())
		}
	}
	seq := func(from, to int64) (out []int64) {
		for o := from; o < to; o++ {
			if o != 25 {
				out = append(out, o)
			}
		}
		return out
	}
	for _, tc := range []struct {
		name      string
		committed int64
		text      string
		want      []int64
	}{
		{"by the last finished record", 30, fmt.Sprintf("v1 t=%d", begin.Add(29*time.Minute).UnixMilli()), seq(19, 30)},
		{"by the next record", 30, "", seq(20, 30)},
		{"at the end", 40, "", seq(29, 40)},
		{"near the start", 3, "", seq(0, 3)},
		{"at the start", 0, "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := fakeCluster(t, 1)
			cl := testClient(t, c.ListenAddrs())
			produceAt(t, cl, 0, 40)
			commitText(t, cl, "g", 0, tc.committed, tc.text)
			var keys sync.Map // offset -> keys as delivered, to another group
			other := newStore(func(_ context.Context, b block.Block, _ plog.Logs) error {
				for i := range b.Records {
					keys.Store(b.Records[i].Offset, keysOf(&b.Records[i]))
				}
				return nil
			})
			run(t, testConfig(c.ListenAddrs(), "other"), other)
			eventually(t, "the other group is done", func() bool { return committed(t, cl, "other")[0] == 40 })

			m, small := newMemory(10*time.Minute), newMemory(time.Minute)
			told := make(chan []int64, 100)
			s := newStore(func(context.Context, block.Block, plog.Logs) error { told <- m.offsets(0); return nil })
			s.memories = []block.Memory{small, m}
			r, stop := run(t, testConfig(c.ListenAddrs(), "g"), s)
			eventually(t, "placed", func() bool { ps := r.group.partitions(); return len(ps) == 1 && ps[0].isPlaced() })
			produceAt(t, cl, 40, 42)
			eventually(t, "done", func() bool { return committed(t, cl, "g")[0] == 42 })
			require.Equal(t, tc.want, <-told, "before the first block")
			require.Equal(t, tc.want, m.offsets(0), "and nothing after it")
			require.Equal(t, tc.want, small.offsets(0), "the largest window is everybody's")
			requireTiles(t, s.offered(0), tc.committed, 42)
			want := 2 * len(seq(tc.committed, 42))
			require.Len(t, s.stored(), want)
			m.mu.Lock()
			for offset, got := range m.told[0] {
				require.Len(t, got, 2)
				delivered, _ := keys.Load(offset)
				require.Equal(t, delivered, got)
			}
			m.mu.Unlock()
			require.NoError(t, stop())
			require.Equal(t, []int{1, 1}, []int{m.begun, m.ended})
			require.Empty(t, m.faults)
			s.check(t)
		})
	}
}

// Guarantee: each time that a partition begins anew, by rebalances or because its store sends it back, its memories have heard
// End first and are told anew; in the end all have heard End.
func TestMemoriesHearBeginAndEndInTurn(t *testing.T) {
	c := fakeCluster(t, 2)
	cl := testClient(t, c.ListenAddrs())
	produce(t, cl, "x", 40, 2)
	m := newMemory(time.Hour)
	var back sync.Once
	s := newStore(func(_ context.Context, b block.Block, _ plog.Logs) (err error) {
		if b.Partition == 0 && b.First >= 20 {
			back.Do(func() { err = &block.ResumeError{Topic: b.Topic, Partition: 0, Next: 15} })
		}
		return err
	})
	s.memories = []block.Memory{m}
	_, stop := run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "done", func() bool { return sumOffsets(committed(t, cl, "g")) == 40 })
	other := newStore(nil) // has memories of its own
	_, leave := run(t, testConfig(c.ListenAddrs(), "g"), other)
	eventually(t, "a partition has moved", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.ended == 1 })
	require.NoError(t, leave())
	eventually(t, "and has come back", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.told) == 2 })
	produce(t, cl, "y", 20, 2)
	eventually(t, "done again", func() bool { return sumOffsets(committed(t, cl, "g")) == 60 })
	eventually(t, "sent back, and told anew", func() bool { return len(m.offsets(0)) == 15 })
	require.NoError(t, stop())
	require.Empty(t, m.faults)
	require.Empty(t, m.told)
	require.Equal(t, m.begun, m.ended)
	require.Equal(t, 4, m.begun)
}

// Guarantee: a warm-up of far more than the memory bound stays within it, and ends.
func TestAWarmUpStaysWithinTheMemoryBound(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for range 20 {
		produce(t, cl, "x", 600, 1)
	}
	commitText(t, cl, "g", 0, 12_000, "")
	produce(t, cl, "y", 1, 1)
	m := newMemory(time.Hour)
	var used int64
	s := newStore(nil)
	s.memories = []block.Memory{m}
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.MaxInFlightBytes = 1 << 20
	cfg.Fetch.MaxBytes, cfg.Fetch.MaxPartitionBytes = 64<<10, 64<<10
	r, _ := run(t, cfg, s)
	eventually(t, "done", func() bool {
		n, _ := r.group.deps.budget.usage()
		used = max(used, n)
		return committed(t, cl, "g")[0] == 12_001
	})
	require.LessOrEqual(t, used, 4*cfg.MaxInFlightBytes)
	require.Len(t, m.offsets(0), 12_000)
	require.Empty(t, m.faults)
}
