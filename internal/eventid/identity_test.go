package eventid_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	fine   = 1_790_000_000_000_000_001 // a time in nanoseconds
	coarse = 1_790_000_000_001_000_000 // a time in milliseconds
)

var from = eventid.From{Tenant: "acme", Source: []byte("agent")}

func read(t testing.TB, sig signal.Signal, value []byte, from eventid.From) eventid.Record {
	t.Helper()
	events, err := otlpwire.Count(sig, value, otlpwire.Limits{})
	require.NoError(t, err)
	var rec eventid.Record
	require.NoError(t, eventid.NewReader(sig, true).Read(&rec, value, events, from))
	require.Len(t, rec.Rules, events)
	require.Len(t, rec.Keys, events)
	return rec
}

func logsOf(fill func(plog.Logs)) []byte {
	ld := plog.NewLogs()
	fill(ld)
	b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	if err != nil {
		panic(err)
	}
	return b
}

// logOf is a request of one log record.
func logOf(fill func(plog.ResourceLogs, plog.ScopeLogs, plog.LogRecord)) []byte {
	return logsOf(func(ld plog.Logs) {
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("service.name", "shop")
		sl := rl.ScopeLogs().AppendEmpty()
		lr := sl.LogRecords().AppendEmpty()
		lr.SetTimestamp(fine)
		lr.Body().SetStr("body")
		fill(rl, sl, lr)
	})
}

func spanOf(fill func(ptrace.ResourceSpans, ptrace.ScopeSpans, ptrace.Span)) []byte {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	ss := rs.ScopeSpans().AppendEmpty()
	s := ss.Spans().AppendEmpty()
	s.SetTraceID(pcommon.TraceID{1})
	s.SetSpanID(pcommon.SpanID{2})
	s.SetStartTimestamp(fine)
	fill(rs, ss, s)
	b, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	if err != nil {
		panic(err)
	}
	return b
}

func pointOf(fill func(pmetric.ScopeMetrics, pmetric.Metric, pmetric.NumberDataPoint)) []byte {
	md := pmetric.NewMetrics()
	sm := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
	m := sm.Metrics().AppendEmpty()
	m.SetName("requests")
	m.SetEmptySum().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	p := m.Sum().DataPoints().AppendEmpty()
	p.SetTimestamp(fine)
	p.SetIntValue(1)
	fill(sm, m, p)
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	if err != nil {
		panic(err)
	}
	return b
}

// requireDistinct checks that all of these requests, of one event each, are compared by content, and that none is another's.
func requireDistinct(t *testing.T, sig signal.Signal, requests map[string][]byte) {
	t.Helper()
	seen := map[eventid.Key]string{}
	for name, value := range requests {
		rec := read(t, sig, value, from)
		require.Equal(t, []eventid.Rule{eventid.ByContent}, rec.Rules, name)
		require.Equal(t, rec.Keys, read(t, sig, value, from).Keys, "%s is itself when it comes again", name)
		require.Empty(t, seen[rec.Keys[0]], "%s is taken for %s", name, seen[rec.Keys[0]])
		seen[rec.Keys[0]] = name
		other := from
		other.Tenant = "another"
		require.NotEqual(t, rec.Keys, read(t, sig, value, other).Keys, "%s is of one tenant", name)
		other = from
		other.Source = []byte("another")
		require.Equal(t, rec.Keys, read(t, sig, value, other).Keys, "%s: the record's key is no content", name)
	}
}

