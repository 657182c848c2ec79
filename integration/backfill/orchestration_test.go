package backfill_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

// sayEvery is how often a job that takes long tells how far it is.
const sayEvery = 20 * time.Second

// temporal is a Temporal server, and a worker of the bench's stores.
type temporal struct {
	*bench
	address        string
	spill          string // directory of the gateways' spill
	metrics        string // of the worker
	server, worker *rig.Process
	every          time.Duration       // between two looks at a job
	asks           func(pid int) error // what becomes of a program that looks, once it is started; nil: nothing
	within         time.Duration       // a job must come to something
}

func startTemporal(b *bench) *temporal {
	b.t.Helper()
	server, address, err := rig.NewTemporal(filepath.Join(b.dir, "temporal.db"))
	require.NoError(b.t, err)
	t := &temporal{bench: b, server: server, address: address, spill: filepath.Join(b.dir, "spill"), every: 200 * time.Millisecond, within: 2 * patience}
	gateway := filepath.Join(b.dir, "gateway.yaml")
	require.NoError(b.t, os.MkdirAll(t.spill, 0o700))
	require.NoError(b.t, os.WriteFile(gateway, []byte("processors: {schema_validation: {}}\nexporters: {msk: {brokers: [127.0.0.1:9092], spill: {url: \"file://"+t.spill+"\"}}}\n"), 0o600))
	t.metrics = rig.FreeAddr()
	t.worker = rig.NewProcess(b.stores, []string{t.metrics}, program, "job", "worker", "--config", b.config, "--gateway", gateway, "--temporal-address", t.address, "--metrics", t.metrics)
	require.NoError(b.t, t.server.Start(localStarts))
	require.NoError(b.t, t.worker.Start(localStarts))
	b.t.Cleanup(func() {
		t.worker.Stop(localStopping)
		t.server.Stop(localStopping)
		if b.t.Failed() {
			b.t.Logf("worker:\n%s\nserver:\n%s", t.worker.Log(), t.server.Log())
		}
	})
	return t
}

// ask runs `pulsegrid job`, and returns what it prints and its exit code.
func (t *temporal) ask(args ...string) (answer []byte, said string, code int) {
	t.t.Helper()
	cmd := exec.Command(program, append([]string{"job"}, args...)...)
	cmd.Env = append(os.Environ(), "TEMPORAL_ADDRESS="+t.address)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t.t, cmd.Start())
	if t.asks != nil {
		_ = t.asks(cmd.Process.Pid) // it may have ended
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.Bytes(), errs.String(), exit.ExitCode()
	}
	require.NoError(t.t, err)
	return out.Bytes(), "", 0
}

// start starts the backfill, and returns its id; started is false where it ran already.
func (t *temporal) start(args ...string) (id string, started bool) {
	t.t.Helper()
	out, said, code := t.ask(slices.Concat([]string{"start", "backfill"}, t.request(), args)...)
	require.Zero(t.t, code, said)
	var r struct {
		ID      string
		Started bool
	}
	require.NoError(t.t, json.Unmarshal(out, &r), "%s", out)
	return r.ID, r.Started
}

// until polls the job until it is as it should be. The server and the worker may be away meanwhile. On a machine that starves them five attempts may fail: then this
// is the person who says that it is to try again.
func (t *temporal) until(id, what string, is func(orchestration.Job) bool) (j orchestration.Job) {
	t.t.Helper()
	said, deadline := time.Now(), time.Now().Add(t.within)
	for {
		out, errs, code := t.ask("show", id, "--json")
		j = orchestration.Job{}
		if code == 0 && json.Unmarshal(out, &j) == nil && is(j) {
			return j
		}
		if j.State == orchestration.StateWaitingForPerson {
			t.t.Logf("job %s: %s", id, out)
			_, _, _ = t.ask("retry", id) // if it fails, the next one may not
		}
		if p := j.Progress; p != nil && time.Since(said) > sayEvery {
			t.t.Logf("job %s: %d of %d objects, %d lines, %.0f lines/s %s %s", id, p.Objects, p.AllObjects, p.Lines, p.LinesPerSecond, p.Yields, p.Waiting)
			said = time.Now()
		}
		require.True(t.t, time.Now().Before(deadline), "job %s: %s: %s%s", id, what, out, errs)
		time.Sleep(t.every)
	}
}

