package enrichmentprocessor

import (
	"math"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/enriched"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/lookup"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// finder looks one attribute up in one table.
type finder struct {
	attribute string
	table     int // in Config.Lookups
}

// Outcomes of a lookup, as lookup.Outcome has them, and two more.
const (
	outcomeFound       = int(lookup.Found)
	outcomeMissed      = int(lookup.Missed)
	outcomeAbsent      = int(lookup.NoKey)
	outcomeUnavailable = outcomeAbsent + 1
	outcomes           = outcomeUnavailable + 1
)

// tally is what was done with a batch.
type tally struct {
	events, enriched, untimed, forged, strangers int64
	lookups                                      [maxLookups][outcomes]int64
}

// walk goes through one batch. It is used by one goroutine at a time, and holds nothing of the batch afterwards.
type walk struct {
	s *shared
	tally

	// As they are when the batch comes: a table that changes meanwhile is another batch's.
	tables  []lookup.Loaded
	tenants *tenant.Snapshot // nil: there is none

	// Of the resource.
	tenant   string
	received int64 // Unix nanoseconds
	given    bool  // it got an attribute

	// Of the attributes that are looked at: what each finder has found, and whether it has seen its attribute.
	rows [maxLookups]lookup.Row
	seen [maxLookups]bool
}

func newWalk(s *shared) *walk { return &walk{s: s} }

func (w *walk) begin() {
	w.tally = tally{}
	w.tables = w.s.tables()
	if w.s.tenants != nil {
		w.tenants = w.s.tenants.Snapshot()
	}
}

// end lets go of what belongs to the batch.
func (w *walk) end() {
	w.tables, w.tenants, w.tenant = nil, nil, ""
	clear(w.rows[:])
}

func (w *walk) logs(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		w.resource(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				at := lr.Timestamp()
				if at == 0 {
					at = lr.ObservedTimestamp()
				}
				w.timed(lr.Attributes(), at)
			}
		}
	}
}

// traces: a span is sent when it has ended.
func (w *walk) traces(td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		w.resource(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				at := s.EndTimestamp()
				if at == 0 {
					at = s.StartTimestamp()
				}
				w.timed(s.Attributes(), at)
			}
		}
	}
}

// metrics: a data point gets no ingest delay, since its attributes say which series it is of.
func (w *walk) metrics(md pmetric.Metrics) {
	for _, rm := range md.ResourceMetrics().All() {
		w.resource(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				w.points(m)
			}
		}
	}
}

func (w *walk) points(m pmetric.Metric) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, dp := range m.Gauge().DataPoints().All() {
			w.event(dp.Attributes(), 0)
		}
	case pmetric.MetricTypeSum:
		for _, dp := range m.Sum().DataPoints().All() {
			w.event(dp.Attributes(), 0)
		}
	case pmetric.MetricTypeHistogram:
		for _, dp := range m.Histogram().DataPoints().All() {
			w.event(dp.Attributes(), 0)
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, dp := range m.ExponentialHistogram().DataPoints().All() {
			w.event(dp.Attributes(), 0)
		}
	case pmetric.MetricTypeSummary:
		for _, dp := range m.Summary().DataPoints().All() {
			w.event(dp.Attributes(), 0)
		}
	}
}

// resource enriches a resource, and begins its events.
func (w *walk) resource(r pcommon.Resource) {
	attrs := r.Attributes()
	origin, stamped := lineage.ReadResource(attrs)
	w.tenant, w.received = origin.Tenant, origin.Received.UnixNano()
	if !stamped {
		w.received = time.Now().UnixNano() // it came by another way than Kafka, so now
	}
	jurisdiction, plan := w.s.cfg.Jurisdiction, ""
	if w.s.tenants != nil {
		if t := w.known(); t != nil {
			plan = t.Plan
			if t.Jurisdiction != "" {
				jurisdiction = t.Jurisdiction
			}
		} else {
			w.strangers++
		}
	}
	w.given = w.give(attrs, w.s.ofResource, 3)
	for _, a := range [...]struct{ key, value string }{{enriched.Cell, w.s.cfg.Cell}, {enriched.Jurisdiction, jurisdiction}, {enriched.Plan, plan}} {
		if a.value != "" {
			attrs.PutStr(a.key, a.value)
			w.given = true
		}
	}
}

// known is the resource's tenant; nil: the registry does not have it.
func (w *walk) known() *tenant.Tenant {
	if w.tenants == nil {
		return nil
	}
	return w.tenants.Tenant(w.tenant)
}

// timed enriches an event that has a time, unless at is 0.
func (w *walk) timed(attrs pcommon.Map, at pcommon.Timestamp) {
	if !w.s.cfg.IngestDelay {
		w.event(attrs, 0)
		return
	}
	if at == 0 {
		w.untimed++
	}
	w.event(attrs, at)
}

// event enriches an event; at 0: without an ingest delay.
func (w *walk) event(attrs pcommon.Map, at pcommon.Timestamp) {
	w.events++
	more := 0
	if at != 0 {
		more = 1
	}
	given := w.give(attrs, w.s.ofEvent, more)
	if at != 0 {
		attrs.PutInt(enriched.Delay, (w.received-int64(min(uint64(at), math.MaxInt64)))/int64(time.Millisecond))
		given = true
	}
	if given || w.given {
		w.enriched++
	}
}

// give removes what was forged, and adds the columns of the rows that the finders find; it tells whether there were any. It makes room for so many
// attributes more. One pass over the attributes is most of what an event costs.
func (w *walk) give(attrs pcommon.Map, finders []finder, more int) bool {
	forged := false
	for k, v := range attrs.All() {
		if enriched.Is(k) {
			forged = true
			continue
		}
		for i := range finders {
			if f := &finders[i]; f.attribute == k && !w.seen[f.table] { // of a key that is there twice, the first
				w.seen[f.table] = true
				more += w.find(f.table, v)
			}
		}
	}
	if forged {
		w.forged += int64(enriched.Remove(attrs))
	}
	given := false
	if more > 0 {
		attrs.EnsureCapacity(attrs.Len() + more)
	}
	for i := range finders {
		t := finders[i].table
		if !w.seen[t] {
			w.lookups[t][w.missing(t)]++
			continue
		}
		row := w.rows[t]
		for n := range row {
			row[n].Put(attrs)
			given = true
		}
		w.seen[t], w.rows[t] = false, nil
	}
	return given
}

// missing is the outcome for what has no such attribute.
func (w *walk) missing(table int) int {
	if w.tables[table].Table == nil {
		return outcomeUnavailable
	}
	return outcomeAbsent
}

// find returns how many columns there are to add.
func (w *walk) find(table int, key pcommon.Value) int {
	t := w.tables[table].Table
	if t == nil {
		w.lookups[table][outcomeUnavailable]++
		return 0
	}
	row, outcome := t.Find(w.tenant, key)
	w.lookups[table][outcome]++
	w.rows[table] = row
	return len(row)
}
