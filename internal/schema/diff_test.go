package schema_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/xpdata"

	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// eventSchema is a registry of one event schema, e, with these lines behind its name.
func eventSchema(lines ...string) string {
	return "groups:\n  - {id: other, type: event, name: other}\n  - id: event.e\n    type: event\n    name: e\n" + strings.Join(lines, "\n") + "\n"
}

func attributesOf(lines ...string) string {
	return "    attributes:\n      - " + strings.Join(lines, "\n      - ")
}

// Guarantee: each kind of change is told with its effect, and whether it may refuse what was accepted. The first of a pair is the old one; the other way round it is the other example.
func TestEachKindOfChangeHasACompatibleAndABreakingExample(t *testing.T) {
	strict := "    annotations: {pulsegrid: {unknown_attributes: strict}}"
	keep := "{id: keep, type: string}"
	type want struct {
		effect   schema.Effect
		breaking bool
		text     string
	}
	for name, test := range map[string]struct {
		old, new        string
		forth, backward want
	}{
		"a schema": {
			"groups: [{id: other, type: event, name: other}]", eventSchema(),
			want{schema.Added, true, "unknown attributes: were allowed, are as the tenant's policy says"}, want{schema.Removed, false, "the schema is gone"},
		},
		"a required attribute": {
			eventSchema(attributesOf(keep)), eventSchema(attributesOf(keep, "{id: a, type: string, requirement_level: required}")),
			want{schema.Changed, true, "attribute a is added: string, required"}, want{schema.Changed, true, "attribute a is removed: it is refused as unknown where the tenant's policy is strict"},
		},
		"an attribute of a strict schema": {
			eventSchema(strict, attributesOf(keep)), eventSchema(strict, attributesOf(keep, "{id: a, type: string}")),
			want{schema.Widened, false, "attribute a is added: string"}, want{schema.Narrowed, true, "attribute a is removed: it is refused as unknown"},
		},
		"required": {
			eventSchema(attributesOf("{id: a, type: string}")), eventSchema(attributesOf("{id: a, type: string, requirement_level: required}")),
			want{schema.Narrowed, true, "attribute a is required"}, want{schema.Widened, false, "attribute a is not required any more"},
		},
		"type": {
			eventSchema(attributesOf("{id: a, type: int}")), eventSchema(attributesOf("{id: a, type: double}")),
			want{schema.Widened, false, "attribute a: type: was int, is double"}, want{schema.Narrowed, true, "attribute a: type: was double, is int"},
		},
		"items": {
			eventSchema(attributesOf("{id: a, type: 'string[]'}")), eventSchema(attributesOf("{id: a, type: any}")),
			want{schema.Widened, false, "attribute a: type: was string[], is any"}, want{schema.Narrowed, true, "attribute a: type: was any, is string[]"},
		},
		"members": {
			eventSchema(attributesOf("{id: a, type: {allow_custom_values: false, members: [{id: x, value: x}]}}")),
			eventSchema(attributesOf("{id: a, type: {allow_custom_values: false, members: [{id: x, value: x}, {id: y, value: y}]}}")),
			want{schema.Widened, false, "attribute a: members: was x, is x, y"}, want{schema.Narrowed, true, "attribute a: members: was x, y, is x"},
		},
		"an enum": {
			eventSchema(attributesOf("{id: a, type: {allow_custom_values: false, members: [{id: x, value: 1}]}}")), eventSchema(attributesOf("{id: a, type: {members: [{id: x, value: 1}]}}")),
			want{schema.Widened, false, "attribute a: members: was 1, is any"}, want{schema.Narrowed, true, "attribute a: members: was any, is 1"},
		},
		"pattern": {
			eventSchema(attributesOf("{id: a, type: string, annotations: {pulsegrid: {pattern: '^o-'}}}")), eventSchema(attributesOf("{id: a, type: string}")),
			want{schema.Widened, false, "attribute a: pattern: was ^o-, is any"}, want{schema.Narrowed, true, "attribute a: pattern: was any, is ^o-"},
		},
		"another pattern": {
			eventSchema(attributesOf("{id: a, type: string, annotations: {pulsegrid: {pattern: '^a'}}}")), eventSchema(attributesOf("{id: a, type: string, annotations: {pulsegrid: {pattern: 'b$'}}}")),
			want{schema.Changed, true, "attribute a: pattern: was ^a, is b$"}, want{schema.Changed, true, "attribute a: pattern: was b$, is ^a"},
		},
		"range": {
			eventSchema(attributesOf("{id: a, type: int, annotations: {pulsegrid: {min: 1, max: 5}}}")), eventSchema(attributesOf("{id: a, type: int, annotations: {pulsegrid: {min: 0}}}")),
			want{schema.Widened, false, "attribute a: range: was 1..5, is 0.."}, want{schema.Narrowed, true, "attribute a: range: was 0.., is 1..5"},
		},
		"size": {
			eventSchema(attributesOf("{id: a, type: string, annotations: {pulsegrid: {value_bytes_max: 8}}}")), eventSchema(attributesOf("{id: a, type: string, annotations: {pulsegrid: {value_bytes_max: 9}}}")),
			want{schema.Widened, false, "attribute a: value_bytes_max: was 8, is 9"}, want{schema.Narrowed, true, "attribute a: value_bytes_max: was 9, is 8"},
		},
		"a template": {
			eventSchema(attributesOf("{id: t, type: 'template[int]'}")), eventSchema(attributesOf("{id: t, type: 'template[double]'}")),
			want{schema.Widened, false, "attributes t.*: type: was int, is double"}, want{schema.Narrowed, true, "attributes t.*: type: was double, is int"},
		},
		"unknown attributes": {
			eventSchema(strict), eventSchema(),
			want{schema.Widened, false, "unknown attributes: were refused, are as the tenant's policy says"}, want{schema.Narrowed, true, "unknown attributes: were as the tenant's policy says, are refused"},
		},
		"a limit": {
			eventSchema("    annotations: {pulsegrid: {limits: {body_bytes_max: 4}}}"), eventSchema("    annotations: {pulsegrid: {limits: {body_bytes_max: 0}}}"),
			want{schema.Widened, false, "limit body_bytes_max: was 4, is none"}, want{schema.Narrowed, true, "limit body_bytes_max: was none, is 4"},
		},
		"a body's field": {
			eventSchema("    body: {id: b, type: map, fields: [{id: f, type: int}]}"), eventSchema("    body: {id: b, type: map, fields: [{id: f, type: int}, {id: g, type: any}]}"),
			want{}, want{},
		},
		"a required field of a body": {
			eventSchema("    body: {id: b, type: map, fields: [{id: f, type: int, requirement_level: required}]}"), eventSchema("    body: {id: b, type: map, fields: [{id: f, type: int}]}"),
			want{schema.Widened, false, "body field f is not required any more"}, want{schema.Narrowed, true, "body field f is required"},
		},
		"a body": {
			eventSchema("    body: {id: b, type: string, requirement_level: required}"), eventSchema("    body: {id: b, type: string}"),
			want{schema.Widened, false, "body is not required any more"}, want{schema.Narrowed, true, "body is required"},
		},
		"unit": {
			"groups: [{id: m, type: metric, metric_name: m, instrument: gauge, unit: s}]", "groups: [{id: m, type: metric, metric_name: m, instrument: gauge}]",
			want{schema.Widened, false, `unit: was "s", is any`}, want{schema.Narrowed, true, `unit: was any, is "s"`},
		},
		"temporality": {
			"groups: [{id: m, type: metric, metric_name: m, instrument: counter, annotations: {pulsegrid: {temporality: delta}}}]", "groups: [{id: m, type: metric, metric_name: m, instrument: counter}]",
			want{schema.Widened, false, "temporality: was delta, is either"}, want{schema.Narrowed, true, "temporality: was either, is delta"},
		},
		"instrument": {
			"groups: [{id: m, type: metric, metric_name: m, instrument: counter}]", "groups: [{id: m, type: metric, metric_name: m, instrument: gauge}]",
			want{schema.Changed, true, "instrument: was counter, is gauge"}, want{schema.Changed, true, "instrument: was gauge, is counter"},
		},
		"what a span's schema applies to": {
			"groups: [{id: s, type: span, annotations: {pulsegrid: {match: {name: 'GET *'}, unknown_attributes: open}}, attributes: [{id: a, type: int}]}]",
			"groups: [{id: s, type: span, annotations: {pulsegrid: {match: {name: 'GET /a*'}, unknown_attributes: open}}, attributes: [{id: a, type: int}]}]",
			want{schema.Changed, false, "applies to: was GET *, is GET /a*"}, want{schema.Narrowed, true, "applies to events that had no schema: attribute a is added: int; it was accepted unseen"},
		},
		"a resource": {
			"groups: [{id: r, type: resource, annotations: {pulsegrid: {match: {}}}, attributes: [{id: a, type: int, requirement_level: required}]}]",
			"groups: [{id: r, type: resource, annotations: {pulsegrid: {match: {}}}, attributes: [{id: a, type: int}]}]",
			want{schema.Widened, false, "attribute a is not required any more"}, want{schema.Narrowed, true, "attribute a is required"},
		},
		"version": {
			eventSchema("    annotations: {pulsegrid: {version: 1.0.0}}"), eventSchema("    annotations: {pulsegrid: {version: 1.1.0}}"),
			want{schema.Changed, false, "version: was 1.0.0, is 1.1.0"}, want{schema.Changed, false, "version: was 1.1.0, is 1.0.0"},
		},
		"a version beside another": {
			eventSchema("    annotations: {pulsegrid: {version: 1.0.0}}", attributesOf("{id: a, type: int}")),
			eventSchema("    annotations: {pulsegrid: {version: 1.0.0}}", attributesOf("{id: a, type: int}")) +
				"  - {id: event.e2, type: event, name: e, annotations: {pulsegrid: {version: 2.0.0}}, attributes: [{ref: a, requirement_level: required}]}\n",
			want{schema.Narrowed, true, "may apply to events that had schema event.e 1.0.0: attribute a is required"}, want{schema.Removed, false, "the schema is gone"},
		},
		"personal data": {
			eventSchema(attributesOf("{id: a, type: int}")), eventSchema(attributesOf("{id: a, type: int, annotations: {pulsegrid: {pii: true}}}")),
			want{schema.Changed, false, "attribute a: personal data: was false, is true"}, want{schema.Changed, false, "attribute a: personal data: was true, is false"},
		},
		"a column": {
			eventSchema(attributesOf("{id: a, type: int}")), eventSchema(attributesOf("{id: a, type: int, annotations: {pulsegrid: {promote: true}}}")),
			want{schema.Changed, false, "attribute a wants a column of its own (int)"}, want{schema.Changed, false, "attribute a wants no column of its own any more (int)"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := load(t, test.old), load(t, test.new)
			require.Empty(t, schema.Diff(before, before, schema.DefaultLimits()))
			require.Empty(t, schema.Diff(after, after, schema.DefaultLimits()))
			for _, way := range []struct {
				from, to *schema.Registry
				want     want
			}{{before, after, test.forth}, {after, before, test.backward}} {
				found := schema.Diff(way.from, way.to, schema.DefaultLimits())
				if way.want == (want{}) {
					require.Empty(t, found)
					continue
				}
				require.True(t, slices.ContainsFunc(found, func(c schema.Change) bool {
					return c.Effect == way.want.effect && c.Breaking == way.want.breaking && strings.HasSuffix(c.Text, way.want.text)
				}), "want %v, found %v", way.want, found)
				require.Equal(t, way.want.breaking, slices.ContainsFunc(found, func(c schema.Change) bool { return c.Breaking }), "%v", found)
			}
		})
	}
}

