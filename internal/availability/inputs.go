package availability

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"slices"

	"gopkg.in/yaml.v3"
)

//go:embed inputs.yaml
var inputsYAML []byte

// Kinds of values, from what is known to what is guessed.
var kinds = []string{"built", "measured", "published", "assumed"}

// Input is a value that the simulation is made of.
type Input struct {
	Name   string  `yaml:"name"`
	Title  string  `yaml:"title"`
	Value  float64 `yaml:"value"`
	Unit   string  `yaml:"unit"`
	Low    float64 `yaml:"low"`
	High   float64 `yaml:"high"`
	Kind   string  `yaml:"kind"`
	Source string  `yaml:"source"`
}

// Cause is something that fails, again and again: each cell by itself, or all at once. Times between two are exponential.
type Cause struct {
	Name    string `yaml:"name"`
	Title   string `yaml:"title"`
	Rate    string `yaml:"rate"`    // input: how often, a year and cell
	Minutes string `yaml:"minutes"` // input: for how long in the mean
	// Spread is sigma of a lognormal duration. Zero: durations are exponential.
	Spread float64 `yaml:"spread"`
	// Share of a cell's requests that fail, while its load balancer and not DNS leads elsewhere: the next try works. Zero: all, and DNS leads elsewhere.
	Share float64 `yaml:"share"`
	// Refuses says that the cell answers: its health endpoint first has to notice.
	Refuses bool `yaml:"refuses"`
	// Everywhere says that all cells are hit at once, and there is nowhere to go.
	Everywhere bool `yaml:"everywhere"`
	// Planned says that DNS leads elsewhere and nothing fails.
	Planned bool `yaml:"planned"`
}

// Host is a name that senders send to, and how many cells it leads to.
type Host struct {
	Name  string `yaml:"name"`
	Cells int    `yaml:"cells"`
}

// Model is what is simulated.
type Model struct {
	Years int `yaml:"years"`
	// SensitivityYears are fewer: each is the same with every value, so differences need less of them.
	SensitivityYears int     `yaml:"sensitivity_years"`
	Seed             uint64  `yaml:"seed"`
	Hosts            []Host  `yaml:"hosts"`
	Inputs           []Input `yaml:"inputs"`
	Causes           []Cause `yaml:"causes"`
}

// Default is the model of inputs.yaml.
func Default() (*Model, error) { return Read(inputsYAML) }

// Read reads a model. What it does not know is an error.
func Read(content []byte) (*Model, error) {
	var m Model
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&m); err != nil {
		return nil, err
	}
	return &m, m.validate()
}

func (m *Model) validate() error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	seen := map[string]bool{}
	for _, in := range m.Inputs {
		bad(seen[in.Name], "inputs: %s is there twice", in.Name)
		seen[in.Name] = true
		bad(in.Title == "" || in.Unit == "" || in.Source == "", "inputs: %s: needs title, unit and source", in.Name)
		bad(!slices.Contains(kinds, in.Kind), "inputs: %s: kind %q: want one of %v", in.Name, in.Kind, kinds)
		bad(in.Value < in.Low || in.Value > in.High || in.Low < 0, "inputs: %s: want 0 <= low <= value <= high", in.Name)
	}
	for _, name := range []string{"ttl", "check_interval", "check_threshold", "health_delay", "hold", "stale", "peak_capacity", "peak_hours", "retry", "retry_gap"} {
		bad(!seen[name], "inputs: %s is missing", name)
	}
	bad(seen["ttl"] && m.value("ttl") <= 0, "inputs: ttl must be above 0")
	for _, c := range m.Causes {
		bad(!seen[c.Rate] || !seen[c.Minutes], "causes: %s: rate %q and minutes %q must be inputs", c.Name, c.Rate, c.Minutes)
		bad(c.Share < 0 || c.Share > 1 || c.Spread < 0, "causes: %s: share %v, spread %v", c.Name, c.Share, c.Spread)
	}
	for _, h := range m.Hosts {
		bad(h.Cells < 1, "hosts: %s: cells is %d", h.Name, h.Cells)
	}
	bad(m.Years < 1 || m.SensitivityYears < 1 || len(m.Hosts) == 0, "want years, sensitivity_years and hosts")
	return errors.Join(errs...)
}

// value of an input that validate has found to be there.
func (m *Model) value(name string) float64 {
	i := slices.IndexFunc(m.Inputs, func(in Input) bool { return in.Name == name })
	if i < 0 {
		return math.NaN()
	}
	return m.Inputs[i].Value
}

// With is the model with another value of an input.
func (m *Model) With(name string, value float64) *Model {
	out := *m
	out.Inputs = slices.Clone(m.Inputs)
	for i := range out.Inputs {
		if out.Inputs[i].Name == name {
			out.Inputs[i].Value = value
		}
	}
	return &out
}
