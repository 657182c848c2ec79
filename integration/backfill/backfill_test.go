// Package backfill_test runs `pulsegrid job run backfill` as an operator does: the built program, the real ClickHouse engine and a real lake. What must be
// in the stores is counted by the generator (generate.py), and what is, by SQL and by pyiceberg: none of them shares code with the product.
package backfill_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/legacy"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	if status, ran := rig.RunWithOwnMounts(); ran {
		os.Exit(status)
	}
	m.Run()
}

const (
	// runTimeout bounds one run of the job.
	runTimeout = 10 * time.Minute
	// readTimeout bounds a reading of the lake.
	readTimeout = 10 * time.Minute
)

// truth is what the generator says must be in each store.
type truth struct {
	Logs, Metrics, Spans   []int64
	Malformed              []string
	Copies, Lines, Objects int64
	Tenants                map[string][2]int64
	JSON                   int64 `json:"json_bytes"`
	Gzip                   int64 `json:"gzip_bytes"`
}

// rows of all good lines.
func (t *truth) rows() int { return len(t.Logs) + len(t.Metrics) + len(t.Spans) }

// bench is two stores and a directory of objects.
type bench struct {
	t       *testing.T
	query   func(sql string) string // asks ClickHouse
	dir     string
	config  string            // of the aggregators that fill the stores
	stores  map[string]string // the variables of config that say where the stores are
	objects string
	mapping string
	truth   truth
}

func newBench(t *testing.T, generate ...string) (*bench, *clickhousetest.Server) {
	t.Helper()
	ch := clickhousetest.Start(t)
	b := &bench{t: t, query: ch.Query, dir: t.TempDir(), config: filepath.Join(rig.Root(), "distributions", "local", "aggregator.yaml")}
	b.stores = map[string]string{
		"PULSEGRID_CLICKHOUSE_HTTP": strings.TrimPrefix(ch.URL, "http://"),
		"PULSEGRID_LAKE_CATALOG":    filepath.Join(b.dir, "catalog.db"), "PULSEGRID_LAKE_WAREHOUSE": "file://" + filepath.Join(b.dir, "warehouse"),
	}
	b.generate(generate...)
	return b, ch
}

// generate makes objects, a mapping under which log records have their id, and the truth.
func (b *bench) generate(args ...string) {
	b.t.Helper()
	cmd := exec.Command(pytest.Python(b.t), append([]string{filepath.Join(rig.Root(), "integration", "backfill", "generate.py"), b.dir}, args...)...)
	out, err := cmd.CombinedOutput()
	require.NoError(b.t, err, "%s", out)
	b.t.Logf("%s", bytes.TrimSpace(out))
	text, err := os.ReadFile(filepath.Join(b.dir, "truth.json"))
	require.NoError(b.t, err)
	b.truth = truth{}
	require.NoError(b.t, json.Unmarshal(text, &b.truth))
	b.objects = filepath.Join(b.dir, "objects")
	b.mapping = filepath.Join(b.dir, "mapping.yaml")
	require.NoError(b.t, os.WriteFile(b.mapping, []byte(string(legacy.DefaultText())+"id: [event_id]\n"), 0o600))
}

var program = filepath.Join(rig.Root(), "_build", "pulsegrid")

// request is the flags that say what to load.
func (b *bench) request() []string {
	return []string{"--objects", "file://" + b.objects, "--tenant", "acme", "--mapping", b.mapping, "--block-lines", "500", "--max-line-bytes", "90000", "--json"}
}

// command is the job. Only what is behind args is not the same in all runs.
func (b *bench) command(args ...string) *exec.Cmd {
	return b.job("backfill", slices.Concat([]string{"--rate", "0"}, b.request(), args)...)
}

