package schema

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// File is one file of a registry; Name is its path within the source, with slashes.
type File struct {
	Name    string
	Content []byte
}

// FileError says which file is at fault.
type FileError struct {
	File string
	Err  error
}

func (e *FileError) Error() string { return e.File + ": " + e.Err.Error() }
func (e *FileError) Unwrap() error { return e.Err }

// errorsByFile takes an error of Load apart.
func errorsByFile(err error) map[string]error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	out := map[string]error{}
	for _, e := range joined.Unwrap() {
		if f, ok := e.(*FileError); ok { //nolint:errorlint // as above
			out[f.File] = errors.Join(out[f.File], f)
		}
	}
	return out
}

// tree is one registry: a folder with a manifest and all below it, or the files that no such folder holds.
type tree struct {
	dir       string
	name      string
	version   string
	schemaURL string
	manifest  manifest
	loose     bool // has no manifest: it may refer to every other tree
	depended  bool // another tree depends on it: only what is imported of it is applied
	deps      []*tree
	imports   []imports

	attributes map[string]*attribute
	groups     map[string]*group
	order      []*group
}

// attribute is a definition, or a reference with what it was resolved to.
type attribute struct {
	key      string
	typ      valueType
	required bool
	note     *attributeAnnotation
}

// group is a definition on its way to a schema.
type group struct {
	file       string
	owner      *tree
	def        definition
	kind       kind
	name       string // of the event or metric
	refinement bool
	note       groupAnnotation

	state    int // 0 new, 1 being resolved, 2 resolved
	err      error
	resolved []attribute
	at       map[string]int // index in resolved
}

type loader struct {
	trees []*tree
	errs  []error
}

func (l *loader) bad(file, format string, args ...any) {
	l.errs = append(l.errs, &FileError{file, fmt.Errorf(format, args...)})
}

// parse makes trees of files.
func (l *loader) parse(files []File) {
	byDir := map[string]*tree{}
	for _, f := range files {
		if !isManifest(f.Name) {
			continue
		}
		t := &tree{dir: path.Dir(f.Name)}
		if err := decodeStrict(f.Content, &t.manifest); err != nil {
			l.bad(f.Name, "%w", err)
			continue
		}
		if byDir[t.dir] != nil {
			l.bad(f.Name, "the folder has two manifests; keep %s", manifestName)
			continue
		}
		t.identify()
		byDir[t.dir] = t
		l.trees = append(l.trees, t)
	}
	var loose *tree
	for _, f := range files {
		if isManifest(f.Name) {
			continue
		}
		t := treeOf(byDir, f.Name)
		if t == nil {
			if loose == nil {
				loose = &tree{dir: ".", loose: true}
				l.trees = append(l.trees, loose)
			}
			t = loose
		}
		if len(f.Content) > maxFileBytes {
			l.bad(f.Name, "has %d bytes, at most %d are allowed; split it", len(f.Content), maxFileBytes)
			continue
		}
		l.parseFile(t, f)
	}
	l.depend()
}

func isManifest(name string) bool {
	base := path.Base(name)
	return base == manifestName || base == manifestNameOldName
}

func treeOf(byDir map[string]*tree, name string) *tree {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if t := byDir[dir]; t != nil {
			return t
		}
		if dir == "." || dir == "/" {
			return nil
		}
	}
}

// identify takes name and version from the manifest: a schema URL ends with the version, before it is the name.
func (t *tree) identify() {
	m := &t.manifest
	t.schemaURL = m.SchemaURL
	if t.schemaURL == "" && m.BaseURL != "" && m.Version != "" {
		t.schemaURL = strings.TrimSuffix(m.BaseURL, "/") + "/" + m.Version
	}
	t.name, t.version = m.Name, m.Version
	if at := strings.LastIndexByte(t.schemaURL, '/'); at >= 0 {
		if t.version == "" {
			t.version = t.schemaURL[at+1:]
		}
		if t.name == "" {
			_, t.name, _ = strings.Cut(t.schemaURL[:at], "://")
		}
	}
}

// depend finds the trees that trees depend on.
func (l *loader) depend() {
	for _, t := range l.trees {
		if t.loose {
			for _, other := range l.trees {
				if other != t {
					t.deps = append(t.deps, other)
				}
			}
			slices.SortStableFunc(t.deps, func(a, b *tree) int { return -compareVersions(a.version, b.version) })
			continue
		}
		file := path.Join(t.dir, manifestName)
		for _, d := range t.manifest.Dependencies {
			dep := l.find(t, d)
			if dep == nil {
				l.bad(file, "dependencies: no registry of name %q, schema_url %q or registry_path %q is loaded; put its files beside this one", d.Name, d.SchemaURL, d.Path)
				continue
			}
			dep.depended = true
			t.deps = append(t.deps, dep)
		}
	}
}

