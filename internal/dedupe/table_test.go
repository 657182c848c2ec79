package dedupe

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// keyOf makes the n-th of many keys.
func keyOf(n uint64) eventid.Key {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	h := xxh3.Hash128(b[:])
	return eventid.Key{Hi: h.Hi, Lo: h.Lo}
}

// Loads that rise and fall by a hundred times make shards grow, split, shrink and expire; the table must say at all times what a map says.
func TestTheTableRemembersTheWindowAndNothingElse(t *testing.T) {
	const window = 1000
	rnd := random(t, rand.Uint64())
	m := newMemory(1 << 30)
	table := newTable(&m.pool, window)
	last := map[uint64]int64{}
	next, now := uint64(0), int64(1_000_000)
	for range 60 {
		rate := []int{1, 10, 100, 1000}[rnd.IntN(4)]
		for range 10 {
			now += rnd.Int64N(window / 5)
			table.advance(now)
			for range rate * 10 {
				n := next
				if rnd.IntN(3) == 0 {
					n = next - min(next, rnd.Uint64N(200_000))
				} else {
					next++
				}
				at, known := last[n]
				want := known && now-at <= window
				if found, age := table.find(keyOf(n)), table.occur(keyOf(n)); found != want || want && age != now-at || !want && age >= 0 {
					t.Fatalf("event %d: found %v, age %d, want %v, %d", n, found, age, want, now-at)
				}
				last[n] = now
			}
		}
		sound(t, table)
		alive := 0
		for _, at := range last {
			if now-at <= window {
				alive++
			}
		}
		require.GreaterOrEqual(t, table.count, alive)
	}
}

// sound checks what the table's parts promise each other.
func sound(t *testing.T, table *table) {
	count, bytes := 0, int64(0)
	require.Len(t, table.shards, 1<<table.depth)
	for i, s := range table.shards {
		if i > 0 && table.shards[i-1] == s {
			continue
		}
		bytes += s.bytes()
		require.Less(t, len(s.slots), 2*splitAt, "a shard's size bounds the pauses")
		require.True(t, s.slots[len(s.slots)-1].free(), "the last slot is free")
		used, before := 0, uint32(0)
		free := -1
		for j, e := range s.slots {
			if e.free() {
				free = j
				continue
			}
			used++
			if e.order < before || s != table.shards[table.at(e)] || s.home(e.order) <= free {
				t.Fatalf("slot %d of shard %d is not where a search finds it", j, i)
			}
			before = e.order
		}
		require.Equal(t, used, s.used)
		count += used
	}
	require.Equal(t, count, table.count)
	require.Equal(t, bytes, table.bytes)
}

// The README says so.
func TestARememberedEventTakesAbout18Bytes(t *testing.T) {
	m := newMemory(1 << 30)
	table := newTable(&m.pool, 1000)
	worst := 0.0
	for n := range uint64(2_000_000) {
		table.advance(int64(n) / 1000) // a million in the window
		table.occur(keyOf(n))
		if n > 10_000 && n%5_000 == 0 {
			worst = max(worst, float64(table.bytes)/float64(min(n, 1_000_000)))
		}
	}
	t.Logf("at most %.1f bytes", worst)
	require.Less(t, worst, 19.5)
	require.Greater(t, worst, 12.0)
}

func TestMemoryIsGivenBackWhenTheLoadFalls(t *testing.T) {
	m := newMemory(1 << 30)
	table := newTable(&m.pool, 1000)
	n := uint64(0)
	for ; n < 500_000; n++ {
		table.advance(int64(n) / 500)
		table.occur(keyOf(n))
	}
	peak := table.bytes
	for now := table.now; table.now < now+2500; n++ {
		table.advance(table.now + 1)
		table.occur(keyOf(n))
	}
	require.Less(t, table.bytes, peak/50)
	table.advance(table.now + 1001)
	require.Less(t, table.bytes, int64(2000))
	require.Zero(t, table.count)
}

// Keys that all belong at the end of a shard are longer than its tail: the shard grows instead of losing one.
func TestUnluckyKeysAreRememberedToo(t *testing.T) {
	m := newMemory(1 << 30)
	table := newTable(&m.pool, 1000)
	key := func(i uint64) eventid.Key { return eventid.Key{Hi: (i+1)<<32 | 0xFFFFFFF0, Lo: i << 20} }
	for i := range uint64(200) {
		require.EqualValues(t, -1, table.occur(key(i)))
	}
	for i := range uint64(200) {
		require.Zero(t, table.occur(key(i)))
	}
	sound(t, table)
}
