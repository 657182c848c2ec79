package backfill

import (
	"slices"
	"time"
)

// States of an object.
const (
	StatePending   = "pending"        // not finished yet
	StateLoaded    = "loaded"         // all of its lines are rows, copies or in quarantine
	StateChanged   = "changed"        // it is another than the plan's: nothing more of it is loaded
	StateMissing   = "missing"        // it is gone
	StateTruncated = "truncated"      // its gzip stream ends in the middle: the lines before are loaded
	StateCorrupt   = "corrupt"        // its gzip stream is damaged: the lines before are loaded
	StateUnknown   = "unknown_format" // neither gzip nor text
)

// Outcome is what became of an object.
type Outcome struct {
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	Tally
}

// Failed tells whether something of the object could not be loaded, for good.
func (o Outcome) Failed() bool { return o.State != StateLoaded && o.State != StatePending }

// Tally counts what lines became. Logs, Metrics and Traces are events, copies included.
type Tally struct {
	Lines       int64 `json:"lines"`
	Logs        int64 `json:"logs"`
	Metrics     int64 `json:"metrics"`
	Traces      int64 `json:"traces"`
	Duplicates  int64 `json:"duplicates"`  // of the events, copies of earlier ones: not stored again
	Quarantined int64 `json:"quarantined"` // events, or lines, that are in quarantine instead
}

// Events of all signals.
func (t Tally) Events() int64 { return t.Logs + t.Metrics + t.Traces }

func (t *Tally) add(u Tally) {
	t.Lines += u.Lines
	t.Logs += u.Logs
	t.Metrics += u.Metrics
	t.Traces += u.Traces
	t.Duplicates += u.Duplicates
	t.Quarantined += u.Quarantined
}

// Progress is how far a job is: everything before Position is in both stores.
type Progress struct {
	Position int64          `json:"position"`
	Cuts     [streams]int64 `json:"cuts"`     // of each stream, where its next block begins
	Intents  []Intent       `json:"intents"`  // what may have been begun behind Position
	Outcomes []Outcome      `json:"outcomes"` // of the objects up to Position
	Done     bool           `json:"done"`
}

// Intent says that blocks before an offset may have been begun, since a time.
type Intent struct {
	Upto int64     `json:"upto"`
	At   time.Time `json:"at"`
}

// Outcome of an object.
func (p *Progress) Outcome(object int) Outcome {
	if object < len(p.Outcomes) {
		return p.Outcomes[object]
	}
	return Outcome{State: StatePending}
}

// Total of all objects.
func (p *Progress) Total() (t Tally) {
	for _, o := range p.Outcomes {
		t.add(o.Tally)
	}
	return t
}

// Failed counts the objects that could not be loaded whole.
func (p *Progress) Failed() (n int) {
	for _, o := range p.Outcomes {
		if o.Failed() {
			n++
		}
	}
	return n
}

// begun is the offset before which blocks may have been begun.
func (p *Progress) begun() int64 {
	if len(p.Intents) == 0 {
		return 0
	}
	return p.Intents[len(p.Intents)-1].Upto
}

// begunAt is the time since which the block at an offset may have been begun.
func (p *Progress) begunAt(offset int64) time.Time {
	for _, i := range p.Intents {
		if offset < i.Upto {
			return i.At
		}
	}
	return time.Time{}
}

// at is the outcome of an object, to be changed.
func (p *Progress) at(object int) *Outcome {
	for len(p.Outcomes) <= object {
		p.Outcomes = append(p.Outcomes, Outcome{State: StatePending})
	}
	return &p.Outcomes[object]
}

func (p *Progress) clone() Progress {
	q := *p
	q.Intents, q.Outcomes = slices.Clone(p.Intents), slices.Clone(p.Outcomes)
	return q
}
