package repair

import (
	"slices"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Why an item cannot be repaired.
const (
	NotOTLP      = "not an OTLP request"
	Oversized    = "its body is an object in the store"
	StoreRefused = "a store refused it, and others may have it"
	NoVerdicts   = "nobody said which of its events are at fault"
	TooLarge     = "it is too large for a record"
)

// Mended is what became of an item.
type Mended struct {
	Not    string // why it cannot be repaired; empty: it can
	Events []EventResult

	valid   *request
	Indexes []int // of Events that are in the request
}

// EventResult is what became of one event.
type EventResult struct {
	Rules         []string // that were for it, in their order; none: it stays where it is
	Valid         bool
	Verdicts      []schema.Verdict // that it has now
	Before, After []byte           // as OTLP/JSON; After is nil where no rule was for it
}

// unrepairable says why an item cannot be repaired, or nothing.
func unrepairable(i quarantine.Item) string {
	_, err := signal.Parse(i.Signal)
	switch {
	case i.Object != "":
		return Oversized
	case i.OriginTopic != "":
		return StoreRefused
	case i.ContentType != envelope.TypeOTLP || i.ContentEncoding != "" || err != nil || len(i.Body) == 0 || i.Code == string(schema.Undecodable):
		return NotOTLP
	case len(i.Findings) == 0:
		return NoVerdicts
	}
	return ""
}

// Mend applies rules to an item's events, but those that have been sent again before, and holds the result against schemas as if it had been received when
// the item was. checker nil: what a rule is for is taken for valid.
func Mend(i quarantine.Item, rules *Rules, checker *schema.Checker, unknown schema.Unknown, sent []int) (Mended, error) {
	m := Mended{Not: unrepairable(i)}
	if m.Not != "" {
		return m, nil
	}
	sig, err := signal.Parse(i.Signal)
	if err != nil {
		return m, err
	}
	events, err := explode(sig, i.Body)
	if err != nil {
		m.Not = NotOTLP
		return m, nil //nolint:nilerr // that is what is said of it
	}
	m.valid = newRequest(sig)
	for index := range events {
		if slices.Contains(sent, index) {
			m.Events = append(m.Events, EventResult{Valid: true})
			continue
		}
		result, err := mendEvent(i, index, &events[index], sig, rules, checker, unknown)
		if err != nil {
			return m, err
		}
		m.Events = append(m.Events, result)
		if result.Valid {
			events[index].moveTo(m.valid)
			m.Indexes = append(m.Indexes, index)
		}
	}
	return m, nil
}

func mendEvent(i quarantine.Item, index int, e *event, sig signal.Signal, rules *Rules, checker *schema.Checker, unknown schema.Unknown) (EventResult, error) {
	var r EventResult
	var err error
	if r.Before, err = e.json(); err != nil {
		return r, err
	}
	for k := range rules.Rules {
		rule := &rules.Rules[k]
		if !rule.When.holds(i, index, e) {
			continue
		}
		r.Rules = append(r.Rules, rule.Name)
		for s := range rule.Steps {
			e.apply(&rule.Steps[s], i.Received)
		}
	}
	if len(r.Rules) == 0 {
		return r, nil
	}
	if r.After, err = e.json(); err != nil {
		return r, err
	}
	if checker == nil {
		r.Valid = true
		return r, nil
	}
	b, err := e.marshal()
	if err != nil {
		return r, err
	}
	found, err := checker.Check(sig, b, unknown, i.Received)
	if err != nil {
		return r, err
	}
	r.Valid = len(found.Findings) == 0
	if !r.Valid {
		r.Verdicts = found.Findings[0].Verdicts
	}
	return r, nil
}

// holds tells whether the conditions hold for an item's event.
func (w *When) holds(i quarantine.Item, index int, e *event) bool {
	if w.Tenant != "" && w.Tenant != i.Tenant || w.Signal != "" && w.Signal != i.Signal || w.Name != "" && w.Name != e.name() ||
		!w.Since.IsZero() && i.Received.Before(w.Since) || !w.Until.IsZero() && !i.Received.Before(w.Until) {
		return false
	}
	if w.Attribute != "" {
		if _, ok := e.attributes.Get(w.Attribute); !ok {
			return false
		}
	}
	if w.Code == "" && w.Path == "" && w.Schema == "" {
		return true
	}
	for _, f := range i.Findings {
		if f.Event != index {
			continue
		}
		for _, v := range f.Verdicts {
			if (w.Code == "" || w.Code == v.Code) && (w.Path == "" || w.Path == v.Path) && (w.Schema == "" || w.Schema == v.Schema) {
				return true
			}
		}
	}
	return false
}
