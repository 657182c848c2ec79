package audit

import (
	"cmp"
	"encoding/binary"
	"math/big"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/zeebo/blake3"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// The rig's data path decides on copies by a list of everything that was sent before, and by decoded events alone: none of this is the audit's.

// partOf is what a record's header `request` says.
type partOf struct {
	digest  [16]byte
	indexes []int
	nth     []int // of each event: how many equal ones come before it in its request
	resent  bool
}

// header is its binary form (decision 0030).
func (p partOf) header() string {
	b := append([]byte{1, 0}, p.digest[:]...)
	if p.resent {
		b[1] = 2
	}
	b = binary.AppendUvarint(b, uint64(len(p.indexes))) // a run for each event
	next := 0
	for _, i := range p.indexes {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(i-next)), 1)
		next = i + 1
	}
	n := uint64(0)
	var ordinals []byte
	for position, nth := range p.nth {
		if nth > 0 {
			n++
			ordinals = binary.AppendUvarint(binary.AppendUvarint(ordinals, uint64(position)), uint64(nth))
		}
	}
	return string(append(binary.AppendUvarint(b, n), ordinals...))
}

// produceWith appends a record with that header.
func (r *rig) produceWith(topic string, partition int32, value []byte, p partOf, headers ...string) *kgo.Record {
	rec := r.produce(topic, partition, value, append(headers, envelope.HeaderRequest, p.header())...)
	r.parts[rec] = p
	return rec
}

// event is one as the rig's dedupe compares it.
type event struct {
	rec         *kgo.Record
	tenant, key string
	digest      [16]byte
	index       int
	content     string // the request with just this event
	nth         int
	uid         string // with the resource; empty: none
	coarse      bool
	resent      bool
	id          [16]byte
	attrs       pcommon.Map
}

func (e *event) rule() string {
	switch {
	case e.resent:
		return "request"
	case e.uid != "":
		return "uid"
	case e.coarse:
		return "request"
	}
	return "content"
}

// model is the dedupe of one partition.
type model struct {
	rig    *rig
	before []*event
}

// copies are the positions of a record's copies.
func (m *model) copies(events []*event) (drop []int) {
	for i, e := range events {
		if m.rig.spoil != nil {
			m.rig.spoil(e)
		}
		if m.isCopy(e) && (m.rig.keep == nil || !m.rig.keep(e)) {
			drop = append(drop, i)
		}
		m.before = append(m.before, e)
	}
	return drop
}

func (m *model) isCopy(e *event) bool {
	return slices.ContainsFunc(m.before, func(o *event) bool {
		if o.tenant != e.tenant || o.rule() != e.rule() || e.rec.Timestamp.Sub(o.rec.Timestamp) > cmp.Or(m.rig.forgets, m.rig.window) {
			return false
		}
		switch e.rule() {
		case "uid":
			return o.uid == e.uid
		case "request":
			return o.rec != e.rec && o.key == e.key && o.digest == e.digest && o.index == e.index
		}
		return o.rec != e.rec && o.content == e.content && o.nth == e.nth
	})
}

// sent is a record as the rig's data path has decoded and stamped it.
type sent struct {
	data
	events []*event
}

// read decodes a record; false: nobody can.
func (r *rig) read(s signal.Signal, rec *kgo.Record) (*sent, bool) {
	r.t.Helper()
	header := func(name string) string {
		for _, h := range rec.Headers {
			if h.Key == name {
				return string(h.Value)
			}
		}
		return ""
	}
	if header(envelope.HeaderSignal) != s.String() {
		return nil, false
	}
	received, err := strconv.ParseInt(header(envelope.HeaderReceivedNanos), 10, 64)
	require.NoError(r.t, err)
	origin := lineage.Origin{
		Tenant: header(envelope.HeaderTenant), Source: string(rec.Key), Received: time.Unix(0, received), Topic: rec.Topic, Partition: rec.Partition, Appended: rec.Timestamp,
	}
	d := &sent{}
	if d.data, err = unmarshal(s, rec.Value); err != nil {
		return nil, false
	}
	sum := blake3.Sum256(rec.Value)
	part, isPart := r.parts[rec]
	equals := map[string]int{}
	d.each(r.t, header(envelope.HeaderIDAttribute), func(e *event) {
		i := len(d.events)
		e.rec, e.tenant, e.key, e.digest, e.index, e.nth = rec, origin.Tenant, string(rec.Key), [16]byte(sum[:16]), i, equals[e.content]
		equals[e.content]++
		if isPart {
			e.digest, e.index, e.nth, e.resent = part.digest, part.indexes[i], 0, part.resent
			if part.nth != nil {
				e.nth = part.nth[i]
			}
		}
		e.id = plus(e.digest, e.index)
		lineage.StampEvent(e.attrs, lineage.Event{ID: e.id, Offset: rec.Offset, Index: int32(i)})
		d.events = append(d.events, e)
	}, func(resource pcommon.Resource) { lineage.StampResource(resource.Attributes(), origin) })
	return d, true
}

// plus adds to a number of 128 bits.
func plus(digest [16]byte, index int) (id [16]byte) {
	slices.Reverse(digest[:])
	n := new(big.Int).SetBytes(digest[:])
	n.Add(n, big.NewInt(int64(index))).FillBytes(id[:])
	slices.Reverse(id[:])
	return id
}

func isCoarse(a, b pcommon.Timestamp) bool { return a%1e6 == 0 && b%1e6 == 0 }

