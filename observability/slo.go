// Package observability makes what is generated for whoever operates PulseGrid: recording rules and burn-rate alerts of the SLOs (slo.yaml), Grafana's dashboards
// (dashboard.go says what they are, dashboards_*.go what is on them, grafana.go makes the JSON), and docs/metrics.md of the components' metadata.yaml. Alerts that
// no SLO implies are written by hand (alerts/); the tests hold all of it together.
package observability

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

// SLOs is slo.yaml.
type SLOs struct {
	Window string `yaml:"window"` // of all SLOs, as PromQL writes durations
	SLOs   []SLO  `yaml:"slos"`
}

// SLO is one promise.
type SLO struct {
	Name      string  `yaml:"name"`
	Title     string  `yaml:"title"`
	Promise   string  `yaml:"promise"`
	Objective float64 `yaml:"objective"` // percent of events that must be good; at 100 there is no budget, and no alert is made
	SLI       SLI     `yaml:"sli"`
	Alert     string  `yaml:"alert"`    // name of the burn-rate alerts; empty: none
	Severity  string  `yaml:"severity"` // ticket: nobody is woken for it; empty: fast burns page
	Runbook   string  `yaml:"runbook"`
}

// SLI says what is counted: events of a histogram, or the verdicts of audits.
type SLI struct {
	Histogram string              `yaml:"histogram"`
	Where     map[string][]string `yaml:"where"`
	Within    float64             `yaml:"within"` // seconds
	Failures  *struct {
		Counter string              `yaml:"counter"`
		Where   map[string][]string `yaml:"where"`
	} `yaml:"failures"`
	Audit string `yaml:"audit"`
}

// budget is the share of events that may be bad.
func (s *SLO) budget() float64 { return (100 - s.Objective) / 100 }

var (
	nameForm  = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	alertForm = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)
)

// Parse reads slo.yaml and checks it against the metrics that there are.
func Parse(content []byte, metrics Metrics) (SLOs, error) {
	var s SLOs
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&s); err != nil {
		return s, fmt.Errorf("slo.yaml: %w", err)
	}
	if days := strings.TrimSuffix(s.Window, "d"); days == s.Window || !regexp.MustCompile(`^[1-9][0-9]?$`).MatchString(days) {
		return s, fmt.Errorf("slo.yaml: window: %q: want 1d to 99d", s.Window)
	}
	seen := map[string]bool{}
	for i := range s.SLOs {
		slo := &s.SLOs[i]
		if err := slo.check(metrics); err != nil {
			return s, fmt.Errorf("slo.yaml: slos[%d] %s: %w", i, slo.Name, err)
		}
		for _, name := range []string{slo.Name, slo.Alert} {
			if name != "" && seen[name] {
				return s, fmt.Errorf("slo.yaml: slos[%d]: %s is there twice", i, name)
			}
			seen[name] = true
		}
	}
	return s, nil
}

