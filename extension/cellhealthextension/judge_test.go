package cellhealthextension

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// begin is a time that no test depends on.
var begin = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)

func newJudge() judge { return judge{badLooks: 3, goodLooks: 2, hold: time.Minute} }

func TestTheVerdictChangesAfterLooksInARowAndAHold(t *testing.T) {
	j, now := newJudge(), begin
	look := func(after time.Duration, good, want bool) {
		t.Helper()
		now = now.Add(after)
		j.look(now, good)
		require.Equal(t, want, j.good, now.Sub(begin))
	}
	require.False(t, j.looked())
	look(0, false, false)
	require.True(t, j.looked())
	look(time.Second, true, true) // nothing was known of a fault
	look(time.Second, false, true)
	look(time.Second, false, true)
	look(time.Second, true, true) // not in a row
	look(time.Second, false, true)
	look(time.Second, false, true)
	look(time.Second, false, false)
	look(time.Second, true, false)
	look(50*time.Second, true, false) // two in a row, and hold is not over
	look(8*time.Second, true, false)
	look(time.Second, true, true) // a minute
	look(time.Second, false, true)
	look(time.Second, false, true)
	look(time.Second, false, false)
	look(2*time.Minute, true, false) // hold is over, and it is the first
	look(time.Second, false, false)
	look(time.Second, true, false)
	look(time.Second, true, true)
}

// Guarantees: whatever looks find, the verdict is no more often bad than once in hold and bad_looks looks; enough looks that agree decide it.
func TestTheVerdictDoesNotFlap(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		j, now := newJudge(), begin
		odds := random.Float64()
		var lost []time.Time
		for range 2000 {
			was := j.good
			now = now.Add(5 * time.Second)
			j.look(now, random.Float64() < odds)
			if was && !j.good {
				lost = append(lost, now)
			}
		}
		for i := 1; i < len(lost); i++ {
			require.GreaterOrEqual(t, lost[i].Sub(lost[i-1]), j.hold+3*5*time.Second)
		}
		for _, good := range []bool{true, false, true} {
			for range 13 {
				now = now.Add(5 * time.Second)
				j.look(now, good)
			}
			require.Equal(t, good, j.good)
		}
	}
}
