package observability_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/load"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
)

// Of TestFromEventToAlertBesideLiveLoad. The defaults are those of `make test`, in which little is measured; `make test-alerts` has the others.
var (
	alertSamples = flag.Int("samples", 4, "events whose alert is timed")
	alertRate    = flag.Int("rate", 500, "events a second of live load")
	alertCalm    = flag.Duration("calm", 5*time.Second, "how long that load runs without rules, before events are sent")
	alertSeed    = flag.Uint64("seed", 0, "of every random choice; 0: a new one")
	alertJudge   = flag.Bool("judge", false, "fail where an alert is late, or the cell does not keep up with the load")
	alertResults = flag.String("results", "", "file to which a run adds a line of JSON")
)

const (
	betweenEvents = 3 * time.Second // at most; a time at random, so that events are at any place of a bucket
	keptUp        = 0.95            // of the live load must be acknowledged in time, or the figures are of another load
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	m.Run()
}

// webhook has Alertmanager tell of each alert by itself, at once.
const webhook = `route: {receiver: hook, group_by: ["..."], group_wait: 0s, group_interval: 5s, repeat_interval: 4h}
receivers: [{name: hook, webhook_configs: [{url: "%s", send_resolved: false}]}]
`

// Scenario: a cell under live load; an evaluator with the rules that come with it and one more, a real Alertmanager, and a webhook behind it. Events that the one rule is about are sent at
// random times, each of a service of its own.
// Guarantees: each event's alert arrives. Where it is judged, 99 of 100 do within 30 s of the sending, and the cell keeps up with the load.
func TestFromEventToAlertBesideLiveLoad(t *testing.T) {
	o := outcome.Alerts{Seed: *alertSeed, Samples: *alertSamples, Asked: *alertRate, Cores: runtime.NumCPU()}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	t.Logf("seed %d", o.Seed)
	began := time.Now()
	defer func() {
		o.Seconds = time.Since(began).Seconds()
		reportAlerts(t, o)
	}()
	dir := t.TempDir()
	cell, err := rig.New(rig.Options{Dir: filepath.Join(dir, "cell")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cell.Close()) })
	require.NoError(t, cell.Start())
	shell, leave, err := cell.Operator(dir)
	require.NoError(t, err)
	t.Cleanup(leave)
	fleet := agents.Start(agents.Options{Service: "live", Seed: o.Seed, Gateways: []string{cell.HTTP}, Rate: o.Asked, Timeout: time.Minute})
	t.Cleanup(func() {
		_, err := fleet.Stop()
		require.NoError(t, err)
	})
	time.Sleep(*alertCalm) // parts that have just started are slow
	calm := use(t, cell.ClickHouse.PID())
	time.Sleep(*alertCalm)
	o.ClickHouse[0] = calm.share(use(t, cell.ClickHouse.PID()))

	peer := receive(t)
	config := filepath.Join(dir, "alertmanager.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, webhook, peer.URL+hookPath), 0o600))
	alertmanager, err := rig.StartAlertmanager(config, filepath.Join(dir, "alertmanager"))
	require.NoError(t, err)
	stopAfter(t, alertmanager.Process)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "rules"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rules", "declined.yaml"), []byte(declined), 0o600))
	out, err := shell.Run("pulsegrid alerts check --print > rules/shipped.yaml && pulsegrid alerts check rules")
	require.NoError(t, err, out)
	_, err = fmt.Sscanf(out, "%d rules", &o.Rules)
	require.NoError(t, err, out)
	evaluator, _ := evaluate(t, dir, alertmanager.URL, "states.json", filepath.Join(dir, "rules"))
	decline(t, cell.HTTP, "first")
	require.Eventually(t, func() bool { return len(peer.of("Declined", "first")) > 0 }, patience, 50*time.Millisecond, "the first alert")

	rng := rand.New(rand.NewPCG(o.Seed, 1))
	sent := map[string]time.Time{}
	clickHouse, own, acked, at := use(t, cell.ClickHouse.PID()), use(t, evaluator.PID()), fleet.Acked(), time.Now()
	for n := range o.Samples {
		time.Sleep(time.Duration(rng.Int64N(int64(betweenEvents))))
		service := fmt.Sprintf("sample%d", n)
		sent[service] = decline(t, cell.HTTP, service)
	}
	o.Done = int(float64(fleet.Acked()-acked) / time.Since(at).Seconds())
	o.ClickHouse[1], o.Evaluator = clickHouse.share(use(t, cell.ClickHouse.PID())), own.share(use(t, evaluator.PID()))
	newest, err := load.NewestAge(cell, "live")
	require.NoError(t, err)
	o.Newest = newest.Seconds()

	var took []float64
	for service, when := range sent {
		require.Eventually(t, func() bool { return len(peer.of("Declined", service)) > 0 }, patience, 50*time.Millisecond, "the alert of %s", service)
		took = append(took, peer.of("Declined", service)[0].came.Sub(when).Seconds())
	}
	slices.Sort(took)
	o.Took = [4]float64{load.Quantile(took, 0.5), load.Quantile(took, 0.95), load.Quantile(took, 0.99), took[len(took)-1]}
	if *alertJudge {
		require.Less(t, o.Took[2], latencyAim.Seconds())
		require.Greater(t, float64(o.Done), keptUp*float64(o.Asked), "events a second of the live load")
	}
	o.Passed = true
}

// used is the CPU that a process has used until a time.
type used struct {
	at  time.Time
	cpu time.Duration
}

func use(t *testing.T, pid int) used {
	t.Helper()
	u, err := rig.UsageOf(pid)
	require.NoError(t, err)
	return used{time.Now(), u.CPU}
}

// share of the machine's CPU until later.
func (u used) share(later used) float64 {
	return (later.cpu - u.cpu).Seconds() / later.at.Sub(u.at).Seconds() / float64(runtime.NumCPU())
}

func reportAlerts(t *testing.T, o outcome.Alerts) {
	t.Helper()
	text, err := json.Marshal(o)
	require.NoError(t, err)
	t.Logf("from event to webhook: P50 %.1f s, P95 %.1f s, P99 %.1f s; ClickHouse %.0f %% of the CPU without rules, %.0f %% with them\n%s", o.Took[0], o.Took[1], o.Took[2],
		100*o.ClickHouse[0], 100*o.ClickHouse[1], strings.TrimSpace(string(text)))
	if *alertResults == "" {
		return
	}
	f, err := os.OpenFile(*alertResults, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	_, err = f.Write(append(text, '\n'))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}
