package oracle

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	fine   = 1_700_000_000_123_456_789
	coarse = 1_700_000_000_123_000_000
)

// logs makes a request of log records, each changed.
func logs(t testing.TB, changes ...func(plog.LogRecord)) []byte {
	t.Helper()
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "shop")
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName("logger")
	for _, change := range changes {
		lr := sl.LogRecords().AppendEmpty()
		lr.SetTimestamp(fine)
		lr.Body().SetStr("line")
		change(lr)
	}
	return encoded(t, ld)
}

func encoded(t testing.TB, ld plog.Logs) []byte {
	t.Helper()
	b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	return b
}

func same(plog.LogRecord)       {}
func coarsed(lr plog.LogRecord) { lr.SetTimestamp(coarse) }

// header encodes the header `request` of a part, as decision 0030 says it.
func header(digest [16]byte, flags byte, indexes []uint32, ordinals ...[2]uint64) []byte {
	b := append([]byte{1, flags}, digest[:]...)
	if flags&1 != 0 {
		return b
	}
	var runs [][2]uint64 // gap, length
	next := uint64(0)
	for _, i := range indexes {
		if len(runs) > 0 && uint64(i) == next {
			runs[len(runs)-1][1]++
		} else {
			runs = append(runs, [2]uint64{uint64(i) - next, 1})
		}
		next = uint64(i) + 1
	}
	for _, list := range [][][2]uint64{runs, ordinals} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, pair := range list {
			b = binary.AppendUvarint(binary.AppendUvarint(b, pair[0]), pair[1])
		}
	}
	return b
}

// partition feeds a memory.
type partition struct {
	t      testing.TB
	m      *Memory
	offset int64
	now    time.Time
}

func newPartition(t testing.TB) *partition {
	return &partition{t: t, m: NewMemory(15 * time.Minute), now: time.Unix(1_700_000_000, 0)}
}

// add returns the rule and place of each event, such as "content 3#1" or "-", and "whole" at the end where the record repeats a request.
func (p *partition) add(r Record, s ...signal.Signal) []string {
	p.t.Helper()
	if r.Tenant == "" {
		r.Tenant = "acme"
	}
	r.Offset, r.Appended = p.offset, p.now
	p.offset++
	q, err := Read(append(s, signal.Logs)[0], r)
	require.NoError(p.t, err)
	verdicts, repeats := p.m.Add(q)
	var out []string
	for _, v := range verdicts {
		text := "-"
		if v.Rule != 0 {
			text = fmt.Sprintf("%s %d#%d", v.Rule, v.Of.Offset, v.Of.Position)
		}
		if v.Differs {
			text += " differs"
		}
		out = append(out, text)
	}
	if repeats {
		out = append(out, "whole")
	}
	return out
}

