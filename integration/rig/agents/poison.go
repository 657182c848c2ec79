package agents

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Poisoned is an event that was made invalid.
type Poisoned struct {
	Code  schema.Code // of the verdict that it must get
	Event string      // what was sent, as Events gives it
}

// The ways in which events are made invalid, for a gateway that enforces integration/fault/testdata/schemas and the default limits. An event
// violates one thing and no other.
var (
	logPoisons = []struct {
		code schema.Code
		do   func(plog.LogRecord)
	}{
		{schema.AttributeMissing, func(e plog.LogRecord) { e.Attributes().Remove("n") }},
		{schema.AttributeType, func(e plog.LogRecord) { e.Attributes().PutStr("n", "many") }},
		{schema.AttributeEnum, func(e plog.LogRecord) { e.Attributes().PutStr("state", "broken") }},
		{schema.AttributePattern, func(e plog.LogRecord) { e.Attributes().PutStr("path", "no/slash") }},
		{schema.AttributeRange, func(e plog.LogRecord) { e.Attributes().PutInt("status", 999) }},
		{schema.ValueTooLong, func(e plog.LogRecord) { e.Attributes().PutStr("path", "/"+strings.Repeat("z", 1024)) }},
		{schema.KeyTooLong, func(e plog.LogRecord) { e.Attributes().PutInt(strings.Repeat("k", 257), 1) }},
		{schema.KeyEmpty, func(e plog.LogRecord) { e.Attributes().PutInt("", 1) }},
		{schema.InvalidUTF8, func(e plog.LogRecord) { e.Attributes().PutStr("zone", "\xff\xfe\xfd") }},
		{schema.TooDeep, func(e plog.LogRecord) {
			v := e.Attributes().PutEmptySlice("deep")
			for range 20 {
				v = v.AppendEmpty().SetEmptySlice()
			}
		}},
		{schema.TooManyAttributes, func(e plog.LogRecord) {
			for i := range 300 {
				e.Attributes().PutInt(fmt.Sprint("extra.", i), 1)
			}
		}},
		{schema.TimeTooOld, func(e plog.LogRecord) { e.SetTimestamp(moved(e.Timestamp(), -31*24*time.Hour)) }},
		{schema.TimeInFuture, func(e plog.LogRecord) { e.SetTimestamp(moved(e.Timestamp(), 2*time.Hour)) }},
		{schema.BodyType, func(e plog.LogRecord) { e.Body().SetBool(true) }},
	}
	spanPoisons = []struct {
		code schema.Code
		do   func(ptrace.Span)
	}{
		{schema.TimeOrder, func(e ptrace.Span) { e.SetEndTimestamp(e.StartTimestamp() - 1) }},
		{schema.TimeMissing, func(e ptrace.Span) { e.SetStartTimestamp(0) }},
		{schema.AttributeType, func(e ptrace.Span) { e.Attributes().PutStr("status", "200") }},
	}
	// A point's poison is one of its metric, so the point is moved into one of its own.
	pointPoisons = []struct {
		code schema.Code
		do   func(pmetric.Metric, pmetric.NumberDataPoint)
	}{
		{schema.SumNegative, func(m pmetric.Metric, dp pmetric.NumberDataPoint) {
			dp.SetIntValue(-1 - dp.IntValue())
			dp.CopyTo(counter(m, true).AppendEmpty())
		}},
		{schema.MetricNotMonotonic, func(m pmetric.Metric, dp pmetric.NumberDataPoint) { dp.CopyTo(counter(m, false).AppendEmpty()) }},
		{schema.MetricTemporality, func(m pmetric.Metric, dp pmetric.NumberDataPoint) {
			dp.CopyTo(counter(m, true).AppendEmpty())
			m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
		}},
		{schema.MetricUnit, func(m pmetric.Metric, dp pmetric.NumberDataPoint) {
			dp.CopyTo(counter(m, true).AppendEmpty())
			m.SetUnit("By")
		}},
		{schema.MetricType, func(m pmetric.Metric, dp pmetric.NumberDataPoint) {
			counter(m, true)
			dp.CopyTo(m.SetEmptyGauge().DataPoints().AppendEmpty())
		}},
		{schema.MetricName, func(m pmetric.Metric, dp pmetric.NumberDataPoint) {
			dp.CopyTo(m.SetEmptyGauge().DataPoints().AppendEmpty())
		}},
	}
)

// counter makes what the schema says, but for being monotonic.
func counter(m pmetric.Metric, monotonic bool) pmetric.NumberDataPointSlice {
	m.SetName("fleet.counter")
	m.SetUnit("{event}")
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(monotonic)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	return sum.DataPoints()
}

func moved(t pcommon.Timestamp, d time.Duration) pcommon.Timestamp {
	return pcommon.NewTimestampFromTime(t.AsTime().Add(d))
}

// poisoner makes a share of a request's events invalid.
type poisoner struct {
	rng   *rand.Rand
	share float64
	at    map[int]spoilt // by place in the request
}

type spoilt struct {
	number int
	code   schema.Code
}

// strikes tells whether the next event is to be invalid, and in which of so many ways.
func (p *poisoner) strikes(ways int) (int, bool) {
	return p.rng.IntN(ways), p.rng.Float64() < p.share
}

func (p *poisoner) note(place, number int, code schema.Code) {
	if p.at == nil {
		p.at = map[int]spoilt{}
	}
	p.at[place] = spoilt{number, code}
}

func (p *poisoner) logs(records plog.LogRecordSlice, first int) {
	for i, lr := range records.All() {
		if way, ok := p.strikes(len(logPoisons)); ok {
			logPoisons[way].do(lr)
			p.note(i, first+i, logPoisons[way].code)
		}
	}
}

func (p *poisoner) spans(spans ptrace.SpanSlice, first int) {
	for i, s := range spans.All() {
		if way, ok := p.strikes(len(spanPoisons)); ok {
			spanPoisons[way].do(s)
			p.note(i, first+i, spanPoisons[way].code)
		}
	}
}

func (p *poisoner) points(ms pmetric.MetricSlice) {
	var moved []spoilt
	ms.At(0).Gauge().DataPoints().RemoveIf(func(dp pmetric.NumberDataPoint) bool {
		way, ok := p.strikes(len(pointPoisons))
		if ok {
			moved = append(moved, spoilt{int(dp.IntValue()), pointPoisons[way].code})
			pointPoisons[way].do(ms.AppendEmpty(), dp)
		}
		return ok
	})
	for i, m := range moved {
		p.note(ms.At(0).Gauge().DataPoints().Len()+i, m.number, m.code)
	}
}

// remember tells the request which of its events are invalid.
func (p *poisoner) remember(r *Request, body []byte) error {
	if len(p.at) == 0 {
		return nil
	}
	r.Poison = map[int]Poisoned{}
	return Events(r.Signal, body, func(place int, event string) {
		if s, ok := p.at[place]; ok {
			r.Poison[s.number] = Poisoned{s.code, event}
		}
	})
}

// Events walks the events of a request, each with its place and with its bytes, those of its resource and scope and the name of its
// metric, as one text.
func Events(sig signal.Signal, body []byte, fn func(place int, event string)) error {
	if _, err := otlpwire.Count(sig, body, otlpwire.Limits{}); err != nil {
		return err
	}
	return otlpwire.Walk(sig, body, func(e *otlpwire.Event) bool {
		fn(e.Index, strings.Join([]string{sig.String(), string(e.Resource), string(e.Scope), string(e.Metric.Name), string(e.Bytes)}, "\x00"))
		return true
	})
}
