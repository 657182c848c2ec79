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
	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// told is a record of events by content with these keys.
func told(offset, appended int64, keys ...eventid.Key) *eventid.Record {
	r := &eventid.Record{Offset: offset, Appended: appended, Request: eventid.Request{Whole: true}, Keys: keys}
	r.Rules = make([]eventid.Rule, len(keys))
	return r
}

// feed brings n new events into a partition, 100 a millisecond, and returns the number of the next one. An event's time is its number/100.
func feed(m *Memory, partition int32, next, n uint64) uint64 {
	for end := next + n; next < end; {
		var keys []eventid.Key
		for range 100 {
			keys = append(keys, keyOf(next))
			next++
		}
		m.Remember("t", partition, told(0, int64((next-1)/100), keys...))
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
		for n := uint64(now-s.Effective.Milliseconds()+m.step+1) * 100; n < next; n += 7 {
			require.True(t, table.find(keyOf(n)), "an event %d ms old", now-int64(n/100))
		}
	}
	require.Len(t, log.All(), 1)
	require.Contains(t, log.All()[0].Message, "forgotten")

	for p := range int32(3) {
		for at := range int64(300) {
			m.Remember("t", p, told(0, int64(next/100)+at*50, keyOf(next+uint64(at))))
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
		require.True(t, m.partitions[place{"t", 1}].table.find(keyOf(n)))
	}
	m.End("t", 0)
	m.End("t", 1)
	require.Less(t, m.Stats().Bytes, full/100, "nothing is left of partitions that ended")
	require.Zero(t, m.Stats().Remembered)
}

// events are those of one record, with numbers for keys.
func events(offset int64, numbers ...uint64) []eventid.Record {
	r := told(offset, offset)
	for _, n := range numbers {
		r.Keys, r.Rules = append(r.Keys, keyOf(n)), append(r.Rules, eventid.ByUID)
	}
	return []eventid.Record{*r}
}

func decide(t *testing.T, m *Memory, b block.Block, records []eventid.Record) int {
	copies, err := m.Decide(t.Context(), b, records)
	require.NoError(t, err)
	return len(copies)
}

func TestABlockWaitsForTheOneBeforeItNoLongerThanItsContext(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 0)
	ctx, cancel := context.WithCancel(t.Context())
	later := make(chan error, 1)
	go func() {
		_, err := m.Decide(ctx, block.Block{Topic: "t", First: 5, Last: 9}, events(5, 1))
		later <- err
	}()
	require.Eventually(t, func() bool { return m.Stats().Waiting == 1 }, time.Minute, time.Millisecond)
	cancel()
	err := <-later
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "t/0/5-9")
	require.ErrorContains(t, err, "offset 0")
	require.Zero(t, decide(t, m, block.Block{Topic: "t", First: 0, Last: 4}, events(4, 1)))
	require.Equal(t, 1, decide(t, m, block.Block{Topic: "t", First: 5, Last: 9}, events(5, 1)), "what gave up has left no trace")
	require.Zero(t, m.Stats().Waiting)
}

// To decide it anew would take its events for copies of themselves, and lose them.
func TestABlockThatComesAgainWhenTheReceiverIsPastItIsRefused(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 0)
	one := block.Block{Topic: "t", First: 0, Last: 4}
	require.Zero(t, decide(t, m, one, events(4, 1)))
	m.Stored(one)
	require.Zero(t, decide(t, m, one, events(4, 1)), "the receiver may have another pipeline, which failed")
	require.Zero(t, decide(t, m, block.Block{Topic: "t", First: 5, Last: 9, Oldest: 5}, events(5, 2)))
	_, err := m.Decide(t.Context(), one, events(4, 1))
	var resume *block.ResumeError
	require.ErrorAs(t, err, &resume)
	require.Equal(t, block.ResumeError{Topic: "t", Next: 0}, *resume)
	m.Begin("t", 0, 0)
	require.Zero(t, decide(t, m, one, events(4, 1)))
}

func TestPartsOfABlockAreStoredInAnyOrder(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 0)
	decide(t, m, block.Block{Topic: "t", First: 0, Last: 9}, events(7, 1, 1))
	m.Stored(block.Block{Topic: "t", First: 3, Last: 7})
	require.Equal(t, 1, decide(t, m, block.Block{Topic: "t", First: 0, Last: 9}, events(7, 1, 1)))
	var stored []bool
	for _, k := range m.partitions[place{"t", 0}].kept {
		stored = append(stored, k.stored)
	}
	require.Equal(t, []bool{false, true, false}, stored)
}