// each makes an event of every one of the request. after is called for each resource after its events were made.
func (d *sent) each(t testing.TB, idAttribute string, f func(*event), after func(pcommon.Resource)) {
	switch d.signal {
	case signal.Logs:
		for _, rl := range d.logs.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					one := plog.NewLogs()
					orl := one.ResourceLogs().AppendEmpty()
					rl.Resource().CopyTo(orl.Resource())
					orl.SetSchemaUrl(rl.SchemaUrl())
					osl := orl.ScopeLogs().AppendEmpty()
					sl.Scope().CopyTo(osl.Scope())
					osl.SetSchemaUrl(sl.SchemaUrl())
					lr.CopyTo(osl.LogRecords().AppendEmpty())
					b, err := plogotlp.NewExportRequestFromLogs(one).MarshalProto()
					require.NoError(t, err)
					e := &event{content: string(b), coarse: isCoarse(lr.Timestamp(), lr.ObservedTimestamp()), attrs: lr.Attributes()}
					for _, name := range []string{"log.record.uid", idAttribute} {
						if v, ok := lr.Attributes().Get(name); ok && v.AsString() != "" && e.uid == "" {
							e.uid = name + "=" + v.AsString() + " of " + stringOf(rl.Resource().Attributes())
						}
					}
					f(e)
				}
			}
			after(rl.Resource())
		}
	case signal.Traces:
		for _, rs := range d.traces.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					one := ptrace.NewTraces()
					ors := one.ResourceSpans().AppendEmpty()
					rs.Resource().CopyTo(ors.Resource())
					ors.SetSchemaUrl(rs.SchemaUrl())
					oss := ors.ScopeSpans().AppendEmpty()
					ss.Scope().CopyTo(oss.Scope())
					oss.SetSchemaUrl(ss.SchemaUrl())
					s.CopyTo(oss.Spans().AppendEmpty())
					b, err := ptraceotlp.NewExportRequestFromTraces(one).MarshalProto()
					require.NoError(t, err)
					f(&event{content: string(b), coarse: isCoarse(s.StartTimestamp(), s.EndTimestamp()), attrs: s.Attributes()})
				}
			}
			after(rs.Resource())
		}
	case signal.Metrics:
		for _, rm := range d.metrics.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					d.points(t, rm, sm, m, f)
				}
			}
			after(rm.Resource())
		}
	}
}

func stringOf(m pcommon.Map) string {
	v := pcommon.NewValueMap()
	m.CopyTo(v.Map())
	return v.AsString()
}

// points makes an event of each point of a metric.
func (d *sent) points(t testing.TB, rm pmetric.ResourceMetrics, sm pmetric.ScopeMetrics, m pmetric.Metric, f func(*event)) {
	type found struct {
		attrs  pcommon.Map
		coarse bool
	}
	var all []found
	eachPoint(m, func(attrs pcommon.Map, at, start pcommon.Timestamp) bool {
		all = append(all, found{attrs, isCoarse(at, start)})
		return false
	})
	var contents []string
	for i := range all { // before any of them is stamped
		one := pmetric.NewMetrics()
		orm := one.ResourceMetrics().AppendEmpty()
		rm.Resource().CopyTo(orm.Resource())
		orm.SetSchemaUrl(rm.SchemaUrl())
		osm := orm.ScopeMetrics().AppendEmpty()
		sm.Scope().CopyTo(osm.Scope())
		osm.SetSchemaUrl(sm.SchemaUrl())
		om := osm.Metrics().AppendEmpty()
		m.CopyTo(om)
		n := -1
		eachPoint(om, func(pcommon.Map, pcommon.Timestamp, pcommon.Timestamp) bool { n++; return n != i })
		b, err := pmetricotlp.NewExportRequestFromMetrics(one).MarshalProto()
		require.NoError(t, err)
		contents = append(contents, string(b))
	}
	for i, p := range all {
		f(&event{content: contents[i], coarse: p.coarse, attrs: p.attrs})
	}
}

// eachPoint calls f for each point of a metric, and removes those for which it is true.
func eachPoint(m pmetric.Metric, f func(attrs pcommon.Map, at, start pcommon.Timestamp) bool) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		m.Gauge().DataPoints().RemoveIf(func(p pmetric.NumberDataPoint) bool { return f(p.Attributes(), p.Timestamp(), p.StartTimestamp()) })
	case pmetric.MetricTypeSum:
		m.Sum().DataPoints().RemoveIf(func(p pmetric.NumberDataPoint) bool { return f(p.Attributes(), p.Timestamp(), p.StartTimestamp()) })
	case pmetric.MetricTypeHistogram:
		m.Histogram().DataPoints().RemoveIf(func(p pmetric.HistogramDataPoint) bool { return f(p.Attributes(), p.Timestamp(), p.StartTimestamp()) })
	case pmetric.MetricTypeExponentialHistogram:
		m.ExponentialHistogram().DataPoints().RemoveIf(func(p pmetric.ExponentialHistogramDataPoint) bool {
			return f(p.Attributes(), p.Timestamp(), p.StartTimestamp())
		})
	case pmetric.MetricTypeSummary:
		m.Summary().DataPoints().RemoveIf(func(p pmetric.SummaryDataPoint) bool { return f(p.Attributes(), p.Timestamp(), p.StartTimestamp()) })
	}
}

// remove removes events by their positions.
func (d *sent) remove(drop []int) {
	if len(drop) == 0 {
		return
	}
	i := -1
	gone := func() bool { i++; return slices.Contains(drop, i) }
	switch d.signal {
	case signal.Logs:
		for _, rl := range d.logs.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				sl.LogRecords().RemoveIf(func(plog.LogRecord) bool { return gone() })
			}
		}
	case signal.Traces:
		for _, rs := range d.traces.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				ss.Spans().RemoveIf(func(ptrace.Span) bool { return gone() })
			}
		}
	case signal.Metrics:
		for _, rm := range d.metrics.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					eachPoint(m, func(pcommon.Map, pcommon.Timestamp, pcommon.Timestamp) bool { return gone() })
				}
			}
		}
	}
}
