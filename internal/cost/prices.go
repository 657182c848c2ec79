package cost

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Statuses of a price.
const (
	StatusRead       = "read"       // from a document that quotes AWS
	StatusDerived    = "derived"    // from another region's or size's price
	StatusUnverified = "unverified" // from memory; check it before you rely on it
	StatusOffer      = "offer"      // from an offer file of AWS' price list
)

// PriceFile is deploy/cost/prices.json.
type PriceFile struct {
	Note   string   `json:"note"`
	Prices []*Price `json:"prices"`
}

// Price is what AWS, or another vendor, charges for one unit.
type Price struct {
	Name    string            `json:"name"` // "msk.express.data_in"
	Unit    string            `json:"unit"` // "GiB"
	Offer   *Offer            `json:"offer,omitempty"`
	Regions map[string]*Quote `json:"regions"`
}

// Quote is a price in one region.
type Quote struct {
	Tiers  []Tier `json:"tiers"`
	Source string `json:"source"`
	Date   string `json:"date"` // of the source, YYYY-MM-DD
	Status string `json:"status"`
}

// Tier is a price up to an amount a month.
type Tier struct {
	USD  float64 `json:"usd"`
	Upto float64 `json:"upto,omitempty"` // in the price's unit; zero in the last tier
}

// Offer finds a price in AWS' price list.
type Offer struct {
	Service    string            `json:"service"`    // offer code: "AmazonMSK"
	Attributes map[string]string `json:"attributes"` // of the product; regular expressions that match the whole value
	Unit       string            `json:"unit"`       // of the price dimension, as AWS writes it
	Scale      float64           `json:"scale"`      // AWS' units in one of ours: 1000 where AWS has a price a request, and we have one a thousand
}

// ParsePrices reads a price file, and refuses one that the model could not rely on.
func ParsePrices(text []byte) (*PriceFile, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var f PriceFile
	if err := dec.Decode(&f); err != nil {
		return nil, fmt.Errorf("prices: %w", err)
	}
	seen := map[string]bool{}
	for _, p := range f.Prices {
		switch {
		case p.Name == "" || p.Unit == "" || len(p.Regions) == 0:
			return nil, fmt.Errorf("prices: %q: want a name, a unit and regions", p.Name)
		case seen[p.Name]:
			return nil, fmt.Errorf("prices: %s is there twice", p.Name)
		case p.Offer != nil && (p.Offer.Service == "" || len(p.Offer.Attributes) == 0 || p.Offer.Unit == "" || p.Offer.Scale <= 0):
			return nil, fmt.Errorf("prices: %s: offer: want service, attributes, unit and scale", p.Name)
		}
		seen[p.Name] = true
		for region, q := range p.Regions {
			if err := q.check(); err != nil {
				return nil, fmt.Errorf("prices: %s in %s: %w", p.Name, region, err)
			}
		}
	}
	return &f, nil
}

func (q *Quote) check() error {
	if !slices.Contains([]string{StatusRead, StatusDerived, StatusUnverified, StatusOffer}, q.Status) {
		return fmt.Errorf("status %q is unknown", q.Status)
	}
	if _, err := time.Parse(time.DateOnly, q.Date); err != nil || q.Source == "" {
		return fmt.Errorf("want a source and its date: %q, %q", q.Source, q.Date)
	}
	if len(q.Tiers) == 0 {
		return fmt.Errorf("it has no price")
	}
	from := 0.0
	for i, t := range q.Tiers {
		last := i == len(q.Tiers)-1
		if t.USD < 0 || last != (t.Upto == 0) || !last && t.Upto <= from {
			return fmt.Errorf("tier %d: want prices from zero up, and rising bounds in all tiers but the last", i)
		}
		from = t.Upto
	}
	return nil
}

// Of is what an amount a month costs.
func (q *Quote) Of(amount float64) (usd float64) {
	from := 0.0
	for _, t := range q.Tiers {
		part := amount - from
		if t.Upto > 0 {
			part = min(part, t.Upto-from)
		}
		if part <= 0 {
			break
		}
		usd += part * t.USD
		from = t.Upto
	}
	return usd
}

// Find returns a price by its name; nil where there is none.
func (f *PriceFile) Find(name string) *Price {
	for _, p := range f.Prices {
		if p.Name == name {
			return p
		}
	}
	return nil
}
