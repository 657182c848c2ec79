package dedupe

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// feed brings n new events into a partition, 100 a millisecond, and returns the number of the next one. An event's time is its number/100.
func feed(m *Memory, partition int32, next, n uint64) uint64 {
	for end := next + n; next < end; {
		var ids [][16]byte
		for range 100 {
			ids = append(ids, sequence(next))
			next++
		}
		m.Remember("t", partition, 0, time.UnixMilli(int64(next/100)), "a", ids)
	}
	return next
}

// Scenario: the window of three partitions is ten times the memory; then the load falls.
//
// Guarantees: the bound holds at every moment; what is forgotten is counted exactly, and is the oldest: whatever is younger than the
// effective window is known; one line is logged when it begins and one when it is over, without data; each partition has its share.
func TestAtTheBoundTheOldestAreForgottenAndCounted(t *testing.T) {
	const maxBytes = 2 << 20
	var forgotten int64
	core, log := observer.New(zap.InfoLevel)
	m := NewMemory(Options{Window: testWindow, MaxBytes: maxBytes, Log: zap.New(core), Forgot: func(n int64) { forgotten += n }})
	next := uint64(1_000_000)
	for p := range int32(3) {
		m.Begin("t", p, 0)
	}
	inserted := 0
	for range 100 {
		from := next
		for p := range int32(3) {
			next = feed(m, p, from, 3000)
			inserted += 3000
			require.LessOrEqual(t, m.Stats().Bytes, int64(maxBytes))
		}
		if s := m.Stats(); s.Remembered+int(forgotten) != inserted {
			t.Fatalf("%d remembered and %d forgotten early of %d, and none had expired", s.Remembered, forgotten, inserted)
		}
	}
	require.Positive(t, forgotten)
	s := m.Stats()
	require.Greater(t, s.Bytes, int64(maxBytes*3/4), "the memory is used")
	require.Less(t, s.Effective, testWindow/4)
	require.Greater(t, s.Effective, testWindow/40)
	for p := range int32(3) {
		table := m.partitions[place{"t", p}].table
		require.Greater(t, table.bytes, int64(maxBytes/5), "partition %d has its share", p)
		now := int64(next / 100)
		for n := uint64(now-s.Effective.Milliseconds()+1) * 100; n < next; n += 7 {
			require.True(t, table.find(keyOf(m, n)), "an event %d ms old", now-int64(n/100))
		}
	}
	require.Len(t, log.All(), 1)
	require.Contains(t, log.All()[0].Message, "forgotten")

	for p := range int32(3) {
		for at := range int64(300) {
			m.Remember("t", p, 0, time.UnixMilli(int64(next/100)+at*50), "a", [][16]byte{sequence(next + uint64(at))})
		}
	}
	require.Equal(t, testWindow, m.Stats().Effective)
	require.Len(t, log.All(), 2)
	require.Contains(t, log.All()[1].Message, "any more")
}

// A partition that comes to an aggregator whose memory is full gets its share of it at once, from the one that has the most.
func TestANewPartitionGetsMemoryFromTheLargest(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 0)
	feed(m, 0, 0, 100_000)
	full := m.Stats().Bytes
	m.Begin("t", 1, 0)
	next := feed(m, 1, 0, 10_000)
	require.LessOrEqual(t, m.Stats().Bytes, int64(1<<20))
	for n := range next {
		require.True(t, m.partitions[place{"t", 1}].table.find(keyOf(m, n)))
	}
	m.End("t", 0)
	m.End("t", 1)
	require.Less(t, m.Stats().Bytes, full/100, "nothing is left of partitions that ended")
	require.Zero(t, m.Stats().Remembered)
}

func events(m *Memory, offset int64, ids ...int) []Event {
	var out []Event
	for i, n := range ids {
		id := testID(n)
		out = append(out, Event{Key: m.Tenant("a").Key(&id), Appended: offset, Offset: offset, Index: int32(i)})
	}
	return out
}

func decide(t *testing.T, m *Memory, b block.Block, e []Event) int {
	n, err := m.Decide(t.Context(), b, e)
	require.NoError(t, err)
	return n
}

func TestTenantsDoNotShareIds(t *testing.T) {
	m := newMemory(1 << 20)
	id := testID(1)
	require.NotEqual(t, m.Tenant("a").Key(&id), m.Tenant("b").Key(&id))
	require.NotEqual(t, m.Tenant("a").Key(&id), newMemory(1<<20).Tenant("a").Key(&id), "nor can anybody make keys that he knows")
}

