package audit

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/audit/oracle"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// decoded is a record whose events are known.
type decoded struct {
	origin   lineage.Origin
	offset   int64
	readable bool
	away     []absence // by store: what of it is in quarantine
	data     data
	request  *oracle.Request // of a readable one
	silent   bool            // of another tenant than asked for: its events occurred, but are not compared
	unread   bool            // by the data path, so its events did not occur
}

// events of the record.
func (d *decoded) events() int {
	if d.request == nil {
		return 0
	}
	return len(d.request.Events)
}

// time is the column time of an event's row, Unix nanoseconds.
func (d *decoded) time(s signal.Signal, position int) int64 {
	e := &d.request.Events[position]
	switch {
	case e.Time != 0:
		return int64(min(e.Time, math.MaxInt64))
	case s == signal.Logs && e.Other != 0:
		return int64(min(e.Other, math.MaxInt64))
	}
	return d.origin.Received.UnixNano()
}

// decoder reads records as docs/formats/kafka.md describes them.
type decoder struct {
	signal        signal.Signal
	defaultTenant string
}

// headers reads all but the value. The signal is false where the record is of another one than its topic.
func (c decoder) headers(rec *kgo.Record) (o lineage.Origin, r oracle.Record, sameSignal bool) {
	o = lineage.Origin{
		Tenant: c.defaultTenant, Source: strings.ToValidUTF8(string(rec.Key), "\uFFFD"), Received: rec.Timestamp,
		Topic: rec.Topic, Partition: rec.Partition, Appended: rec.Timestamp,
	}
	r = oracle.Record{Offset: rec.Offset, Appended: rec.Timestamp, Key: rec.Key, Value: rec.Value}
	sameSignal = true
	for i := len(rec.Headers) - 1; i >= 0; i-- { // of headers of one name the first counts
		switch v := string(rec.Headers[i].Value); rec.Headers[i].Key {
		case envelope.HeaderTenant:
			if o.Tenant = c.defaultTenant; v != "" {
				o.Tenant = strings.ToValidUTF8(v, "\uFFFD")
			}
		case envelope.HeaderReceivedNanos:
			o.Received = rec.Timestamp
			if ns, err := strconv.ParseInt(v, 10, 64); err == nil && ns > 0 {
				o.Received = time.Unix(0, ns)
			}
		case envelope.HeaderSignal:
			sameSignal = v == c.signal.String()
		case envelope.HeaderRequest:
			r.Header = rec.Headers[i].Value
		case envelope.HeaderIDAttribute:
			r.IDAttribute = v
		}
	}
	r.Tenant = o.Tenant
	return o, r, sameSignal
}

// decode reads a record. Its events are stamped for the row model if asked to.
func (c decoder) decode(rec *kgo.Record, stamp bool) (*decoded, error) {
	d := &decoded{offset: rec.Offset}
	var r oracle.Record
	var sameSignal bool
	if d.origin, r, sameSignal = c.headers(rec); !sameSignal {
		return d, nil
	}
	// pdata's decoder recurses as deep as a value is nested, without a bound of its own.
	if _, err := otlpwire.Count(c.signal, rec.Value, otlpwire.Limits{}); errors.Is(err, otlpwire.ErrTooDeep) || errors.Is(err, otlpwire.ErrTooManyEvents) {
		return d, nil
	}
	var err error
	if d.data, err = unmarshal(c.signal, rec.Value); err != nil {
		return d, nil //nolint:nilerr // nobody can read it: that is what d says
	}
	if d.request, err = oracle.Read(c.signal, r); err != nil {
		return nil, fmt.Errorf("%s/%d offset %d: pdata can read it, the audit cannot: %w", rec.Topic, rec.Partition, rec.Offset, err)
	}
	d.readable = true
	v := visitor{decoded: d, stamp: stamp}
	v.data(d.data)
	if v.wrong != "" || v.position != d.events() {
		return nil, fmt.Errorf("%s/%d offset %d: pdata and the audit disagree: pdata finds %d events and the audit %d%s", rec.Topic, rec.Partition, rec.Offset, v.position, d.events(), v.wrong)
	}
	return d, nil
}

// data is one request of any signal; the other two are zero.
type data struct {
	signal  signal.Signal
	logs    plog.Logs
	metrics pmetric.Metrics
	traces  ptrace.Traces
}

func unmarshal(s signal.Signal, value []byte) (data, error) {
	d := data{signal: s}
	switch s {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		err := req.UnmarshalProto(value)
		d.logs = req.Logs()
		return d, err
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		err := req.UnmarshalProto(value)
		d.metrics = req.Metrics()
		return d, err
	default:
		req := ptraceotlp.NewExportRequest()
		err := req.UnmarshalProto(value)
		d.traces = req.Traces()
		return d, err
	}
}

