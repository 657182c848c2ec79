package schema

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
)

// difference is one thing in which two schemas differ.
type difference struct {
	effect   Effect
	breaking bool
	text     string
}

// comparison is of two schemas of which the second takes the place of the first. It must name a breaking difference for each check of check.go and value.go
// that the second fails where the first does not: who adds a check there adds it here.
type comparison struct {
	from, to           *Schema
	limitsOf, limitsTo Limits
	resource           bool // schemas of resources: limits are none of theirs, and unknown attributes are allowed
	found              []difference
}

func compare(from, to *Schema, base Limits) *comparison {
	c := &comparison{from: from, to: to, limitsOf: base, limitsTo: base, resource: to.kind == resourceGroup}
	c.limitsOf.patch(from.limits)
	c.limitsTo.patch(to.limits)
	if !c.resource {
		c.limits()
		c.unknown()
	}
	c.attributes()
	c.templates()
	c.metric()
	c.body()
	return c
}

// note adds a difference: narrows, the new refuses something that the old accepts; widens, the reverse.
func (c *comparison) note(narrows, widens bool, format string, args ...any) {
	e := Changed
	switch {
	case narrows && !widens:
		e = Narrowed
	case widens && !narrows:
		e = Widened
	}
	c.found = append(c.found, difference{e, narrows, fmt.Sprintf(format, args...)})
}

// less compares limits, of which 0 is none.
func less[T int | int64](a, b T) bool { return a != 0 && (b == 0 || a < b) }

func (c *comparison) limits() {
	f, t := &c.limitsOf, &c.limitsTo
	for _, l := range []struct {
		name     string
		from, to int64
		shown    func(int64) string
	}{
		{"attributes_max", int64(f.AttributesMax), int64(t.AttributesMax), number64},
		{"key_bytes_max", int64(f.KeyBytesMax), int64(t.KeyBytesMax), number64},
		{"value_bytes_max", int64(f.ValueBytesMax), int64(t.ValueBytesMax), number64},
		{"body_bytes_max", int64(f.BodyBytesMax), int64(t.BodyBytesMax), number64},
		{"depth_max", int64(f.DepthMax), int64(t.DepthMax), number64},
		{"age_max", int64(f.AgeMax), int64(t.AgeMax), duration64},
		{"future_max", int64(f.FutureMax), int64(t.FutureMax), duration64},
	} {
		if l.from != l.to {
			c.note(less(l.to, l.from), less(l.from, l.to), "limit %s: was %s, is %s", l.name, l.shown(l.from), l.shown(l.to))
		}
	}
}

// refuses tells whether a schema refuses unknown attributes under one of the policies, and whether it does under each.
func (c *comparison) refuses(s *Schema) (some, all bool) {
	switch {
	case c.resource || s.table == noTable:
		return false, false
	case s.strict != nil:
		return *s.strict, *s.strict
	}
	return true, false
}

func (c *comparison) unknown() {
	some, all := c.refuses(c.from)
	someTo, allTo := c.refuses(c.to)
	if some != someTo || all != allTo {
		c.note(someTo && !some || allTo && !all, some && !someTo || all && !allTo, "unknown attributes: were %s, are %s", unknownText(some, all), unknownText(someTo, allTo))
	}
}

func unknownText(some, all bool) string {
	switch {
	case all:
		return "refused"
	case some:
		return "as the tenant's policy says"
	}
	return "allowed"
}

// anything is the check that asks nothing.
var anything = &check{}

