package observability_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/testkit/runbook"
	"github.com/pulsegrid/pulsegrid/observability"
)

var root = os.DirFS("..")

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := fs.ReadFile(root, file)
	require.NoError(t, err)
	return string(text)
}

func declared(t *testing.T) observability.Metrics {
	t.Helper()
	metrics, err := observability.Declared(root)
	require.NoError(t, err)
	return metrics
}

func parse(t *testing.T) observability.SLOs {
	t.Helper()
	slos, err := observability.Parse([]byte(read(t, "observability/slo.yaml")), declared(t))
	require.NoError(t, err)
	return slos
}

// allRules are those of the files that Prometheus reads.
func allRules(t *testing.T) (all []observability.Rule) {
	t.Helper()
	for _, pattern := range []string{"rules/*.yaml", "alerts/*.yaml"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files, pattern)
		for _, file := range files {
			rules, err := observability.ParseRules(file, []byte(read(t, "observability/"+file)))
			require.NoError(t, err)
			all = append(all, rules...)
		}
	}
	return all
}

// Scenario: slo.yaml, a metadata.yaml, an alert or a runbook is changed, and `make generate` is forgotten.
// Guarantees: this test says so.
func TestWhatIsGeneratedIsUpToDate(t *testing.T) {
	files, err := observability.Generate(root)
	require.NoError(t, err)
	for file, want := range files {
		require.Equal(t, string(want), read(t, file), "%s: run `make generate`", file)
	}
	for _, pattern := range []string{"observability/rules/*", "dashboards/*.json"} {
		there, err := fs.Glob(root, pattern)
		require.NoError(t, err)
		for _, file := range there {
			require.Contains(t, files, file, "nothing makes it: run `make generate`")
		}
	}
}

func TestABadSLOIsRefusedAndNamesWhatIsWrong(t *testing.T) {
	good := read(t, "observability/slo.yaml")
	for name, c := range map[string]struct{ from, to, says string }{
		"unknown key":         {"window: 30d", "window: 30d\nsurprise: 1", "surprise"},
		"window":              {"window: 30d", "window: 2w", `"2w"`},
		"name":                {"name: freshness-lake", "name: Freshness lake", `"Freshness lake"`},
		"twice":               {"name: freshness-lake", "name: quarantine-readable", "is there twice"},
		"the alert twice":     {"alert: FreshnessLakeBurn", "alert: QuarantineReadableBurn", "is there twice"},
		"no promise":          {"promise: 99 of 100 requests are rows of the lake within 5 minutes.", "promise: ''", "promise"},
		"alert's name":        {"alert: FreshnessLakeBurn", "alert: burn", `"burn"`},
		"severity":            {"severity: ticket", "severity: page", `"page"`},
		"no runbook":          {"runbook: docs/runbooks/quarantine.md#readable-quarantine", "runbook: ''", "runbook"},
		"objective":           {"objective: 99.99", "objective: 101", "101"},
		"no budget":           {"objective: 99.99", "objective: 100", "budget"},
		"budget too large":    {"objective: 99.99", "objective: 90", "14.4"},
		"no such histogram":   {"histogram: otelcol_ingest_request_duration", "histogram: otelcol_no_such", "otelcol_no_such"},
		"no histogram":        {"histogram: otelcol_ingest_request_duration", "histogram: otelcol_ingest_requests", "otelcol_ingest_requests"},
		"no bound":            {"within: 10", "within: 9", "9 is no bound"},
		"no such value":       {"outcome: [accepted, empty]", "outcome: [accepted, ok]", `"ok"`},
		"no such attribute":   {"outcome: [accepted, empty]", "result: [accepted]", "result"},
		"no value":            {"outcome: [accepted, empty]", "outcome: []", "outcome"},
		"a value of a regexp": {"group: [pulsegrid-lake]", `group: ["pulsegrid-.*"]`, "pulsegrid-.*"},
		"everything":          {"where: {outcome: [accepted, empty]}", "where: {}", "sli.where: is empty"},
		"no such counter":     {"counter: otelcol_ingest_refused", "counter: otelcol_no_such", "otelcol_no_such"},
		"no such reason":      {"reason: [memory,", "reason: [memories,", `"memories"`},
		"audit and more":      {"sli: {audit: pulsegrid_audit}", "sli: {audit: pulsegrid_audit, histogram: otelcol_ingest_request_duration}", "sli.audit"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, good, c.from)
			_, err := observability.Parse([]byte(strings.Replace(good, c.from, c.to, 1)), declared(t))
			require.ErrorContains(t, err, "slo.yaml: ")
			require.ErrorContains(t, err, c.says)
		})
	}
}