func (d data) appendTo(b *columns.Builder) error {
	switch d.signal {
	case signal.Logs:
		return b.AppendLogs(d.logs)
	case signal.Metrics:
		return b.AppendMetrics(d.metrics)
	default:
		return b.AppendTraces(d.traces)
	}
}

// keep removes all events but the ones at the positions that are wanted, in the order of visitor.
func (d data) keep(wanted map[int32]bool) {
	position := int32(-1)
	drop := func() bool { position++; return !wanted[position] }
	switch d.signal {
	case signal.Logs:
		for _, rl := range d.logs.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				sl.LogRecords().RemoveIf(func(plog.LogRecord) bool { return drop() })
			}
		}
	case signal.Traces:
		for _, rs := range d.traces.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				ss.Spans().RemoveIf(func(ptrace.Span) bool { return drop() })
			}
		}
	case signal.Metrics:
		number := func(pmetric.NumberDataPoint) bool { return drop() }
		for _, rm := range d.metrics.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					switch m.Type() {
					case pmetric.MetricTypeGauge:
						m.Gauge().DataPoints().RemoveIf(number)
					case pmetric.MetricTypeSum:
						m.Sum().DataPoints().RemoveIf(number)
					case pmetric.MetricTypeHistogram:
						m.Histogram().DataPoints().RemoveIf(func(pmetric.HistogramDataPoint) bool { return drop() })
					case pmetric.MetricTypeExponentialHistogram:
						m.ExponentialHistogram().DataPoints().RemoveIf(func(pmetric.ExponentialHistogramDataPoint) bool { return drop() })
					case pmetric.MetricTypeSummary:
						m.Summary().DataPoints().RemoveIf(func(pmetric.SummaryDataPoint) bool { return drop() })
					}
				}
			}
		}
	}
}

// visitor goes through the events as pdata has decoded them: it holds their number and times against those that the audit has read, and stamps them
// if asked to.
type visitor struct {
	*decoded
	stamp    bool
	position int
	wrong    string
}

func (v *visitor) event(attrs pcommon.Map, at, other pcommon.Timestamp) {
	i := v.position
	v.position++
	if i >= v.events() {
		return
	}
	if e := &v.request.Events[i]; e.Time != uint64(at) || e.Other != uint64(other) {
		v.wrong = fmt.Sprintf(", and other times of event %d", i)
	}
	if v.stamp {
		lineage.StampEvent(attrs, lineage.Event{ID: v.request.ID(i), Offset: v.offset, Index: int32(i)})
	}
}

func (v *visitor) resource(r pcommon.Resource) {
	if v.stamp {
		lineage.StampResource(r.Attributes(), v.origin)
	}
}

func (v *visitor) data(d data) {
	switch d.signal {
	case signal.Logs:
		for _, rl := range d.logs.ResourceLogs().All() {
			v.resource(rl.Resource())
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					v.event(lr.Attributes(), lr.Timestamp(), lr.ObservedTimestamp())
				}
			}
		}
	case signal.Traces:
		for _, rs := range d.traces.ResourceSpans().All() {
			v.resource(rs.Resource())
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					v.event(s.Attributes(), s.StartTimestamp(), s.EndTimestamp())
				}
			}
		}
	case signal.Metrics:
		for _, rm := range d.metrics.ResourceMetrics().All() {
			v.resource(rm.Resource())
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					v.points(m)
				}
			}
		}
	}
}

func (v *visitor) points(m pmetric.Metric) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, dp := range m.Gauge().DataPoints().All() {
			v.event(dp.Attributes(), dp.Timestamp(), dp.StartTimestamp())
		}
	case pmetric.MetricTypeSum:
		for _, dp := range m.Sum().DataPoints().All() {
			v.event(dp.Attributes(), dp.Timestamp(), dp.StartTimestamp())
		}
	case pmetric.MetricTypeHistogram:
		for _, dp := range m.Histogram().DataPoints().All() {
			v.event(dp.Attributes(), dp.Timestamp(), dp.StartTimestamp())
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, dp := range m.ExponentialHistogram().DataPoints().All() {
			v.event(dp.Attributes(), dp.Timestamp(), dp.StartTimestamp())
		}
	case pmetric.MetricTypeSummary:
		for _, dp := range m.Summary().DataPoints().All() {
			v.event(dp.Attributes(), dp.Timestamp(), dp.StartTimestamp())
		}
	}
}

func placeOf(rec *kgo.Record, position int) stored.Place {
	return stored.Place{Partition: rec.Partition, Offset: rec.Offset, Index: int32(position)}
}