// Scenario: two versions of a registry lie beside one another; both become a version newer, with the same schemas.
// Guarantee: an event that names the version which is the newer one before and the older one afterwards has another schema then, and the diff says so.
func TestAnEventThatNamesAVersionGetsAnotherSchema(t *testing.T) {
	registries := func(older, newer string) *schema.Registry {
		r, err := schema.Load([]schema.File{
			{Name: "a/manifest.yaml", Content: []byte("schema_url: https://x/" + older + "\n")},
			{Name: "a/a.yaml", Content: []byte("groups: [{id: a, type: event, name: e, attributes: [{id: k, type: int, requirement_level: required}]}]")},
			{Name: "b/manifest.yaml", Content: []byte("schema_url: https://x/" + newer + "\n")},
			{Name: "b/b.yaml", Content: []byte("groups: [{id: b, type: event, name: e, attributes: [{id: k, type: int}]}]")},
		})
		require.NoError(t, err)
		return r
	}
	found := schema.Diff(registries("1", "2"), registries("2", "3"), schema.DefaultLimits())
	require.True(t, slices.ContainsFunc(found, func(c schema.Change) bool {
		return c.Breaking && c.Text == "may apply to events that had schema b 2: attribute k is required"
	}), "%v", found)
}

// anyRegistry is a random registry as its parts, so that another one can be made of it by small changes.
type anyRegistry struct{ groups []anyGroup }

