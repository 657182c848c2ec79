package fault

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
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
	probePoll     = 200 * time.Millisecond
	probeBound    = time.Minute      // of freshness, a bound of the probe's buckets: that which the outcome names
	probeBoundMin = 5 * time.Second  // below, bounds are as near as looks
	probeBlur     = 10 * time.Second // looks that are further apart measure nothing
	probeAgrees   = 0.0001           // what the probe measures and the rig counts may differ by that share
)

// probeMarker is what a request with an event of logs is known by: its trace's id.
var probeMarker = regexp.MustCompile(`probe ([0-9a-f]{32})`)

// prober is a probe under way, and what counts beside it: a front counts requests, and SQL says when rows are seen. It starts when the run does, through gateways that are well.
type prober struct {
	*run
	front *rig.Front
	probe *probe.Probe

	enough        chan struct{} // closed: the probe sends nothing more
	cancel        func()        // ends everything
	sent, watched sync.WaitGroup

	seen map[string]time.Duration // by marker: from an event's time to the first sight of its row; valid when nobody watches
	its  looks                    // of the probe, into ClickHouse
	mine looks                    // of this program
}

// looks are those into a store. It measures how late a row may be found: from the begin of a look that may have missed it to the end of the next one.
type looks struct {
	probe.Counter
	every time.Duration // between two looks; the questions of one follow one another at once

	mu            sync.Mutex
	before, began time.Time     // guarded by mu: of the look before, and of this one
	ended         time.Time     // guarded by mu: of the newest question
	latest        time.Duration // guarded by mu; how late a row may be found
}

func (l *looks) Copies(ctx context.Context, q stored.Marked) (map[string]int64, error) {
	began := time.Now()
	found, err := l.Counter.Copies(ctx, q)
	l.note(began, time.Now())
	return found, err
}

// note takes a question.
func (l *looks) note(began, ended time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if began.Sub(l.ended) > l.every/2 {
		l.before, l.began = l.began, began
	}
	if l.ended = ended; !l.before.IsZero() {
		l.latest = max(l.latest, ended.Sub(l.before))
	}
}

func TestHowLateALookFindsARow(t *testing.T) {
	at := func(seconds float64) time.Time {
		return time.Unix(0, 0).Add(time.Duration(seconds * float64(time.Second)))
	}
	l := looks{every: time.Second}
	l.note(at(100), at(100.1))
	l.note(at(100.1), at(100.4))
	require.Zero(t, l.latest, "before the first look nothing is missed")
	l.note(at(101.4), at(101.5))
	l.note(at(101.5), at(101.9)) // what came after 100 was found
	require.Equal(t, 1900*time.Millisecond, l.latest)
	l.note(at(102.9), at(103))
	require.Equal(t, 1900*time.Millisecond, l.latest)
}

func (r *run) startProbe() *prober {
	r.t.Helper()
	var overHTTP, overGRPC []string
	for _, g := range r.Gateways {
		overHTTP, overGRPC = append(overHTTP, g.HTTP), append(overGRPC, g.GRPC)
	}
	hot, lake := recount.Stores(r.Rig, fastLane.hot, fastLane.lake)
	clickHouse, err := stored.NewClickHouse(*hot)
	r.must(err)
	r.t.Cleanup(clickHouse.Close)
	opened, err := stored.OpenLake(context.Background(), *lake)
	r.must(err)
	r.t.Cleanup(opened.Close)
	p := &prober{
		run: r, front: rig.NewFront(overHTTP, overGRPC, probeMarker), enough: make(chan struct{}),
		seen: map[string]time.Duration{}, its: looks{Counter: clickHouse, every: probe.ClickHouseEvery}, mine: looks{every: probePoll},
	}
	r.t.Cleanup(p.front.Close)
	p.probe, err = probe.New(probe.Config{
		HTTP: p.front.URL(), GRPC: p.front.URL(), Headers: map[string]string{"x-pulsegrid-tenant": probeTenant}, Tenant: probeTenant,
		Stores: []probe.Store{
			{Name: certificate.Hot, Counter: &p.its, Every: probe.ClickHouseEvery}, {Name: certificate.Lake, Counter: stored.NewLakeCopies(opened), Every: probe.LakeEvery},
		},
		Interval: probeInterval, Timeout: probeTimeout, Deadline: probeDeadline, Report: func(line string) { r.t.Log("probe: " + line) },
	})
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.sent.Go(func() { p.probe.Send(ctx, p.enough) })
	p.watched.Go(func() { p.probe.Watch(ctx) })
	p.watched.Go(func() { p.watch(ctx) })
	r.t.Cleanup(func() {
		cancel()
		p.sent.Wait()
		p.watched.Wait()
	})
	return p
}

