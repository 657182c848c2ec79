// Package yamlfield reads YAML files that people write, strictly: each thing that is wrong is told with its place in the file, the field, the value and the reason. Unknown fields and
// fields that are there twice are errors.
package yamlfield

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
)

// Bounds of what is said about one file, and of what an error quotes.
const (
	// ErrorsMost are told of one file.
	ErrorsMost = 20
	maxQuoted  = 80
	maxMerges  = 4
	maxVisited = 2_000_000 // pairs of mappings: aliases make a small file large
)

// Error is one thing that is wrong with a file.
type Error struct {
	File   string
	Line   int    // 0: the file as a whole
	Column int    // 0: not said
	Field  string // tenants[3].quotas.logs.burst
	Value  string // as it is there; empty where it is no scalar, or may be secret
	Reason string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
		if e.Column > 0 {
			fmt.Fprintf(&b, ":%d", e.Column)
		}
	}
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	if e.Value != "" {
		fmt.Fprintf(&b, ": %q", e.Value)
	}
	return b.String() + ": " + e.Reason
}

// Reader reads YAML nodes into values. What is wrong is collected, and the value left as it was.
type Reader struct {
	File    string
	Columns bool                    // errors say the column, too
	Secret  func(field string) bool // whether a field's value may be secret; nil: none is
	Redact  func(string) string     // takes secrets out of what an error says; nil: there are none

	errs    []error
	missed  int // errors beyond ErrorsMost
	visited int // pairs of mappings
}

// Document returns the one document of a file; its error is an *Error. wants names what a file holds.
func (r *Reader) Document(content []byte, wants string) (*yaml.Node, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(content))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, &Error{File: r.File, Reason: "is empty, want " + wants}
	} else if err != nil {
		return nil, r.broken(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, &Error{File: r.File, Reason: "holds several YAML documents, want one"}
	}
	return Resolved(doc.Content[0]), nil
}

// broken takes the library's name off its message.
func (r *Reader) broken(err error) error {
	return &Error{File: r.File, Reason: "is no YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
}

// Err is everything that was wrong, at most 20 errors and how many more.
func (r *Reader) Err() error {
	errs := r.errs
	if r.missed > 0 {
		errs = append(errs[:len(errs):len(errs)], &Error{File: r.File, Reason: fmt.Sprintf("and %d more errors", r.missed)})
	}
	return errors.Join(errs...)
}

// Bad says that a value is wrong, and quotes it.
func (r *Reader) Bad(n *yaml.Node, field, reason string, args ...any) {
	value := quotable(n)
	if r.Secret != nil && r.Secret(field) {
		value = ""
	}
	r.add(n, field, value, fmt.Sprintf(reason, args...))
}

// BadSecret does not say the value.
func (r *Reader) BadSecret(n *yaml.Node, field, reason string) { r.add(n, field, "", reason) }

func (r *Reader) add(n *yaml.Node, field, value, reason string) {
	if len(r.errs) == ErrorsMost {
		r.missed++
		return
	}
	e := &Error{File: r.File, Line: n.Line, Field: field, Value: value, Reason: reason}
	if r.Columns {
		e.Column = n.Column
	}
	if r.Redact != nil {
		e.Field, e.Value, e.Reason = r.Redact(e.Field), r.Redact(e.Value), r.Redact(e.Reason)
	}
	r.errs = append(r.errs, e)
}

func quotable(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return ""
	}
	if len(n.Value) > maxQuoted {
		return n.Value[:maxQuoted] + "..."
	}
	return n.Value
}

