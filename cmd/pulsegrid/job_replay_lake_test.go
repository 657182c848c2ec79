package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// lakeIDs prints for each table the ids and places of a tenant's rows that were received in a time, as DuckDB reads them out of the files that pyiceberg lists.
const lakeIDs = `
import json, sys
import duckdb
from pyiceberg.catalog.sql import SqlCatalog
path, warehouse, tenant, begin, end = sys.argv[1:6]
catalog = SqlCatalog("pulsegrid", uri="sqlite:///" + path, warehouse="file://" + warehouse)
found = {}
for name in ("logs", "metrics", "spans"):
    files = [t.file.file_path.removeprefix("file://") for t in catalog.load_table("pulsegrid." + name).scan().plan_files()]
    rows = duckdb.sql(f"""select hex(event_id) || ' ' || kafka_partition || '/' || kafka_offset || '#' || event_index from read_parquet({files!r})
        where tenant_id = $1 and epoch_ms(ingest_time) >= $2 and epoch_ms(ingest_time) < $3 order by 1""", params=[tenant, int(begin), int(end)])
    found[name] = [r[0] for r in rows.fetchall()]
print(json.dumps(found))
`

// yesterday is the day before the test, and the two hours of it that are replayed.
type yesterday struct {
	day, from, to time.Time
}

func newYesterday() yesterday {
	day := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -1)
	return yesterday{day, day.Add(10 * time.Hour), day.Add(12 * time.Hour)}
}

// records are of two tenants and all signals, received before, in and after the two hours.
func (y yesterday) records() (out []*kgo.Record) {
	seed := uint64(1000)
	for _, tenant := range []string{"acme", "globex"} {
		for _, minute := range []int{-20, 10, 70, 119, 150} {
			for _, s := range signal.All {
				seed++
				value := otlptest.Realistic(s, seed, 40)
				if minute == 70 {
					value = otlptest.Full(s, seed)
				}
				out = append(out, received(s, tenant, y.from.Add(time.Duration(minute)*time.Minute), value))
			}
		}
	}
	return out
}

func received(s signal.Signal, tenant string, at time.Time, value []byte) *kgo.Record {
	return &kgo.Record{Topic: s.Topic(), Key: []byte{1}, Value: value, Headers: []kgo.RecordHeader{
		{Key: envelope.HeaderTenant, Value: []byte(tenant)}, {Key: envelope.HeaderReceivedNanos, Value: strconv.AppendInt(nil, at.UnixNano(), 10)},
	}}
}

// command is the command line as a process of its own, which is armed with a failpoint.
func command(armed string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), commandVariable+"="+strings.Join(args, "\n"), failpoint.Variable+"="+armed)
	return cmd
}

// killedAt runs the command line until it is killed at a failpoint.
func killedAt(t *testing.T, armed string, args ...string) {
	t.Helper()
	out, err := command(armed, args...).CombinedOutput()
	require.ErrorContains(t, err, "killed", "%s: %s", armed, out)
}

// stoppedAt runs the command line, does something while it stands still at a failpoint, and returns what it said.
func stoppedAt(t *testing.T, armed string, meanwhile func(), args ...string) string {
	t.Helper()
	stdout, stderr, err := continuedAfter(t, armed, meanwhile, args...)
	require.NoError(t, err, "%s%s", stdout, stderr)
	return stdout
}

// continuedAfter is stoppedAt for a command that may fail once it goes on. The point may have the number of a hit: POINT@3.
func continuedAfter(t *testing.T, armed string, meanwhile func(), args ...string) (said, told string, err error) {
	t.Helper()
	point, hit, counted := strings.Cut(armed, "@")
	action := point + "=stop"
	if counted {
		action += "@" + hit
	}
	cmd := command(action, args...)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		told += lines.Text() + "\n"
		if strings.HasPrefix(lines.Text(), "failpoint "+point) {
			require.Eventually(t, func() bool { // it says so just before it stops
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
				return err == nil && bytes.Contains(stat, []byte(") T "))
			}, time.Minute, time.Millisecond)
			meanwhile()
			require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
			meanwhile = nil
		}
	}
	err = cmd.Wait()
	require.Nil(t, meanwhile, "it has not stopped at %s: %s%s", armed, &stdout, told)
	return stdout.String(), told, err
}

// forget removes all records from Kafka, as retention does.
func forget(t *testing.T, client *kgo.Client) {
	t.Helper()
	admin := kadm.NewClient(client)
	for _, s := range signal.All {
		ends, err := admin.ListEndOffsets(t.Context(), s.Topic())
		require.NoError(t, err)
		deleted, err := admin.DeleteRecords(t.Context(), ends.Offsets())
		require.NoError(t, err)
		require.NoError(t, deleted.Error())
	}
}

