package fault

import (
	"context"
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/probe"
)

var probed = flag.Bool("probe", false, "run a probe beside the agents, and hold what it measures against the rig's own count")

const (
	probeTenant   = "probe"
	probeInterval = time.Second
	probeTimeout  = 10 * time.Second
	probeDeadline = 15 * time.Minute // longer than any fault: what is judged is judged when the stores are quiet
	probeQuiet    = time.Minute      // until a moment is found at which no request is under way
	probePoll     = 200 * time.Millisecond
	probeBound    = 60 * time.Second // of freshness, a bound of the probe's buckets
	probeSlack    = 2 * time.Second  // the probe looks once a second
	probeAgrees   = 0.0001           // what the probe measures and the rig counts may differ by that share
)

// prober is a probe under way, and what counts beside it: a front counts requests, and SQL says when rows are seen. It starts when the run does, through gateways that are well.
type prober struct {
	*run
	front *rig.Front
	probe *probe.Probe
	stop  func() // returns when the probe has ended

	seen map[string]time.Duration // by event of logs: from its time to the first sight of its row; valid when stopped
}

func (r *run) startProbe() *prober {
	r.t.Helper()
	p := &prober{run: r, seen: map[string]time.Duration{}}
	var overHTTP, overGRPC []string
	for _, g := range r.Gateways {
		overHTTP, overGRPC = append(overHTTP, g.HTTP), append(overGRPC, g.GRPC)
	}
	p.front = rig.NewFront(overHTTP, overGRPC)
	r.t.Cleanup(p.front.Close)
	hot, lake := r.stores(fastLane)
	clickHouse, err := stored.NewClickHouse(*hot)
	r.must(err)
	r.t.Cleanup(clickHouse.Close)
	opened, err := stored.OpenLake(context.Background(), *lake)
	r.must(err)
	r.t.Cleanup(opened.Close)
	p.probe, err = probe.New(probe.Config{
		HTTP: p.front.URL(), GRPC: p.front.URL(), Headers: map[string]string{"x-pulsegrid-tenant": probeTenant}, Tenant: probeTenant,
		Stores: []probe.Store{
			{Name: certificate.Hot, Counter: clickHouse, Every: probe.ClickHouseEvery}, {Name: certificate.Lake, Counter: stored.NewLakeCopies(opened), Every: probe.LakeEvery},
		},
		Interval: probeInterval, Timeout: probeTimeout, Deadline: probeDeadline, Report: func(line string) { r.t.Log("probe: " + line) },
	})
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { p.probe.Run(ctx); done <- struct{}{} }()
	go func() { p.watch(ctx); done <- struct{}{} }()
	p.stop = func() {
		cancel()
		<-done
		<-done
		p.stop = func() {}
	}
	r.t.Cleanup(func() { p.stop() })
	return p
}

// watch sees rows of logs, as a dashboard would.
func (p *prober) watch(ctx context.Context) {
	sql := "SELECT lower(hex(trace_id)), toUnixTimestamp64Nano(min(time)) FROM logs WHERE tenant_id = '" + probeTenant + "' AND time >= fromUnixTimestamp64Nano(" +
		strconv.FormatInt(p.started.UnixNano(), 10) + ") GROUP BY trace_id FORMAT TabSeparated"
	for ctx.Err() == nil {
		text, err := p.Query(sql)
		if at := time.Now(); err == nil { // else the next one tells
			for line := range strings.Lines(text) {
				event, nanos, _ := strings.Cut(strings.TrimSpace(line), "\t")
				if n, err := strconv.ParseInt(nanos, 10, 64); err == nil && p.seen[event] == 0 {
					p.seen[event] = at.Sub(time.Unix(0, n))
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(probePoll):
		}
	}
}

// metric sums the points of a metric that have these values of labels.
func (p *prober) metric(name string, values ...string) (total float64) {
	p.eachPoint(name, values, func(m *dto.Metric) { total += m.GetCounter().GetValue() })
	return total
}

func (p *prober) eachPoint(name string, values []string, f func(*dto.Metric)) {
	for _, family := range p.probe.Gather(context.Background()) {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			lacks := func(value string) bool {
				return !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == value })
			}
			if !slices.ContainsFunc(values, lacks) {
				f(m)
			}
		}
	}
}

