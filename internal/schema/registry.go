package schema

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Schema is what is asked of one kind of event, metric or span, or of a resource.
type Schema struct {
	ID        string // of the group
	Version   string
	Name      string // of the event or metric, or the pattern of span names
	kind      kind
	match     Match
	schemaURL string // of the registry that defines it
	spanKind  int32  // of OTLP; 0: any
	table     *table
	limits    *LimitsPatch
	strict    *bool // nil: as the tenant's policy says
	metric    *metricCheck
	body      *check
	pii       bool
	file      string
	promoted  []Promotion
}

// PII tells whether an attribute, or a field of the body, is marked as personal data.
func (s *Schema) PII() bool { return s.pii }

// metricCheck is what is asked of a metric.
type metricCheck struct {
	instrument  string
	unit        *string
	temporality int32 // of OTLP; 0: either
}

// Registry is all schemas, compiled.
type Registry struct {
	version   string
	files     []File
	schemas   int
	byName    [spanGroup + 1]map[string][]*Schema // of events, metrics and spans, without a `*` in the name
	patterns  map[string][]*Schema                // by what comes before the first `*`
	prefixes  []int                               // lengths of patterns' keys, the longest first
	resources []*Schema
	asksURL   bool // a schema URL decides somewhere; else it is not looked for
	promoted  [len(signal.All) + 1][]Promotion
}

// Promotion is an attribute that wants a column of its own (`promote`).
type Promotion struct {
	Key  string
	Type string // string, int, double or boolean
}

// Version identifies what was loaded: 12 hex digits, the same for the same files; empty for the empty registry.
func (r *Registry) Version() string { return r.version }

// Files are those that were loaded, by name.
func (r *Registry) Files() []File { return r.files }

// Schemas is the number of schemas that events are held against.
func (r *Registry) Schemas() int { return r.schemas }

// Promoted are the attributes that want columns, by key.
func (r *Registry) Promoted(s signal.Signal) []Promotion { return r.promoted[s] }

// Empty is a registry without a schema: only limits are checked.
func Empty() *Registry {
	r, err := Load(nil)
	if err != nil {
		panic(err) // nothing cannot be at fault
	}
	r.version = ""
	return r
}

// Load compiles a registry from files. It takes all or nothing: the error joins a FileError for every fault.
func Load(files []File) (*Registry, error) {
	if len(files) > maxFiles {
		return nil, fmt.Errorf("%d files, at most %d are allowed", len(files), maxFiles)
	}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	var l loader
	l.parse(files)
	r := &Registry{patterns: map[string][]*Schema{}, version: versionOf(files), files: files}
	for k := range r.byName {
		r.byName[k] = map[string][]*Schema{}
	}
	groups := 0
	for _, t := range l.trees {
		if groups += len(t.order); groups > maxGroups {
			return nil, fmt.Errorf("more than %d groups", maxGroups)
		}
		for _, g := range t.order {
			if err := g.resolve(0); err != nil {
				l.bad(g.file, "group %q: %w", g.def.ID, err)
			}
		}
	}
	for _, t := range l.trees {
		l.compile(r, t)
	}
	if len(l.errs) > 0 {
		return nil, errors.Join(l.errs...)
	}
	r.index()
	return r, nil
}

