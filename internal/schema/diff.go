package schema

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Effect is what a change does to what is accepted.
type Effect string

// The effects.
const (
	Added    Effect = "added"    // a schema, or something that a schema asks
	Removed  Effect = "removed"  // likewise
	Narrowed Effect = "narrowed" // less is accepted
	Widened  Effect = "widened"  // more is accepted
	Changed  Effect = "changed"  // less is accepted of one kind and more of another, or nothing of what is accepted changes
)

// Change is one difference between two registries.
type Change struct {
	Kind     string `json:"kind"`   // event, metric, span or resource
	Schema   string `json:"schema"` // id of the group
	Name     string `json:"name"`   // of the event or metric, or the pattern of span names; * of a resource
	Effect   Effect `json:"effect"`
	Breaking bool   `json:"breaking"` // an event that the old registry accepts may be refused by the new one
	Text     string `json:"text"`     // for people
}

// Diff lists how to differs from from, by kind, name and schema. Where no change is Breaking, to accepts each event that from accepts, whatever the tenant's
// policy on unknown attributes, which must be the same for both, as base must be. The reverse does not hold: a change is called breaking where it cannot be
// ruled out that it refuses an event, whether any such event is sent or not.
func Diff(from, to *Registry, base Limits) []Change {
	d := differ{base: base}
	for _, k := range []kind{eventGroup, metricGroup} {
		names := map[string]bool{}
		for _, r := range []*Registry{from, to} {
			for name := range r.byName[k] {
				names[name] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			d.selected(from.byName[k][name], to.byName[k][name])
		}
	}
	d.selected(from.spans(), to.spans())
	d.resources(from.resources, to.resources)
	return d.out
}

// spans are the schemas of spans in the order in which they are tried; of patterns that begin as long, which no event fits two of, in the order of their names.
func (r *Registry) spans() (out []*Schema) {
	for _, name := range slices.Sorted(maps.Keys(r.byName[spanGroup])) {
		out = append(out, r.byName[spanGroup][name]...)
	}
	longest := func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }
	for _, prefix := range slices.SortedFunc(maps.Keys(r.patterns), longest) {
		out = append(out, r.patterns[prefix]...)
	}
	return out
}

// differ collects changes.
type differ struct {
	base Limits
	out  []Change
}

func (d *differ) add(s *Schema, e Effect, breaking bool, text string) {
	d.out = append(d.out, Change{Kind: s.kind.String(), Schema: s.ID, Name: s.Name, Effect: e, Breaking: breaking, Text: text})
}

// none is what an event without a schema is held against: nothing but the limits.
func none(k kind) *Schema { return &Schema{kind: k, table: noTable} }

// selected compares schemas of which each event has one or none: those of a name, or all of spans. What matters is which of the old ones an event may have had,
// and which of the new ones it then has.
func (d *differ) selected(olds, news []*Schema) {
	before, same, twin := make([][]*Schema, len(news)), make([]bool, len(news)), map[*Schema]*Schema{}
	for i, b := range news {
		after := overlapping(news, b)
		before[i] = overlapping(olds, b)
		if same[i] = sameSelectors(before[i], after); same[i] {
			twin[b] = before[i][slices.Index(after, b)]
		}
	}
	pair(twin, news, func(i int) []*Schema { return before[i] })
	twins := map[*Schema]bool{}
	for _, a := range twin {
		twins[a] = true
	}
	for i, b := range news {
		twin := twin[b]
		if twin != nil {
			d.compared(twin, b)
		}
		if same[i] {
			continue // who had another one still has that
		}
		anew := !slices.ContainsFunc(olds, func(a *Schema) bool { return a.covers(b) })
		if twin == nil {
			reason := ""
			if anew {
				reason = d.narrows(none(b.kind), b)
			}
			d.addedSchema(b, reason)
		} else if reason := d.narrows(none(b.kind), b); anew && reason != "" {
			d.add(b, Narrowed, true, "applies to events that had no schema: "+reason)
		}
		for _, a := range before[i] {
			if a == twin {
				continue
			}
			if reason := d.narrows(a, b); reason != "" {
				d.add(b, Narrowed, true, "may apply to events that had schema "+label(a)+": "+reason)
			}
		}
	}
	for _, a := range olds {
		reason := ""
		if !slices.ContainsFunc(news, func(b *Schema) bool { return b.covers(a) }) {
			reason = d.narrows(a, none(a.kind))
		}
		switch {
		case !twins[a] && reason != "":
			d.add(a, Removed, true, "the schema is gone: "+reason)
		case !twins[a]:
			d.add(a, Removed, false, "the schema is gone")
		case reason != "":
			d.add(a, Narrowed, true, "some events have no schema any more: "+reason)
		}
	}
}

func (d *differ) addedSchema(s *Schema, reason string) {
	if reason == "" {
		d.add(s, Added, false, "a new schema, which asks nothing of what had no schema")
		return
	}
	d.add(s, Added, true, "a new schema for what had none: "+reason)
}

// resources compares schemas of which every one that matches a resource is asked.
func (d *differ) resources(olds, news []*Schema) {
	twin, twins := map[*Schema]*Schema{}, map[*Schema]bool{}
	pair(twin, news, func(int) []*Schema { return olds })
	for _, b := range news {
		twin := twin[b]
		kept := slices.ContainsFunc(olds, func(a *Schema) bool { return a.covers(b) && d.narrows(a, b) == "" })
		if twin == nil {
			reason := ""
			if !kept {
				reason = d.narrows(none(b.kind), b)
			}
			d.addedSchema(b, reason)
			continue
		}
		twins[twin] = true
		d.compared(twin, b)
		if reason := d.narrows(none(b.kind), b); !kept && !twin.covers(b) && reason != "" {
			d.add(b, Narrowed, true, "applies to more resources: "+reason)
		}
	}
	for _, a := range olds {
		if !twins[a] {
			d.add(a, Removed, false, "the schema is gone")
		}
	}
}