type anyGroup struct {
	typ, name, scope, version, spanKind, instrument, unit, temporality, unknown, limit string
	attributes, fields                                                                 []anyAttribute
	body                                                                               *anyAttribute
}

type anyAttribute struct {
	key, typ, asked string
	required        bool
}

func one[T any](g *rand.Rand, of ...T) T { return of[g.IntN(len(of))] }

func newAttribute(g *rand.Rand, key string) anyAttribute {
	a := anyAttribute{key: key, required: g.IntN(6) == 0}
	switch a.typ = one(g, "string", "string", "string", "string", "int", "double", "boolean", "any", "'string[]'", "'int[]'", "'any[]'", "closed", "numbers"); a.typ {
	case "string", "'string[]'":
		a.asked = one(g, "", "pattern: '^a'", "pattern: '^a'", "pattern: 'b$'", "value_bytes_max: 2", "value_bytes_max: 8")
	case "int", "double", "'int[]'":
		a.asked = one(g, "", "", "min: 1", "min: 0, max: 2", "max: 3")
	case "closed":
		a.typ = "{members: [" + one(g, "{id: a, value: a}", "{id: a, value: a}, {id: b, value: ab}") + "]}"
		a.asked = one(g, "enum: open", "enum: closed", "enum: closed, pattern: '^a'")
	case "numbers":
		a.typ, a.asked = "{members: ["+one(g, "{id: a, value: 1}", "{id: a, value: 1}, {id: b, value: 2}")+"]}", one(g, "enum: open", "enum: closed", "enum: closed, max: 1")
	}
	return a
}

