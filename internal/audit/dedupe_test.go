package audit

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Guarantees: the window decides as a list of all occurrences would, in which nothing is ever forgotten, also where the broker's clock goes back.
func TestTheWindowIsTheRule(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := newWindow(10 * time.Second)
	type event struct {
		tenant string
		id     byte
		at     time.Time
	}
	var before []event
	now, latest, duplicates := time.Unix(1_000_000, 0), time.Time{}, 0
	for offset := range int64(3000) {
		now = now.Add(time.Duration(rnd.IntN(3000)-1000) * time.Millisecond)
		if now.After(latest) {
			latest = now
		}
		w.advance(now)
		for range rnd.IntN(3) {
			e := event{[]string{"a", "b"}[rnd.IntN(2)], byte(rnd.IntN(12)), latest}
			want := slices.ContainsFunc(before, func(o event) bool { return o.tenant == e.tenant && o.id == e.id && latest.Sub(o.at) <= 10*time.Second })
			_, got := w.occurred(e.tenant, [16]byte{e.id}, offset)
			require.Equal(t, want, got, "offset %d", offset)
			before = append(before, e)
			if got {
				duplicates++
			}
		}
	}
	require.Greater(t, duplicates, 100)
	require.Less(t, len(w.seen), 25, "what is too old is forgotten")
}
