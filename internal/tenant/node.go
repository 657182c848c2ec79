package tenant

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Bounds of what is said about one file, and of what an error quotes.
const (
	maxErrors  = 20
	maxQuoted  = 80
	maxMerges  = 4
	maxVisited = 2_000_000 // pairs of mappings: aliases make a small file large
)

// FieldError is one thing that is wrong with a file.
type FieldError struct {
	File   string
	Line   int    // 0: the file as a whole
	Field  string // tenants[3].quotas.logs.burst
	Value  string // as it is there; empty where it is no scalar, or may be secret
	Reason string
}

func (e *FieldError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	if e.Value != "" {
		fmt.Fprintf(&b, ": %q", e.Value)
	}
	return pastedKey.ReplaceAllString(b.String()+": "+e.Reason, KeyPrefix+"...")
}

// pastedKey is an API key, or the beginning of one, at whatever place somebody pasted it: errors go to logs and terminals.
var pastedKey = regexp.MustCompile(regexp.QuoteMeta(KeyPrefix) + `[0-9A-Za-z_]*`)

// nodes reads YAML nodes into values. What is wrong is collected, and the value left as it was.
type nodes struct {
	file    string
	errs    []error
	missed  int // errors beyond maxErrors
	visited int // pairs of mappings
}

func (r *nodes) bad(n *yaml.Node, field, reason string, args ...any) {
	value := quotable(n)
	if strings.HasSuffix(field, "keys") || strings.HasSuffix(field, "]") && strings.Contains(field, ".keys[") {
		value = "" // what stands in the place of a key's fields may be the key
	}
	r.add(&FieldError{File: r.file, Line: n.Line, Field: field, Value: value, Reason: fmt.Sprintf(reason, args...)})
}

// badSecret does not say the value.
func (r *nodes) badSecret(n *yaml.Node, field, reason string) {
	r.add(&FieldError{File: r.file, Line: n.Line, Field: field, Reason: reason})
}

func (r *nodes) add(err error) {
	if len(r.errs) == maxErrors {
		r.missed++
		return
	}
	r.errs = append(r.errs, err)
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

func resolved(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// object calls the reader of each field that n has. Fields without a reader, and fields that are there twice, are errors.
func (r *nodes) object(n *yaml.Node, field string, readers map[string]func(n *yaml.Node, field string)) {
	seen := map[string]bool{}
	r.mapping(n, field, 0, func(key, value *yaml.Node, merged bool) {
		name := key.Value
		at := join(field, name)
		read, known := readers[name]
		switch {
		case !known:
			names := make([]string, 0, len(readers))
			for k := range readers {
				names = append(names, k)
			}
			slices.Sort(names)
			r.add(&FieldError{File: r.file, Line: key.Line, Field: at, Reason: "unknown field, want one of " + strings.Join(names, ", ")})
		case seen[name] && !merged:
			r.add(&FieldError{File: r.file, Line: key.Line, Field: at, Reason: "is there twice"})
		case !seen[name]:
			seen[name] = true
			read(resolved(value), at)
		}
	})
}

func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

// mapping calls fn for the pairs of n, then for those that it merges (<<), which give way.
func (r *nodes) mapping(n *yaml.Node, field string, depth int, fn func(key, value *yaml.Node, merged bool)) {
	if n.Kind != yaml.MappingNode {
		r.bad(n, field, "want a mapping")
		return
	}
	if depth > maxMerges {
		r.bad(n, field, "merges nest deeper than %d", maxMerges)
		return
	}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		if r.visited++; r.visited > maxVisited {
			if r.visited == maxVisited+1 {
				r.bad(n, field, "aliases make the file larger than %d fields", maxVisited)
			}
			return
		}
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			r.bad(key, field, "want a name")
		case key.Tag == "!!merge":
			merges = append(merges, resolved(value))
		default:
			fn(key, value, depth > 0)
		}
	}
	for _, m := range merges {
		if r.visited > maxVisited {
			return
		}
		r.mapping(m, field, depth+1, fn)
	}
}

// list calls read for each item of a sequence of at most most.
func (r *nodes) list(n *yaml.Node, field string, most int, read func(n *yaml.Node, field string)) {
	switch {
	case n.Kind != yaml.SequenceNode:
		r.bad(n, field, "want a list")
	case len(n.Content) > most:
		r.bad(n, field, "has %d entries, more than %d", len(n.Content), most)
	default:
		for i, item := range n.Content {
			read(resolved(item), field+"["+strconv.Itoa(i)+"]")
		}
	}
}

// text reads a string that valid accepts. A number or a date is one too: ids need no quotes.
func (r *nodes) text(into *string, want string, valid func(string) bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || !valid(n.Value) {
			r.bad(n, field, "want %s", want)
			return
		}
		*into = n.Value
	}
}

// oneOf reads one of several words.
func oneOf[T ~string](r *nodes, into *T, words ...T) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		if n.Kind != yaml.ScalarNode || !slices.Contains(words, T(n.Value)) {
			all := make([]string, 0, len(words))
			for _, w := range words {
				all = append(all, string(w))
			}
			r.bad(n, field, "want %s", strings.Join(all, " or "))
			return
		}
		*into = T(n.Value)
	}
}

// number reads a finite number between low and high.
func (r *nodes) number(into *float64, low, high float64) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		v, err := strconv.ParseFloat(n.Value, 64)
		if n.Kind != yaml.ScalarNode || err != nil || !(v >= low && v <= high) { // so that NaN is refused
			r.bad(n, field, "want a number from %v to %v", low, high)
			return
		}
		*into = v
	}
}

func (r *nodes) duration(into *time.Duration, most time.Duration) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		v, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v < 0 || v > most {
			r.bad(n, field, "want a duration from 0s to %v, like 60s", most)
			return
		}
		*into = v
	}
}

func (r *nodes) time(into *time.Time) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		v, err := time.Parse(time.RFC3339, n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v.Year() < 2000 {
			r.bad(n, field, "want a time like 2027-01-31T00:00:00Z")
			return
		}
		*into = v
	}
}
