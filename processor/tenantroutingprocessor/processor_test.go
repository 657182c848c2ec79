package tenantroutingprocessor

import (
	"context"
	"fmt"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/processor"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

// registry is a host with an extension that holds tenants.
type registry struct {
	component.StartFunc
	component.ShutdownFunc
	snapshot *tenant.Snapshot
}

func (r *registry) Snapshot() *tenant.Snapshot { return r.snapshot }
func (r *registry) Jurisdiction() string       { return "eu" }
func (r *registry) Cell() string               { return "eu-1" }
func (r *registry) GetExtensions() map[component.ID]component.Component {
	return map[component.ID]component.Component{component.MustNewID("tenant_auth"): r}
}

type rig struct {
	t         testing.TB
	logs      processor.Logs
	metrics   processor.Metrics
	traces    processor.Traces
	sink      *consumertest.LogsSink
	metricsTo *consumertest.MetricsSink
	tracesTo  *consumertest.TracesSink
	registry  *registry
	telemetry *componenttest.Telemetry
}

const tenantsYAML = `
jurisdictions: {us: {endpoint: "https://us.example.com"}}
cells: {eu-1: {jurisdiction: eu, endpoint: "https://eu-1.example.com", shed: {spare: overflow, trial: refuse}}, eu-2: {jurisdiction: eu, endpoint: "https://eu-2.example.com"}}
tenants:
  - {id: acme, class: premium, jurisdiction: eu, topic_class: premium, id_attribute: order.id}
  - {id: other}
  - {id: us, jurisdiction: us}
  - {id: moved, jurisdiction: eu, home: eu-2, cells: [eu-2]}
  - {id: gone, status: suspended}
  - {id: logs, signals: [logs]}
  - {id: late, lane: overflow}
  - {id: spare, class: spare}
  - {id: trial, class: trial}
  - {id: small, quotas: {logs: {events_per_second: 100, burst: 1s}, metrics: {events_per_second: 100, burst: 1s}}}
`

func start(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, sink: &consumertest.LogsSink{}, metricsTo: &consumertest.MetricsSink{}, tracesTo: &consumertest.TracesSink{},
		registry: &registry{snapshot: registryOf(t, tenantsYAML)}, telemetry: componenttest.NewTelemetry()}
	cfg := createDefaultConfig().(*Config)
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	set := processor.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: r.telemetry.NewTelemetrySettings()}
	f := NewFactory()
	var err error
	r.logs, err = f.CreateLogs(t.Context(), set, cfg, r.sink)
	require.NoError(t, err)
	r.metrics, err = f.CreateMetrics(t.Context(), set, cfg, r.metricsTo)
	require.NoError(t, err)
	r.traces, err = f.CreateTraces(t.Context(), set, cfg, r.tracesTo)
	require.NoError(t, err)
	for _, p := range []component.Component{r.logs, r.metrics, r.traces} {
		require.NoError(t, p.Start(t.Context(), r.registry))
	}
	t.Cleanup(func() {
		for _, p := range []component.Component{r.logs, r.metrics, r.traces, r.logs} {
			require.NoError(t, p.Shutdown(context.Background()))
		}
		require.NotContains(t, ofConfig.m, cfg, "what the processors share is let go")
		require.NoError(t, r.telemetry.Shutdown(context.Background()))
	})
	return r
}

// as is the context of a request whose credentials are a tenant's.
func (r *rig) as(id string) context.Context {
	t := r.registry.snapshot.Tenant(id)
	require.NotNil(r.t, t, id)
	return tenant.NewContext(context.Background(), tenant.Identity{Tenant: t, Credential: tenant.CredentialKey})
}

func request(s signal.Signal, claimed string, body []byte, events int) plog.Logs {
	ld := plog.NewLogs()
	envelope.Envelope{Signal: s, Tenant: claimed, Source: "agent", Events: events, Received: time.Unix(1, 0), Lane: envelope.LaneFast, Body: body}.Append(ld)
	return ld
}

// got returns the one envelope that went on.
func (r *rig) got() envelope.Envelope {
	r.t.Helper()
	all := r.sink.AllLogs()
	r.sink.Reset()
	require.Len(r.t, all, 1)
	es, err := envelope.All(all[0])
	require.NoError(r.t, err)
	require.Len(r.t, es, 1)
	return es[0]
}

func (r *rig) count(name string, attrs ...string) int64 {
	r.t.Helper()
	return collectortest.Sum(r.t, r.telemetry.Reader, name, attrs...)
}