func (p *prober) watch(ctx context.Context) {
	for ctx.Err() == nil {
		_ = p.look() // a store that does not answer now does so later; the last look tells
		select {
		case <-ctx.Done():
		case <-time.After(probePoll):
		}
	}
}

// look sees rows of logs, as a dashboard would.
func (p *prober) look() error {
	began := time.Now()
	text, err := p.Query("SELECT lower(hex(trace_id)), toUnixTimestamp64Nano(min(time)) FROM logs WHERE tenant_id = '" + probeTenant + "' AND time >= fromUnixTimestamp64Nano(" +
		strconv.FormatInt(p.started.UnixNano(), 10) + ") GROUP BY trace_id FORMAT TabSeparated")
	ended := time.Now()
	p.mine.note(began, ended)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		marker, nanos, _ := strings.Cut(strings.TrimSpace(line), "\t")
		n, err := strconv.ParseInt(nanos, 10, 64)
		if err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		if _, known := p.seen[marker]; !known {
			p.seen[marker] = ended.Sub(time.Unix(0, n))
		}
	}
	return nil
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

// compareRequests ends the sending, and holds the probe's availability against the front's count.
func (p *prober) compareRequests(out *outcome.Run) {
	p.t.Helper()
	close(p.enough)
	p.sent.Wait()
	sum := func(counts map[rig.Request]int) (n float64) {
		for _, c := range counts {
			n += float64(c)
		}
		return n
	}
	g, f := p.front.Counts()
	good, failed := sum(g), sum(f)
	all, ok := p.metric("pulsegrid_probe_requests_total"), p.metric("pulsegrid_probe_requests_total", "ok")
	if all != good+failed || all == 0 {
		p.t.Errorf("probe: it has sent %v requests, the front has seen %v", all, good+failed)
		return
	}
	by, of := ok/all, good/all
	out.Seen = append(out.Seen, fmt.Sprintf("probe: availability %.4f %%, the rig's count %.4f %% of %.0f requests", 100*by, 100*of, all))
	if math.Abs(by-of) > probeAgrees {
		p.t.Errorf("probe: its availability is %v (%v of %v), by the rig's count %v (%v)", by, ok, all, of, good)
	}
}

// compareRows lets the probe judge all events, now that the stores are quiet, and holds its freshness against what the rig has seen.
func (p *prober) compareRows(out *outcome.Run) {
	p.t.Helper()
	p.cancel()
	p.watched.Wait()
	p.must(p.look())
	late, mine := p.its.latest, p.mine.latest
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
	p.compareFreshness(late, mine, out)
}

// compareFreshness compares the shares of acknowledged events of logs that are rows within each bound. Rows of others, whose answer the probe did not hear, count for neither. The
// probe finds a row by late after the rig at most, the rig by mine after the probe.
func (p *prober) compareFreshness(late, mine time.Duration, out *outcome.Run) {
	p.t.Helper()
	counted, within := 0.0, map[float64]float64{}
	p.eachPoint("pulsegrid_probe_freshness_seconds", []string{certificate.Hot, "logs"}, func(m *dto.Metric) {
		counted += float64(m.GetHistogram().GetSampleCount())
		for _, b := range m.GetHistogram().GetBucket() {
			within[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
	})
	var after []time.Duration
	acknowledged := p.front.Acknowledged()
	for marker := range acknowledged {
		if took, ok := p.seen[marker]; ok {
			after = append(after, took)
		}
	}
	all := float64(len(acknowledged))
	if all == 0 || counted != all || float64(len(after)) != all {
		p.t.Errorf("probe: of %v acknowledged events of logs it has found %v in ClickHouse, the rig %d", all, counted, len(after))
		return
	}
	if max(late, mine) > probeBlur {
		p.t.Errorf("probe: looks into ClickHouse are up to %v apart, the rig's %v: freshness cannot be compared", late, mine)
		return
	}
	share := func(bound time.Duration) float64 {
		n := 0
		for _, a := range after {
			if a <= bound {
				n++
			}
		}
		return float64(n) / all
	}
	for _, seconds := range slices.Sorted(maps.Keys(within)) {
		bound := time.Duration(seconds * float64(time.Second))
		if bound < probeBoundMin || math.IsInf(seconds, 1) {
			continue
		}
		by, least, most := within[seconds]/all, share(bound-late), share(bound+mine)
		if by < least-probeAgrees || by > most+probeAgrees {
			p.t.Errorf("probe: %v of its events are rows within %v, by the rig's count %v to %v", by, bound, least, most)
		}
		if bound == probeBound {
			out.Seen = append(out.Seen, fmt.Sprintf("probe: %.4f %% of %.0f acknowledged events of logs are rows of ClickHouse within %v, by the rig's count %.4f %%; looks at up to %.1f s and %.1f s",
				100*by, all, bound, 100*share(bound), late.Seconds(), mine.Seconds()))
		}
	}
}
