package certificate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// SignalCopies are the copies among the events of one signal.
type SignalCopies struct {
	Signal string       `json:"signal"`
	Events int64        `json:"events"` // all of the signal, copies included
	Copies int64        `json:"copies"`
	Rules  []RuleCopies `json:"rules"`
}

// RuleCopies are those of one rule (decision 0030).
type RuleCopies struct {
	Rule     string        `json:"rule"` // uid, request or content
	Copies   int64         `json:"copies"`
	Apart    int64         `json:"apart"`    // of these, in records that do not repeat a whole request
	Examples []CopyExample `json:"examples"` // bounded; those apart first
}

// CopyExample is a copy and what it is a copy of: two places of one partition.
type CopyExample struct {
	Tenant    string `json:"tenant"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Index     int32  `json:"index"`
	OfOffset  int64  `json:"of_offset"`
	OfIndex   int32  `json:"of_index"`
	Apart     bool   `json:"apart"`
	Differs   bool   `json:"differs"` // PulseGrid sent the event again with another content
}

// String is for people.
func (e CopyExample) String() string {
	s := fmt.Sprintf("%s/%d/%d#%d repeats %d#%d, tenant %s", e.Topic, e.Partition, e.Offset, e.Index, e.OfOffset, e.OfIndex, e.Tenant)
	if e.Differs {
		s += ", with other content"
	}
	return s
}

// Bounds of the examples of one signal and rule.
const (
	examplesApart = 5
	examplesMax   = 6 // one of a repeated request is kept, if there is one
)

// Counted adds events that were looked at, copies or not.
func (c *SignalCopies) Counted(events int64) { c.Events += events }

// Add counts a copy.
func (c *SignalCopies) Add(rule string, e CopyExample) {
	c.Copies++
	i := slices.IndexFunc(c.Rules, func(r RuleCopies) bool { return r.Rule == rule })
	if i < 0 {
		i = len(c.Rules)
		c.Rules = append(c.Rules, RuleCopies{Rule: rule, Examples: []CopyExample{}})
	}
	r := &c.Rules[i]
	r.Copies++
	if e.Apart {
		r.Apart++
	}
	r.example(e)
}

func (r *RuleCopies) example(e CopyExample) {
	apart := 0
	for _, x := range r.Examples {
		if x.Apart {
			apart++
		}
	}
	switch {
	case e.Apart && apart >= examplesApart, !e.Apart && len(r.Examples) > apart:
		return
	}
	r.Examples = append(r.Examples, e)
	slices.SortStableFunc(r.Examples, func(a, b CopyExample) int {
		switch {
		case a.Apart && !b.Apart:
			return -1
		case b.Apart && !a.Apart:
			return 1
		}
		return 0
	})
}

// Merge adds o, of the same signal.
func (c *SignalCopies) Merge(o SignalCopies) {
	c.Events += o.Events
	c.Copies += o.Copies
	for _, r := range o.Rules {
		i := slices.IndexFunc(c.Rules, func(have RuleCopies) bool { return have.Rule == r.Rule })
		if i < 0 {
			i = len(c.Rules)
			c.Rules = append(c.Rules, RuleCopies{Rule: r.Rule, Examples: []CopyExample{}})
		}
		have := &c.Rules[i]
		have.Copies += r.Copies
		have.Apart += r.Apart
		for _, e := range r.Examples {
			have.example(e)
		}
	}
}

// TakeExamples takes one example of each rule that has none from o, of the same signal.
func (c *SignalCopies) TakeExamples(o SignalCopies) {
	for i := range c.Rules {
		for _, r := range o.Rules {
			if r.Rule == c.Rules[i].Rule && len(r.Examples) > 0 && len(c.Rules[i].Examples) == 0 {
				c.Rules[i].Examples = r.Examples[:1:1]
			}
		}
	}
}

// Percent of the events that are copies.
func (c *SignalCopies) Percent() float64 {
	if c.Events == 0 {
		return 0
	}
	return 100 * float64(c.Copies) / float64(c.Events)
}

// DefaultCopiesPercent is the share of copies above which there is a warning.
const DefaultCopiesPercent = 5.0

// advice by rule: what to check first.
var advice = map[string]string{
	"request": "agents send whole requests again: see whether their timeout is shorter than the gateway's answers take (otelcol_ingest_request_duration), and whether a proxy between them loses or repeats answers",
	"content": "agents send events again: see whether their timeout is shorter than the gateway's answers take (otelcol_ingest_request_duration), whether an agent reads its files from the start after each restart, and whether two agents collect the same source",
	"uid":     "events share a unique id: see whether an SDK or the tenant's id_attribute uses as id the name of a kind of event, which would make different events one",
}

// Warning says that too many events are copies, and what to check; empty: there are not.
func (c *SignalCopies) Warning(limit float64) string {
	if c.Copies == 0 || c.Percent() <= limit {
		return ""
	}
	rules := slices.Clone(c.Rules)
	slices.SortStableFunc(rules, func(a, b RuleCopies) int { return cmp.Compare(b.Copies, a.Copies) })
	var by, check []string
	for _, r := range rules {
		by = append(by, fmt.Sprintf("%d by rule %s", r.Copies, r.Rule))
		if a := advice[r.Rule]; a != "" && !slices.Contains(check, a) {
			check = append(check, a)
		}
	}
	return fmt.Sprintf("%s: %.1f %% of %d events are copies (limit %g %%), %s. Check: %s", c.Signal, c.Percent(), c.Events, limit, strings.Join(by, ", "), strings.Join(check, "; "))
}
