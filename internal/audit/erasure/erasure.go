// Package erasure reads declarations of lawful deletions (docs/formats/erasures.md): which rows may be missing from the stores, who erased them,
// when and why. The audit counts such rows as erased instead of lost.
package erasure

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Version is the version of the format.
const Version = 1

// Erasure is one declaration.
type Erasure struct {
	ID     string
	By     string    // who erased
	At     time.Time // when it was done: what was appended to Kafka later is not covered
	Reason string
	Stores []string // at least one
	Tenant string
	// Signals that were erased; at least one.
	Signals []signal.Signal
	// From and To bound the column time of the rows: From is in, To is not. Zero: no bound.
	From, To time.Time
	// Ranges of Kafka that the rows came from; none: any.
	Ranges []certificate.Range
}

// Event is one that a store lacks.
type Event struct {
	Store     string
	Tenant    string
	Signal    signal.Signal
	Topic     string
	Partition int32
	Offset    int64
	Time      int64 // of its row, Unix nanoseconds
	Appended  time.Time
}

// Covers tells whether the erasure explains that the store has no row of the event.
func (e *Erasure) Covers(v Event) bool {
	switch {
	case v.Tenant != e.Tenant, !slices.Contains(e.Stores, v.Store), !slices.Contains(e.Signals, v.Signal), !v.Appended.Before(e.At):
		return false
	case !e.From.IsZero() && v.Time < e.From.UnixNano(), !e.To.IsZero() && v.Time >= e.To.UnixNano():
		return false
	case len(e.Ranges) == 0:
		return true
	}
	return slices.ContainsFunc(e.Ranges, func(r certificate.Range) bool {
		return r.Topic == v.Topic && r.Partition == v.Partition && v.Offset >= r.First && v.Offset <= r.Last
	})
}

// Might tells whether the erasure may explain rows that lack of a block, written to the store at that time: its tenants and times are not known.
func (e *Erasure) Might(store string, s signal.Signal, block certificate.Range, written time.Time) bool {
	if !slices.Contains(e.Stores, store) || !slices.Contains(e.Signals, s) || !written.Before(e.At) {
		return false
	}
	return len(e.Ranges) == 0 || slices.ContainsFunc(e.Ranges, func(r certificate.Range) bool {
		return r.Topic == block.Topic && r.Partition == block.Partition && block.First <= r.Last && block.Last >= r.First
	})
}

type file struct {
	Format   int        `yaml:"format"`
	Erasures []declared `yaml:"erasures"`
}

type declared struct {
	ID      string   `yaml:"id"`
	By      string   `yaml:"by"`
	At      string   `yaml:"at"`
	Reason  string   `yaml:"reason"`
	Stores  []string `yaml:"stores"`
	Tenant  string   `yaml:"tenant"`
	Signals []string `yaml:"signals"`
	From    string   `yaml:"from"`
	To      string   `yaml:"to"`
	Ranges  []string `yaml:"ranges"`
}

// ReadFile reads a file. Its error names every fault.
func ReadFile(path string) ([]Erasure, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

// Read reads declarations.
func Read(r io.Reader) ([]Erasure, error) {
	dec := yaml.NewDecoder(r)
	dec.KnownFields(true)
	var f file
	if err := dec.Decode(&f); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the file is empty")
		}
		return nil, err
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	if f.Format != Version {
		return nil, fmt.Errorf("format: %d: want %d", f.Format, Version)
	}
	if len(f.Erasures) == 0 {
		return nil, errors.New("erasures: there is none")
	}
	var out []Erasure
	var errs []error
	seen := map[string]bool{}
	for i, d := range f.Erasures {
		e, err := d.check()
		if err != nil {
			errs = append(errs, fmt.Errorf("erasures[%d] %q: %w", i, d.ID, err))
		}
		if d.ID != "" && seen[d.ID] {
			errs = append(errs, fmt.Errorf("erasures[%d]: id: %q: is there twice", i, d.ID))
		}
		seen[d.ID] = true
		out = append(out, e)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

func (d *declared) check() (Erasure, error) {
	e := Erasure{ID: d.ID, By: d.By, Reason: d.Reason, Tenant: d.Tenant, Stores: d.Stores}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, must := range []struct{ key, value string }{{"id", d.ID}, {"by", d.By}, {"at", d.At}, {"reason", d.Reason}, {"tenant", d.Tenant}} {
		if strings.TrimSpace(must.value) == "" {
			fail("%s: must be there", must.key)
		}
	}
	at := func(key, text string) (t time.Time) {
		if text == "" {
			return t
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil || t.Year() < 1970 || t.Year() > 2261 { // what nanoseconds of 64 bits hold
			fail("%s: %q: want RFC 3339, like 2026-01-02T15:04:05Z", key, text)
		}
		return t.UTC()
	}
	e.At, e.From, e.To = at("at", d.At), at("from", d.From), at("to", d.To)
	if !e.From.IsZero() && !e.To.IsZero() && !e.From.Before(e.To) {
		fail("from: %q: is not before to: %q", d.From, d.To)
	}
	if d.Stores == nil {
		e.Stores = []string{certificate.Hot, certificate.Lake}
	} else if len(d.Stores) == 0 {
		fail("stores: there is none: leave it out for both")
	}
	for _, s := range e.Stores {
		if s != certificate.Hot && s != certificate.Lake {
			fail("stores: %q: want %s or %s", s, certificate.Hot, certificate.Lake)
		}
	}
	if d.Signals == nil {
		e.Signals = signal.All[:]
	} else if len(d.Signals) == 0 {
		fail("signals: there is none: leave it out for all")
	}
	for _, text := range d.Signals {
		s, err := signal.Parse(text)
		if err != nil {
			fail("signals: %w", err)
		}
		e.Signals = append(e.Signals, s)
	}
	if d.Ranges != nil && len(d.Ranges) == 0 {
		fail("ranges: there is none: leave it out for all of Kafka")
	}
	for _, text := range d.Ranges {
		r, err := certificate.ParseRange(text)
		if err != nil {
			fail("ranges: %w", err)
		}
		e.Ranges = append(e.Ranges, r)
	}
	return e, errors.Join(errs...)
}