func requireStatus(t testing.TB, err error, code codes.Code, reason string) *status.Status {
	t.Helper()
	require.Error(t, err)
	st, ok := status.FromError(err)
	require.True(t, ok, "%v", err)
	require.Equal(t, code, st.Code(), "%v", err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			require.Equal(t, reason, info.Reason)
			require.Equal(t, "pulsegrid", info.Domain)
			return st
		}
	}
	t.Fatal("no ErrorInfo")
	return nil
}

func TestAnEnvelopeIsStampedAndItsBytesArePassedOn(t *testing.T) {
	r := start(t, nil)
	for _, s := range signal.All {
		body := otlptest.Realistic(s, 1, 5)
		require.NoError(t, r.logs.ConsumeLogs(r.as("acme"), request(s, "acme", body, 5)))
		e := r.got()
		require.Equal(t, envelope.Envelope{
			Signal: s, Tenant: "acme", Source: "agent", Events: 5, Received: time.Unix(1, 0).UTC(), Lane: envelope.LaneFast, Jurisdiction: "eu", TopicClass: "premium", IDAttribute: "order.id", Body: body,
		}, e)
		require.Same(t, unsafe.SliceData(body), unsafe.SliceData(e.Body), "by reference: its zstd frame is found by it")
		require.EqualValues(t, 5, r.count("tenant_routing_events", "class=premium", "signal="+s.String(), "decision=fast"))
		require.EqualValues(t, len(body), r.count("tenant_routing_bytes", "signal="+s.String()))
	}
	require.NoError(t, r.logs.ConsumeLogs(r.as("late"), request(signal.Logs, "late", otlptest.Logs(1, 5), 5)))
	require.Equal(t, envelope.LaneOverflow, r.got().Lane)
}

func TestAQuotaGoesThroughBothLanesAndThenSendsBack(t *testing.T) {
	r := start(t, nil)
	now := time.Unix(1_800_000_000, 0)
	r.logs.(*routing).limiter.now = func() time.Time { return now }
	body := otlptest.Logs(1, 100)
	send := func() error { return r.logs.ConsumeLogs(r.as("small"), request(signal.Logs, "small", body, 100)) }
	require.NoError(t, send())
	require.Equal(t, envelope.LaneFast, r.got().Lane)
	require.NoError(t, send())
	require.Equal(t, envelope.LaneOverflow, r.got().Lane)
	st := requireStatus(t, send(), codes.ResourceExhausted, tenant.ReasonQuota)
	require.Contains(t, st.Message(), `"small" is over its quota of logs, 100 events/s`)
	require.Equal(t, time.Second, st.Details()[1].(*errdetails.RetryInfo).RetryDelay.AsDuration())
	require.Empty(t, r.sink.AllLogs(), "nothing of it went on")
	require.False(t, consumererror.IsPermanent(send()))
	require.EqualValues(t, 200, r.count("tenant_routing_events", "class=standard", "decision=throttled"))
	now = now.Add(time.Second)
	require.NoError(t, send(), "when it was told")
}

// Guarantees: of a class that the cell sheds the requests go by the overflow lane, whatever quota there is, or are sent back where the receiver has not done so; nothing of these goes on.
func TestAClassThatIsShedGoesByTheOverflowLaneOrIsSentBack(t *testing.T) {
	r := start(t, nil)
	body := otlptest.Logs(1, 5)
	require.NoError(t, r.logs.ConsumeLogs(r.as("spare"), request(signal.Logs, "spare", body, 5)))
	require.Equal(t, envelope.LaneOverflow, r.got().Lane)
	require.EqualValues(t, 5, r.count("tenant_routing_events", "class=spare", "decision=overflow"))
	st := requireStatus(t, r.logs.ConsumeLogs(r.as("trial"), request(signal.Logs, "trial", body, 5)), codes.ResourceExhausted, tenant.ReasonShed)
	require.GreaterOrEqual(t, st.Details()[1].(*errdetails.RetryInfo).RetryDelay.AsDuration(), 30*time.Second)
	require.Empty(t, r.sink.AllLogs())
	require.EqualValues(t, 1, r.count("tenant_routing_requests", "class=trial", "decision=denied"))
}

