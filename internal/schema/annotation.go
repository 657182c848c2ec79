package schema

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"gopkg.in/yaml.v3"
)

// annotationKey is where PulseGrid's part of `annotations` is. Other keys belong to other programs and are not looked at.
const annotationKey = "pulsegrid"

// groupAnnotation is `annotations: pulsegrid:` of a group.
type groupAnnotation struct {
	Version string       `yaml:"version"` // of this schema; default: the registry's
	Match   *Match       `yaml:"match"`
	Limits  *LimitsPatch `yaml:"limits"`
	// Enums: closed or open (as the conventions have it: members are what is known, other values are allowed). Default open.
	Enums string `yaml:"enums"`
	// UnknownAttributes: strict or open; default: as the tenant's policy says.
	UnknownAttributes string `yaml:"unknown_attributes"`
	// Temporality of a metric: delta or cumulative; default: either.
	Temporality string `yaml:"temporality"`
}

// Match says to which events a schema applies. `*` in a pattern stands for any text; an empty pattern matches everything.
type Match struct {
	Name      string `yaml:"name"`       // of the span; events and metrics go by their own name
	Scope     string `yaml:"scope"`      // instrumentation scope's name
	SchemaURL string `yaml:"schema_url"` // of the event's scope, else of its resource
}

// LimitsPatch replaces limits for the events of one schema.
type LimitsPatch struct {
	AttributesMax *int           `yaml:"attributes_max"`
	KeyBytesMax   *int           `yaml:"key_bytes_max"`
	ValueBytesMax *int           `yaml:"value_bytes_max"`
	BodyBytesMax  *int           `yaml:"body_bytes_max"`
	DepthMax      *int           `yaml:"depth_max"`
	AgeMax        *time.Duration `yaml:"age_max"`
	FutureMax     *time.Duration `yaml:"future_max"`
}

// attributeAnnotation is `annotations: pulsegrid:` of an attribute. What is not set is as the definition that a ref refers to has it.
type attributeAnnotation struct {
	Pattern  *string        `yaml:"pattern"` // RE2, matched anywhere unless anchored; of strings, or of each string of an array
	PII      *bool          `yaml:"pii"`     // personal data: a verdict never quotes its value
	Promote  *bool          `yaml:"promote"` // wants a column of its own
	Enum     *string        `yaml:"enum"`    // closed or open
	BytesMax *int           `yaml:"value_bytes_max"`
	Min      *float64       `yaml:"min"` // of numbers
	Max      *float64       `yaml:"max"`
	pattern  *regexp.Regexp // compiled Pattern
}

const (
	open   = "open"
	closed = "closed"
	strict = "strict"
)

func readGroupAnnotation(from map[string]yaml.Node) (groupAnnotation, error) {
	var a groupAnnotation
	n, ok := from[annotationKey]
	if !ok {
		return a, nil
	}
	if err := decodeNode(&n, &a); err != nil {
		return a, fmt.Errorf("annotations: pulsegrid: %w", err)
	}
	var errs []error
	oneOf := func(key, value string, allowed ...string) {
		if value == "" {
			return
		}
		for _, v := range allowed {
			if v == value {
				return
			}
		}
		errs = append(errs, fmt.Errorf("annotations: pulsegrid: %s: is %q, want one of %q", key, value, allowed))
	}
	oneOf("enums", a.Enums, open, closed)
	oneOf("unknown_attributes", a.UnknownAttributes, open, strict)
	oneOf("temporality", a.Temporality, "delta", "cumulative")
	if len(a.Version) > maxIDBytes {
		errs = append(errs, fmt.Errorf("annotations: pulsegrid: version: has %d bytes, at most %d are allowed", len(a.Version), maxIDBytes))
	}
	if a.Limits != nil {
		l := Limits{}
		l.patch(a.Limits)
		if err := l.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("annotations: pulsegrid: limits: %w", err))
		}
	}
	return a, errors.Join(errs...)
}

