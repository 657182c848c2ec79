package backfill_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

// emptyKafka has the topics, no record, and the aggregators' groups, which have read all of them.
func emptyKafka(t *testing.T) (brokers string) {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	topics := []string{signal.QuarantineTopic}
	var read kadm.Offsets
	for _, s := range signal.All {
		topics = append(topics, s.Topic())
		read.Add(kadm.Offset{Topic: s.Topic(), Partition: 0, At: 0, LeaderEpoch: -1})
	}
	_, err = admin.CreateTopics(t.Context(), 1, 1, nil, topics...)
	require.NoError(t, err)
	for _, group := range []string{audit.DefaultHotGroup, audit.DefaultLakeGroup} {
		require.NoError(t, admin.CommitAllOffsets(t.Context(), group, read))
	}
	return k.ListenAddrs()[0]
}

// schedule runs `pulsegrid job schedule`, which must end with a code.
func (t *temporal) schedule(code int, args ...string) string {
	t.t.Helper()
	out, said, got := t.ask(append([]string{"schedule"}, args...)...)
	require.Equal(t.t, code, got, "%s%s", out, said)
	return string(out) + said
}

type listedStanding struct {
	orchestration.StandingState
	Late, Failed bool
}

// listed are the standing jobs, by name.
func (t *temporal) listed() map[string]listedStanding {
	t.t.Helper()
	out, _, _ := t.ask("schedule", "list", "--json")
	var list []listedStanding
	require.NoError(t.t, json.Unmarshal(out, &list), "%s", out)
	jobs := map[string]listedStanding{}
	for _, j := range list {
		jobs[j.Name] = j
	}
	return jobs
}

// Scenario: a file of standing jobs is applied; one of them is paused; another file is applied.
// Guarantees: a dry run changes nothing; a schedule fires, and its success is seen in the list and in the worker's metrics; applying again changes nothing; the paused job stays
// paused, and is told as late; what the file no longer has is gone.
func (t *temporal) standing() {
	t.t.Helper()
	file := filepath.Join(t.dir, "standing.yaml")
	const upkeep = "{name: upkeep, kind: upkeep, flags: {table: [logs, spans]}, every: 10s, late_after: 11s, owner: platform}"
	write := func(jobs ...string) {
		require.NoError(t.t, os.WriteFile(file, []byte("format: 1\njobs: ["+strings.Join(jobs, ", ")+"]\n"), 0o600))
	}
	write(upkeep, fmt.Sprintf("{name: audit, kind: audit, cron: 0 %d * * *, late_after: 20h, owner: platform}", (time.Now().UTC().Hour()+12)%24), // not while this test runs
		"{name: spill, kind: spill-check, every: 10s, late_after: 11s, owner: gateways}",
		"{name: quarantine, kind: expiry, flags: {keep: 720h}, every: 10s, late_after: 11s, owner: platform}")
	require.Contains(t.t, t.schedule(0, "apply", "--file", file, "--dry-run"), "create     audit")
	require.Empty(t.t, t.listed())
	require.Contains(t.t, t.schedule(0, "apply", "--file", file), "create     audit")
	require.NotRegexp(t.t, "create|update|delete", t.schedule(0, "apply", "--file", file))

	for _, name := range []string{"upkeep", "spill", "quarantine"} {
		require.Eventually(t.t, func() bool { return !t.listed()[name].LastSuccess.IsZero() }, patience, 500*time.Millisecond, "the schedule of %s fires", name)
	}
	require.Zero(t.t, t.listed()["audit"].LastRun)
	out, _, code := t.ask("list", "--standing", "--json")
	require.Zero(t.t, code)
	var runs []orchestration.Summary
	require.NoError(t.t, json.Unmarshal(out, &runs))
	require.NotEmpty(t.t, runs)
	require.Contains(t.t, runs[len(runs)-1].ID, "standing.")

	require.Contains(t.t, t.schedule(0, "pause", "upkeep", "--by", "anna"), "paused by anna")
	require.Contains(t.t, t.schedule(1, "pause", "nothing"), "no such standing job")
	series := []string{`pulsegrid_standing_job_late_after_seconds{job="audit",kind="audit",owner="platform"} 72000`,
		`pulsegrid_standing_job_last_success_age_seconds{job="spill",kind="spill-check",owner="gateways"} `}
	for _, kind := range []string{"upkeep", "spill-check", "expiry"} {
		series = append(series, `pulsegrid_job_attempts_total{kind="`+kind+`",result="done"} `)
	}
	for _, s := range series {
		require.Eventually(t.t, func() bool { return strings.Contains(t.scrape(), s) }, patience, time.Second, s) // Temporal may not answer in time
	}

	write(strings.Replace(upkeep, "[logs, spans]", "logs", 1))
	said := t.schedule(0, "apply", "--file", file)
	require.Contains(t.t, said, "update     upkeep")
	require.Contains(t.t, said, "delete     audit")
	require.Eventually(t.t, func() bool {
		jobs := t.listed()
		return len(jobs) == 1 && jobs["upkeep"].Paused && jobs["upkeep"].Late
	}, patience, 500*time.Millisecond, "a job that is paused gets late")
	require.Contains(t.t, t.schedule(1, "list"), "paused by anna")
}

func (t *temporal) scrape() string {
	t.t.Helper()
	req, err := http.NewRequestWithContext(t.t.Context(), http.MethodGet, "http://"+t.metrics+"/metrics", http.NoBody)
	require.NoError(t.t, err)
	answer, err := http.DefaultClient.Do(req)
	require.NoError(t.t, err)
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t.t, err)
	require.Equal(t.t, http.StatusOK, answer.StatusCode, "%s", text)
	return string(text)
}

