package otlpwire

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func TestAgreesWithPdata(t *testing.T) {
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) {
			for _, req := range seeds(sig, 12) {
				agree(t, sig, req)
			}
		})
	}
}

// A request with every field, cut anywhere and with any one byte changed, is accepted or refused as pdata does it.
func TestAgreesWithPdataAtEveryCutAndByte(t *testing.T) {
	for _, sig := range signal.All {
		var req []byte
		for seed := uint64(0); len(req) < 800 || len(req) > 3000; seed++ {
			req = otlptest.Random(sig, seed, 1)
		}
		for i := range req {
			verdict(t, sig, req[:i])
			for _, change := range []byte{0x01, 0x08, 0x80, 0xff} {
				changed := bytes.Clone(req)
				changed[i] ^= change
				verdict(t, sig, changed)
			}
		}
	}
}

func verdict(t *testing.T, sig signal.Signal, req []byte) {
	t.Helper()
	_, err := Count(sig, req, Limits{})
	if errors.Is(err, ErrTooDeep) {
		return
	}
	if _, wantErr := decode(sig, req); (err == nil) != (wantErr == nil) {
		t.Fatalf("Count: %v, pdata: %v: %x", err, wantErr, req)
	}
}

// Every message and field of OTLP's own descriptors is in the tables, with its name and wire type: a new version of
// opentelemetry-proto that adds a field fails here.
func TestTablesHoldEveryFieldOfOTLP(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	sameFields(t, (&collectorlogs.ExportLogsServiceRequest{}).ProtoReflect().Descriptor(), logsMsg, seen)
	sameFields(t, (&collectormetrics.ExportMetricsServiceRequest{}).ProtoReflect().Descriptor(), metricsMsg, seen)
	sameFields(t, (&collectortrace.ExportTraceServiceRequest{}).ProtoReflect().Descriptor(), tracesMsg, seen)
	require.Len(t, seen, 34, "messages of the three signals")
}

func sameFields(t *testing.T, d protoreflect.MessageDescriptor, m *message, seen map[protoreflect.FullName]bool) {
	t.Helper()
	if seen[d.FullName()] {
		return
	}
	seen[d.FullName()] = true
	table := m.fields
	switch m {
	case keyValueMsg:
		table = []field{1: keyField, 2: valueField, 3: strindexField}
	case anyValueMsg:
		table = anyFields[:]
	}
	known := 0
	for _, f := range table {
		if f.kind != unknown {
			known++
		}
	}
	require.Equal(t, d.Fields().Len(), known, d.FullName())
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		require.Less(t, int(f.Number()), len(table), f.FullName())
		got := table[f.Number()]
		require.Equal(t, string(f.Name()), got.name, f.FullName())
		require.Equal(t, kindsOf(f), kindClass(got.kind), f.FullName())
		if f.Message() == nil {
			continue
		}
		of := got.of
		switch f.Message().Name() {
		case "AnyValue":
			of = anyValueMsg
		case "ArrayValue":
			of = arrayMsg
		case "KeyValueList":
			of = kvlistMsg
		}
		sameFields(t, f.Message(), of, seen)
	}
}

func kindsOf(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return "message"
	case protoreflect.StringKind:
		return "bytes"
	case protoreflect.BytesKind:
		switch f.Name() {
		case "trace_id":
			return "trace_id"
		case "span_id", "parent_span_id":
			return "span_id"
		}
		return "bytes"
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return map[bool]string{false: "i64", true: "many i64"}[f.IsList()]
	case protoreflect.Fixed32Kind:
		return "i32"
	}
	return map[bool]string{false: "varint", true: "many varint"}[f.IsList()]
}

func kindClass(k kind) string {
	switch k {
	case kVarint:
		return "varint"
	case kI64:
		return "i64"
	case kI32:
		return "i32"
	case kBytes:
		return "bytes"
	case kTraceID:
		return "trace_id"
	case kSpanID:
		return "span_id"
	case kManyI64:
		return "many i64"
	case kManyVarint:
		return "many varint"
	}
	return "message"
}