func (a anyAttribute) String() string {
	level := "recommended"
	if a.required {
		level = "required"
	}
	return fmt.Sprintf("{id: %s, type: %s, requirement_level: %s, annotations: {pulsegrid: {%s}}}", a.key, a.typ, level, a.asked)
}

func newGroup(g *rand.Rand, typ string) anyGroup {
	s := anyGroup{typ: typ, scope: one(g, "", "", "s1", "s*"), version: one(g, "1", "2", "3"), unknown: one(g, "", "open", "strict")}
	s.limit = one(g, "", "", "value_bytes_max: 2", "attributes_max: 2", "body_bytes_max: 3", "key_bytes_max: 2", "depth_max: 1")
	switch typ {
	case "event":
		s.name = "e"
		if g.IntN(2) == 0 {
			b := newAttribute(g, "b")
			s.body = &b
			for _, key := range []string{"k", "l"} {
				if g.IntN(2) == 0 {
					s.fields = append(s.fields, newAttribute(g, key))
				}
			}
		}
	case "metric":
		s.name, s.instrument, s.unit, s.temporality = "m", one(g, "counter", "updowncounter", "gauge"), one(g, "", "s"), one(g, "", "delta")
	case "span":
		s.name, s.spanKind = one(g, "*", "a*", "ab*", "ab", "b"), one(g, "", "client")
	}
	for i, key := range []string{"a", "b", "long", "t.x", "t.y.z"} {
		if g.IntN(i+1) == 0 {
			s.attributes = append(s.attributes, newAttribute(g, key))
		}
	}
	for _, prefix := range []string{"t", "t.y"} {
		if g.IntN(3) == 0 {
			s.attributes = append(s.attributes, anyAttribute{key: prefix, typ: one(g, "'template[string]'", "'template[int]'", "'template[any]'")})
		}
	}
	return s
}

