package tenantroutingprocessor

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// registryOf loads tenants from a file's text.
func registryOf(t testing.TB, text string) *tenant.Snapshot {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tenants.yaml"), []byte(text), 0o600))
	source, err := fileset.Open(t.Context(), dir)
	require.NoError(t, err)
	loader := tenant.NewLoader(source)
	report, err := loader.Reload(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Refused)
	return loader.Snapshot()
}

// tenantOf has one quota for logs.
func tenantOf(t testing.TB, quota string) *tenant.Tenant {
	t.Helper()
	return registryOf(t, "tenants: [{id: a, quotas: {logs: "+quota+"}}]").Tenant("a")
}

type clock struct{ at time.Time }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) advance(d time.Duration) { c.at = c.at.Add(d) }

func testLimiter(change func(*Config)) (*limiter, *clock) {
	cfg := createDefaultConfig().(*Config)
	if change != nil {
		change(cfg)
	}
	c := &clock{time.Unix(1_800_000_000, 0)}
	return newLimiter(cfg, c.now), c
}

func TestATenantWithoutAQuotaIsNeverLimitedNorRemembered(t *testing.T) {
	l, _ := testLimiter(nil)
	a := tenantOf(t, "{events_per_second: 0}")
	for range 1000 {
		lane, _ := l.take(a, signal.Logs, 1e9, 1e9)
		require.Equal(t, laneFast, lane)
	}
	require.Zero(t, l.buckets())
}

// Guarantees: the quota by the fast lane, the burst by the overflow lane, and nothing beyond them.
func TestQuotaThenBurstThenNothing(t *testing.T) {
	for name, quota := range map[string]string{
		"events":      "{events_per_second: 100, burst: 10s}",
		"bytes":       "{bytes_per_second: 1000, burst: 10s}",
		"both":        "{events_per_second: 100, bytes_per_second: 1000, burst: 10s}",
		"events bind": "{events_per_second: 100, bytes_per_second: 100000, burst: 10s}",
	} {
		t.Run(name, func(t *testing.T) {
			l, c := testLimiter(nil)
			a := tenantOf(t, quota)
			var went [3]int
			for range 200 {
				lane, _ := l.take(a, signal.Logs, 10, 100)
				went[lane]++
			}
			require.Equal(t, [3]int{10, 100, 90}, went, "one second's worth, then ten seconds' worth")
			c.advance(time.Second)
			went = [3]int{}
			for range 200 {
				lane, _ := l.take(a, signal.Logs, 10, 100)
				went[lane]++
			}
			require.Equal(t, 10, went[laneFast], "the quota's rate")
			require.Equal(t, 2, went[laneOverflow], "a quarter of it has drained: 2.5 requests")
			lane, _ := l.take(a, signal.Metrics, 10, 100)
			require.Equal(t, laneFast, lane, "signals do not share a quota")
		})
	}
}

func TestWithoutABurstWhatIsOverQuotaIsSentBackAtOnce(t *testing.T) {
	l, _ := testLimiter(nil)
	a := tenantOf(t, "{events_per_second: 100, burst: 0s}")
	lane, _ := l.take(a, signal.Logs, 100, 1)
	require.Equal(t, laneFast, lane)
	lane, after := l.take(a, signal.Logs, 50, 1)
	require.Equal(t, laneNone, lane)
	require.Equal(t, 500*time.Millisecond, after, "half a second's worth is missing")
}

// Guarantees: a request larger than a second's worth, or than the whole burst, gets through in the end, and the rate holds.
func TestARequestLargerThanTheQuotaGetsThrough(t *testing.T) {
	l, c := testLimiter(nil)
	a := tenantOf(t, "{events_per_second: 100, burst: 0s}")
	lane, _ := l.take(a, signal.Logs, 1000, 1)
	require.Equal(t, laneFast, lane)
	lane, after := l.take(a, signal.Logs, 1, 1)
	require.Equal(t, laneNone, lane)
	require.InDelta(t, 9.01, after.Seconds(), 0.01, "it has left a debt")
	c.advance(after)
	lane, _ = l.take(a, signal.Logs, 1, 1)
	require.Equal(t, laneFast, lane)
}

// Scenario: 50 senders of one tenant send what is fifty times its quota, and each obeys what it is told.
// Guarantees: all of it gets through, in about the time that it takes at quota + drain, and no sender is sent back often.
func TestSendersThatObeyGetEverythingThrough(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	l, c := testLimiter(nil)
	a := tenantOf(t, "{events_per_second: 1000, burst: 5s}")
	type sender struct {
		at   time.Time
		left int
	}
	const senders, each, events = 50, 20, 50 // 50,000 events
	var all []*sender
	for range senders {
		all = append(all, &sender{c.at.Add(time.Duration(random.IntN(1000)) * time.Millisecond), each})
	}
	begin, sentBack := c.at, 0
	for done := 0; done < senders; {
		var next *sender
		for _, s := range all {
			if s.left > 0 && (next == nil || s.at.Before(next.at)) {
				next = s
			}
		}
		c.at = next.at
		lane, after := l.take(a, signal.Logs, events, 1)
		if lane == laneNone {
			sentBack++
			require.LessOrEqual(t, after, 60*time.Second)
			next.at = next.at.Add(after)
			continue
		}
		next.at = next.at.Add(time.Millisecond)
		if next.left--; next.left == 0 {
			done++
		}
	}
	took := c.at.Sub(begin).Seconds()
	// 1,000 at once and 5,000 into the overflow; the other 44,000 at 1,250 a second.
	require.InDelta(t, 35, took, 10, "seconds")
	require.Less(t, sentBack, 2*senders*each, "a sender that comes when it was told is hardly sent back again")
}

