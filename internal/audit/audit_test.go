package audit

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

func TestAnUntouchedCellIsEqualRowByRow(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
	r.fill(23)
	r.store()
	c := r.audit()
	require.Empty(t, shown(c))
	require.Empty(t, c.Problems)
	require.Equal(t, certificate.Equal, c.Verdict)
	for _, store := range []string{certificate.Hot, certificate.Lake} {
		got := totals(c, store)
		require.Greater(t, got.Expected, int64(900))
		require.Equal(t, got.Expected, got.Rows)
	}
	for _, p := range c.Partitions {
		require.Equal(t, p.Stores[0].Expected, p.Stores[0].Got)
		require.Equal(t, p.Stores[0].Got, p.Stores[1].Got, "both stores hold the same rows")
		require.Equal(t, int64(5), p.Stores[0].Ledger.Compared)
	}
	quick := r.audit(func(c *Config) { c.Quick = true })
	require.Equal(t, certificate.Equal, quick.Verdict, shown(quick))
	for i, p := range quick.Partitions {
		require.Equal(t, c.Partitions[i].Stores[0].Got.IDs, p.Stores[0].Got.IDs)
		require.Equal(t, c.Partitions[i].Stores[0].Got.Places, p.Stores[1].Got.Places)
	}
}

// Guarantee: a lane that nobody has used, as the overflow lane is where nobody comes to a quota, is equal.
func TestALaneWithoutRecordsIsEqual(t *testing.T) {
	c := newRig(t, nil).audit()
	require.Equal(t, certificate.Equal, c.Verdict, shown(c))
}