// Guarantees: each alert says how urgent it is and what to do: its runbook has a section for it, with every part, and the index leads there.
func TestEachAlertHasARunbook(t *testing.T) {
	index := read(t, "docs/runbooks/README.md")
	indexed := regexp.MustCompile("(?m)^\\| `(\\w+)` \\|.*\\[[^]]+\\]\\(([^)]+)\\)").FindAllStringSubmatch(index, -1)
	link := map[string]string{}
	for _, m := range indexed {
		link[m[1]] = "docs/runbooks/" + m[2]
	}
	for _, r := range allRules(t) {
		if r.Alert == "" {
			continue
		}
		t.Run(r.Alert+r.Labels["window"], func(t *testing.T) {
			require.Contains(t, []string{"page", "ticket"}, r.Labels["severity"])
			require.Contains(t, []string{"symptom", "cause"}, r.Labels["kind"])
			require.Contains(t, r.Annotations["summary"], "{{ $labels.cell }}: ")
			page, anchor, ok := strings.Cut(r.Annotations["runbook_url"], "#")
			require.True(t, ok && strings.HasPrefix(page, "docs/runbooks/"), r.Annotations["runbook_url"])
			text := runbook.Section(read(t, page), anchor)
			require.NotEmpty(t, text, "%s has no such heading", r.Annotations["runbook_url"])
			require.Contains(t, text, "`"+r.Alert+"`")
			require.Empty(t, runbook.Missing(text), "the part must be there, behind the parts before it")
			require.Equal(t, r.Annotations["runbook_url"], link[r.Alert], "docs/runbooks/README.md")
		})
	}
	for name := range link {
		require.True(t, slices.ContainsFunc(allRules(t), func(r observability.Rule) bool { return r.Alert == name }), "docs/runbooks/README.md lists %s, which is no alert", name)
	}
}

// Guarantees: each section that the index leads to, also from what was lost or is planned, has every part.
func TestEachSectionOfTheIndexHasEveryPart(t *testing.T) {
	links := regexp.MustCompile(`\]\((\w+\.md)#([\w-]+)\)`).FindAllStringSubmatch(read(t, "docs/runbooks/README.md"), -1)
	require.Greater(t, len(links), 70)
	for _, m := range links {
		text := runbook.Section(read(t, "docs/runbooks/"+m[1]), m[2])
		require.NotEmpty(t, text, "%s has no heading %s", m[1], m[2])
		require.Empty(t, runbook.Missing(text), "%s#%s: the part must be there, behind the parts before it", m[1], m[2])
	}
}

// Guarantees: each alert that pages is tested to fire and, where its series are there, not to; burn rates are tested by TestABurnTripsTheRightWindowsAndNoOthers.
func TestEachPageIsTestedBothWays(t *testing.T) {
	files, err := filepath.Glob("tests/*.yaml")
	require.NoError(t, err)
	type tested struct {
		series string
		names  map[string]bool // of alerts that it expects, at each time
	}
	var all []tested
	for _, file := range files {
		var content struct {
			Tests []struct {
				Series []struct{ Series string } `yaml:"input_series"`
				Exprs  []struct {
					Samples []struct{ Labels string } `yaml:"exp_samples"`
				} `yaml:"promql_expr_test"`
			}
		}
		require.NoError(t, yaml.Unmarshal([]byte(read(t, "observability/"+file)), &content))
		for _, c := range content.Tests {
			series := ""
			for _, s := range c.Series {
				series += s.Series + "\n"
			}
			for _, e := range c.Exprs {
				names := map[string]bool{}
				for _, s := range e.Samples {
					for _, m := range regexp.MustCompile(`alertname="(\w+)"`).FindAllStringSubmatch(s.Labels, -1) {
						names[m[1]] = true
					}
				}
				all = append(all, tested{series, names})
			}
		}
	}
	for _, r := range allRules(t) {
		if r.Labels["severity"] != "page" || r.Labels["window"] != "" {
			continue
		}
		metric := regexp.MustCompile(`(?:otelcol|pulsegrid|kafka|node|ClickHouse)\w+|\bup\b`).FindString(r.Expr)
		require.True(t, slices.ContainsFunc(all, func(c tested) bool { return c.names[r.Alert] }), "no test has %s fire", r.Alert)
		require.True(t, slices.ContainsFunc(all, func(c tested) bool { return !c.names[r.Alert] && strings.Contains(c.series, metric+"{") }), "no test has %s not fire, with %s", r.Alert, metric)
	}
}

// Guarantees: docs/slo.md tells of each SLO, with its objective.
func TestTheDocumentTellsOfEachSLO(t *testing.T) {
	text := read(t, "docs/slo.md")
	for _, s := range parse(t).SLOs {
		require.Regexp(t, "(?m)^\\| `"+s.Name+"` \\| "+regexp.QuoteMeta(s.Promise)+" \\|", text)
	}
}
