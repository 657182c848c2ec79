package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// event is what tail prints of one event.
type event struct {
	Time       time.Time      `json:"time"`
	Tenant     string         `json:"tenant"`
	Signal     string         `json:"signal"`
	Service    string         `json:"service"`
	Name       string         `json:"name,omitempty"`     // of a metric or a span; a log's event name
	Severity   string         `json:"severity,omitempty"` // of a log
	Value      any            `json:"value,omitempty"`    // a log's body, a point's value, a span's duration in ms
	TraceID    string         `json:"trace_id,omitempty"`
	Attributes map[string]any `json:"attributes,omitempty"`
	Topic      string         `json:"topic"`
	Partition  int32          `json:"partition"`
	Offset     int64          `json:"offset"`
}

// eventFilter lets everything through where it is empty.
type eventFilter struct{ tenant, service string }

func (f eventFilter) wants(filter, value string) bool { return filter == "" || filter == value }

// events decodes a record. A record that is no OTLP gives one event that says so.
func events(r *kgo.Record, f eventFilter) iter.Seq[event] {
	base := event{Time: r.Timestamp, Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}
	for _, h := range r.Headers {
		switch h.Key {
		case envelope.HeaderTenant:
			base.Tenant = string(h.Value)
		case envelope.HeaderSignal:
			base.Signal = string(h.Value)
		}
	}
	for _, s := range signal.All { // for producers that set no headers
		if base.Signal == "" && s.Topic() == r.Topic {
			base.Signal = s.String()
		}
	}
	return func(yield func(event) bool) {
		if !f.wants(f.tenant, base.Tenant) {
			return
		}
		filtered := func(e event) bool { return !f.wants(f.service, e.Service) || yield(e) }
		var err error
		switch s, _ := signal.Parse(base.Signal); s {
		case signal.Logs:
			err = logEvents(base, r.Value, filtered)
		case signal.Metrics:
			err = metricEvents(base, r.Value, filtered)
		case signal.Traces:
			err = spanEvents(base, r.Value, filtered)
		default:
			err = fmt.Errorf("header %s is %q", envelope.HeaderSignal, base.Signal)
		}
		if err != nil {
			base.Severity, base.Value = "UNREADABLE", err.Error()
			filtered(base)
		}
	}
}

func serviceName(res pcommon.Resource) string {
	if v, ok := res.Attributes().Get("service.name"); ok {
		return v.AsString()
	}
	return ""
}

func logEvents(e event, value []byte, yield func(event) bool) error {
	req := plogotlp.NewExportRequest()
	if err := req.UnmarshalProto(value); err != nil {
		return err
	}
	for _, rl := range req.Logs().ResourceLogs().All() {
		e.Service = serviceName(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				if !yield(logEvent(e, lr)) {
					return nil
				}
			}
		}
	}
	return nil
}

func logEvent(e event, lr plog.LogRecord) event {
	if lr.Timestamp() != 0 {
		e.Time = lr.Timestamp().AsTime()
	}
	e.Name, e.Severity, e.Value, e.Attributes = lr.EventName(), lr.SeverityText(), lr.Body().AsString(), lr.Attributes().AsRaw()
	if e.Severity == "" && lr.SeverityNumber() != 0 {
		e.Severity = lr.SeverityNumber().String()
	}
	if !lr.TraceID().IsEmpty() {
		e.TraceID = lr.TraceID().String()
	}
	return e
}

func spanEvents(e event, value []byte, yield func(event) bool) error {
	req := ptraceotlp.NewExportRequest()
	if err := req.UnmarshalProto(value); err != nil {
		return err
	}
	for _, rs := range req.Traces().ResourceSpans().All() {
		e.Service = serviceName(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				e.Time, e.Name, e.TraceID, e.Attributes = span.StartTimestamp().AsTime(), span.Name(), span.TraceID().String(), span.Attributes().AsRaw()
				e.Value = float64(span.EndTimestamp()-span.StartTimestamp()) / 1e6
				if !yield(e) {
					return nil
				}
			}
		}
	}
	return nil
}

func metricEvents(e event, value []byte, yield func(event) bool) error {
	req := pmetricotlp.NewExportRequest()
	if err := req.UnmarshalProto(value); err != nil {
		return err
	}
	for _, rm := range req.Metrics().ResourceMetrics().All() {
		e.Service = serviceName(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				e.Name = m.Name()
				if !pointEvents(e, m, yield) {
					return nil
				}
			}
		}
	}
	return nil
}

// pointEvents yields one event a data point; false: the reader has had enough.
func pointEvents(e event, m pmetric.Metric, yield func(event) bool) bool {
	point := func(at pcommon.Timestamp, attrs pcommon.Map, value any) bool {
		e.Time, e.Attributes, e.Value = at.AsTime(), attrs.AsRaw(), value
		return yield(e)
	}
	number := func(points pmetric.NumberDataPointSlice) bool {
		for _, p := range points.All() {
			var v any = p.DoubleValue()
			if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
				v = p.IntValue()
			}
			if !point(p.Timestamp(), p.Attributes(), v) {
				return false
			}
		}
		return true
	}
	summary := func(count uint64, sum float64) string { return fmt.Sprintf("count=%d sum=%g", count, sum) }
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return number(m.Gauge().DataPoints())
	case pmetric.MetricTypeSum:
		return number(m.Sum().DataPoints())
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			if !point(p.Timestamp(), p.Attributes(), summary(p.Count(), p.Sum())) {
				return false
			}
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			if !point(p.Timestamp(), p.Attributes(), summary(p.Count(), p.Sum())) {
				return false
			}
		}
	case pmetric.MetricTypeSummary:
		for _, p := range m.Summary().DataPoints().All() {
			if !point(p.Timestamp(), p.Attributes(), summary(p.Count(), p.Sum())) {
				return false
			}
		}
	case pmetric.MetricTypeEmpty:
	}
	return true
}

func (e event) print(w io.Writer, asJSON bool) error {
	if asJSON {
		b, err := json.Marshal(e)
		if err != nil { // a NaN value: JSON has none
			e.Value = fmt.Sprint(e.Value)
			if b, err = json.Marshal(e); err != nil {
				return fmt.Errorf("%s/%d offset %d: %w", e.Topic, e.Partition, e.Offset, err)
			}
		}
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	unit := ""
	if e.Signal == signal.Traces.String() {
		unit = "ms"
	}
	parts := []string{e.Time.UTC().Format("15:04:05.000"), dash(e.Tenant), e.Signal, dash(e.Service)}
	for _, s := range []string{e.Severity, e.Name, fmt.Sprint(e.Value) + unit} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		parts = append(parts, k+"="+shorten(fmt.Sprint(e.Attributes[k])))
	}
	_, err := fmt.Fprintln(w, oneLine(strings.Join(parts, " ")))
	return err
}

// shorten cuts a long attribute; --json has the whole of it.
func shorten(s string) string {
	const attributeMax = 120
	if r := []rune(s); len(r) > attributeMax {
		return string(r[:attributeMax]) + "..."
	}
	return s
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// oneLine keeps what a client sent from breaking lines or driving the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}