// Resolved follows aliases.
func Resolved(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// Object calls the reader of each field that n has. Fields without a reader, and fields that are there twice, are errors.
func (r *Reader) Object(n *yaml.Node, field string, readers map[string]func(n *yaml.Node, field string)) {
	seen := map[string]bool{}
	r.Mapping(n, field, 0, func(key, value *yaml.Node, merged bool) {
		name := key.Value
		at := Join(field, name)
		read, known := readers[name]
		switch {
		case !known:
			names := make([]string, 0, len(readers))
			for k := range readers {
				names = append(names, k)
			}
			slices.Sort(names)
			r.add(key, at, "", "unknown field, want one of "+strings.Join(names, ", "))
		case seen[name] && !merged:
			r.add(key, at, "", "is there twice")
		case !seen[name]:
			seen[name] = true
			read(Resolved(value), at)
		}
	})
}

// Join is the field of a name within a field.
func Join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

// Mapping calls fn for the pairs of n, then for those that it merges (<<), which give way.
func (r *Reader) Mapping(n *yaml.Node, field string, depth int, fn func(key, value *yaml.Node, merged bool)) {
	if n.Kind != yaml.MappingNode {
		r.Bad(n, field, "want a mapping")
		return
	}
	if depth > maxMerges {
		r.Bad(n, field, "merges nest deeper than %d", maxMerges)
		return
	}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		if r.visited++; r.visited > maxVisited {
			if r.visited == maxVisited+1 {
				r.Bad(n, field, "aliases make the file larger than %d fields", maxVisited)
			}
			return
		}
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			r.Bad(key, field, "want a name")
		case key.Tag == "!!merge":
			merges = append(merges, Resolved(value))
		default:
			fn(key, value, depth > 0)
		}
	}
	for _, m := range merges {
		if r.visited > maxVisited {
			return
		}
		r.Mapping(m, field, depth+1, fn)
	}
}

// List calls read for each item of a sequence of at most most.
func (r *Reader) List(n *yaml.Node, field string, most int, read func(n *yaml.Node, field string)) {
	switch {
	case n.Kind != yaml.SequenceNode:
		r.Bad(n, field, "want a list")
	case len(n.Content) > most:
		r.Bad(n, field, "has %d entries, more than %d", len(n.Content), most)
	default:
		for i, item := range n.Content {
			read(Resolved(item), field+"["+strconv.Itoa(i)+"]")
		}
	}
}

// Text reads a string that valid accepts. A number or a date is one too: ids need no quotes.
func (r *Reader) Text(into *string, want string, valid func(string) bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || !valid(n.Value) {
			r.Bad(n, field, "want %s", want)
			return
		}
		*into = n.Value
	}
}

// OneOf reads one of several words.
func OneOf[T ~string](r *Reader, into *T, words ...T) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		if n.Kind != yaml.ScalarNode || !slices.Contains(words, T(n.Value)) {
			all := make([]string, 0, len(words))
			for _, w := range words {
				all = append(all, string(w))
			}
			r.Bad(n, field, "want %s", strings.Join(all, " or "))
			return
		}
		*into = T(n.Value)
	}
}

// Number reads a finite number between low and high.
func (r *Reader) Number(into *float64, low, high float64) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		v, err := strconv.ParseFloat(n.Value, 64)
		if n.Kind != yaml.ScalarNode || err != nil || !(v >= low && v <= high) { // so that NaN is refused
			r.Bad(n, field, "want a number from %v to %v", low, high)
			return
		}
		*into = v
	}
}

// Whole reads a whole number between low and high.
func (r *Reader) Whole(into *int, low, high int) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v < low || v > high {
			r.Bad(n, field, "want a whole number from %d to %d", low, high)
			return
		}
		*into = v
	}
}

// Bool reads true or false.
func (r *Reader) Bool(into *bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		if n.Kind != yaml.ScalarNode || n.Value != "true" && n.Value != "false" {
			r.Bad(n, field, "want true or false")
			return
		}
		*into = n.Value == "true"
	}
}

// Duration reads one from 0 to most.
func (r *Reader) Duration(into *time.Duration, most time.Duration) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		v, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v < 0 || v > most {
			r.Bad(n, field, "want a duration from 0s to %v, like 60s", most)
			return
		}
		*into = v
	}
}

// Time reads a point in time after the year 2000.
func (r *Reader) Time(into *time.Time) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		v, err := time.Parse(time.RFC3339, n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v.Year() < 2000 {
			r.Bad(n, field, "want a time like 2027-01-31T00:00:00Z")
			return
		}
		*into = v
	}
}
