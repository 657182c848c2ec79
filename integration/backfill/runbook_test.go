package backfill_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/testkit/runbook"
)

const (
	localStarts   = 5 * time.Minute
	localStopping = 2 * time.Minute
	patience      = 5 * time.Minute // on a machine that does much else
)

// commandsOf are the commands of a page of docs/runbooks, in their order.
func commandsOf(t *testing.T, page string) []string {
	t.Helper()
	text, err := rig.Runbook(page)
	require.NoError(t, err)
	out := runbook.Commands(text)
	require.NotEmpty(t, out)
	return out
}

// Scenario: the commands of the runbooks of backfill, upkeep, replay, rollups, expiry, spill check, rehearsal (those of Temporal), aggregates and erasure, one after the
// other, against `pulsegrid local` while this host's metrics flow through it.
// Guarantees: each does what the runbook says; the stores have the generator's events beside the live ones; the audit of what came by Kafka stays equal, rollups included.
func TestTheRunbooksBesideLiveTraffic(t *testing.T) {
	home := t.TempDir()
	_, grpcPort, _ := strings.Cut(rig.FreeAddr(), ":")
	_, httpPort, _ := strings.Cut(rig.FreeAddr(), ":")
	data := filepath.Join(home, "pulsegrid-data")
	local := rig.NewProcess(nil, nil, program, "local", "--data", data, "--grpc", "127.0.0.1:"+grpcPort, "--http", "127.0.0.1:"+httpPort, "--orchestration")
	require.NoError(t, local.Start(localStarts))
	t.Cleanup(func() {
		local.Stop(localStopping)
		if t.Failed() {
			t.Log(local.Log())
		}
	})
	b := &bench{t: t, dir: filepath.Join(home, "generated")}
	b.generate("--objects", "3", "--lines", "400", "--broken", "--longest", "1100000")

	shell := rig.Shell{Dir: home}.Run
	query := func(sql string) string {
		out, err := shell("pulsegrid query --format TabSeparated \"" + sql + "\"")
		require.NoError(t, err, "%s", out)
		return strings.TrimSpace(out)
	}
	require.Eventually(t, func() bool {
		out, err := shell("pulsegrid query --format TabSeparated 'SELECT count() FROM metrics'")
		n, _ := strconv.Atoi(strings.TrimSpace(out))
		return err == nil && n > 0
	}, patience, time.Second, "live metrics")

	loaded := func() (counts string) {
		for _, table := range []string{"logs", "metrics", "spans"} {
			counts += query("SELECT kafka_topic, count(), sum(cityHash64(*)) FROM "+table+" WHERE kafka_topic LIKE 'backfill.%' GROUP BY 1") + "\n"
		}
		return counts
	}
	counts, id := "", ""
	// until waits for a state of Temporal's job.
	until := func(state string) {
		require.Eventually(t, func() bool {
			out, err := shell("pulsegrid job show " + id)
			return err == nil && strings.HasPrefix(out, "job "+id+": "+state+"\n")
		}, patience, time.Second, state)
	}
	// Standing jobs would do what the commands below are to do. They are scheduled once the worker is there.
	require.Eventually(t, func() bool {
		_, err := shell("pulsegrid job schedule pause aggregates upkeep audit quarantine spill")
		return err == nil
	}, patience, time.Second, "the default schedules")
	for _, command := range commandsOf(t, "standing-jobs.md") {
		out, err := shell(command)
		t.Logf("%s\n%s", command, out)
		require.NoError(t, err, command)
		if strings.HasPrefix(command, "pulsegrid job schedule apply") {
			require.Equal(t, 5, strings.Count(out, "unchanged"), "the local cell has them already")
		}
	}
	out, err := shell("pulsegrid job schedule pause aggregates")
	require.NoError(t, err, out)
	for i, command := range commandsOf(t, "backfill.md") {
		if strings.HasPrefix(command, "pulsegrid job approve") {
			until("waits_for_approval")
		}
		out, err := shell(strings.NewReplacer("file:///data/legacy", "file://"+b.objects, " ID", " "+id).Replace(command))
		t.Logf("%s\n%s", command, out)
		switch words := strings.Fields(command); {
		case strings.HasPrefix(command, "pulsegrid job start"):
			id, _, _ = strings.Cut(strings.TrimPrefix(out, "job "), ":")
		case strings.HasPrefix(command, "pulsegrid job approve"):
			until("incomplete")
			require.Equal(t, counts, loaded(), "it is the same job as that of `job run`")
		case words[2] == "retry", words[2] == "cancel": // it has ended
			require.ErrorContains(t, err, "exit status 1", command)
			require.Contains(t, out, "is in the state incomplete")
			continue
		}
		loads := strings.HasPrefix(command, "pulsegrid job run backfill ") && !strings.Contains(command, "--dry-run")
		if loads { // two of the objects cannot be loaded whole, and the command says so
			require.ErrorContains(t, err, "exit status 1", command)
			require.Contains(t, out, ": done, ")
			require.Contains(t, out, "2 of 4 objects could not be loaded whole")
			require.Contains(t, out, "truncated")
			require.Contains(t, out, "unknown_format")
			require.Contains(t, out, "audit: equal: each store has the ")
			now := loaded()
			require.Contains(t, now, "backfill.")
			require.True(t, counts == "" || counts == now, "%s changed %s to %s", command, counts, now)
			counts = now
			continue
		}
		require.NoError(t, err, command)
		if i == 0 {
			require.Contains(t, out, "nothing was stored")
			plans, err := filepath.Glob(filepath.Join(data, "lake", "warehouse", "pulsegrid-jobs", "*"))
			require.NoError(t, err)
			require.Empty(t, plans)
		}
	}
	for table, want := range map[string][]int64{"metrics": b.truth.Metrics, "spans": b.truth.Spans} { // logs have no id in the default mapping, so those with another attempt are others
		require.Equal(t, strconv.Itoa(len(want)), query("SELECT count() FROM "+table+" WHERE kafka_topic LIKE 'backfill.%'"), table)
	}
	require.Equal(t, strconv.Itoa(len(b.truth.Logs)), query("SELECT uniqExact(attributes_int['n']) FROM logs WHERE kafka_topic LIKE 'backfill.%'"))
	require.Equal(t, strconv.Itoa(len(b.truth.Malformed)), query("SELECT count() FROM quarantine_pii WHERE kafka_topic LIKE 'backfill.%'"))
	var said string
	require.Eventually(t, func() bool {
		var err error
		said, err = shell("pulsegrid audit --rollups --quiet")
		return err == nil
	}, patience, time.Second, "pulsegrid audit")
	require.Contains(t, said, "equal: each event is in each store once")

	// step runs a command of a page, and waits for the job that it starts: until it ended, or waits for somebody.
	step := func(command string) (string, error) {
		out, err := shell(command)
		t.Logf("%s\n%s", command, out)
		if err == nil && strings.HasPrefix(command, "pulsegrid job start ") {
			id, _, _ = strings.Cut(strings.TrimPrefix(out, "job "), ":")
			state := "done"
			if strings.Contains(command, " erasure ") || strings.HasSuffix(command, " expiry") {
				state = "waits_for_approval"
			}
			until(state)
		}
		return out, err
	}
	for _, command := range commandsOf(t, "upkeep.md") {
		out, err := step(command)
		require.NoError(t, err, command)
		if strings.Contains(command, "run upkeep") || strings.Contains(command, "show upkeep") {
			require.Regexp(t, `(?m)^logs( +[0-9]+){5} +[1-9][0-9]* +0 `, out) // all snapshots are young
		}
	}

	// Rows of live events are deleted by hand. A dashboard polls them while they are put back. They are older than the newest of each partition, so none comes later.
	newest := query("SELECT min(newest) - INTERVAL 2 SECOND FROM (SELECT max(ingest_time) AS newest FROM metrics WHERE kafka_topic = 'otlp.metrics.v1' GROUP BY kafka_partition)")
	live := "FROM metrics WHERE kafka_topic = 'otlp.metrics.v1' AND ingest_time < toDateTime64('" + newest + "', 9)"
	whole := query("SELECT count(), sum(cityHash64(*)) " + live)
	out, err = shell("pulsegrid query --write \"DELETE " + live + " AND event_index % 3 = 1\"")
	require.NoError(t, err, out)
	less := query("SELECT count(), sum(cityHash64(*)) " + live)
	require.NotEqual(t, whole, less)
	_, err = shell("pulsegrid audit --quiet")
	require.ErrorContains(t, err, "exit status 1")
	stop, polled := make(chan struct{}), make(chan map[string]bool)
	go func() {
		seen := map[string]bool{}
		for {
			select {
			case <-stop:
				polled <- seen
				return
			default:
			}
			if out, err := shell("pulsegrid query --format TabSeparated \"SELECT count(), sum(cityHash64(*)) " + live + "\""); err == nil {
				seen[strings.TrimSpace(out)] = true
			}
		}
	}()
	state, err := cell.ReadState(data)
	require.NoError(t, err)
	client, err := kgo.NewClient(kgo.SeedBrokers(state.Endpoints.Kafka))
	require.NoError(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).CreateTopic(t.Context(), -1, 1, map[string]*string{"max.message.bytes": kadm.StringPtr("33554432")}, "incident-117.metrics") // as the source's
	require.NoError(t, err)
	hours := strings.NewReplacer("2026-11-20T08:00:00Z", time.Now().UTC().Add(-2*time.Hour).Format(time.RFC3339), "2026-11-20T10:00:00Z", time.Now().UTC().Format(time.RFC3339),
		"--tenant acme", "--tenant "+query("SELECT any(tenant_id) FROM metrics WHERE kafka_topic = 'otlp.metrics.v1'"))
	for _, command := range commandsOf(t, "replay.md") {
		out, err := step(hours.Replace(command))
		require.NoError(t, err, command)
		if strings.Contains(command, "--to-topic") {
			require.Regexp(t, map[bool]string{true: ": nothing was written\n[1-9]\\d* records", false: ": done\n[1-9]\\d* records"}[strings.Contains(command, "--dry-run")], out)
		} else if strings.Contains(command, "--source lake") { // Kafka had all of them
			require.Regexp(t, `(?m)^0 events (are|were) missing in ClickHouse`, out)
		} else if strings.Contains(command, "--dry-run") {
			require.Regexp(t, `[1-9][0-9]* events are missing in ClickHouse: nothing was changed`, out)
			require.Equal(t, less, query("SELECT count(), sum(cityHash64(*)) "+live))
		} else if !strings.Contains(command, " start ") {
			require.Contains(t, out, "equal: each event is in each store once")
		}
	}
	close(stop)
	require.Equal(t, map[string]bool{less: true, whole: true}, <-polled, "a query sees the old rows or the new ones")
	require.Equal(t, whole, query("SELECT count(), sum(cityHash64(*)) "+live))
	out, err = shell("pulsegrid query --write \"DELETE " + live + " AND event_index % 3 = 2\"")
	require.NoError(t, err, out)
	for i := range 4 { // killed on its way, and run again
		cmd := exec.Command(program, "job", "run", "replay", "--from", "2h", "--quiet")
		cmd.Dir = home
		require.NoError(t, cmd.Start())
		time.Sleep(time.Duration(i+1) * 150 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // however it ended
	}
	out, err = shell("pulsegrid job run replay --from 2h --quiet")
	require.NoError(t, err, out)
	require.Equal(t, whole, query("SELECT count(), sum(cityHash64(*)) "+live))
	require.NotContains(t, query("SHOW TABLES"), "_replay")
	require.Eventually(t, func() bool {
		said, err = shell("pulsegrid audit --rollups --quiet")
		return err == nil
	}, patience, time.Second, "pulsegrid audit, after replays that were killed")
	for _, command := range commandsOf(t, "rollups.md") {
		out, err := step(command)
		require.NoError(t, err, command)
		if !strings.Contains(command, " start ") {
			require.Contains(t, out, "the rollups are equal to the rows")
		}
	}
	for _, command := range commandsOf(t, "expiry.md") {
		out, err := step(command)
		require.NoError(t, err, command)
		if !strings.Contains(command, " start ") && !strings.Contains(command, " approve ") {
			require.Regexp(t, `(?m)^quarantine_pii +0 +0 +0$`, out, "all of it is young")
		}
	}
	until("done")
	for _, command := range commandsOf(t, "spill-check.md") {
		out, err := step(command)
		require.NoError(t, err, command)
		if !strings.Contains(command, " start ") {
			require.Contains(t, out, "the local cell does not spill")
		}
	}
	for _, dir := range []string{"schemas", "proposed"} {
		require.NoError(t, os.Mkdir(filepath.Join(home, dir), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(home, dir, "none.yaml"), []byte("groups: []\n"), 0o600))
	}
	for _, command := range commandsOf(t, "rehearsal.md") {
		if strings.Contains(command, " job run ") || !strings.Contains(command, " job ") {
			continue // cmd/pulsegrid, TestARehearsalCountsWhatTheGeneratorCounts
		}
		out, err := step(strings.NewReplacer(" schemas/", " "+home+"/schemas/", " proposed/", " "+home+"/proposed/").Replace(command)) // the worker is at home elsewhere
		require.NoError(t, err, command)
		if strings.Contains(command, " show ") {
			require.Regexp(t, `(?m)^[1-9]\d* events received from `, out)
		}
	}

	// Live spans are of an hour that is not over. Copies of them, of the day before, are of hours that are.
	const old = "time < now() - INTERVAL 12 HOUR"
	const ended = "FROM spans WHERE kafka_topic = 'otlp.traces.v1' AND " + old
	require.Eventually(t, func() bool {
		out, err := shell("pulsegrid query --write \"INSERT INTO spans SELECT * REPLACE (time - INTERVAL 1 DAY AS time) FROM spans WHERE kafka_topic = 'otlp.traces.v1'\"")
		return err == nil && out == "" && query("SELECT count() "+ended) != "0"
	}, patience, time.Second, "live spans")
	now := time.Now().UTC()
	days := strings.NewReplacer("2026-10-01", now.AddDate(0, 0, -2).Format(time.DateOnly), "2026-10-08", now.Format(time.DateOnly))
	nothing, built := regexp.MustCompile(`(?m)^service_health_1m +\S+ +0 +[1-9]\d* +0 +0 +0 +-$`), false
	for _, command := range commandsOf(t, "aggregates.md") {
		out, err := step(days.Replace(command))
		require.NoError(t, err, command)
		if command == "pulsegrid job run aggregate" {
			require.Regexp(t, `(?m)^service_health_1m +\S+ +[1-9]\d* +0 +0 +0 +0 +-$`, out)
			built = true
		}
		if strings.HasSuffix(command, "--dry-run") && built {
			if !nothing.MatchString(out) { // an hour has ended since the first run
				_, err = step("pulsegrid job run aggregate")
				require.NoError(t, err)
				out, err = step(command)
				require.NoError(t, err)
			}
			require.Regexp(t, nothing, out, "a second run finds nothing to build")
		}
	}
	require.Equal(t, query("SELECT count() "+ended), query("SELECT sum(spans) FROM service_health_1m WHERE "+old))
	require.NotContains(t, query("SHOW TABLES"), "_staged_")

	// One of the numbers of the backfill's log records passes for a person, then the tenant of the backfill leaves. ClickHouse may keep the files of before for longer than a test may wait, and then
	// nothing is declared (cmd/pulsegrid, TestAnErasureLeavesNothingOfATenant, waits).
	declared := false
	person := query("SELECT min(attributes_int['n']) FROM logs WHERE kafka_topic LIKE 'backfill.%' AND mapContains(attributes_int, 'n')")
	require.NoError(t, os.WriteFile(filepath.Join(home, "ids.txt"), []byte(person+"\n"), 0o600))
	numbered := func(which string) string {
		return query("SELECT count() FROM logs WHERE kafka_topic LIKE 'backfill.%' AND mapContains(attributes_int, 'n') AND attributes_int['n'] " + which)
	}
	others := numbered("!= " + person)
	require.NotEqual(t, "0", numbered("= "+person))
	for _, command := range commandsOf(t, "erasure.md") {
		runs := strings.Contains(command, "run erasure") && strings.Contains(command, "--declare")
		if runs {
			command += " --wait 1s"
		}
		if strings.Contains(command, "--erased") && !declared {
			continue
		}
		// The worker is at home elsewhere.
		out, err := step(strings.NewReplacer("--declare ", "--declare "+home+"/", " user.id ", " n ").Replace(command))
		declared = declared || runs && err == nil
		if err != nil {
			require.Contains(t, out, "has not removed", command)
		}
		if runs && strings.Contains(command, "--attribute") {
			require.Equal(t, []string{"0", others}, []string{numbered("= " + person), numbered("!= " + person)})
		}
	}
	require.Equal(t, "0", query("SELECT count() FROM logs WHERE kafka_topic LIKE 'backfill.%'"))
	require.Equal(t, "0", query("SELECT count() FROM quarantine_pii WHERE kafka_topic LIKE 'backfill.%'"))
	require.NotEqual(t, "0", query("SELECT count() FROM metrics"))
}
