package block_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// Whatever the order and whoever adds, the parts of a range sum up to what was added there.
func TestAnAccountIsTheSumOfItsRecords(t *testing.T) {
	var a block.Account
	var want [100]block.Tally
	r := rand.New(rand.NewPCG(1, 2))
	var wg sync.WaitGroup
	for range 1000 {
		offset, n := r.IntN(100), block.Tally{Events: r.Int64N(5), Duplicates: r.Int64N(3), Quarantined: r.Int64N(2)}
		want[offset] = block.Tally{Events: want[offset].Events + n.Events, Duplicates: want[offset].Duplicates + n.Duplicates, Quarantined: want[offset].Quarantined + n.Quarantined}
		wg.Go(func() { a.Add(int64(offset), n) })
	}
	wg.Wait()
	for first := range want {
		var sum block.Tally
		for last := first; last < len(want); last++ {
			sum = block.Tally{Events: sum.Events + want[last].Events, Duplicates: sum.Duplicates + want[last].Duplicates, Quarantined: sum.Quarantined + want[last].Quarantined}
			require.Equal(t, sum, a.Within(int64(first), int64(last)))
		}
	}
	require.Zero(t, a.Within(100, 1000))
	require.Zero(t, a.Within(5, 4))
}