// compared notes how b differs from the one that it takes the place of.
func (d *differ) compared(a, b *Schema) {
	c := compare(a, b, d.base)
	for _, f := range c.found {
		d.add(b, f.effect, f.breaking, f.text)
	}
	if a.ID != b.ID {
		d.add(b, Changed, false, "id: was "+a.ID+", is "+b.ID)
	}
	if from, to := a.domain(), b.domain(); from != to {
		d.add(b, Changed, false, "applies to: was "+from+", is "+to)
	}
	if a.Version != b.Version {
		d.add(b, Changed, false, "version: was "+orNone(a.Version)+", is "+orNone(b.Version))
	}
	for _, p := range b.promoted {
		if !slices.Contains(a.promoted, p) {
			d.add(b, Changed, false, "attribute "+p.Key+" wants a column of its own ("+p.Type+")")
		}
	}
	for _, p := range a.promoted {
		if !slices.Contains(b.promoted, p) {
			d.add(b, Changed, false, "attribute "+p.Key+" wants no column of its own any more ("+p.Type+")")
		}
	}
}

// narrows tells why b may refuse what a accepts; empty: it does not.
func (d *differ) narrows(a, b *Schema) string {
	for _, f := range compare(a, b, d.base).found {
		if f.breaking {
			return f.text
		}
	}
	return ""
}

func label(s *Schema) string { return strings.TrimSpace(s.ID + " " + s.Version) }

func orNone(text string) string { return cmp.Or(text, "none") }

// domain is what a schema applies to, in words.
func (s *Schema) domain() string {
	out := s.Name
	for name, kind := range spanKinds {
		if kind == s.spanKind && kind != 0 {
			out += ", span_kind " + name
		}
	}
	if s.match.Scope != "" {
		out += ", scope " + strconv.Quote(s.match.Scope)
	}
	if s.match.SchemaURL != "" {
		out += ", schema_url " + strconv.Quote(s.match.SchemaURL)
	}
	return out
}

// selector is what decides whether an event has a schema, and before which others.
type selector struct {
	name      string
	match     Match
	spanKind  int32
	schemaURL string
}

func selectors(of []*Schema) (out []selector) {
	several := false
	for _, s := range of {
		several = several || s.schemaURL != of[0].schemaURL
	}
	for _, s := range of {
		key := selector{s.Name, s.match, s.spanKind, ""}
		if several { // of schemas of one registry its URL decides nothing
			key.schemaURL = s.schemaURL
		}
		out = append(out, key)
	}
	return out
}

func sameSelectors(a, b []*Schema) bool { return slices.Equal(selectors(a), selectors(b)) }

// pair finds for those that have none yet the schema whose place each takes: the one of its id, else the first that selects the same events.
func pair(twin map[*Schema]*Schema, news []*Schema, among func(i int) []*Schema) {
	taken := map[*Schema]bool{}
	for _, a := range twin {
		taken[a] = true
	}
	for _, is := range []func(a, b *Schema) bool{
		func(a, b *Schema) bool { return a.ID == b.ID && a.Version == b.Version },
		func(a, b *Schema) bool { return a.ID == b.ID },
		func(a, b *Schema) bool { return a.Name == b.Name && a.match == b.match && a.spanKind == b.spanKind },
	} {
		for i, b := range news {
			if twin[b] != nil {
				continue
			}
			from := among(i)
			if k := slices.IndexFunc(from, func(a *Schema) bool { return !taken[a] && is(a, b) }); k >= 0 {
				twin[b] = from[k]
				taken[from[k]] = true
			}
		}
	}
}

// covers tells for sure that s matches all that o matches.
func (s *Schema) covers(o *Schema) bool {
	return (s.Name == o.Name || s.kind == spanGroup && begins(s.Name, o.Name) || s.kind == resourceGroup) && (s.spanKind == 0 || s.spanKind == o.spanKind) &&
		(s.match.Scope == "" || s.match.Scope == o.match.Scope) && (s.match.SchemaURL == "" || s.match.SchemaURL == o.match.SchemaURL)
}

// begins tells for sure that every text that fits another pattern fits this one, which asks for a beginning only.
func begins(pattern, other string) bool {
	prefix, rest, _ := strings.Cut(pattern, "*")
	literal, _, _ := strings.Cut(other, "*")
	return rest == "" && len(prefix) < len(pattern) && strings.HasPrefix(literal, prefix)
}

// overlapping are those that may match an event that s matches.
func overlapping(among []*Schema, s *Schema) (out []*Schema) {
	for _, o := range among {
		if (s.spanKind == 0 || o.spanKind == 0 || s.spanKind == o.spanKind) && (s.Name == o.Name || s.kind == spanGroup && mayMeet(s.Name, o.Name)) &&
			mayMeet(orAll(s.match.Scope), orAll(o.match.Scope)) && mayMeet(orAll(s.match.SchemaURL), orAll(o.match.SchemaURL)) {
			out = append(out, o)
		}
	}
	return out
}

func orAll(pattern string) string { return cmp.Or(pattern, "*") }

// mayMeet tells whether a text may fit two patterns. It is false only where none does.
func mayMeet(a, b string) bool {
	switch i, j := strings.IndexByte(a, '*'), strings.IndexByte(b, '*'); {
	case i < 0 && j < 0:
		return a == b
	case i < 0:
		return glob(b, a)
	case j < 0:
		return glob(a, b)
	default:
		n := min(i, j)
		return a[:n] == b[:n]
	}
}
