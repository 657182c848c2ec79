package schema

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Code is what a verdict says, for programs. Codes never change their meaning; docs/formats/verdicts.md lists them, and a test holds the
// two together.
type Code string

// The codes.
const (
	InvalidUTF8        Code = "invalid_utf8"
	TooManyAttributes  Code = "attributes_too_many"
	KeyEmpty           Code = "key_empty"
	KeyTooLong         Code = "key_too_long"
	ValueTooLong       Code = "value_too_long"
	BodyTooLarge       Code = "body_too_large"
	TooDeep            Code = "too_deep"
	TimeMissing        Code = "time_missing"
	TimeTooOld         Code = "time_too_old"
	TimeInFuture       Code = "time_in_future"
	TimeOrder          Code = "time_order"
	AttributeMissing   Code = "attribute_missing"
	AttributeType      Code = "attribute_type"
	AttributeEnum      Code = "attribute_enum"
	AttributePattern   Code = "attribute_pattern"
	AttributeRange     Code = "attribute_range"
	AttributeUnknown   Code = "attribute_unknown"
	AttributeDuplicate Code = "attribute_duplicate"
	BodyMissing        Code = "body_missing"
	BodyType           Code = "body_type"
	MetricName         Code = "metric_name_missing"
	MetricType         Code = "metric_type"
	MetricUnit         Code = "metric_unit"
	MetricTemporality  Code = "metric_temporality"
	MetricNotMonotonic Code = "metric_not_monotonic"
	SumNegative        Code = "sum_negative"
	// Undecodable is said of a whole body that is not OTLP, by the receiver.
	Undecodable Code = "undecodable"
	// EventTooLarge is said of an event that no Kafka record can hold, by the msk exporter.
	EventTooLarge Code = "event_too_large"
	// Unmapped is said of an event of the old REST collectors that the mapping cannot make OTLP of, by the receiver.
	Unmapped Code = "unmapped"
)

// Codes lists all of them.
var Codes = []Code{
	InvalidUTF8, TooManyAttributes, KeyEmpty, KeyTooLong, ValueTooLong, BodyTooLarge, TooDeep, TimeMissing, TimeTooOld, TimeInFuture, TimeOrder,
	AttributeMissing, AttributeType, AttributeEnum, AttributePattern, AttributeRange, AttributeUnknown, AttributeDuplicate, BodyMissing, BodyType,
	MetricName, MetricType, MetricUnit, MetricTemporality, MetricNotMonotonic, SumNegative, Undecodable, EventTooLarge, Unmapped,
}

// Bounds of what verdicts say.
const (
	maxVerdicts      = 16 // of an event; further ones are counted
	maxTextBytes     = 64 // of a value or key that is quoted
	maxExpectedBytes = 256
	maxPathBytes     = 384
	maxDecodeBytes   = 64 << 20
	maxDecodeEvents  = 1 << 18
)

// Verdict is one violation. It never holds more than the beginning of a value, and nothing of one that is marked as personal data, or that no
// schema knows.
type Verdict struct {
	Code     Code   `json:"code"`
	Path     string `json:"path"` // of what is at fault, within the event; empty: the request has too many verdicts to say it of each
	Expected string `json:"expected,omitempty"`
	Got      string `json:"got,omitempty"`
	Schema   string `json:"schema,omitempty"`  // id of the group; empty: a limit that holds for all events
	Version  string `json:"version,omitempty"` // of the schema
}

// String is a verdict for people.
func (v Verdict) String() string {
	var b strings.Builder
	b.WriteString(string(v.Code))
	if v.Path != "" {
		b.WriteString(" at " + v.Path)
	}
	if v.Expected != "" {
		b.WriteString(": expected " + v.Expected)
	}
	if v.Got != "" {
		b.WriteString(", got " + v.Got)
	}
	if v.Schema != "" {
		b.WriteString(" (" + strings.TrimSpace(v.Schema+" "+v.Version) + ")")
	}
	return b.String()
}

// Findings are the verdicts on a request, by event in rising order; nil: all of its events are valid.
type Findings []Finding

// Finding is what an event violates.
type Finding struct {
	Event    int       `json:"event"`         // ordinal in the request, from 0
	PII      bool      `json:"pii,omitempty"` // the event's schema marks personal data
	Verdicts []Verdict `json:"verdicts"`      // at least one
	More     int       `json:"more,omitempty"`
}

// written is a finding as JSON: of one event, or of several that share their verdicts.
type written struct {
	Finding
	Also []int `json:"also,omitempty"` // further events: how many are skipped, how many follow, and so on
}

