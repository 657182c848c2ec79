package alerting

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// backtestMost bounds the evaluations of a backtest.
const backtestMost = 200_000

// Episode is one alert of a backtest, from when it became active until it ended.
type Episode struct {
	Tenant      string            `json:"group_tenant"`
	Group       string            `json:"group"`
	Rule        string            `json:"rule"`
	Labels      map[string]string `json:"labels"`
	Pending     time.Time         `json:"pending"`               // the first active bucket's end
	Firing      time.Time         `json:"firing,omitzero"`       // zero: it was not active for long enough
	Ended       time.Time         `json:"ended,omitzero"`        // resolved, or no longer pending; zero: at the end of the range it still was
	Most        number            `json:"most"`                  // the greatest value
	Annotations map[string]string `json:"annotations,omitempty"` // the last
}

// Backtest evaluates rules on every bucket that ends in (from, to], with no regard to when its rows came, and returns the episodes in the order of their begin. The store's queries run one
// after the other. progress is called before each rule.
func Backtest(ctx context.Context, s *Store, groups []*Group, from, to time.Time, progress func(g *Group, r *Rule, evaluations int)) ([]Episode, error) {
	var out []Episode
	all := 0
	for _, g := range groups {
		all += len(g.Rules) * int(to.Sub(from)/g.Interval)
	}
	if all > backtestMost {
		return nil, fmt.Errorf("%d evaluations: at most %d: choose a shorter range, or fewer rules", all, backtestMost)
	}
	for _, g := range groups {
		for _, r := range g.Rules {
			progress(g, r, int(to.Sub(from)/g.Interval))
			found, err := backtest(ctx, s, g, r, from, to)
			if err != nil {
				return nil, fmt.Errorf("group %s: rule %s: %w", g.Name, r.Alert, err)
			}
			out = append(out, found...)
		}
	}
	slices.SortStableFunc(out, func(a, b Episode) int { return a.Pending.Compare(b.Pending) })
	return out, nil
}

func backtest(ctx context.Context, s *Store, g *Group, r *Rule, from, to time.Time) ([]Episode, error) {
	if _, err := s.Check(ctx, g, r); err != nil {
		return nil, err
	}
	t := tracker{holds: r.For, keeps: r.KeepFiringFor, annotations: r.Annotations, alerts: map[string]*Alert{}}
	open := map[*Alert]*Episode{}
	var episodes []*Episode
	for ts := from.UTC().Truncate(g.Interval).Add(g.Interval); !ts.After(to); ts = ts.Add(g.Interval) {
		samples, err := s.Evaluate(ctx, g, r, ts)
		if err != nil {
			return nil, fmt.Errorf("bucket that ends at %s: %w", ts.Format(time.RFC3339), err)
		}
		t.eval(ts, samples)
		now := map[*Alert]bool{}
		for _, key := range slices.Sorted(maps.Keys(t.alerts)) {
			a := t.alerts[key]
			if a.State == Resolved {
				continue
			}
			now[a] = true
			e := open[a]
			if e == nil {
				e = &Episode{Tenant: g.Tenant, Group: g.Name, Rule: r.Alert, Labels: a.Labels, Pending: a.ActiveAt, Most: a.Value}
				open[a] = e
				episodes = append(episodes, e)
			}
			e.Firing, e.Annotations, e.Most = a.FiredAt, a.Annotations, number(math.Max(float64(e.Most), float64(a.Value)))
		}
		for a, e := range open {
			if !now[a] {
				e.Ended = ts
				delete(open, a)
			}
		}
	}
	out := make([]Episode, len(episodes))
	for i, e := range episodes {
		out[i] = *e
	}
	return out, nil
}