func (l *loader) find(t *tree, d dependency) *tree {
	for _, other := range l.trees {
		if other == t || other.loose {
			continue
		}
		switch {
		case d.SchemaURL != "" && other.schemaURL == d.SchemaURL,
			d.Path != "" && other.dir == path.Join(t.dir, d.Path),
			d.Name != "" && other.name == d.Name:
			return other
		}
	}
	return nil
}

func (l *loader) parseFile(t *tree, f File) {
	var d document
	if err := decodeStrict(f.Content, &d); err != nil {
		l.bad(f.Name, "%w", err)
		return
	}
	defs, err := d.groups()
	if err != nil {
		l.bad(f.Name, "%w", err)
		return
	}
	if d.Imports != nil {
		t.imports = append(t.imports, *d.Imports)
	}
	if t.groups == nil {
		t.groups, t.attributes = map[string]*group{}, map[string]*attribute{}
	}
	for _, def := range defs {
		if err := t.add(f.Name, def); err != nil {
			l.bad(f.Name, "group %q: %w", def.ID, err)
		}
	}
}

// add takes a group in, and the attributes that it defines.
func (t *tree) add(file string, def definition) error {
	g := &group{file: file, owner: t, def: def, refinement: def.Ref == "refinement"}
	var ok bool
	if g.kind, ok = kindNames[def.Type]; !ok {
		return fmt.Errorf("type: is %q, want event, span, metric, resource, entity or attribute_group", def.Type)
	}
	var errs []error
	for i := range def.Attributes {
		a := &g.def.Attributes[i]
		if a.Key != "" {
			a.ID = a.Key
		}
		if a.ID == "" {
			continue
		}
		if def.Prefix != "" {
			a.ID = def.Prefix + "." + a.ID
		}
		defined, err := define(a)
		if err != nil {
			errs = append(errs, fmt.Errorf("attribute %q: %w", a.ID, err))
			continue
		}
		if other := t.attributes[a.ID]; other != nil && !other.typ.same(defined.typ) {
			errs = append(errs, fmt.Errorf("attribute %q: is defined twice, as %s and as %s; define it once and refer to it", a.ID, other.typ, defined.typ))
			continue
		} else if other == nil {
			t.attributes[a.ID] = defined
		}
	}
	var err error
	if g.note, err = readGroupAnnotation(def.Annotated); err != nil {
		errs = append(errs, err)
	}
	if def.ID == "" { // the attribute definitions of a file of the second edition
		return errors.Join(errs...)
	}
	if len(def.ID) > maxIDBytes {
		return fmt.Errorf("id: has %d bytes, at most %d are allowed", len(def.ID), maxIDBytes)
	}
	if other := t.groups[def.ID]; other != nil {
		errs = append(errs, fmt.Errorf("id: is that of a group in %s as well", other.file))
		return errors.Join(errs...)
	}
	g.nameIt()
	t.groups[def.ID] = g
	t.order = append(t.order, g)
	return errors.Join(errs...)
}

func (g *group) nameIt() {
	switch g.kind {
	case metricGroup:
		g.name = g.def.MetricName
	case eventGroup:
		if g.def.Name.Kind == yaml.ScalarNode {
			g.name = g.def.Name.Value
		}
		if g.name == "" && !g.refinement { // before 1.27 an event's name was its id, or its prefix
			g.name = cmp.Or(g.def.Prefix, g.def.ID)
		}
	}
}

// define reads an attribute's definition.
func define(a *attributeDefinition) (*attribute, error) {
	typ, err := parseType(&a.Type)
	if err != nil {
		return nil, err
	}
	out := &attribute{key: a.ID, typ: typ}
	return out, out.refine(a)
}

// refine applies what a definition or a reference says over what out has.
func (out *attribute) refine(a *attributeDefinition) error {
	switch required, err := parseLevel(&a.Level); {
	case err != nil:
		return err
	case a.Level.Kind != 0:
		out.required = required
	}
	note, err := readAttributeAnnotation(a.Annotate)
	if err != nil {
		return err
	}
	out.note = out.note.over(note)
	return nil
}

func parseLevel(n *yaml.Node) (required bool, err error) {
	level := n.Value
	if n.Kind == yaml.MappingNode && len(n.Content) > 0 {
		level = n.Content[0].Value
	}
	switch level {
	case "required":
		return n.Kind == yaml.ScalarNode, nil
	case "", "conditionally_required", "recommended", "opt_in", "optional":
		return false, nil
	}
	return false, fmt.Errorf("requirement_level: is %q, want required, conditionally_required, recommended or opt_in", level)
}

// attribute finds a definition here or in what the tree depends on.
func (t *tree) attribute(key string) *attribute {
	if a := t.attributes[key]; a != nil {
		return a
	}
	for _, d := range t.deps {
		if a := d.attributes[key]; a != nil {
			return a
		}
	}
	return nil
}

