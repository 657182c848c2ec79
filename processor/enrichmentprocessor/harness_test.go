package enrichmentprocessor

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

const patience = 30 * time.Second

// host has an extension that holds tenants, itself.
type host struct {
	collectortest.Host
	component.StartFunc
	component.ShutdownFunc

	mu       sync.Mutex
	snapshot *tenant.Snapshot
}

func newHost() *host {
	h := &host{}
	h.Extensions = map[component.ID]component.Component{component.MustNewID("tenant_auth"): h}
	return h
}

func (h *host) Jurisdiction() string { return "eu" }

func (h *host) Cell() string { return "" }

func (h *host) Snapshot() *tenant.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.snapshot
}

func snapshotOf(t testing.TB, yaml string) *tenant.Snapshot {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tenants.yaml"), []byte(yaml), 0o600))
	source, err := fileset.Open(t.Context(), dir)
	require.NoError(t, err)
	loader := tenant.NewLoader(source)
	report, err := loader.Reload(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Refused)
	return loader.Snapshot()
}

// rig is a component in a pipeline of each signal.
type rig struct {
	t         testing.TB
	dir       string // of the tables
	cfg       *Config
	host      *host
	procs     map[signal.Signal]component.Component
	take      func(pdata any) error // plays the next consumer
	logs      *observer.ObservedLogs
	telemetry *componenttest.Telemetry
}

func newRig(t testing.TB, change func(*Config), files map[string]string) *rig {
	t.Helper()
	r := &rig{t: t, dir: filepath.Join(t.TempDir(), "tables"), host: newHost(), procs: map[signal.Signal]component.Component{}, telemetry: componenttest.NewTelemetry()}
	for name, content := range files {
		r.write(name, content)
	}
	r.cfg = createDefaultConfig().(*Config)
	r.cfg.Tables.ReloadInterval = minReloadInterval
	change(r.cfg)
	if len(r.cfg.Lookups) > 0 {
		r.cfg.Tables.Location = r.dir
	}
	require.NoError(t, r.cfg.Validate())
	core, logs := observer.New(zap.InfoLevel)
	set := processor.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: r.telemetry.NewTelemetrySettings()}
	set.Logger, r.logs = zap.New(core), logs
	next := func(d any) error {
		if r.take == nil {
			return nil
		}
		return r.take(d)
	}
	f := NewFactory()
	nl, err := consumer.NewLogs(func(_ context.Context, d plog.Logs) error { return next(d) })
	require.NoError(t, err)
	nm, err := consumer.NewMetrics(func(_ context.Context, d pmetric.Metrics) error { return next(d) })
	require.NoError(t, err)
	nt, err := consumer.NewTraces(func(_ context.Context, d ptrace.Traces) error { return next(d) })
	require.NoError(t, err)
	r.procs[signal.Logs], err = f.CreateLogs(t.Context(), set, r.cfg, nl)
	require.NoError(t, err)
	r.procs[signal.Metrics], err = f.CreateMetrics(t.Context(), set, r.cfg, nm)
	require.NoError(t, err)
	r.procs[signal.Traces], err = f.CreateTraces(t.Context(), set, r.cfg, nt)
	require.NoError(t, err)
	t.Cleanup(func() {
		for range 2 { // a second time does no harm
			for _, p := range r.procs {
				require.NoError(t, p.Shutdown(context.Background()))
			}
		}
		require.NotContains(t, ofConfig.m, r.cfg, "what the processors share is let go")
		require.NoError(t, r.telemetry.Shutdown(context.Background()))
	})
	return r
}

func (r *rig) start() *rig {
	r.t.Helper()
	for _, p := range r.procs {
		require.NoError(r.t, p.Start(r.t.Context(), r.host))
	}
	return r
}

func start(t testing.TB, change func(*Config), files map[string]string) *rig {
	t.Helper()
	return newRig(t, change, files).start()
}

func (r *rig) write(name, content string) {
	r.t.Helper()
	collectortest.WriteFile(r.t, filepath.Join(r.dir, name), content)
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	require.Eventually(r.t, ok, patience, 10*time.Millisecond, what)
}

