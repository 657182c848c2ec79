package repair

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Bounds of a file.
const (
	maxRules = 1000
	maxSteps = 100
)

// Rules are those of a file, in their order.
type Rules struct {
	Version int    `yaml:"version"`
	Rules   []Rule `yaml:"rules"`
}

// Rule says what to do with the events that it is for. All rules that are for an event are applied to it, in their order.
type Rule struct {
	Name  string `yaml:"name"`
	When  When   `yaml:"when"`
	Steps []Step `yaml:"steps"` // none: the event is sent again as it is, if it is valid by now
}

// When are conditions, all of which must hold; one that is empty always does.
type When struct {
	Tenant    string      `yaml:"tenant"`
	Signal    string      `yaml:"signal"`
	Code      schema.Code `yaml:"code"`      // of one of the event's verdicts
	Path      string      `yaml:"path"`      // of the same verdict, as verdicts write it
	Schema    string      `yaml:"schema"`    // id of the same verdict's schema
	Name      string      `yaml:"name"`      // event name, span name or metric name
	Attribute string      `yaml:"attribute"` // that the event has
	Since     time.Time   `yaml:"since"`     // received then or later
	Until     time.Time   `yaml:"until"`     // received before
}

// Step is one of these.
type Step struct {
	Set    *Set    `yaml:"set"`
	Remove *Remove `yaml:"remove"`
	Rename *Rename `yaml:"rename"`
	Cast   *Cast   `yaml:"cast"`
	Retag  *Retag  `yaml:"retag"`
}

// Set gives an attribute or a field a value: a string, an int, a double, a bool, or a list of these; of a time an RFC 3339 text or "received".
type Set struct {
	Path  string `yaml:"path"`
	Value any    `yaml:"value"`
	at    path
}

// Remove takes an attribute out.
type Remove struct {
	Path string `yaml:"path"`
	at   path
}

// Rename gives an attribute another key; one that has that key already is replaced.
type Rename struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
	from path
	to   path
}

// Cast makes a value one of another type, where that can be done without loss; else it stays as it is.
type Cast struct {
	Path string `yaml:"path"`
	To   string `yaml:"to"` // string, int, double or bool
	at   path
}

// Retag says what the event is: by what its schema is found.
type Retag struct {
	Name      string  `yaml:"name"`       // event name, span name or metric name
	SchemaURL *string `yaml:"schema_url"` // of its scope
}

// Parse reads a file. Errors name the rule, the key and the value.
func Parse(content []byte) (*Rules, error) {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	var r Rules
	if err := dec.Decode(&r); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("is empty: want version and rules")
		}
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one YAML document")
	}
	if r.Version != 1 {
		return nil, fmt.Errorf("version: is %d, want 1", r.Version)
	}
	if n := len(r.Rules); n == 0 || n > maxRules {
		return nil, fmt.Errorf("rules: are %d, want 1 to %d", n, maxRules)
	}
	names := map[string]bool{}
	for i := range r.Rules {
		rule := &r.Rules[i]
		if rule.Name == "" || names[rule.Name] {
			return nil, fmt.Errorf("rules[%d]: name: is %q, want one that no other rule has", i, rule.Name)
		}
		names[rule.Name] = true
		if err := rule.check(); err != nil {
			return nil, fmt.Errorf("rule %q: %w", rule.Name, err)
		}
	}
	return &r, nil
}

func (r *Rule) check() error {
	w := r.When
	if w.Signal != "" {
		if _, err := signal.Parse(w.Signal); err != nil {
			return fmt.Errorf("when: signal: %w", err)
		}
	}
	if w.Code != "" && !slices.Contains(schema.Codes, w.Code) {
		return fmt.Errorf("when: code: is %q, which no verdict has (docs/formats/verdicts.md)", w.Code)
	}
	if w == (When{}) {
		return errors.New("when: is empty: a rule for everything in quarantine is a mistake; name a tenant, a signal or a code")
	}
	if len(r.Steps) > maxSteps {
		return fmt.Errorf("steps: are %d, want at most %d", len(r.Steps), maxSteps)
	}
	for i := range r.Steps {
		if err := r.Steps[i].check(); err != nil {
			return fmt.Errorf("steps[%d]: %w", i, err)
		}
	}
	return nil
}

