package residency

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Verdict is what a statement comes to.
type Verdict string

// Verdicts.
const (
	Inside   Verdict = "inside"   // all bytes that were found are in the tenant's jurisdiction, and all places were looked at
	Outside  Verdict = "outside"  // bytes were found in another jurisdiction
	Unproven Verdict = "unproven" // none were found in another one, and not all places could be looked at
	Unpinned Verdict = "unpinned" // the tenant may be anywhere
)

// Statement says where a tenant's bytes of a day were.
type Statement struct {
	Format       int       `json:"format"`
	Tenant       string    `json:"tenant"`
	Day          string    `json:"day"`
	Made         time.Time `json:"made"`
	Jurisdiction string    `json:"jurisdiction"` // that the tenant is pinned to; empty: none, or the registry does not know it
	Verdict      Verdict   `json:"verdict"`
	Places       []Where   `json:"places"`
	Problems     []string  `json:"problems"` // why it is unproven
	Inventories  []Source  `json:"inventories"`
}

// Where is a place with bytes of the tenant.
type Where struct {
	Cell         string `json:"cell"`
	Kind         string `json:"kind"`
	Name         string `json:"name"`
	Jurisdiction string `json:"jurisdiction"`
	Amount
	MayHold   bool `json:"may_hold,omitempty"`   // nobody has seen its bytes there: the place has copies of other places of the cell, which have some
	OtherCell bool `json:"other_cell,omitempty"` // the registry does not name the cell among those that may have the tenant's data
	Outside   bool `json:"outside,omitempty"`    // it is not in the tenant's jurisdiction
}

// Source is an inventory that a statement was made of.
type Source struct {
	Cell   string    `json:"cell"`
	Taken  time.Time `json:"taken"`
	SHA256 string    `json:"sha256"`
}

// Declared is a cell that must have an inventory.
type Declared struct{ Name, Jurisdiction string }

// Input is what statements are made of. Seals were checked.
type Input struct {
	Day         Day
	Cells       []Declared
	Registry    *tenant.Snapshot
	Inventories []*Inventory
	Tenants     []string // whose statements; nil: of all that an inventory names
	Now         time.Time
}

// Judge makes the statements, in the order of the tenants' names. It signs nothing.
func Judge(in Input) []*Statement {
	j := &judge{Input: in, holders: map[string]map[string]bool{}}
	j.collect()
	tenants := in.Tenants
	if tenants == nil {
		all := map[string]bool{}
		for _, of := range j.holders {
			maps.Copy(all, of)
		}
		tenants = slices.Collect(maps.Keys(all))
	}
	slices.Sort(tenants)
	out := make([]*Statement, 0, len(tenants))
	for _, id := range slices.Compact(tenants) {
		out = append(out, j.statement(id))
	}
	return out
}

type judge struct {
	Input
	problems []string // of all tenants
	sources  []Source
	places   []located                  // merged
	holders  map[string]map[string]bool // cell -> tenants with bytes in it
}

// located is a place of a cell.
type located struct {
	cell string
	Place
	of map[string]Amount // instead of Tenants
}

func (j *judge) problem(format string, args ...any) {
	j.problems = append(j.problems, fmt.Sprintf(format, args...))
}