func (r *rig) consume(d any) error {
	switch d := d.(type) {
	case plog.Logs:
		return r.procs[signal.Logs].(consumer.Logs).ConsumeLogs(r.t.Context(), d)
	case pmetric.Metrics:
		return r.procs[signal.Metrics].(consumer.Metrics).ConsumeMetrics(r.t.Context(), d)
	}
	return r.procs[signal.Traces].(consumer.Traces).ConsumeTraces(r.t.Context(), d.(ptrace.Traces))
}

func (r *rig) value(name string, attrs ...string) int64 {
	r.t.Helper()
	return collectortest.Sum(r.t, r.telemetry.Reader, name, attrs...)
}

// Times of the events: they were received 1,500 ms after they happened.
var (
	happened = time.Unix(1_780_000_000, 0)
	received = happened.Add(1500*time.Millisecond + 999*time.Microsecond)
)

// batch is one of a tenant's events in a stamped resource, as mskreceiver makes it; every signal has the attributes in the same places.
func batch(sig signal.Signal, tenant string, resource, event map[string]any) any {
	stamp := func(res pcommon.Resource, attrs pcommon.Map) {
		must(res.Attributes().FromRaw(resource))
		must(attrs.FromRaw(event))
		lineage.StampResource(res.Attributes(), lineage.Origin{Tenant: tenant, Source: "agent", Received: received, Topic: "t", Appended: received.Add(time.Second)})
		lineage.StampEvent(attrs, lineage.Event{ID: [16]byte{7}, Offset: 8, Index: 9})
	}
	switch sig {
	case signal.Logs:
		d := plog.NewLogs()
		rl := d.ResourceLogs().AppendEmpty()
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		lr.SetTimestamp(pcommon.NewTimestampFromTime(happened))
		stamp(rl.Resource(), lr.Attributes())
		return d
	case signal.Traces:
		d := ptrace.NewTraces()
		rs := d.ResourceSpans().AppendEmpty()
		s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(happened.Add(-time.Hour)))
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(happened))
		stamp(rs.Resource(), s.Attributes())
		return d
	}
	d := pmetric.NewMetrics()
	rm := d.ResourceMetrics().AppendEmpty()
	metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
	for _, attrs := range []pcommon.Map{
		metrics.AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty().Attributes(),
		metrics.AppendEmpty().SetEmptySum().DataPoints().AppendEmpty().Attributes(),
		metrics.AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty().Attributes(),
		metrics.AppendEmpty().SetEmptyExponentialHistogram().DataPoints().AppendEmpty().Attributes(),
		metrics.AppendEmpty().SetEmptySummary().DataPoints().AppendEmpty().Attributes(),
	} {
		stamp(rm.Resource(), attrs)
	}
	return d
}

// attributes of a batch's resource, and of each of its events, without the stamps.
func attributes(d any) (resource map[string]any, events []map[string]any) {
	var res pcommon.Resource
	var maps []pcommon.Map
	switch d := d.(type) {
	case plog.Logs:
		res = d.ResourceLogs().At(0).Resource()
		for _, lr := range d.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			maps = append(maps, lr.Attributes())
		}
	case ptrace.Traces:
		res = d.ResourceSpans().At(0).Resource()
		for _, s := range d.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
			maps = append(maps, s.Attributes())
		}
	case pmetric.Metrics:
		res = d.ResourceMetrics().At(0).Resource()
		ms := d.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
		maps = []pcommon.Map{
			ms.At(0).Gauge().DataPoints().At(0).Attributes(), ms.At(1).Sum().DataPoints().At(0).Attributes(), ms.At(2).Histogram().DataPoints().At(0).Attributes(),
			ms.At(3).ExponentialHistogram().DataPoints().At(0).Attributes(), ms.At(4).Summary().DataPoints().At(0).Attributes(),
		}
	}
	plain := func(m pcommon.Map) map[string]any {
		out := m.AsRaw()
		for k := range out {
			if lineage.Reserved(k) {
				delete(out, k)
			}
		}
		return out
	}
	for _, m := range maps {
		if e, ok := lineage.ReadEvent(m); !ok || e != (lineage.Event{ID: [16]byte{7}, Offset: 8, Index: 9}) {
			panic("an event has lost its stamp")
		}
		events = append(events, plain(m))
	}
	return plain(res.Attributes()), events
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
