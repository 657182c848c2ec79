package eventid_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// decoded returns the ids of a request's events as pdata decodes it.
func decoded(t testing.TB, sig signal.Signal, request []byte, source string) (ids [][16]byte) {
	t.Helper()
	switch sig {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(request))
		for _, rl := range req.Logs().ResourceLogs().All() {
			of := eventid.Source(source, rl.Resource())
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					ids = append(ids, eventid.Log(lr, of))
				}
			}
		}
	case signal.Traces:
		req := ptraceotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(request))
		for _, rs := range req.Traces().ResourceSpans().All() {
			of := eventid.Source(source, rs.Resource())
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					ids = append(ids, eventid.Span(s, of))
				}
			}
		}
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(request))
		for _, rm := range req.Metrics().ResourceMetrics().All() {
			of := eventid.Source(source, rm.Resource())
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					switch m.Type() {
					case pmetric.MetricTypeGauge:
						for _, dp := range m.Gauge().DataPoints().All() {
							ids = append(ids, eventid.NumberPoint(m, sm.Scope(), dp, of))
						}
					case pmetric.MetricTypeSum:
						for _, dp := range m.Sum().DataPoints().All() {
							ids = append(ids, eventid.NumberPoint(m, sm.Scope(), dp, of))
						}
					case pmetric.MetricTypeHistogram:
						for _, dp := range m.Histogram().DataPoints().All() {
							ids = append(ids, eventid.HistogramPoint(m, sm.Scope(), dp, of))
						}
					case pmetric.MetricTypeExponentialHistogram:
						for _, dp := range m.ExponentialHistogram().DataPoints().All() {
							ids = append(ids, eventid.ExponentialHistogramPoint(m, sm.Scope(), dp, of))
						}
					case pmetric.MetricTypeSummary:
						for _, dp := range m.Summary().DataPoints().All() {
							ids = append(ids, eventid.SummaryPoint(m, sm.Scope(), dp, of))
						}
					}
				}
			}
		}
	}
	return ids
}

// requireSame checks a request's ids made of its bytes against those made of what pdata decodes, and tells whether there were any.
func requireSame(t testing.TB, sig signal.Signal, request []byte, source string) bool {
	t.Helper()
	ids, ok := eventid.Wire(sig, request, source, nil)
	want := decoded(t, sig, request, source)
	if !ok {
		return false
	}
	require.Equal(t, want, ids)
	return true
}

// Guarantee: ids made of a request's bytes are those that are made of its decoded events, whatever is set in them.
func TestBytesAndDecodedEventsHaveTheSameIds(t *testing.T) {
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) {
			made := 0
			for seed := range uint64(300) {
				for _, request := range [][]byte{otlptest.Full(sig, seed), otlptest.Random(sig, seed, 4), otlptest.Realistic(sig, seed, 5)} {
					if requireSame(t, sig, request, "agent") {
						made++
					}
				}
			}
			require.Greater(t, made, 450, "most requests have ids that are made of bytes")
			require.True(t, requireSame(t, sig, otlptest.Realistic(sig, 1, 50), ""))
		})
	}
}

func TestALogRecordsOwnIdIsReadFromBytes(t *testing.T) {
	for _, set := range []func(pcommon.Map){
		func(m pcommon.Map) { m.PutStr(eventid.AttrID, "one") },
		func(m pcommon.Map) { m.PutInt(eventid.AttrID, 7) },
		func(m pcommon.Map) { m.PutStr(eventid.AttrID, "") },
		func(m pcommon.Map) { m.PutEmpty(eventid.AttrID) },
	} {
		ld := plog.NewLogs()
		lr := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		lr.Body().SetStr("body")
		lr.Attributes().PutStr("before", "x")
		set(lr.Attributes())
		lr.Attributes().PutStr("after", "y")
		request, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
		require.NoError(t, err)
		require.True(t, requireSame(t, signal.Logs, request, "agent"))
	}
}

// Guarantee: also of requests in orders and pieces that no encoder writes, as long as they are requests.
func FuzzWire(f *testing.F) {
	for _, sig := range signal.All {
		f.Add(uint8(sig), otlptest.Full(sig, 1), "agent")
		f.Add(uint8(sig), otlptest.Realistic(sig, 1, 3), "")
	}
	f.Fuzz(func(t *testing.T, s uint8, request []byte, source string) {
		sig := signal.All[int(s)%len(signal.All)]
		if _, err := otlpwire.Count(sig, request, otlpwire.Limits{}); err != nil {
			return
		}
		requireSame(t, sig, request, source)
	})
}