func TestWhatSendersAreToldToWaitIsBounded(t *testing.T) {
	l, _ := testLimiter(func(c *Config) { c.RetryMax = 30 * time.Second })
	a := tenantOf(t, "{events_per_second: 1, bytes_per_second: 0.000001, burst: 0s}")
	for range 10_000 {
		lane, after := l.take(a, signal.Logs, 1000, 1e9)
		if lane == laneNone {
			require.GreaterOrEqual(t, after, minRetry)
			require.LessOrEqual(t, after, 30*time.Second)
		}
	}
}

func TestANewQuotaIsInForceAtOnce(t *testing.T) {
	l, _ := testLimiter(nil)
	before, after := tenantOf(t, "{events_per_second: 1000, burst: 0s}"), tenantOf(t, "{events_per_second: 10, burst: 0s}")
	lane, _ := l.take(before, signal.Logs, 1, 1)
	require.Equal(t, laneFast, lane)
	lane, _ = l.take(after, signal.Logs, 10, 1)
	require.Equal(t, laneFast, lane)
	lane, _ = l.take(after, signal.Logs, 1, 1)
	require.Equal(t, laneNone, lane)
}

func TestAClockThatGoesBackDoesNoHarm(t *testing.T) {
	l, c := testLimiter(nil)
	a := tenantOf(t, "{events_per_second: 100, burst: 0s}")
	l.take(a, signal.Logs, 100, 1)
	c.advance(-time.Hour)
	lane, _ := l.take(a, signal.Logs, 1, 1)
	require.Equal(t, laneNone, lane)
	c.advance(time.Hour + time.Second)
	lane, _ = l.take(a, signal.Logs, 100, 1)
	require.Equal(t, laneFast, lane)
}

// Guarantees: the memory is that of the tenants in use; one that is forgotten finds what it would have found.
func TestIdleTenantsAreForgotten(t *testing.T) {
	l, c := testLimiter(nil)
	s := registryOf(t, manyTenants(10_000))
	for i := range 10_000 {
		l.take(s.Tenant(fmt.Sprint("t", i)), signal.Logs, 150, 1)
	}
	require.EqualValues(t, 10_000, l.buckets())
	c.advance(3 * time.Second)
	debtor := s.Tenant("t1")
	l.take(debtor, signal.Logs, 2000, 1)
	l.take(debtor, signal.Logs, 2000, 1) // into the overflow: 80 s to drain
	c.advance(70 * time.Second)
	for i := range 1000 { // some in each shard look around
		l.take(s.Tenant(fmt.Sprint("t", 9000+i)), signal.Logs, 1, 1)
	}
	require.LessOrEqual(t, l.buckets(), int64(1001))
	require.Contains(t, l.shard[shardOf(l, "t1")].of, bucketKey{tenant: "t1", signal: signal.Logs}, "what it owes is not forgotten")
}

func shardOf(l *limiter, id string) int {
	for i := range l.shard {
		for k := range l.shard[i].of {
			if k.tenant == id {
				return i
			}
		}
	}
	return 0
}

func manyTenants(n int) string {
	var b strings.Builder
	b.WriteString("tenants:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {id: t%d, quotas: {logs: {events_per_second: 100, burst: 60s}}}\n", i)
	}
	return b.String()
}

func TestConcurrentRequestsTakeNoMoreThanTheQuota(t *testing.T) {
	l, _ := testLimiter(nil)
	a := tenantOf(t, "{events_per_second: 1000, burst: 1s}")
	var went [8][3]int
	var wg sync.WaitGroup
	for g := range went {
		wg.Go(func() {
			for range 1000 {
				lane, _ := l.take(a, signal.Logs, 1, 1)
				went[g][lane]++
			}
		})
	}
	wg.Wait()
	var sum [3]int
	for _, w := range went {
		for i := range w {
			sum[i] += w[i]
		}
	}
	require.Equal(t, [3]int{1000, 1000, 6000}, sum)
}

// BenchmarkTake is what a request costs; the two sizes show what more tenants cost.
func BenchmarkTake(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		s := registryOf(b, strings.ReplaceAll(manyTenants(n), "second: 100,", "second: 1000000000,"))
		var all []*tenant.Tenant
		for i := range n {
			all = append(all, s.Tenant(fmt.Sprint("t", i)))
		}
		cfg := createDefaultConfig().(*Config)
		b.Run(fmt.Sprint(n, "_tenants"), func(b *testing.B) {
			l := newLimiter(cfg, time.Now)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				l.take(all[i%n], signal.Logs, 1, 1)
				i++
			}
		})
	}
}