// compareRequests holds the probe's availability against the front's count, at a moment when no request is under way.
func (p *prober) compareRequests(out *outcome.Run) {
	p.t.Helper()
	sum := func(counts map[rig.Request]int) (n float64) {
		for _, c := range counts {
			n += float64(c)
		}
		return n
	}
	var good, failed, all, ok float64
	for deadline := time.Now().Add(probeQuiet); ; time.Sleep(50 * time.Millisecond) {
		all, ok = p.metric("pulsegrid_probe_requests_total"), p.metric("pulsegrid_probe_requests_total", "ok")
		g, f := p.front.Counts() // after the probe's: no request is answered that the front has not seen
		if good, failed = sum(g), sum(f); good+failed == all && p.metric("pulsegrid_probe_requests_total") == all {
			break
		}
		if time.Now().After(deadline) {
			p.t.Errorf("probe: it has %v requests, the front %v", all, good+failed)
			break
		}
	}
	by, of := ok/all, good/(good+failed)
	out.Seen = append(out.Seen, fmt.Sprintf("probe: availability %.4f %%, the rig's count %.4f %% of %.0f requests", 100*by, 100*of, all))
	if math.Abs(by-of) > probeAgrees {
		p.t.Errorf("probe: its availability is %v (%v of %v), by the rig's count %v (%v of %v)", by, ok, all, of, good, good+failed)
	}
	p.stop()
}

// compareRows lets the probe judge all events, now that the stores are quiet, and holds its freshness against what the rig has seen.
func (p *prober) compareRows(out *outcome.Run) {
	p.t.Helper()
	p.probe.Settle(context.Background())
	acknowledged := p.metric("pulsegrid_probe_requests_total", "ok")
	for _, store := range []string{certificate.Hot, certificate.Lake} {
		exact := p.metric("pulsegrid_probe_rows_total", store, "exact")
		for _, result := range []string{"missing", "doubled", "unjudged"} {
			if n := p.metric("pulsegrid_probe_rows_total", store, result); n > 0 {
				p.t.Errorf("probe: %s: %v events are %s", store, n, result)
			}
		}
		if exact != acknowledged {
			p.t.Errorf("probe: %s: %v of %v acknowledged events are exact", store, exact, acknowledged)
		}
	}
	var counted, within float64
	p.eachPoint("pulsegrid_probe_freshness_seconds", []string{certificate.Hot, "logs"}, func(m *dto.Metric) {
		counted += float64(m.GetHistogram().GetSampleCount())
		for _, b := range m.GetHistogram().GetBucket() {
			if b.GetUpperBound() == probeBound.Seconds() {
				within += float64(b.GetCumulativeCount())
			}
		}
	})
	// The rig has also seen rows of requests whose answer the probe did not hear.
	share := func(bound time.Duration) float64 {
		n := 0
		for _, after := range p.seen {
			if after <= bound {
				n++
			}
		}
		return float64(n) / float64(len(p.seen))
	}
	fresh := within / counted
	least, most := share(probeBound-probeSlack), share(probeBound+probeSlack)
	out.Seen = append(out.Seen, fmt.Sprintf("probe: %.4f %% of %.0f events of logs are rows of ClickHouse within %v, by the rig's count %.4f %% of %d", 100*fresh, counted, probeBound, 100*share(probeBound), len(p.seen)))
	if fresh < least-probeAgrees || fresh > most+probeAgrees {
		p.t.Errorf("probe: %v of its events are rows within %v, by the rig's count %v to %v", fresh, probeBound, least, most)
	}
}