// Guarantees: each rule finds the copies that it is for, and no distinct event: for each rule a missed copy and a false one.
func TestEachRuleNamesItsCopiesAndNothingElse(t *testing.T) {
	uid := func(value string) func(plog.LogRecord) {
		return func(lr plog.LogRecord) { lr.Attributes().PutStr(AttrUID, value) }
	}
	eventID := func(lr plog.LogRecord) { lr.Attributes().PutStr("event.id", "7036") }
	body := func(text string) func(plog.LogRecord) {
		return func(lr plog.LogRecord) { lr.Body().SetStr(text) }
	}
	both := func(fs ...func(plog.LogRecord)) func(plog.LogRecord) {
		return func(lr plog.LogRecord) {
			for _, f := range fs {
				f(lr)
			}
		}
	}
	one := logs(t, same)
	twoEqual := logs(t, same, same)
	click := logs(t, coarsed, coarsed)
	whole := logs(t, both(coarsed, body("a")), both(coarsed, body("b")), both(coarsed, body("c")))
	d := Digest(whole)
	for name, test := range map[string]struct {
		records []Record
		want    [][]string
	}{
		"content: a request again":                            {[]Record{{Value: one}, {Value: one}}, [][]string{{"-"}, {"content 0#0", "whole"}}},
		"content: in another request":                         {[]Record{{Value: logs(t, body("x"), same)}, {Value: one}}, [][]string{{"-", "-"}, {"content 0#1"}}},
		"content: under another record key":                   {[]Record{{Value: one}, {Value: one, Key: []byte("k")}}, [][]string{{"-"}, {"content 0#0"}}},
		"content: equal events of one request":                {[]Record{{Value: twoEqual}}, [][]string{{"-", "-"}}},
		"content: equal events of a request again":            {[]Record{{Value: twoEqual}, {Value: twoEqual}}, [][]string{{"-", "-"}, {"content 0#0", "content 0#1", "whole"}}},
		"content: one more equal event":                       {[]Record{{Value: one}, {Value: twoEqual}}, [][]string{{"-"}, {"content 0#0", "-"}}},
		"content: another tenant":                             {[]Record{{Value: one}, {Value: one, Tenant: "globex"}}, [][]string{{"-"}, {"-"}}},
		"content: the last occurrence is named":               {[]Record{{Value: one}, {Value: one}, {Value: one}}, [][]string{{"-"}, {"content 0#0", "whole"}, {"content 1#0", "whole"}}},
		"request: equal lines of one millisecond":             {[]Record{{Value: click}}, [][]string{{"-", "-"}}},
		"request: again":                                      {[]Record{{Value: click}, {Value: click}}, [][]string{{"-", "-"}, {"request 0#0", "request 0#1", "whole"}}},
		"request: the same line in another request":           {[]Record{{Value: click}, {Value: logs(t, coarsed)}}, [][]string{{"-", "-"}, {"-"}}},
		"request: another record key":                         {[]Record{{Value: click, Key: []byte("a")}, {Value: click, Key: []byte("b")}}, [][]string{{"-", "-"}, {"-", "-"}}},
		"request: another tenant":                             {[]Record{{Value: click}, {Value: click, Tenant: "globex"}}, [][]string{{"-", "-"}, {"-", "-"}}},
		"uid: again in another request, with another body":    {[]Record{{Value: logs(t, uid("1"))}, {Value: logs(t, both(uid("1"), body("x")))}}, [][]string{{"-"}, {"uid 0#0"}}},
		"uid: twice in one request":                           {[]Record{{Value: logs(t, uid("1"), uid("1"))}}, [][]string{{"-", "uid 0#0"}}},
		"uid: another uid":                                    {[]Record{{Value: logs(t, uid("1"))}, {Value: logs(t, uid("2"))}}, [][]string{{"-"}, {"-"}}},
		"uid: empty is none":                                  {[]Record{{Value: logs(t, both(uid(""), coarsed))}, {Value: logs(t, both(uid(""), coarsed), same)}}, [][]string{{"-"}, {"-", "-"}}},
		"event.id is a kind":                                  {[]Record{{Value: logs(t, eventID)}, {Value: logs(t, both(eventID, body("x")))}}, [][]string{{"-"}, {"-"}}},
		"event.id is declared":                                {[]Record{{Value: logs(t, eventID), IDAttribute: "event.id"}, {Value: logs(t, both(eventID, body("x"))), IDAttribute: "event.id"}}, [][]string{{"-"}, {"uid 0#0"}}},
		"log.record.uid counts before the declared one":       {[]Record{{Value: logs(t, both(eventID, uid("1"))), IDAttribute: "event.id"}, {Value: logs(t, both(eventID, uid("2"))), IDAttribute: "event.id"}}, [][]string{{"-"}, {"-"}}},
		"parts: of a request that came whole":                 {[]Record{{Value: whole}, {Value: logs(t, both(coarsed, body("b")), both(coarsed, body("c"))), Header: header(d, 0, []uint32{1, 2})}}, [][]string{{"-", "-", "-"}, {"request 0#1", "request 0#2", "whole"}}},
		"parts: then whole":                                   {[]Record{{Value: logs(t, both(coarsed, body("a")), both(coarsed, body("c"))), Header: header(d, 0, []uint32{0, 2})}, {Value: whole}}, [][]string{{"-", "-"}, {"request 0#0", "-", "request 0#1"}}},
		"parts: divided otherwise":                            {[]Record{{Value: logs(t, both(coarsed, body("a"))), Header: header(d, 0, []uint32{0})}, {Value: logs(t, both(coarsed, body("a")), both(coarsed, body("b"))), Header: header(d, 0, []uint32{0, 1})}}, [][]string{{"-"}, {"request 0#0", "-"}}},
		"parts: other indexes":                                {[]Record{{Value: logs(t, coarsed), Header: header(d, 0, []uint32{0})}, {Value: logs(t, coarsed), Header: header(d, 0, []uint32{1})}}, [][]string{{"-"}, {"-"}}},
		"parts: ordinals of the whole request":                {[]Record{{Value: twoEqual}, {Value: one, Header: header(Digest(twoEqual), 0, []uint32{1}, [2]uint64{0, 1})}}, [][]string{{"-", "-"}, {"content 0#1", "whole"}}},
		"parts: equal events never copy each other":           {[]Record{{Value: twoEqual, Header: header(d, 0, []uint32{0, 1})}}, [][]string{{"-", "-"}}},
		"a header whose claim does not hold":                  {[]Record{{Value: whole}, {Value: logs(t, both(coarsed, body("other"))), Header: header(d, 0, []uint32{1})}}, [][]string{{"-", "-", "-"}, {"- differs"}}},
		"a whole header: reserved attributes were removed":    {[]Record{{Value: click, Header: header(d, 1, nil)}, {Value: click, Header: header(d, 1, nil)}}, [][]string{{"-", "-"}, {"request 0#0", "request 0#1", "whole"}}},
		"a header that does not add up is ignored":            {[]Record{{Value: click}, {Value: click, Header: header(d, 0, []uint32{4})}}, [][]string{{"-", "-"}, {"request 0#0", "request 0#1", "whole"}}},
		"resent: fine times too, mended otherwise too":        {[]Record{{Value: one, Header: header(d, 2, []uint32{5})}, {Value: logs(t, body("mended")), Header: header(d, 2, []uint32{5})}}, [][]string{{"-"}, {"request 0#0 differs", "whole"}}},
		"resent: an event with a uid too":                     {[]Record{{Value: logs(t, uid("1")), Header: header(d, 2, []uint32{5})}, {Value: logs(t, uid("2")), Header: header(d, 2, []uint32{5})}}, [][]string{{"-"}, {"request 0#0 differs", "whole"}}},
		"resent: another event of the request":                {[]Record{{Value: one, Header: header(d, 2, []uint32{5})}, {Value: one, Header: header(d, 2, []uint32{6})}}, [][]string{{"-"}, {"-"}}},
		"mixed: one fine time is enough for the rule content": {[]Record{{Value: logs(t, func(lr plog.LogRecord) { lr.SetTimestamp(coarse); lr.SetObservedTimestamp(fine) })}, {Value: logs(t, body("x"), func(lr plog.LogRecord) { lr.SetTimestamp(coarse); lr.SetObservedTimestamp(fine) })}}, [][]string{{"-"}, {"-", "content 0#0"}}},
		"mixed: a missing time is coarse":                     {[]Record{{Value: logs(t, func(lr plog.LogRecord) { lr.SetTimestamp(0) })}, {Value: logs(t, body("x"), func(lr plog.LogRecord) { lr.SetTimestamp(0) })}}, [][]string{{"-"}, {"-", "-"}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPartition(t)
			for i, r := range test.records {
				require.Equal(t, test.want[i], p.add(r), "record %d", i)
			}
		})
	}
}