// versionOf is the version of files that are in order of their names.
func versionOf(files []File) string {
	h := sha256.New()
	for _, f := range files {
		_, _ = fmt.Fprintf(h, "%d %s %d ", len(f.Name), f.Name, len(f.Content))
		_, _ = h.Write(f.Content)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// compile adds the schemas of a tree: its own, unless it is there only for others to import from, and those that it imports.
func (l *loader) compile(r *Registry, t *tree) {
	add := func(g *group) {
		if g.err != nil {
			return // told already
		}
		s, err := g.compile()
		if err == nil && s != nil {
			err = r.add(s)
		}
		if err != nil {
			l.bad(g.file, "group %q: %w", g.def.ID, err)
		}
	}
	if !t.depended {
		for _, g := range t.order {
			add(g)
		}
	}
	for _, im := range t.imports {
		for _, d := range t.deps {
			for _, g := range d.order {
				if im.has(g) && (!t.loose || d.depended) { // the loose files' dependencies apply anyway
					add(g)
				}
			}
		}
	}
}

func (im *imports) has(g *group) bool {
	switch g.kind {
	case metricGroup:
		return matchesAny(im.Metrics, g.name)
	case eventGroup:
		return matchesAny(im.Events, g.name)
	case spanGroup:
		return matchesAny(im.Spans, strings.TrimPrefix(g.def.ID, "span."))
	case resourceGroup:
		return matchesAny(im.Entities, strings.TrimPrefix(g.def.ID, "entity."))
	}
	return false
}

var spanKinds = map[string]int32{"": 0, "internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}

var instruments = []string{"counter", "updowncounter", "gauge", "histogram"}

// compile makes a group's schema; nil: the group is not held against anything by itself. A published span says only of which kind it is, and
// would claim every client's span; an entity would be asked of every resource; a refinement has the name of what it refines. These apply
// where their annotation says to what.
func (g *group) compile() (*Schema, error) {
	named := g.kind == eventGroup || g.kind == metricGroup
	if g.kind == attributeGroup || g.note.Match == nil && (!named || g.refinement) {
		return nil, nil
	}
	s := &Schema{
		ID: g.def.ID, Version: cmp.Or(g.note.Version, g.owner.version), Name: g.name, kind: g.kind, schemaURL: g.owner.schemaURL,
		limits: g.note.Limits, file: g.file,
	}
	if g.note.Match != nil {
		s.match = *g.note.Match
	}
	if named && s.match.Name != "" {
		return nil, fmt.Errorf("annotations: pulsegrid: match: name: is %q; events and metrics go by their own name", s.match.Name)
	}
	if !named {
		s.Name = cmp.Or(s.match.Name, "*")
	}
	if s.Name == "" {
		return nil, fmt.Errorf("%s has no name", g.kind)
	}
	if g.note.UnknownAttributes != "" {
		isStrict := g.note.UnknownAttributes == strict
		s.strict = &isStrict
	}
	var err error
	if s.table, err = compileTable(g.resolved, g.note.Enums == closed); err != nil {
		return nil, err
	}
	s.pii = s.table.pii
	for _, a := range g.resolved {
		if a.note == nil || a.note.Promote == nil || !*a.note.Promote {
			continue
		}
		if a.typ.array || a.typ.template || a.typ.base == "any" {
			return nil, fmt.Errorf("attribute %q: annotations: pulsegrid: promote: the type is %s; only a string, int, double or boolean can be a column", a.key, a.typ)
		}
		s.promoted = append(s.promoted, Promotion{a.key, a.typ.base})
	}
	switch g.kind {
	case spanGroup:
		var ok bool
		if s.spanKind, ok = spanKinds[g.def.SpanKind]; !ok {
			return nil, fmt.Errorf("span_kind: is %q, want client, server, producer, consumer or internal", g.def.SpanKind)
		}
	case metricGroup:
		err = g.compileMetric(s)
	case eventGroup:
		if g.def.Body != nil {
			var body check
			body, err = compileBody(g.def.Body, 1, g.note.Enums == closed)
			s.body = &body
			s.pii = s.pii || body.pii || body.more != nil && body.more.fields != nil && body.more.fields.pii
		}
	}
	if g.note.Temporality != "" && g.kind != metricGroup {
		return nil, errors.New("annotations: pulsegrid: temporality: only a metric has one")
	}
	return s, err
}

func (g *group) compileMetric(s *Schema) error {
	if !slices.Contains(instruments, g.def.Instrument) {
		return fmt.Errorf("instrument: is %q, want one of %q", g.def.Instrument, instruments)
	}
	s.metric = &metricCheck{instrument: g.def.Instrument, unit: g.def.Unit}
	switch g.note.Temporality {
	case "delta":
		s.metric.temporality = 1
	case "cumulative":
		s.metric.temporality = 2
	}
	return nil
}

// add refuses two schemas between which nothing decides.
func (r *Registry) add(s *Schema) error {
	r.schemas++
	if s.kind == resourceGroup {
		r.resources = append(r.resources, s)
		return nil
	}
	same := r.byName[s.kind]
	key := s.Name
	if star := strings.IndexByte(s.Name, '*'); star >= 0 && s.kind == spanGroup {
		same, key = r.patterns, s.Name[:star]
	}
	for _, o := range same[key] {
		if o.Name == s.Name && o.match == s.match && o.spanKind == s.spanKind && o.Version == s.Version && o.schemaURL == s.schemaURL {
			if o.ID == s.ID && o.file == s.file {
				r.schemas-- // imported twice
				return nil
			}
			return fmt.Errorf("applies to the same events as group %q of %s, in the same version", o.ID, o.file)
		}
	}
	same[key] = append(same[key], s)
	return nil
}

// index puts the schemas of a name in the order in which they are tried: those that ask for more of an event before those that ask for
// less, newer before older.
func (r *Registry) index() {
	order := func(a, b *Schema) int {
		return cmp.Or(-cmp.Compare(len(a.Name), len(b.Name)), -cmp.Compare(a.match.asks(), b.match.asks()), -cmp.Compare(a.spanKind, b.spanKind),
			-compareVersions(a.Version, b.Version), cmp.Compare(a.ID, b.ID))
	}
	for _, byName := range append(r.byName[:], r.patterns) {
		for _, s := range byName {
			slices.SortFunc(s, order)
			r.asksURL = r.asksURL || len(s) > 1 || s[0].match.SchemaURL != ""
		}
	}
	lengths := map[int]bool{}
	for prefix := range r.patterns {
		lengths[len(prefix)] = true
	}
	for n := range lengths {
		r.prefixes = append(r.prefixes, n)
	}
	slices.SortFunc(r.prefixes, func(a, b int) int { return b - a })
	for _, sig := range signal.All {
		r.promoted[sig] = r.promotions(kindOf(sig))
	}
}

func (m Match) asks() int {
	n := 0
	if m.Scope != "" {
		n++
	}
	if m.SchemaURL != "" {
		n++
	}
	return n
}

func (r *Registry) promotions(k kind) []Promotion {
	found := map[Promotion]bool{}
	take := func(s *Schema) {
		for _, p := range s.promoted {
			found[p] = true
		}
	}
	for _, schemas := range r.byName[k] {
		for _, s := range schemas {
			take(s)
		}
	}
	if k == spanGroup { // only names of spans are patterns
		for _, schemas := range r.patterns {
			for _, s := range schemas {
				take(s)
			}
		}
	}
	var out []Promotion
	for p := range found {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Promotion) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Type, b.Type)) })
	return out
}

