package dedupeprocessor

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/processor/processortest"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

// pdata is pdata of any signal.
type pdata any

// node is a processor in a pipeline of one signal, in front of a consumer that take plays.
type node struct {
	t      testing.TB
	signal signal.Signal
	proc   component.Component
	take   func(context.Context, pdata) error
	reader *sdkmetric.ManualReader
	log    *observer.ObservedLogs
}

func newNode(t testing.TB, sig signal.Signal, change func(*Config)) *node {
	cfg := createDefaultConfig().(*Config)
	if change != nil {
		change(cfg)
	}
	core, log := observer.New(zap.InfoLevel)
	n := &node{t: t, signal: sig, reader: sdkmetric.NewManualReader(), log: log}
	set := processortest.NewNopSettings(metadata.Type())
	set.Logger = zap.New(core)
	set.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(n.reader))
	var err error
	f := NewFactory()
	switch sig {
	case signal.Logs:
		next, e := consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error { return n.take(ctx, ld) })
		require.NoError(t, e)
		n.proc, err = f.CreateLogs(t.Context(), set, cfg, next)
	case signal.Metrics:
		next, e := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error { return n.take(ctx, md) })
		require.NoError(t, e)
		n.proc, err = f.CreateMetrics(t.Context(), set, cfg, next)
	case signal.Traces:
		next, e := consumer.NewTraces(func(ctx context.Context, td ptrace.Traces) error { return n.take(ctx, td) })
		require.NoError(t, e)
		n.proc, err = f.CreateTraces(t.Context(), set, cfg, next)
	}
	require.NoError(t, err)
	require.NoError(t, n.proc.Start(t.Context(), nil))
	t.Cleanup(func() { require.NoError(t, n.proc.Shutdown(context.Background())) })
	return n
}

func (n *node) consume(ctx context.Context, d pdata) error {
	switch d := d.(type) {
	case plog.Logs:
		return n.proc.(consumer.Logs).ConsumeLogs(ctx, d)
	case pmetric.Metrics:
		return n.proc.(consumer.Metrics).ConsumeMetrics(ctx, d)
	}
	return n.proc.(consumer.Traces).ConsumeTraces(ctx, d.(ptrace.Traces))
}

// send returns what reaches the next consumer; nil: it is not called.
func (n *node) send(ctx context.Context, d pdata) (got pdata) {
	n.take = func(_ context.Context, d pdata) error { got = d; return nil }
	require.NoError(n.t, n.consume(ctx, d))
	return got
}

// metric is the value of a sum or gauge, over all of its series.
func (n *node) metric(name string) (sum int64) {
	n.t.Helper()
	for _, p := range collectortest.Points(n.t, n.reader, name) {
		v, ok := p.Attributes.Value("signal")
		require.True(n.t, ok)
		require.Equal(n.t, n.signal.String(), v.AsString())
		sum += p.Value
	}
	return sum
}

// removed is how many events were counted as removed by a rule.
func (n *node) removed(rule eventid.Rule) int64 {
	for _, p := range collectortest.Points(n.t, n.reader, "dedupe_duplicates") {
		if v, _ := p.Attributes.Value("rule"); v.AsString() == rule.String() {
			return p.Value
		}
	}
	return 0
}

// event is one stamped event.
type event struct {
	tenant string
	id     byte
	offset int64
	index  int32
}

var start = time.Unix(1_780_000_000, 0)

// stamped is a batch as mskreceiver makes it: a resource for each record. Metrics take turns in the types of points.
func stamped(sig signal.Signal, events ...event) pdata {
	ld, md, td := plog.NewLogs(), pmetric.NewMetrics(), ptrace.NewTraces()
	for i, e := range events {
		fresh := i == 0 || events[i-1].offset != e.offset
		var res, attrs pcommon.Map
		switch sig {
		case signal.Logs:
			if fresh {
				ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
			}
			rl := ld.ResourceLogs().At(ld.ResourceLogs().Len() - 1)
			res, attrs = rl.Resource().Attributes(), rl.ScopeLogs().At(0).LogRecords().AppendEmpty().Attributes()
		case signal.Traces:
			if fresh {
				td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty()
			}
			rs := td.ResourceSpans().At(td.ResourceSpans().Len() - 1)
			res, attrs = rs.Resource().Attributes(), rs.ScopeSpans().At(0).Spans().AppendEmpty().Attributes()
		case signal.Metrics:
			if fresh {
				md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
			}
			rm := md.ResourceMetrics().At(md.ResourceMetrics().Len() - 1)
			res, attrs = rm.Resource().Attributes(), point(rm.ScopeMetrics().At(0).Metrics().AppendEmpty(), int(e.id))
		}
		lineage.StampResource(res, lineage.Origin{Tenant: e.tenant, Topic: "t", Appended: start.Add(time.Duration(e.offset) * time.Second)})
		lineage.StampEvent(attrs, lineage.Event{Offset: e.offset, Index: e.index})
	}
	return map[signal.Signal]pdata{signal.Logs: ld, signal.Metrics: md, signal.Traces: td}[sig]
}

// records are what the events of a batch are compared by: their tenant and id.
func records(events ...event) (out []eventid.Record) {
	for i, e := range events {
		if i == 0 || events[i-1].offset != e.offset {
			out = append(out, eventid.Record{
				Tenant: e.tenant, Offset: e.offset, Appended: start.Add(time.Duration(e.offset) * time.Second).UnixMilli(), Request: eventid.Request{Whole: true},
			})
		}
		r := &out[len(out)-1]
		r.Rules = append(r.Rules, eventid.ByUID)
		r.Keys = append(r.Keys, eventid.Key{Hi: (uint64(e.id)<<8 | uint64(e.tenant[0])) * 0x9E3779B97F4A7C15})
	}
	return out
}

func point(m pmetric.Metric, typ int) pcommon.Map {
	switch typ % 5 {
	case 0:
		return m.SetEmptyGauge().DataPoints().AppendEmpty().Attributes()
	case 1:
		return m.SetEmptySum().DataPoints().AppendEmpty().Attributes()
	case 2:
		return m.SetEmptyHistogram().DataPoints().AppendEmpty().Attributes()
	case 3:
		return m.SetEmptyExponentialHistogram().DataPoints().AppendEmpty().Attributes()
	}
	return m.SetEmptySummary().DataPoints().AppendEmpty().Attributes()
}

func count(d pdata) int {
	switch d := d.(type) {
	case plog.Logs:
		return d.LogRecordCount()
	case pmetric.Metrics:
		return d.DataPointCount()
	case ptrace.Traces:
		return d.SpanCount()
	}
	return 0
}

// encoded is d as bytes, to compare.
func encoded(t testing.TB, d pdata) string {
	var b []byte
	var err error
	switch d := d.(type) {
	case plog.Logs:
		b, err = plogotlp.NewExportRequestFromLogs(d).MarshalProto()
	case pmetric.Metrics:
		b, err = pmetricotlp.NewExportRequestFromMetrics(d).MarshalProto()
	case ptrace.Traces:
		b, err = ptraceotlp.NewExportRequestFromTraces(d).MarshalProto()
	}
	require.NoError(t, err)
	return string(b)
}

func decoded(t testing.TB, sig signal.Signal, req []byte) pdata {
	switch sig {
	case signal.Logs:
		r := plogotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(req))
		return r.Logs()
	case signal.Metrics:
		r := pmetricotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(req))
		return r.Metrics()
	}
	r := ptraceotlp.NewExportRequest()
	require.NoError(t, r.UnmarshalProto(req))
	return r.Traces()
}