// All that is stored of a log record makes it another one: its scope, the scope's attributes and schema URL, too.
func TestLogsThatDifferInAnythingAreDistinct(t *testing.T) {
	type (
		RL = plog.ResourceLogs
		SL = plog.ScopeLogs
		LR = plog.LogRecord
	)
	requests := map[string][]byte{}
	for name, fill := range map[string]func(RL, SL, LR){
		"nothing":             func(RL, SL, LR) {},
		"resource":            func(rl RL, _ SL, _ LR) { rl.Resource().Attributes().PutStr("service.name", "other") },
		"resource dropped":    func(rl RL, _ SL, _ LR) { rl.Resource().SetDroppedAttributesCount(1) },
		"resource schema":     func(rl RL, _ SL, _ LR) { rl.SetSchemaUrl("u") },
		"scope":               func(_ RL, sl SL, _ LR) { sl.Scope().SetName("logger") },
		"other scope":         func(_ RL, sl SL, _ LR) { sl.Scope().SetName("logger 2") },
		"scope version":       func(_ RL, sl SL, _ LR) { sl.Scope().SetVersion("logger") },
		"scope attribute":     func(_ RL, sl SL, _ LR) { sl.Scope().Attributes().PutStr("shard", "a") },
		"scope attribute b":   func(_ RL, sl SL, _ LR) { sl.Scope().Attributes().PutStr("shard", "b") },
		"scope dropped":       func(_ RL, sl SL, _ LR) { sl.Scope().SetDroppedAttributesCount(1) },
		"scope schema":        func(_ RL, sl SL, _ LR) { sl.SetSchemaUrl("u") },
		"time":                func(_ RL, _ SL, lr LR) { lr.SetTimestamp(fine + 1) },
		"observed":            func(_ RL, _ SL, lr LR) { lr.SetObservedTimestamp(coarse) },
		"severity":            func(_ RL, _ SL, lr LR) { lr.SetSeverityNumber(9) },
		"text":                func(_ RL, _ SL, lr LR) { lr.SetSeverityText("x") },
		"event name":          func(_ RL, _ SL, lr LR) { lr.SetEventName("x") },
		"body":                func(_ RL, _ SL, lr LR) { lr.Body().SetStr("other") },
		"body bytes":          func(_ RL, _ SL, lr LR) { lr.Body().SetEmptyBytes().FromRaw([]byte("body")) },
		"attribute":           func(_ RL, _ SL, lr LR) { lr.Attributes().PutStr("k", "v") },
		"attribute int":       func(_ RL, _ SL, lr LR) { lr.Attributes().PutInt("k", 1) },
		"attribute bool":      func(_ RL, _ SL, lr LR) { lr.Attributes().PutBool("k", true) },
		"event.id of a kind":  func(_ RL, _ SL, lr LR) { lr.Attributes().PutInt("event.id", 4624) },
		"empty uid":           func(_ RL, _ SL, lr LR) { lr.Attributes().PutStr(eventid.AttrUID, "") },
		"uid without a value": func(_ RL, _ SL, lr LR) { lr.Attributes().PutEmpty(eventid.AttrUID) },
		"dropped":             func(_ RL, _ SL, lr LR) { lr.SetDroppedAttributesCount(1) },
		"flags":               func(_ RL, _ SL, lr LR) { lr.SetFlags(1) },
		"trace":               func(_ RL, _ SL, lr LR) { lr.SetTraceID(pcommon.TraceID{1}) },
		"span":                func(_ RL, _ SL, lr LR) { lr.SetSpanID(pcommon.SpanID{1}) },
	} {
		requests[name] = logOf(fill)
	}
	requireDistinct(t, signal.Logs, requests)
}

// Client and server may share a span id (B3), and an unfinished span is sent before the finished one: ids of a span are no identity.
func TestSpansThatShareAnIdAreDistinct(t *testing.T) {
	type (
		RS = ptrace.ResourceSpans
		SS = ptrace.ScopeSpans
		S  = ptrace.Span
	)
	requests := map[string][]byte{}
	for name, fill := range map[string]func(RS, SS, S){
		"nothing":          func(RS, SS, S) {},
		"client":           func(_ RS, _ SS, s S) { s.SetKind(ptrace.SpanKindClient) },
		"server":           func(_ RS, _ SS, s S) { s.SetKind(ptrace.SpanKindServer) },
		"other service":    func(rs RS, _ SS, _ S) { rs.Resource().Attributes().PutStr("service.name", "b") },
		"resource schema":  func(rs RS, _ SS, _ S) { rs.SetSchemaUrl("u") },
		"scope":            func(_ RS, ss SS, _ S) { ss.Scope().SetName("x") },
		"scope schema":     func(_ RS, ss SS, _ S) { ss.SetSchemaUrl("u") },
		"finished":         func(_ RS, _ SS, s S) { s.SetEndTimestamp(coarse) },
		"finished in ns":   func(_ RS, _ SS, s S) { s.SetEndTimestamp(fine) },
		"failed":           func(_ RS, _ SS, s S) { s.Status().SetCode(ptrace.StatusCodeError) },
		"message":          func(_ RS, _ SS, s S) { s.Status().SetMessage("x") },
		"name":             func(_ RS, _ SS, s S) { s.SetName("x") },
		"state":            func(_ RS, _ SS, s S) { s.TraceState().FromRaw("x") },
		"parent":           func(_ RS, _ SS, s S) { s.SetParentSpanID(pcommon.SpanID{9}) },
		"event":            func(_ RS, _ SS, s S) { s.Events().AppendEmpty().SetName("e") },
		"link":             func(_ RS, _ SS, s S) { s.Links().AppendEmpty().SetSpanID(pcommon.SpanID{9}) },
		"attribute":        func(_ RS, _ SS, s S) { s.Attributes().PutStr("k", "v") },
		"log.record.uid":   func(_ RS, _ SS, s S) { s.Attributes().PutStr(eventid.AttrUID, "u") },
		"dropped events":   func(_ RS, _ SS, s S) { s.SetDroppedEventsCount(1) },
		"start and no end": func(_ RS, _ SS, s S) { s.SetStartTimestamp(fine + 1) },
	} {
		requests[name] = spanOf(fill)
	}
	requireDistinct(t, signal.Traces, requests)
}