func (t *temporal) ended(id string) orchestration.Job {
	t.t.Helper()
	return t.until(id, "ends", func(j orchestration.Job) bool { return !j.Ended.IsZero() && j.Detail != nil })
}

func (t *temporal) loading(id string) {
	t.t.Helper()
	t.until(id, "loads", func(j orchestration.Job) bool {
		require.Zero(t.t, j.Ended, "the job has ended already: give it more to load")
		return j.State == orchestration.StateLoading && j.Running
	})
}

// kill kills processes and starts them again.
func (t *temporal) kill(processes ...*rig.Process) {
	t.t.Helper()
	for _, p := range processes {
		p.Kill()
	}
	for _, p := range processes {
		require.NoError(t.t, p.Start(localStarts))
	}
}

// Scenario: a backfill is handed to Temporal, approved, and loaded. It is started again while it runs, and after it has ended; it is made to offer everything again, cancelled in the
// middle of that and started once more.
// Guarantees: nothing is planned before the approval; both stores have exactly the distinct good lines, and in quarantine exactly the malformed ones; nothing of what comes
// afterwards changes a row. A request that cannot be met fails with its reason. (TestABackfillBesideLiveLoad kills worker and server.) What standing and otherKinds say.
func TestAJobOfTemporalIsApprovedCancelledAndStartedAgain(t *testing.T) {
	store, _ := newBench(t, "--objects", "8", "--lines", "1000")
	store.stores["PULSEGRID_KAFKA_BROKERS"] = emptyKafka(t)
	b := startTemporal(store)

	id, started := b.start("--rate", "700", "--needs-approval")
	require.True(t, started)
	waits := b.until(id, "waits", func(j orchestration.Job) bool { return j.State == orchestration.StateWaitingForApproval })
	require.Equal(t, 8, waits.Detail.Plan.Objects)
	require.Equal(t, "acme", waits.Tenant)
	_, started = b.start("--rate", "700", "--needs-approval")
	require.False(t, started)
	_, said, code := b.ask(slices.Concat([]string{"start", "backfill"}, b.request())...)
	require.Equal(t, 1, code)
	require.Contains(t, said, "other flags")
	plans, err := filepath.Glob(filepath.Join(b.dir, "warehouse", "pulsegrid-jobs", "*"))
	require.NoError(t, err)
	require.Empty(t, plans)
	_, said, code = b.ask("approve", id, "--by", "anna")
	require.Zero(t, code, said)

	done := b.ended(id)
	require.Equal(t, orchestration.StateDone, done.State)
	require.Equal(t, "anna", done.Detail.Approved.By)
	require.True(t, done.Detail.Report.Done)
	require.Equal(t, b.truth.Lines, done.Detail.Report.Total.Lines)
	require.EqualValues(t, len(b.truth.Malformed), done.Detail.Report.Total.Quarantined)
	require.Zero(t, done.Detail.Report.Audit.Different)
	hot, lake := b.hot(), b.lake()
	b.holds("ClickHouse", hot)
	b.holds("lake", lake)
	require.Equal(t, hot.Ledger, lake.Ledger)

	again, started := b.start("--rate", "700")
	require.True(t, started)
	require.Equal(t, id, again)
	require.Equal(t, done.Detail.Report, b.ended(id).Detail.Report)

	b.start("--again", "--rate", "100")
	b.loading(id)
	_, said, code = b.ask("cancel", id)
	require.Zero(t, code, said)
	cancelled := b.ended(id)
	require.Equal(t, orchestration.StateCancelled, cancelled.State)
	require.Less(t, cancelled.Detail.Report.Total.Lines, b.truth.Lines)
	b.start("--rate", "0")
	require.Equal(t, done.Detail.Report, b.ended(id).Detail.Report)
	require.Equal(t, hot, b.hot())
	require.Equal(t, lake, b.lake())

	nowhere, _ := b.start("--objects", "file:///nowhere")
	failed := b.ended(nowhere)
	require.Equal(t, orchestration.StateFailed, failed.State)
	require.Contains(t, failed.LastError, "/nowhere")
	require.Eventually(t, func() bool { // lists lag behind
		out, _, code := b.ask("list", "--json")
		var jobs []orchestration.Summary
		return code == 0 && json.Unmarshal(out, &jobs) == nil && len(jobs) == 5 && jobs[0].ID == nowhere && jobs[0].State == orchestration.StateFailed
	}, patience, time.Second, "five jobs, the last of which has failed")

	b.standing()
	b.otherKinds()
}