func TestPipelinesOfOneSignalShareItsQuota(t *testing.T) {
	r := start(t, nil)
	now := time.Unix(1_800_000_000, 0)
	r.logs.(*routing).limiter.now = func() time.Time { return now }
	body := otlptest.Metrics(1, 100)
	n, err := countOf(body)
	require.NoError(t, err)
	require.NoError(t, r.logs.ConsumeLogs(r.as("small"), request(signal.Metrics, "small", body, 100)))
	req := pmetricotlp.NewExportRequest()
	require.NoError(t, req.UnmarshalProto(body))
	require.NotZero(t, n)
	require.NoError(t, r.metrics.ConsumeMetrics(r.as("small"), req.Metrics()))
	lane, _ := r.metricsTo.AllMetrics()[0].ResourceMetrics().At(0).Resource().Attributes().Get(lineage.AttrLane)
	require.Equal(t, envelope.LaneOverflow, lane.Str(), "the envelope took the fast lane's")
}

func countOf(body []byte) (int, error) {
	req := pmetricotlp.NewExportRequest()
	err := req.UnmarshalProto(body)
	return req.Metrics().DataPointCount(), err
}

func TestWhoMayNotSendIsRefusedWhateverTheReceiver(t *testing.T) {
	r := start(t, nil)
	body := otlptest.Metrics(1, 5)
	for id, reason := range map[string]string{"us": tenant.ReasonJurisdiction, "gone": tenant.ReasonSuspended, "logs": tenant.ReasonSignal} {
		requireStatus(t, r.logs.ConsumeLogs(r.as(id), request(signal.Metrics, id, body, 5)), codes.PermissionDenied, reason)
		req := pmetricotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(body))
		requireStatus(t, r.metrics.ConsumeMetrics(r.as(id), req.Metrics()), codes.PermissionDenied, reason)
	}
	requireStatus(t, r.logs.ConsumeLogs(context.Background(), request(signal.Metrics, "acme", body, 5)), codes.Unauthenticated, tenant.ReasonUnknown)
	st := requireStatus(t, r.logs.ConsumeLogs(r.as("moved"), request(signal.Metrics, "moved", body, 5)), codes.Unavailable, tenant.ReasonCell)
	require.Contains(t, st.Message(), "send to https://eu-2.example.com")
	require.Empty(t, r.sink.AllLogs())
	require.Empty(t, r.metricsTo.AllMetrics())
	require.EqualValues(t, 7, r.count("tenant_routing_requests", "decision=denied"))
	require.Zero(t, r.count("tenant_routing_requests", "decision=unavailable"))
	require.EqualValues(t, 1, r.count("tenant_routing_requests", "decision=unauthenticated", "class=none"))
}

func TestTrustTakesTheTenantThatIsNamedIfTheRegistryKnowsIt(t *testing.T) {
	r := start(t, func(c *Config) { c.Unauthenticated, c.DefaultTenant = "trust", "other" })
	ctx, body := context.Background(), otlptest.Logs(1, 5)
	require.NoError(t, r.logs.ConsumeLogs(ctx, request(signal.Logs, "acme", body, 5)))
	require.Equal(t, "acme", r.got().Tenant)
	require.NoError(t, r.logs.ConsumeLogs(ctx, request(signal.Logs, "", body, 5)))
	require.Equal(t, "other", r.got().Tenant)
	requireStatus(t, r.logs.ConsumeLogs(ctx, request(signal.Logs, "nobody", body, 5)), codes.PermissionDenied, tenant.ReasonUnknown)

	td := ptraceotlp.NewExportRequest()
	require.NoError(t, td.UnmarshalProto(otlptest.Spans(2, 4)))
	td.Traces().ResourceSpans().At(0).CopyTo(td.Traces().ResourceSpans().AppendEmpty())
	for i, rs := range td.Traces().ResourceSpans().All() {
		rs.Resource().Attributes().PutStr(lineage.AttrTenant, fmt.Sprint("t", i))
	}
	requireStatus(t, r.traces.ConsumeTraces(ctx, td.Traces()), codes.PermissionDenied, tenant.ReasonSpoofed)

	r.registry.snapshot = nil
	st := requireStatus(t, r.logs.ConsumeLogs(ctx, request(signal.Logs, "acme", body, 5)), codes.Unavailable, tenant.ReasonUnavailable)
	require.Len(t, st.Details(), 2, "and when to come again")
}

