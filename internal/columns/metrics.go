package columns

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

type metricCols struct {
	name, description, unit, typ, metadata, temporality *dictCol
	monotonic                                           *boolCol
	start                                               *numCol[int64]
	flags                                               *numCol[uint32]
	valueType                                           *dictCol
	valueDouble                                         *numCol[float64]
	valueInt                                            *numCol[int64]
	count                                               *numCol[uint64]
	sum, min, max                                       *numCol[float64]
	hasSum, hasMin, hasMax                              *boolCol
	bounds, buckets                                     *listCol
	scale                                               *numCol[int32]
	zeroCount                                           *numCol[uint64]
	zeroThreshold                                       *numCol[float64]
	positiveOffset, negativeOffset                      *numCol[int32]
	positiveBuckets, negativeBuckets                    *listCol
	quantiles, quantileValues                           *listCol
	exTime, exType, exDouble, exInt                     *listCol
	exTrace, exSpan, exAttrs                            *listCol
}

// Values of metric_type.
const (
	metricGauge        = "gauge"
	metricSum          = "sum"
	metricHistogram    = "histogram"
	metricExpHistogram = "exponential_histogram"
	metricSummary      = "summary"
)

func (c *metricCols) bind(b *Builder) {
	c.name = col[*dictCol](b, "metric_name")
	c.description = col[*dictCol](b, "metric_description")
	c.unit = col[*dictCol](b, "metric_unit")
	c.typ = col[*dictCol](b, "metric_type")
	c.metadata = col[*dictCol](b, "metric_metadata")
	c.temporality = col[*dictCol](b, "temporality")
	c.monotonic = col[*boolCol](b, "is_monotonic")
	c.start = col[*numCol[int64]](b, "start_time")
	c.flags = col[*numCol[uint32]](b, "flags")
	c.valueType = col[*dictCol](b, "value_type")
	c.valueDouble = col[*numCol[float64]](b, "value_double")
	c.valueInt = col[*numCol[int64]](b, "value_int")
	c.count = col[*numCol[uint64]](b, "count")
	c.sum, c.hasSum = col[*numCol[float64]](b, "sum"), col[*boolCol](b, "has_sum")
	c.min, c.hasMin = col[*numCol[float64]](b, "min"), col[*boolCol](b, "has_min")
	c.max, c.hasMax = col[*numCol[float64]](b, "max"), col[*boolCol](b, "has_max")
	c.bounds, c.buckets = col[*listCol](b, "explicit_bounds"), col[*listCol](b, "bucket_counts")
	c.scale = col[*numCol[int32]](b, "scale")
	c.zeroCount = col[*numCol[uint64]](b, "zero_count")
	c.zeroThreshold = col[*numCol[float64]](b, "zero_threshold")
	c.positiveOffset, c.positiveBuckets = col[*numCol[int32]](b, "positive_offset"), col[*listCol](b, "positive_bucket_counts")
	c.negativeOffset, c.negativeBuckets = col[*numCol[int32]](b, "negative_offset"), col[*listCol](b, "negative_bucket_counts")
	c.quantiles, c.quantileValues = col[*listCol](b, "quantiles"), col[*listCol](b, "quantile_values")
	c.exTime, c.exType = col[*listCol](b, "exemplars_time"), col[*listCol](b, "exemplars_value_type")
	c.exDouble, c.exInt = col[*listCol](b, "exemplars_value_double"), col[*listCol](b, "exemplars_value_int")
	c.exTrace, c.exSpan = col[*listCol](b, "exemplars_trace_id"), col[*listCol](b, "exemplars_span_id")
	c.exAttrs = col[*listCol](b, "exemplars_attributes")
}

// appendMetric appends the metric's data points. What the points share is appended once, for all of them; columns that belong
// to another type of metric are left to padTo.
func (b *Builder) appendMetric(m pmetric.Metric) {
	first, typ, temporality, monotonic := b.rows, "", "", false
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		typ = metricGauge
		b.appendNumbers(m, m.Gauge().DataPoints())
	case pmetric.MetricTypeSum:
		typ, monotonic = metricSum, m.Sum().IsMonotonic()
		temporality = enumName(temporalities[:], int32(m.Sum().AggregationTemporality()))
		b.appendNumbers(m, m.Sum().DataPoints())
	case pmetric.MetricTypeHistogram:
		typ = metricHistogram
		temporality = enumName(temporalities[:], int32(m.Histogram().AggregationTemporality()))
		for _, p := range m.Histogram().DataPoints().All() {
			b.appendHistogram(m, p)
		}
	case pmetric.MetricTypeExponentialHistogram:
		typ = metricExpHistogram
		temporality = enumName(temporalities[:], int32(m.ExponentialHistogram().AggregationTemporality()))
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			b.appendExpHistogram(m, p)
		}
	case pmetric.MetricTypeSummary:
		typ = metricSummary
		for _, p := range m.Summary().DataPoints().All() {
			b.appendSummary(m, p)
		}
	}
	n, c := b.rows-first, &b.metric
	if n == 0 {
		return
	}
	c.name.pushN(m.Name(), n)
	c.description.pushN(m.Description(), n)
	c.unit.pushN(m.Unit(), n)
	c.typ.pushN(typ, n)
	c.temporality.pushN(temporality, n)
	b.scratch = appendJSONMap(b.scratch[:0], m.Metadata(), 0)
	c.metadata.pushN(string(b.scratch), n)
	for range n {
		c.monotonic.push(monotonic)
	}
}

