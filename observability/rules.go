package observability

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// RuleFile is a file of Prometheus rules.
type RuleFile struct {
	Groups []Group `yaml:"groups"`
}

// Group of rules that are evaluated one after the other.
type Group struct {
	Name     string `yaml:"name"`
	Interval string `yaml:"interval,omitempty"`
	Rules    []Rule `yaml:"rules"`
}

// Rule records a series, or alerts.
type Rule struct {
	Record        string            `yaml:"record,omitempty"`
	Alert         string            `yaml:"alert,omitempty"`
	Expr          string            `yaml:"expr"`
	For           string            `yaml:"for,omitempty"`
	KeepFiringFor string            `yaml:"keep_firing_for,omitempty"`
	Labels        map[string]string `yaml:"labels,omitempty"`
	Annotations   map[string]string `yaml:"annotations,omitempty"`
}

// Rules returns the files of rules/ by name.
func (s SLOs) Rules() (map[string][]byte, error) {
	out := map[string][]byte{}
	for i := range s.SLOs {
		slo := &s.SLOs[i]
		var b bytes.Buffer
		fmt.Fprintf(&b, "# Made of slo.yaml by `make generate`; do not edit.\n# %s %s %% over %s.\n", slo.Promise, number(slo.Objective), s.Window)
		enc := yaml.NewEncoder(&b)
		enc.SetIndent(2)
		if err := enc.Encode(RuleFile{slo.groups(s.Window)}); err != nil {
			return nil, err
		}
		out[slo.Name+".yaml"] = b.Bytes()
	}
	return out, nil
}

func (s *SLO) groups(window string) []Group {
	label := map[string]string{"slo": s.Name}
	record := func(name, expr string) Rule { return Rule{Record: name, Expr: expr, Labels: label} }
	of := func(series string) string { return fmt.Sprintf(`%s{slo="%s"}`, series, s.Name) }
	budget := []Rule{record("slo:objective:ratio", fmt.Sprintf("vector(%s)", number(s.Objective/100)))}
	if s.SLI.Audit != "" {
		budget = append(budget, record("slo:error:ratio"+window, fmt.Sprintf(`1 - min by (cell) (avg_over_time(%s{verdict="equal"}[%s]))`, s.SLI.Audit, window)))
		return []Group{{Name: s.Name + "-budget", Interval: "5m", Rules: budget}}
	}

	// Every window is a sum of the same two rates, so that a window weighs hours by their traffic, and costs no look at the raw series.
	bad, total := s.SLI.rates()
	rules := []Rule{record("slo:bad:rate5m", bad), record("slo:total:rate5m", total)}
	rules = append(rules, record("slo:error:ratio5m", fmt.Sprintf("%s / (%s > 0)", of("slo:bad:rate5m"), of("slo:total:rate5m"))))
	over := func(series, w string) string { return fmt.Sprintf("sum_over_time(%s[%s])", of(series), w) }
	ratio := func(w string) Rule {
		return record("slo:error:ratio"+w, fmt.Sprintf("%s / (%s > 0)", over("slo:bad:rate5m", w), over("slo:total:rate5m", w)))
	}
	if s.Alert != "" {
		for _, w := range []string{"30m", "1h", "2h", "6h", "1d", "3d"} {
			rules = append(rules, ratio(w))
		}
		for _, b := range burns {
			rules = append(rules, s.alert(b, of, window))
		}
	}
	allowed := number(s.budget())
	budget = append(budget, ratio(window),
		record("slo:error_budget:remaining", fmt.Sprintf("1 - %s / %s", of("slo:error:ratio"+window), allowed)),
		record("slo:error_budget:remaining_fleet", fmt.Sprintf("1 - sum(%s) / (sum(%s) > 0) / %s", over("slo:bad:rate5m", window), over("slo:total:rate5m", window), allowed)))
	return []Group{{Name: s.Name, Interval: "1m", Rules: rules}, {Name: s.Name + "-budget", Interval: "5m", Rules: budget}}
}

func (s *SLO) alert(b burn, of func(string) string, window string) Rule {
	limit := number(b.rate * s.budget())
	return Rule{
		Alert:  s.Alert,
		Expr:   fmt.Sprintf("%s > %s and %s > %s", of("slo:error:ratio"+b.long), limit, of("slo:error:ratio"+b.short), limit),
		Labels: map[string]string{"severity": cmp.Or(s.Severity, b.severity), "kind": "symptom", "slo": s.Name, "window": b.long},
		Annotations: map[string]string{
			"summary":     fmt.Sprintf("{{ $labels.cell }}: %s: over %s and %s its budget of %s burns more than %s times too fast", s.Title, b.long, b.short, window, number(b.rate)),
			"runbook_url": s.Runbook,
		},
	}
}

// rates are the bad events and all events a second, by cell.
func (i *SLI) rates() (bad, total string) {
	count := fmt.Sprintf("rate(%s_count{%s}[5m])", i.Histogram, matchers(i.Where))
	// Prometheus 2 keeps a bound as it was scraped (10), Prometheus 3 writes it as a float (10.0).
	within := number(i.Within)
	good := fmt.Sprintf(`rate(%s_bucket{%s,le=~"%s|%s\\.0"}[5m])`, i.Histogram, matchers(i.Where), within, within)
	bad, total = fmt.Sprintf("%s - ignoring (le) %s", count, good), count
	if f := i.Failures; f != nil { // their labels are others, so `or` takes all series of both
		failed := fmt.Sprintf("rate(%s{%s}[5m])", f.Counter, matchers(f.Where))
		bad, total = bad+" or "+failed, total+" or "+failed
	}
	return fmt.Sprintf("sum by (cell) (%s)", bad), fmt.Sprintf("sum by (cell) (%s)", total)
}

// matchers are those of PromQL for each attribute to have one of its values.
func matchers(where map[string][]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(where)) {
		if values := where[name]; len(values) == 1 {
			out = append(out, fmt.Sprintf(`%s="%s"`, name, values[0]))
		} else {
			out = append(out, fmt.Sprintf(`%s=~"%s"`, name, strings.Join(values, "|")))
		}
	}
	return strings.Join(out, ",")
}

// ParseRules reads a file of rules.
func ParseRules(file string, content []byte) ([]Rule, error) {
	var f RuleFile
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var all []Rule
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	return all, nil
}

// number without the noise of floating point.
func number(f float64) string {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 12, 64), 64)
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}
