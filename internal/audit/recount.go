package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Bounds of what is decoded at a time.
const (
	chunkEvents = 20_000
	chunkBytes  = 16 << 20 // of record values
)

// counted is one event of Kafka.
type counted struct {
	stored.Row
	duplicate   bool
	duplicateOf int64  // offset of the event's last occurrence
	undecidable bool   // duplicates of it may be gone from Kafka
	away        []bool // by store: its record is in quarantine
	cells       func() [][]byte
}

// sink takes what a recount finds, in the order of Kafka.
type sink interface {
	// record begins a record, readable or not. away is by store; refused records are readable.
	record(partition int32, offset, events int64, readable bool, away []bool) error
	event(e *counted) error
}

// recount counts one partition again.
type recount struct {
	*Config
	plan       *plan
	quarantine quarantineIndex
	groups     []string
	sink       sink
	progress   func(offset int64, events int64)

	window  *window
	content bool
	builder *columns.Builder

	records []*decoded // of the chunk
	events  int
	bytes   int
	result  *certificate.PartitionResult
}

// decoded is a record whose events are known.
type decoded struct {
	offset   int64
	readable bool
	away     []bool
	tenant   string
	ids      [][16]byte
	keys     [][16]byte // that dedupe compares the events by
	data     data
	appended int64
	silent   bool // of another tenant than asked for: its events occurred, but are not compared
	unread   bool // by the data path, so its events did not occur
}