func readAttributeAnnotation(from map[string]yaml.Node) (*attributeAnnotation, error) {
	n, ok := from[annotationKey]
	if !ok {
		return nil, nil
	}
	a := &attributeAnnotation{}
	if err := decodeNode(&n, a); err != nil {
		return nil, fmt.Errorf("annotations: pulsegrid: %w", err)
	}
	if a.Enum != nil && *a.Enum != open && *a.Enum != closed {
		return nil, fmt.Errorf("annotations: pulsegrid: enum: is %q, want %s or %s", *a.Enum, open, closed)
	}
	if a.BytesMax != nil && *a.BytesMax < 1 {
		return nil, fmt.Errorf("annotations: pulsegrid: value_bytes_max: is %d, want at least 1", *a.BytesMax)
	}
	if a.Min != nil && a.Max != nil && *a.Min > *a.Max {
		return nil, fmt.Errorf("annotations: pulsegrid: min: %v is above max: %v", *a.Min, *a.Max)
	}
	if a.Pattern != nil {
		if len(*a.Pattern) > maxPatternBytes {
			return nil, fmt.Errorf("annotations: pulsegrid: pattern: has %d bytes, at most %d are allowed", len(*a.Pattern), maxPatternBytes)
		}
		var err error
		if a.pattern, err = regexp.Compile(*a.Pattern); err != nil {
			return nil, fmt.Errorf("annotations: pulsegrid: pattern: %w", err)
		}
	}
	return a, nil
}

// over returns a with what b sets in place of its own.
func (a *attributeAnnotation) over(b *attributeAnnotation) *attributeAnnotation {
	if a == nil || b == nil {
		if b == nil {
			return a
		}
		return b
	}
	m := *a
	set(&m.PII, b.PII)
	set(&m.Promote, b.Promote)
	set(&m.Enum, b.Enum)
	set(&m.BytesMax, b.BytesMax)
	set(&m.Min, b.Min)
	set(&m.Max, b.Max)
	if b.Pattern != nil {
		m.Pattern, m.pattern = b.Pattern, b.pattern
	}
	return &m
}

func set[T any](to **T, from *T) {
	if from != nil {
		*to = from
	}
}

// Limits of an event, whatever its schema. Zero: not limited.
type Limits struct {
	// AttributesMax attributes of an event, or of a resource.
	AttributesMax int `mapstructure:"attributes_max"`
	// KeyBytesMax of an attribute's key.
	KeyBytesMax int `mapstructure:"key_bytes_max"`
	// ValueBytesMax of an attribute's string or bytes, or of an array or map as it is encoded.
	ValueBytesMax int `mapstructure:"value_bytes_max"`
	// BodyBytesMax of a log record's body, likewise.
	BodyBytesMax int `mapstructure:"body_bytes_max"`
	// DepthMax levels of a value: a plain value has one, an array of plain values two.
	DepthMax int `mapstructure:"depth_max"`
	// AgeMax of an event's time, against when the gateway received it.
	AgeMax time.Duration `mapstructure:"age_max"`
	// FutureMax by which an event's time may be ahead of when the gateway received it.
	FutureMax time.Duration `mapstructure:"future_max"`
}

// DefaultLimits are far beyond what instrumentation sends on purpose.
func DefaultLimits() Limits {
	return Limits{
		AttributesMax: 256, KeyBytesMax: 256, ValueBytesMax: 64 << 10, BodyBytesMax: 256 << 10, DepthMax: 16,
		AgeMax: 30 * 24 * time.Hour, FutureMax: time.Hour,
	}
}

// Validate names the key and the value of what is wrong.
func (l Limits) Validate() error {
	var errs []error
	for key, v := range map[string]int64{
		"attributes_max": int64(l.AttributesMax), "key_bytes_max": int64(l.KeyBytesMax), "value_bytes_max": int64(l.ValueBytesMax),
		"body_bytes_max": int64(l.BodyBytesMax), "depth_max": int64(l.DepthMax), "age_max": int64(l.AgeMax), "future_max": int64(l.FutureMax),
	} {
		if v < 0 {
			errs = append(errs, fmt.Errorf("%s: is %d, want 0 (no limit) or more", key, v))
		}
	}
	return errors.Join(errs...)
}

func (l *Limits) patch(p *LimitsPatch) {
	if p == nil {
		return
	}
	replace(&l.AttributesMax, p.AttributesMax)
	replace(&l.KeyBytesMax, p.KeyBytesMax)
	replace(&l.ValueBytesMax, p.ValueBytesMax)
	replace(&l.BodyBytesMax, p.BodyBytesMax)
	replace(&l.DepthMax, p.DepthMax)
	replace(&l.AgeMax, p.AgeMax)
	replace(&l.FutureMax, p.FutureMax)
}

func replace[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
