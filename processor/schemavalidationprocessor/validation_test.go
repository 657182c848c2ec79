package schemavalidationprocessor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.uber.org/goleak"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

const registry = `
groups:
  - {id: e, type: event, name: e, attributes: [{id: n, type: int, requirement_level: required}]}
  - {id: m, type: metric, metric_name: m, instrument: gauge, unit: s, attributes: [{ref: n, requirement_level: required}]}
  - {id: s, type: span, span_kind: client, annotations: {pulsegrid: {match: {name: "s*"}}}, attributes: [{ref: n, requirement_level: required}]}
`

func load(t testing.TB, content string) *schema.Registry {
	t.Helper()
	r, err := schema.Load([]schema.File{{Name: "r.yaml", Content: []byte(content)}})
	require.NoError(t, err)
	return r
}

// extensions is a host's: a registry and tenants' policies.
type extensions struct {
	component.StartFunc
	component.ShutdownFunc
	inForce  atomic.Pointer[schema.InForce]
	policies map[string]schema.Policy
}

func (e *extensions) InForce() *schema.InForce { return e.inForce.Load() }

func (e *extensions) SchemaPolicy(tenant string) (schema.Policy, bool) {
	p, ok := e.policies[tenant]
	return p, ok
}

func (e *extensions) GetExtensions() map[component.ID]component.Component {
	return map[component.ID]component.Component{component.MustNewID("schema_registry"): e, component.MustNewID("other"): componenttestNop{}}
}

type componenttestNop struct {
	component.StartFunc
	component.ShutdownFunc
}

type rig struct {
	t         *testing.T
	host      *extensions
	telemetry *componenttest.Telemetry
}

func config(change func(*Config)) *Config {
	cfg := createDefaultConfig()
	cfg.Registry, cfg.Tenants = component.MustNewID("schema_registry"), component.MustNewID("schema_registry")
	cfg.Limits.AgeMax, cfg.Limits.FutureMax = 0, 0
	if change != nil {
		change(cfg)
	}
	return cfg
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, host: &extensions{}, telemetry: componenttest.NewTelemetry()}
	r.host.inForce.Store(&schema.InForce{Registry: load(t, registry)})
	t.Cleanup(func() { require.NoError(t, r.telemetry.Shutdown(context.Background())) })
	return r
}

func (r *rig) started(c component.Component, err error) {
	r.t.Helper()
	require.NoError(r.t, err)
	require.NoError(r.t, c.Start(r.t.Context(), r.host))
	r.t.Cleanup(func() {
		require.NoError(r.t, c.Shutdown(context.Background()))
		require.NoError(r.t, c.Shutdown(context.Background()), "a second time")
	})
}

func (r *rig) logs(change func(*Config), next consumer.Logs) consumer.Logs {
	set := processortest.NewNopSettings(metadata.Type())
	set.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	p, err := NewFactory().CreateLogs(r.t.Context(), set, config(change), next)
	r.started(p, err)
	return p
}

func (r *rig) value(name string, attrs ...string) int64 {
	r.t.Helper()
	return collectortest.Sum(r.t, r.telemetry.Reader, name, attrs...)
}

// records are log records e, of which those at fault lack n.
func records(n int, atFault ...int) plog.Logs {
	ld := plog.NewLogs()
	lrs := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for i := range n {
		lr := lrs.AppendEmpty()
		lr.SetEventName("e")
		lr.Body().SetInt(int64(i))
		lr.Attributes().PutInt("n", 1)
		for _, f := range atFault {
			if f == i {
				lr.Attributes().Clear()
			}
		}
	}
	return ld
}

func enveloped(t *testing.T, tenant string, ld plog.Logs) envelope.Envelope {
	b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	return envelope.Envelope{Signal: signal.Logs, Tenant: tenant, Events: ld.LogRecordCount(), Received: time.Unix(1_780_000_000, 0).UTC(), Lane: envelope.LaneFast, Body: b}
}

func consume(t *testing.T, ctx context.Context, p consumer.Logs, es ...envelope.Envelope) error {
	t.Helper()
	ld := plog.NewLogs()
	for _, e := range es {
		e.Append(ld)
	}
	return p.ConsumeLogs(ctx, ld)
}

func taken(t *testing.T, sink *consumertest.LogsSink) (out []envelope.Envelope) {
	t.Helper()
	for _, ld := range sink.AllLogs() {
		es, err := envelope.All(ld)
		require.NoError(t, err)
		out = append(out, es...)
	}
	sink.Reset()
	return out
}