// run reads the window before the range, then the range.
func (r *recount) run(ctx context.Context, log *kafkaLog) error {
	r.window = newWindow(r.Window)
	if r.content {
		r.builder = columns.NewBuilder(memory.DefaultAllocator, columns.ForSignal(r.plan.signal))
		defer r.builder.Release()
	}
	err := log.each(ctx, r.plan.Topic, r.plan.Partition, r.plan.windowFrom, r.plan.First-1, func(rec *kgo.Record) error {
		if d := r.decode(rec, false); d.readable && !d.unread {
			r.remember(d, func(int, int64, bool) {})
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = log.each(ctx, r.plan.Topic, r.plan.Partition, r.plan.First, r.plan.Last, func(rec *kgo.Record) error {
		d := r.decode(rec, r.content)
		r.records = append(r.records, d)
		r.events += len(d.ids)
		r.bytes += len(rec.Value)
		if r.events >= chunkEvents || r.bytes >= chunkBytes || len(r.records) >= chunkEvents {
			return r.flush()
		}
		return nil
	})
	return errors.Join(err, r.flushAfter(err))
}

func (r *recount) flushAfter(err error) error {
	if err != nil {
		return nil
	}
	return r.flush()
}

// remember tells f of each event of d whether it is a duplicate.
func (r *recount) remember(d *decoded, f func(i int, of int64, duplicate bool)) {
	if len(d.ids) == 0 {
		return
	}
	r.window.advance(time.Unix(0, d.appended))
	for i, key := range d.keys {
		of, dup := r.window.occurred(d.tenant, key, d.offset)
		f(i, of, dup)
	}
}

// decode reads a record as docs/formats/kafka.md describes it.
func (r *recount) decode(rec *kgo.Record, stamp bool) *decoded {
	o := lineage.Origin{
		Tenant: r.DefaultTenant, Source: strings.ToValidUTF8(string(rec.Key), "\uFFFD"), Received: rec.Timestamp,
		Topic: rec.Topic, Partition: rec.Partition, Appended: rec.Timestamp,
	}
	sameSignal := true
	from := eventid.From{Source: rec.Key}
	for i := len(rec.Headers) - 1; i >= 0; i-- { // of headers of one name the first counts
		switch v := string(rec.Headers[i].Value); rec.Headers[i].Key {
		case envelope.HeaderTenant:
			if o.Tenant = r.DefaultTenant; v != "" {
				o.Tenant = strings.ToValidUTF8(v, "\uFFFD")
			}
		case envelope.HeaderReceivedNanos:
			o.Received = rec.Timestamp
			if ns, err := strconv.ParseInt(v, 10, 64); err == nil && ns > 0 {
				o.Received = time.Unix(0, ns)
			}
		case envelope.HeaderRequest:
			from.Request = rec.Headers[i].Value
		case envelope.HeaderIDAttribute:
			from.IDAttribute = v
		case envelope.HeaderSignal:
			sameSignal = v == r.plan.signal.String()
		}
	}
	d := &decoded{offset: rec.Offset, tenant: o.Tenant, appended: rec.Timestamp.UnixNano(), silent: r.Tenant != "" && r.Tenant != o.Tenant}
	for _, g := range r.groups {
		in, _ := r.quarantine.of(rec.Topic, rec.Partition, rec.Offset, g)
		d.away = append(d.away, in)
	}
	d.unread = r.quarantine.unread(rec.Topic, rec.Partition, rec.Offset)
	if !sameSignal {
		return d
	}
	// pdata's decoder recurses as deep as a value is nested, without a bound of its own.
	events, err := otlpwire.Count(r.plan.signal, rec.Value, otlpwire.Limits{})
	if err != nil {
		return d
	}
	if d.data, err = unmarshal(r.plan.signal, rec.Value); err != nil {
		return d
	}
	d.readable = true
	from.Tenant = o.Tenant
	if err := r.identify(d, rec.Value, events, from); err != nil {
		d.readable = false
		return d
	}
	if stamp {
		(&visitor{offset: rec.Offset, origin: o, ids: d.ids}).data(d.data)
	}
	return d
}

// identify makes the ids of d's events, and what they are compared by.
func (r *recount) identify(d *decoded, value []byte, events int, from eventid.From) error {
	var record eventid.Record
	if err := eventid.NewReader(r.plan.signal, true).Read(&record, value, events, from); err != nil {
		return err
	}
	equal := map[eventid.Key]int{}
	for i, key := range record.Keys {
		switch record.Rules[i] {
		case eventid.ByRequest:
			key = record.IndexKey(i)
		case eventid.ByContent:
			_, nth := record.At(i)
			if record.Whole {
				nth = equal[key]
				equal[key]++
			}
			key = key.Nth(nth)
		}
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], key.Hi)
		binary.LittleEndian.PutUint64(b[8:], key.Lo)
		d.ids, d.keys = append(d.ids, record.ID(i)), append(d.keys, b)
	}
	return nil
}

// flush decides and compares the chunk.
func (r *recount) flush() error {
	if len(r.records) == 0 {
		return nil
	}
	var rows *stored.Reader
	if r.content {
		for _, d := range r.records {
			if d.readable && !d.silent && len(d.ids) > 0 {
				if err := d.data.appendTo(r.builder); err != nil {
					return fmt.Errorf("%s/%d offset %d: %w", r.plan.Topic, r.plan.Partition, d.offset, err)
				}
			}
		}
		rec := r.builder.NewRecordBatch()
		defer rec.Release()
		var err error
		if rows, err = stored.NewReader(r.builder.Table(), rec, true); err != nil {
			return err
		}
	}
	n := 0 // row of the batch
	for _, d := range r.records {
		if err := r.one(d, rows, &n); err != nil {
			return err
		}
	}
	at := r.records[len(r.records)-1].offset
	r.records, r.events, r.bytes = r.records[:0], 0, 0
	r.progress(at, r.result.Events)
	return nil
}

func (r *recount) one(d *decoded, rows *stored.Reader, n *int) error {
	events := make([]counted, len(d.ids))
	if !d.unread {
		r.remember(d, func(i int, of int64, dup bool) { events[i].duplicate, events[i].duplicateOf = dup, of })
	}
	if d.silent {
		return nil
	}
	r.result.Records++
	if !d.readable {
		r.result.Unreadable++
	}
	for _, away := range d.away {
		if away {
			r.result.Quarantined++
			break
		}
	}
	if err := r.sink.record(r.plan.Partition, d.offset, int64(len(events)), d.readable, d.away); err != nil {
		return err
	}
	for i := range events {
		e := &events[i]
		e.Row = stored.Row{Partition: r.plan.Partition, Offset: d.offset, Index: int32(i), ID: d.ids[i]}
		e.away = d.away
		e.undecidable = !e.duplicate && d.appended < r.plan.blindBefore
		if rows != nil {
			at := *n
			*n++
			built := rows.Row(at)
			if built.Place() != e.Place() || built.ID != e.ID {
				return fmt.Errorf("%s/%d: the row model puts event %d of offset %d at offset %d, index %d: the audit and internal/columns disagree", r.plan.Topic, r.plan.Partition, i, d.offset, built.Offset, built.Index)
			}
			e.Hash = built.Hash
			e.cells = func() [][]byte { return rows.Cells(at) }
		}
		r.result.Events++
		if e.duplicate {
			r.result.Duplicates++
		}
		if err := r.sink.event(e); err != nil {
			return err
		}
	}
	return nil
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

// visitor stamps the events of a request, in their order.
type visitor struct {
	offset int64
	origin lineage.Origin
	ids    [][16]byte
	next   int
}

func (v *visitor) event(attrs pcommon.Map) {
	lineage.StampEvent(attrs, lineage.Event{ID: v.ids[v.next], Offset: v.offset, Index: int32(v.next)})
	v.next++
}

func (v *visitor) resource(r pcommon.Resource) { lineage.StampResource(r.Attributes(), v.origin) }

func (v *visitor) data(d data) {
	switch d.signal {
	case signal.Logs:
		for _, rl := range d.logs.ResourceLogs().All() {
			v.resource(rl.Resource())
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					v.event(lr.Attributes())
				}
			}
		}
	case signal.Traces:
		for _, rs := range d.traces.ResourceSpans().All() {
			v.resource(rs.Resource())
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					v.event(s.Attributes())
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
			v.event(dp.Attributes())
		}
	case pmetric.MetricTypeSum:
		for _, dp := range m.Sum().DataPoints().All() {
			v.event(dp.Attributes())
		}
	case pmetric.MetricTypeHistogram:
		for _, dp := range m.Histogram().DataPoints().All() {
			v.event(dp.Attributes())
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, dp := range m.ExponentialHistogram().DataPoints().All() {
			v.event(dp.Attributes())
		}
	case pmetric.MetricTypeSummary:
		for _, dp := range m.Summary().DataPoints().All() {
			v.event(dp.Attributes())
		}
	}
}
