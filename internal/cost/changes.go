package cost

import "fmt"

// Effect is what a change does to a bill.
type Effect struct {
	What     string  `json:"what"`
	Costs    string  `json:"costs,omitempty"` // what is given up
	Alone    float64 `json:"usd"`             // more or less than the workload as it is, a month
	Together float64 `json:"together_usd"`    // the bill with this change and all before it; of levers only
}

// Sensitivity reckons each change alone.
func Sensitivity(w Workload, changes []Change, m *Measured, p *PriceFile) ([]Effect, error) {
	base, err := Reckon(w, m, p)
	if err != nil {
		return nil, err
	}
	var out []Effect
	for _, c := range changes {
		b, err := reckonWith(w, c, m, p)
		if err != nil {
			return nil, err
		}
		out = append(out, Effect{What: c.What, Costs: c.Costs, Alone: b.USD - base.USD})
	}
	return out, nil
}

// Levers reckons each change alone, and on top of those before it.
func Levers(w Workload, changes []Change, m *Measured, p *PriceFile) ([]Effect, error) {
	out, err := Sensitivity(w, changes, m, p)
	if err != nil {
		return nil, err
	}
	for i, c := range changes {
		if w, err = w.With(c.Set); err != nil {
			return nil, fmt.Errorf("%s: %w", c.What, err)
		}
		b, err := Reckon(w, m, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.What, err)
		}
		out[i].Together = b.USD
	}
	return out, nil
}

func reckonWith(w Workload, c Change, m *Measured, p *PriceFile) (*Bill, error) {
	changed, err := w.With(c.Set)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.What, err)
	}
	b, err := Reckon(changed, m, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.What, err)
	}
	return b, nil
}

// Share is what a tenant with a share of the bytes pays: that part of the whole bill, fixed costs too.
func (b *Bill) Share(of float64) float64 { return b.USD * of }
