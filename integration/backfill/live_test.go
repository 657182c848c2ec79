package backfill_test

import (
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/load"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

// Of TestABackfillBesideLiveLoad. The defaults are those of `make test`, in which nothing is measured; `make test-backfill` has the others.
var (
	mib      = flag.Int("mib", 10, "of JSON to load, before compression")
	lines    = flag.Int("lines", 1000, "in each object")
	jobRate  = flag.Int("job-rate", 250, "lines a second of each job, at most")
	killSpan = flag.Duration("kill-span", 2*time.Second, "of loading, in which a moment is chosen at random for each kill")
	liveRate = flag.Int("live-rate", 400, "events a second of the live load; 0: what takes half of this machine's CPU, which is measured first")
	warmUp   = flag.Duration("warm-up", 5*time.Second, "of live load, before anything is measured: its tables grow, and with them what their merges take")
	calmFor  = flag.Duration("calm", 6*time.Second, "how long the live load then runs alone, measured, before the backfill begins, and again after it has ended")
	within   = flag.Duration("within", 8*time.Minute, "the backfill must have ended")
	judged   = flag.Bool("judge", false, "fail where the P99 of live traffic is more than 1.3 times what it was; worker and Temporal run when no other wants the CPU, as if they had machines of their own")
	seed     = flag.Uint64("seed", 0, "of every random choice; 0: a new one")
	results  = flag.String("results", "", "file to which a run adds a line of JSON")
)

const (
	worstRatio = 1.3 // of the P99 of live traffic, beside the backfill and without it
	probeRate  = 500 // events a second of the fleet whose events are looked for in ClickHouse, of the live load
	auditTime  = 15 * time.Minute
	diskBytes  = 40 << 30 // of ClickHouse, at most
)

// seenWithin is how late a live event's row may be.
func seenWithin() time.Duration {
	if *judged {
		return time.Minute
	}
	return patience
}

// tenants whose history is loaded, each by a job of its own, at the same time.
var tenants = []string{"acme", "globex"}

//go:embed duckdb_load.py
var duckDBScript string

// Scenario: live load runs alone, and then beside a backfill of two tenants by Temporal, whose worker and server are killed at random moments. Everything is offered to the stores again
// afterwards.
// Guarantees: every acknowledged live event is in both stores once, and the audit says so; both stores have exactly the distinct good lines of each tenant, and in quarantine exactly the
// malformed ones, by the generator's own count; running the jobs again changes nothing. Where it is judged, the P99 of live requests, to the acknowledgement and to the row in ClickHouse, is
// at most 1.3 times what it is without the backfill, before and after it.
func TestABackfillBesideLiveLoad(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	t.Logf("seed %d", *seed)
	p := &proof{t: t, rng: rand.New(rand.NewPCG(*seed, 1)), outcome: outcome.Backfill{Seed: *seed, Killed: map[string]int{}}}
	defer p.report()
	b := p.startCell()
	p.generated()
	p.measureRate()
	p.startLive()

	before := p.alone()
	ids := p.startJobs()
	p.kills(ids)
	total := p.ended(ids)
	beside := span{before.to, p.look()}
	time.Sleep(min(*warmUp, time.Minute)) // merges
	after := p.alone()
	p.compare(p.stopLive(), before, beside, after)
	p.schedule(rig.Contend) // there is no live load any more

	require.Equal(t, b.truth.Lines, total.Lines)
	require.Equal(t, b.truth.Copies, total.Duplicates)
	require.EqualValues(t, len(b.truth.Malformed), total.Quarantined)
	t.Log("reading both stores")
	hot, lake := b.hot(), b.lake()
	b.holds("ClickHouse", hot)
	b.holds("lake", lake)
	require.Equal(t, hot.Ledger, lake.Ledger)
	p.owners()
	p.audited()

	t.Log("everything again")
	for _, args := range [][]string{nil, {"--again", "--rate", "0"}} {
		require.Equal(t, total, p.ended(p.startJobs(args...)), "%q", args)
	}
	require.True(t, hot.equal(b.hot()), "ClickHouse is not what it was before everything was offered again")
	require.True(t, lake.equal(b.lake()), "the lake is not what it was before everything was offered again")
	p.duckDB()
	p.outcome.Passed = !t.Failed()
}

// proof is a run.
type proof struct {
	t       *testing.T
	rng     *rand.Rand
	cell    *rig.Rig
	jobs    *temporal
	fleets  map[string]*agents.Fleet // by service
	seen    *load.HotWatch
	killed  time.Duration // CPU of workers that were killed
	began   time.Time
	outcome outcome.Backfill
}

func (p *proof) report() {
	text, err := json.Marshal(p.outcome)
	require.NoError(p.t, err)
	p.t.Logf("%s", text)
	if *results == "" {
		return
	}
	f, err := os.OpenFile(*results, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	require.NoError(p.t, err)
	_, err = f.Write(append(text, '\n'))
	require.NoError(p.t, err)
	require.NoError(p.t, f.Close())
}

// startCell starts a cell with one of each part, Temporal, and a worker of the cell's stores, which yields to the cell's traffic in Kafka.
func (p *proof) startCell() *bench {
	p.t.Helper()
	dir := p.t.TempDir()
	var err error
	o := rig.Options{Dir: filepath.Join(dir, "cell")}
	if *judged {
		o.ClickHouseDisk = diskBytes // with a journal, as hosts have it: without one ext4 looks for an inode that was not deleted of late, for each new file
	}
	p.cell, err = rig.New(o)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { require.NoError(p.t, p.cell.Close()) })
	require.NoError(p.t, p.cell.Start())
	b := &bench{t: p.t, dir: dir, config: filepath.Join(rig.Root(), "distributions", "aggregator", "config.yaml")}
	b.query = func(sql string) string {
		text, err := p.cell.Query(sql)
		require.NoError(p.t, err)
		return text
	}
	b.stores = map[string]string{
		"PULSEGRID_CLICKHOUSE_HTTP": p.cell.ClickHouseHTTP(), "PULSEGRID_LAKE_CATALOG": p.cell.CatalogFile(), "PULSEGRID_LAKE_WAREHOUSE": p.cell.Warehouse(),
		"PULSEGRID_KAFKA_BROKERS": strings.Join(p.cell.Kafka.Brokers(), ","),
	}
	p.jobs = startTemporal(b)
	p.jobs.within = *within
	if *judged {
		p.jobs.every, p.jobs.asks = 5*time.Second, rig.YieldOnOneCPU // each look is a program that takes CPU, elsewhere that of an operator's machine
	}
	p.schedule(rig.YieldOnOneCPU)
	return b
}

// schedule says when worker and Temporal run. Where times are measured they yield to all others, and have one CPU: elsewhere they have machines of their own, and only the stores are shared.
func (p *proof) schedule(policy func(pid int) error) {
	if *judged {
		require.NoError(p.t, policy(p.jobs.worker.PID()))
		require.NoError(p.t, policy(p.jobs.server.PID()))
	}
}

func (p *proof) generated() {
	b := p.jobs.bench
	began := time.Now()
	b.generate(append([]string{"--mib", strconv.Itoa(*mib), "--lines", strconv.Itoa(*lines), "--seed", strconv.FormatUint(*seed, 10), "--tenants"}, tenants...)...)
	o, truth := &p.outcome, &b.truth
	o.JSON, o.Gzip, o.Objects, o.Lines, o.Rows, o.Copies, o.Malformed = truth.JSON, truth.Gzip, truth.Objects, truth.Lines, truth.rows(), truth.Copies, len(truth.Malformed)
	p.t.Logf("generated within %v", time.Since(began).Round(time.Second))
}

func (p *proof) measureRate() {
	p.outcome.LiveRate, p.outcome.JobRate = *liveRate, *jobRate
	if *liveRate == 0 {
		half, err := load.Half(p.cell, "", p.t.Logf)
		require.NoError(p.t, err)
		p.outcome.LiveRate = half
	}
}

// startLive starts two fleets, of which one is looked for.
func (p *proof) startLive() {
	probe := min(probeRate, p.outcome.LiveRate/2)
	p.fleets = map[string]*agents.Fleet{}
	for i, rate := range []int{probe, p.outcome.LiveRate - probe} {
		service := fmt.Sprintf("live-%d", i)
		p.fleets[service] = agents.Start(agents.Options{Service: service, Seed: *seed + uint64(i), Gateways: []string{p.cell.HTTP}, Rate: rate, Timeout: time.Minute})
	}
	p.seen = load.WatchHot(context.Background(), p.cell, "live-0", seenWithin())
	p.t.Cleanup(p.seen.Stop)
	time.Sleep(*warmUp)
}

// stopLive ends the fleets, and waits until their events are in both stores, each once.
func (p *proof) stopLive() map[string][]*agents.Request {
	out, want := map[string][]*agents.Request{}, 0
	for service, fleet := range p.fleets {
		requests, err := fleet.Stop()
		require.NoError(p.t, err)
		for _, q := range requests {
			require.True(p.t, q.Acked && (q.Attempts == 1 || !*judged), "a live request: %+v", q)
		}
		out[service] = requests
		want += len(requests) * agents.PerRequest
	}
	p.outcome.Live = want
	p.t.Logf("%d live events", want)
	require.NoError(p.t, p.seen.Wait(load.Times(out["live-0"]), seenWithin()), "live events are late")
	sql := ""
	for _, table := range []string{"logs", "metrics", "spans"} {
		sql += fmt.Sprintf(" + (SELECT count() FROM %s WHERE service_name LIKE 'live-%%')", table)
	}
	require.Eventually(p.t, func() bool { return p.jobs.query("SELECT 0"+sql) == strconv.Itoa(want) }, seenWithin(), time.Second, "live events in ClickHouse, each once")
	return out
}

// moment is a time, and what was used until then.
type moment struct {
	at                 time.Time
	worker, clickHouse time.Duration
	worked, all        int64 // ticks of the machine's CPUs
}

func (p *proof) look() moment {
	worker, err := rig.UsageOf(p.jobs.worker.PID())
	require.NoError(p.t, err)
	clickHouse, err := rig.UsageOf(p.cell.ClickHouse.PID())
	require.NoError(p.t, err)
	p.outcome.WorkerMemory = max(p.outcome.WorkerMemory, worker.PeakRSS)
	worked, all, err := rig.CPUTime()
	require.NoError(p.t, err)
	return moment{time.Now(), p.killed + worker.CPU, clickHouse.CPU, worked, all}
}

// span is the time between two moments.
type span struct{ from, to moment }

func (s span) seconds() float64 { return s.to.at.Sub(s.from.at).Seconds() }

func (s span) clickHouse() float64 { return (s.to.clickHouse - s.from.clickHouse).Seconds() }

// alone lets live load run alone.
func (p *proof) alone() span {
	from := p.look()
	time.Sleep(*calmFor)
	return span{from, p.look()}
}

// startJobs starts a job for each tenant.
func (p *proof) startJobs(args ...string) (ids []string) {
	p.t.Helper()
	p.began = time.Now()
	for _, tenant := range tenants {
		id, started := p.jobs.start(append([]string{"--tenant", tenant, "--prefix", tenant + "/", "--block-lines", strconv.Itoa(min(10_000, *lines)), "--rate", strconv.Itoa(*jobRate)}, args...)...)
		require.True(p.t, started)
		ids = append(ids, id)
	}
	return ids
}

// kills kills the worker, the server, and both, each at a random moment of loading.
func (p *proof) kills(ids []string) {
	p.t.Helper()
	for _, names := range [][]string{{"worker"}, {"server"}, {"server", "worker"}} {
		p.jobs.loading(ids[p.rng.IntN(len(ids))])
		time.Sleep(time.Duration(p.rng.Int64N(int64(*killSpan))))
		used := p.look().worker
		var processes []*rig.Process
		for _, name := range names {
			processes = append(processes, map[string]*rig.Process{"worker": p.jobs.worker, "server": p.jobs.server}[name])
			p.outcome.Killed[name]++
		}
		p.jobs.kill(processes...)
		if slices.Contains(names, "worker") {
			p.killed = used
		}
		p.schedule(rig.YieldOnOneCPU)
		p.t.Logf("%v after the start: killed %s", time.Since(p.began).Round(time.Second), strings.Join(names, " and "))
	}
}

// ended waits for the jobs, which must have loaded everything, and adds up what their reports say.
func (p *proof) ended(ids []string) (total struct{ Lines, Duplicates, Quarantined int64 }) {
	p.t.Helper()
	for _, id := range ids {
		j := p.jobs.ended(id)
		require.Equal(p.t, orchestration.StateDone, j.State, j.LastError)
		r := j.Detail.Report
		require.Zero(p.t, r.Audit.Different, r.Audit.Findings)
		total.Lines, total.Duplicates, total.Quarantined = total.Lines+r.Total.Lines, total.Duplicates+r.Total.Duplicates, total.Quarantined+r.Total.Quarantined
	}
	p.t.Logf("%v: %d lines, %d copies, %d in quarantine", time.Since(p.began).Round(time.Second), total.Lines, total.Duplicates, total.Quarantined)
	return total
}

// compare tells what the backfill does to live requests, and what it takes. Live load is older beside a backfill than before it, and its tables larger: so it is held against itself before and
// after.
func (p *proof) compare(requests map[string][]*agents.Request, before, beside, after span) {
	p.t.Helper()
	o := &p.outcome
	sent := func(requests []*agents.Request, from, to time.Time) (out []*agents.Request) {
		for _, q := range requests {
			if q.Sent.After(from) && q.Sent.Before(to) {
				out = append(out, q)
			}
		}
		return out
	}
	all := slices.Concat(slices.Collect(maps.Values(requests))...)
	took := func(from, to time.Time) (out []float64) {
		for _, q := range sent(all, from, to) {
			out = append(out, q.Took.Seconds())
		}
		return out
	}
	ms := func(seconds []float64, q float64) float64 {
		slices.Sort(seconds)
		return 1000 * load.Quantile(seconds, q)
	}
	of := func(spans ...span) outcome.Latency {
		var acked, seen []float64
		for _, s := range spans {
			acked = append(acked, took(s.from.at, s.to.at)...)
			seen = append(seen, p.seen.Latencies(load.Times(sent(requests["live-0"], s.from.at, s.to.at)))...)
		}
		return outcome.Latency{Requests: len(acked), Acked: [2]float64{ms(acked, 0.5), ms(acked, 0.99)}, Looked: len(seen), Seen: [2]float64{ms(seen, 0.5), ms(seen, 0.99)}}
	}
	o.Before, o.Beside, o.After, o.Calm = of(before), of(beside), of(after), of(before, after)
	var minutes []string
	for from := before.from.at; from.Before(after.to.at); from = from.Add(time.Minute) {
		minutes = append(minutes, fmt.Sprintf("%.0f", ms(took(from, from.Add(time.Minute)), 0.99)))
	}
	p.t.Logf("P99 to the acknowledgement, by minutes (ms); the backfill is from minute %.0f to %.0f: %s", before.seconds()/60, (before.seconds()+beside.seconds())/60, strings.Join(minutes, " "))
	o.LiveCPU = float64(before.to.worked-before.from.worked+after.to.worked-after.from.worked) / float64(before.to.all-before.from.all+after.to.all-after.from.all)
	o.Seconds = beside.seconds()
	o.WorkerCPU = (beside.to.worker - beside.from.worker).Seconds()
	o.ClickHouseCPU = beside.clickHouse() - o.Seconds*(before.clickHouse()+after.clickHouse())/(before.seconds()+after.seconds())
	acked, seen := o.Ratios()
	p.t.Logf("%.0f s, CPU of the worker %.0f s, of ClickHouse %.0f s beyond live traffic's; P99 x %.2f to the acknowledgement, x %.2f to the row: before %+v, beside %+v, after %+v", o.Seconds, o.WorkerCPU,
		o.ClickHouseCPU, acked, seen, o.Before, o.Beside, o.After)
	if *judged && (acked > worstRatio || seen > worstRatio) {
		p.t.Errorf("the P99 of live requests is %.2f times what it is without the backfill to the acknowledgement, and %.2f times to the row in ClickHouse; want %.1f at most", acked, seen, worstRatio)
	}
}

// owners makes sure that each row is of the tenant that its line is of.
func (p *proof) owners() {
	p.t.Helper()
	for tenant, n := range p.jobs.truth.Tenants {
		for _, table := range []string{"logs", "metrics", "spans"} {
			sql := fmt.Sprintf("SELECT countIf((tenant_id = '%s') != (attributes_int['n'] BETWEEN %d AND %d)) FROM %s WHERE startsWith(kafka_topic, 'backfill.')", tenant, n[0], n[1], table)
			require.Equal(p.t, "0", p.jobs.query(sql), sql)
		}
	}
}

// audited lets PulseGrid's own audit judge all live events, once the groups have finished them.
func (p *proof) audited() {
	p.t.Helper()
	var said []byte
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), auditTime)
		cmd := exec.CommandContext(ctx, program, "audit", "--to", "now", "--rollups", "--quiet", "--brokers", p.jobs.stores["PULSEGRID_KAFKA_BROKERS"], "--clickhouse", "http://"+p.cell.ClickHouseHTTP(),
			"--catalog-uri", "file:"+p.cell.CatalogFile(), "--warehouse", p.cell.Warehouse())
		var err error
		said, err = cmd.CombinedOutput()
		cancel()
		if err == nil {
			break
		}
		require.True(p.t, time.Now().Before(deadline), "pulsegrid audit: %v\n%s", err, said)
	}
	p.t.Logf("%s", said)
	require.Contains(p.t, string(said), "equal: each event is in each store once")
	p.outcome.Audit = "equal"
}

// equal compares without printing millions of numbers.
func (c content) equal(d content) bool {
	return slices.Equal(c.Logs, d.Logs) && slices.Equal(c.Metrics, d.Metrics) && slices.Equal(c.Spans, d.Spans) && slices.Equal(c.Quarantined, d.Quarantined) && slices.Equal(c.Ledger, d.Ledger)
}

// duckDB does the nearest that DuckDB can do to the same objects, alone on the machine.
func (p *proof) duckDB() {
	p.t.Helper()
	dir := filepath.Join(p.jobs.dir, "duckdb")
	require.NoError(p.t, os.Mkdir(dir, 0o755))
	d := &p.outcome.DuckDB
	require.NoError(p.t, json.Unmarshal(pytest.RunWithin(p.t, readTimeout, duckDBScript, p.jobs.objects, dir), d))
	p.t.Logf("DuckDB: %d rows, %.0f s, %.0f s of CPU", d.Rows, d.Seconds, d.CPU)
	require.EqualValues(p.t, int64(p.outcome.Rows)+p.outcome.Copies, d.Rows)
}