// point is what all types of data points have.
type point interface {
	Timestamp() pcommon.Timestamp
	StartTimestamp() pcommon.Timestamp
	Attributes() pcommon.Map
	Flags() pmetric.DataPointFlags
}

func startPoint[P point](b *Builder, p P) int {
	b.startEvent(p.Timestamp(), 0, p.Attributes(), 0)
	b.metric.start.push(clampTime(p.StartTimestamp()))
	b.metric.flags.push(uint32(p.Flags()))
	return b.rows
}

func (b *Builder) appendNumbers(m pmetric.Metric, points pmetric.NumberDataPointSlice) {
	c := &b.metric
	for _, p := range points.All() {
		row := startPoint(b, p)
		typ, d, i := typeEmpty, 0.0, int64(0)
		switch p.ValueType() {
		case pmetric.NumberDataPointValueTypeInt:
			i = p.IntValue()
			typ, d = typeInt, float64(i)
		case pmetric.NumberDataPointValueTypeDouble:
			typ, d = typeDouble, p.DoubleValue()
		}
		c.valueType.set(row, typ)
		c.valueDouble.set(row, d)
		c.valueInt.set(row, i)
		b.appendExemplars(row, p.Exemplars())
		b.endEvent()
	}
}

func (b *Builder) appendHistogram(m pmetric.Metric, p pmetric.HistogramDataPoint) {
	c, row := &b.metric, startPoint(b, p)
	c.count.set(row, p.Count())
	c.sum.set(row, p.Sum())
	c.hasSum.set(row, p.HasSum())
	c.min.set(row, p.Min())
	c.hasMin.set(row, p.HasMin())
	c.max.set(row, p.Max())
	c.hasMax.set(row, p.HasMax())
	setDoubles(c.bounds, row, p.ExplicitBounds())
	setCounts(c.buckets, row, p.BucketCounts())
	b.appendExemplars(row, p.Exemplars())
	b.endEvent()
}

func (b *Builder) appendExpHistogram(m pmetric.Metric, p pmetric.ExponentialHistogramDataPoint) {
	c, row := &b.metric, startPoint(b, p)
	c.count.set(row, p.Count())
	c.sum.set(row, p.Sum())
	c.hasSum.set(row, p.HasSum())
	c.min.set(row, p.Min())
	c.hasMin.set(row, p.HasMin())
	c.max.set(row, p.Max())
	c.hasMax.set(row, p.HasMax())
	c.scale.set(row, p.Scale())
	c.zeroCount.set(row, p.ZeroCount())
	c.zeroThreshold.set(row, p.ZeroThreshold())
	c.positiveOffset.set(row, p.Positive().Offset())
	setCounts(c.positiveBuckets, row, p.Positive().BucketCounts())
	c.negativeOffset.set(row, p.Negative().Offset())
	setCounts(c.negativeBuckets, row, p.Negative().BucketCounts())
	b.appendExemplars(row, p.Exemplars())
	b.endEvent()
}

func (b *Builder) appendSummary(m pmetric.Metric, p pmetric.SummaryDataPoint) {
	c, row := &b.metric, startPoint(b, p)
	c.count.set(row, p.Count())
	c.sum.set(row, p.Sum())
	c.hasSum.set(row, true)
	c.quantiles.padTo(row)
	c.quantileValues.padTo(row)
	for _, q := range p.QuantileValues().All() {
		c.quantiles.elem.(*numCol[float64]).push(q.Quantile())
		c.quantileValues.elem.(*numCol[float64]).push(q.Value())
	}
	c.quantiles.end()
	c.quantileValues.end()
	b.endEvent()
}

func setDoubles(c *listCol, row int, xs pcommon.Float64Slice) {
	c.padTo(row)
	elem := c.elem.(*numCol[float64])
	for i := range xs.Len() {
		elem.push(xs.At(i))
	}
	c.end()
}

func setCounts(c *listCol, row int, xs pcommon.UInt64Slice) {
	c.padTo(row)
	elem := c.elem.(*numCol[uint64])
	for i := range xs.Len() {
		elem.push(xs.At(i))
	}
	c.end()
}

func (b *Builder) appendExemplars(row int, exemplars pmetric.ExemplarSlice) {
	if exemplars.Len() == 0 {
		return
	}
	c := &b.metric
	lists := [...]*listCol{c.exTime, c.exType, c.exDouble, c.exInt, c.exTrace, c.exSpan, c.exAttrs}
	for _, l := range lists {
		l.padTo(row)
	}
	for _, e := range exemplars.All() {
		typ, d, i := typeEmpty, 0.0, int64(0)
		switch e.ValueType() {
		case pmetric.ExemplarValueTypeInt:
			i = e.IntValue()
			typ, d = typeInt, float64(i)
		case pmetric.ExemplarValueTypeDouble:
			typ, d = typeDouble, e.DoubleValue()
		}
		trace, span := e.TraceID(), e.SpanID()
		c.exTime.elem.(*numCol[int64]).push(clampTime(e.Timestamp()))
		c.exType.elem.(*dictCol).push(typ)
		c.exDouble.elem.(*numCol[float64]).push(d)
		c.exInt.elem.(*numCol[int64]).push(i)
		c.exTrace.elem.(*fixedCol).push(trace[:])
		c.exSpan.elem.(*fixedCol).push(span[:])
		b.scratch = appendJSONMap(b.scratch[:0], e.FilteredAttributes(), 0)
		c.exAttrs.elem.(*textCol).pushBytes(b.scratch)
	}
	for _, l := range lists {
		l.end()
	}
}
