package drain

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
)

// Quiet is for how long no gateway must have had a request before a cell is safe to take away: as long as an answer of DNS holds, and as SDKs wait between exports.
const Quiet = time.Minute

// lookTimeout bounds a look.
const lookTimeout = 20 * time.Second

// Metrics of gateways that a look reads.
const (
	metricDrained   = "otelcol_cell_health_drained"
	metricServing   = "otelcol_cell_health_serving"
	metricIdle      = "otelcol_ingest_idle"
	metricRequests  = "otelcol_ingest_requests"
	metricInFlight  = "otelcol_ingest_in_flight_bytes"
	metricBuffered  = "otelcol_msk_exporter_buffered_bytes"
	metricSpilling  = "otelcol_msk_exporter_spilling_partitions"
	metricSpillSize = "otelcol_msk_exporter_spill_backlog_bytes"
)

// Scrape reads a gateway's metrics.
type Scrape func(ctx context.Context, url string) (map[string]*dto.MetricFamily, error)

// each scrapes gateways, 32 of them at a time, and returns when each has been given to got, by its number.
func (scrape Scrape) each(ctx context.Context, urls []string, got func(i int, m map[string]*dto.MetricFamily, err error)) {
	var asked sync.WaitGroup
	places := make(chan struct{}, 32)
	for i, url := range urls {
		asked.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			m, err := scrape(ctx, url)
			got(i, m, err)
		})
	}
	asked.Wait()
}

// Sources are what a look asks.
type Sources struct {
	Scrape  Scrape
	State   func(context.Context, *Cell) (cellhealth.State, error)
	Backlog func(context.Context, *Cell) (Backlog, error)
}

// Status is what a look at a cell has found.
type Status struct {
	Cell, Jurisdiction string
	State              cellhealth.State
	Gateways           []Gateway
	SpillBytes         int64 // wait in the object store, of all gateways
	Backlog            Backlog
	// Unsafe is why the cell must not be taken away: it still gets requests, or has something that is nowhere else. Empty: it is safe.
	Unsafe []string

	at time.Time
}

// Gateway is one gateway as its metrics tell.
type Gateway struct {
	URL           string
	Error         string  // why its metrics could not be read; all below is zero then
	Drained       bool    // it follows the drain
	Serving       bool    // its health check says that senders should come
	IdleSeconds   int64   // since its last request, or its start
	Rate          float64 // requests a second, since the look before; -1: there is none
	InFlightBytes int64   // of requests that are not answered yet

	requests   float64
	spillBytes int64
	spilling   int64
}

// Look looks at a cell. before is the look before, for rates; nil: there is none.
func Look(ctx context.Context, c *Cell, ask Sources, before *Status) Status {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	s := Status{Cell: c.Name, Jurisdiction: c.Jurisdiction, Gateways: make([]Gateway, len(c.Gateways)), Unsafe: []string{}, at: time.Now()}
	var stateErr, backlogErr error
	var asked sync.WaitGroup
	asked.Go(func() { s.State, stateErr = ask.State(ctx, c) })
	asked.Go(func() { s.Backlog, backlogErr = ask.Backlog(ctx, c) })
	ask.Scrape.each(ctx, c.Gateways, func(i int, m map[string]*dto.MetricFamily, err error) {
		s.Gateways[i] = gatewayOf(c.Gateways[i], m, err)
	})
	asked.Wait()
	for i := range s.Gateways {
		g := &s.Gateways[i]
		s.SpillBytes = max(s.SpillBytes, g.spillBytes) // each knows all gateways' objects
		g.Rate = -1
		if before != nil && g.Error == "" && before.Gateways[i].Error == "" && g.requests >= before.Gateways[i].requests {
			g.Rate = (g.requests - before.Gateways[i].requests) / s.at.Sub(before.at).Seconds()
		}
	}
	s.judge(stateErr, backlogErr)
	return s
}

// judge says what is against taking the cell away.
func (s *Status) judge(stateErr, backlogErr error) {
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			s.Unsafe = append(s.Unsafe, fmt.Sprintf(format, args...))
		}
	}
	bad(stateErr != nil, "whether it is drained is not known: %v", stateErr)
	bad(stateErr == nil && !s.State.Drained, "it is not drained: senders come")
	for _, g := range s.Gateways {
		if g.Error != "" {
			bad(true, "%s: %s", g.URL, g.Error)
			continue
		}
		bad(s.State.Drained && !g.Drained, "%s: does not follow the drain (yet)", g.URL)
		idle := time.Duration(g.IdleSeconds) * time.Second
		bad(idle < Quiet, "%s: its last request came %v ago; %v without one are wanted", g.URL, idle, Quiet)
		bad(g.InFlightBytes > 0, "%s: %d bytes of requests are not answered yet", g.URL, g.InFlightBytes)
		bad(g.spilling > 0, "%s: requests for %d partitions go to the spill", g.URL, g.spilling)
	}
	bad(s.SpillBytes > 0, "%d bytes wait in the spill", s.SpillBytes)
	bad(backlogErr != nil, "what waits in Kafka is not known: %v", backlogErr)
	for _, w := range s.Backlog.Groups {
		bad(w.Records > 0, "group %s: %d records wait in Kafka", w.Group, w.Records)
	}
	for _, topic := range s.Backlog.Unread {
		bad(true, "topic %s has records, and no group of it is known (groups)", topic)
	}
}

func gatewayOf(url string, m map[string]*dto.MetricFamily, err error) Gateway {
	g := Gateway{URL: url}
	if err != nil {
		g.Error = "its metrics cannot be read: " + err.Error()
		return g
	}
	for _, name := range []string{metricDrained, metricServing, metricIdle} {
		if len(m[name].GetMetric()) == 0 {
			g.Error = "its metrics have no " + name + ": is it a gateway with cell_health?"
			return g
		}
	}
	g.Drained, g.Serving = total(m, metricDrained) > 0, total(m, metricServing) > 0
	idle := math.Inf(1)
	for _, series := range m[metricIdle].GetMetric() { // one a receiver
		idle = min(idle, series.GetGauge().GetValue())
	}
	g.IdleSeconds = int64(idle)
	g.InFlightBytes = int64(total(m, metricInFlight) + total(m, metricBuffered))
	g.requests, g.spilling, g.spillBytes = total(m, metricRequests), int64(total(m, metricSpilling)), int64(total(m, metricSpillSize))
	return g
}

// total adds up the series of a counter or gauge; one that nothing has touched is not there: 0.
func total(m map[string]*dto.MetricFamily, name string) (sum float64) {
	for _, series := range m[name].GetMetric() {
		sum += series.GetCounter().GetValue() + series.GetGauge().GetValue()
	}
	return sum
}