// Guarantees: the policy of the envelope's tenant says what becomes of it. Whatever that is, the bytes that go on are the bytes that came.
func TestTheTenantsPolicyHolds(t *testing.T) {
	r := newRig(t)
	r.host.policies = map[string]schema.Policy{"lenient": {Mode: schema.Warn}, "off": {Mode: schema.Off}, "strict": {Unknown: schema.Strict}}
	sink := &consumertest.LogsSink{}
	p := r.logs(nil, sink)
	version := r.host.inForce.Load().Registry.Version()
	for tenant, want := range map[string]struct {
		found   []int
		version string
		flagged int
	}{
		"any": {[]int{1, 3}, version, 0}, "lenient": {nil, version, 2}, "off": {nil, "", 0}, "strict": {[]int{1, 3, 4}, version, 0},
	} {
		ld := records(5, 1, 3)
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(4).Attributes().PutStr("else", "x")
		e := enveloped(t, tenant, ld)
		ctx, result := envelope.WithResult(t.Context())
		require.NoError(t, consume(t, ctx, p, e))
		got := taken(t, sink)
		require.Len(t, got, 1)
		require.Same(t, unsafe.SliceData(e.Body), unsafe.SliceData(got[0].Body))
		require.Equal(t, want.version, got[0].SchemaVersion, tenant)
		var found []int
		if got[0].Findings != nil {
			findings, err := schema.DecodeFindings(got[0].Findings)
			require.NoError(t, err)
			for _, f := range findings {
				found = append(found, f.Event)
			}
		}
		require.Equal(t, want.found, found, tenant)
		rejected, flagged, reasons := result.Read()
		require.Zero(t, rejected, "only the quarantine rejects")
		require.Equal(t, want.flagged, flagged, tenant)
		require.Len(t, reasons, want.flagged)
		got[0].Findings, got[0].SchemaVersion = nil, ""
		require.Equal(t, e, got[0])
	}
	require.EqualValues(t, 5, r.value("schema_validation_events", "outcome=invalid", "signal=logs"))
	require.EqualValues(t, 2, r.value("schema_validation_events", "outcome=flagged"))
	require.EqualValues(t, 5, r.value("schema_validation_events", "outcome=unchecked"))
	require.EqualValues(t, 8, r.value("schema_validation_events", "outcome=valid"))
	require.EqualValues(t, 6, r.value("schema_validation_violations", "code=attribute_missing"))
	require.EqualValues(t, 1, r.value("schema_validation_violations", "code=attribute_unknown"))
}

// Guarantees: a registry that has been reloaded counts from the next request on.
func TestANewRegistryHoldsAtOnce(t *testing.T) {
	r := newRig(t)
	sink := &consumertest.LogsSink{}
	p := r.logs(nil, sink)
	require.NoError(t, consume(t, t.Context(), p, enveloped(t, "t", records(2))))
	require.Nil(t, taken(t, sink)[0].Findings)
	r.host.inForce.Store(&schema.InForce{Registry: load(t, "groups: [{id: e, type: event, name: e, attributes: [{id: other, type: int, requirement_level: required}]}]")})
	require.NoError(t, consume(t, t.Context(), p, enveloped(t, "t", records(2))))
	got := taken(t, sink)[0]
	require.NotNil(t, got.Findings)
	require.Equal(t, r.host.inForce.Load().Registry.Version(), got.SchemaVersion)
	require.NoError(t, consume(t, t.Context(), p, enveloped(t, "t", func() plog.Logs {
		ld := records(1)
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).SetEventName("unknown")
		return ld
	}())))
	require.EqualValues(t, 1, r.value("schema_validation_events_without_schema"))
}

// proposed asks for one attribute more than registry does.
const proposed = "groups: [{id: e, type: event, name: e, attributes: [{id: n, type: int, requirement_level: required}, {id: m, type: int, requirement_level: required}]}]"

