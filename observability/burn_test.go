package observability_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/observability"
)

// phase of a scenario: for so long the budget burns so many times too fast.
type phase struct {
	burn float64
	long time.Duration
}

// clean is more than the longest window, so that nothing is divided by a window that is not full.
var clean = phase{0, 73 * time.Hour}

// Scenario: in each of seven cells each SLO's budget burns at a rate of that cell's own for some time, after three clean days.
// Guarantees: exactly the windows trip that Google's workbook says: a fast burn pages within the hour and no other window knows yet, a slow one opens a ticket, one
// within the budget nothing; and what has stopped burning is silent though the long window still has it.
func TestABurnTripsTheRightWindowsAndNoOthers(t *testing.T) {
	const every, evaluated = 2 * time.Minute, 10 * time.Minute
	slos := withAlerts(t)
	var series, asked bytes.Buffer
	for cell, c := range map[string]struct {
		phases []phase
		trips  map[time.Duration][]string // windows, by the time since the clean days
	}{
		"none":      {nil, map[time.Duration][]string{5 * time.Hour: nil}},
		"within":    {[]phase{{0.9, 74 * time.Hour}}, map[time.Duration][]string{24 * time.Hour: nil, 74 * time.Hour: nil}},
		"very-fast": {[]phase{{19.9, 2 * time.Hour}}, map[time.Duration][]string{40 * time.Minute: nil, 50 * time.Minute: {"1h"}, 2 * time.Hour: {"1h", "6h"}}},
		"fast":      {[]phase{{8, 6 * time.Hour}}, map[time.Duration][]string{4 * time.Hour: nil, 5 * time.Hour: {"6h"}}},
		"slow":      {[]phase{{4, 20 * time.Hour}}, map[time.Duration][]string{17 * time.Hour: nil, 19 * time.Hour: {"1d", "3d"}}},
		"very-slow": {[]phase{{1.5, 52 * time.Hour}}, map[time.Duration][]string{47 * time.Hour: nil, 50 * time.Hour: {"3d"}}},
		"over":      {[]phase{{19.9, time.Hour}}, map[time.Duration][]string{time.Hour: {"1h"}, 70 * time.Minute: nil}},
	} {
		phases := append(append([]phase{clean}, c.phases...), phase{0, 74 * time.Hour})
		for _, s := range slos {
			const events = 100_000.0 // in each interval
			good, total, goods, totals := 0.0, 0.0, "", ""
			for _, p := range phases {
				n := int(p.long / every)
				step := events * (1 - p.burn*(100-s.Objective)/100)
				goods += fmt.Sprintf(" %f+%fx%d", good, step, n-1)
				totals += fmt.Sprintf(" %f+%fx%d", total, events, n-1)
				good, total = good+step*float64(n), total+events*float64(n)
			}
			labels := fmt.Sprintf("cell=%q", cell)
			for attribute, values := range s.SLI.Where {
				labels += fmt.Sprintf(",%s=%q", attribute, values[0])
			}
			fmt.Fprintf(&series, "      - {series: '%s_bucket{%s,le=\"%v\"}', values: \"%s\"}\n", s.SLI.Histogram, labels, s.SLI.Within, goods)
			if s.Name != "freshness-clickhouse-p99" { // of the same histogram as P95
				fmt.Fprintf(&series, "      - {series: '%s_count{%s}', values: \"%s\"}\n", s.SLI.Histogram, labels, totals)
			}
		}
		for since, windows := range c.trips {
			fmt.Fprintf(&asked, "      - expr: 'count by (slo, window) (ALERTS{alertstate=\"firing\",cell=%q})'\n        eval_time: %dm\n        exp_samples:\n", cell, int((clean.long + since).Minutes()))
			for _, s := range slos {
				for _, w := range windows {
					fmt.Fprintf(&asked, "          - {labels: '{slo=%q,window=%q}', value: 1}\n", s.Name, w)
				}
			}
		}
	}
	var files []string
	for _, s := range slos {
		file, err := filepath.Abs("rules/" + s.Name + ".yaml")
		require.NoError(t, err)
		files = append(files, file)
	}
	test := fmt.Sprintf("rule_files: [%s]\nevaluation_interval: %dm\ntests:\n  - interval: %dm\n    input_series:\n%s    promql_expr_test:\n%s",
		strings.Join(files, ", "), int(evaluated.Minutes()), int(every.Minutes()), series.String(), asked.String())
	path := filepath.Join(t.TempDir(), "burns.yaml")
	require.NoError(t, os.WriteFile(path, []byte(test), 0o644))
	promtool(t, "test", "rules", path)
}

// withAlerts are the SLOs that have burn-rate alerts.
func withAlerts(t *testing.T) (out []observability.SLO) {
	t.Helper()
	for _, s := range parse(t).SLOs {
		if s.Alert != "" {
			out = append(out, s)
		}
	}
	require.NotEmpty(t, out)
	return out
}