// group finds a group by id. What extends a signal of the second edition, or refers to one, says its kind and name.
func (t *tree) group(id string) *group {
	if g := t.ownGroup(id); g != nil {
		return g
	}
	for _, d := range t.deps {
		if g := d.ownGroup(id); g != nil {
			return g
		}
	}
	return nil
}

func (t *tree) ownGroup(id string) *group {
	if g := t.groups[id]; g != nil {
		return g
	}
	typ, name, _ := strings.Cut(id, ".")
	k, known := kindNames[typ]
	if !known || name == "" || k == attributeGroup {
		return nil
	}
	for _, g := range t.order {
		if g.kind == k && g.name == name && !g.refinement {
			return g
		}
	}
	return nil
}

// resolve makes the group's list of attributes: those of what it extends, of the groups that it refers to, and its own, later ones
// refining earlier ones.
func (g *group) resolve(depth int) error {
	switch {
	case g.state == 2:
		return g.err
	case g.state == 1:
		return fmt.Errorf("group %q extends or refers to itself", g.def.ID)
	case depth > maxExtends:
		return fmt.Errorf("more than %d groups extend one another", maxExtends)
	}
	g.state = 1
	g.err = g.resolveOnce(depth)
	g.state = 2
	return g.err
}

func (g *group) resolveOnce(depth int) error {
	g.at = map[string]int{}
	inherit := func(field, id string) error {
		from := g.owner.group(id)
		if from == nil {
			return fmt.Errorf("%s: no group %q is known here%s", field, id, g.owner.hint())
		}
		if err := from.resolve(depth + 1); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		for _, a := range from.resolved {
			g.put(a)
		}
		if field == "extends" {
			g.inheritSignal(from)
		}
		return nil
	}
	if g.def.Extends != "" {
		if err := inherit("extends", g.def.Extends); err != nil {
			return err
		}
	}
	for i := range g.def.Attributes {
		if ref := g.def.Attributes[i].RefGroup; ref != "" {
			if err := inherit("ref_group", ref); err != nil {
				return err
			}
		}
	}
	for i := range g.def.Attributes {
		a := &g.def.Attributes[i]
		key := cmp.Or(a.ID, a.Ref)
		if key == "" {
			if a.RefGroup == "" {
				return fmt.Errorf("attribute %d has neither id, key, ref nor ref_group", i)
			}
			continue
		}
		resolved := attribute{}
		if at, inherited := g.at[key]; inherited {
			resolved = g.resolved[at]
		} else if known := g.owner.attribute(key); known != nil {
			resolved = *known
		} else {
			return fmt.Errorf("ref: no attribute %q is known here%s", key, g.owner.hint())
		}
		if err := resolved.refine(a); err != nil {
			return fmt.Errorf("attribute %q: %w", key, err)
		}
		g.put(resolved)
	}
	if len(g.resolved) > maxAttributes {
		return fmt.Errorf("has %d attributes with those that it inherits, at most %d are allowed", len(g.resolved), maxAttributes)
	}
	return nil
}

// inheritSignal takes over what makes the group a metric, an event or a span, where it does not say it itself.
func (g *group) inheritSignal(from *group) {
	if g.kind != from.kind {
		return
	}
	g.name = cmp.Or(g.name, from.name)
	g.def.Instrument = cmp.Or(g.def.Instrument, from.def.Instrument)
	g.def.SpanKind = cmp.Or(g.def.SpanKind, from.def.SpanKind)
	if g.def.Unit == nil {
		g.def.Unit = from.def.Unit
	}
	if g.def.Body == nil {
		g.def.Body = from.def.Body
	}
}

func (g *group) put(a attribute) {
	if at, ok := g.at[a.key]; ok {
		g.resolved[at] = a
		return
	}
	g.at[a.key] = len(g.resolved)
	g.resolved = append(g.resolved, a)
}

// hint says where a name that is not known was looked for.
func (t *tree) hint() string {
	if t.loose {
		return "; it is in none of the files"
	}
	if len(t.deps) == 0 {
		return "; if it is another registry's, name that under dependencies of " + path.Join(t.dir, manifestName)
	}
	return "; it is neither here nor in a registry that " + path.Join(t.dir, manifestName) + " depends on"
}

// compareVersions compares dotted numbers as numbers, and else text.
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		if c := cmp.Or(cmp.Compare(leadingInt(x), leadingInt(y)), cmp.Compare(x, y)); c != 0 {
			return c
		}
	}
	return 0
}

func leadingInt(s string) int {
	n := 0
	for i := 0; i < len(s) && i < 9 && s[i] >= '0' && s[i] <= '9'; i++ {
		n = n*10 + int(s[i]-'0')
	}
	return n
}