// Scenario: each kind of job that is one command, but for a rollout (integration/rollout), is started once by Temporal; something lies in the gateways' spill; the worker is
// killed in the middle of an erasure.
// Guarantees: each comes to its end, with what its command printed, in the state that says what it found; nothing is erased before an approval, and all is after it, by
// another attempt; nothing is declared too early; an expiry waits for an approval too, and takes nothing that is young.
func (t *temporal) otherKinds() {
	t.t.Helper()
	begin := func(args ...string) (id string) {
		t.t.Helper()
		out, said, code := t.ask(slices.Concat([]string{"start"}, args, []string{"--json"})...)
		require.Zero(t.t, code, said)
		var r struct{ ID string }
		require.NoError(t.t, json.Unmarshal(out, &r))
		return r.ID
	}
	schemas := filepath.Join(t.dir, "schemas")
	require.NoError(t.t, os.MkdirAll(schemas, 0o700))
	require.NoError(t.t, os.WriteFile(filepath.Join(schemas, "none.yaml"), []byte("groups: []\n"), 0o600))
	require.NoError(t.t, os.MkdirAll(filepath.Join(t.spill, "bad"), 0o700))
	require.NoError(t.t, os.WriteFile(filepath.Join(t.spill, "bad", "x"), nil, 0o600))
	before := t.hot()
	for kind, c := range map[string]struct {
		args          []string
		state, prints string
	}{
		"upkeep":      {[]string{"--keep", "48h"}, orchestration.StateDone, `(?m)^logs +\d`},
		"aggregate":   {[]string{"--complete-through", "1h", "--model", "error_budget_1h"}, orchestration.StateDone, `(?m)^error_budget_1h `},
		"audit":       {nil, orchestration.StateDone, "equal: each event is in each store once"},
		"replay":      {nil, orchestration.StateDone, "0 events were missing in ClickHouse"},
		"rollups":     {nil, orchestration.StateDone, "the rollups are equal to the rows"},
		"rehearsal":   {[]string{"--current", schemas, "--proposed", schemas}, orchestration.StateIncomplete, `(?s)rows of backfills were left out.*nothing was rehearsed`},
		"spill-check": {nil, orchestration.StateDiffers, `set aside: bad/x\n1 objects lie under bad/`},
	} {
		j := t.ended(begin(append([]string{kind}, c.args...)...))
		require.Equal(t.t, c.state, j.State, "%s: %s %v", kind, j.LastError, j.Detail.Outcome)
		require.Regexp(t.t, c.prints, j.Detail.Outcome.Text)
	}

	lake := t.lake()
	id := begin("expiry")
	waits := t.until(id, "waits", func(j orchestration.Job) bool { return j.State == orchestration.StateWaitingForApproval })
	require.Regexp(t.t, `(?m)^quarantine_pii +0 +0 +0$`, waits.Detail.DryRun.Text)
	_, said, code := t.ask("approve", id, "--by", "anna")
	require.Zero(t.t, code, said)
	expired := t.ended(id)
	require.Equal(t.t, orchestration.StateDone, expired.State, expired.LastError)
	require.Regexp(t.t, `(?m)^quarantine_pii +0 +0 +0$`, expired.Detail.Outcome.Text)
	require.Equal(t.t, lake, t.lake(), "all of it is young")
	require.Equal(t.t, before, t.hot())

	declarations := filepath.Join(t.dir, "erasures.yaml")
	id = begin("erasure", "--tenant", "acme", "--id", "1", "--by", "anna", "--reason", "asked", "--declare", declarations, "--wait", "1s")
	waits = t.until(id, "waits", func(j orchestration.Job) bool { return j.State == orchestration.StateWaitingForApproval })
	require.Regexp(t.t, `(?m)^ClickHouse +metrics +[1-9]`, waits.Detail.DryRun.Text)
	require.Equal(t.t, before, t.hot())
	_, said, code = t.ask("approve", id, "--by", "ben")
	require.Zero(t.t, code, said)
	t.until(id, "runs", func(j orchestration.Job) bool { return j.State == orchestration.StateRunning && j.Running })
	t.worker.Kill()
	require.NoError(t.t, t.worker.Start(localStarts))
	// ClickHouse may keep the files of before for longer than a test may wait: until they are gone, an attempt fails, and nothing is declared (cmd/pulsegrid, TestAnErasureLeavesNothingOfATenant, waits).
	// The attempt that the worker was killed in is one more, or had just failed so itself.
	t.until(id, "is tried again", func(j orchestration.Job) bool {
		return j.State == orchestration.StateDone || j.Failures >= 2 && strings.Contains(j.LastError, "has not removed")
	})
	for _, left := range []content{t.hot(), t.lake()} {
		require.Empty(t.t, slices.Concat(left.Logs, left.Metrics, left.Spans))
		require.Empty(t.t, left.Quarantined)
	}
	if _, said, code = t.ask("cancel", id); code != 0 {
		require.Contains(t.t, said, "is in the state done")
	}
	done := t.ended(id)
	require.Equal(t.t, "ben", done.Detail.Approved.By)
	_, err := os.Stat(declarations)
	require.Equal(t.t, done.State == orchestration.StateDone, err == nil, "it is declared where it was done: %v", err)
}
