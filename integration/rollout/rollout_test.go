// Package rollout tests rollouts of schemas as an operator runs them: the built programs, two cells whose gateways follow a registry each, Apache Kafka, and traffic that
// changes while a rollout is under way.
package rollout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/rehearsal"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	os.Exit(m.Run())
}

const (
	patience        = 3 * time.Minute
	currentSchemas  = "groups: [{id: event.order, type: event, name: order.placed, attributes: [{id: amount, type: int}]}]\n"
	proposedSchemas = "groups: [{id: event.order, type: event, name: order.placed, attributes: [{id: amount, type: int, requirement_level: required}]}]\n"
	requestEvents   = 50
)

// cells are two, named as in the plan; each has one gateway and a sender.
type cells struct {
	*rig.Rig
	t                 *testing.T
	dir               string
	page              string // the runbook
	planned           string // the plan, without the times of stages
	current, proposed string // versions
	senders           [2]*sender
}

// sender sends a tenant's orders to a gateway: one of each request has a text for an amount, which no version takes.
type sender struct {
	url      string
	lacking  atomic.Bool // half of the orders have no amount
	failed   atomic.Value
	mu       sync.Mutex // a request and its counts
	requests int64
	rejected int64 // but for the one of each request
	taken    int64 // without an amount
}

// counts are what gateways have said so far.
func (s *sender) counts() (rejected, taken int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rejected, s.taken
}

func (s *sender) run(stop <-chan struct{}) {
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		select {
		case <-stop:
			tick.Stop()
			return
		default:
			if err := s.send(); err != nil {
				s.failed.Store(err)
			}
		}
	}
}

func (s *sender) send() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	req, lacking := plogotlp.NewExportRequest(), 0
	records := req.Logs().ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	s.requests++
	for i := range requestEvents {
		lr := records.AppendEmpty()
		lr.SetEventName("order.placed")
		lr.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		lr.Body().SetStr(fmt.Sprintf("order %d of request %d to %s", i, s.requests, s.url))
		switch {
		case i == 0:
			lr.Attributes().PutStr("amount", "many")
		case i%2 == 0 && s.lacking.Load():
			lacking++
		default:
			lr.Attributes().PutInt("amount", int64(i))
		}
	}
	body, err := req.MarshalProto()
	if err != nil {
		return err
	}
	post, err := http.NewRequest(http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	post.Header.Set("Content-Type", "application/x-protobuf")
	post.Header.Set("x-pulsegrid-tenant", "acme")
	resp, err := http.DefaultClient.Do(post)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %w", resp.Status, answer, err)
	}
	got := plogotlp.NewExportResponse()
	if err := got.UnmarshalProto(answer); err != nil {
		return err
	}
	rejected := got.PartialSuccess().RejectedLogRecords()
	if rejected != 1 && rejected != int64(1+lacking) {
		return fmt.Errorf("%d of %d were rejected, of which %d have no amount: half of a version", rejected, requestEvents, lacking)
	}
	if s.rejected += rejected - 1; rejected == 1 {
		s.taken += int64(lacking)
	}
	return nil
}

func newCells(t *testing.T) *cells {
	t.Helper()
	page, err := os.ReadFile("../../docs/runbooks/rollout.md")
	require.NoError(t, err)
	c := &cells{t: t, dir: t.TempDir(), page: string(page)}
	overlay, err := filepath.Abs("testdata/gateway.yaml")
	require.NoError(t, err)
	c.Rig, err = rig.New(rig.Options{Dir: c.path("cell"), Gateways: 2, Env: map[string]string{"PULSEGRID_SCHEMA_MODE": "enforce"}, GatewayConfigs: []string{overlay}})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		if t.Failed() {
			for _, g := range c.Gateways {
				t.Logf("%s:\n%s", g.Name, g.Log()[max(0, len(g.Log())-4<<10):])
			}
		}
	})
	c.write("proposed/orders.yaml", proposedSchemas)
	c.planned = "proposed: proposed/\nlatency_growth: 1m\nmin_events: 100\ncells:\n"
	for i, g := range c.Gateways {
		c.write(fmt.Sprintf("cell%d/orders.yaml", i), currentSchemas)
		c.planned += fmt.Sprintf("  - {name: cell%d, registry: cell%d, gateways: [%q], rehearsed: rehearsed.json}\n", i, i, g.MetricsURL())
		g.Arm("PULSEGRID_SCHEMAS", c.path(fmt.Sprintf("cell%d", i)))
		require.NoError(t, g.Start(patience))
	}
	out, _, _ := c.pulsegrid("schema", "diff", "cell0", "proposed", "--json")
	var diff struct{ Old, New string }
	require.NoError(t, json.Unmarshal([]byte(out), &diff), out)
	c.current, c.proposed = diff.Old, diff.New
	report, err := json.Marshal(rehearsal.Report{ // of a time when all orders had amounts
		Events: 1000, Current: rehearsal.Registry{Version: c.current}, Proposed: rehearsal.Registry{Version: c.proposed},
	})
	require.NoError(t, err)
	c.write("rehearsed.json", string(report))
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for i := range c.senders {
		c.senders[i] = &sender{url: "http://" + c.Gateways[i].HTTP + "/v1/logs"}
		senders.Go(func() { c.senders[i].run(stop) })
	}
	t.Cleanup(func() {
		close(stop)
		senders.Wait()
		for _, s := range c.senders {
			require.Nil(t, s.failed.Load())
		}
	})
	return c
}