func (b *bench) job(kind string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, append([]string{"job", "run", kind, "--config", b.config}, args...)...)
	cmd.Env = os.Environ()
	for name, value := range b.stores {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// report is what --json prints.
type report struct {
	Job    string
	Done   bool
	Failed int
	Total  struct{ Lines, Logs, Metrics, Traces, Duplicates, Quarantined int64 }
	NotIn  int `json:"not_in_plan"`
	Audit  *struct {
		Rows, Different int64
		Quarantined     int64 `json:"quarantine_rows"`
		Findings        []string
	}

	Objects []struct {
		Key, State, Reason string
		Lines              int64
	}
}

func (b *bench) run(wantCode int, args ...string) report {
	b.t.Helper()
	cmd := b.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(b.t, cmd.Start())
	timer := time.AfterFunc(runTimeout, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		require.NoError(b.t, err)
	}
	require.Equal(b.t, wantCode, code, "%s\n%s", out.String(), errs.String())
	var r report
	require.NoError(b.t, json.Unmarshal(out.Bytes(), &r), "%s\n%s", out.String(), errs.String())
	return r
}

// kill runs the job, slowly enough for that, and kills it after a while; false: it had come to its end before.
func (b *bench) kill(after time.Duration) bool {
	b.t.Helper()
	cmd := b.command("--in-flight", "3", "--rate", "2000")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(b.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		require.NoError(b.t, err, "%s", out.String())
		return false
	case <-time.After(after):
		_ = cmd.Process.Kill() // fails only for one that has ended
		err := <-ended
		if cmd.ProcessState.Exited() { // just before
			require.NoError(b.t, err, "%s", out.String())
			return false
		}
		return true
	}
}

// runTwice runs the job in two processes at a time.
func (b *bench) runTwice() {
	b.t.Helper()
	var outs [2]bytes.Buffer
	var cmds [2]*exec.Cmd
	for i := range cmds {
		cmds[i] = b.command("--in-flight", strconv.Itoa(2+i))
		cmds[i].Stdout, cmds[i].Stderr = &outs[i], &outs[i]
		require.NoError(b.t, cmds[i].Start())
		defer time.AfterFunc(runTimeout, func() { _ = cmds[i].Process.Kill() }).Stop()
	}
	for i, cmd := range cmds {
		require.NoError(b.t, cmd.Wait(), "%s", &outs[i])
	}
}

// content is what a store holds: of each table the numbers of its events, in order, and of the quarantine the sources and bodies.
type content struct {
	Logs, Metrics, Spans []int64
	Quarantined          []string // source, code and size of the body
	Ledger               []string // entries
}

// hot reads what ClickHouse has of backfills, by SQL.
func (b *bench) hot() (c content) {
	b.t.Helper()
	column := func(sql string) (out []string) {
		for line := range strings.Lines(b.query(sql + " FORMAT TSVRaw")) {
			out = append(out, strings.TrimSuffix(line, "\n"))
		}
		return out
	}
	const ours = " WHERE startsWith(kafka_topic, 'backfill.')"
	numbers := func(table string) (out []int64) {
		for _, text := range column("SELECT attributes_int['n'] AS n FROM pulsegrid." + table + ours + " ORDER BY n") {
			n, err := strconv.ParseInt(text, 10, 64)
			require.NoError(b.t, err)
			out = append(out, n)
		}
		return out
	}
	c.Logs, c.Metrics, c.Spans = numbers("logs"), numbers("metrics"), numbers("spans")
	c.Quarantined = column("SELECT concat(source, ' ', code, ' ', toString(length(body))) AS s FROM pulsegrid.quarantine_pii" + ours + " ORDER BY s")
	const entry = "SELECT DISTINCT concat(kafka_topic, '/', toString(first_offset), '-', toString(last_offset), ' ', toString(events), ' ', toString(duplicates), ' ', toString(rows)) AS s FROM pulsegrid."
	c.Ledger = append(column(entry+"ledger"+ours+" ORDER BY s"), column(entry+"ledger_quarantine_pii"+ours+" ORDER BY s")...)
	return c
}

// lake reads what the lake has of backfills: pyiceberg finds the files, DuckDB reads them.
func (b *bench) lake() (c content) {
	b.t.Helper()
	require.NoError(b.t, json.Unmarshal(pytest.RunWithin(b.t, readTimeout, `
import sys, json, duckdb
from pyiceberg.catalog import load_catalog
uri, warehouse = sys.argv[1:]
catalog = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse)
def column(name, expression):
  scan = catalog.load_table("pulsegrid." + name).scan()
  files = []
  for task in scan.plan_files():
    assert not task.delete_files, task
    files.append(task.file.file_path.removeprefix("file://"))
  if not files:
    return []
  return [r[0] for r in duckdb.sql(f"select {expression} as c from read_parquet({files!r}) where kafka_topic like 'backfill.%' order by c").fetchall()]
def ledger(name):
  return sorted(set(column(name, "format('{}/{}-{} {} {} {}', kafka_topic, first_offset, last_offset, events, duplicates, rows)")))
print(json.dumps({
  **{key: column(key.lower(), "attributes_int['n']") for key in ("Logs", "Metrics", "Spans")},
  "Quarantined": column("quarantine_pii", "format('{} {} {}', source, code, octet_length(body::blob))"),
  "Ledger": ledger("ledger") + ledger("ledger_quarantine_pii"),
}))
`, b.stores["PULSEGRID_LAKE_CATALOG"], b.stores["PULSEGRID_LAKE_WAREHOUSE"]), &c))
	return c
}

// holds checks a store against the generator's truth.
func (b *bench) holds(store string, c content) {
	b.t.Helper()
	for _, kind := range []struct {
		name      string
		want, got []int64
	}{{"logs", b.truth.Logs, c.Logs}, {"metrics", b.truth.Metrics, c.Metrics}, {"spans", b.truth.Spans, c.Spans}} {
		if !slices.Equal(kind.want, kind.got) {
			b.t.Errorf("%s: %d %s, want %d: %s", store, len(kind.got), kind.name, len(kind.want), difference(kind.want, kind.got))
		}
	}
	var malformed []string
	for _, q := range c.Quarantined {
		source, _, _ := strings.Cut(q, " ")
		malformed = append(malformed, strings.TrimPrefix(source, "file://"+b.objects+"/"))
	}
	slices.Sort(malformed)
	require.Equal(b.t, b.truth.Malformed, malformed, "%s: what is in quarantine", store)
}

func difference(want, got []int64) string {
	count := map[int64]int{}
	for _, n := range want {
		count[n]--
	}
	for _, n := range got {
		count[n]++
	}
	lost, doubled := 0, 0
	for _, n := range count {
		lost += max(0, -n)
		doubled += max(0, n)
	}
	return fmt.Sprintf("%d lost, %d doubled", lost, doubled)
}

// Scenario: a month of objects with copies, malformed lines and days out of order; the job is killed at random moments, and started again by the same command,
// in the end by two at a time.
// Guarantees: both stores have exactly the distinct good lines, and in quarantine exactly the malformed ones, by counts that are not ours; the ledgers of both
// say the same; the report counts every line once; running the whole job again, with and without offering every block again, changes nothing.
func TestABackfillThatIsKilledAgainAndAgainLoadsEachLineOnce(t *testing.T) {
	b, ch := newBench(t, "--objects", "10", "--lines", "1000")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	kills := 0
	for range 3 {
		if b.kill(time.Duration(700+r.IntN(2500)) * time.Millisecond) {
			kills++
		}
	}
	t.Logf("killed %d times", kills)
	require.Positive(t, kills, "the job was done before the first kill: give it more lines")
	b.runTwice()
	rep := b.run(0)
	require.True(t, rep.Done)
	require.Zero(t, rep.Failed)
	require.Equal(t, b.truth.Lines, rep.Total.Lines)
	hot, lake := b.hot(), b.lake()
	b.holds("ClickHouse", hot)
	b.holds("lake", lake)
	require.Equal(t, b.truth.Copies, rep.Total.Duplicates)
	require.EqualValues(t, len(b.truth.Malformed), rep.Total.Quarantined)
	require.Equal(t, hot.Quarantined, lake.Quarantined)
	require.Equal(t, hot.Ledger, lake.Ledger)

	for _, args := range [][]string{nil, {"--again"}} {
		again := b.run(0, args...)
		require.Equal(t, rep.Total, again.Total, "%q", args)
		require.Equal(t, hot, b.hot(), "ClickHouse after a run with %q", args)
		require.Equal(t, lake, b.lake(), "the lake after a run with %q", args)
	}

	audit := b.run(0, "--audit").Audit
	require.Zero(t, audit.Different, audit.Findings)
	require.EqualValues(t, b.truth.rows(), audit.Rows)
	require.EqualValues(t, len(b.truth.Malformed), audit.Quarantined)
	ch.Exec("DELETE FROM pulsegrid.logs WHERE kafka_offset = (SELECT min(kafka_offset) FROM pulsegrid.logs)")
	audit = b.run(1, "--audit").Audit
	require.EqualValues(t, 1, audit.Different)
	require.Regexp(t, `^file://.*: clickhouse has [0-9]+ rows of events, want [0-9]+$`, audit.Findings[0])
}