// A meter is known by its scope's attributes and schema URL, too; a delta is not the cumulative sum of the same name; one series may have several values at
// one time, where an agent has removed a label.
func TestPointsThatDifferInAnythingAreDistinct(t *testing.T) {
	type (
		SM = pmetric.ScopeMetrics
		M  = pmetric.Metric
		P  = pmetric.NumberDataPoint
	)
	requests := map[string][]byte{}
	for name, fill := range map[string]func(SM, M, P){
		"nothing":         func(SM, M, P) {},
		"value":           func(_ SM, _ M, p P) { p.SetIntValue(20) },
		"double":          func(_ SM, _ M, p P) { p.SetDoubleValue(1) },
		"time":            func(_ SM, _ M, p P) { p.SetTimestamp(fine + 1) },
		"start":           func(_ SM, _ M, p P) { p.SetStartTimestamp(fine) },
		"attribute":       func(_ SM, _ M, p P) { p.Attributes().PutStr("k", "v") },
		"flags":           func(_ SM, _ M, p P) { p.SetFlags(1) },
		"exemplar":        func(_ SM, _ M, p P) { p.Exemplars().AppendEmpty().SetIntValue(1) },
		"name":            func(_ SM, m M, _ P) { m.SetName("other") },
		"unit":            func(_ SM, m M, _ P) { m.SetUnit("other") },
		"description":     func(_ SM, m M, _ P) { m.SetDescription("other") },
		"metadata":        func(_ SM, m M, _ P) { m.Metadata().PutStr("k", "v") },
		"cumulative":      func(_ SM, m M, _ P) { m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative) },
		"monotonic":       func(_ SM, m M, _ P) { m.Sum().SetIsMonotonic(true) },
		"scope attribute": func(sm SM, _ M, _ P) { sm.Scope().Attributes().PutStr("shard", "a") },
		"other attribute": func(sm SM, _ M, _ P) { sm.Scope().Attributes().PutStr("shard", "b") },
		"scope schema":    func(sm SM, _ M, _ P) { sm.SetSchemaUrl("u") },
		"gauge": func(_ SM, m M, p P) {
			kept := pmetric.NewNumberDataPoint()
			p.CopyTo(kept)
			kept.CopyTo(m.SetEmptyGauge().DataPoints().AppendEmpty())
		},
	} {
		requests[name] = pointOf(fill)
	}
	requireDistinct(t, signal.Metrics, requests)
}