// spoofed is a request that names a tenant in an attribute, at one place.
func spoofed(t testing.TB, s signal.Signal, where, key, value string) []byte {
	t.Helper()
	set := func(m pcommon.Map) { m.PutStr(key, value) }
	switch s {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(otlptest.Realistic(s, 1, 4)))
		rl := req.Logs().ResourceLogs().At(0)
		at := map[string]pcommon.Map{"resource": rl.Resource().Attributes(), "scope": rl.ScopeLogs().At(0).Scope().Attributes(), "event": rl.ScopeLogs().At(0).LogRecords().At(0).Attributes()}
		set(at[where])
		b, err := req.MarshalProto()
		require.NoError(t, err)
		return b
	case signal.Traces:
		req := ptraceotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(otlptest.Realistic(s, 1, 4)))
		rs := req.Traces().ResourceSpans().At(0)
		at := map[string]pcommon.Map{"resource": rs.Resource().Attributes(), "scope": rs.ScopeSpans().At(0).Scope().Attributes(), "event": rs.ScopeSpans().At(0).Spans().At(0).Attributes()}
		set(at[where])
		b, err := req.MarshalProto()
		require.NoError(t, err)
		return b
	}
	req := pmetricotlp.NewExportRequest()
	md := req.Metrics().ResourceMetrics().AppendEmpty()
	sm := md.ScopeMetrics().AppendEmpty()
	for range 5 {
		sm.Metrics().AppendEmpty().SetName("m")
	}
	var event pcommon.Map
	for i, m := range []func() pcommon.Map{
		func() pcommon.Map { return sm.Metrics().At(0).SetEmptyGauge().DataPoints().AppendEmpty().Attributes() },
		func() pcommon.Map { return sm.Metrics().At(1).SetEmptySum().DataPoints().AppendEmpty().Attributes() },
		func() pcommon.Map {
			return sm.Metrics().At(2).SetEmptyHistogram().DataPoints().AppendEmpty().Attributes()
		},
		func() pcommon.Map {
			return sm.Metrics().At(3).SetEmptyExponentialHistogram().DataPoints().AppendEmpty().Attributes()
		},
		func() pcommon.Map {
			return sm.Metrics().At(4).SetEmptySummary().DataPoints().AppendEmpty().Attributes()
		},
	} {
		attrs := m()
		if event == (pcommon.Map{}) || where == fmt.Sprint("event", i) {
			event = attrs
		}
	}
	switch where {
	case "resource":
		set(md.Resource().Attributes())
	case "scope":
		set(sm.Scope().Attributes())
	default:
		set(event)
	}
	b, err := req.MarshalProto()
	require.NoError(t, err)
	return b
}

// Guarantees: wherever a request names another tenant, it is overwritten or refused as configured; in envelopes and in plain pdata.
func TestARequestCannotNameAnotherTenant(t *testing.T) {
	for _, s := range signal.All {
		places := []string{"resource", "scope", "event"}
		if s == signal.Metrics {
			places = []string{"resource", "scope", "event0", "event1", "event2", "event3", "event4"}
		}
		for _, where := range places {
			t.Run(s.String()+" "+where, func(t *testing.T) {
				body := spoofed(t, s, where, "tenant.id", "other")
				r := start(t, func(c *Config) { c.TenantAttributes = []string{"tenant.id"} })
				require.NoError(t, r.logs.ConsumeLogs(r.as("acme"), request(s, "acme", body, 5)))
				require.Equal(t, spoofed(t, s, where, "tenant.id", "acme"), r.got().Body)
				require.NoError(t, r.plain(s, "acme", body))
				require.Equal(t, "acme", r.named(s, where))
				require.EqualValues(t, 2, r.count("tenant_routing_overwritten", "class=premium"))
				own := spoofed(t, s, where, "tenant.id", "acme")
				require.NoError(t, r.logs.ConsumeLogs(r.as("acme"), request(s, "acme", own, 5)))
				require.Same(t, unsafe.SliceData(own), unsafe.SliceData(r.got().Body), "its own name is no claim")

				r = start(t, func(c *Config) { c.TenantAttributes, c.Spoofed = []string{"tenant.id"}, "refuse" })
				requireStatus(t, r.logs.ConsumeLogs(r.as("acme"), request(s, "acme", body, 5)), codes.PermissionDenied, tenant.ReasonSpoofed)
				requireStatus(t, r.plain(s, "acme", body), codes.PermissionDenied, tenant.ReasonSpoofed)
				require.EqualValues(t, 2, r.count("tenant_routing_requests", "decision=spoofed"))
			})
		}
	}
}