// Guarantees: everything around an event that is stored is a part of its content. Each change makes another event.
func TestEverythingAroundAnEventIsContent(t *testing.T) {
	logOf := func(change func(plog.ResourceLogs)) []byte {
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("k", "v")
		sl := rl.ScopeLogs().AppendEmpty()
		sl.LogRecords().AppendEmpty().SetTimestamp(fine)
		change(rl)
		return encoded(t, ld)
	}
	spanOf := func(change func(ptrace.Span)) []byte {
		td := ptrace.NewTraces()
		s := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		s.SetStartTimestamp(fine)
		s.SetTraceID(pcommon.TraceID{1})
		s.SetSpanID(pcommon.SpanID{2})
		change(s)
		b, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
		require.NoError(t, err)
		return b
	}
	pointOf := func(change func(pmetric.ScopeMetrics, pmetric.Metric)) []byte {
		md := pmetric.NewMetrics()
		sm := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
		m := sm.Metrics().AppendEmpty()
		m.SetName("m")
		m.SetEmptySum().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
		m.Sum().DataPoints().AppendEmpty().SetTimestamp(fine)
		change(sm, m)
		b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
		require.NoError(t, err)
		return b
	}
	scope := func(rl plog.ResourceLogs) plog.ScopeLogs { return rl.ScopeLogs().At(0) }
	for s, requests := range map[signal.Signal]map[string][]byte{
		signal.Logs: {
			"nothing":             logOf(func(plog.ResourceLogs) {}),
			"resource":            logOf(func(rl plog.ResourceLogs) { rl.Resource().Attributes().PutStr("k", "w") }),
			"resource schema URL": logOf(func(rl plog.ResourceLogs) { rl.SetSchemaUrl("u") }),
			"resource dropped":    logOf(func(rl plog.ResourceLogs) { rl.Resource().SetDroppedAttributesCount(1) }),
			"scope name":          logOf(func(rl plog.ResourceLogs) { scope(rl).Scope().SetName("s") }),
			"scope version":       logOf(func(rl plog.ResourceLogs) { scope(rl).Scope().SetVersion("s") }),
			"scope attributes":    logOf(func(rl plog.ResourceLogs) { scope(rl).Scope().Attributes().PutStr("s", "") }),
			"scope schema URL":    logOf(func(rl plog.ResourceLogs) { scope(rl).SetSchemaUrl("u") }),
			"event":               logOf(func(rl plog.ResourceLogs) { scope(rl).LogRecords().At(0).SetFlags(1) }),
		},
		signal.Traces: {
			"nothing": spanOf(func(ptrace.Span) {}),
			"kind":    spanOf(func(s ptrace.Span) { s.SetKind(ptrace.SpanKindServer) }),
			"status":  spanOf(func(s ptrace.Span) { s.Status().SetCode(ptrace.StatusCodeError) }),
			"end":     spanOf(func(s ptrace.Span) { s.SetEndTimestamp(fine + 1) }),
			"event":   spanOf(func(s ptrace.Span) { s.Events().AppendEmpty().SetName("e") }),
		},
		signal.Metrics: {
			"nothing":     pointOf(func(pmetric.ScopeMetrics, pmetric.Metric) {}),
			"name":        pointOf(func(_ pmetric.ScopeMetrics, m pmetric.Metric) { m.SetName("n") }),
			"unit":        pointOf(func(_ pmetric.ScopeMetrics, m pmetric.Metric) { m.SetUnit("n") }),
			"description": pointOf(func(_ pmetric.ScopeMetrics, m pmetric.Metric) { m.SetDescription("n") }),
			"metadata":    pointOf(func(_ pmetric.ScopeMetrics, m pmetric.Metric) { m.Metadata().PutStr("n", "n") }),
			"temporality": pointOf(func(_ pmetric.ScopeMetrics, m pmetric.Metric) {
				m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			}),
			"monotonic": pointOf(func(_ pmetric.ScopeMetrics, m pmetric.Metric) { m.Sum().SetIsMonotonic(true) }),
			"gauge": pointOf(func(_ pmetric.ScopeMetrics, m pmetric.Metric) {
				m.SetEmptyGauge().DataPoints().AppendEmpty().SetTimestamp(fine)
			}),
			"scope attributes": pointOf(func(sm pmetric.ScopeMetrics, _ pmetric.Metric) { sm.Scope().Attributes().PutStr("a", "b") }),
			"value":            pointOf(func(_ pmetric.ScopeMetrics, m pmetric.Metric) { m.Sum().DataPoints().At(0).SetIntValue(1) }),
		},
	} {
		p := newPartition(t)
		for name, value := range requests {
			require.Equal(t, []string{"-"}, p.add(Record{Value: value}, s), "%s: %s", s, name)
		}
		for name, value := range requests {
			require.Contains(t, p.add(Record{Value: value}, s)[0], "content", "%s: %s", s, name)
		}
	}
}