// A uid is an identity within its resource, whatever else differs; event.id is one only where the tenant's registry says so.
func TestAUIDNamesALogRecordOfItsResource(t *testing.T) {
	type (
		RL = plog.ResourceLogs
		SL = plog.ScopeLogs
		LR = plog.LogRecord
	)
	with := func(set func(pcommon.Map), fill func(RL, SL, LR)) []byte {
		return logOf(func(rl RL, sl SL, lr LR) { set(lr.Attributes()); fill(rl, sl, lr) })
	}
	key := func(value []byte, from eventid.From) eventid.Key {
		rec := read(t, signal.Logs, value, from)
		require.Equal(t, []eventid.Rule{eventid.ByUID}, rec.Rules)
		return rec.Keys[0]
	}
	uid := func(m pcommon.Map) { m.PutStr(eventid.AttrUID, "u-1") }
	one := key(with(uid, func(RL, SL, LR) {}), from)
	for name, same := range map[string]func(RL, SL, LR){
		"body":        func(_ RL, _ SL, lr LR) { lr.Body().SetStr("other") },
		"coarse time": func(_ RL, _ SL, lr LR) { lr.SetTimestamp(coarse) },
		"no time":     func(_ RL, _ SL, lr LR) { lr.SetTimestamp(0) },
		"scope":       func(_ RL, sl SL, _ LR) { sl.Scope().SetName("x") },
		"attribute":   func(_ RL, _ SL, lr LR) { lr.Attributes().PutStr("k", "v") },
	} {
		require.Equal(t, one, key(with(uid, same), from), name)
	}
	require.NotEqual(t, one, key(with(uid, func(rl RL, _ SL, _ LR) { rl.Resource().Attributes().PutStr("service.name", "b") }), from))
	require.NotEqual(t, one, key(with(uid, func(RL, SL, LR) {}), eventid.From{Tenant: "b"}))
	require.NotEqual(t, one, key(with(func(m pcommon.Map) { m.PutStr(eventid.AttrUID, "u-2") }, func(RL, SL, LR) {}), from))

	declared := from
	declared.IDAttribute = "event.id"
	seen := map[eventid.Key]string{}
	for name, set := range map[string]func(pcommon.Map){
		"text": func(m pcommon.Map) { m.PutStr("event.id", "7") }, "int": func(m pcommon.Map) { m.PutInt("event.id", 7) },
		"double": func(m pcommon.Map) { m.PutDouble("event.id", 7) }, "true": func(m pcommon.Map) { m.PutBool("event.id", true) },
		"false": func(m pcommon.Map) { m.PutBool("event.id", false) }, "bytes": func(m pcommon.Map) { m.PutEmptyBytes("event.id").FromRaw([]byte("7")) },
		"list": func(m pcommon.Map) { m.PutEmptySlice("event.id").AppendEmpty().SetStr("7") }, "uid": func(m pcommon.Map) { m.PutStr(eventid.AttrUID, "7") },
	} {
		k := key(with(set, func(RL, SL, LR) {}), declared)
		require.Empty(t, seen[k], "%s is taken for %s", name, seen[k])
		seen[k] = name
		if name != "uid" {
			require.Equal(t, []eventid.Rule{eventid.ByContent}, read(t, signal.Logs, with(set, func(RL, SL, LR) {}), from).Rules, "nobody declared event.id")
		}
	}
	both := with(func(m pcommon.Map) { m.PutInt("event.id", 7); uid(m) }, func(RL, SL, LR) {})
	require.Equal(t, one, key(both, declared), "OpenTelemetry's attribute goes first")
}

// One time that is finer than a millisecond is enough for the rule by content.
func TestTimesDecideBetweenContentAndRequest(t *testing.T) {
	for _, tc := range []struct {
		a, b pcommon.Timestamp
		want eventid.Rule
	}{
		{0, 0, eventid.ByRequest},
		{coarse, 0, eventid.ByRequest},
		{0, coarse, eventid.ByRequest},
		{coarse, coarse, eventid.ByRequest},
		{fine, coarse, eventid.ByContent},
		{coarse, fine, eventid.ByContent},
		{0, fine, eventid.ByContent},
		{fine, 0, eventid.ByContent},
		{coarse + 1000, 0, eventid.ByContent}, // microseconds
	} {
		logs := logOf(func(_ plog.ResourceLogs, _ plog.ScopeLogs, lr plog.LogRecord) {
			lr.SetTimestamp(tc.a)
			lr.SetObservedTimestamp(tc.b)
		})
		spans := spanOf(func(_ ptrace.ResourceSpans, _ ptrace.ScopeSpans, s ptrace.Span) {
			s.SetStartTimestamp(tc.a)
			s.SetEndTimestamp(tc.b)
		})
		points := pointOf(func(_ pmetric.ScopeMetrics, _ pmetric.Metric, p pmetric.NumberDataPoint) {
			p.SetStartTimestamp(tc.a)
			p.SetTimestamp(tc.b)
		})
		for sig, value := range map[signal.Signal][]byte{signal.Logs: logs, signal.Traces: spans, signal.Metrics: points} {
			require.Equal(t, []eventid.Rule{tc.want}, read(t, sig, value, from).Rules, "%s %d %d", sig, tc.a, tc.b)
		}
	}
}

