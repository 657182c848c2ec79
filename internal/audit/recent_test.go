package audit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Guarantees: the newest part of Kafka tells a tenant's copies, by the audit's own rules, with an example; no more is read than the bounds allow, and that
// is said.
func TestRecentCopiesOfATenant(t *testing.T) {
	r := newRig(t, nil)
	begin := r.now
	for _, tenant := range []string{"acme", "globex", "acme", "acme", "globex"} { // 0 to 4
		r.produce(logsTopic, 0, logsOf(t, body("1"), body("2")), "tenant", tenant)
	}
	r.produce(logsTopic, 0, []byte("no OTLP"))
	of := func(tenant string, since time.Time, b bounds) *RecentCopies {
		t.Helper()
		c, err := recentWithin(t.Context(), r.config(func(c *Config) { c.Tenant = tenant }), since, b)
		require.NoError(t, err)
		require.Len(t, c.Copies, len(signal.All))
		return c
	}
	logs := func(c *RecentCopies) certificate.SignalCopies { return c.Copies[len(c.Copies)-1] }
	c := of("acme", begin, recentBounds)
	require.Equal(t, certificate.SignalCopies{Signal: "logs", Events: 6, Copies: 4, Rules: []certificate.RuleCopies{{Rule: "content", Copies: 4, Examples: []certificate.CopyExample{
		{Tenant: "acme", Topic: logsTopic, Offset: 2, OfOffset: 0},
	}}}}, logs(c))
	require.False(t, c.Partial)
	require.Contains(t, func() string { s := logs(c); return s.Warning(5) }(), "logs: 66.7 % of 6 events are copies")
	require.Equal(t, int64(2), func() certificate.SignalCopies { return logs(of("globex", begin, recentBounds)) }().Copies)
	require.Equal(t, int64(6), logs(of("", begin, recentBounds)).Copies)

	c = of("acme", begin.Add(3*time.Second), recentBounds)
	require.Zero(t, logs(c).Copies, "what it repeats lies before")
	require.False(t, c.Partial)
	c = of("acme", begin, bounds{records: 4 * 3 * partitions, bytes: 1 << 20})
	require.Equal(t, []int64{4, 2}, []int64{logs(c).Events, logs(c).Copies})
	require.True(t, c.Partial)
	c = of("acme", begin, bounds{records: 1000, bytes: 3 * 3 * partitions * int64(len(logsOf(t, body("1"), body("2"))))})
	require.Equal(t, []int64{4, 2}, []int64{logs(c).Events, logs(c).Copies})
	require.True(t, c.Partial)
}