// Guarantees: a copy counts for a window after the last occurrence, whether that was a copy or not; the clock of the partition does not go back.
func TestTheWindowGoesByAppendTime(t *testing.T) {
	value := logs(t, same)
	for name, test := range map[string]struct {
		after []time.Duration
		want  string
	}{
		"at once":                       {[]time.Duration{0}, "content 0#0"},
		"a window later":                {[]time.Duration{15 * time.Minute}, "content 0#0"},
		"more than a window later":      {[]time.Duration{15*time.Minute + 2*time.Second}, "-"},
		"a window after a copy":         {[]time.Duration{14 * time.Minute, 14 * time.Minute}, "content 1#0"},
		"after the broker's clock went": {[]time.Duration{-time.Hour}, "content 0#0"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPartition(t)
			p.add(Record{Value: value})
			var got []string
			for _, d := range test.after {
				p.now = p.now.Add(d)
				got = p.add(Record{Value: value})
			}
			require.Equal(t, test.want, got[0])
		})
	}
	require.Equal(t, 900_096*time.Millisecond+879*time.Millisecond, Reach(15*time.Minute))
	p := newPartition(t)
	p.m = NewMemory(0)
	p.add(Record{Value: value})
	require.Equal(t, []string{"-"}, p.add(Record{Value: value}), "no window, no copies")
}

