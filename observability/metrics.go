package observability

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Notes is metrics.yaml: what no metadata.yaml says of metrics.
type Notes struct {
	// Bounds of attributes that list no values, by folder/attribute: a number, or the name of what the configuration says.
	Bounds map[string]string `yaml:"bounds"`
	// Unused says of metrics that no alert, dashboard or runbook names why they are there.
	Unused map[string]string `yaml:"unused"`
}

// ParseNotes reads metrics.yaml. It says something of each attribute without a list of values, and of nothing else.
func ParseNotes(content []byte, metrics Metrics) (Notes, error) {
	var n Notes
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&n); err != nil {
		return n, fmt.Errorf("metrics.yaml: %w", err)
	}
	open := map[string]bool{}
	for name, m := range metrics {
		for a, is := range m.By {
			if len(is.Enum) > 0 {
				continue
			}
			key := path.Base(m.Folder) + "/" + a
			if open[key] = true; n.Bounds[key] == "" {
				return n, fmt.Errorf("metrics.yaml: bounds: %s: %s lists no values of it, so it needs a bound", key, name)
			}
		}
	}
	for key := range n.Bounds {
		if !open[key] {
			return n, fmt.Errorf("metrics.yaml: bounds: %s: no metric has such an attribute without a list of values", key)
		}
	}
	for name, why := range n.Unused {
		if _, ok := metrics[name]; !ok || why == "" {
			return n, fmt.Errorf("metrics.yaml: unused: %s: want a declared metric, and why it is there", name)
		}
	}
	return n, nil
}

// Uses says where metrics are used.
type Uses struct {
	Alerts     map[string][]string // by metric
	Dashboards map[string][]string // by metric: names of dashboards
	Runbooks   map[string][]string // by metric: pages of docs/runbooks
}

// metricForm finds metrics in documents.
var metricForm = regexp.MustCompile(`\b(?:otelcol|pulsegrid)_[a-z0-9_]*[a-z0-9]`)

// base is the declared name of a metric or of one of a histogram's series.
func (m Metrics) base(name string) string {
	for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
		if b, ok := strings.CutSuffix(name, suffix); ok {
			if _, declared := m[b]; declared {
				return b
			}
		}
	}
	return name
}

// Behind tells the declared metrics that an expression is made of, through what rules record. A recorded series of no certain SLO is of each of them.
func (m Metrics) Behind(rules []Rule) func(expr string) []string {
	recorded := map[string][]string{} // by series, and by series of an SLO
	behind := func(expr string) (out []string) {
		for _, s := range Selectors(expr) {
			out = append(append(out, m.base(s.Name)), recorded[s.Name+of(s.Labels)]...)
		}
		return out
	}
	for _, r := range rules {
		if r.Record != "" {
			all := behind(r.Expr)
			recorded[r.Record] = append(recorded[r.Record], all...)
			if slo := of(r.Labels); slo != "" {
				recorded[r.Record+slo] = append(recorded[r.Record+slo], all...)
			}
		}
	}
	return behind
}

// of is the SLO of a series' labels; empty: there is none.
func of(labels map[string]string) string {
	if slo := labels["slo"]; slo != "" {
		return " of " + slo
	}
	return ""
}

// FindUses looks through rules, dashboards and the runbooks of a checkout.
func FindUses(root fs.FS, rules []Rule, dashboards []Dashboard, metrics Metrics) (Uses, error) {
	u := Uses{map[string][]string{}, map[string][]string{}, map[string][]string{}}
	behind := metrics.Behind(rules)
	for _, r := range rules {
		if r.Alert != "" {
			for _, name := range behind(r.Expr) {
				u.Alerts[name] = append(u.Alerts[name], r.Alert)
			}
		}
	}
	for _, d := range dashboards {
		for p := range d.Panels() {
			for _, q := range p.Queries {
				for _, name := range behind(Expand(q.PromQL)) {
					u.Dashboards[name] = append(u.Dashboards[name], d.Name)
				}
			}
		}
	}
	pages, err := fs.Glob(root, "docs/runbooks/*.md")
	if err != nil {
		return u, err
	}
	for _, page := range pages {
		text, err := fs.ReadFile(root, page)
		if err != nil {
			return u, err
		}
		for _, name := range metricForm.FindAllString(string(text), -1) {
			u.Runbooks[metrics.base(name)] = append(u.Runbooks[metrics.base(name)], path.Base(page))
		}
	}
	for _, by := range []map[string][]string{u.Alerts, u.Dashboards, u.Runbooks} {
		for name := range by {
			slices.Sort(by[name])
			by[name] = slices.Compact(by[name])
		}
	}
	return u, nil
}

