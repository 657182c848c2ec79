package rollout

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// Metrics of gateways.
const (
	metricRollout = "otelcol_schema_registry_rollout"
	metricEvents  = "otelcol_schema_registry_rollout_events"
	metricRefused = "otelcol_schema_registry_rollout_refused"
	metricLatency = "otelcol_ingest_request_duration"
)

// Scrape reads a gateway's metrics.
type Scrape func(ctx context.Context, url string) (map[string]*dto.MetricFamily, error)

// gateway is what one tells of an attempt, since it has it, and of all its requests, since it started.
type gateway struct {
	follows  bool // it has the attempt
	trying   bool // it has one
	tenants  map[string]counts
	requests float64
	seconds  float64 // that they took
}

type counts struct {
	events, refused float64
	code            string // of most of the refused ones
}

func readGateway(m map[string]*dto.MetricFamily, attempt schema.Rollout) gateway {
	g := gateway{tenants: map[string]counts{}}
	since := attempt.Since.UTC().Format(time.RFC3339)
	each := func(name string, f func(labels map[string]string, value float64)) {
		for _, series := range m[name].GetMetric() {
			labels := map[string]string{}
			for _, l := range series.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["version"] == attempt.Proposed && labels["stage"] == string(attempt.Stage) && labels["since"] == since {
				f(labels, series.GetGauge().GetValue())
			}
		}
	}
	g.trying = len(m[metricRollout].GetMetric()) > 0
	each(metricRollout, func(map[string]string, float64) { g.follows = true })
	each(metricEvents, func(l map[string]string, n float64) {
		c := g.tenants[l["tenant"]]
		c.events += n
		g.tenants[l["tenant"]] = c
	})
	each(metricRefused, func(l map[string]string, n float64) {
		c := g.tenants[l["tenant"]]
		c.refused += n
		c.code = cmp.Or(c.code, l["code"])
		g.tenants[l["tenant"]] = c
	})
	for _, series := range m[metricLatency].GetMetric() {
		g.requests += float64(series.GetHistogram().GetSampleCount())
		g.seconds += series.GetHistogram().GetSampleSum()
	}
	return g
}

// since returns what was counted after was; a gateway that has started anew counts from 0.
func (g gateway) since(was gateway) gateway {
	out := gateway{follows: g.follows, trying: g.trying, tenants: map[string]counts{}, requests: g.requests, seconds: g.seconds}
	if g.requests >= was.requests && g.seconds >= was.seconds {
		out.requests, out.seconds = g.requests-was.requests, g.seconds-was.seconds
	}
	for tenant, c := range g.tenants {
		if w := was.tenants[tenant]; c.events >= w.events && c.refused >= w.refused {
			c.events, c.refused = c.events-w.events, c.refused-w.refused
		}
		out.tenants[tenant] = c
	}
	return out
}

// figures are those of a cell.
type figures struct {
	events   float64
	tenants  []tenant // the one with the largest share of refused events first
	requests float64
	latency  time.Duration // mean of the requests
}

type tenant struct {
	id string
	counts
}

func (t tenant) percent() float64 { return 100 * t.refused / max(t.events, 1) }

func (t tenant) String() string {
	s := fmt.Sprintf("%.0f of %.0f events of tenant %s (%.2f%%)", t.refused, t.events, t.id, t.percent())
	if t.code != "" {
		s += ", " + t.code
	}
	return s
}

// together adds gateways up.
func together(gateways map[string]gateway) (f figures) {
	all := map[string]counts{}
	seconds := 0.0
	for _, g := range gateways {
		f.requests, seconds = f.requests+g.requests, seconds+g.seconds
		for id, c := range g.tenants {
			sum := all[id]
			all[id] = counts{sum.events + c.events, sum.refused + c.refused, cmp.Or(sum.code, c.code)}
			f.events += c.events
		}
	}
	if f.requests > 0 {
		f.latency = time.Duration(seconds / f.requests * float64(time.Second))
	}
	for id, c := range all {
		f.tenants = append(f.tenants, tenant{id, c})
	}
	slices.SortFunc(f.tenants, func(a, b tenant) int {
		return cmp.Or(cmp.Compare(b.percent(), a.percent()), cmp.Compare(b.events, a.events), strings.Compare(a.id, b.id))
	})
	return f
}

func (f figures) String() string {
	s := fmt.Sprintf("%.0f events of %d tenants, %.0f requests of %v on average", f.events, len(f.tenants), f.requests, f.latency.Round(10*time.Microsecond))
	if len(f.tenants) > 0 && f.tenants[0].refused > 0 {
		s += "; most refused: " + f.tenants[0].String()
	}
	return s
}