func TestAnErrorSaysWhere(t *testing.T) {
	// A trace id of three bytes in the second log record, behind one byte of a field before it.
	bad := wrap(cat(wrap(nil, 2), wrap(cat([]byte{0x10, 9}, wrap([]byte{1, 2, 3}, 9)), 2)), 1, 2)
	_, err := Count(signal.Logs, bad, Limits{})
	require.ErrorIs(t, err, ErrMalformed)
	var where *Error
	require.ErrorAs(t, err, &where)
	require.Equal(t, "resource_logs.scope_logs.log_records.trace_id", where.Path)
	require.Equal(t, []byte{1, 2, 3}, bad[where.Offset:where.Offset+3], "the offset is the field's content")
	require.ErrorContains(t, err, "has 3 bytes, want 16 or none")

	_, err = Count(signal.Traces, []byte{0x0a, 9, 1}, Limits{})
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, "resource_spans at byte 0: ends within the field")
}

func TestLimitsHold(t *testing.T) {
	atDepth := func(levels int) []byte {
		return wrap(cat(wrap([]byte("k"), 1), wrap(nested(levels), 2)), 1, 1, 1)
	}
	_, err := Count(signal.Logs, atDepth(DefaultMaxDepth), Limits{})
	require.NoError(t, err)
	_, err = Count(signal.Logs, atDepth(DefaultMaxDepth+1), Limits{})
	require.ErrorIs(t, err, ErrTooDeep)
	require.NotErrorIs(t, err, ErrMalformed)
	_, err = Count(signal.Logs, atDepth(10_000), Limits{})
	require.ErrorIs(t, err, ErrTooDeep, "where pdata would recurse 10,000 levels")
	_, err = Count(signal.Logs, atDepth(1), Limits{MaxDepth: 1})
	require.NoError(t, err)
	_, err = Count(signal.Logs, atDepth(2), Limits{MaxDepth: 1})
	require.ErrorIs(t, err, ErrTooDeep)
	n, err := Count(signal.Logs, atDepth(3), Limits{MaxDepth: 3})
	require.NoError(t, err)
	require.Zero(t, n, "attributes are no events")

	req := otlptest.Logs(1, 10)
	_, err = Count(signal.Logs, req, Limits{MaxEvents: 9})
	require.ErrorIs(t, err, ErrTooManyEvents)
	n, err = Count(signal.Logs, req, Limits{MaxEvents: 10})
	require.NoError(t, err)
	require.Equal(t, 10, n)
	empty := wrap(bytes.Repeat([]byte{0x12, 0}, DefaultMaxEvents+1), 1, 2)
	_, err = Count(signal.Logs, empty, Limits{})
	require.ErrorIs(t, err, ErrTooManyEvents)
}

func TestWhatEventsShareCountsForEach(t *testing.T) {
	for _, sig := range signal.All {
		const n, size = 1000, 50_000
		req := otlptest.Shared(sig, n, size)
		require.Less(t, len(req), 3*size)
		_, err := Count(sig, req, Limits{MaxWritten: n * size})
		require.ErrorIs(t, err, ErrRepetitive, sig)
		events, err := Count(sig, req, Limits{MaxWritten: n * (size + 500)})
		require.NoError(t, err, sig)
		require.Equal(t, n, events)

		alone := otlptest.Realistic(sig, 1, 1) // nothing is shared
		_, err = Count(sig, alone, Limits{MaxWritten: int64(len(alone)) + 10})
		require.NoError(t, err, sig)
		twice := append(bytes.Clone(alone), alone...) // two resources of one event
		_, err = Count(sig, twice, Limits{MaxWritten: int64(len(twice)) + 10})
		require.NoError(t, err, sig)
	}
}

func TestWalkingAllocatesNothingForAnEvent(t *testing.T) {
	for _, sig := range signal.All {
		req := otlptest.Realistic(sig, 1, 500)
		require.Zero(t, testing.AllocsPerRun(10, func() {
			if n, err := Count(sig, req, Limits{}); n != 500 || err != nil {
				t.Fatal(n, err)
			}
		}), "Count of %s", sig)
		seen := 0
		allocs := testing.AllocsPerRun(10, func() {
			_ = Walk(sig, req, func(e *Event) bool {
				if _, ok := e.Attr("http.route"); ok {
					seen++
				}
				for k, v := range e.Attributes().All() {
					seen += len(k) + len(v.Bytes())
				}
				_, _ = e.ResourceAttr("service.name")
				_, _ = e.ScopeAttr("none")
				seen += int(e.Time()) + len(e.Name()) + len(e.Body().Bytes()) + int(e.TraceID()[0]) + int(e.SpanID()[0])
				return true
			})
		})
		require.LessOrEqual(t, allocs, 2.0, "Walk of 500 %s: the path and nothing else", sig)
		require.NotZero(t, seen)
	}
}