// plain sends a request as plain pdata.
func (r *rig) plain(s signal.Signal, as string, body []byte) error {
	switch s {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		require.NoError(r.t, req.UnmarshalProto(body))
		return r.logs.ConsumeLogs(r.as(as), req.Logs())
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		require.NoError(r.t, req.UnmarshalProto(body))
		return r.metrics.ConsumeMetrics(r.as(as), req.Metrics())
	}
	req := ptraceotlp.NewExportRequest()
	require.NoError(r.t, req.UnmarshalProto(body))
	return r.traces.ConsumeTraces(r.as(as), req.Traces())
}

// named is what tenant.id says at a place of what went on last.
func (r *rig) named(s signal.Signal, where string) string {
	var m pcommon.Map
	switch s {
	case signal.Logs:
		all := r.sink.AllLogs()
		rl := all[len(all)-1].ResourceLogs().At(0)
		m = map[string]pcommon.Map{"resource": rl.Resource().Attributes(), "scope": rl.ScopeLogs().At(0).Scope().Attributes(), "event": rl.ScopeLogs().At(0).LogRecords().At(0).Attributes()}[where]
		r.sink.Reset()
	case signal.Traces:
		rs := r.tracesTo.AllTraces()[0].ResourceSpans().At(0)
		m = map[string]pcommon.Map{"resource": rs.Resource().Attributes(), "scope": rs.ScopeSpans().At(0).Scope().Attributes(), "event": rs.ScopeSpans().At(0).Spans().At(0).Attributes()}[where]
	default:
		rm := r.metricsTo.AllMetrics()[0].ResourceMetrics().At(0)
		sm := rm.ScopeMetrics().At(0)
		m = map[string]pcommon.Map{
			"resource": rm.Resource().Attributes(), "scope": sm.Scope().Attributes(),
			"event0": sm.Metrics().At(0).Gauge().DataPoints().At(0).Attributes(), "event1": sm.Metrics().At(1).Sum().DataPoints().At(0).Attributes(),
			"event2": sm.Metrics().At(2).Histogram().DataPoints().At(0).Attributes(), "event3": sm.Metrics().At(3).ExponentialHistogram().DataPoints().At(0).Attributes(),
			"event4": sm.Metrics().At(4).Summary().DataPoints().At(0).Attributes(),
		}[where]
	}
	v, _ := m.Get("tenant.id")
	return v.Str()
}

func TestTheReservedAttributeAndAnEnvelopesTenantAreClaimsToo(t *testing.T) {
	r := start(t, nil)
	body := spoofed(t, signal.Logs, "resource", lineage.AttrTenant, "other")
	require.NoError(t, r.logs.ConsumeLogs(r.as("acme"), request(signal.Logs, "acme", body, 4)))
	got := r.got()
	require.Equal(t, spoofed(t, signal.Logs, "resource", lineage.AttrTenant, "acme"), got.Body)
	want := eventid.Request{Digest: eventid.Digest(body), Whole: true}
	require.Equal(t, want.Encode(), got.Request, "the request is what was sent, not what was made of it")
	require.NoError(t, r.logs.ConsumeLogs(r.as("acme"), request(signal.Logs, "other", otlptest.Logs(1, 4), 4)))
	got = r.got()
	require.Equal(t, "acme", got.Tenant)
	require.Nil(t, got.Request, "nothing was changed: no digest is made")
	require.Equal(t, "order.id", got.IDAttribute)

	part := request(signal.Logs, "acme", body, 4)
	es, err := envelope.All(part)
	require.NoError(t, err)
	es[0].Request = []byte("of another component")
	part = plog.NewLogs()
	es[0].Append(part)
	require.NoError(t, r.logs.ConsumeLogs(r.as("acme"), part))
	require.Equal(t, "of another component", string(r.got().Request), "whoever divided it knows what it is")

	require.NoError(t, r.plain(signal.Logs, "acme", body))
	attrs := r.sink.AllLogs()[0].ResourceLogs().At(0).Resource().Attributes()
	o, _ := lineage.ReadResource(attrs)
	require.Equal(t, "acme", o.Tenant)
	require.Equal(t, lineage.Route{Lane: envelope.LaneFast, Jurisdiction: "eu", TopicClass: "premium", IDAttribute: "order.id"}, lineage.ReadRoute(attrs))
}

func TestAnEnvelopeThatCannotBeReadIsRefusedForGood(t *testing.T) {
	r := start(t, nil)
	ld := request(signal.Logs, "acme", otlptest.Logs(1, 4), 4)
	ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().Clear()
	require.True(t, consumererror.IsPermanent(r.logs.ConsumeLogs(r.as("acme"), ld)))
	require.EqualValues(t, 1, r.count("tenant_routing_requests", "decision=invalid"))
}

