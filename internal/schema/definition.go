package schema

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"gopkg.in/yaml.v3"
)

// Bounds of what is loaded. They are far beyond what people write.
const (
	maxFileBytes        = 4 << 20
	maxFiles            = 10_000
	maxGroups           = 100_000
	maxAttributes       = 512 // of a group, with what it inherits
	maxExtends          = 32  // groups that extend one another
	maxBodyDepth        = 8
	maxPatternBytes     = 1 << 10
	maxIDBytes          = 256
	editionTwo          = "definition/2"
	manifestName        = "manifest.yaml"
	manifestNameOldName = "registry_manifest.yaml"
)

// ignored is a field that means something to people and to code generators only.
type ignored struct{}

func (ignored) UnmarshalYAML(*yaml.Node) error { return nil }

// document is a file of either edition; a file of one has no fields of the other.
type document struct {
	FileFormat string   `yaml:"file_format"`
	Imports    *imports `yaml:"imports"`

	Groups []definition `yaml:"groups"` // first edition

	Attributes        []attributeDefinition `yaml:"attributes"` // second edition, from here
	AttributeGroups   []definition          `yaml:"attribute_groups"`
	Events            []definition          `yaml:"events"`
	Metrics           []definition          `yaml:"metrics"`
	Spans             []definition          `yaml:"spans"`
	Entities          []definition          `yaml:"entities"`
	EventRefinements  []definition          `yaml:"event_refinements"`
	MetricRefinements []definition          `yaml:"metric_refinements"`
	SpanRefinements   []definition          `yaml:"span_refinements"`
	EntityRefinements []definition          `yaml:"entity_refinements"`
}

// imports are patterns of names of a dependency's groups.
type imports struct {
	Metrics         []string `yaml:"metrics"`
	Events          []string `yaml:"events"`
	Spans           []string `yaml:"spans"`
	Entities        []string `yaml:"entities"`
	AttributeGroups []string `yaml:"attribute_groups"`
}

// definition is a group of the first edition, or an event, metric, span, entity or attribute group, or a refinement of one, of the second.
type definition struct {
	ID      string `yaml:"id"`
	Type    string `yaml:"type"`
	Ref     string `yaml:"ref"` // of a refinement: what it refines
	Extends string `yaml:"extends"`
	Prefix  string `yaml:"prefix"` // before 1.25: put before attribute ids

	Name       yaml.Node             `yaml:"name"` // text; of a span of the second edition a map
	MetricName string                `yaml:"metric_name"`
	Instrument string                `yaml:"instrument"`
	Unit       *string               `yaml:"unit"`
	SpanKind   string                `yaml:"span_kind"`
	Kind       string                `yaml:"kind"` // second edition's span_kind
	Body       *bodyDefinition       `yaml:"body"`
	Attributes []attributeDefinition `yaml:"attributes"`
	Identity   []attributeDefinition `yaml:"identity"`
	Describing []attributeDefinition `yaml:"description"`
	Annotated  map[string]yaml.Node  `yaml:"annotations"`

	Brief              ignored `yaml:"brief"`
	Note               ignored `yaml:"note"`
	Stability          ignored `yaml:"stability"`
	Deprecated         ignored `yaml:"deprecated"`
	DisplayName        ignored `yaml:"display_name"`
	EntityAssociations ignored `yaml:"entity_associations"`
	RequirementLevel   ignored `yaml:"requirement_level"` // of a signal
	SpanEvents         ignored `yaml:"events"`
	Constraints        ignored `yaml:"constraints"` // before 1.27
	Visibility         ignored `yaml:"visibility"`
	Namespace          ignored `yaml:"namespace"`
}

// attributeDefinition defines an attribute (id or key), refers to one (ref), or stands for a group's attributes (ref_group).
type attributeDefinition struct {
	ID       string               `yaml:"id"`
	Key      string               `yaml:"key"`
	Ref      string               `yaml:"ref"`
	RefGroup string               `yaml:"ref_group"`
	Type     yaml.Node            `yaml:"type"`
	Level    yaml.Node            `yaml:"requirement_level"`
	Annotate map[string]yaml.Node `yaml:"annotations"`

	Prefix           ignored `yaml:"prefix"`
	Brief            ignored `yaml:"brief"`
	Note             ignored `yaml:"note"`
	Examples         ignored `yaml:"examples"`
	Stability        ignored `yaml:"stability"`
	Deprecated       ignored `yaml:"deprecated"`
	Tag              ignored `yaml:"tag"`
	Role             ignored `yaml:"role"`
	SamplingRelevant ignored `yaml:"sampling_relevant"`
}

// bodyDefinition is an any_value: an event's body, or a field of it.
type bodyDefinition struct {
	ID       string               `yaml:"id"`
	Ref      string               `yaml:"ref"`
	Type     yaml.Node            `yaml:"type"`
	Level    yaml.Node            `yaml:"requirement_level"`
	Fields   []bodyDefinition     `yaml:"fields"`
	Members  []enumMember         `yaml:"members"`
	Custom   *bool                `yaml:"allow_custom_values"`
	Annotate map[string]yaml.Node `yaml:"annotations"`

	Brief       ignored `yaml:"brief"`
	Note        ignored `yaml:"note"`
	Examples    ignored `yaml:"examples"`
	Stability   ignored `yaml:"stability"`
	Deprecated  ignored `yaml:"deprecated"`
	DisplayName ignored `yaml:"display_name"`
}

type enumMember struct {
	ID    string    `yaml:"id"`
	Value yaml.Node `yaml:"value"`

	Brief      ignored `yaml:"brief"`
	Note       ignored `yaml:"note"`
	Stability  ignored `yaml:"stability"`
	Deprecated ignored `yaml:"deprecated"`
	Annotate   ignored `yaml:"annotations"`
}