func (s *Step) check() (err error) {
	set := 0
	for _, is := range []bool{s.Set != nil, s.Remove != nil, s.Rename != nil, s.Cast != nil, s.Retag != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("is %d of set, remove, rename, cast and retag, want one", set)
	}
	switch {
	case s.Set != nil:
		if s.Set.at, err = parsePath(s.Set.Path, false); err != nil {
			return fmt.Errorf("set: path: %w", err)
		}
		return s.Set.check()
	case s.Remove != nil:
		s.Remove.at, err = parsePath(s.Remove.Path, true)
		return at("remove: path", err)
	case s.Rename != nil:
		if s.Rename.from, err = parsePath(s.Rename.From, true); err != nil {
			return fmt.Errorf("rename: from: %w", err)
		}
		if s.Rename.to, err = parsePath(s.Rename.To, true); err != nil {
			return fmt.Errorf("rename: to: %w", err)
		}
		if s.Rename.from.field != s.Rename.to.field {
			return errors.New("rename: an attribute of a resource stays one, and an event's too")
		}
	case s.Cast != nil:
		if !slices.Contains([]string{"string", "int", "double", "bool"}, s.Cast.To) {
			return fmt.Errorf("cast: to: is %q, want string, int, double or bool", s.Cast.To)
		}
		if s.Cast.at, err = parsePath(s.Cast.Path, false); err == nil && !s.Cast.at.isValue() {
			err = fmt.Errorf("%q has a type that cannot change", s.Cast.Path)
		}
		return at("cast: path", err)
	case s.Retag != nil && s.Retag.Name == "" && s.Retag.SchemaURL == nil:
		return errors.New("retag: want name, schema_url or both")
	}
	return nil
}

func at(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (s *Set) check() error {
	switch v := s.Value.(type) {
	case string:
		if s.at.isTime() && v != received {
			if _, err := time.Parse(time.RFC3339Nano, v); err != nil {
				return fmt.Errorf("set: value: is %q, want a time like 2026-01-02T03:04:05Z, or %s", v, received)
			}
		}
		return nil
	case time.Time: // YAML knows times
		if s.at.isTime() {
			return nil
		}
		s.Value = v.Format(time.RFC3339Nano)
		return nil
	case int, int64, float64, bool:
		if s.at.isValue() {
			return nil
		}
	case []any:
		if !s.at.isValue() {
			break
		}
		for _, item := range v {
			switch item.(type) {
			case string, int, int64, float64, bool:
			default:
				return fmt.Errorf("set: value: holds a %T, want strings, numbers and booleans", item)
			}
		}
		return nil
	}
	return fmt.Errorf("set: value: is a %T, which %s does not take", s.Value, s.Path)
}

// received as a time is when the gateway had read the event.
const received = "received"

// field of an event; attributes have a key besides.
type field uint8

const (
	fieldAttribute field = iota
	fieldResource
	fieldBody
	fieldName // event name, span name, metric name
	fieldUnit
	fieldSeverityText
	fieldTime // of a log record and a data point; a span's start
	fieldObservedTime
	fieldEndTime
)

var fields = map[string]field{
	"body": fieldBody, "event_name": fieldName, "name": fieldName, "metric.name": fieldName, "metric.unit": fieldUnit, "severity_text": fieldSeverityText,
	"time_unix_nano": fieldTime, "start_time_unix_nano": fieldTime, "observed_time_unix_nano": fieldObservedTime, "end_time_unix_nano": fieldEndTime,
}

// path is what a step is about.
type path struct {
	field field
	key   string
}

func (p path) isValue() bool { return p.field <= fieldBody }

func (p path) isTime() bool { return p.field >= fieldTime }

// parsePath reads a path as verdicts write it: attributes["key"], resource.attributes["key"], or a field.
func parsePath(text string, attribute bool) (path, error) {
	if f, ok := fields[text]; ok && !attribute {
		return path{field: f}, nil
	}
	rest, p := text, path{}
	if r, ok := strings.CutPrefix(rest, "resource."); ok {
		rest, p.field = r, fieldResource
	}
	quoted, ok := strings.CutPrefix(rest, "attributes[")
	quoted, closed := strings.CutSuffix(quoted, "]")
	key, err := strconv.Unquote(quoted)
	if !ok || !closed || err != nil || key == "" {
		want := `attributes["KEY"] or resource.attributes["KEY"]`
		if !attribute {
			want += ", body, event_name, name, metric.name, metric.unit, severity_text, or a time as OTLP names it"
		}
		return p, fmt.Errorf("is %q, want %s", text, want)
	}
	if p.key = key; lineage.Reserved(key) {
		return p, fmt.Errorf("%q is PulseGrid's own", key)
	}
	return p, nil
}
