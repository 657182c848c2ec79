// Package observability_test holds the rules, the dashboards and the runbooks of alerts against a running cell: the built programs, as `pulsegrid local` runs them.
package observability_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/testkit/runbook"
	"github.com/pulsegrid/pulsegrid/observability"
)

const (
	starts   = 5 * time.Minute
	stopping = 2 * time.Minute
	patience = 5 * time.Minute // on a machine that does much else
)

// running is `pulsegrid local` whose own telemetry flows through it.
type running struct {
	t     *testing.T
	shell rig.Shell
	local *rig.Process
}

func start(t *testing.T) running {
	t.Helper()
	c := running{t: t, shell: rig.Shell{Dir: t.TempDir()}}
	program := filepath.Join(rig.Root(), "_build", "pulsegrid")
	c.local = rig.NewProcess(nil, nil, program, "local", "--data", filepath.Join(c.shell.Dir, "pulsegrid-data"), "--grpc", rig.FreeAddr(), "--http", rig.FreeAddr())
	require.NoError(t, c.local.Start(starts))
	stopAfter(t, c.local)
	require.Eventually(t, func() bool {
		out, err := c.shell.Run("pulsegrid query --format TabSeparated 'SELECT min(n) FROM (SELECT count() AS n FROM logs UNION ALL SELECT count() FROM metrics)'")
		return err == nil && strings.TrimSpace(out) != "0"
	}, patience, time.Second, "live logs and metrics")
	return c
}

// series of a scrape, by name: the labels of each.
func (c running) scrape() map[string][]map[string]string {
	c.t.Helper()
	e := c.state().Endpoints
	series := map[string][]map[string]string{}
	for _, url := range []string{e.GatewayMetrics, e.AggregatorMetrics} {
		resp, err := http.Get(url)
		require.NoError(c.t, err)
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // read whole
		require.NoError(c.t, err)
		for _, m := range regexp.MustCompile(`(?m)^(otelcol_\w+)(?:\{(.*)\})? \S+$`).FindAllStringSubmatch(string(text), -1) {
			labels := map[string]string{}
			for _, l := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
				labels[l[1]] = l[2]
			}
			series[m[1]] = append(series[m[1]], labels)
		}
	}
	return series
}

// One cell is enough for these: they do not look at what the others leave behind.
func TestARunningCellIsMeasured(t *testing.T) {
	c := start(t)
	t.Run("the rules fit", func(t *testing.T) { running{t, c.shell, c.local}.theRules() })
	t.Run("the probe counts", func(t *testing.T) { running{t, c.shell, c.local}.theProbe() })
}

// Scenario: a cell at work is scraped.
// Guarantees: the series that the SLOs' rules are made of are there, by the names and labels that the rules use. Of every other series of a rule that is there, the labels are.
func (c running) theRules() {
	// The lake commits after seconds, and only then is its freshness measured.
	var scraped map[string][]map[string]string
	require.Eventually(c.t, func() bool {
		scraped = c.scrape()
		return slices.ContainsFunc(scraped["otelcol_msk_receiver_received_to_delivered_count"], func(l map[string]string) bool { return l["group"] == "pulsegrid-lake" })
	}, patience, time.Second, "rows in the lake")
	require.Greater(c.t, c.rulesFit(scraped, "otelcol_"), 50)
}

