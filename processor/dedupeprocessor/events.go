package dedupeprocessor

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

// batch is pdata of one signal.
type batch interface {
	// count is how many events it has.
	count() int
	// marshal returns it as an OTLP request.
	marshal() ([]byte, error)
	// remove calls drop for the attributes of each event, in order, removes those for which it is true, and what holds no events then.
	remove(drop func(pcommon.Map) bool)
}

type logs plog.Logs

func (b logs) count() int { return plog.Logs(b).LogRecordCount() }

func (b logs) marshal() ([]byte, error) {
	return plogotlp.NewExportRequestFromLogs(plog.Logs(b)).MarshalProto()
}

func (b logs) remove(drop func(pcommon.Map) bool) {
	plog.Logs(b).ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool {
		rl.ScopeLogs().RemoveIf(func(sl plog.ScopeLogs) bool {
			sl.LogRecords().RemoveIf(func(lr plog.LogRecord) bool { return drop(lr.Attributes()) })
			return sl.LogRecords().Len() == 0
		})
		return rl.ScopeLogs().Len() == 0
	})
}

type traces ptrace.Traces

func (b traces) count() int { return ptrace.Traces(b).SpanCount() }

func (b traces) marshal() ([]byte, error) {
	return ptraceotlp.NewExportRequestFromTraces(ptrace.Traces(b)).MarshalProto()
}

func (b traces) remove(drop func(pcommon.Map) bool) {
	ptrace.Traces(b).ResourceSpans().RemoveIf(func(rs ptrace.ResourceSpans) bool {
		rs.ScopeSpans().RemoveIf(func(ss ptrace.ScopeSpans) bool {
			ss.Spans().RemoveIf(func(s ptrace.Span) bool { return drop(s.Attributes()) })
			return ss.Spans().Len() == 0
		})
		return rs.ScopeSpans().Len() == 0
	})
}

type metrics pmetric.Metrics

func (b metrics) count() int { return pmetric.Metrics(b).DataPointCount() }

func (b metrics) marshal() ([]byte, error) {
	return pmetricotlp.NewExportRequestFromMetrics(pmetric.Metrics(b)).MarshalProto()
}

func (b metrics) remove(drop func(pcommon.Map) bool) {
	pmetric.Metrics(b).ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
		rm.ScopeMetrics().RemoveIf(func(sm pmetric.ScopeMetrics) bool {
			sm.Metrics().RemoveIf(func(m pmetric.Metric) bool { return removePoints(m, drop) == 0 })
			return sm.Metrics().Len() == 0
		})
		return rm.ScopeMetrics().Len() == 0
	})
}

// removePoints returns how many points are left.
func removePoints(m pmetric.Metric, drop func(pcommon.Map) bool) int {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return removeFrom(m.Gauge().DataPoints(), drop)
	case pmetric.MetricTypeSum:
		return removeFrom(m.Sum().DataPoints(), drop)
	case pmetric.MetricTypeHistogram:
		return removeFrom(m.Histogram().DataPoints(), drop)
	case pmetric.MetricTypeExponentialHistogram:
		return removeFrom(m.ExponentialHistogram().DataPoints(), drop)
	case pmetric.MetricTypeSummary:
		return removeFrom(m.Summary().DataPoints(), drop)
	}
	return 0
}

func removeFrom[P interface{ Attributes() pcommon.Map }](points interface {
	RemoveIf(func(P) bool)
	Len() int
}, drop func(pcommon.Map) bool,
) int {
	points.RemoveIf(func(p P) bool { return drop(p.Attributes()) })
	return points.Len()
}
