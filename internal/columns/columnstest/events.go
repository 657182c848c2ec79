package columnstest

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/xpdata"
	"go.opentelemetry.io/collector/pdata/xpdata/entity"

	"github.com/pulsegrid/pulsegrid/internal/enriched"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
)

// events splits pdata into its events, each as pdata of its own resource and scope, in the canonical form in which what the row
// model does not keep is equal: reserved attributes are gone, attributes are sorted by key and type, times are clamped, bytes
// that are not UTF-8 are replaced where they are not kept, NaN is one NaN.
func events(data any) []event {
	switch data := data.(type) {
	case plog.Logs:
		return logEvents(data)
	case ptrace.Traces:
		return spanEvents(data)
	case pmetric.Metrics:
		return pointEvents(data)
	}
	return nil
}

func logEvents(ld plog.Logs) []event {
	var out []event
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				var e event
				e.derived, e.key = wantDerived(rl.Resource(), lr.Attributes(), lr.Timestamp(), lr.ObservedTimestamp())
				one := plog.NewLogs()
				orl := one.ResourceLogs().AppendEmpty()
				canonicalResource(rl.Resource(), orl.Resource())
				orl.SetSchemaUrl(valid(rl.SchemaUrl()))
				osl := orl.ScopeLogs().AppendEmpty()
				canonicalScope(sl.Scope(), osl.Scope())
				osl.SetSchemaUrl(valid(sl.SchemaUrl()))
				o := osl.LogRecords().AppendEmpty()
				lr.CopyTo(o)
				canonicalEvent(o.Attributes())
				canonicalValue(o.Body())
				o.SetTimestamp(clamp(o.Timestamp()))
				o.SetObservedTimestamp(clamp(o.ObservedTimestamp()))
				o.SetSeverityText(valid(o.SeverityText()))
				o.SetEventName(valid(o.EventName()))
				e.proto, e.json = must((&plog.ProtoMarshaler{}).MarshalLogs(one)), must((&plog.JSONMarshaler{}).MarshalLogs(one))
				out = append(out, e)
			}
		}
	}
	return out
}

func spanEvents(td ptrace.Traces) []event {
	var out []event
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				var e event
				e.derived, e.key = wantDerived(rs.Resource(), sp.Attributes(), sp.StartTimestamp(), 0)
				e.derived["duration_nano"] = "0"
				if sp.StartTimestamp() != 0 && sp.EndTimestamp() != 0 {
					e.derived["duration_nano"] = fmt.Sprint(int64(clamp(sp.EndTimestamp())) - int64(clamp(sp.StartTimestamp())))
				}
				one := ptrace.NewTraces()
				ors := one.ResourceSpans().AppendEmpty()
				canonicalResource(rs.Resource(), ors.Resource())
				ors.SetSchemaUrl(valid(rs.SchemaUrl()))
				oss := ors.ScopeSpans().AppendEmpty()
				canonicalScope(ss.Scope(), oss.Scope())
				oss.SetSchemaUrl(valid(ss.SchemaUrl()))
				o := oss.Spans().AppendEmpty()
				sp.CopyTo(o)
				canonicalSpan(o)
				e.proto, e.json = must((&ptrace.ProtoMarshaler{}).MarshalTraces(one)), must((&ptrace.JSONMarshaler{}).MarshalTraces(one))
				out = append(out, e)
			}
		}
	}
	return out
}

func canonicalSpan(o ptrace.Span) {
	canonicalEvent(o.Attributes())
	o.SetStartTimestamp(clamp(o.StartTimestamp()))
	o.SetEndTimestamp(clamp(o.EndTimestamp()))
	o.SetName(valid(o.Name()))
	o.TraceState().FromRaw(valid(o.TraceState().AsRaw()))
	o.Status().SetMessage(valid(o.Status().Message()))
	for _, ev := range o.Events().All() {
		ev.SetTimestamp(clamp(ev.Timestamp()))
		ev.SetName(valid(ev.Name()))
		canonicalMap(ev.Attributes())
	}
	for _, l := range o.Links().All() {
		l.TraceState().FromRaw(valid(l.TraceState().AsRaw()))
		canonicalMap(l.Attributes())
	}
}

func pointEvents(md pmetric.Metrics) []event {
	var out []event
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				for _, one := range pointsOf(m) {
					var e event
					attrs, at := canonicalMetric(one)
					e.derived, e.key = wantDerived(rm.Resource(), attrs, at, 0)
					canonicalEvent(attrs)
					all := pmetric.NewMetrics()
					orm := all.ResourceMetrics().AppendEmpty()
					canonicalResource(rm.Resource(), orm.Resource())
					orm.SetSchemaUrl(valid(rm.SchemaUrl()))
					osm := orm.ScopeMetrics().AppendEmpty()
					canonicalScope(sm.Scope(), osm.Scope())
					osm.SetSchemaUrl(valid(sm.SchemaUrl()))
					one.MoveTo(osm.Metrics().AppendEmpty())
					e.proto, e.json = must((&pmetric.ProtoMarshaler{}).MarshalMetrics(all)), must((&pmetric.JSONMarshaler{}).MarshalMetrics(all))
					out = append(out, e)
				}
			}
		}
	}
	return out
}

