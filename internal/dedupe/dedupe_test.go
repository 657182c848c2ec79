package dedupe

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

const testWindow = 10 * time.Second

var testStep, testSteps = stepsOf(testWindow)

func newMemory(maxBytes int64) *Memory {
	return NewMemory(Options{Window: testWindow, MaxBytes: maxBytes, Log: zap.NewNop()})
}

func random(t testing.TB, seed uint64) *rand.Rand {
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// check delivers p once and compares every decision.
func check(t testing.TB, ctx context.Context, m *Memory, log []record, want [][]bool, p part) {
	got, err := m.Decide(ctx, p.Block, p.identities(log))
	if err != nil {
		t.Errorf("%s: %v", p.Block, err)
		return
	}
	var wanted []Copy
	for _, i := range p.records {
		for j, dup := range want[i] {
			if dup {
				wanted = append(wanted, Copy{log[i].offset, int32(j), log[i].identity.Rules[j]})
			}
		}
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("%s: copies\n%v, want\n%v", p.Block, got, wanted)
	}
}

// deliver brings p into the store in a few tries, whole or halved.
func deliver(t testing.TB, ctx context.Context, m *Memory, log []record, want [][]bool, p part, rnd *rand.Rand) {
	for range rnd.IntN(3) {
		check(t, ctx, m, log, want, p)
	}
	if rnd.IntN(3) > 0 {
		check(t, ctx, m, log, want, p)
		m.Stored(p.Block)
		if rnd.IntN(3) == 0 { // another pipeline of the receiver failed
			check(t, ctx, m, log, want, p)
			m.Stored(p.Block)
		}
		return
	}
	check(t, ctx, m, log, want, p) // refused, so it is halved
	for _, half := range p.halves(log) {
		check(t, ctx, m, log, want, half)
		m.Stored(half.Block)
	}
}

// THE property: whatever the blocks, their order, their repetitions, and wherever an owner begins, the decisions are those of the rule.
func TestDecisionsAreAFunctionOfTheLog(t *testing.T) {
	seed := rand.Uint64()
	for round := range uint64(200) {
		rnd := random(t, seed+round)
		log := randomLog(t, rnd, 150, testWindow.Milliseconds())
		want := copies(log, testStep, testSteps)
		next := log[0].offset - rnd.Int64N(3)
		for owner := 0; next <= log[len(log)-1].offset; owner++ {
			m := newMemory(1 << 30)
			warmUp(m, 0, log, next)
			blocks := tile(rnd, log, next, 12)
			blocks = blocks[:1+rnd.IntN(len(blocks))] // then the partition gets another owner
			deliverAll(t, m, log, want, blocks, rnd)
			next = blocks[len(blocks)-1].Next()
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

// deliverAll delivers blocks concurrently, a few at a time.
func deliverAll(t testing.TB, m *Memory, log []record, want [][]bool, blocks []part, rnd *rand.Rand) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(blocks) > 0 {
		n := min(1+rnd.IntN(4), len(blocks))
		var wg sync.WaitGroup
		for _, i := range rnd.Perm(n) {
			p := blocks[i]
			p.Oldest = blocks[0].First
			rnd := rand.New(rand.NewPCG(rnd.Uint64(), 2))
			wg.Go(func() { deliver(t, ctx, m, log, want, p, rnd) })
		}
		wg.Wait()
		blocks = blocks[n:]
	}
}

// FuzzRule: each byte is a record: how much later it comes, which request it is, whole or a part, whether a block or an owner ends with it.
func FuzzRule(f *testing.F) {
	f.Add([]byte{0, 1, 0x13, 0x77, 0xf0, 0xff, 0x42, 0x42, 0xc1, 0x81, 0x21, 0x01})
	requests := []*request{
		{"t", "s", []sent{{time: 1}, {time: 1}, {time: 0}, {time: 0}}},
		{"t", "s", []sent{{time: 1}, {time: 2}, {uid: "u"}}},
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		window := testWindow.Milliseconds()
		var log []record
		now := int64(1_000_000)
		ends := map[int64]byte{}
		for i, b := range data {
			now += []int64{0, window, 1, -window / 3, window / 2, window + 1, -1, 7}[b>>5]
			r := record{offset: int64(i), appended: now, request: requests[b&1], part: [][]int{nil, {0, 2}, {1}, {1, 2}}[b>>1&3]}
			r.read(t)
			log = append(log, r)
			ends[int64(i)] = b >> 3 & 3
		}
		want := copies(log, testStep, testSteps)
		m := newMemory(1 << 30)
		p := part{Block: block.Block{Topic: "t"}}
		for i := range log {
			p.records = append(p.records, i)
			p.Last = int64(i)
			if ends[int64(i)] == 0 {
				continue
			}
			check(t, t.Context(), m, log, want, p)
			if ends[int64(i)] == 2 {
				for _, half := range p.halves(log) {
					check(t, t.Context(), m, log, want, half)
				}
			}
			m.Stored(p.Block)
			p = part{Block: block.Block{Topic: "t", First: int64(i) + 1}}
			if ends[int64(i)] == 3 {
				warmUp(m, 0, log, p.First)
			}
		}
	})
}
