package subject

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/rows"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Columns are those that Rows looks at: of a table of events or of the quarantine, or, for nil, of a table whose rows are made of events, with these columns of text.
func Columns(t *columns.Table, texts []string) []string {
	if t == nil {
		return append([]string{"tenant_id"}, texts...)
	}
	names := []string{"tenant_id", "event_id", "kafka_topic", "kafka_partition", "kafka_offset", "event_index"}
	if t.Items() {
		return append(names, "signal", "content_type", "content_encoding", "object", "body")
	}
	return append(names, rows.AttributeColumns(t)...)
}

// Found counts what the rows of a table hold.
type Found struct {
	Rows   int64 // of the person
	Others int64 // of the quarantine: events of others in such rows
	Closed int64 // of the quarantine: rows of the tenant that nobody looked into, since the body is compressed or kept elsewhere
}

// Rows calls each for every row of a batch that is the person's, with the row at hand, and counts it:
//
//   - of a table of events, rows with a value in an attribute of the event, its resource or scope, a span event or link, or an exemplar;
//   - of the quarantine, items with such an event, or, where the body is no OTLP request, with both key and value in it;
//   - of any other table (nil), rows with a value in one of the columns of text.
func (s *Subject) Rows(t *columns.Table, texts []string, rec arrow.RecordBatch, found *Found, each func(i int, r *rows.Reader) error) error {
	is := func(r *rows.Reader, _ int) (bool, error) {
		return slices.ContainsFunc(texts, func(name string) bool { return s.values[r.Text(name)] }), nil
	}
	look := s.mayHave
	switch {
	case t == nil:
		t = &columns.Table{}
	case t.Items():
		is = func(r *rows.Reader, _ int) (bool, error) { return s.inItem(r, found), nil }
		look = func(arrow.RecordBatch) bool { return true } // numbers are written in another way in a body
	default:
		is = func(r *rows.Reader, i int) (bool, error) {
			all, err := r.Attributes(i)
			if err != nil { // it quotes the row
				return false, fmt.Errorf("row %s/%d/%d#%d: its attributes cannot be read", r.Text("kafka_topic"), r.Int("kafka_partition"), r.Int("kafka_offset"), r.Int("event_index"))
			}
			return s.inAny(all...), nil
		}
	}
	if !look(rec) {
		return nil
	}
	r := rows.NewReader(t, rec)
	for i := range int(rec.NumRows()) {
		r.Seek(i)
		if r.Text("tenant_id") != s.Tenant {
			continue
		}
		yes, err := is(r, i)
		if err != nil {
			return err
		}
		if yes {
			found.Rows++
			if err := each(i, r); err != nil {
				return err
			}
		}
		if r.Err() != nil {
			return errors.New("a column has another type than PulseGrid gives it")
		}
	}
	return nil
}

// inItem tells whether an item of the quarantine holds the subject.
func (s *Subject) inItem(r *rows.Reader, found *Found) bool {
	body := r.Bytes("body")
	if r.Text("object") != "" || r.Text("content_encoding") != "" {
		found.Closed++
		return false
	}
	if sig, err := signal.Parse(r.Text("signal")); err == nil && r.Text("content_type") == envelope.TypeOTLP {
		if with, all, ok := s.inRequest(sig, body); ok {
			if with > 0 {
				found.Others += int64(all - with)
			}
			return with > 0
		}
	}
	if !bytes.Contains(body, []byte(s.Attribute)) {
		return false
	}
	for v := range s.values {
		if holds(body, v) || holds(body, escaped(v)) {
			return true
		}
	}
	return false
}

// holds tells whether a body has a text; where the body is text, not as a part of a longer word.
func holds(body []byte, text string) bool {
	isText := utf8.Valid(body) && bytes.IndexByte(body, 0) < 0
	inWord := func(at int) bool {
		if at < 0 || at >= len(body) {
			return false
		}
		b := body[at]
		return b == '_' || b == '-' || b >= '0' && b <= '9' || b|0x20 >= 'a' && b|0x20 <= 'z' || b >= utf8.RuneSelf
	}
	for at := 0; ; at++ {
		i := bytes.Index(body[at:], []byte(text))
		if i < 0 {
			return false
		}
		if at += i; !isText || !inWord(at-1) && !inWord(at+len(text)) {
			return true
		}
	}
}

// escaped is a text as it stands in JSON.
func escaped(v string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(v)
}

// inRequest counts the events of an OTLP request, and those that carry a value; false: it is none.
func (s *Subject) inRequest(sig signal.Signal, body []byte) (with, all int, ok bool) {
	if _, err := otlpwire.Count(sig, body, otlpwire.Limits{}); err != nil { // pdata's decoder recurses as deep as a value is nested
		return 0, 0, false
	}
	event := func(is bool) {
		all++
		if is {
			with++
		}
	}
	switch sig {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		if req.UnmarshalProto(body) != nil {
			return 0, 0, false
		}
		for _, rl := range req.Logs().ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					event(s.inAny(lr.Attributes(), sl.Scope().Attributes(), rl.Resource().Attributes()))
				}
			}
		}
	case signal.Traces:
		req := ptraceotlp.NewExportRequest()
		if req.UnmarshalProto(body) != nil {
			return 0, 0, false
		}
		for _, rs := range req.Traces().ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, sp := range ss.Spans().All() {
					is := s.inAny(sp.Attributes(), ss.Scope().Attributes(), rs.Resource().Attributes())
					for _, e := range sp.Events().All() {
						is = is || s.in(e.Attributes())
					}
					for _, l := range sp.Links().All() {
						is = is || s.in(l.Attributes())
					}
					event(is)
				}
			}
		}
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if req.UnmarshalProto(body) != nil {
			return 0, 0, false
		}
		for _, rm := range req.Metrics().ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				around := s.inAny(sm.Scope().Attributes(), rm.Resource().Attributes())
				for _, m := range sm.Metrics().All() {
					s.points(m, func(is bool) { event(is || around) })
				}
			}
		}
	}
	return with, all, true
}

// points tells of each point of a metric whether it, or an exemplar of it, carries a value.
func (s *Subject) points(m pmetric.Metric, event func(bool)) {
	exemplars := func(of pmetric.ExemplarSlice) bool {
		for _, e := range of.All() {
			if s.in(e.FilteredAttributes()) {
				return true
			}
		}
		return false
	}
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, p := range m.Gauge().DataPoints().All() {
			event(s.in(p.Attributes()) || exemplars(p.Exemplars()))
		}
	case pmetric.MetricTypeSum:
		for _, p := range m.Sum().DataPoints().All() {
			event(s.in(p.Attributes()) || exemplars(p.Exemplars()))
		}
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			event(s.in(p.Attributes()) || exemplars(p.Exemplars()))
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			event(s.in(p.Attributes()) || exemplars(p.Exemplars()))
		}
	case pmetric.MetricTypeSummary:
		for _, p := range m.Summary().DataPoints().All() {
			event(s.in(p.Attributes()))
		}
	}
}