// Offsets need not be dense: a block may begin far before its first record, as those of a backfill do.
func TestABlockThatBeginsFarBeforeItsRecordsIsDecidedAlikeAgain(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 500)
	const object = 1 << 33
	var records []eventid.Record
	for _, line := range []int64{1, 2, 600, 601} {
		records = append(records, *told(object|line, 1, keyOf(7)))
	}
	b := block.Block{Topic: "t", First: 500, Last: object | 1000, Oldest: 500}
	want := []Copy{{Offset: object | 2}, {Offset: object | 600}, {Offset: object | 601}}
	for range 2 {
		got, err := m.Decide(t.Context(), b, records)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// A receiver that never says how far it is must not make decisions pile up.
func TestDecisionsAreKeptWithinBounds(t *testing.T) {
	m := newMemory(1 << 20)
	m.Begin("t", 0, 0)
	for i := range int64(10 * storedMax) {
		b := block.Block{Topic: "t", First: i, Last: i}
		decide(t, m, b, events(i, 1))
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
			log := randomLog(t, rnd, 400, testWindow.Milliseconds())
			want := copies(log, testStep, testSteps)
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

// Guarantee: an occurrence that is a window old makes a copy, and one that is as old as what the receiver is asked for does not: less than two steps more.
// The steps are those of the clock, not of when a process began.
func TestTheWindowHasLessThanTwoStepsMore(t *testing.T) {
	for _, window := range []time.Duration{WindowMin, testWindow, 15 * time.Minute, WindowMax} {
		step, n := stepsOf(window)
		require.LessOrEqual(t, n, int64(steps))
		require.GreaterOrEqual(t, step*n, window.Milliseconds())
		require.Less(t, step*(n-1), window.Milliseconds())
		for _, first := range []int64{1_790_000_000_000, 1_790_000_000_000 + step/2, (1_790_000_000_000/step + 1) * step, (1_790_000_000_000/step+1)*step - 1} {
			later := func(by int64) bool {
				m := NewMemory(Options{Window: window, MaxBytes: 1 << 20, Log: zap.NewNop()})
				m.Begin("t", 0, 5)
				m.Remember("t", 0, told(1, first, keyOf(1)))
				return decide(t, m, block.Block{Topic: "t", First: 5, Last: 5}, []eventid.Record{*told(5, first+by, keyOf(1))}) == 1
			}
			require.True(t, later(window.Milliseconds()))
			asked := NewMemory(Options{Window: window, MaxBytes: 1 << 20, Log: zap.NewNop()}).Window()
			require.False(t, later(asked.Milliseconds()), "so a warm-up of that length tells all that matters")
			require.Less(t, asked.Milliseconds(), window.Milliseconds()+2*step)
		}
	}
}

// rows sends records, a second apart, to a fresh memory, and returns how many of each one's events are stored.
func rows(t *testing.T, log ...record) (stored []int) {
	t.Helper()
	m := newMemory(1 << 20)
	for i := range log {
		r := &log[i]
		r.offset, r.appended = int64(i), 1_790_000_000_000+int64(i)*1000
		r.read(t)
		n := decide(t, m, block.Block{Topic: "t", First: r.offset, Last: r.offset}, []eventid.Record{r.identity})
		stored = append(stored, r.events()-n)
	}
	return stored
}

func one(tenant, source string, events ...sent) record {
	return record{request: &request{tenant, source, events}}
}

const (
	nanos  = 1_790_000_000_123_456_789
	millis = 1_790_000_000_123_000_000
)

// In every clock, and without one, and however often the request comes again.
func TestEqualEventsOfARequestAreDistinct(t *testing.T) {
	for _, at := range []int64{nanos, millis, 0} {
		e := sent{"r", "", "line", at}
		log := one("t", "s", e, e, e)
		require.Equal(t, []int{3, 0, 0}, rows(t, log, log, log), "time %d", at)
	}
}

// What remains (docs/ARCHITECTURE.md, "Not promised").
func TestEqualRequestsAreOne(t *testing.T) {
	for _, at := range []int64{nanos, millis, 0} {
		require.Equal(t, []int{1, 0}, rows(t, one("t", "s", sent{"r", "", "line", at}), one("t", "s", sent{"r", "", "line", at})))
	}
	e := sent{"r", "", "line", nanos}
	require.Equal(t, []int{1, 1}, rows(t, one("t", "s", e), one("t", "s", sent{"r", "", "other", nanos}, e)), "in any request, where times are fine")
	require.Equal(t, []int{1, 2}, rows(t, one("t", "s", e), one("t", "s", e, e, e)), "one more than the request before is new")
}

// What remains, too: a clock of milliseconds repeats, so only the request tells that a sender repeated itself.
func TestCoarseEventsOfAnotherRequestAreNew(t *testing.T) {
	e, other := sent{"r", "", "line", millis}, sent{"r", "", "other", millis}
	require.Equal(t, []int{1, 2, 2, 1}, rows(t, one("t", "s", e), one("t", "s", e, other), one("t", "s", other, e), one("t", "s2", e)))
}

func TestAUIDIsOneEventOfItsResource(t *testing.T) {
	e := sent{"r", "u", "line", millis}
	require.Equal(t, []int{1, 0, 0, 1, 1}, rows(t, one("t", "s", e, e), one("t", "s2", e), one("t", "s", sent{"r", "u", "other", nanos}),
		one("t", "s", sent{"r2", "u", "line", millis}), one("t2", "s", e)))
}

// A gateway may divide a request otherwise when it comes again: events are then recognised one by one, in every clock.
func TestARetryThatIsDividedOtherwiseIsRecognised(t *testing.T) {
	for _, at := range []int64{nanos, millis} {
		r := &request{"t", "s", []sent{{"r", "", "a", at}, {"r", "", "a", at}, {"r", "", "b", at}, {"r2", "", "a", at}}}
		whole := record{request: r}
		part := func(indexes ...int) record { return record{request: r, part: indexes} }
		require.Equal(t, []int{4, 0, 0}, rows(t, whole, part(0, 2), part(1, 3)), "whole, then parts")
		require.Equal(t, []int{2, 2, 0}, rows(t, part(0, 2), part(1, 3), whole), "parts, then whole")
		require.Equal(t, []int{2, 2, 0}, rows(t, part(0, 2), whole, whole), "one part was lost")
		require.Equal(t, []int{2, 2, 0, 0}, rows(t, part(0, 2), part(1, 3), part(1, 2, 3), part(0)), "parts, then other parts")
		require.Equal(t, []int{1, 1, 1}, rows(t, part(1), part(0), part(0, 1, 3)), "equals keep their ordinals")
		if at == nanos {
			again := &request{"t", "s", []sent{{"r", "", "b", at}, {"r", "", "a", at}}}
			require.Equal(t, []int{2, 0}, rows(t, part(1, 2), record{request: again, part: []int{0}}), "content is the same in another request")
		}
	}
}

func TestWhatIsSentAgainIsKnownByItsRequest(t *testing.T) {
	r := &request{"t", "s", []sent{{"r", "", "a", nanos}, {"r", "u", "b", nanos}, {"r", "", "c", millis}}}
	resent := record{request: r, part: []int{0, 2}, resent: true}
	require.Equal(t, []int{2, 0, 1}, rows(t, resent, resent, record{request: r, part: []int{1, 2}, resent: true}))
}

// Occurrences at the window's edge, by request, whole and in parts: the last one counts, also of a copy.
func TestTheWindowCountsFromTheLastOccurrence(t *testing.T) {
	r := &request{"t", "s", []sent{{"r", "", "a", millis}, {"r", "", "b", millis}}}
	for name, second := range map[string]record{"whole": {request: r}, "part": {request: r, part: []int{0}}} {
		m := newMemory(1 << 20)
		at := int64(1_790_000_000_000)
		for i, step := range []struct {
			after  int64
			record record
			copies int
		}{
			{0, record{request: r}, 0},
			{testWindow.Milliseconds(), second, second.events()},
			{testWindow.Milliseconds(), record{request: r, part: []int{0}}, 1},
			{m.Window().Milliseconds(), record{request: r, part: []int{0}}, 0},
		} {
			at += step.after
			step.record.offset, step.record.appended = int64(i), at
			step.record.read(t)
			b := block.Block{Topic: "t", First: int64(i), Last: int64(i)}
			require.Equal(t, step.copies, decide(t, m, b, []eventid.Record{step.record.identity}), "%s, record %d", name, i)
		}
	}
}
