package rehearsal

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// Report is what a rehearsal has found. Bytes are of events as OTLP requests of their own, with their resource and scope, not compressed: they compare with one
// another, and are no size on a disk.
type Report struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Tenant   string    `json:"tenant,omitempty"` // the only one that was asked for; empty: all
	Current  Registry  `json:"current"`
	Proposed Registry  `json:"proposed"`
	Events   int64     `json:"events"`   // in the lake, of the gateways
	JobRows  int64     `json:"job_rows"` // that jobs have loaded: no gateway checks these, and nor does the rehearsal
	// Unreadable are rows and items that could not be turned into events, and are in no other count.
	Unreadable        int64  `json:"unreadable"`
	UnreadableExample string `json:"unreadable_example,omitempty"`
	// SourcesLeftOut tells that there were more sources than are kept: the others are counted by code alone.
	SourcesLeftOut bool     `json:"sources_left_out,omitempty"`
	Tenants        []Tenant `json:"tenants"` // those with the largest share of violations under the proposed registry first
	NewColumns     []Column `json:"new_columns"`
}

// Registry is one of the two.
type Registry struct {
	Version string `json:"version"`
	Schemas int    `json:"schemas"`
}

// Tenant is what there is of a tenant.
type Tenant struct {
	Tenant     string         `json:"tenant"`
	Mode       schema.Mode    `json:"mode"`
	Unknown    schema.Unknown `json:"unknown_attributes"`
	Events     int64          `json:"events"` // that were checked; none where the mode is off
	Bytes      int64          `json:"bytes"`  // of them
	Unchecked  int64          `json:"unchecked"`
	Current    Outcome        `json:"current"`
	Proposed   Outcome        `json:"proposed"`
	Newly      int64          `json:"newly_violating"`     // valid under the current registry
	NoLonger   int64          `json:"no_longer_violating"` // valid under the proposed registry
	Sources    []Source       `json:"sources"`             // what most events would violate first
	Quarantine Quarantine     `json:"quarantine"`
}

// Outcome is what one of the registries says of a tenant's events in the lake.
type Outcome struct {
	Violating     int64   `json:"violating"`
	Percent       float64 `json:"violating_percent"`
	Bytes         int64   `json:"violating_bytes"`
	WithoutSchema int64   `json:"without_schema"`
}

// Source is where violations of one kind come from. An event that violates several things counts in each.
type Source struct {
	Signal   string      `json:"signal"`
	Service  string      `json:"service"` // service.name
	Schema   string      `json:"schema"`  // id of the group; empty: a limit that holds for all events
	Code     schema.Code `json:"code"`
	Path     string      `json:"path"` // within the event; [*] stands for any item of an array
	Current  int64       `json:"current"`
	Proposed int64       `json:"proposed"`
}

// Quarantine is what would become of what is in quarantine of the same time.
type Quarantine struct {
	Items            int64            `json:"items"`
	Events           int64            `json:"events"`            // in those items that could be checked
	AcceptedCurrent  int64            `json:"accepted_current"`  // of these
	AcceptedProposed int64            `json:"accepted_proposed"` // of these
	NotChecked       map[string]int64 `json:"not_checked"`       // items, by why
}

// Column is an attribute that wants a column of its own under the proposed registry and has none.
type Column struct {
	Signal    string `json:"signal"`
	Attribute string `json:"attribute"`
	Type      string `json:"type"`
	Column    string `json:"column"`
	Events    int64  `json:"events"` // that have it, in that type
	Bytes     int64  `json:"bytes"`  // of its values; of a number 8, of a boolean 1
}

// Above are the tenants of whose events more than so many percent would violate the proposed registry.
func (r *Report) Above(percent float64) (out []Tenant) {
	for _, t := range r.Tenants {
		if t.Proposed.Percent > percent {
			out = append(out, t)
		}
	}
	return out
}

// ParsePercent reads a share such as 1%.
func ParsePercent(text string) (float64, error) {
	number, isShare := strings.CutSuffix(text, "%")
	percent, err := strconv.ParseFloat(number, 64)
	if err != nil || !isShare || !(percent >= 0 && percent <= 100) {
		return 0, fmt.Errorf("%q: want 0%% to 100%%", text)
	}
	return percent, nil
}

// Verdict says why the proposed registry must not be put in force; nil: no more than so many percent of any tenant's events would violate it.
func (r *Report) Verdict(percent float64) error {
	switch above := r.Above(percent); {
	case len(above) > 0:
		t := above[0]
		return fmt.Errorf("refused: %d of %d events of tenant %s (%.2f%%) would violate the proposed version, more than %g%%; %d tenants are above that",
			t.Proposed.Violating, t.Events, t.Tenant, t.Proposed.Percent, percent, len(above))
	case r.Unreadable > 0:
		return fmt.Errorf("%d rows could not be checked: %s", r.Unreadable, r.UnreadableExample)
	case r.Events == 0:
		return errors.New("the lake has no events of that time that came by a gateway: nothing was rehearsed")
	}
	return nil
}

// finish makes shares and puts all in order.
func (r *Report) finish() {
	for i := range r.Tenants {
		t := &r.Tenants[i]
		for _, o := range []*Outcome{&t.Current, &t.Proposed} {
			if t.Events > 0 {
				o.Percent = 100 * float64(o.Violating) / float64(t.Events)
			}
		}
		slices.SortFunc(t.Sources, func(a, b Source) int {
			return cmp.Or(cmp.Compare(b.Proposed, a.Proposed), cmp.Compare(b.Current, a.Current), strings.Compare(a.Signal, b.Signal), strings.Compare(a.Service, b.Service),
				strings.Compare(a.Schema, b.Schema), cmp.Compare(a.Code, b.Code), strings.Compare(a.Path, b.Path))
		})
	}
	slices.SortFunc(r.Tenants, func(a, b Tenant) int {
		return cmp.Or(cmp.Compare(b.Proposed.Percent, a.Proposed.Percent), strings.Compare(a.Tenant, b.Tenant))
	})
}
