package rows

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
)

// StampedLogs turns some rows, by their numbers, into log records, each of its own resource and scope, with the stamps (internal/lineage) that make internal/columns give the
// same rows again. The error says what of a row could not be read.
func (r *Reader) StampedLogs(which []int) (plog.Logs, error) {
	ld := plog.NewLogs()
	for _, i := range which {
		r.Seek(i)
		r.appendLog(ld)
		rl := ld.ResourceLogs().At(ld.ResourceLogs().Len() - 1)
		r.stamp(rl.Resource().Attributes(), rl.ScopeLogs().At(0).LogRecords().At(0).Attributes())
		if err := r.Err(); err != nil {
			return ld, err
		}
	}
	return ld, nil
}

// StampedTraces is StampedLogs for spans.
func (r *Reader) StampedTraces(which []int) (ptrace.Traces, error) {
	td := ptrace.NewTraces()
	for _, i := range which {
		r.Seek(i)
		r.appendSpan(td)
		rs := td.ResourceSpans().At(td.ResourceSpans().Len() - 1)
		r.stamp(rs.Resource().Attributes(), rs.ScopeSpans().At(0).Spans().At(0).Attributes())
		if err := r.Err(); err != nil {
			return td, err
		}
	}
	return td, nil
}

// StampedMetrics is StampedLogs for data points: each is a metric of its own.
func (r *Reader) StampedMetrics(which []int) (pmetric.Metrics, error) {
	md := pmetric.NewMetrics()
	for _, i := range which {
		r.Seek(i)
		r.appendPoint(md)
		rm := md.ResourceMetrics().At(md.ResourceMetrics().Len() - 1)
		r.stamp(rm.Resource().Attributes(), pointAttributes(rm.ScopeMetrics().At(0).Metrics().At(0)))
		if err := r.Err(); err != nil {
			return md, err
		}
	}
	return md, nil
}

// pointAttributes are those of a metric's only data point; of a metric that could not be read, none that anybody sees.
func pointAttributes(m pmetric.Metric) pcommon.Map {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints().At(0).Attributes()
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints().At(0).Attributes()
	case pmetric.MetricTypeHistogram:
		return m.Histogram().DataPoints().At(0).Attributes()
	case pmetric.MetricTypeExponentialHistogram:
		return m.ExponentialHistogram().DataPoints().At(0).Attributes()
	case pmetric.MetricTypeSummary:
		return m.Summary().DataPoints().At(0).Attributes()
	}
	return pcommon.NewMap()
}

// stamp marks the resource and the event of the row at hand.
func (r *Reader) stamp(resource, event pcommon.Map) {
	lineage.StampResource(resource, lineage.Origin{
		Tenant: r.Text("tenant_id"), Received: time.Unix(0, r.Time("ingest_time")), Topic: r.Text("kafka_topic"), Partition: int32(r.Int("kafka_partition")),
	})
	lineage.StampEvent(event, lineage.Event{ID: to16(r.Bytes("event_id")), Offset: r.Int("kafka_offset"), Index: int32(r.Int("event_index"))})
}