// An id is the digest plus the index, as little endian numbers of 128 bits: the stores and other regions have the same.
func TestIdsAreTheDigestPlusTheIndex(t *testing.T) {
	digest := [16]byte{0xfe, 15: 1}
	require.Equal(t, "fe000000000000000000000000000001", hexOf(eventid.ID(digest, 0)))
	require.Equal(t, "ff000000000000000000000000000001", hexOf(eventid.ID(digest, 1)))
	require.Equal(t, "00010000000000000000000000000001", hexOf(eventid.ID(digest, 2)))
	for i := range digest {
		digest[i] = 0xff
	}
	require.Equal(t, "00000000000000000000000000000000", hexOf(eventid.ID(digest, 1)))
	digest[15] = 0
	require.Equal(t, "04000000000000000000000000000001", hexOf(eventid.ID(digest, 5)))

	value := otlptest.Realistic(signal.Logs, 1, 5)
	rec := read(t, signal.Logs, value, from)
	require.Equal(t, eventid.Digest(value), rec.Digest)
	header := eventid.Request{Digest: eventid.Digest([]byte("the first request"))}
	for _, index := range []int{1, 2, 7, 8, 300} {
		header.Add(index, 0)
	}
	part := from
	part.Request = header.Encode()
	rec = read(t, signal.Logs, value, part)
	for position, index := range []int{1, 2, 7, 8, 300} {
		require.Equal(t, eventid.ID(header.Digest, index), rec.ID(position))
	}
	part.Request = append(part.Request, 0)
	rec = read(t, signal.Logs, value, part)
	require.True(t, rec.Whole, "a header that cannot be read is ignored")
	require.Equal(t, eventid.ID(eventid.Digest(value), 4), rec.ID(4))
}

// Guarantee: parts of a request have the events of the whole one, by every rule.
func TestAPartHasTheKeysOfTheWhole(t *testing.T) {
	for _, sig := range signal.All {
		for seed := range uint64(20) {
			value := otlptest.Random(sig, seed, 4)
			whole := read(t, sig, value, from)
			for _, odd := range []bool{false, true} {
				header := eventid.Request{Digest: whole.Digest}
				var indexes []int
				for index := range whole.Keys {
					if (index%2 == 1) == odd {
						indexes = append(indexes, index)
						header.Add(index, 0)
					}
				}
				kept, _, err := otlpwire.Split(sig, value, func(index int) bool { return (index%2 == 1) == odd })
				require.NoError(t, err)
				with := from
				with.Request = header.Encode()
				part := read(t, sig, kept, with)
				for position, index := range indexes {
					require.Equal(t, whole.Rules[index], part.Rules[position], "%s, seed %d, event %d", sig, seed, index)
					require.Equal(t, whole.Keys[index], part.Keys[position], "%s, seed %d, event %d", sig, seed, index)
					if whole.Rules[index] == eventid.ByRequest {
						require.Equal(t, whole.IndexKey(index), part.IndexKey(position))
						require.Equal(t, whole.WholeKey(), part.WholeKey())
						require.Equal(t, whole.PartsKey(), part.PartsKey())
					}
				}
			}
		}
	}
}

func TestARequestIsOfItsSourceAndTenant(t *testing.T) {
	value := logOf(func(_ plog.ResourceLogs, _ plog.ScopeLogs, lr plog.LogRecord) { lr.SetTimestamp(coarse) })
	one := read(t, signal.Logs, value, from)
	require.Equal(t, 1, one.ByRequest)
	require.NotEqual(t, one.WholeKey(), one.PartsKey())
	for name, other := range map[string]eventid.From{
		"tenant": {Tenant: "b", Source: []byte("agent")}, "source": {Tenant: "acme", Source: []byte("b")},
		"neither's border": {Tenant: "acmea", Source: []byte("gent")},
	} {
		require.NotEqual(t, one.WholeKey(), ptr(read(t, signal.Logs, value, other)).WholeKey(), name)
		require.NotEqual(t, one.IndexKey(0), ptr(read(t, signal.Logs, value, other)).IndexKey(0), name)
	}
	resent := eventid.Request{Digest: one.Digest, Whole: true, Resent: true}
	fineOne := logOf(func(_ plog.ResourceLogs, _ plog.ScopeLogs, lr plog.LogRecord) {
		lr.Attributes().PutStr(eventid.AttrUID, "u")
	})
	again := read(t, signal.Logs, fineOne, eventid.From{Tenant: "acme", Source: []byte("agent"), Request: resent.Encode()})
	require.Equal(t, []eventid.Rule{eventid.ByRequest}, again.Rules, "what PulseGrid sends again is known by request and index alone")
	require.Equal(t, one.WholeKey(), again.WholeKey())
}