// Guarantees: while a rollout warns, what the version in force says holds, and nobody hears what the proposed one says; when it is enforced, what that says holds. Both times its own
// refusals are counted, by tenant, of envelopes and decoded events alike; a tenant that is not checked is not counted.
func TestARolloutIsCompared(t *testing.T) {
	r := newRig(t)
	r.host.policies = map[string]schema.Policy{"off": {Mode: schema.Off}, "lenient": {Mode: schema.Warn}}
	sink := &consumertest.LogsSink{}
	p := r.logs(nil, sink)
	current, next := load(t, registry), load(t, proposed)
	some := func() plog.Logs { // event 0 violates both, 1 the proposed version, 2 neither
		ld := records(3, 0)
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(2).Attributes().PutInt("m", 1)
		return ld
	}
	for stage, want := range map[schema.Stage]struct {
		inForce, beside *schema.Registry
		found           []int
	}{schema.StageWarn: {current, next, []int{0}}, schema.StageEnforce: {next, current, []int{0, 1}}} {
		trial := &schema.Trial{Rollout: schema.Rollout{Stage: stage}, Beside: want.beside}
		r.host.inForce.Store(&schema.InForce{Registry: want.inForce, Trial: trial})
		for _, tenant := range []string{"acme", "off", "lenient"} {
			ctx, result := envelope.WithResult(t.Context())
			require.NoError(t, consume(t, ctx, p, enveloped(t, tenant, some())))
			got := taken(t, sink)[0]
			_, flagged, _ := result.Read()
			if tenant == "off" {
				require.Empty(t, got.SchemaVersion)
				continue
			}
			require.Equal(t, want.inForce.Version(), got.SchemaVersion)
			if tenant == "lenient" {
				require.Equal(t, len(want.found), flagged)
				continue
			}
			findings, err := schema.DecodeFindings(got.Findings)
			require.NoError(t, err)
			require.Len(t, findings, len(want.found))
			for i, f := range findings {
				require.Equal(t, want.found[i], f.Event)
			}
		}
		ld := some()
		lineage.StampResource(ld.ResourceLogs().At(0).Resource().Attributes(), lineage.Origin{Tenant: "decoded", Received: time.Unix(1, 0)})
		require.NoError(t, p.ConsumeLogs(t.Context(), ld))
		sink.Reset()
		one := func(tenant string) schema.TenantTrial {
			return schema.TenantTrial{Tenant: tenant, Events: 3, Refused: 1, Code: schema.AttributeMissing}
		}
		require.Equal(t, []schema.TenantTrial{one("acme"), one("decoded"), one("lenient")}, trial.Tenants(), stage)
	}
}