// rulesFit holds the rules' series whose names have a prefix against those of a scrape, and returns how many it has seen.
func (c running) rulesFit(scraped map[string][]map[string]string, prefix string) (seen int) {
	c.t.Helper()
	metrics, err := observability.Declared(os.DirFS(rig.Root()))
	require.NoError(c.t, err)
	content, err := os.ReadFile(filepath.Join(rig.Root(), "observability", "slo.yaml"))
	require.NoError(c.t, err)
	slos, err := observability.Parse(content, metrics)
	require.NoError(c.t, err)
	files, err := slos.Rules()
	require.NoError(c.t, err)
	byHand, err := filepath.Glob(filepath.Join(rig.Root(), "observability", "alerts", "*.yaml"))
	require.NoError(c.t, err)
	for _, file := range byHand {
		files[file], err = os.ReadFile(file)
		require.NoError(c.t, err)
	}
	for file, text := range files {
		rules, err := observability.ParseRules(file, text)
		require.NoError(c.t, err)
		for _, r := range rules {
			for _, s := range observability.Selectors(r.Expr) {
				if !strings.HasPrefix(s.Name, prefix) {
					continue
				}
				there := scraped[s.Name]
				if r.Record == "slo:total:rate5m" || r.Record == "slo:bad:rate5m" {
					if strings.Contains(s.Labels["group"], "quarantine") { // nothing is in quarantine
						continue
					}
					require.True(c.t, slices.ContainsFunc(there, func(labels map[string]string) bool {
						for name, value := range s.Labels {
							if !regexp.MustCompile(`^(?:` + strings.ReplaceAll(value, `\\`, `\`) + `)$`).MatchString(labels[name]) {
								return false
							}
						}
						return true
					}), "%s: no series %s%v among %v", file, s.Name, s.Labels, there)
				}
				for _, labels := range there {
					seen++
					for name := range s.Labels {
						require.Contains(c.t, labels, name, "%s: %s", file, s.Name)
					}
				}
			}
		}
	}
	return seen
}

// Scenario: the commands of the pages that the index of the runbooks leads to from an alert, on a healthy cell.
// Guarantees: each does what its page says of it: it ends with status 0.
func TestTheAlertsRunbooksOnARunningCell(t *testing.T) {
	c := start(t)
	index, err := rig.Runbook("README.md")
	require.NoError(t, err)
	var commands []string
	for _, m := range regexp.MustCompile("(?m)^\\| `\\w+` \\|.*\\]\\((\\w+\\.md)#").FindAllStringSubmatch(index, -1) {
		page, err := rig.Runbook(m[1])
		require.NoError(t, err)
		for _, command := range runbook.Commands(page) {
			ofSeveral := strings.HasPrefix(command, "pulsegrid cell ") // a list of cells, which cmd/pulsegrid's tests of cells have
			if !ofSeveral && !slices.Contains(commands, command) {
				commands = append(commands, command)
			}
		}
	}
	require.Greater(t, len(commands), 15)

	// What the commands are about.
	for name, distribution := range map[string]string{"gateway.yaml": "gateway/config.yaml", "aggregator.yaml": "aggregator/config.yaml"} {
		text, err := os.ReadFile(filepath.Join(rig.Root(), "distributions", distribution))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(c.shell.Dir, name), text, 0o644))
	}
	require.NoError(t, os.Mkdir(filepath.Join(c.shell.Dir, "tenants"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(c.shell.Dir, "tenants", "acme.yaml"), []byte("tenants: [{id: acme}]\n"), 0o644))
	// A backtest runs the query of each bucket.
	require.NoError(t, os.WriteFile(filepath.Join(c.shell.Dir, "rules.yaml"), []byte("groups: [{name: all, tenant: '*', interval: 10m, stale_after: 1h, rules: [{alert: Any, window: 10m, sql: SELECT count() AS value FROM logs_10s}]}]\n"), 0o644))
	stored, err := c.shell.Run("pulsegrid query --format TabSeparated \"SELECT concat(kafka_topic, '/', kafka_partition, '/', min(kafka_offset), '-', max(kafka_offset)) FROM metrics GROUP BY kafka_topic, kafka_partition LIMIT 1\"")
	require.NoError(t, err, stored)

	for _, command := range commands {
		// The lake may be a commit behind.
		var out string
		require.Eventually(t, func() bool {
			out, err = c.shell.Run(strings.ReplaceAll(command, "otlp.logs.v1/3/120000-129999", strings.TrimSpace(stored)))
			return err == nil
		}, patience, time.Second, "%s", command)
		t.Logf("%s\n%s", command, out)
	}
	verdict, err := os.ReadFile(filepath.Join(c.shell.Dir, "pulsegrid.prom"))
	require.NoError(t, err)
	require.Contains(t, string(verdict), "pulsegrid_audit{verdict=\"equal\"} 1\n")
}
