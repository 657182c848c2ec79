// Package erasure reads declarations of lawful deletions (docs/formats/erasures.md): which rows may be missing from the stores, who erased them,
// when and why. The audit counts such rows as erased instead of lost.
package erasure

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
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
	// Attribute is the key by whose value somebody's events were chosen; empty: they were not chosen by one.
	Attribute string
	// Named are the events that were erased, and no others, by store; nil: those of all that is given above.
	Named map[string]Names
}

// Names are events, by the records of Kafka that they came from.
type Names map[Record][]uint64

// Record is a record of Kafka.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Add adds an event by the part of its id that ledgers add up (ledger.IDSum), once.
func (n Names) Add(r Record, id uint64) {
	if !slices.Contains(n[r], id) {
		n[r] = append(n[r], id)
	}
}

// Events is the number of events.
func (n Names) Events() (events int) {
	for _, ids := range n {
		events += len(ids)
	}
	return events
}

// lines write them, a record a line: "otlp.logs.v1/3/1200 0123456789abcdef 00000000000000ff".
func (n Names) lines() []string {
	order := slices.SortedFunc(maps.Keys(n), func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	out := make([]string, 0, len(n))
	for _, r := range order {
		var line strings.Builder
		_, _ = fmt.Fprintf(&line, "%s/%d/%d", r.Topic, r.Partition, r.Offset) // a strings.Builder does not fail
		for _, id := range slices.Sorted(slices.Values(n[r])) {
			_, _ = fmt.Fprintf(&line, " %016x", id)
		}
		out = append(out, line.String())
	}
	return out
}

// addLine is the inverse.
func (n Names) addLine(line string) error {
	words := strings.Fields(line)
	bad := func() error {
		return fmt.Errorf("%q: want TOPIC/PARTITION/OFFSET ID ..., each id 16 hexadecimal digits", line)
	}
	if len(words) < 2 {
		return bad()
	}
	before, offset, ok := cutLast(words[0])
	topic, partition, okBefore := cutLast(before)
	p, errP := strconv.ParseInt(partition, 10, 32)
	o, errO := strconv.ParseInt(offset, 10, 64)
	if !ok || !okBefore || topic == "" || errP != nil || errO != nil || p < 0 || o < 0 {
		return bad()
	}
	for _, word := range words[1:] {
		id, err := strconv.ParseUint(word, 16, 64)
		if err != nil || len(word) != 16 {
			return bad()
		}
		n.Add(Record{topic, int32(p), o}, id)
	}
	return nil
}

func cutLast(text string) (before, after string, ok bool) {
	i := strings.LastIndexByte(text, '/')
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}

// Event is one that a store lacks.
type Event struct {
	Store     string
	Tenant    string
	Signal    signal.Signal
	Topic     string
	Partition int32
	Offset    int64
	ID        uint64 // the part of its id that ledgers add up (ledger.IDSum)
	Time      int64  // of its row, Unix nanoseconds
	Appended  time.Time
}

// Covers tells whether the erasure explains that the store has no row of the event.
func (e *Erasure) Covers(v Event) bool {
	switch {
	case v.Tenant != e.Tenant, !slices.Contains(e.Stores, v.Store), !slices.Contains(e.Signals, v.Signal), !v.Appended.Before(e.At):
		return false
	case !e.From.IsZero() && v.Time < e.From.UnixNano(), !e.To.IsZero() && v.Time >= e.To.UnixNano():
		return false
	case e.Named != nil && !slices.Contains(e.Named[v.Store][Record{v.Topic, v.Partition, v.Offset}], v.ID):
		return false
	case len(e.Ranges) == 0:
		return true
	}
	return slices.ContainsFunc(e.Ranges, func(r certificate.Range) bool {
		return r.Topic == v.Topic && r.Partition == v.Partition && v.Offset >= r.First && v.Offset <= r.Last
	})
}

// Might tells whether the erasure may explain rows that lack of a block, written to the store at that time: its tenants and times are not known. One that names its events
// does not: they are known.
func (e *Erasure) Might(store string, s signal.Signal, block certificate.Range, written time.Time) bool {
	if e.Named != nil || !slices.Contains(e.Stores, store) || !slices.Contains(e.Signals, s) || !written.Before(e.At) {
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
	ID        string              `yaml:"id"`
	By        string              `yaml:"by"`
	At        string              `yaml:"at"`
	Reason    string              `yaml:"reason"`
	Stores    []string            `yaml:"stores,omitempty"`
	Tenant    string              `yaml:"tenant"`
	Signals   []string            `yaml:"signals,omitempty"`
	From      string              `yaml:"from,omitempty"`
	To        string              `yaml:"to,omitempty"`
	Ranges    []string            `yaml:"ranges,omitempty"`
	Attribute string              `yaml:"attribute,omitempty"`
	Erased    map[string][]string `yaml:"erased,omitempty"`
}

// Declaration writes an erasure of a tenant, or of named events of it, as an entry of a file: what no job erases by, such as times and ranges, is left out.
func (e *Erasure) Declaration() ([]byte, error) {
	d := declared{ID: e.ID, By: e.By, At: e.At.UTC().Format(time.RFC3339Nano), Reason: e.Reason, Tenant: e.Tenant, Attribute: e.Attribute}
	if e.Named != nil {
		d.Erased = map[string][]string{}
		for _, store := range []string{certificate.Hot, certificate.Lake} {
			d.Erased[store] = e.Named[store].lines()
		}
	}
	return yaml.Marshal([]declared{d})
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
	content, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(content))
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
	var keys struct{ Erasures []map[string]any }
	if err := yaml.Unmarshal(content, &keys); err != nil {
		return nil, err
	}
	var out []Erasure
	var errs []error
	seen := map[string]bool{}
	for i, d := range f.Erasures {
		e, err := d.check()
		if _, there := keys.Erasures[i]["erased"]; there && len(d.Erased) == 0 { // else a key with nothing behind it would declare all of the tenant
			err = errors.Join(err, errors.New("erased: there is none: leave it out for all of the tenant"))
		}
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
	e := Erasure{ID: d.ID, By: d.By, Reason: d.Reason, Tenant: d.Tenant, Stores: d.Stores, Attribute: d.Attribute}
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
	if d.Erased != nil {
		e.Named = map[string]Names{}
	}
	if d.Attribute != "" && d.Erased == nil {
		fail("attribute: %q: want erased, the events that had the value", d.Attribute)
	}
	for _, store := range slices.Sorted(maps.Keys(d.Erased)) {
		if store != certificate.Hot && store != certificate.Lake {
			fail("erased: %q: want %s or %s", store, certificate.Hot, certificate.Lake)
			continue
		}
		e.Named[store] = Names{}
		for _, line := range d.Erased[store] {
			if err := e.Named[store].addLine(line); err != nil {
				fail("erased: %s: %w", store, err)
				break // one of perhaps many
			}
		}
	}
	return e, errors.Join(errs...)
}