// Append adds the JSON of f to dst. Events whose verdicts are one slice, as Check makes them of a request with very many, are written together.
func (f Findings) Append(dst []byte) []byte {
	type shared struct {
		verdicts *Verdict
		pii      bool
		more     int
	}
	out, at, next := make([]written, 0, min(len(f), maxRequestVerdicts)), map[shared]int{}, []int(nil)
	for _, one := range f {
		key := shared{&one.Verdicts[0], one.PII, one.More}
		k, ok := at[key]
		if !ok {
			at[key] = len(out)
			out, next = append(out, written{Finding: one}), append(next, one.Event+1)
			continue
		}
		w := &out[k]
		if skipped := one.Event - next[k]; skipped > 0 || len(w.Also) == 0 {
			w.Also = append(w.Also, skipped, 1)
		} else {
			w.Also[len(w.Also)-1]++
		}
		next[k] = one.Event + 1
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic(err) // strings, numbers and booleans
	}
	return append(dst, b...)
}

// ErrFindings is returned for what is no JSON of findings.
var ErrFindings = errors.New("not findings")

// DecodeFindings reads what Append has written. Codes of a later version are kept as they are.
func DecodeFindings(b []byte) (Findings, error) {
	if len(b) > maxDecodeBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrFindings, len(b), maxDecodeBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var from []written
	if err := dec.Decode(&from); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFindings, err)
	}
	if len(bytes.TrimSpace(b[dec.InputOffset():])) > 0 {
		return nil, fmt.Errorf("%w: there is more behind them", ErrFindings)
	}
	f, last := make(Findings, 0, len(from)), -1
	for i := range from {
		e := &from[i]
		switch {
		case e.Event <= last || e.Event >= maxDecodeEvents:
			return nil, fmt.Errorf("%w: event %d after event %d; want rising ordinals below %d", ErrFindings, e.Event, last, maxDecodeEvents)
		case len(e.Verdicts) == 0 || len(e.Verdicts) > maxVerdicts || e.More < 0:
			return nil, fmt.Errorf("%w: event %d has %d verdicts and %d more, want 1 to %d and none or more", ErrFindings, e.Event, len(e.Verdicts), e.More, maxVerdicts)
		}
		for _, v := range e.Verdicts {
			if !v.Code.valid() {
				return nil, fmt.Errorf("%w: event %d has code %.64q, want letters and _", ErrFindings, e.Event, v.Code)
			}
		}
		last = e.Event
		var err error
		if f, err = e.appendTo(f); err != nil {
			return nil, err
		}
	}
	if !slices.IsSortedFunc(f, byEvent) {
		slices.SortFunc(f, byEvent)
	}
	for i := 1; i < len(f); i++ {
		if f[i].Event == f[i-1].Event {
			return nil, fmt.Errorf("%w: event %d is there twice", ErrFindings, f[i].Event)
		}
	}
	return f, nil
}

func byEvent(a, b Finding) int { return cmp.Compare(a.Event, b.Event) }

// appendTo adds a finding for each event of w.
func (w *written) appendTo(f Findings) (Findings, error) {
	f = append(f, w.Finding)
	next := w.Event + 1
	for i := 0; i < len(w.Also); i += 2 {
		if i+1 == len(w.Also) || w.Also[i] < 0 || w.Also[i] > maxDecodeEvents || w.Also[i+1] < 1 || w.Also[i+1] > maxDecodeEvents-next-w.Also[i] {
			return nil, fmt.Errorf("%w: also of event %d: want pairs of how many events are skipped and how many follow, below %d", ErrFindings, w.Event, maxDecodeEvents)
		}
		next += w.Also[i]
		f = slices.Grow(f, w.Also[i+1])
		for range w.Also[i+1] {
			one := w.Finding
			one.Event = next
			f, next = append(f, one), next+1
		}
	}
	if len(f) > maxDecodeEvents {
		return nil, fmt.Errorf("%w: of more than %d events", ErrFindings, maxDecodeEvents)
	}
	return f, nil
}

func (c Code) valid() bool {
	return c != "" && len(c) <= 64 && strings.Trim(string(c), "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// clip is the beginning of a text, as valid UTF-8.
func clip[T string | []byte](s T, most int) string {
	if len(s) <= most {
		return strings.ToValidUTF8(string(s), "\uFFFD")
	}
	return strings.ToValidUTF8(string(s[:most]), "\uFFFD") + "…"
}