// pointsOf copies m once for each data point, with that data point alone.
func pointsOf(m pmetric.Metric) []pmetric.Metric {
	n := 0
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		n = m.Gauge().DataPoints().Len()
	case pmetric.MetricTypeSum:
		n = m.Sum().DataPoints().Len()
	case pmetric.MetricTypeHistogram:
		n = m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		n = m.ExponentialHistogram().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		n = m.Summary().DataPoints().Len()
	}
	var out []pmetric.Metric
	for i := range n {
		o := pmetric.NewMetric()
		m.CopyTo(o)
		at := -1
		switch o.Type() {
		case pmetric.MetricTypeGauge:
			o.Gauge().DataPoints().RemoveIf(func(pmetric.NumberDataPoint) bool { at++; return at != i })
		case pmetric.MetricTypeSum:
			o.Sum().DataPoints().RemoveIf(func(pmetric.NumberDataPoint) bool { at++; return at != i })
		case pmetric.MetricTypeHistogram:
			o.Histogram().DataPoints().RemoveIf(func(pmetric.HistogramDataPoint) bool { at++; return at != i })
		case pmetric.MetricTypeExponentialHistogram:
			o.ExponentialHistogram().DataPoints().RemoveIf(func(pmetric.ExponentialHistogramDataPoint) bool { at++; return at != i })
		case pmetric.MetricTypeSummary:
			o.Summary().DataPoints().RemoveIf(func(pmetric.SummaryDataPoint) bool { at++; return at != i })
		}
		out = append(out, o)
	}
	return out
}

type clocked interface {
	Timestamp() pcommon.Timestamp
	SetTimestamp(pcommon.Timestamp)
	StartTimestamp() pcommon.Timestamp
	SetStartTimestamp(pcommon.Timestamp)
	Attributes() pcommon.Map
}

// canonicalMetric makes everything of a metric with one data point canonical but the data point's attributes, which it returns
// with the data point's own time.
func canonicalMetric(m pmetric.Metric) (pcommon.Map, pcommon.Timestamp) {
	m.SetName(valid(m.Name()))
	m.SetDescription(valid(m.Description()))
	m.SetUnit(valid(m.Unit()))
	canonicalMap(m.Metadata())
	var p clocked
	var exemplars pmetric.ExemplarSlice
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		p, exemplars = m.Gauge().DataPoints().At(0), m.Gauge().DataPoints().At(0).Exemplars()
	case pmetric.MetricTypeSum:
		p, exemplars = m.Sum().DataPoints().At(0), m.Sum().DataPoints().At(0).Exemplars()
	case pmetric.MetricTypeHistogram:
		p, exemplars = m.Histogram().DataPoints().At(0), m.Histogram().DataPoints().At(0).Exemplars()
	case pmetric.MetricTypeExponentialHistogram:
		p, exemplars = m.ExponentialHistogram().DataPoints().At(0), m.ExponentialHistogram().DataPoints().At(0).Exemplars()
	default:
		p, exemplars = m.Summary().DataPoints().At(0), pmetric.NewExemplarSlice()
	}
	at := p.Timestamp()
	p.SetTimestamp(clamp(at))
	p.SetStartTimestamp(clamp(p.StartTimestamp()))
	for _, e := range exemplars.All() {
		e.SetTimestamp(clamp(e.Timestamp()))
		canonicalMap(e.FilteredAttributes())
	}
	return p.Attributes(), at
}

func canonicalResource(from, to pcommon.Resource) {
	from.CopyTo(to)
	canonicalMap(to.Attributes())
	for _, ref := range entity.ResourceEntityRefs(to).All() {
		ref.SetType(valid(ref.Type()))
		ref.SetSchemaUrl(valid(ref.SchemaUrl()))
	}
}

func canonicalScope(from, to pcommon.InstrumentationScope) {
	from.CopyTo(to)
	to.SetName(valid(to.Name()))
	to.SetVersion(valid(to.Version()))
	canonicalMap(to.Attributes())
}

// canonicalEvent is for the attributes that are stored in typed columns: order is kept only among those of one key.
func canonicalEvent(m pcommon.Map) {
	canonicalMap(m)
	var pairs []pair
	for k, v := range m.All() {
		o := pcommon.NewValueEmpty()
		v.CopyTo(o)
		pairs = append(pairs, pair{k, o})
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return cmp.Compare(a.key, b.key) })
	putPairs(m, pairs)
}

type pair struct {
	key string
	val pcommon.Value
}

// putPairs fills m, duplicate keys included.
func putPairs(m pcommon.Map, pairs []pair) {
	var mb xpdata.MapBuilder
	for _, p := range pairs {
		p.val.MoveTo(mb.AppendEmpty(p.key))
	}
	mb.UnsafeIntoMap(m)
}

// canonicalMap removes keys that are PulseGrid's own, of lineage and of enrichment, and makes keys and values canonical, in place and in order.
func canonicalMap(m pcommon.Map) {
	var pairs []pair
	for k, v := range m.All() {
		if lineage.Reserved(k) || enriched.Is(k) {
			continue
		}
		o := pcommon.NewValueEmpty()
		v.CopyTo(o)
		canonicalValue(o)
		pairs = append(pairs, pair{valid(k), o})
	}
	putPairs(m, pairs)
}

func canonicalValue(v pcommon.Value) {
	switch v.Type() {
	case pcommon.ValueTypeDouble:
		if math.IsNaN(v.Double()) {
			v.SetDouble(math.NaN())
		}
	case pcommon.ValueTypeSlice:
		for _, e := range v.Slice().All() {
			canonicalValue(e)
		}
	case pcommon.ValueTypeMap:
		var pairs []pair
		for k, e := range v.Map().All() {
			o := pcommon.NewValueEmpty()
			e.CopyTo(o)
			canonicalValue(o)
			pairs = append(pairs, pair{valid(k), o})
		}
		putPairs(v.Map(), pairs)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		return []byte(strconv.Quote(err.Error()))
	}
	return b
}
