package schemavalidationprocessor

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// attrFindings is the reserved attribute of a decoded event that has the verdicts on it, as JSON.
const attrFindings = lineage.Prefix + "findings"

// resource checks one resource's events, under the policy of the tenant that it is stamped with, and returns what to do with each, or nil: nothing.
func (v *validation) resource(ctx context.Context, s signal.Signal, res pcommon.Resource, events int,
	check func(*schema.Checker, schema.Unknown, time.Time) (schema.Result, error),
) (*verdicts, error) {
	origin, _ := lineage.ReadResource(res.Attributes())
	policy := v.policy(origin.Tenant)
	if policy.Mode == schema.Off {
		v.unchecked(ctx, s, events)
		return nil, nil
	}
	began := time.Now()
	received := origin.Received
	if received.IsZero() {
		received = began
	}
	checking := v.current()
	result, err := check(checking.checker, policy.Unknown, received)
	var beside schema.Result
	if err == nil && checking.asks(result) {
		beside, err = check(checking.beside, policy.Unknown, received)
	}
	if err != nil {
		return nil, consumererror.NewPermanent(err)
	}
	checking.count(origin.Tenant, result, beside)
	findings := v.judge(ctx, s, policy.Mode, result, time.Since(began))
	if findings == nil {
		return nil, nil
	}
	drop := v.cfg.Pdata == pdataDrop
	if drop {
		v.drops.Add(ctx, int64(len(findings)), v.bySignal[s])
		envelope.ResultOf(ctx).Reject(len(findings), reasons(findings)...)
	} else {
		envelope.ResultOf(ctx).Flag(len(findings), reasons(findings)...)
	}
	return &verdicts{findings: findings, drop: drop}, nil
}

// verdicts is applied to events in their order.
type verdicts struct {
	findings schema.Findings // on the event at hand and those behind it
	event    int
	drop     bool
}

// next applies what was found of the next event, and tells whether it is to be removed.
func (d *verdicts) next(attrs pcommon.Map) (remove bool) {
	at := d.event
	d.event++
	if len(d.findings) == 0 || d.findings[0].Event != at {
		return false
	}
	f := d.findings[0]
	d.findings = d.findings[1:]
	if d.drop {
		return true
	}
	f.Event = 0
	attrs.PutStr(attrFindings, string(schema.Findings{f}.Append(nil)))
	return false
}

func (l *logs) decoded(ctx context.Context, ld plog.Logs) error {
	for _, rl := range ld.ResourceLogs().All() {
		one := plog.NewLogs()
		moved := one.ResourceLogs().AppendEmpty()
		rl.MoveTo(moved)
		d, err := l.resource(ctx, signal.Logs, moved.Resource(), one.LogRecordCount(), func(c *schema.Checker, u schema.Unknown, at time.Time) (schema.Result, error) {
			return c.CheckLogs(one, u, at)
		})
		moved.MoveTo(rl)
		if err != nil {
			return err
		}
		if d == nil {
			continue
		}
		rl.ScopeLogs().RemoveIf(func(sl plog.ScopeLogs) bool {
			sl.LogRecords().RemoveIf(func(lr plog.LogRecord) bool { return d.next(lr.Attributes()) })
			return d.drop && sl.LogRecords().Len() == 0
		})
	}
	ld.ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool { return rl.ScopeLogs().Len() == 0 })
	if ld.ResourceLogs().Len() == 0 {
		return nil
	}
	return l.next.ConsumeLogs(ctx, ld)
}

// traces is the processor of traces pipelines.
type traces struct {
	*validation
	next consumer.Traces
}

func (t *traces) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	for _, rs := range td.ResourceSpans().All() {
		one := ptrace.NewTraces()
		moved := one.ResourceSpans().AppendEmpty()
		rs.MoveTo(moved)
		d, err := t.resource(ctx, signal.Traces, moved.Resource(), one.SpanCount(), func(c *schema.Checker, u schema.Unknown, at time.Time) (schema.Result, error) {
			return c.CheckTraces(one, u, at)
		})
		moved.MoveTo(rs)
		if err != nil {
			return err
		}
		if d == nil {
			continue
		}
		rs.ScopeSpans().RemoveIf(func(ss ptrace.ScopeSpans) bool {
			ss.Spans().RemoveIf(func(sp ptrace.Span) bool { return d.next(sp.Attributes()) })
			return d.drop && ss.Spans().Len() == 0
		})
	}
	td.ResourceSpans().RemoveIf(func(rs ptrace.ResourceSpans) bool { return rs.ScopeSpans().Len() == 0 })
	if td.ResourceSpans().Len() == 0 {
		return nil
	}
	return t.next.ConsumeTraces(ctx, td)
}

// metrics is the processor of metrics pipelines.
type metrics struct {
	*validation
	next consumer.Metrics
}

func (m *metrics) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	for _, rm := range md.ResourceMetrics().All() {
		one := pmetric.NewMetrics()
		moved := one.ResourceMetrics().AppendEmpty()
		rm.MoveTo(moved)
		d, err := m.resource(ctx, signal.Metrics, moved.Resource(), one.DataPointCount(), func(c *schema.Checker, u schema.Unknown, at time.Time) (schema.Result, error) {
			return c.CheckMetrics(one, u, at)
		})
		moved.MoveTo(rm)
		if err != nil {
			return err
		}
		if d == nil {
			continue
		}
		rm.ScopeMetrics().RemoveIf(func(sm pmetric.ScopeMetrics) bool {
			sm.Metrics().RemoveIf(func(mt pmetric.Metric) bool { return eachPoint(mt, d) == 0 && d.drop })
			return d.drop && sm.Metrics().Len() == 0
		})
	}
	md.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool { return rm.ScopeMetrics().Len() == 0 })
	if md.ResourceMetrics().Len() == 0 {
		return nil
	}
	return m.next.ConsumeMetrics(ctx, md)
}

// eachPoint applies verdicts to a metric's data points and returns how many are left.
func eachPoint(m pmetric.Metric, d *verdicts) (left int) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		p := m.Gauge().DataPoints()
		p.RemoveIf(func(p pmetric.NumberDataPoint) bool { return d.next(p.Attributes()) })
		return p.Len()
	case pmetric.MetricTypeSum:
		p := m.Sum().DataPoints()
		p.RemoveIf(func(p pmetric.NumberDataPoint) bool { return d.next(p.Attributes()) })
		return p.Len()
	case pmetric.MetricTypeHistogram:
		p := m.Histogram().DataPoints()
		p.RemoveIf(func(p pmetric.HistogramDataPoint) bool { return d.next(p.Attributes()) })
		return p.Len()
	case pmetric.MetricTypeExponentialHistogram:
		p := m.ExponentialHistogram().DataPoints()
		p.RemoveIf(func(p pmetric.ExponentialHistogramDataPoint) bool { return d.next(p.Attributes()) })
		return p.Len()
	case pmetric.MetricTypeSummary:
		p := m.Summary().DataPoints()
		p.RemoveIf(func(p pmetric.SummaryDataPoint) bool { return d.next(p.Attributes()) })
		return p.Len()
	}
	return 0
}
