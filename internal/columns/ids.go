package columns

import (
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// Ids of events that came without a stamp, by the rule that the mskreceiver stamps by (internal/eventid).

// source is the source of the current resource's events, computed when the first of them needs it.
func (b *Builder) source() string {
	o := &b.origin
	if !o.hasSource {
		o.source, o.hasSource = eventid.Source(o.Source, o.res), true
	}
	return o.source
}

func pointID[P point](b *Builder, m pmetric.Metric, p P) [16]byte {
	switch p := any(p).(type) {
	case pmetric.NumberDataPoint:
		return eventid.NumberPoint(m, b.origin.scope, p, b.source())
	case pmetric.HistogramDataPoint:
		return eventid.HistogramPoint(m, b.origin.scope, p, b.source())
	case pmetric.ExponentialHistogramDataPoint:
		return eventid.ExponentialHistogramPoint(m, b.origin.scope, p, b.source())
	case pmetric.SummaryDataPoint:
		return eventid.SummaryPoint(m, b.origin.scope, p, b.source())
	}
	panic("columns: unknown type of data point")
}
