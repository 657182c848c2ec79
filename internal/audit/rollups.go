package audit

import (
	"context"
	"slices"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// rollups compares ClickHouse's rollups with its rows, over the days on which the audited rows were received.
func (a *audit) rollups(ctx context.Context, plans []*topicPlan) error {
	if !a.Rollups {
		return nil
	}
	i := slices.IndexFunc(a.cert.Stores, func(s certificate.StoreInfo) bool { return s.Store == certificate.Hot })
	c, ok := a.stores[i].(*stored.ClickHouse)
	if !ok {
		return nil // that it could not be opened is a problem already
	}
	for _, s := range signal.All {
		t := columns.ForSignal(s)
		var days []string
		for _, tp := range plans {
			if tp.Signal != s {
				continue
			}
			more, err := c.Days(ctx, stored.Query{Table: t, Topic: tp.Name, Ranges: rangesOf(tp.partitions, i)})
			if err != nil {
				a.cert.Problem("%s: days of table %s: %v", certificate.Hot, t.Name, err)
			}
			days = append(days, more...)
		}
		if len(days) == 0 {
			continue
		}
		slices.Sort(days)
		for _, resolution := range stored.Resolutions {
			a.tell(Progress{Step: "comparing the rollup of " + resolution.Suffix, Topic: t.Name})
			r, err := c.Rollup(ctx, t, resolution, slices.Compact(days), a.MaxDifferences)
			if err != nil {
				a.cert.Problem("%s: rollup %s: %v", certificate.Hot, r.Table, err)
				continue
			}
			a.cert.Rollups = append(a.cert.Rollups, r)
		}
	}
	return ctx.Err()
}