// Guarantee: without a rollout a request costs no memory but for its check and its metrics.
func TestWithoutARolloutNothingIsAllocated(t *testing.T) {
	r := newRig(t)
	p := r.logs(nil, consumertest.NewNop()).(*logs)
	e := enveloped(t, "acme", records(10))
	checker := schema.NewChecker(r.host.inForce.Load().Registry, p.cfg.Limits)
	// least is what the cheapest of many runs allocates: under the race detector a sync.Pool forgets a part of what it is given.
	least := func(run func()) (n float64) {
		n = testing.AllocsPerRun(1, run)
		for range 100 {
			n = min(n, testing.AllocsPerRun(1, run))
		}
		return n
	}
	measured := least(func() {
		if _, err := checker.Check(e.Signal, e.Body, schema.Open, e.Received); err != nil {
			t.Fatal(err)
		}
		p.duration.Record(t.Context(), 1, p.plain)
		p.events.Add(t.Context(), 1, p.valid[e.Signal])
	})
	require.Equal(t, measured, least(func() {
		if _, err := p.envelope(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}))
}

// BenchmarkRollout is what an envelope of 100 valid events costs, by stage.
func BenchmarkRollout(b *testing.B) {
	cfg := config(func(c *Config) { c.Registry, c.Tenants = component.ID{}, component.ID{} })
	for _, stage := range []schema.Stage{"none", schema.StageWarn, schema.StageEnforce} {
		b.Run(string(stage), func(b *testing.B) {
			v, err := newValidation(processortest.NewNopSettings(metadata.Type()), cfg)
			require.NoError(b, err)
			now := &schema.InForce{Registry: load(b, registry)}
			if stage != "none" {
				now.Trial = &schema.Trial{Rollout: schema.Rollout{Stage: stage}, Beside: load(b, registry)}
			}
			v.checking.Store(v.checkingOf(now))
			l := &logs{v, consumertest.NewNop()}
			body, err := plogotlp.NewExportRequestFromLogs(records(100)).MarshalProto()
			require.NoError(b, err)
			e := envelope.Envelope{Signal: signal.Logs, Tenant: "t", Events: 100, Received: time.Unix(1_780_000_000, 0), Lane: envelope.LaneFast, Body: body}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.envelope(b.Context(), e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Guarantees: what is in quarantine already goes through; bytes that are no request, and records that are no envelopes among envelopes, are refused for
// good; an error of what comes next is handed back.
func TestWhatCannotBeChecked(t *testing.T) {
	r := newRig(t)
	sink := &consumertest.LogsSink{}
	p := r.logs(nil, sink)
	q := envelope.Envelope{Signal: signal.Logs, Tenant: "t", Lane: envelope.LaneQuarantine, Body: []byte("?"), Quarantine: &envelope.Quarantine{Code: "undecodable"}}
	require.NoError(t, consume(t, t.Context(), p, q))
	require.Equal(t, q, taken(t, sink)[0])
	e := enveloped(t, "t", records(1))
	e.Body = []byte{0x0a, 9}
	err := consume(t, t.Context(), p, e)
	require.True(t, consumererror.IsPermanent(err), err)
	failing := r.logs(nil, consumertest.NewErr(fmt.Errorf("down")))
	require.ErrorContains(t, consume(t, t.Context(), failing, enveloped(t, "t", records(1))), "down")
}

func TestWithoutARegistryLimitsHold(t *testing.T) {
	r := newRig(t)
	sink := &consumertest.LogsSink{}
	p := r.logs(func(c *Config) { c.Registry, c.Limits.AttributesMax = component.ID{}, 1 }, sink)
	ld := records(2, 0)
	ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(1).Attributes().PutInt("m", 1)
	require.NoError(t, consume(t, t.Context(), p, enveloped(t, "t", ld)))
	got := taken(t, sink)[0]
	findings, err := schema.DecodeFindings(got.Findings)
	require.NoError(t, err)
	require.Equal(t, schema.TooManyAttributes, findings[0].Verdicts[0].Code)
	require.Len(t, findings, 1)
	require.Empty(t, got.SchemaVersion)
}

func TestStartNamesTheExtensionThatIsMissing(t *testing.T) {
	r := newRig(t)
	for want, change := range map[string]func(*Config){
		`registry: extension "gone"`:  func(c *Config) { c.Registry = component.MustNewID("gone") },
		`registry: extension "other"`: func(c *Config) { c.Registry = component.MustNewID("other") },
		`tenants: extension "other"`:  func(c *Config) { c.Tenants = component.MustNewID("other") },
	} {
		p, err := NewFactory().CreateLogs(t.Context(), processortest.NewNopSettings(metadata.Type()), config(change), consumertest.NewNop())
		require.NoError(t, err)
		require.ErrorContains(t, p.Start(t.Context(), r.host), want)
		require.NoError(t, p.Shutdown(t.Context()))
	}
}

func bodies(ld plog.Logs) (out []string) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				s := lr.Body().AsString()
				if f, ok := lr.Attributes().Get(attrFindings); ok {
					s += " " + f.Str()
				}
				out = append(out, s)
			}
		}
	}
	return out
}

const missing = ` [{"event":0,"verdicts":[{"code":"attribute_missing","path":"attributes[\"n\"]","expected":"int","schema":"%s"}]}]`

// Guarantees: decoded events at fault get their verdicts as an attribute, or are dropped and counted, under the policy of the tenant that their resource
// is stamped with; the others stay as they are.
func TestDecodedEventsAreMarkedOrDropped(t *testing.T) {
	r := newRig(t)
	r.host.policies = map[string]schema.Policy{"lenient": {Mode: schema.Warn}, "off": {Mode: schema.Off}}
	two := func() plog.Logs {
		ld := records(3, 1)
		for _, tenant := range []string{"lenient", "off", "t"} {
			rl := ld.ResourceLogs().AppendEmpty()
			records(2, 0, 1).ResourceLogs().At(0).CopyTo(rl)
			lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: tenant, Received: time.Unix(1, 0)})
		}
		return ld
	}
	sink := &consumertest.LogsSink{}
	require.NoError(t, r.logs(nil, sink).ConsumeLogs(t.Context(), two()))
	m := fmt.Sprintf(missing, "e")
	require.Equal(t, []string{"0", "1" + m, "2", "0", "1", "0", "1", "0" + m, "1" + m}, bodies(sink.AllLogs()[0]))

	sink.Reset()
	drop := func(c *Config) { c.Pdata = pdataDrop }
	dropping := r.logs(drop, sink)
	ctx, result := envelope.WithResult(t.Context())
	require.NoError(t, dropping.ConsumeLogs(ctx, two()))
	require.Equal(t, []string{"0", "2", "0", "1", "0", "1"}, bodies(sink.AllLogs()[0]))
	rejected, flagged, _ := result.Read()
	require.Equal(t, 3, rejected)
	require.Equal(t, 2, flagged)
	require.EqualValues(t, 3, r.value("schema_validation_dropped_events", "signal=logs"))
	sink.Reset()
	require.NoError(t, dropping.ConsumeLogs(t.Context(), records(1, 0)))
	require.Empty(t, sink.AllLogs(), "nothing is left to hand on")
}