func (c *cells) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cells) write(name, content string) {
	c.t.Helper()
	require.NoError(c.t, os.MkdirAll(filepath.Dir(c.path(name)), 0o755))
	require.NoError(c.t, os.WriteFile(c.path(name), []byte(content), 0o644))
}

// plan writes the plan, whose stages last so long.
func (c *cells) plan(warn, enforce time.Duration) {
	c.t.Helper()
	c.write("plan.yaml", fmt.Sprintf("warn_for: %v\nenforce_for: %v\n%s", warn, enforce, c.planned))
}

// pulsegrid runs the operator's command.
func (c *cells) pulsegrid(args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(rig.Root(), "_build", "pulsegrid"), args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, &out, &errs
	err := cmd.Run()
	c.t.Logf("pulsegrid %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// runbook runs a command of the runbook, and more.
func (c *cells) runbook(command string, more ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	require.Contains(c.t, c.page, "    pulsegrid "+command+"\n")
	return c.pulsegrid(append(strings.Fields(command), more...)...)
}

// stage of a cell's registry; empty: no rollout.
func (c *cells) state(cell int) (s schema.Rollout) {
	content, err := os.ReadFile(c.path(fmt.Sprintf("cell%d/%s", cell, schema.RolloutFile)))
	if os.IsNotExist(err) {
		return schema.Rollout{}
	}
	require.NoError(c.t, err)
	s, err = schema.ParseRollout(content)
	require.NoError(c.t, err)
	return s
}

// when calls f once a cell is in a stage.
func (c *cells) when(cell int, stage schema.Stage, f func()) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			content, err := os.ReadFile(c.path(fmt.Sprintf("cell%d/%s", cell, schema.RolloutFile)))
			if s, parseErr := schema.ParseRollout(content); err == nil && parseErr == nil && s.Stage == stage {
				f()
				return
			}
		}
	}()
	return func() { <-done }
}

const rules = `version: 1
rules:
  - {name: the rollout was rolled back, when: {tenant: acme, schema: event.order}}
`

// Scenario: a version that asks orders for an amount. The rehearsal saw none without; then some begin to lack it, once while the version warns, once while it is enforced. A
// third rollout finds all orders as they must be, and is rolled back after its end.
// Guarantees: the first two are rolled back, and name tenant, code and figures. Warning quarantines nothing; what enforcing has quarantined is repaired, once. The third goes
// through both cells; then the version is enforced, and after the rollback it is not. At each moment a gateway enforces one version or the other, as the answers to its
// senders show. What byTemporal says.
func TestARolloutGoesThroughCellsAndBack(t *testing.T) {
	c := newCells(t)
	first := c.senders[0]
	c.plan(6*time.Second, time.Minute) // until then senders have begun to lack amounts, however busy the machine is; a stage that is rolled back ends at once
	out, errs, code := c.runbook("job run rollout --plan plan.yaml --dry-run")
	require.Zero(t, code, errs)
	require.Contains(t, out, "cell cell1: version "+c.current+" is in force, "+c.proposed+" proposed: 1 changes, 1 of them breaking; rehearsed with 1000 events")

	wait := c.when(0, schema.StageWarn, func() { first.lacking.Store(true) })
	_, errs, code = c.runbook("job run rollout --plan plan.yaml")
	wait()
	require.Equal(t, 1, code)
	require.Regexp(t, `cell cell0: rolled back from stage warn: version `+c.proposed+` refuses \d+ of \d+ events of tenant acme \(\d+\.\d\d%\), attribute_missing, more than 1%; nothing was quarantined by it`, errs)
	require.Equal(t, schema.Rollout{Current: c.current}, c.state(0))
	first.lacking.Store(false)
	rejected, taken := first.counts()
	require.Zero(t, rejected, "but for one of each request, as before")
	require.Positive(t, taken)

	wait = c.when(0, schema.StageEnforce, func() { first.lacking.Store(true) })
	_, errs, code = c.runbook("job run rollout --plan plan.yaml")
	wait()
	require.Equal(t, 1, code)
	require.Regexp(t, `cell cell0: rolled back from stage enforce: version `+c.proposed+` refuses \d+ of \d+ events of tenant acme .*, attribute_missing, more than 1%; what was quarantined meanwhile can be repaired`, errs)
	require.Equal(t, schema.Rollout{Current: c.current}, c.state(0))
	require.Equal(t, schema.Rollout{}, c.state(1), "the next cell was not begun")
	first.lacking.Store(false)
	quarantined, _ := first.counts()
	require.Positive(t, quarantined)

	c.write("rules.yaml", rules)
	require.NoError(t, os.Symlink("cell0", c.path("schemas")))
	var report struct {
		Valid   int64          `json:"events_repaired"`
		Done    int64          `json:"events_done"`
		Invalid map[string]int `json:"events_invalid"`
		Records int            `json:"records_sent"`
	}
	for _, want := range []struct {
		command       string
		valid, resent bool
	}{
		{"quarantine repair rules.yaml --schemas schemas/", true, false}, {"quarantine repair rules.yaml --schemas schemas/ --apply", true, true},
		{"quarantine repair rules.yaml --schemas schemas/ --apply", false, false},
	} {
		out, errs, code = c.runbook(want.command, "--brokers", strings.Join(c.Kafka.Brokers(), ","), "--json")
		require.Zero(t, code, errs)
		report.Valid, report.Done, report.Records = 0, 0, 0
		require.NoError(t, json.Unmarshal([]byte(out), &report), out)
		if want.valid {
			require.Equal(t, quarantined, report.Valid)
		} else {
			require.Equal(t, []int64{0, quarantined}, []int64{report.Valid, report.Done})
		}
		require.Equal(t, want.resent, report.Records > 0)
	}

	c.plan(3*time.Second, 3*time.Second)
	out, errs, code = c.runbook("job run rollout --plan plan.yaml", "--yes")
	require.Zero(t, code, errs)
	for i := range 2 {
		require.Equal(t, schema.StageDone, c.state(i).Stage)
		require.Contains(t, out, fmt.Sprintf("cell cell%d: stage enforce has passed: ", i))
	}
	c.lack(true, "the version is enforced")
	_, errs, code = c.runbook("job run rollout --plan plan.yaml --rollback")
	require.Zero(t, code, errs)
	c.lack(false, "it is rolled back")
	c.byTemporal()
}