func TestABlockWaitsForTheOneBeforeItNoLongerThanItsContext(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 0)
	ctx, cancel := context.WithCancel(t.Context())
	later := make(chan error, 1)
	go func() {
		_, err := m.Decide(ctx, block.Block{Topic: "t", First: 5, Last: 9}, events(m, 5, 1))
		later <- err
	}()
	require.Eventually(t, func() bool { return m.Stats().Waiting == 1 }, time.Minute, time.Millisecond)
	cancel()
	err := <-later
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "t/0/5-9")
	require.ErrorContains(t, err, "offset 0")
	require.Zero(t, decide(t, m, block.Block{Topic: "t", First: 0, Last: 4}, events(m, 4, 1)))
	require.Equal(t, 1, decide(t, m, block.Block{Topic: "t", First: 5, Last: 9}, events(m, 5, 1)), "what gave up has left no trace")
	require.Zero(t, m.Stats().Waiting)
}

// To decide it anew would take its events for copies of themselves, and lose them.
func TestABlockThatComesAgainWhenTheReceiverIsPastItIsRefused(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 0)
	one := block.Block{Topic: "t", First: 0, Last: 4}
	require.Zero(t, decide(t, m, one, events(m, 4, 1)))
	m.Stored(one)
	require.Zero(t, decide(t, m, one, events(m, 4, 1)), "the receiver may have another pipeline, which failed")
	require.Zero(t, decide(t, m, block.Block{Topic: "t", First: 5, Last: 9, Oldest: 5}, events(m, 5, 2)))
	_, err := m.Decide(t.Context(), one, events(m, 4, 1))
	var resume *block.ResumeError
	require.ErrorAs(t, err, &resume)
	require.Equal(t, block.ResumeError{Topic: "t", Next: 0}, *resume)
	m.Begin("t", 0, 0)
	require.Zero(t, decide(t, m, one, events(m, 4, 1)))
}

func TestPartsOfABlockAreStoredInAnyOrder(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 0)
	decide(t, m, block.Block{Topic: "t", First: 0, Last: 9}, events(m, 7, 1, 1))
	m.Stored(block.Block{Topic: "t", First: 3, Last: 7})
	require.Equal(t, 1, decide(t, m, block.Block{Topic: "t", First: 0, Last: 9}, events(m, 7, 1, 1)))
	var stored []bool
	for _, k := range m.partitions[place{"t", 0}].kept {
		stored = append(stored, k.stored)
	}
	require.Equal(t, []bool{false, true, false}, stored)
}

// A receiver that never says how far it is must not make decisions pile up.
func TestDecisionsAreKeptWithinBounds(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 0)
	for i := range int64(10 * storedMax) {
		b := block.Block{Topic: "t", First: i, Last: i}
		decide(t, m, b, events(m, i, 1))
		m.Stored(b)
	}
	require.Len(t, m.partitions[place{"t", 0}].kept, storedMax)
	for i := range int64(2 * storedMax) { // these have failed so far, so they are needed
		decide(t, m, block.Block{Topic: "t", First: 10*storedMax + i, Last: 10*storedMax + i}, nil)
	}
	require.Len(t, m.partitions[place{"t", 0}].kept, 3*storedMax)
	decide(t, m, block.Block{Topic: "t", First: 12 * storedMax, Last: 12 * storedMax, Oldest: 12 * storedMax}, nil)
	require.Len(t, m.partitions[place{"t", 0}].kept, 1)
}

func TestOneEventThatBecameTwoOnTheWayIsNotItsOwnCopy(t *testing.T) {
	m := newMemory(1 << 20)
	e := events(m, 3, 1)
	e = append(e, e[0])
	require.Zero(t, decide(t, m, block.Block{Topic: "t", First: 3, Last: 3}, e))
	e[0].Offset, e[1].Offset = 4, 4
	require.Equal(t, 2, decide(t, m, block.Block{Topic: "t", First: 4, Last: 4}, e))
	require.Equal(t, 2, decide(t, m, block.Block{Topic: "t", First: 4, Last: 4}, e))
}

// Scenario: partitions come and go while their blocks are delivered concurrently, in any order and with failures.
// Run with -race.
func TestPartitionsAreDecidedConcurrently(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := newMemory(1 << 30)
	var wg sync.WaitGroup
	for p := range int32(6) {
		rnd := rand.New(rand.NewPCG(seed, uint64(p)))
		wg.Go(func() {
			log := randomLog(rnd, 400, testWindow.Milliseconds())
			want := duplicates(log, testWindow.Milliseconds())
			next := log[0].offset
			for next <= log[len(log)-1].offset {
				warmUp(m, p, log, next)
				blocks := tile(rnd, log, next, 10)
				for i := range blocks {
					blocks[i].Partition = p
				}
				blocks = blocks[:1+rnd.IntN(len(blocks))]
				deliverAll(t, m, log, want, blocks, rnd)
				next = blocks[len(blocks)-1].Next()
				m.End("t", p)
			}
		})
	}
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				m.Stats()
			}
		}
	}()
	wg.Wait()
	close(stop)
	require.Less(t, m.Stats().Bytes, int64(4096))
}