func TestDecodedMetricsAndSpans(t *testing.T) {
	r := newRig(t)
	md := pmetric.NewMetrics()
	m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("m")
	m.SetUnit("s")
	points := m.SetEmptyGauge().DataPoints()
	for i := range 3 {
		p := points.AppendEmpty()
		p.SetTimestamp(1)
		p.SetIntValue(int64(i))
		if i != 1 {
			p.Attributes().PutInt("n", 1)
		}
	}
	td := ptrace.NewTraces()
	spans := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	for i := range 3 {
		sp := spans.AppendEmpty()
		sp.SetName(fmt.Sprint("s", i))
		sp.SetKind(ptrace.SpanKindClient)
		sp.SetStartTimestamp(pcommon.Timestamp(1))
		if i != 1 {
			sp.Attributes().PutInt("n", 1)
		}
	}
	for _, mode := range []string{pdataAttach, pdataDrop} {
		set := processortest.NewNopSettings(metadata.Type())
		cfg := config(func(c *Config) { c.Pdata = mode })
		metricsSink, tracesSink := &consumertest.MetricsSink{}, &consumertest.TracesSink{}
		mp, err := NewFactory().CreateMetrics(t.Context(), set, cfg, metricsSink)
		r.started(mp, err)
		tp, err := NewFactory().CreateTraces(t.Context(), set, cfg, tracesSink)
		r.started(tp, err)
		metricsIn, tracesIn := pmetric.NewMetrics(), ptrace.NewTraces()
		md.CopyTo(metricsIn)
		td.CopyTo(tracesIn)
		require.NoError(t, mp.ConsumeMetrics(t.Context(), metricsIn))
		require.NoError(t, tp.ConsumeTraces(t.Context(), tracesIn))
		gotPoints := metricsSink.AllMetrics()[0].ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints()
		gotSpans := tracesSink.AllTraces()[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans()
		if mode == pdataDrop {
			require.Equal(t, 2, gotPoints.Len())
			require.EqualValues(t, 2, gotPoints.At(1).IntValue())
			require.Equal(t, 2, gotSpans.Len())
			require.Equal(t, "s2", gotSpans.At(1).Name())
			continue
		}
		for i := range 3 {
			f, marked := gotPoints.At(i).Attributes().Get(attrFindings)
			require.Equal(t, i == 1, marked)
			g, marked := gotSpans.At(i).Attributes().Get(attrFindings)
			require.Equal(t, i == 1, marked)
			if marked {
				require.Equal(t, fmt.Sprintf(missing, "m"), " "+f.Str())
				require.Equal(t, fmt.Sprintf(missing, "s"), " "+g.Str())
			}
		}
	}
}

func TestConfig(t *testing.T) {
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	want := createDefaultConfig()
	for _, id := range []string{"schema_validation", "schema_validation/all"} {
		sub, err := conf.Sub(id)
		require.NoError(t, err)
		cfg := createDefaultConfig()
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		require.Equal(t, want, cfg)
		want.Registry, want.Tenants = component.MustNewID("schema_registry"), component.MustNewID("tenant_auth")
	}
	for key, spoil := range map[string]func(*Config){
		`policy::mode: is "perhaps"`:               func(c *Config) { c.Policy.Mode = "perhaps" },
		`policy::unknown_attributes: is "perhaps"`: func(c *Config) { c.Policy.Unknown = "perhaps" },
		"limits::depth_max: is -1":                 func(c *Config) { c.Limits.DepthMax = -1 },
		`pdata: is "keep"`:                         func(c *Config) { c.Pdata = "keep" },
	} {
		cfg := createDefaultConfig()
		spoil(cfg)
		require.ErrorContains(t, cfg.Validate(), key)
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, example, found := strings.Cut(string(readme), "```yaml\n")
	require.True(t, found)
	example, _, _ = strings.Cut(example, "```")
	var all map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(example), &all))
	sub, err := confmap.NewFromStringMap(all).Sub("processors::schema_validation")
	require.NoError(t, err)
	cfg := createDefaultConfig()
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	require.Equal(t, schema.Warn, cfg.Policy.Mode)
}