// mutated is r with a small change.
func (r anyRegistry) mutated(g *rand.Rand) anyRegistry {
	out := anyRegistry{slices.Clone(r.groups)}
	if len(out.groups) == 0 || g.IntN(10) == 0 {
		out.groups = append(out.groups, newGroup(g, one(g, "event", "metric", "span", "resource")))
		return out
	}
	i := g.IntN(len(out.groups))
	s, fresh := &out.groups[i], newGroup(g, out.groups[i].typ)
	s.attributes, s.fields = slices.Clone(s.attributes), slices.Clone(s.fields)
	switch g.IntN(10) {
	case 0:
		out.groups = slices.Delete(out.groups, i, i+1)
	case 1:
		s.unknown = fresh.unknown
	case 2:
		s.limit = fresh.limit
	case 3:
		s.scope, s.version, s.spanKind, s.name = fresh.scope, fresh.version, fresh.spanKind, fresh.name
	case 4:
		s.instrument, s.unit, s.temporality = fresh.instrument, fresh.unit, fresh.temporality
	case 5:
		s.body, s.fields = fresh.body, fresh.fields
	case 6:
		if len(s.attributes) > 0 {
			s.attributes = slices.Delete(s.attributes, 0, 1)
		}
	default:
		if len(s.attributes) > 0 {
			k := g.IntN(len(s.attributes)) * g.IntN(2) // mostly the first
			if key := s.attributes[k].key; key != "t" && key != "t.y" {
				was, same := s.attributes[k], g.IntN(3) > 0
				for range 100 { // mostly of the same type
					if s.attributes[k] = newAttribute(g, key); !same || s.attributes[k].typ == was.typ {
						break
					}
				}
			}
		}
	}
	return out
}

