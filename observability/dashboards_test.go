package observability_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/runbook"
	"github.com/pulsegrid/pulsegrid/observability"
)

func dashboards(t *testing.T) []observability.Dashboard {
	t.Helper()
	all, err := observability.Dashboards(parse(t), allRules(t))
	require.NoError(t, err)
	return all
}

// grafana is a dashboard as Grafana reads it, as far as these tests ask.
type grafana struct {
	UID, Title string
	Panels     []grafanaPanel
	Templating struct {
		List []struct{ Name, Type string }
	}
}

type grafanaPanel struct {
	ID                       int
	Type, Title, Description string
	Links                    []struct{ URL string }
	FieldConfig              struct {
		Defaults struct {
			Unit       string
			Thresholds struct{ Steps []step }
		}
	}
	GridPos struct{ X, Y, W, H int }
}

type step struct {
	Value *float64
	Color string
}

func files(t *testing.T) map[string]grafana {
	t.Helper()
	out := map[string]grafana{}
	for _, d := range dashboards(t) {
		var g grafana
		require.NoError(t, json.Unmarshal([]byte(read(t, "dashboards/"+d.Name+".json")), &g))
		out[d.Name] = g
	}
	return out
}

// Guarantees: every panel says in one sentence what is wrong when it looks wrong, and has a title of its own and a unit. Links lead to pages that exist. No dashboard is long, and its panels do not lie on each other.
func TestEachPanelExplainsItself(t *testing.T) {
	readme := read(t, "dashboards/README.md")
	for name, d := range files(t) {
		require.Equal(t, "pulsegrid-"+name, d.UID)
		require.Contains(t, readme, "| [`"+name+"`]("+name+".json) |")
		titles, ids, taken := map[string]bool{}, map[int]bool{}, map[[2]int]string{}
		panels, row := 0, ""
		for _, p := range d.Panels {
			where := name + ": " + p.Title
			require.False(t, ids[p.ID], where)
			ids[p.ID] = true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				require.Less(t, x, 24, where)
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					require.Empty(t, taken[[2]int{x, y}], where)
					taken[[2]int{x, y}] = where
				}
			}
			if p.Type == "row" {
				row = p.Title
				continue
			}
			panels++
			require.False(t, titles[row+p.Title], "%s: is there twice", where)
			titles[row+p.Title] = true
			require.Regexp(t, `^[A-Za-z0-9].*\.$`, p.Description, where)
			require.NotRegexp(t, `\.\s+[A-Z]`, p.Description, "%s: one sentence", where)
			require.NotEmpty(t, p.FieldConfig.Defaults.Unit, where)
			for _, l := range p.Links {
				page, ok := strings.CutPrefix(l.URL, "${runbooks}/")
				require.True(t, ok, l.URL)
				page, anchor, _ := strings.Cut(page, "#")
				text := read(t, page)
				require.True(t, anchor == "" || runbook.Section(text, anchor) != "", "%s: %s", where, l.URL)
			}
		}
		require.LessOrEqual(t, panels, 24, name)
	}
}

// Guarantees: each alert has a panel that shows what it is about and links its runbook.
func TestEachAlertHasAPanel(t *testing.T) {
	metrics, rules := declared(t), allRules(t)
	about := map[string]map[string]bool{} // metrics, by the alert that a panel names
	for _, d := range dashboards(t) {
		for p := range d.Panels() {
			for _, alert := range p.Alerts {
				if about[alert] == nil {
					about[alert] = map[string]bool{}
				}
				for _, q := range p.Queries {
					for _, name := range metrics.Behind(rules)(observability.Expand(q.PromQL)) {
						about[alert][name] = true
					}
				}
			}
		}
	}
	for _, r := range rules {
		if r.Alert != "" {
			require.NotNil(t, about[r.Alert], "no panel names %s", r.Alert)
			require.True(t, slices.ContainsFunc(metrics.Behind(rules)(r.Expr), func(name string) bool { return about[r.Alert][name] }), "no panel that names %s shows what it asks", r.Alert)
		}
	}
}