// polled asks ClickHouse questions again and again, for the first time before it returns and for the last time when it is stopped, and returns the different answers to each.
func (a aggregated) polled(questions []string, sorted func(string) string) (stop func() [][]string) {
	begun, end, out := make(chan struct{}), make(chan struct{}), make(chan [][]string)
	go func() {
		seen := make([][]string, len(questions))
		begin := sync.OnceFunc(func() { close(begun) })
		for ended := false; ; {
			for i, q := range questions {
				answer, err := a.hot.Try(q)
				if err != nil {
					answer = err.Error()
				}
				if answer = sorted(answer); !slices.Contains(seen[i], answer) {
					seen[i] = append(seen[i], answer)
				}
			}
			begin()
			if ended {
				out <- seen
				return
			}
			select {
			case <-end:
				ended = true
			default:
			}
		}
	}()
	<-begun
	return func() [][]string {
		close(end)
		return <-out
	}
}

// Scenario: rows of two tenants are deleted by hand, some of them received in two hours of yesterday. One tenant's rows of these hours are replayed from the lake: by a
// command that is killed between any two of its steps, then by one that is left alone, while a dashboard polls the tables.
// Guarantees: exactly these rows are back, column by column, as DuckDB and pyiceberg find them in the lake; those of the other tenant and of other hours stay as they
// were; the dashboard saw each table without them or with all of them; rollups still say what the rows say of that tenant; rows that the aggregators will bring, and rows
// that were declared as erased, are left out; once Kafka has forgotten them and ClickHouse lost its ledger, they are nobody's, and come back.
func TestAReplayOfTheLakePutsBackExactlyWhatIsMissing(t *testing.T) {
	y := newYesterday()
	a := storeAll(t, y.records()...)
	rollupsAre := func(b bool) string { // compared once at the end: the other tenant's rows stay missing, and what differs is looked at again after a while
		path := fmt.Sprintf("%s/%v.yaml", t.TempDir(), b)
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "exporters: {pulsegrid_clickhouse: {rollups: %v}}\n", b), 0o600))
		return path
	}
	span := []string{"--from", y.from.Format(time.RFC3339), "--to", y.to.Format(time.RFC3339)}
	args := append([]string{"job", "run", "replay", "--source", "lake", "--quiet", "--config", a.configFile(t), "--config", rollupsAre(false), "--tenant", "acme"}, span...)
	replay := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, slices.Concat(args, more)...)
	}
	content := func(where string) (out []string) {
		for _, s := range signal.All {
			out = append(out, strings.TrimSpace(a.hot.Query("SELECT count(), sum(cityHash64(*)) FROM pulsegrid."+columns.ForSignal(s).Name+" WHERE "+where)))
		}
		return out
	}
	asked := fmt.Sprintf("(tenant_id = 'acme' AND ingest_time >= fromUnixTimestamp64Nano(%d) AND ingest_time < fromUnixTimestamp64Nano(%d))", y.from.UnixNano(), y.to.UnixNano())
	const gone = "cityHash64(event_id, event_index) % 3 = 0"
	lost := func() {
		for _, s := range signal.All {
			a.hot.Exec("DELETE FROM pulsegrid." + columns.ForSignal(s).Name + " WHERE " + gone)
		}
	}
	require.Contains(t, replay(0, "--dry-run"), "\n0 events are missing")
	rollups := a.hot.Query("SELECT count(), sum(cityHash64(*)) FROM pulsegrid.logs_1m")
	want := content(asked + " OR NOT " + gone)
	lost()
	less := content("1")
	for i := range want {
		require.NotEqual(t, want[i], less[i])
	}
	require.Regexp(t, `\n[1-9]\d* events are missing`, replay(0, "--dry-run"))
	require.Equal(t, less, content("1"))

	for _, point := range []string{"replay-read=kill", "replay-staged=kill", "replay-attached=kill", "replay-attached=kill@2", "replay-attached=kill@3"} {
		killedAt(t, point, args...)
		replay(0)
		require.Equal(t, want, content("1"), point)
		lost()
		require.Equal(t, less, content("1"), point)
	}
	var questions []string
	for _, s := range signal.All {
		questions = append(questions, "SELECT count(), sum(cityHash64(*)) FROM pulsegrid."+columns.ForSignal(s).Name)
	}
	stop := a.polled(questions, strings.TrimSpace)
	replay(0)
	for i, answers := range stop() {
		require.ElementsMatch(t, []string{less[i], want[i]}, answers, "%s: the rows of before, or all of them", questions[i])
	}
	require.Equal(t, want, content("1"))
	require.Equal(t, rollups, a.hot.Query("SELECT count(), sum(cityHash64(*)) FROM pulsegrid.logs_1m"))
	require.NotContains(t, a.hot.Query("SHOW TABLES FROM pulsegrid"), replaySuffix)

	var lake map[string][]string
	pytest.RunJSON(t, &lake, lakeIDs, a.catalog, a.warehouse, "acme", strconv.FormatInt(y.from.UnixMilli(), 10), strconv.FormatInt(y.to.UnixMilli(), 10))
	for table, ids := range lake {
		require.NotEmpty(t, ids)
		const id = "hex(event_id) || ' ' || toString(kafka_partition) || '/' || toString(kafka_offset) || '#' || toString(event_index)"
		require.Equal(t, ids, strings.Split(strings.TrimSpace(a.hot.Query("SELECT "+id+" AS r FROM pulsegrid."+table+" WHERE "+asked+" ORDER BY r")), "\n"), table)
	}

	// Rows that were erased, or that the ledger does not have, are not put back.
	lost()
	erased := t.TempDir() + "/erased.yaml"
	require.NoError(t, os.WriteFile(erased, []byte("format: 1\nerasures:\n  - {id: a, by: b, reason: c, tenant: acme, stores: [clickhouse], signals: [logs], at: "+
		time.Now().Add(time.Hour).Format(time.RFC3339)+"}\n"), 0o600))
	require.Contains(t, replay(0, "--erased", erased, "--signal", "logs"), "0 rows were put back")
	require.Equal(t, less, content("1"))
	a.hot.Exec("TRUNCATE TABLE pulsegrid.ledger")
	require.Contains(t, replay(0), "0 rows were put back")
	require.Equal(t, less, content("1"))

	// Kafka forgets: nobody else brings them.
	client, err := kgo.NewClient(kgo.SeedBrokers(a.brokers))
	require.NoError(t, err)
	defer client.Close()
	forget(t, client)
	replay(0)
	require.Equal(t, want, content("1"))
	require.Contains(t, replay(1, "--config", rollupsAre(true), "--signal", "logs"), "rollup logs_10s "+y.day.Format(time.DateOnly)+" differs from the rows",
		"the other tenant's rows are missing in the table only")
}

