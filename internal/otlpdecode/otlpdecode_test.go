package otlpdecode

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// sameValue tells nothing of -0 and NaN but their bits.
func sameValue(t *testing.T, want, got pcommon.Value) {
	t.Helper()
	require.Equal(t, want.Type(), got.Type())
	switch want.Type() {
	case pcommon.ValueTypeDouble:
		require.Equal(t, math.Float64bits(want.Double()), math.Float64bits(got.Double()))
	case pcommon.ValueTypeSlice:
		require.Equal(t, want.Slice().Len(), got.Slice().Len())
		for i := range want.Slice().Len() {
			sameValue(t, want.Slice().At(i), got.Slice().At(i))
		}
	case pcommon.ValueTypeMap:
		sameMap(t, want.Map(), got.Map())
	default:
		require.Equal(t, want.AsRaw(), got.AsRaw())
	}
}

// sameMap compares entries in their order, those of one key too.
func sameMap(t *testing.T, want, got pcommon.Map) {
	t.Helper()
	type entry struct {
		key   string
		value pcommon.Value
	}
	entries := func(m pcommon.Map) (es []entry) {
		for k, v := range m.All() {
			es = append(es, entry{k, v})
		}
		return es
	}
	w, g := entries(want), entries(got)
	require.Len(t, g, len(w))
	for i := range w {
		require.Equal(t, w[i].key, g[i].key)
		sameValue(t, w[i].value, g[i].value)
	}
}

// same compares the events' attributes, takes them away, and compares all the rest.
func same(t *testing.T, sig signal.Signal, request []byte, d *Decoder) {
	t.Helper()
	original := bytes.Clone(request)
	if _, err := otlpwire.Count(sig, request, otlpwire.Limits{}); err != nil {
		return // such a record is never decoded
	}
	switch sig {
	case signal.Logs:
		want := plogotlp.NewExportRequest()
		wantErr := want.UnmarshalProto(request)
		got, err := d.Logs(request)
		require.Equal(t, wantErr == nil, err == nil)
		if err != nil {
			return
		}
		w, g := logRecords(want.Logs()), logRecords(got)
		require.Len(t, g, len(w))
		for i := range w {
			sameMap(t, w[i].Attributes(), g[i].Attributes())
			pcommon.NewMap().MoveTo(w[i].Attributes())
			pcommon.NewMap().MoveTo(g[i].Attributes())
		}
		wantBytes, err := want.MarshalProto()
		require.NoError(t, err)
		gotBytes, err := plogotlp.NewExportRequestFromLogs(got).MarshalProto()
		require.NoError(t, err)
		require.Equal(t, wantBytes, gotBytes)
	case signal.Traces:
		want := ptraceotlp.NewExportRequest()
		wantErr := want.UnmarshalProto(request)
		got, err := d.Traces(request)
		require.Equal(t, wantErr == nil, err == nil)
		if err != nil {
			return
		}
		w, g := spans(want.Traces()), spans(got)
		require.Len(t, g, len(w))
		for i := range w {
			sameMap(t, w[i].Attributes(), g[i].Attributes())
			pcommon.NewMap().MoveTo(w[i].Attributes())
			pcommon.NewMap().MoveTo(g[i].Attributes())
		}
		wantBytes, err := want.MarshalProto()
		require.NoError(t, err)
		gotBytes, err := ptraceotlp.NewExportRequestFromTraces(got).MarshalProto()
		require.NoError(t, err)
		require.Equal(t, wantBytes, gotBytes)
	}
	require.Equal(t, original, request, "the request was written to")
}

func logRecords(ld plog.Logs) (out []plog.LogRecord) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				out = append(out, lr)
			}
		}
	}
	return out
}

func spans(td ptrace.Traces) (out []ptrace.Span) {
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				out = append(out, s)
			}
		}
	}
	return out
}

var decoded = []signal.Signal{signal.Logs, signal.Traces}

func requests(sig signal.Signal, n uint64) (out [][]byte) {
	for seed := range n {
		r := rand.New(rand.NewPCG(seed, 78))
		for _, req := range [][]byte{
			otlptest.Full(sig, seed), otlptest.Random(sig, seed, 3), otlptest.Random(sig, seed+1000, 1), otlptest.Realistic(sig, seed, 12),
		} {
			out = append(out, req)
			for range 10 {
				if len(req) > 0 {
					flipped := bytes.Clone(req)
					flipped[r.IntN(len(flipped))] ^= 1 << r.IntN(8)
					out = append(out, flipped, req[:r.IntN(len(req))])
				}
			}
		}
	}
	// Scopes and attribute lists in pieces, an event of no attributes, keys twice, a length that is padded.
	out = append(out, bytes.Repeat(out[0], 3), []byte{10, 0}, []byte{10, 2, 18, 0}, []byte{10, 4, 18, 2, 18, 0}, []byte{10, 0x84, 0, 18, 2, 18, 0})
	return out
}

func TestDecodesWhatPdataDecodes(t *testing.T) {
	for _, sig := range decoded {
		d := &Decoder{}
		for _, req := range requests(sig, 40) {
			same(t, sig, req, d)
		}
	}
}

// A fast path that is never taken would pass every other test.
func TestUsualRequestsAreNotLeftToPdata(t *testing.T) {
	for _, sig := range decoded {
		for _, req := range [][]byte{otlptest.Realistic(sig, 1, 50), otlptest.Full(sig, 1)} {
			d := &Decoder{}
			require.True(t, d.strip(sig, req))
			require.NotZero(t, len(d.counts))
			require.Less(t, len(d.bare), len(req))
		}
	}
	d, req := &Decoder{}, otlptest.Logs(1, 100)
	require.Less(t, testing.AllocsPerRun(5, func() { _, _ = d.Logs(req) }), 100*32.0, "24 values, the list, the record and what pdata decodes of it")
}

func TestAStampNeedsNoLargerList(t *testing.T) {
	d := &Decoder{}
	ld, err := d.Logs(otlptest.Logs(1, 1))
	require.NoError(t, err)
	attrs := logRecords(ld)[0].Attributes()
	require.LessOrEqual(t, testing.AllocsPerRun(1, func() { attrs.PutInt("stamp", 1); attrs.Remove("stamp") }), 1.0)
}

func FuzzLogs(f *testing.F)   { fuzz(f, signal.Logs) }
func FuzzTraces(f *testing.F) { fuzz(f, signal.Traces) }

func fuzz(f *testing.F, sig signal.Signal) {
	for _, req := range requests(sig, 5) {
		if len(req) < 4096 {
			f.Add(req)
		}
	}
	f.Fuzz(func(t *testing.T, req []byte) { same(t, sig, req, &Decoder{}) })
}
