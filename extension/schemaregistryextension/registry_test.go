package schemaregistryextension

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

const patience = 30 * time.Second

type rig struct {
	*schemaRegistry
	t         *testing.T
	dir       string
	host      *collectortest.Host
	logs      *observer.ObservedLogs
	telemetry *componenttest.Telemetry
}

func start(t *testing.T, files map[string]string) *rig {
	t.Helper()
	r := &rig{t: t, dir: filepath.Join(t.TempDir(), "schemas"), host: &collectortest.Host{}, telemetry: componenttest.NewTelemetry()}
	for name, content := range files {
		r.write(name, content)
	}
	cfg := createDefaultConfig()
	cfg.Location, cfg.ReloadInterval = r.dir, minReloadInterval
	require.NoError(t, cfg.Validate())
	set := extensiontest.NewNopSettings(metadata.Type())
	set.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	core, logs := observer.New(zap.InfoLevel)
	set.Logger, r.logs = zap.New(core), logs
	e, err := NewFactory().Create(t.Context(), set, cfg)
	require.NoError(t, err)
	r.schemaRegistry = e.(*schemaRegistry)
	require.NoError(t, e.Start(t.Context(), r.host))
	t.Cleanup(func() {
		require.NoError(t, e.Shutdown(context.Background()))
		require.NoError(t, e.Shutdown(context.Background()), "a second time")
		require.NoError(t, r.telemetry.Shutdown(context.Background()))
	})
	return r
}

func (r *rig) write(name, content string) {
	r.t.Helper()
	collectortest.WriteFile(r.t, filepath.Join(r.dir, name), content)
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	require.Eventually(r.t, ok, patience, 10*time.Millisecond, what)
}

func (r *rig) gauge(name string) int64 {
	r.t.Helper()
	return collectortest.Sum(r.t, r.telemetry.Reader, name)
}

func event(name string) string {
	return fmt.Sprintf("groups: [{id: event.%s, type: event, name: %s}]\n", name, name)
}

// Guarantees: a change of the files holds without a restart; a bad one changes nothing and is named in log and health until it is mended.
func TestChangesHoldAndBadOnesAreNamed(t *testing.T) {
	r := start(t, map[string]string{"a.yaml": event("a"), "team/b.yaml": event("b"), "team/notes.md": "not a schema"})
	require.Equal(t, 2, r.InForce().Registry.Schemas(), "it is there when Start returns")
	first := r.InForce().Registry

	r.write("team/c.yaml", event("c"))
	r.until("the new file", func() bool { return r.InForce().Registry.Schemas() == 3 })
	require.NotEqual(t, first.Version(), r.InForce().Registry.Version())
	require.EqualValues(t, 3, r.gauge("schema_registry_files"))

	good := r.InForce().Registry
	r.write("team/b.yaml", "groups: [{id: b, type: evnt}]\n")
	r.until("the bad file", func() bool { return r.gauge("schema_registry_refused_files") == 1 })
	require.Same(t, good, r.InForce().Registry)
	r.until("its report", func() bool { return r.host.Status() == componentstatus.StatusRecoverableError })
	var told []string
	for _, l := range r.logs.FilterLevelExact(zap.ErrorLevel).All() {
		told = append(told, fmt.Sprint(l.ContextMap()["reason"]))
	}
	require.Len(t, told, 1, "once, however often it is looked at")
	require.Contains(t, told[0], `team/b.yaml: group "b": type: is "evnt"`)

	r.write("team/b.yaml", event("b2"))
	r.until("the mended file", func() bool { return r.host.Status() == componentstatus.StatusOK })
	require.Equal(t, 3, r.InForce().Registry.Schemas())
	require.EqualValues(t, 3, r.gauge("schema_registry_schemas"))

	require.NoError(t, os.Rename(r.dir, r.dir+".gone"))
	r.until("that the directory is gone", func() bool { return r.host.Status() == componentstatus.StatusRecoverableError })
	require.Equal(t, 3, r.InForce().Registry.Schemas())
}