// attributes compares what is asked of the keys that one of the schemas names. Of all others, templates.
func (c *comparison) attributes() {
	keys := map[string]bool{}
	for _, t := range []*table{c.from.table, c.to.table} {
		for key := range t.index {
			keys[key] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		from, to := c.from.table.find([]byte(key)), c.to.table.find([]byte(key))
		what := "attribute " + key
		switch {
		case from != nil && to != nil:
			c.checks(what, from, to, c.values())
			c.required(what, from, to)
		case to != nil:
			c.addedAttribute(what, key, to)
		default:
			c.removedAttribute(what, key, from)
		}
	}
}

func (c *comparison) required(what string, from, to *check) {
	switch {
	case to.required && !from.required:
		c.note(true, false, "%s is required", what)
	case from.required && !to.required:
		c.note(false, true, "%s is not required any more", what)
	}
}

func (c *comparison) addedAttribute(what, key string, to *check) {
	some, all := c.refuses(c.from)
	before := c.from.table.template([]byte(key))
	accepted := before != nil || !all
	if before == nil {
		before = anything
	}
	// An attribute that a schema names must not occur twice.
	narrows, widens := to.required || accepted, some && c.from.table.template([]byte(key)) == nil
	text := describe(to)
	switch {
	case to.required:
		text += ", required"
	case accepted && !c.accepts(before, to, c.values()):
		text += "; it was accepted unseen"
	case accepted:
		text += "; it must not occur twice any more"
	}
	c.note(narrows, widens, "%s is added: %s", what, text)
}

func (c *comparison) removedAttribute(what, key string, from *check) {
	v := c.values()
	if t := c.to.table.template([]byte(key)); t != nil {
		narrows := !c.accepts(from, t, v) || c.keyRefused(key)
		c.note(narrows, true, "%s is removed: it is one of %s*, %s", what, c.templatePrefix(key), describe(t))
		return
	}
	some, all := c.refuses(c.to)
	switch {
	case all:
		c.note(true, false, "%s is removed: it is refused as unknown", what)
	case some:
		c.note(true, true, "%s is removed: it is refused as unknown where the tenant's policy is strict", what)
	default:
		c.note(!c.accepts(from, anything, v) || c.keyRefused(key), true, "%s is removed: it is not looked at any more", what)
	}
}

// keyRefused tells whether a key is too long where no schema names it.
func (c *comparison) keyRefused(key string) bool {
	return !c.resource && less(int64(c.limitsTo.KeyBytesMax), int64(len(key)))
}

func (c *comparison) templatePrefix(key string) string {
	for _, t := range c.to.table.templates {
		if len(key) > len(t.prefix) && strings.HasPrefix(key, t.prefix) {
			return t.prefix
		}
	}
	return ""
}

// templates compares what is asked of keys that neither schema names.
func (c *comparison) templates() {
	from, to, v := c.from.table.templates, c.to.table.templates, c.values()
	if slices.EqualFunc(from, to, func(a, b template) bool { return a.prefix == b.prefix }) {
		for i := range from {
			c.checks("attributes "+from[i].prefix+"*", &from[i].check, &to[i].check, v)
		}
		return
	}
	_, allFrom := c.refuses(c.from)
	someTo, _ := c.refuses(c.to)
	for _, t := range to {
		covered, same := false, false
		narrows := false
		for _, f := range from {
			covered = covered || strings.HasPrefix(t.prefix, f.prefix)
			same = same || t.prefix == f.prefix && sameCheck(&f.check, &t.check)
			if strings.HasPrefix(t.prefix, f.prefix) || strings.HasPrefix(f.prefix, t.prefix) {
				narrows = narrows || !c.accepts(&f.check, &t.check, v)
			}
		}
		narrows = narrows || !covered && !allFrom && !c.accepts(anything, &t.check, v)
		if !same || narrows {
			c.note(narrows, true, "attributes %s*: are %s", t.prefix, describe(&t.check))
		}
	}
	for _, f := range from {
		if slices.ContainsFunc(to, func(t template) bool { return strings.HasPrefix(f.prefix, t.prefix) }) {
			continue
		}
		c.note(someTo || !c.accepts(&f.check, anything, v), true, "attributes %s*: were %s, are not described any more", f.prefix, describe(&f.check))
	}
}

func (c *comparison) metric() {
	from, to := c.from.metric, c.to.metric
	switch {
	case from == nil && to == nil:
		return
	case from == nil:
		c.note(true, false, "the metric must be a %s", to.instrument)
		return
	case to == nil:
		c.note(false, true, "the metric needs not be a %s any more", from.instrument)
		return
	}
	if from.instrument != to.instrument {
		c.note(true, true, "instrument: was %s, is %s", from.instrument, to.instrument)
	}
	if unit, unitTo := from.unit, to.unit; unit != unitTo && (unit == nil || unitTo == nil || *unit != *unitTo) {
		c.note(unitTo != nil, unit != nil, "unit: was %s, is %s", unitText(unit), unitText(unitTo))
	}
	if from.temporality != to.temporality {
		c.note(to.temporality != 0, from.temporality != 0, "temporality: was %s, is %s", temporalityText(from.temporality), temporalityText(to.temporality))
	}
}

func unitText(unit *string) string {
	if unit == nil {
		return "any"
	}
	return strconv.Quote(*unit)
}

func temporalityText(t int32) string {
	if t == 0 {
		return "either"
	}
	return temporality(t)
}

func (c *comparison) body() {
	from, to := c.from.body, c.to.body
	if from == nil && to == nil {
		return
	}
	if from == nil {
		from = anything
	}
	if to == nil {
		to = anything
	}
	c.checks("body", from, to, sizes{true, c.limitsOf.BodyBytesMax, c.limitsTo.BodyBytesMax})
	c.required("body", from, to)
}

// sizes are the limits of a value that has none of its own.
type sizes struct {
	checked  bool // else values may be of any size
	from, to int
}

func (c *comparison) values() sizes {
	return sizes{!c.resource, c.limitsOf.ValueBytesMax, c.limitsTo.ValueBytesMax}
}

// accepts tells whether one check takes every value that another takes.
func (c *comparison) accepts(from, to *check, v sizes) bool {
	probe := comparison{limitsOf: c.limitsOf, limitsTo: c.limitsTo, resource: c.resource}
	probe.checks("", from, to, v)
	return !slices.ContainsFunc(probe.found, func(d difference) bool { return d.breaking })
}

func sameCheck(a, b *check) bool {
	c := comparison{}
	c.checks("", a, b, sizes{})
	return len(c.found) == 0 && ownBytes(a) == ownBytes(b)
}

// aspect is a part of a check: narrows tells whether the second takes less of what the first takes.
type aspect struct {
	name    string
	text    func(*check) string
	narrows func(from, to *check) bool
}

var aspects = []aspect{
	{"members", membersText, narrowsMembers}, {"pattern", patternText, narrowsPattern}, {"range", rangeText, narrowsRange},
}

// checks compares what is asked of a value.
func (c *comparison) checks(what string, from, to *check, v sizes) {
	if from.pii != to.pii {
		c.note(false, false, "%s: personal data: was %t, is %t", what, from.pii, to.pii)
	}
	if narrows, widens := narrowsType(from, to), narrowsType(to, from); narrows || widens {
		c.note(narrows, widens, "%s: type: was %s, is %s", what, from.expected(), to.expected())
		if narrows {
			return // whatever else is asked: they are of two kinds
		}
	}
	for _, a := range aspects {
		narrows, widens := a.narrows(from, to), a.narrows(to, from)
		if narrows || widens {
			c.note(narrows, widens, "%s: %s: was %s, is %s", what, a.name, a.text(from), a.text(to))
		}
	}
	if own, ownTo := ownBytes(from), ownBytes(to); v.checked && own != ownTo && mayBe(from.types, otlpwire.TypeString, otlpwire.TypeBytes, otlpwire.TypeArray, otlpwire.TypeMap) {
		most, mostTo := orLimit(own, v.from), orLimit(ownTo, v.to)
		if most != mostTo {
			c.note(less(mostTo, most), less(most, mostTo), "%s: value_bytes_max: was %s, is %s", what, number64(int64(most)), number64(int64(mostTo)))
		}
	}
	c.fields(what, from, to)
}

// fields compares what is asked of the fields of a map in a body. Fields that a schema does not name are allowed.
func (c *comparison) fields(what string, from, to *check) {
	f, t := fieldsOf(from), fieldsOf(to)
	if f == noTable && t == noTable || !mayBe(from.types, otlpwire.TypeMap) {
		return
	}
	keys := map[string]bool{}
	for key := range f.index {
		keys[key] = true
	}
	for key := range t.index {
		keys[key] = true
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		one, oneTo := f.find([]byte(key)), t.find([]byte(key))
		if one == nil {
			one = anything
		}
		if oneTo == nil {
			oneTo = anything
		}
		at := what + " field " + key
		c.checks(at, one, oneTo, sizes{}) // the size of a field is not checked
		c.required(at, one, oneTo)
	}
}

func fieldsOf(c *check) *table {
	if c.more == nil || c.more.fields == nil {
		return noTable
	}
	return c.more.fields
}

func ownBytes(c *check) int {
	if c.more == nil {
		return 0
	}
	return c.more.bytesMax
}

func orLimit(own, limit int) int {
	if own > 0 {
		return own
	}
	return limit
}

func subset(a, b typeSet) bool { return b == 0 || a != 0 && a&^b == 0 }

func mayBe(s typeSet, types ...otlpwire.ValueType) bool {
	return slices.ContainsFunc(types, s.has)
}

func narrowsType(from, to *check) bool {
	if !subset(from.types, to.types) {
		return true
	}
	return from.types.has(otlpwire.TypeArray) && to.items != 0 && !subset(from.items, to.items)
}

// scalars are the types of the single values that a check takes: of an array, those of its items.
func scalars(c *check) typeSet {
	if c.types == bit(otlpwire.TypeArray) {
		return c.items
	}
	return c.types
}

func narrowsMembers(from, to *check) bool {
	if to.more == nil {
		return false
	}
	var known more
	if from.more != nil {
		known = *from.more
	}
	if to.more.strings != nil && mayBe(scalars(from), otlpwire.TypeString) {
		if known.strings == nil {
			return true
		}
		for member := range known.strings {
			if _, ok := to.more.strings[member]; !ok {
				return true
			}
		}
	}
	if to.more.ints != nil && mayBe(scalars(from), otlpwire.TypeInt) {
		if known.ints == nil {
			return true
		}
		for member := range known.ints {
			if _, ok := to.more.ints[member]; !ok {
				return true
			}
		}
	}
	return false
}

func narrowsPattern(from, to *check) bool {
	if to.more == nil || to.more.pattern == nil || !mayBe(scalars(from), otlpwire.TypeString) {
		return false
	}
	if from.more == nil {
		return true
	}
	if from.more.pattern != nil && from.more.pattern.String() == to.more.pattern.String() {
		return false
	}
	for member := range from.more.strings {
		if !to.more.pattern.MatchString(member) {
			return true
		}
	}
	return from.more.strings == nil
}

func narrowsRange(from, to *check) bool {
	if to.more == nil || !to.more.ranged || !mayBe(scalars(from), otlpwire.TypeInt, otlpwire.TypeDouble) {
		return false
	}
	switch m := from.more; {
	case m == nil:
		return true
	case m.ranged:
		return m.min < to.more.min || m.max > to.more.max
	case m.ints != nil:
		for member := range m.ints {
			if x := float64(member); x < to.more.min || x > to.more.max {
				return true
			}
		}
		return false
	}
	return true
}

// describe is a check in words.
func describe(c *check) string {
	out := c.expected()
	for _, a := range aspects {
		if text := a.text(c); text != "any" {
			out += ", " + a.name + " " + text
		}
	}
	if n := ownBytes(c); n > 0 {
		out += ", at most " + strconv.Itoa(n) + " bytes"
	}
	return out
}

func membersText(c *check) string {
	if c.more == nil || c.more.members == "" {
		return "any"
	}
	return clip(strings.TrimPrefix(c.more.members, "one of "), maxExpectedBytes)
}

func patternText(c *check) string {
	if c.more == nil || c.more.pattern == nil {
		return "any"
	}
	return c.more.pattern.String()
}

func rangeText(c *check) string {
	if c.more == nil || !c.more.ranged {
		return "any"
	}
	end := func(x float64) string {
		if math.IsInf(x, 0) {
			return ""
		}
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	return end(c.more.min) + ".." + end(c.more.max)
}

func number64(n int64) string {
	if n == 0 {
		return "none"
	}
	return strconv.FormatInt(n, 10)
}

func duration64(n int64) string {
	if n == 0 {
		return "none"
	}
	return time.Duration(n).String()
}