func TestWalkStopsWhenToldTo(t *testing.T) {
	for _, sig := range signal.All {
		n := 0
		require.NoError(t, Walk(sig, otlptest.Realistic(sig, 1, 30), func(e *Event) bool { n++; return n < 15 }))
		require.Equal(t, 15, n)
	}
}

func TestSplitKeepsUnknownFieldsAndSchemaURLs(t *testing.T) {
	unknownOf := func(at string) []byte { return wrap([]byte("unknown in "+at), 99) }
	scope := cat(wrap([]byte("scope"), 1, 1), wrap(nil, 2), wrap([]byte{0x10, 1}, 2), wrap([]byte("scope url"), 3), unknownOf("scope"))
	req := cat(unknownOf("request"), wrap(cat(wrap(nil, 1), wrap(scope, 2), wrap(scope, 2), wrap([]byte("url"), 3), unknownOf("resource")), 1))
	kept, rest, err := Split(signal.Logs, req, func(i int) bool { return i == 3 })
	require.NoError(t, err)
	for _, side := range [][]byte{kept, rest} {
		for _, at := range []string{"request", "resource", "scope"} {
			require.Contains(t, string(side), "unknown in "+at)
		}
		require.Contains(t, string(side), "scope url")
	}
	require.Equal(t, 1, bytes.Count(kept, []byte("unknown in scope")), "the first scope has no event left")
	require.Equal(t, 2, bytes.Count(rest, []byte("unknown in scope")))
}

func TestASideWithoutEventsIsNil(t *testing.T) {
	for _, sig := range signal.All {
		req := otlptest.Full(sig, 1)
		kept, rest, err := Split(sig, req, func(int) bool { return true })
		require.NoError(t, err)
		require.Nil(t, rest)
		require.NotEmpty(t, kept)
		kept, rest, err = Split(sig, req, func(int) bool { return false })
		require.NoError(t, err)
		require.Nil(t, kept)
		require.NotEmpty(t, rest)
	}
}

func TestSplitBySizeReturnsWhatFitsAsItIs(t *testing.T) {
	req := otlptest.Logs(1, 20)
	parts, counts, err := SplitBySize(signal.Logs, req, len(req))
	require.NoError(t, err)
	require.Equal(t, []int{20}, counts)
	require.Same(t, &req[0], &parts[0][0])

	parts, counts, err = SplitBySize(signal.Logs, wrap(nil, 1, 2), 1000)
	require.NoError(t, err)
	require.Empty(t, parts)
	require.Empty(t, counts)
}

func TestAnEventThatDoesNotFitIsAloneInItsPart(t *testing.T) {
	small, large := wrap([]byte("small"), 5, 1), wrap(bytes.Repeat([]byte("large"), 100), 5, 1)
	req := wrap(cat(wrap(small, 2), wrap(small, 2), wrap(large, 2), wrap(small, 2)), 1, 2)
	parts, counts, err := SplitBySize(signal.Logs, req, 100)
	require.NoError(t, err)
	require.Equal(t, []int{2, 1, 1}, counts)
	require.Greater(t, len(parts[1]), 100)
	require.LessOrEqual(t, max(len(parts[0]), len(parts[2])), 100)
}

func TestSplitBySizeRefusesToAmplify(t *testing.T) {
	// A resource as large as a part, and many small events: the parts would be a thousand times the request.
	resource := wrap(cat(wrap([]byte("k"), 1), wrap(bytes.Repeat([]byte("x"), 100_000), 2, 1)), 1, 1)
	req := wrap(cat(resource, wrap(bytes.Repeat([]byte{0x12, 0}, 10_000), 2)), 1)
	_, _, err := SplitBySize(signal.Logs, req, 100_000)
	require.ErrorIs(t, err, ErrAmplified)
}