// Guarantees: a rollout's file holds without a restart; its counts are told by tenant, and only while it is tried; files that have no effect are told.
func TestARolloutIsFollowedAndItsCountsAreTold(t *testing.T) {
	r := start(t, map[string]string{"a.yaml": event("a")})
	current := r.InForce().Registry
	next, err := schema.Load([]schema.File{{Name: "a.yaml", Content: []byte(event("a"))}, {Name: "b.yaml", Content: []byte(event("b"))}})
	require.NoError(t, err)
	for _, f := range next.Files() {
		r.write(schema.VersionsDir+"/"+next.Version()+"/"+f.Name, string(f.Content))
	}
	state := schema.Rollout{Current: current.Version(), Proposed: next.Version(), Stage: schema.StageWarn, Since: time.Date(2026, 11, 30, 2, 40, 0, 0, time.UTC)}
	r.write(schema.RolloutFile, string(state.Marshal()))
	r.until("the stage", func() bool { return r.InForce().Trial != nil })
	require.Equal(t, current.Version(), r.InForce().Registry.Version())
	trial := r.InForce().Trial
	for tenant, refused := range map[string]schema.Findings{"acme": {{Event: 1, Verdicts: []schema.Verdict{{Code: schema.AttributeMissing}}}}, "globex": nil} {
		trial.Count(tenant, schema.Result{Events: 7}, schema.Result{Findings: refused})
	}
	of := []string{"version=" + next.Version(), "stage=warn", "since=2026-11-30T02:40:00Z"}
	value := func(name string, attrs ...string) int64 {
		return collectortest.Sum(t, r.telemetry.Reader, name, append(attrs, of...)...)
	}
	require.EqualValues(t, 1, value("schema_registry_rollout"))
	require.EqualValues(t, 7, value("schema_registry_rollout_events", "tenant=globex"))
	require.EqualValues(t, 1, value("schema_registry_rollout_refused", "tenant=acme", "code=attribute_missing"))
	require.EqualValues(t, 1, value("schema_registry_rollout_refused"))

	r.write("a.yaml", event("other"))
	r.until("the file without effect", func() bool { return r.gauge("schema_registry_refused_files") == 1 })
	r.until("its report", func() bool { return r.host.Status() == componentstatus.StatusRecoverableError })
	require.Same(t, trial, r.InForce().Trial, "and nothing else")

	state.Stage = schema.StageDone
	r.write(schema.RolloutFile, string(state.Marshal()))
	r.until("the version", func() bool { return r.InForce().Registry.Version() == next.Version() })
	for _, name := range []string{"schema_registry_rollout", "schema_registry_rollout_events", "schema_registry_rollout_refused"} {
		_, err := r.telemetry.GetMetric("otelcol_" + name)
		require.Error(t, err, name)
	}
}

// Guarantees: a gateway starts without its registry, with limits alone, and takes it as soon as it is there.
func TestARegistryThatIsNotThereYet(t *testing.T) {
	r := start(t, nil)
	require.Zero(t, r.InForce().Registry.Schemas())
	require.Empty(t, r.InForce().Registry.Version())
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.Status())
	r.write("a.yaml", event("a"))
	r.until("the registry", func() bool { return r.InForce().Registry.Schemas() == 1 && r.host.Status() == componentstatus.StatusOK })
}

func TestShutdownWithoutStart(t *testing.T) {
	e, err := NewFactory().Create(t.Context(), extensiontest.NewNopSettings(metadata.Type()), createDefaultConfig())
	require.NoError(t, err)
	require.NotNil(t, e.(schema.Source).InForce())
	require.NoError(t, e.Shutdown(t.Context()))
}

func TestConfig(t *testing.T) {
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	for id, location := range map[string]string{"schema_registry": "/etc/pulsegrid/schemas", "schema_registry/all": "s3://pulsegrid-registry/schemas?region=eu-central-1"} {
		sub, err := conf.Sub(id)
		require.NoError(t, err)
		cfg := createDefaultConfig()
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		want := createDefaultConfig()
		want.Location = location
		require.Equal(t, want, cfg)
	}
	for want, spoil := range map[string]func(*Config){
		"location: is empty":         func(c *Config) { c.Location = "" },
		"reload_interval: is 1m0s":   func(c *Config) { c.ReloadInterval = time.Minute },
		"reload_interval: is 1ms":    func(c *Config) { c.ReloadInterval = time.Millisecond },
		"timeout: is 0s":             func(c *Config) { c.Timeout = 0 },
		`location: "ftp://host/dir"`: func(c *Config) { c.Location = "ftp://host/dir" },
	} {
		cfg := createDefaultConfig()
		cfg.Location = "schemas"
		spoil(cfg)
		require.ErrorContains(t, cfg.Validate(), want)
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, example, found := strings.Cut(string(readme), "```yaml\n")
	require.True(t, found)
	example, _, _ = strings.Cut(example, "```")
	var all map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(example), &all))
	sub, err := confmap.NewFromStringMap(all).Sub("extensions::schema_registry")
	require.NoError(t, err)
	cfg := createDefaultConfig()
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
}
