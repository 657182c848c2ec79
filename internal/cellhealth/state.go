package cellhealth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

const (
	// StateFile, at the top of a cell's state location, says whether the cell is drained. Without it the cell is not.
	StateFile = "drain.yaml"
	// StateBytesMax bounds the file.
	StateBytesMax = 4 << 10

	reasonBytesMax = 512
)

// State is the content of StateFile.
type State struct {
	// Cell is the cell that is meant, so that a file which was copied to another cell's location drains nothing there.
	Cell string `yaml:"cell"`
	// Drained: senders are to go to other cells.
	Drained bool `yaml:"drained"`
	// Since is when it was written.
	Since time.Time `yaml:"since"`
	// Reason is for people; may be empty.
	Reason string `yaml:"reason,omitempty"`
}

// Validate names the field and the value of what is wrong.
func (s *State) Validate() error {
	switch {
	case !tenant.ValidName(s.Cell):
		return fmt.Errorf("cell: %q: "+tenant.WantName, s.Cell)
	case s.Since.IsZero():
		return errors.New("since: is missing")
	case len(s.Reason) > reasonBytesMax:
		return fmt.Errorf("reason: has %d bytes, at most %d are allowed", len(s.Reason), reasonBytesMax)
	case !utf8.ValidString(s.Reason) || bytes.ContainsFunc([]byte(s.Reason), unicode.IsControl):
		return fmt.Errorf("reason: %q is not one line of text", s.Reason)
	}
	return nil
}

// ParseState refuses what it does not understand: a gateway must not guess whether its cell is drained.
func ParseState(content []byte) (State, error) {
	if len(content) > StateBytesMax {
		return State{}, fmt.Errorf("has more than %d bytes", StateBytesMax)
	}
	var f struct {
		Cell    string    `yaml:"cell"`
		Drained *bool     `yaml:"drained"` // it must be there
		Since   time.Time `yaml:"since"`
		Reason  string    `yaml:"reason"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		return State{}, fmt.Errorf("is no state of a cell: %w", err)
	}
	if f.Drained == nil {
		return State{}, errors.New("drained: is missing, want true or false")
	}
	s := State{f.Cell, *f.Drained, f.Since, f.Reason}
	if err := s.Validate(); err != nil {
		return State{}, err
	}
	return s, nil
}

// Marshal returns the file's content.
func (s *State) Marshal() []byte {
	b, err := yaml.Marshal(s)
	if err != nil {
		panic(err) // texts, a time and a bool
	}
	return append([]byte("# Written by `pulsegrid cell drain` and `undrain`.\n"), b...)
}

// Read returns the state of a cell out of its location. Where there is no file the cell is not drained. A file that names another cell is an error.
func Read(ctx context.Context, source fileset.Source, cell string) (State, error) {
	entries, err := source.List(ctx)
	if err != nil {
		return State{}, fmt.Errorf("list %s: %w", source, err)
	}
	if !slices.ContainsFunc(entries, func(e fileset.Entry) bool { return e.Name == StateFile }) {
		return State{Cell: cell}, nil
	}
	content, err := source.Read(ctx, StateFile, StateBytesMax)
	if err != nil {
		return State{}, fmt.Errorf("read %s of %s: %w", StateFile, source, err)
	}
	s, err := ParseState(content)
	if err != nil {
		return State{}, fmt.Errorf("%s of %s: %w", StateFile, source, err)
	}
	if s.Cell != cell {
		return State{}, fmt.Errorf("%s of %s: cell: is %q, and not %q", StateFile, source, s.Cell, cell)
	}
	return s, nil
}
