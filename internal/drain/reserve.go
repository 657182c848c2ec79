package drain

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// metricEvents counts the events of accepted requests.
const metricEvents = "otelcol_ingest_events"

// Load is what a cell takes now, and what it could.
type Load struct {
	Cell, Jurisdiction string
	Events             float64 // a second, of accepted requests, over all gateways
	Capacity           float64 // events a second, as the list of cells says; 0: it does not
	Error              string  // why Events is not known
}

// Loss is what would happen without a cell.
type Loss struct {
	Cell  string
	Needs float64 // events a second that others would have to take
	Room  float64 // that the other cells of its jurisdiction have left
	// Problem is why the others are not known to have room; empty: they have.
	Problem string
}

// Loads looks at all cells twice, the time apart.
func Loads(ctx context.Context, cells []Cell, scrape func(ctx context.Context, url string) (map[string]*dto.MetricFamily, error), apart time.Duration) ([]Load, error) {
	before := counts(ctx, cells, scrape)
	began := time.Now()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(apart):
	}
	after := counts(ctx, cells, scrape)
	seconds := time.Since(began).Seconds()
	out := make([]Load, len(cells))
	for i, c := range cells {
		l := Load{Cell: c.Name, Jurisdiction: c.Jurisdiction, Capacity: float64(c.Capacity.EventsPerSecond)}
		for g := range c.Gateways {
			if err := errors.Join(before[i][g].err, after[i][g].err); err != nil {
				l.Error = fmt.Sprintf("%s: its metrics cannot be read: %v", c.Gateways[g], err)
				break
			}
			n := after[i][g].events - before[i][g].events
			if n < 0 { // it was started meanwhile
				n = after[i][g].events
			}
			l.Events += n / seconds
		}
		out[i] = l
	}
	return out, ctx.Err()
}

type counted struct {
	events float64
	err    error
}

// counts are the events so far of each cell's gateways.
func counts(ctx context.Context, cells []Cell, scrape func(ctx context.Context, url string) (map[string]*dto.MetricFamily, error)) [][]counted {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	out := make([][]counted, len(cells))
	var asked sync.WaitGroup
	places := make(chan struct{}, 32)
	for i, c := range cells {
		out[i] = make([]counted, len(c.Gateways))
		for g, url := range c.Gateways {
			asked.Go(func() {
				places <- struct{}{}
				defer func() { <-places }()
				m, err := scrape(ctx, url)
				out[i][g] = counted{total(m, metricEvents), err}
			})
		}
	}
	asked.Wait()
	return out
}

// WithoutEach judges for each cell whether the others of its jurisdiction could take its load, if all loads were so many times what they are.
func WithoutEach(loads []Load, times float64) []Loss {
	out := make([]Loss, 0, len(loads))
	for _, lost := range loads {
		l := Loss{Cell: lost.Cell, Needs: lost.Events * times}
		others := 0
		for _, other := range loads {
			if other.Cell == lost.Cell || other.Jurisdiction != lost.Jurisdiction {
				continue
			}
			others++
			switch {
			case other.Error != "":
				l.Problem = other.Error
			case other.Capacity == 0:
				l.Problem = fmt.Sprintf("the list of cells does not say what %s can take (capacity: events_per_second)", other.Cell)
			default:
				l.Room += max(0, other.Capacity-other.Events*times)
			}
		}
		switch {
		case others == 0:
			l.Problem = "it is the only cell of " + lost.Jurisdiction
		case l.Problem != "":
		case lost.Error != "":
			l.Problem = lost.Error
		case l.Room < l.Needs:
			l.Problem = fmt.Sprintf("the others can take %.0f events/s more, and it takes %.0f", l.Room, l.Needs)
		}
		out = append(out, l)
	}
	return out
}