// collect puts the inventories together, and says which are missing.
func (j *judge) collect() {
	if j.Registry.Incomplete() {
		j.problem("a file of the registry of tenants could not be read")
	}
	whole := map[string]bool{}
	for _, v := range j.Inventories {
		if v.Day != j.Day.String() {
			continue
		}
		j.sources = append(j.sources, Source{v.Cell, v.Taken, v.SHA256})
		for _, p := range v.Places {
			at := located{v.Cell, p, map[string]Amount{}}
			for _, h := range p.Tenants {
				if j.holders[v.Cell] == nil {
					j.holders[v.Cell] = map[string]bool{}
				}
				j.holders[v.Cell][h.Tenant] = true
				at.of[h.Tenant] = h.Amount
			}
			j.places = append(j.places, at)
		}
		i := slices.IndexFunc(j.Cells, func(c Declared) bool { return c.Name == v.Cell })
		registered, known := j.Registry.Cell(v.Cell)
		switch {
		case i < 0:
			j.problem("cell %s has an inventory, and is not declared", v.Cell)
		case j.Cells[i].Jurisdiction != v.Jurisdiction:
			j.problem("cell %s is declared to be in %s, and its inventory says %s", v.Cell, j.Cells[i].Jurisdiction, v.Jurisdiction)
		case known && registered.Jurisdiction != v.Jurisdiction:
			j.problem("cell %s is in %s by the registry, and its inventory says %s", v.Cell, registered.Jurisdiction, v.Jurisdiction)
		case v.Began.Before(j.Day.End): // it says what there was so far, and may find what has gone by the end of the day
		case len(v.Failed) > 0:
			for _, f := range v.Failed {
				j.problem("cell %s: %s", v.Cell, f)
			}
		default:
			whole[v.Cell] = true
		}
	}
	for _, c := range j.Cells {
		if !whole[c.Name] {
			j.problem("cell %s has no whole inventory that was begun after the end of the day", c.Name)
		}
	}
	slices.SortFunc(j.sources, func(a, b Source) int { return cmp.Or(cmp.Compare(a.Cell, b.Cell), a.Taken.Compare(b.Taken)) })
	j.places = merged(j.places)
}

// merged makes one of the places that several inventories of a cell have. What one of them found was there, so the greatest amount counts.
func merged(all []located) (out []located) {
	slices.SortStableFunc(all, func(a, b located) int {
		return cmp.Or(cmp.Compare(a.cell, b.cell), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Jurisdiction, b.Jurisdiction))
	})
	for _, p := range all {
		n := len(out) - 1
		if n < 0 || out[n].cell != p.cell || out[n].Kind != p.Kind || out[n].Name != p.Name || out[n].Jurisdiction != p.Jurisdiction {
			out = append(out, p)
			continue
		}
		same := &out[n]
		same.Copies = same.Copies && p.Copies
		same.Unknown = most(same.Unknown, p.Unknown)
		for id, a := range p.of {
			same.of[id] = most(same.of[id], a)
		}
	}
	return out
}

func most(a, b Amount) Amount {
	return Amount{max(a.Items, b.Items), max(a.Objects, b.Objects), max(a.Bytes, b.Bytes)}
}

func (j *judge) statement(id string) *Statement {
	s := &Statement{Format: Format, Tenant: id, Day: j.Day.String(), Made: j.Now.UTC(), Places: []Where{}, Problems: slices.Clone(j.problems), Inventories: j.sources}
	t := j.Registry.Tenant(id)
	if t == nil {
		s.Problems = append(s.Problems, "the registry has no such tenant: whether it must stay in a jurisdiction is not known")
	} else {
		s.Jurisdiction = t.Jurisdiction
	}
	pinned := t != nil && t.Jurisdiction != ""
	for _, p := range j.places {
		w := Where{Cell: p.cell, Kind: p.Kind, Name: p.Name, Jurisdiction: p.Jurisdiction}
		w.OtherCell = t != nil && !t.MayBeIn(p.cell)
		w.Outside = pinned && p.Jurisdiction != t.Jurisdiction
		amount, holds := p.of[id]
		switch {
		case holds:
			w.Amount = amount
		case p.Copies && j.holders[p.cell][id]:
			w.Amount, w.MayHold = p.Unknown, true
		case !p.Copies && w.Outside:
			if p.Unknown != (Amount{}) {
				s.Problems = append(s.Problems, fmt.Sprintf("cell %s (%s): %s %s has %d items that name no tenant", p.cell, p.Jurisdiction, p.Kind, p.Name, p.Unknown.Items))
			}
			continue
		default:
			continue
		}
		s.Places = append(s.Places, w)
	}
	switch {
	case slices.ContainsFunc(s.Places, func(w Where) bool { return w.Outside }):
		s.Verdict = Outside
	case t != nil && !pinned:
		s.Verdict = Unpinned
	case len(s.Problems) > 0:
		s.Verdict = Unproven
	default:
		s.Verdict = Inside
	}
	if s.Problems == nil {
		s.Problems = []string{}
	}
	return s
}