// load compiles r, each group as a registry of its own; nil: nothing decides between two of its schemas.
func (r anyRegistry) load() *schema.Registry {
	var files []schema.File
	for i, s := range r.groups {
		var b strings.Builder
		fmt.Fprintf(&b, "groups:\n  - id: g%d\n    type: %s\n", i, s.typ)
		match := ""
		switch s.typ {
		case "event":
			fmt.Fprintf(&b, "    name: %s\n", s.name)
		case "metric":
			fmt.Fprintf(&b, "    metric_name: %s\n    instrument: %s\n", s.name, s.instrument)
			if s.unit != "" {
				fmt.Fprintf(&b, "    unit: %s\n", s.unit)
			}
		case "span":
			fmt.Fprintf(&b, "    span_kind: %q\n", s.spanKind)
			match = fmt.Sprintf("name: %q, ", s.name)
		}
		fmt.Fprintf(&b, "    annotations: {pulsegrid: {unknown_attributes: %q, temporality: %q, limits: {%s}, match: {%sscope: %q}}}\n", s.unknown, s.temporality, s.limit, match, s.scope)
		if s.body != nil {
			typ := s.body.typ
			if len(s.fields) > 0 {
				typ = "map"
			}
			fmt.Fprintf(&b, "    body:\n      id: b\n      requirement_level: %s\n", map[bool]string{true: "required", false: "opt_in"}[s.body.required])
			if strings.HasPrefix(typ, "{") { // a body's members are beside its type
				fmt.Fprintf(&b, "      type: enum\n      members: %s\n", strings.TrimSuffix(strings.TrimPrefix(typ, "{members: "), "}"))
			} else {
				fmt.Fprintf(&b, "      type: %s\n", typ)
			}
			if typ != "map" {
				fmt.Fprintf(&b, "      annotations: {pulsegrid: {%s}}\n", s.body.asked)
			} else {
				b.WriteString("      fields:\n")
				for _, f := range s.fields {
					if strings.HasPrefix(f.typ, "{") {
						f.typ = "enum, members: " + strings.TrimSuffix(strings.TrimPrefix(f.typ, "{members: "), "}")
					}
					fmt.Fprintf(&b, "        - %s\n", f)
				}
			}
		}
		if len(s.attributes) > 0 {
			b.WriteString("    attributes:\n")
			for _, a := range s.attributes {
				fmt.Fprintf(&b, "      - %s\n", a)
			}
		}
		files = append(files, schema.File{Name: fmt.Sprintf("g%d/manifest.yaml", i), Content: []byte("schema_url: https://x/" + s.version + "\n")},
			schema.File{Name: fmt.Sprintf("g%d/g.yaml", i), Content: []byte(b.String())})
	}
	loaded, err := schema.Load(files)
	if err != nil {
		if !strings.Contains(err.Error(), "applies to the same events") {
			panic(err)
		}
		return nil
	}
	return loaded
}

// someValue is a value of any kind, often one that a random registry asks something of.
func someValue(g *rand.Rand, v pcommon.Value, depth int) {
	switch g.IntN(9) {
	case 0:
		v.SetInt(int64(g.IntN(5) - 1))
	case 1:
		v.SetDouble(one(g, -0.5, 1, 1.5, 2.5, 9))
	case 2:
		v.SetBool(true)
	case 3:
		v.SetEmptyBytes().FromRaw([]byte(one(g, "", "a", "abcd")))
	case 4:
		if s := v.SetEmptySlice(); depth < 2 {
			for range g.IntN(3) {
				someValue(g, s.AppendEmpty(), depth+1)
			}
		}
	case 5:
		if depth < 2 {
			someAttributes(g, v.SetEmptyMap(), depth+1, "k", "l", "m")
		}
	case 6: // empty
	default:
		v.SetStr(one(g, "", "a", "ab", "b", "bbbb", "ab", "a"))
	}
}

func someAttributes(g *rand.Rand, m pcommon.Map, depth int, keys ...string) {
	var b xpdata.MapBuilder
	for range g.IntN(4) {
		someValue(g, b.AppendEmpty(one(g, keys...)), depth)
	}
	b.UnsafeIntoMap(m)
}

