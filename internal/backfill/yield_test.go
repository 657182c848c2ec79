package backfill

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/yield"
)

// Scenario: a job that would take 100 s runs while live traffic is behind: never, for the first half minute, for ever.
// Guarantees: it takes its full pace where nothing is behind, gives way at once where something is, takes its pace up again, and comes to its end beside traffic
// that never catches up.
func TestAJobYieldsToLiveTraffic(t *testing.T) {
	run := func(t *testing.T, live yield.Live) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.put("o", packed(t, logLines(0, 300)...))
			j, s := b.open(b.plan()), newStore()
			o := options(t, s)
			o.Rate, o.Live, o.Patience = 3, live, time.Hour
			begun := time.Now()
			require.NoError(t, j.Run(t.Context(), o))
			took = time.Since(begun)
			require.EqualValues(t, 300, j.Status().Lines)
		})
		return took
	}
	alone := run(t, nil)
	require.InDelta(t, 100, alone.Seconds(), 2)
	require.Equal(t, alone, run(t, func(context.Context) (string, error) { return "", nil }))

	begun := time.Time{}
	halfAMinute := run(t, func(context.Context) (string, error) {
		if begun.IsZero() {
			begun = time.Now()
		}
		if time.Since(begun) < 30*time.Second {
			return "late", nil
		}
		return "", nil
	})
	require.Greater(t, halfAMinute, alone+25*time.Second, "the half minute was live traffic's")
	require.Less(t, halfAMinute, alone+150*time.Second, "and the rest the job's")

	forEver := run(t, func(context.Context) (string, error) { return "late", nil })
	require.Greater(t, forEver, 25*alone)
	require.Less(t, forEver, 35*alone)
}