func (s *SLO) check(metrics Metrics) error {
	switch {
	case !nameForm.MatchString(s.Name):
		return fmt.Errorf("name: %q: want lower-case words with hyphens", s.Name)
	case s.Title == "" || s.Promise == "":
		return errors.New("title and promise: are empty")
	case s.Alert != "" && !alertForm.MatchString(s.Alert):
		return fmt.Errorf("alert: %q: want a name like IngestionAvailabilityBurn", s.Alert)
	case s.Severity != "" && s.Severity != "ticket":
		return fmt.Errorf("severity: %q: want ticket or nothing", s.Severity)
	case s.Alert != "" && s.Runbook == "":
		return errors.New("runbook: an alert needs one")
	case s.Objective <= 0 || s.Objective > 100:
		return fmt.Errorf("objective: %v: want more than 0 and at most 100 percent", s.Objective)
	case s.Objective == 100 && s.Alert != "":
		return errors.New("alert: without a budget there is no rate to burn it at")
	case s.Alert != "" && burns[0].rate*s.budget() >= 1:
		return fmt.Errorf("objective: %v: the budget is so large that nothing burns it %v times too fast", s.Objective, burns[0].rate)
	}
	if s.SLI.Audit != "" {
		if s.SLI.Histogram != "" || s.SLI.Failures != nil || s.Objective != 100 {
			return errors.New("sli.audit: stands alone, and its objective is 100")
		}
		return nil
	}
	m, ok := metrics[s.SLI.Histogram]
	if !ok || m.Histogram == nil {
		return fmt.Errorf("sli.histogram: no metadata.yaml declares a histogram %q", s.SLI.Histogram)
	}
	if !slices.Contains(m.Histogram.Buckets, s.SLI.Within) {
		return fmt.Errorf("sli.within: %v is no bound of the buckets of %s: %v", s.SLI.Within, s.SLI.Histogram, m.Histogram.Buckets)
	}
	if err := m.has(s.SLI.Where); err != nil {
		return fmt.Errorf("sli.where: %w", err)
	}
	if f := s.SLI.Failures; f != nil {
		m, ok := metrics[f.Counter]
		if !ok || m.Sum == nil {
			return fmt.Errorf("sli.failures.counter: no metadata.yaml declares a sum %q", f.Counter)
		}
		if err := m.has(f.Where); err != nil {
			return fmt.Errorf("sli.failures.where: %w", err)
		}
	}
	return nil
}

// Metric is a declared metric, with the attributes that its points have.
type Metric struct {
	componentmeta.Metric
	Folder string // of the component
	By     map[string]componentmeta.Attribute
}

// has tells that the metric has these attributes, and that they may have these values.
func (m *Metric) has(where map[string][]string) error {
	if len(where) == 0 {
		return errors.New("is empty")
	}
	for name, values := range where {
		a, ok := m.By[name]
		if !ok {
			return fmt.Errorf("%s: the metric has no such attribute", name)
		}
		if len(values) == 0 {
			return fmt.Errorf("%s: is empty", name)
		}
		for _, v := range values {
			if len(a.Enum) > 0 && !slices.Contains(a.Enum, v) || !valueForm.MatchString(v) {
				return fmt.Errorf("%s: %q is no value of the attribute: %v", name, v, a.Enum)
			}
		}
	}
	return nil
}

var valueForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`) // nothing that a regular expression would read in another way

// Metrics are the declared metrics by the name that Prometheus has for them.
type Metrics map[string]Metric

// Declared reads every metadata.yaml of a checkout.
func Declared(root fs.FS) (Metrics, error) {
	files, err := fs.Glob(root, "*/*/metadata.yaml")
	if err != nil {
		return nil, err
	}
	all := Metrics{}
	for _, file := range files {
		text, err := fs.ReadFile(root, file)
		if err != nil {
			return nil, err
		}
		meta, err := componentmeta.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for name, m := range meta.Metrics() {
			by := map[string]componentmeta.Attribute{}
			for _, a := range m.Attributes {
				by[a] = meta.Attributes()[a]
			}
			if other, twice := all[meta.Prefix()+name]; twice {
				return nil, fmt.Errorf("%s: %s is declared by %s too", file, name, other.Folder)
			}
			all[meta.Prefix()+name] = Metric{m, path.Dir(file), by}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no metadata.yaml here: is this the root of a checkout?")
	}
	return all, nil
}

// burn is a pair of windows over which the budget must not be burned faster than rate times what would just use it up (Google's SRE workbook, chapter 5). The
// short window ends the alert soon after the burning has ended.
type burn struct {
	long, short string
	rate        float64
	severity    string
}

var burns = []burn{
	{"1h", "5m", 14.4, "page"}, // 2 % of a 30-day budget
	{"6h", "30m", 6, "page"},   // 5 %
	{"1d", "2h", 3, "ticket"},  // 10 %
	{"3d", "6h", 1, "ticket"},  // 10 %
}