// Guarantees: what is older than the window is forgotten, whichever rule remembered it.
func TestTheMemoryForgets(t *testing.T) {
	p := newPartition(t)
	for i := range 200 {
		p.now = p.now.Add(time.Minute)
		p.add(Record{Value: logs(t, func(lr plog.LogRecord) { lr.SetTimestamp(pcommon.Timestamp(fine + i)) })})
		p.add(Record{Value: logs(t, coarsed, func(lr plog.LogRecord) { lr.SetTimestamp(pcommon.Timestamp(coarse + 1_000_000*i)) })})
		p.add(Record{Value: logs(t, coarsed), Header: header([16]byte{byte(i)}, 0, []uint32{uint32(i)})})
	}
	require.Less(t, len(p.m.events), 25)
	require.Less(t, len(p.m.requests), 75)
}

// Guarantees: every request that pdata reads is read alike: as many events, in the same order, with the same times.
func TestEventsAreThoseThatPdataFinds(t *testing.T) {
	for _, s := range signal.All {
		for seed := range uint64(40) {
			for _, request := range [][]byte{otlptest.Random(s, seed, 4), otlptest.Full(s, seed), slices.Concat(otlptest.Random(s, seed, 3), otlptest.Random(s, seed+1, 3))} {
				got, err := Events(s, request, "event.id")
				require.NoError(t, err)
				want := times(t, s, request)
				require.Len(t, got, len(want))
				for i, e := range got {
					require.Equal(t, want[i], [2]uint64{e.Time, e.Other}, "%s %d %d", s, seed, i)
				}
			}
		}
	}
}

func times(t *testing.T, s signal.Signal, request []byte) (out [][2]uint64) {
	t.Helper()
	add := func(a, b pcommon.Timestamp) { out = append(out, [2]uint64{uint64(a), uint64(b)}) }
	switch s {
	case signal.Logs:
		r := plogotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(request))
		for _, rl := range r.Logs().ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					add(lr.Timestamp(), lr.ObservedTimestamp())
				}
			}
		}
	case signal.Traces:
		r := ptraceotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(request))
		for _, rs := range r.Traces().ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, sp := range ss.Spans().All() {
					add(sp.StartTimestamp(), sp.EndTimestamp())
				}
			}
		}
	case signal.Metrics:
		r := pmetricotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(request))
		for _, rm := range r.Metrics().ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					points(m, add)
				}
			}
		}
	}
	return out
}

