package alerting

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRules evaluates 1,000 rules of 100 tenants over rollups of an hour, with a bucket after the other, and prints what a round takes, in wall time, and the share of the machine's CPU that
// ClickHouse and the evaluator used of one interval of 10 s.
func BenchmarkRules(b *testing.B) {
	const tenants, rulesEach = 100, 10
	r := newRig(b)
	// 100 tenants of 10 services, a span a second each for an hour.
	r.Exec(fmt.Sprintf(`INSERT INTO pulsegrid.spans (tenant_id, service_name, time, ingest_time, event_id, kind, status_code, duration_nano)
SELECT concat('t', toString(number %% 100)), concat('s', toString(intDiv(number, 100) %% 10)), fromUnixTimestamp64Nano(toInt64(%d + intDiv(number, 1000) * 1000000000), 'UTC') AS t, t, unhex(hex(MD5(toString(number)))),
    'server', if(number %% 13 = 0, 'error', 'ok'), number FROM numbers(3600000)`, r.end.Add(-time.Hour).UnixNano()))
	var groups []*Group
	for tenant := range tenants {
		g := &Group{Name: "bench", Tenant: fmt.Sprintf("t%d", tenant), Interval: Tick, Freshness: 5 * time.Second, StaleAfter: time.Hour}
		for n := range rulesEach {
			g.Rules = append(g.Rules, &Rule{
				Alert: fmt.Sprintf("Errors%d", n), Window: 5 * time.Minute, Limit: defaultLimit,
				SQL: "SELECT service_name AS service, sum(errors) / sum(count) AS value FROM spans_10s WHERE kind = 'server' GROUP BY service HAVING value > " + strconv.Itoa(n+1) + " / 20",
			})
		}
		groups = append(groups, g)
	}
	e, _ := r.evaluator(DefaultBounds, groups...)
	e.parallel(b, r.end) // checks the rules
	cpu, own := processCPU(b, r.PID()), processCPU(b, os.Getpid())
	b.ResetTimer()
	for n := range b.N {
		e.parallel(b, r.end.Add(time.Duration(n+1)*Tick))
	}
	b.StopTimer()
	rounds := time.Duration(b.N)
	used := func(after, before time.Duration) float64 {
		return 100 * ((after - before) / rounds).Seconds() / Tick.Seconds() / float64(runtime.NumCPU())
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/1000rules")
	b.ReportMetric(used(processCPU(b, r.PID()), cpu), "%cpu-clickhouse")
	b.ReportMetric(used(processCPU(b, os.Getpid()), own), "%cpu-evaluator")
}

// parallel is a step of all groups at a time, as Run has them.
func (e *testEvaluator) parallel(b *testing.B, now time.Time) {
	var wg sync.WaitGroup
	for _, g := range e.groups {
		wg.Go(func() {
			g.slow = false
			g.evaluateDue(b.Context(), now.Add(g.Freshness))
			if g.problem != "" {
				b.Error(g.problem)
			}
		})
	}
	wg.Wait()
}

// processCPU is what a process has used.
func processCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	if pid == os.Getpid() {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	const ticksPerSecond = 100 // USER_HZ on every Linux
	return time.Duration(user+system) * time.Second / ticksPerSecond
}