// Guarantees: the parts of a request are at most twice the request, and what is around the events may be half of a part.
func TestThePartsOfARequestAreAtMostTwiceIt(t *testing.T) {
	const most = 100_000
	request := func(resource, events int) []byte {
		r := wrap(cat(wrap([]byte("k"), 1), wrap(bytes.Repeat([]byte("x"), resource), 2, 1)), 1, 1)
		return wrap(cat(r, bytes.Repeat(wrap(bytes.Repeat([]byte("e"), 998), 2, 2, 5, 1), events)), 1)
	}
	for _, c := range []struct {
		resource, events int
		refused          bool
	}{{1000, 1000, false}, {45_000, 1000, false}, {75_000, 1000, true}, {95_000, 1000, true}, {95_000, 6, false}} {
		req := request(c.resource, c.events)
		parts, _, err := SplitBySize(signal.Logs, req, most)
		if c.refused {
			require.ErrorIs(t, err, ErrAmplified, c)
			continue
		}
		require.NoError(t, err, c)
		require.Greater(t, len(parts), 1)
		total := 0
		for _, p := range parts {
			total += len(p)
		}
		require.LessOrEqual(t, total, 2*len(req), c)
	}
}

func TestSourceIsTheFirstResourcesIdentity(t *testing.T) {
	str := func(k, v string) []byte { return wrap(cat(wrap([]byte(k), 1), wrap([]byte(v), 2, 1)), 1) }
	of := func(attrs ...[]byte) string { return Source(signal.Logs, wrap(cat(attrs...), 1, 1)) }

	id := of(str("service.name", "a"), str("host.name", "h"))
	require.Len(t, id, 16)
	require.Equal(t, id, of(str("host.name", "h"), str("other", "changes"), str("service.name", "a")))
	require.NotEqual(t, id, of(str("service.name", "h"), str("host.name", "a")))
	require.NotEqual(t, id, of(str("service.name", "a"), str("service.instance.id", "h")))
	require.NotEqual(t, of(str("service.name", "ab"), str("service.instance.id", "c")), of(str("service.name", "a"), str("service.instance.id", "bc")))
	require.NotEmpty(t, of(str("other", "x")))
	require.NotEqual(t, of(str("other", "x")), of(str("other", "y")))
	require.Empty(t, Source(signal.Logs, nil))
	require.Empty(t, of())
	require.NotEqual(t, Source(signal.Logs, otlptest.Logs(1, 1)), Source(signal.Logs, otlptest.Logs(2, 1)))
	require.Equal(t, Source(signal.Logs, otlptest.Logs(1, 1)), Source(signal.Logs, otlptest.Logs(1, 9)), "events do not matter")
}

// The generator keeps its word: everything is set, and the realistic events have the size they are said to have.
func TestGeneratedRequests(t *testing.T) {
	for _, sig := range signal.All {
		require.Equal(t, otlptest.Full(sig, 3), otlptest.Full(sig, 3))
		require.NotEqual(t, otlptest.Full(sig, 3), otlptest.Full(sig, 4))
		set := map[protoreflect.FullName]bool{}
		m := map[signal.Signal]proto.Message{
			signal.Logs: &collectorlogs.ExportLogsServiceRequest{}, signal.Metrics: &collectormetrics.ExportMetricsServiceRequest{},
			signal.Traces: &collectortrace.ExportTraceServiceRequest{},
		}[sig]
		require.NoError(t, proto.Unmarshal(otlptest.Full(sig, 3), m))
		whatIsSet(m.ProtoReflect(), set)
		every(m.ProtoReflect().Descriptor(), map[protoreflect.FullName]bool{}, func(f protoreflect.FieldDescriptor) {
			if f.Name() != "key_strindex" && f.Name() != "string_value_strindex" {
				require.True(t, set[f.FullName()], "%s is set in %s", f.FullName(), sig)
			}
		})
	}
	perEvent := len(otlptest.Logs(1, 500)) / 500
	require.InDelta(t, 800, perEvent, 80)
	for _, sig := range signal.All {
		n, err := Count(sig, otlptest.Realistic(sig, 7, 43), Limits{})
		require.NoError(t, err)
		require.Equal(t, 43, n)
	}
	_ = Walk(signal.Logs, otlptest.Logs(1, 3), func(e *Event) bool {
		n := 0
		for range e.Attributes().All() {
			n++
		}
		require.Equal(t, 24, n)
		return true
	})
}

func whatIsSet(m protoreflect.Message, set map[protoreflect.FullName]bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		set[f.FullName()] = true
		switch {
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				whatIsSet(v.List().Get(i).Message(), set)
			}
		case f.Message() != nil:
			whatIsSet(v.Message(), set)
		}
		return true
	})
}

func every(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool, fn func(protoreflect.FieldDescriptor)) {
	if seen[d.FullName()] {
		return
	}
	seen[d.FullName()] = true
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		fn(f)
		if f.Message() != nil {
			every(f.Message(), seen, fn)
		}
	}
}