type enumDefinition struct {
	Members []enumMember `yaml:"members"`
	Custom  *bool        `yaml:"allow_custom_values"`
}

// manifest names a registry, its version, and what it depends on.
type manifest struct {
	Name          string       `yaml:"name"`
	SchemaURL     string       `yaml:"schema_url"`
	BaseURL       string       `yaml:"schema_base_url"`
	Version       string       `yaml:"semconv_version"`
	Dependencies  []dependency `yaml:"dependencies"`
	Description   ignored      `yaml:"description"`
	Stability     ignored      `yaml:"stability"`
	FileFormat    ignored      `yaml:"file_format"`
	ResolvedURI   ignored      `yaml:"resolved_schema_uri"`
	RegistryURI   ignored      `yaml:"resolved_registry_uri"`
	SchemaVersion ignored      `yaml:"version"`
}

type dependency struct {
	Name      string `yaml:"name"`
	SchemaURL string `yaml:"schema_url"`
	Path      string `yaml:"registry_path"`
}

// kind is what a group describes.
type kind uint8

const (
	attributeGroup kind = iota
	eventGroup
	metricGroup
	spanGroup
	resourceGroup
)

var kindNames = map[string]kind{
	"attribute_group": attributeGroup, "event": eventGroup, "metric": metricGroup, "span": spanGroup, "": spanGroup,
	"resource": resourceGroup, "entity": resourceGroup, "metric_group": attributeGroup, "scope": attributeGroup,
}

func (k kind) String() string {
	return [...]string{"attribute_group", "event", "metric", "span", "resource"}[k]
}

// decodeStrict refuses fields that the format does not have: a misspelt requirement would be one that is never checked.
func decodeStrict(content []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document in the file; make it one")
	}
	return nil
}

// decodeNode is decodeStrict for a part of a document: yaml.Node.Decode takes any field.
func decodeNode(n *yaml.Node, into any) error {
	b, err := yaml.Marshal(n)
	if err != nil {
		return err
	}
	return decodeStrict(b, into)
}

// groups of a document, the second edition's as if they were of the first.
func (d *document) groups() ([]definition, error) {
	if d.FileFormat == "" {
		if n := len(d.Attributes) + len(d.AttributeGroups) + len(d.Events) + len(d.Metrics) + len(d.Spans) + len(d.Entities); n > 0 {
			return nil, fmt.Errorf("file_format: is missing; a file without `groups` says file_format: %s", editionTwo)
		}
		return d.Groups, nil
	}
	if d.FileFormat != editionTwo {
		return nil, fmt.Errorf("file_format: is %q, want %s or none", d.FileFormat, editionTwo)
	}
	var out []definition
	if len(d.Attributes) > 0 {
		out = append(out, definition{Type: "attribute_group", Attributes: d.Attributes})
	}
	for _, g := range d.AttributeGroups {
		g.Type = "attribute_group"
		out = append(out, g)
	}
	add := func(typ string, refinement bool, gs []definition) error {
		for _, g := range gs {
			own := g.Type // of spans and entities: their name
			g.Type = typ
			g.Attributes = append(append(g.Attributes, g.Identity...), g.Describing...)
			g.SpanKind = g.Kind
			if refinement {
				if g.ID == "" || g.Ref == "" {
					return fmt.Errorf("%s_refinements: each needs id and ref, got id %q and ref %q", typ, g.ID, g.Ref)
				}
				g.Extends, g.Ref = typ+"."+g.Ref, "refinement"
				out = append(out, g)
				continue
			}
			name := own
			switch typ {
			case "metric":
				if err := g.Name.Decode(&name); err != nil {
					return fmt.Errorf("metrics: name: %w", err)
				}
				g.MetricName = name
			case "event":
				if err := g.Name.Decode(&name); err != nil {
					return fmt.Errorf("events: name: %w", err)
				}
			}
			if name == "" {
				return fmt.Errorf("%ss: one has no name", typ)
			}
			g.ID = typ + "." + name
			out = append(out, g)
		}
		return nil
	}
	err := errors.Join(
		add("event", false, d.Events), add("metric", false, d.Metrics), add("span", false, d.Spans), add("entity", false, d.Entities),
		add("event", true, d.EventRefinements), add("metric", true, d.MetricRefinements), add("span", true, d.SpanRefinements), add("entity", true, d.EntityRefinements))
	return out, err
}

// matchesAny tells whether a name matches one of the patterns of an import: `*` stands for anything.
func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if glob(p, name) {
			return true
		}
	}
	return false
}

// glob matches name against a pattern in which `*` stands for any text. It takes time linear in both for each `*`.
func glob[T string | []byte](pattern string, name T) bool {
	star := strings.IndexByte(pattern, '*')
	if star < 0 {
		return string(name) == pattern
	}
	if len(name) < star || string(name[:star]) != pattern[:star] {
		return false
	}
	name, pattern = name[star:], pattern[star+1:]
	for {
		star = strings.IndexByte(pattern, '*')
		if star < 0 {
			return len(name) >= len(pattern) && string(name[len(name)-len(pattern):]) == pattern
		}
		at := index(name, pattern[:star])
		if at < 0 {
			return false
		}
		name, pattern = name[at+star:], pattern[star+1:]
	}
}

func index[T string | []byte](s T, sub string) int {
	for i := 0; i+len(sub) <= len(s); i++ {
		if string(s[i:i+len(sub)]) == sub {
			return i
		}
	}
	return -1
}
