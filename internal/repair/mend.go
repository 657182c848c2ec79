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
	SentBefore    bool             // and nothing is done to it
	Verdicts      []schema.Verdict // that it has now
	Before, After []byte           // as OTLP/JSON, of examples
}

// Unrepairable says why an item cannot be repaired, or nothing: then its body is an OTLP request of just the events at fault.
func Unrepairable(i quarantine.Item) string {
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

// checkedBytes bounds what may be around the events that are held against the schemas at once.
const checkedBytes = 4 << 20

// Mend applies rules to an item's events, but those that have been sent again before, and holds the result against schemas as if it had been received when
// the item was. checker nil: what a rule is for is taken for valid. Of the first events of each rule, so many as examples says, Before and After are kept.
func Mend(i quarantine.Item, rules *Rules, checker *schema.Checker, unknown schema.Unknown, sent []int, examples int) (Mended, error) {
	m := Mended{Not: Unrepairable(i)}
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
	before := map[int]bool{}
	for _, index := range sent {
		before[index] = true
	}
	p := mending{item: i, signal: sig, rules: rules, checker: checker, unknown: unknown, left: map[string]int{}, all: newRequest(sig)}
	for k := range rules.Rules {
		p.left[rules.Rules[k].Name] = examples
	}
	m.valid = newRequest(sig)
	for e := range events {
		index := len(m.Events)
		if before[index] {
			m.Events = append(m.Events, EventResult{Valid: true, SentBefore: true})
			continue
		}
		result, err := p.mend(index, &e)
		if err != nil {
			return m, err
		}
		m.Events = append(m.Events, result)
		if len(result.Rules) == 0 {
			continue
		}
		p.all.add(&e)
		p.mended = append(p.mended, mendedEvent{index, e})
		if p.all.around > checkedBytes {
			if err := p.check(&m); err != nil || m.Not != "" {
				return m, err
			}
		}
	}
	err = p.check(&m)
	return m, err
}

// mending is an item being mended.
type mending struct {
	item    quarantine.Item
	signal  signal.Signal
	rules   *Rules
	checker *schema.Checker
	unknown schema.Unknown
	left    map[string]int // examples of each rule that are still to be kept

	mended []mendedEvent // not held against the schemas yet
	all    *request      // of them
}

type mendedEvent struct {
	index int
	event event
}

// mend applies the rules to an event, without a look at the schemas.
func (p *mending) mend(index int, e *event) (EventResult, error) {
	var r EventResult
	var before event
	for k := range p.rules.Rules {
		rule := &p.rules.Rules[k]
		if !rule.When.holds(p.item, index, e) {
			continue
		}
		if r.Rules == nil {
			before = e.clone()
		}
		r.Rules = append(r.Rules, rule.Name)
		for s := range rule.Steps {
			e.apply(&rule.Steps[s], p.item.Received)
		}
	}
	if !slices.ContainsFunc(r.Rules, func(rule string) bool { return p.left[rule] > 0 }) {
		return r, nil
	}
	for _, rule := range r.Rules {
		p.left[rule]--
	}
	var err error
	if r.Before, err = before.json(p.signal); err != nil {
		return r, err
	}
	r.After, err = e.json(p.signal)
	return r, err
}

func (e *event) json(sig signal.Signal) ([]byte, error) {
	one := newRequest(sig)
	one.add(e)
	return one.json()
}

// check holds what was mended against the schemas, and adds what is valid to what is sent again.
func (p *mending) check(m *Mended) error {
	found := schema.Findings(nil)
	if p.checker != nil {
		b, err := p.all.marshal()
		if err != nil {
			return err
		}
		result, err := p.checker.Check(p.signal, b, p.unknown, p.item.Received)
		if err != nil {
			return err
		}
		found = result.Findings
	}
	for k := range p.mended {
		one := &p.mended[k]
		r := &m.Events[one.index]
		if len(found) > 0 && found[0].Event == k {
			r.Verdicts, found = found[0].Verdicts, found[1:]
			continue
		}
		r.Valid = true
		m.valid.add(&one.event)
		m.Indexes = append(m.Indexes, one.index)
		if m.valid.around > maxRecordBytes {
			*m = Mended{Not: TooLarge}
			return nil
		}
	}
	p.mended, p.all = p.mended[:0], newRequest(p.signal)
	return nil
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
	at, ok := slices.BinarySearchFunc(i.Findings, index, func(f schema.Finding, event int) int { return f.Event - event })
	return ok && slices.ContainsFunc(i.Findings[at].Verdicts, func(v schema.Verdict) bool {
		return (w.Code == "" || w.Code == v.Code) && (w.Path == "" || w.Path == v.Path) && (w.Schema == "" || w.Schema == v.Schema)
	})
}