func ptr[T any](v T) *T { return &v }

func TestTheDigestIsMadeWhereItIsNeeded(t *testing.T) {
	for _, tc := range []struct {
		time pcommon.Timestamp
		ids  bool
		want bool
	}{{fine, false, false}, {fine, true, true}, {coarse, false, true}} {
		value := logOf(func(_ plog.ResourceLogs, _ plog.ScopeLogs, lr plog.LogRecord) { lr.SetTimestamp(tc.time) })
		var rec eventid.Record
		require.NoError(t, eventid.NewReader(signal.Logs, tc.ids).Read(&rec, value, 1, from))
		require.Equal(t, tc.want, rec.Digest != [16]byte{})
	}
}

func TestOneReaderReadsManyRecords(t *testing.T) {
	for _, sig := range signal.All {
		reader := eventid.NewReader(sig, true)
		for seed := range uint64(30) {
			value := otlptest.Random(sig, seed, 4)
			with := eventid.From{Tenant: fmt.Sprint(seed % 3), Source: []byte{byte(seed)}}
			want := read(t, sig, value, with)
			var got eventid.Record
			require.NoError(t, reader.Read(&got, value, len(want.Keys), with))
			require.Equal(t, want, got)
		}
	}
}

func TestReadingAllocatesNothingAnEvent(t *testing.T) {
	for _, sig := range signal.All {
		value := otlptest.Realistic(sig, 1, 100)
		r := eventid.NewReader(sig, true)
		var rec eventid.Record
		require.LessOrEqual(t, testing.AllocsPerRun(20, func() {
			rec.Rules, rec.Keys = rec.Rules[:0], rec.Keys[:0]
			if err := r.Read(&rec, value, 100, from); err != nil {
				t.Fatal(err)
			}
		}), 3.0, "the walk")
	}
}

func TestEventsOfAnItemAreKnownByItsId(t *testing.T) {
	r := eventid.NewReader(signal.Logs, false)
	item := func(tenant string, id byte) eventid.Key {
		var rec eventid.Record
		r.Item(&rec, tenant, [16]byte{id})
		require.Equal(t, []eventid.Rule{eventid.ByUID}, rec.Rules)
		return rec.Keys[0]
	}
	require.Equal(t, item("a", 1), item("a", 1))
	require.NotEqual(t, item("a", 1), item("a", 2))
	require.NotEqual(t, item("a", 1), item("b", 1))
}

// Guarantee: whatever a tenant sends, no key of another tenant's events comes of it; not by borders between what is hashed either.
func TestTenantsShareNoKeys(t *testing.T) {
	for _, sig := range signal.All {
		for seed := range uint64(10) {
			value := otlptest.Random(sig, seed, 4)
			seen := map[eventid.Key]string{}
			for _, tenant := range []string{"", "a", "ab", "b"} {
				for _, source := range []string{"", "b"} {
					rec := read(t, sig, value, eventid.From{Tenant: tenant, Source: []byte(source)})
					for i, key := range rec.Keys {
						if rec.Rules[i] == eventid.ByRequest {
							key = rec.IndexKey(i)
						}
						of, known := seen[key]
						require.True(t, !known || of == tenant)
						seen[key] = tenant
					}
				}
			}
		}
	}
}

// Guarantees: a request begins coarse where the rule for its first event is that of the request.
func TestARequestBeginsCoarseAsItsFirstEventDoes(t *testing.T) {
	two := func(first, second pcommon.Timestamp) []byte {
		return logsOf(func(ld plog.Logs) {
			records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
			records.AppendEmpty().SetTimestamp(first)
			records.AppendEmpty().SetTimestamp(second)
		})
	}
	for _, req := range [][]byte{two(fine, coarse), two(coarse, fine), two(0, fine)} {
		require.Equal(t, read(t, signal.Logs, req, from).Rules[0] == eventid.ByRequest, eventid.BeginsCoarse(signal.Logs, req))
	}
	for _, sig := range signal.All {
		require.False(t, eventid.BeginsCoarse(sig, nil))
		require.False(t, eventid.BeginsCoarse(sig, []byte{0xff}))
	}
}