// Guarantees: limits are those of slo.yaml and of the alerts: a panel is red where the promise is broken or a page is due, orange where a ticket is, and green on the good side.
func TestLimitsAreThoseOfSLOsAndAlerts(t *testing.T) {
	v := func(f float64) *float64 { return &f }
	all := files(t)
	for where, want := range map[string][]step{
		"fleet: Freshness of ClickHouse, P99":  {{nil, "green"}, {v(120), "red"}},
		"fleet: Requests that the cell failed": {{nil, "green"}, {v(0.00144), "red"}},
		"fleet: Error budget left, fleet":      {{nil, "red"}, {v(0), "orange"}, {v(0.25), "green"}},
		"lake: Freshness by table, P99":        {{nil, "green"}, {v(300), "red"}},
		"cell: Certificate ends in":            {{nil, "red"}, {v(172800), "orange"}, {v(1209600), "green"}},
		"cell: Spill, of its bound":            {{nil, "green"}, {v(0.5), "red"}},
		"quarantine: Share of events":          {{nil, "green"}, {v(0.02), "orange"}, {v(0.2), "red"}},
		"gateway: Time to the answer, P99":     {{nil, "green"}, {v(10), "red"}},
		"slo: Burn rate by window":             {{nil, "green"}, {v(1), "orange"}, {v(3), "orange"}, {v(6), "red"}, {v(14.4), "red"}},
	} {
		name, title, _ := strings.Cut(where, ": ")
		i := slices.IndexFunc(all[name].Panels, func(p grafanaPanel) bool { return p.Title == title })
		require.GreaterOrEqual(t, i, 0, where)
		require.Equal(t, want, all[name].Panels[i].FieldConfig.Defaults.Thresholds.Steps, where)
	}
}

// Guarantees: SQL reads rollups, quarantine and system tables, never a table of events, is bounded, and leaves out the days before the time that is chosen.
func TestSQLOfPanelsIsBounded(t *testing.T) {
	table := regexp.MustCompile(`\b(?:FROM|JOIN) ([a-z_.0-9]+)`)
	seen := 0
	check := func(where, statement string) {
		seen++
		require.Contains(t, statement, "SETTINGS max_rows_to_read = ", where)
		require.Regexp(t, `LIMIT \d+|FROM system\.disks`, statement, where)
		for _, m := range table.FindAllStringSubmatch(statement, -1) {
			require.Regexp(t, `^(pulsegrid\.((logs|metrics|spans)_1[mh]|quarantine|quarantine_pii)|system\.(parts|disks))$`, m[1], where)
			if strings.HasPrefix(m[1], "pulsegrid.") {
				require.Regexp(t, `ingest_(date|time) >= `, statement, where)
			}
		}
	}
	for _, d := range dashboards(t) {
		for p := range d.Panels() {
			for _, q := range p.Queries {
				if q.SQL != "" {
					check(d.Name+": "+p.Title, q.SQL)
				}
			}
		}
		for _, v := range d.Variables {
			if v.SQL != "" {
				check(d.Name+": $"+v.Name, v.SQL)
			}
		}
	}
	require.Greater(t, seen, 8)
}

// Scenario: a rule that a dashboard is made of is not there, or compares in a way that has no limit.
// Guarantees: no dashboard is made; the error names what is missing.
func TestADashboardWithoutItsAlertIsRefused(t *testing.T) {
	rules := allRules(t)
	without := slices.DeleteFunc(slices.Clone(rules), func(r observability.Rule) bool { return r.Alert == "NoGateway" })
	_, err := observability.Dashboards(parse(t), without)
	require.ErrorContains(t, err, "there is no alert NoGateway")
	other := slices.Clone(rules)
	for i := range other {
		if other[i].Alert == "SpillFilling" {
			other[i].Expr = "0.5 < " + other[i].Expr + " and up"
		}
	}
	_, err = observability.Dashboards(parse(t), other)
	require.ErrorContains(t, err, "SpillFilling")
	slos := parse(t)
	slos.SLOs = slices.DeleteFunc(slos.SLOs, func(s observability.SLO) bool { return s.Name == "freshness-lake" })
	_, err = observability.Dashboards(slos, rules)
	require.ErrorContains(t, err, "freshness-lake")
}