// byTemporal: a rollout of one cell is handed to Temporal. To enforce the version is approved; then orders begin to lack an amount. The version warns, and no more, until
// somebody has approved what the stage has seen; then it is enforced, and rolled back by its budget. The job ends as rejected with the figures, and does not begin anew.
func (c *cells) byTemporal() {
	t := c.t
	t.Helper()
	server, address, err := rig.NewTemporal(c.path("temporal.db"))
	require.NoError(t, err)
	metrics := rig.FreeAddr()
	worker := rig.NewProcess(nil, []string{metrics}, filepath.Join(rig.Root(), "_build", "pulsegrid"), "job", "worker", "--temporal-address", address, "--metrics", metrics,
		"--config", filepath.Join(rig.Root(), "distributions", "local", "aggregator.yaml"))
	require.NoError(t, server.Start(patience))
	require.NoError(t, worker.Start(patience))
	t.Cleanup(func() {
		worker.Stop(patience)
		server.Stop(patience)
		if t.Failed() {
			t.Logf("worker:\n%s", worker.Log())
		}
	})
	// The worker is at home elsewhere.
	c.write("one.yaml", fmt.Sprintf("proposed: %q\nwarn_for: 2s\nenforce_for: 2s\nlatency_growth: 2s\nmin_events: 200\ncells: [{name: cell0, registry: %q, gateways: [%q], rehearsed: %q}]\n",
		c.path("proposed"), c.path("cell0"), c.Gateways[0].MetricsURL(), c.path("rehearsed.json")))
	at := []string{"--temporal-address", address}
	_, errs, code := c.runbook("job start rollout --plan plan.yaml", append(at, "--plan", c.path("one.yaml"))...)
	require.Zero(t, code, errs)
	until := func(state string) (out string) {
		t.Helper()
		require.Eventually(t, func() bool {
			out, _, code = c.runbook("job show rollout", at...)
			return code == 0 && strings.HasPrefix(out, "job rollout: "+state+"\n")
		}, patience, 200*time.Millisecond, state)
		return out
	}
	require.Regexp(t, `cell cell0: stage warn has passed: (?s:.*)to enforce the version waits for an approval`, until("waits_for_approval"))
	require.Equal(t, schema.StageWarn, c.state(0).Stage)
	wait := c.when(0, schema.StageEnforce, func() { c.senders[0].lacking.Store(true) })
	_, errs, code = c.runbook("job approve rollout", append(at, "--by", "anna")...)
	require.Zero(t, code, errs)
	out := until("rejected")
	wait()
	c.senders[0].lacking.Store(false)
	require.Regexp(t, `cell cell0: rolled back from stage enforce: version `+c.proposed+` refuses \d+ of \d+ events of tenant acme `, out)
	require.Contains(t, out, "approved by anna")
	require.Equal(t, schema.Rollout{Current: c.current}, c.state(0))
}

// lack has both senders leave amounts out until the gateways reject, or take, what lacks one.
func (c *cells) lack(reject bool, why string) {
	c.t.Helper()
	for _, s := range c.senders {
		s.lacking.Store(true)
		rejected, taken := s.counts()
		require.Eventually(c.t, func() bool {
			r, t := s.counts()
			return reject && r > rejected || !reject && t > taken
		}, patience, 50*time.Millisecond, why)
	}
	for _, s := range c.senders {
		s.lacking.Store(false)
	}
}
