package observability_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/observability"
)

// exported are the metrics of exporters.yaml.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	var file map[string]struct {
		Documented string
		Metrics    []string
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "observability/exporters.yaml")), &file))
	out := map[string]bool{}
	for name, e := range file {
		require.NotEmpty(t, e.Documented, name)
		for _, m := range e.Metrics {
			out[m] = true
		}
	}
	return out
}

func TestSelectorsAreFound(t *testing.T) {
	require.Equal(t, []observability.Selector{
		{Name: "a_total", Labels: map[string]string{"x": "1", "y": "b|c"}}, {Name: "slo:bad:rate5m"}, {Name: "up", Labels: map[string]string{"job": "by (z)"}}, {Name: "c"}, {Name: "d"},
	}, observability.Selectors(`sum by (cell, x) (rate(a_total{x="1",y=~"b|c"}[5m])) / (slo:bad:rate5m > 0) unless max without (a) (up{job="by (z)"} offset 1h) == 1 or abs(c) - ignoring (le) d > 1e3`))
}

// checkSelector holds a series that an expression names to what there is: a component declares it, a rule records it or an exporter has it, with these labels and values.
func checkSelector(t *testing.T, where string, s observability.Selector, rules []observability.Rule, others map[string]bool, metrics observability.Metrics) {
	t.Helper()
	if slices.ContainsFunc(rules, func(r observability.Rule) bool { return r.Record == s.Name }) || others[s.Name] || s.Name == "ALERTS" {
		return
	}
	name, suffix := s.Name, ""
	for _, of := range []string{"_bucket", "_count", "_sum"} {
		if base, ok := strings.CutSuffix(s.Name, of); ok && metrics[base].Histogram != nil {
			name, suffix = base, of
		}
	}
	m, ok := metrics[name]
	require.True(t, ok, "%s: nothing declares %s", where, s.Name)
	require.Equal(t, m.Histogram != nil, suffix != "", "%s: %s", where, s.Name)
	for label, value := range s.Labels {
		if slices.Contains([]string{"cell", "job", "instance", "receiver", "processor", "exporter", "extension"}, label) {
			continue
		}
		if label == "le" {
			require.Equal(t, "_bucket", suffix)
			continue
		}
		a, ok := m.By[label]
		require.True(t, ok, "%s: %s has no label %s", where, s.Name, label)
		for _, v := range strings.Split(value, "|") {
			require.True(t, len(a.Enum) == 0 || slices.Contains(a.Enum, v), "%s: %s is never %q", where, label, v)
		}
	}
}

// Guarantees: each series that a rule or a panel names is declared by a component, recorded by a rule or listed as an exporter's, and has the labels and values that are asked for.
func TestRulesAndPanelsNameWhatExists(t *testing.T) {
	metrics, others := declared(t), exported(t)
	rules := allRules(t)
	used := map[string]bool{}
	check := func(where, expr string) {
		for _, s := range observability.Selectors(expr) {
			used[s.Name] = true
			checkSelector(t, where, s, rules, others, metrics)
		}
	}
	for _, r := range rules {
		check(r.Alert+r.Record, r.Expr)
	}
	for _, d := range dashboards(t) {
		for p := range d.Panels() {
			for _, q := range p.Queries {
				check(d.Name+": "+p.Title, observability.Expand(q.PromQL))
			}
		}
	}
	for name := range others {
		require.True(t, used[name], "exporters.yaml lists %s, which no rule uses", name)
	}
}

// Guarantees: each metric is in an alert, a dashboard or a runbook, or metrics.yaml says why it is there; and of those that are used it says nothing.
func TestEachMetricIsUsedOrExplained(t *testing.T) {
	metrics := declared(t)
	notes, err := observability.ParseNotes([]byte(read(t, "observability/metrics.yaml")), metrics)
	require.NoError(t, err)
	uses, err := observability.FindUses(root, allRules(t), dashboards(t), metrics)
	require.NoError(t, err)
	for name := range metrics {
		used := len(uses.Alerts[name])+len(uses.Dashboards[name])+len(uses.Runbooks[name]) > 0
		if notes.Unused[name] == "" {
			require.True(t, used, "%s is in no alert, dashboard or runbook: use it, take it out, or explain it in metrics.yaml", name)
		} else {
			require.False(t, used, "%s is used, so metrics.yaml must not explain why it is not", name)
		}
	}
	require.LessOrEqual(t, len(notes.Unused), 15, "a short list")
}

func TestABadNoteIsRefused(t *testing.T) {
	good := read(t, "observability/metrics.yaml")
	for name, c := range map[string]struct{ from, to, says string }{
		"a bound too few":  {"  mskreceiver/topic: topics\n", "", "mskreceiver/topic"},
		"a bound too many": {"bounds:\n", "bounds:\n  mskreceiver/outcome: \"3\"\n", "mskreceiver/outcome"},
		"no such metric":   {"unused:", "unused:\n  otelcol_no_such: because\n#", "otelcol_no_such"},
		"unknown key":      {"unused:", "surprise: 1\nunused:", "surprise"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, good, c.from)
			_, err := observability.ParseNotes([]byte(strings.Replace(good, c.from, c.to, 1)), declared(t))
			require.ErrorContains(t, err, "metrics.yaml: ")
			require.ErrorContains(t, err, c.says)
		})
	}
}