func points(m pmetric.Metric, add func(a, b pcommon.Timestamp)) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		pointTimes(m.Gauge().DataPoints().All(), add)
	case pmetric.MetricTypeSum:
		pointTimes(m.Sum().DataPoints().All(), add)
	case pmetric.MetricTypeHistogram:
		pointTimes(m.Histogram().DataPoints().All(), add)
	case pmetric.MetricTypeExponentialHistogram:
		pointTimes(m.ExponentialHistogram().DataPoints().All(), add)
	case pmetric.MetricTypeSummary:
		pointTimes(m.Summary().DataPoints().All(), add)
	}
}

func pointTimes[P interface {
	Timestamp() pcommon.Timestamp
	StartTimestamp() pcommon.Timestamp
}](all iter.Seq2[int, P], add func(a, b pcommon.Timestamp)) {
	for _, dp := range all {
		add(dp.Timestamp(), dp.StartTimestamp())
	}
}

// Guarantees: the id of a row is what decision 0030 says, by another library and by numbers of any size.
func TestEventIDIsDigestPlusIndex(t *testing.T) {
	value := otlptest.Logs(1, 3)
	sum := blake3.Sum256(value)
	require.Equal(t, [16]byte(sum[:16]), Digest(value))
	for _, digest := range [][16]byte{Digest(value), {0: 255, 1: 255, 2: 255, 3: 255, 4: 255, 5: 255, 6: 255, 7: 255}, {}} {
		for _, index := range []uint32{0, 1, 300, 1<<32 - 1} {
			little := slices.Clone(digest[:])
			slices.Reverse(little)
			n := new(big.Int).SetBytes(little)
			want := n.Add(n, big.NewInt(int64(index))).FillBytes(make([]byte, 16))
			slices.Reverse(want)
			id := EventID(digest, index)
			require.Equal(t, want, id[:])
		}
	}
}

// Guarantees: a header that is cut short, too long, of another version or about other events is ignored.
func TestHeadersThatDoNotAddUpAreIgnored(t *testing.T) {
	d := [16]byte{1, 2, 3}
	good := header(d, 0, []uint32{0, 1, 2, 7}, [2]uint64{1, 1}, [2]uint64{3, 2})
	h, ok := ParseHeader(good, 4)
	require.True(t, ok)
	require.Equal(t, Header{Digest: d, Indexes: []uint32{0, 1, 2, 7}, Ordinals: map[int32]uint32{1: 1, 3: 2}}, h)
	for n := range len(good) {
		_, ok := ParseHeader(good[:n], 4)
		require.False(t, ok, "%d bytes", n)
	}
	for name, bad := range map[string][]byte{
		"longer": append(slices.Clone(good), 0), "version": append([]byte{2}, good[1:]...), "flags": append([]byte{1, 4}, good[2:]...),
		"whole with a list": append(header(d, 1, nil), 0), "ordinal 0": header(d, 0, []uint32{0, 1, 2, 7}, [2]uint64{1, 0}),
		"position": header(d, 0, []uint32{0, 1, 2, 7}, [2]uint64{4, 1}), "order": header(d, 0, []uint32{0, 1, 2, 7}, [2]uint64{2, 1}, [2]uint64{1, 1}),
		"empty run": append(append([]byte{1, 0}, d[:]...), 1, 0, 0, 0), "huge": append(append([]byte{1, 0}, d[:]...), 255, 255, 255, 255, 255, 255, 255, 255, 255, 1),
	} {
		_, ok := ParseHeader(bad, 4)
		require.False(t, ok, name)
	}
	_, ok = ParseHeader(good, 5)
	require.False(t, ok, "of other events")
	for _, flags := range []byte{1, 3} {
		h, ok := ParseHeader(header(d, flags, nil), 9)
		require.True(t, ok)
		require.Equal(t, Header{Digest: d, Whole: true, Resent: flags == 3}, h)
	}
}
