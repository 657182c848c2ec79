package residency

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Format is the version of inventories and statements.
const Format = 1

// Kinds of places.
const (
	KindTopic   = "topic"
	KindTable   = "clickhouse"
	KindLake    = "lake"
	KindSpill   = "spill"
	KindBackup  = "backup"
	KindReplica = "replica"
)

// Bounds of an inventory. What is beyond them makes it fail: one that left something out would prove nothing.
const (
	placesMax  = 10_000
	tenantsMax = 100_000 // of a place
	// clockSlack is how far the clocks of gateways, brokers and stores may be apart.
	clockSlack = time.Hour
)

// Day is a day of UTC, by the time at which a gateway had read the request.
type Day struct{ Start, End time.Time }

// ParseDay reads a day like 2026-11-29.
func ParseDay(s string) (Day, error) {
	at, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return Day{}, fmt.Errorf("%q: want a day like 2026-11-29", s)
	}
	return Day{at, at.AddDate(0, 0, 1)}, nil
}

func (d Day) String() string { return d.Start.Format(time.DateOnly) }

func (d Day) has(t time.Time) bool { return !t.Before(d.Start) && t.Before(d.End) }

// Amount is what lies in a place.
type Amount struct {
	Items   int64 `json:"items"`             // records of Kafka, rows of a table or file; of what cannot be read, objects
	Objects int64 `json:"objects,omitempty"` // that hold any of it; 0: the place is no object store
	Bytes   int64 `json:"bytes,omitempty"`   // of records, or of these objects as a whole; 0: not known
}

func (a *Amount) add(b Amount) {
	a.Items, a.Objects, a.Bytes = a.Items+b.Items, a.Objects+b.Objects, a.Bytes+b.Bytes
}

// Holding is what a place has of a tenant.
type Holding struct {
	Tenant string `json:"tenant"`
	Amount
}

// Place is a topic, a table, or a part of an object store.
type Place struct {
	Kind         string    `json:"kind"`
	Name         string    `json:"name"`
	Jurisdiction string    `json:"jurisdiction"`
	Tenants      []Holding `json:"tenants"` // in the order of their names
	// Unknown is what names no tenant that can be read.
	Unknown Amount `json:"unknown"`
	// Copies says that what is unknown are copies of what the cell's other places hold: a backup in a format of its own.
	Copies bool `json:"copies,omitempty"`
}

// tally collects what a place has.
type tally struct {
	place Place
	of    map[string]*Amount
}

func newTally(kind, name string) *tally {
	return &tally{place: Place{Kind: kind, Name: name}, of: map[string]*Amount{}}
}

func (t *tally) add(tenant string, a Amount) error {
	if tenant == "" {
		t.place.Unknown.add(a)
		return nil
	}
	has := t.of[tenant]
	if has == nil {
		if len(t.of) == tenantsMax {
			return fmt.Errorf("has more than %d tenants", tenantsMax)
		}
		has = &Amount{}
		t.of[tenant] = has
	}
	has.add(a)
	return nil
}

// done is the place as an inventory has it; false: there is nothing of the day.
func (t *tally) done() (Place, bool) {
	t.place.Tenants = make([]Holding, 0, len(t.of))
	for tenant, a := range t.of {
		t.place.Tenants = append(t.place.Tenants, Holding{tenant, *a})
	}
	slices.SortFunc(t.place.Tenants, func(a, b Holding) int { return cmp.Compare(a.Tenant, b.Tenant) })
	return t.place, len(t.of) > 0 || t.place.Unknown != Amount{}
}

// Inventory is what a cell has of what came on a day, as somebody with the rights of the cell has found it.
type Inventory struct {
	Format       int       `json:"format"`
	Cell         string    `json:"cell"`
	Jurisdiction string    `json:"jurisdiction"`
	Day          string    `json:"day"`
	Began        time.Time `json:"began"`
	Taken        time.Time `json:"taken"`  // when the last place was read
	Looked       []string  `json:"looked"` // the kinds of places that were looked at, and where
	Places       []Place   `json:"places"` // those with anything of the day
	Failed       []string  `json:"failed"` // places that could not be read, and why
	SHA256       string    `json:"-"`      // of the file that it was read from
}

// Add puts places into the inventory. Those without a jurisdiction are in that of the cell.
func (v *Inventory) Add(looked string, places []Place, err error) {
	v.Looked = append(v.Looked, looked)
	for _, p := range places {
		p.Jurisdiction = cmp.Or(p.Jurisdiction, v.Jurisdiction)
		v.Places = append(v.Places, p)
	}
	if err == nil && len(v.Places) > placesMax {
		v.Places, err = v.Places[:placesMax], fmt.Errorf("there are more than %d places", placesMax)
	}
	if err != nil {
		v.Failed = append(v.Failed, looked+": "+err.Error())
	}
}
