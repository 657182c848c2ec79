package drain

import (
	"context"
	"errors"
	"fmt"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/pulsegrid/pulsegrid/internal/sleep"
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
func Loads(ctx context.Context, cells []Cell, scrape Scrape, apart time.Duration) ([]Load, error) {
	var gateways []string
	for _, c := range cells {
		gateways = append(gateways, c.Gateways...)
	}
	before := counts(ctx, gateways, scrape)
	began := time.Now()
	if err := sleep.For(ctx, apart); err != nil {
		return nil, err
	}
	after := counts(ctx, gateways, scrape)
	seconds := time.Since(began).Seconds()
	out := make([]Load, len(cells))
	for i, c := range cells {
		l := Load{Cell: c.Name, Jurisdiction: c.Jurisdiction, Capacity: float64(c.Capacity.EventsPerSecond)}
		for g, url := range c.Gateways {
			was, is := before[g], after[g]
			if err := errors.Join(was.err, is.err); err != nil {
				l.Error = fmt.Sprintf("%s: its metrics cannot be read: %v", url, err)
				break
			}
			n := is.events - was.events
			if n < 0 { // it was started meanwhile
				n = is.events
			}
			l.Events += n / seconds
		}
		before, after = before[len(c.Gateways):], after[len(c.Gateways):]
		out[i] = l
	}
	return out, ctx.Err()
}

type counted struct {
	events float64
	err    error
}

// counts are the events of gateways so far.
func counts(ctx context.Context, gateways []string, scrape Scrape) []counted {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	out := make([]counted, len(gateways))
	scrape.each(ctx, gateways, func(i int, m map[string]*dto.MetricFamily, err error) { out[i] = counted{total(m, metricEvents), err} })
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
