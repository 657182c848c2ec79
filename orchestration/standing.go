package orchestration

import (
	"bytes"
	_ "embed" // the default
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"gopkg.in/yaml.v3"
)

//go:embed standing.yaml
var defaultStanding []byte

// DefaultStanding is the file of the standing jobs that come with PulseGrid.
func DefaultStanding() []byte { return slices.Clone(defaultStanding) }

const (
	standingFormat = 1
	// maxStanding bounds the jobs of a file, and so the series of metrics.
	maxStanding = 50
	minEvery    = 10 * time.Second
	maxEvery    = 31 * 24 * time.Hour
)

// labelled is what names and owners are: they become labels of metrics, and ids in Temporal.
var labelled = regexp.MustCompile(`^[a-z0-9][a-z0-9._@-]{0,62}$`)

// Standing is a job that is run again and again.
type Standing struct {
	Name      string         `yaml:"name" json:"name"`
	Kind      string         `yaml:"kind" json:"kind"`
	Flags     map[string]any `yaml:"flags" json:"flags,omitempty"` // of the job's command: texts, numbers, booleans, or lists of these
	Every     Duration       `yaml:"every" json:"every,omitzero"`  // time between two beginnings, counted from midnight UTC of 1970-01-01; 0: Cron says when
	Cron      string         `yaml:"cron" json:"cron,omitempty"`   // five fields, UTC; empty: Every
	Owner     string         `yaml:"owner" json:"owner"`           // who is asked when it is late
	LateAfter Duration       `yaml:"late_after" json:"late_after"` // how old its last success may become
}

// Duration is a time.Duration that files and Temporal have as text.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// When says when it is run.
func (s *Standing) When() string {
	if s.Cron != "" {
		return s.Cron
	}
	return "every " + time.Duration(s.Every).String()
}

// ParseStanding reads a file of standing jobs. check says whether a kind's command takes these flags.
func ParseStanding(text []byte, check func(kind string, flags []string) error) ([]Standing, error) {
	var file struct {
		Format int        `yaml:"format"`
		Jobs   []Standing `yaml:"jobs"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		return nil, err
	}
	if file.Format != standingFormat {
		return nil, fmt.Errorf("format: %d: want %d", file.Format, standingFormat)
	}
	if len(file.Jobs) > maxStanding {
		return nil, fmt.Errorf("jobs: there are %d: want at most %d", len(file.Jobs), maxStanding)
	}
	seen := map[string]bool{}
	for i := range file.Jobs {
		s := &file.Jobs[i]
		err := s.validate()
		if err == nil && seen[s.Name] {
			err = errors.New("name: another job has it")
		}
		if err == nil {
			var c Command
			if c, err = s.command(); err == nil {
				err = check(c.Kind, c.Flags)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("jobs: %d (%s): %w", i+1, s.Name, err)
		}
		seen[s.Name] = true
	}
	return file.Jobs, nil
}

func (s *Standing) validate() error {
	every, late := time.Duration(s.Every), time.Duration(s.LateAfter)
	switch {
	case !labelled.MatchString(s.Name):
		return fmt.Errorf("name: %q: want lower-case letters, digits and ._@-, up to 63", s.Name)
	case !commandKinds[s.Kind].standing:
		return fmt.Errorf("kind: %q: want one of %q", s.Kind, slices.DeleteFunc(CommandKinds(), func(kind string) bool { return !commandKinds[kind].standing }))
	case !labelled.MatchString(s.Owner):
		return fmt.Errorf("owner: %q: want lower-case letters, digits and ._@-, up to 63", s.Owner)
	case (every == 0) == (s.Cron == ""):
		return errors.New("every, cron: want one of them")
	case s.Cron == "" && (every < minEvery || every > maxEvery):
		return fmt.Errorf("every: %v: want %v to %v", every, minEvery, maxEvery)
	case late <= every || late < minEvery:
		return fmt.Errorf("late_after: %v: want more than every, and at least %v", late, minEvery)
	}
	return nil
}

// command is what a run of the job asks for.
func (s *Standing) command() (Command, error) {
	c := Command{Kind: s.Kind, Standing: s}
	for _, name := range slices.Sorted(maps.Keys(s.Flags)) {
		values, isList := s.Flags[name].([]any)
		if !isList {
			values = []any{s.Flags[name]}
		}
		for _, value := range values {
			switch value.(type) {
			case string, bool, int, float64:
				c.Flags = append(c.Flags, fmt.Sprintf("--%s=%v", name, value))
			default:
				return c, fmt.Errorf("flags: %s: %v: want a text, a number, true or false, or a list of these", name, value)
			}
		}
	}
	return c, nil
}

// equal compares what two say, as Temporal keeps it.
func (s *Standing) equal(other *Standing) bool {
	a, errA := json.Marshal(s)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}