func TestWithoutARegistryItDoesNotStart(t *testing.T) {
	set := processor.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	p, err := NewFactory().CreateLogs(t.Context(), set, createDefaultConfig(), consumertest.NewNop())
	require.NoError(t, err)
	require.ErrorContains(t, p.Start(t.Context(), componenttest.NewNopHost()), "service::extensions")
	require.NoError(t, p.Shutdown(t.Context()))
	require.NoError(t, p.Shutdown(t.Context()))
}

// BenchmarkRoute is what a request of 500 events costs, with and without attributes to look for.
func BenchmarkRoute(b *testing.B) {
	body := otlptest.Realistic(signal.Logs, 1, 500)
	for name, attributes := range map[string][]string{"reserved": nil, "and_tenant.id": {"tenant.id"}} {
		b.Run(name, func(b *testing.B) {
			r := start(b, func(c *Config) { c.TenantAttributes = attributes })
			p, err := newProcessor(processor.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, r.logs.(*routing).cfg, sinks{logs: consumertest.NewNop()})
			require.NoError(b, err)
			require.NoError(b, p.Start(b.Context(), r.registry))
			defer func() { _ = p.Shutdown(context.Background()) }()
			ctx := r.as("acme")
			b.ReportAllocs()
			for b.Loop() {
				if err := p.ConsumeLogs(ctx, request(signal.Logs, "acme", body, 500)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/500, "ns/event")
		})
	}
}

// Guarantees: what the receiver could not decode stays in the quarantine lane, as it came, whatever it seems to claim, and gets its tenant.
func TestWhatIsInQuarantineStaysThere(t *testing.T) {
	r := start(t, nil)
	kept := envelope.Envelope{
		Signal: signal.Logs, Source: "agent", Received: time.Unix(1, 0), Lane: envelope.LaneQuarantine, Body: []byte("\xff\xffpulsegrid.tenant"),
		Quarantine: &envelope.Quarantine{Code: "undecodable", Reason: "it is no OTLP", ContentType: "application/x-protobuf", PII: true},
	}
	ld := plog.NewLogs()
	kept.Append(ld)
	require.NoError(t, r.logs.ConsumeLogs(r.as("acme"), ld))
	got := r.got()
	require.Equal(t, envelope.LaneQuarantine, got.Lane)
	require.Equal(t, "acme", got.Tenant)
	require.Equal(t, kept.Body, got.Body)
	require.Equal(t, kept.Quarantine.Reason, got.Quarantine.Reason)
}

// Guarantees: bodies that nobody can decode cost what events of their size would, and a tenant without a quota cannot fill the quarantine with them.
func TestBodiesThatCannotBeDecodedAreNotFree(t *testing.T) {
	junk := func(size int) plog.Logs {
		ld := plog.NewLogs()
		envelope.Envelope{
			Signal: signal.Logs, Source: "agent", Received: time.Unix(1, 0), Lane: envelope.LaneQuarantine, Body: make([]byte, size),
			Quarantine: &envelope.Quarantine{Code: "undecodable", Reason: "it is no OTLP", ContentType: "application/x-protobuf", PII: true},
		}.Append(ld)
		return ld
	}
	for name, c := range map[string]struct {
		tenant string
		size   int
		kept   int // of 200
	}{
		"quota of 100 events/s and a burst as large, small bodies": {"small", 10, 200},
		"the same, bodies of 50 KiB":                               {"small", 50 << 10, 4},
		"no quota, 1 MiB/s":                                        {"acme", 256 << 10, 4},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, nil)
			now := time.Unix(1_800_000_000, 0)
			r.logs.(*routing).limiter.now = func() time.Time { return now }
			kept := 0
			for range 300 {
				if err := r.logs.ConsumeLogs(r.as(c.tenant), junk(c.size)); err == nil {
					require.Equal(t, envelope.LaneQuarantine, r.got().Lane)
					kept++
				} else {
					requireStatus(t, err, codes.ResourceExhausted, tenant.ReasonQuota)
				}
			}
			require.Equal(t, c.kept, kept)
			now = now.Add(time.Minute)
			require.NoError(t, r.logs.ConsumeLogs(r.as(c.tenant), junk(c.size)), "later it is kept")
		})
	}
	t.Run("no limit where none is wanted", func(t *testing.T) {
		r := start(t, func(c *Config) { c.UndecodableBytesPerSecond = 0 })
		for range 300 {
			require.NoError(t, r.logs.ConsumeLogs(r.as("acme"), junk(256<<10)))
		}
	})
}