// someEvents are events of all signals, one in each request.
func someEvents(g *rand.Rand) (out []any) {
	keys := []string{"a", "a", "a", "a", "b", "b", "c", "long", "t.x", "t.q", "t.y.z", "t.y.q"}
	url, scope := one(g, "", "https://x/1", "https://x/2", "https://x/3"), one(g, "", "s1", "s2")
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	someAttributes(g, rl.Resource().Attributes(), 0, keys...)
	sl := rl.ScopeLogs().AppendEmpty()
	sl.SetSchemaUrl(url)
	sl.Scope().SetName(scope)
	lr := sl.LogRecords().AppendEmpty()
	lr.SetTimestamp(pcommon.NewTimestampFromTime(now))
	lr.SetEventName(one(g, "e", "e", "e", "f"))
	someAttributes(g, lr.Attributes(), 0, keys...)
	someValue(g, lr.Body(), 0)

	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	someAttributes(g, rm.Resource().Attributes(), 0, keys...)
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.SetSchemaUrl(url)
	sm.Scope().SetName(scope)
	m := sm.Metrics().AppendEmpty()
	m.SetName(one(g, "m", "m", "n"))
	m.SetUnit(one(g, "", "s"))
	var p pmetric.NumberDataPoint
	if g.IntN(2) == 0 {
		s := m.SetEmptySum()
		s.SetIsMonotonic(g.IntN(2) == 0)
		s.SetAggregationTemporality(one(g, pmetric.AggregationTemporalityDelta, pmetric.AggregationTemporalityCumulative))
		p = s.DataPoints().AppendEmpty()
	} else {
		p = m.SetEmptyGauge().DataPoints().AppendEmpty()
	}
	p.SetTimestamp(pcommon.NewTimestampFromTime(now))
	someAttributes(g, p.Attributes(), 0, keys...)

	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	someAttributes(g, rs.Resource().Attributes(), 0, keys...)
	ss := rs.ScopeSpans().AppendEmpty()
	ss.SetSchemaUrl(url)
	ss.Scope().SetName(scope)
	sp := ss.Spans().AppendEmpty()
	sp.SetStartTimestamp(pcommon.NewTimestampFromTime(now))
	sp.SetName(one(g, "a", "ab", "abc", "b", ""))
	sp.SetKind(one(g, ptrace.SpanKindClient, ptrace.SpanKindServer))
	someAttributes(g, sp.Attributes(), 0, keys...)
	return []any{ld, md, td}
}

func accepted(t *testing.T, c *schema.Checker, event any, unknown schema.Unknown) bool {
	t.Helper()
	var r schema.Result
	var err error
	switch e := event.(type) {
	case plog.Logs:
		r, err = c.CheckLogs(e, unknown, now)
	case pmetric.Metrics:
		r, err = c.CheckMetrics(e, unknown, now)
	case ptrace.Traces:
		r, err = c.CheckTraces(e, unknown, now)
	}
	require.NoError(t, err)
	return len(r.Findings) == 0
}

// Guarantee: for random registries and changes, what is called compatible refuses no random event that was accepted, under either policy. That breaking changes are no
// guesses shows in how many of them are seen to refuse one.
func TestWhatIsCalledCompatibleRefusesNothingThatWasAccepted(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := rand.New(rand.NewPCG(seed, 0))
	limits := schema.Limits{AttributesMax: 3, KeyBytesMax: 3, ValueBytesMax: 3, BodyBytesMax: 4, DepthMax: 2}
	compatible, accepting, breaking, shown := 0, 0, 0, 0
	for range 250 {
		var r anyRegistry
		for range g.IntN(4) {
			r.groups = append(r.groups, newGroup(g, one(g, "event", "event", "metric", "span", "span", "resource")))
		}
		changed := r.mutated(g)
		for range g.IntN(2) {
			changed = changed.mutated(g)
		}
		before, after := r.load(), changed.load()
		if before == nil || after == nil {
			continue
		}
		diff := schema.Diff(before, after, limits)
		old, new := schema.NewChecker(before, limits), schema.NewChecker(after, limits)
		breaks := slices.ContainsFunc(diff, func(c schema.Change) bool { return c.Breaking })
		seen := false
		for range 25 {
			for _, event := range someEvents(g) {
				for _, unknown := range []schema.Unknown{schema.Open, schema.Strict} {
					if !accepted(t, old, event, unknown) {
						continue
					}
					accepting++
					if accepted(t, new, event, unknown) {
						continue
					}
					seen = true
					require.True(t, breaks, "%s: compatible: %v\nold %+v\nnew %+v\nevent %+v", unknown, diff, r, changed, event)
				}
			}
		}
		if breaks {
			breaking++
			if seen {
				shown++
			}
		} else {
			compatible++
		}
	}
	t.Logf("%d compatible changes, %d breaking ones of which %d were seen to refuse something, %d accepted events", compatible, breaking, shown, accepting)
	require.Greater(t, compatible, 25)
	require.Greater(t, shown, 25)
	require.Greater(t, accepting, 1_000)
}