func kindOf(s signal.Signal) kind {
	switch s {
	case signal.Metrics:
		return metricGroup
	case signal.Traces:
		return spanGroup
	}
	return eventGroup
}

// of returns the schema of an event of that name; nil: it has none. An event that names the schema URL of a registry gets that one's.
func (r *Registry) of(k kind, name []byte, spanKind int32, scope, url []byte) *Schema {
	if s := choose(r.byName[k][string(name)], name, spanKind, scope, url); s != nil || k != spanGroup {
		return s
	}
	for _, n := range r.prefixes {
		if n > len(name) {
			continue
		}
		if s := choose(r.patterns[string(name[:n])], name, spanKind, scope, url); s != nil {
			return s
		}
	}
	return nil
}

func choose(from []*Schema, name []byte, spanKind int32, scope, url []byte) *Schema {
	var first *Schema
	for _, s := range from {
		if s.spanKind != 0 && s.spanKind != spanKind || s.match.Scope != "" && !glob(s.match.Scope, scope) ||
			s.match.SchemaURL != "" && !glob(s.match.SchemaURL, url) || s.kind == spanGroup && !glob(s.Name, name) {
			continue
		}
		if len(url) > 0 && s.schemaURL == string(url) {
			return s
		}
		if first == nil {
			first = s
		}
	}
	return first
}

// instrument is what a metric's data shows of its instrument.
func instrument(m *otlpwire.Metric) string {
	switch m.Type {
	case otlpwire.Sum:
		if m.Monotonic() {
			return "counter"
		}
		return "updowncounter"
	case otlpwire.Gauge:
		return "gauge"
	case otlpwire.Histogram, otlpwire.ExponentialHistogram:
		return "histogram"
	case otlpwire.Summary:
		return "summary"
	}
	return "none"
}
