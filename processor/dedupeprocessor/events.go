package dedupeprocessor

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/dedupe"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
)

// batch is pdata of one signal.
type batch interface {
	// collect lists the events.
	collect(l *list)
	// remove removes those that were decided to be duplicates, and what holds no events then.
	remove(l *list)
}

// list is a batch's events in their order, first collected, then walked again to remove the duplicates.
type list struct {
	events []dedupe.Event
	total  int // events of the batch, with those that are not listed

	d        *deduper
	stamped  bool // of a block: events are known by their stamps alone, and one without is passed on
	tenant   dedupe.Tenant
	source   string // of the resource, where ids are made here
	appended int64
	at       int
}

func (l *list) reset(d *deduper, stamped bool) {
	*l = list{events: l.events[:0], d: d, stamped: stamped}
}

// resource begins a resource's events.
func (l *list) resource(r pcommon.Resource) {
	tenant := ""
	if l.stamped {
		origin, _ := lineage.ReadResource(r.Attributes())
		tenant, l.appended = origin.Tenant, origin.Appended.UnixMilli()
	} else {
		l.source = eventid.Source("", r)
		if v, ok := r.Attributes().Get(l.d.cfg.TenantAttribute); ok {
			tenant = v.AsString()
		}
	}
	l.tenant = l.d.memory.Tenant(tenant)
}

// add counts an event, and lists it by its stamp. False: its id is to be made and given to made.
func (l *list) add(attrs pcommon.Map) bool {
	l.total++
	if !l.stamped {
		return false // whatever an agent sent that looks like a stamp is none
	}
	if e, ok := lineage.ReadEvent(attrs); ok {
		l.events = append(l.events, dedupe.Event{Key: l.tenant.Key(&e.ID), Appended: l.appended, Offset: e.Offset, Index: e.Index})
	}
	return true
}

func (l *list) made(id [16]byte) {
	l.events = append(l.events, dedupe.Event{Key: l.tenant.Key(&id)})
}

// drop tells whether the next event is a duplicate.
func (l *list) drop(attrs pcommon.Map) bool {
	if len(l.events) != l.total {
		if _, ok := lineage.ReadEvent(attrs); !ok {
			return false
		}
	}
	l.at++
	return l.events[l.at-1].Duplicate
}

type logs plog.Logs

func (b logs) collect(l *list) {
	for _, rl := range plog.Logs(b).ResourceLogs().All() {
		l.resource(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				if !l.add(lr.Attributes()) {
					l.made(eventid.Log(lr, l.source))
				}
			}
		}
	}
}

func (b logs) remove(l *list) {
	plog.Logs(b).ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool {
		rl.ScopeLogs().RemoveIf(func(sl plog.ScopeLogs) bool {
			sl.LogRecords().RemoveIf(func(lr plog.LogRecord) bool { return l.drop(lr.Attributes()) })
			return sl.LogRecords().Len() == 0
		})
		return rl.ScopeLogs().Len() == 0
	})
}

type traces ptrace.Traces

func (b traces) collect(l *list) {
	for _, rs := range ptrace.Traces(b).ResourceSpans().All() {
		l.resource(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				if !l.add(s.Attributes()) {
					l.made(eventid.Span(s, l.source))
				}
			}
		}
	}
}

func (b traces) remove(l *list) {
	ptrace.Traces(b).ResourceSpans().RemoveIf(func(rs ptrace.ResourceSpans) bool {
		rs.ScopeSpans().RemoveIf(func(ss ptrace.ScopeSpans) bool {
			ss.Spans().RemoveIf(func(s ptrace.Span) bool { return l.drop(s.Attributes()) })
			return ss.Spans().Len() == 0
		})
		return rs.ScopeSpans().Len() == 0
	})
}

type metrics pmetric.Metrics

func (b metrics) collect(l *list) {
	for _, rm := range pmetric.Metrics(b).ResourceMetrics().All() {
		l.resource(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				l.points(m, sm.Scope())
			}
		}
	}
}

func (l *list) points(m pmetric.Metric, scope pcommon.InstrumentationScope) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		l.numbers(m, scope, m.Gauge().DataPoints())
	case pmetric.MetricTypeSum:
		l.numbers(m, scope, m.Sum().DataPoints())
	case pmetric.MetricTypeHistogram:
		for _, dp := range m.Histogram().DataPoints().All() {
			if !l.add(dp.Attributes()) {
				l.made(eventid.HistogramPoint(m, scope, dp, l.source))
			}
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, dp := range m.ExponentialHistogram().DataPoints().All() {
			if !l.add(dp.Attributes()) {
				l.made(eventid.ExponentialHistogramPoint(m, scope, dp, l.source))
			}
		}
	case pmetric.MetricTypeSummary:
		for _, dp := range m.Summary().DataPoints().All() {
			if !l.add(dp.Attributes()) {
				l.made(eventid.SummaryPoint(m, scope, dp, l.source))
			}
		}
	}
}

func (l *list) numbers(m pmetric.Metric, scope pcommon.InstrumentationScope, points pmetric.NumberDataPointSlice) {
	for _, dp := range points.All() {
		if !l.add(dp.Attributes()) {
			l.made(eventid.NumberPoint(m, scope, dp, l.source))
		}
	}
}

func (b metrics) remove(l *list) {
	pmetric.Metrics(b).ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
		rm.ScopeMetrics().RemoveIf(func(sm pmetric.ScopeMetrics) bool {
			sm.Metrics().RemoveIf(func(m pmetric.Metric) bool { return l.removePoints(m) == 0 })
			return sm.Metrics().Len() == 0
		})
		return rm.ScopeMetrics().Len() == 0
	})
}

// removePoints returns how many points are left.
func (l *list) removePoints(m pmetric.Metric) int {
	number := func(dp pmetric.NumberDataPoint) bool { return l.drop(dp.Attributes()) }
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		m.Gauge().DataPoints().RemoveIf(number)
		return m.Gauge().DataPoints().Len()
	case pmetric.MetricTypeSum:
		m.Sum().DataPoints().RemoveIf(number)
		return m.Sum().DataPoints().Len()
	case pmetric.MetricTypeHistogram:
		m.Histogram().DataPoints().RemoveIf(func(dp pmetric.HistogramDataPoint) bool { return l.drop(dp.Attributes()) })
		return m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		m.ExponentialHistogram().DataPoints().RemoveIf(func(dp pmetric.ExponentialHistogramDataPoint) bool { return l.drop(dp.Attributes()) })
		return m.ExponentialHistogram().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		m.Summary().DataPoints().RemoveIf(func(dp pmetric.SummaryDataPoint) bool { return l.drop(dp.Attributes()) })
		return m.Summary().DataPoints().Len()
	}
	return 0
}