// Guarantee: what a replay of the lake cannot do is refused before anything is asked, with the flag's name.
func TestWhatAReplayOfTheLakeRefuses(t *testing.T) {
	now := time.Date(2026, 10, 20, 13, 0, 0, 0, time.UTC)
	for want, o := range map[string]replayOptions{
		"--from: say since when":                  {},
		"--from: ClickHouse deletes rows":         {auditOptions: auditOptions{from: "2026-09-20T18:59:00Z"}},
		`--to: "3h" is not after --from`:          {auditOptions: auditOptions{from: "2h", to: "3h"}},
		"--topic: is of Kafka":                    {auditOptions: auditOptions{from: "2h", topics: []string{"otlp.logs.v1"}}},
		"--range: is of Kafka":                    {auditOptions: auditOptions{from: "2h", ranges: []string{"otlp.logs.v1/0/1-2"}}},
		"--signal: ":                              {auditOptions: auditOptions{from: "2h"}, signals: []string{"profiles"}},
		`--tenant: "\x1b" is not a tenant id`:     {auditOptions: auditOptions{from: "2h", config: audit.Config{Tenant: "\x1b"}}},
		"--from: \"yesterday\": want RFC 3339":    {auditOptions: auditOptions{from: "yesterday"}},
		"--erased: open /does/not/exist: no such": {auditOptions: auditOptions{from: "2h", erased: []string{"/does/not/exist"}}},
	} {
		_, _, err := o.lakeAsked(now, 30)
		require.ErrorContains(t, err, want)
		require.Equal(t, exitUsage, exitCode(err))
	}
	o := replayOptions{auditOptions: auditOptions{from: "2026-09-20T19:00:00Z"}, signals: []string{"traces", "traces"}}
	c, signals, err := o.lakeAsked(now, 30)
	require.NoError(t, err)
	require.Equal(t, now, c.To)
	require.Equal(t, []signal.Signal{signal.Traces}, signals)

	for want, args := range map[string][]string{`--source: "tape": want kafka or lake`: {"--source", "tape"}, "--signal: is of the lake": {"--signal", "logs"}} {
		_, code, err := run(t, append([]string{"job", "run", "replay"}, args...)...)
		require.ErrorContains(t, err, want)
		require.Equal(t, exitUsage, code)
	}
}