const preface = `# Metrics

Made by "make generate" of each component's metadata.yaml, observability/metrics.yaml, the rules, the dashboards and the runbooks; do not edit.

Each point of a Collector's metric (` + "`otelcol_`" + `) also has the component's id (receiver, processor, exporter or extension), and Prometheus' job and instance. *Series* bounds what one component
of one process makes: the product of the numbers of its attributes' values. A histogram has so many series for each of its buckets, and for +Inf, _sum and
_count. Names stand for what the configuration says: partitions of a topic (12 by default), and topics of a group (3, with the overflow lane 6, of
quarantine 1). Metrics have no tenant but a class, of at most 32, of which a tenant may have one of its own; only while a rollout of schemas is tried, two have.
`

// Document is docs/metrics.md.
func Document(metrics Metrics, notes Notes, uses Uses) []byte {
	var b bytes.Buffer
	b.WriteString(preface)
	byFolder := map[string][]string{}
	for name, m := range metrics {
		byFolder[m.Folder] = append(byFolder[m.Folder], name)
	}
	for _, folder := range slices.Sorted(maps.Keys(byFolder)) {
		fmt.Fprintf(&b, "\n## %s\n\n| metric | kind, unit | attributes | series | alerts | dashboards | runbooks | |\n|---|---|---|---|---|---|---|---|\n", path.Base(folder))
		for _, name := range slices.Sorted(slices.Values(byFolder[folder])) {
			m := metrics[name]
			kind := "counter"
			switch {
			case m.Gauge != nil:
				kind = "gauge"
			case m.Histogram != nil:
				kind = fmt.Sprintf("histogram of %d buckets", len(m.Histogram.Buckets))
			}
			pages := make([]string, 0, len(uses.Runbooks[name]))
			for _, page := range uses.Runbooks[name] {
				pages = append(pages, fmt.Sprintf("[%s](runbooks/%s)", strings.TrimSuffix(page, ".md"), page))
			}
			dashboards := make([]string, 0, len(uses.Dashboards[name]))
			for _, d := range uses.Dashboards[name] {
				dashboards = append(dashboards, fmt.Sprintf("[%s](../dashboards/%s.json)", d, d))
			}
			text := strings.ReplaceAll(m.Description, "|", "\\|")
			if why := notes.Unused[name]; why != "" {
				text += " *In no alert, dashboard or runbook: " + why + "*"
			}
			fmt.Fprintf(&b, "| `%s` | %s, %s | %s | %s | %s | %s | %s | %s |\n", name, kind, m.Unit, strings.Join(m.Attributes, ", "), notes.bound(&m),
				strings.Join(uses.Alerts[name], ", "), strings.Join(dashboards, ", "), strings.Join(pages, ", "), text)
		}
	}
	return b.Bytes()
}

// bound is the product of the bounds of a metric's attributes.
func (n *Notes) bound(m *Metric) string {
	product := 1
	var names []string
	for _, a := range m.Attributes {
		if values := len(m.By[a].Enum); values > 0 {
			product *= values
		} else if bound := n.Bounds[path.Base(m.Folder)+"/"+a]; bound != "" {
			if v, err := strconv.Atoi(bound); err == nil {
				product *= v
			} else {
				names = append(names, bound)
			}
		}
	}
	return strings.Join(append([]string{strconv.Itoa(product)}, names...), " × ")
}
