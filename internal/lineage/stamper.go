package lineage

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Stamper stamps the events of one record, in their order.
type Stamper struct {
	Origin Origin
	Offset int64                       // of the record
	ID     func(position int) [16]byte // of the event at a position in the record, from 0

	Events int // that have been stamped
}

// Event stamps the next event, by its attributes.
func (s *Stamper) Event(attrs pcommon.Map) {
	StampEvent(attrs, Event{ID: s.ID(s.Events), Offset: s.Offset, Index: int32(s.Events)})
	s.Events++
}

// Resource stamps a resource.
func (s *Stamper) Resource(r pcommon.Resource) { StampResource(r.Attributes(), s.Origin) }

// Logs stamps log records.
func (s *Stamper) Logs(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		s.Resource(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				s.Event(lr.Attributes())
			}
		}
	}
}

// Traces stamps spans.
func (s *Stamper) Traces(td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		s.Resource(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				s.Event(span.Attributes())
			}
		}
	}
}

// Metrics stamps data points.
func (s *Stamper) Metrics(md pmetric.Metrics) {
	for _, rm := range md.ResourceMetrics().All() {
		s.Resource(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				s.Points(m)
			}
		}
	}
}

// Points stamps the points of a metric.
func (s *Stamper) Points(m pmetric.Metric) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, dp := range m.Gauge().DataPoints().All() {
			s.Event(dp.Attributes())
		}
	case pmetric.MetricTypeSum:
		for _, dp := range m.Sum().DataPoints().All() {
			s.Event(dp.Attributes())
		}
	case pmetric.MetricTypeHistogram:
		for _, dp := range m.Histogram().DataPoints().All() {
			s.Event(dp.Attributes())
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, dp := range m.ExponentialHistogram().DataPoints().All() {
			s.Event(dp.Attributes())
		}
	case pmetric.MetricTypeSummary:
		for _, dp := range m.Summary().DataPoints().All() {
			s.Event(dp.Attributes())
		}
	}
}
