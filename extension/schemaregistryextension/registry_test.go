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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	require.Equal(t, 2, r.Registry().Schemas(), "it is there when Start returns")
	first := r.Registry()

	r.write("team/c.yaml", event("c"))
	r.until("the new file", func() bool { return r.Registry().Schemas() == 3 })
	require.NotEqual(t, first.Version(), r.Registry().Version())
	require.EqualValues(t, 3, r.gauge("schema_registry_files"))

	good := r.Registry()
	r.write("team/b.yaml", "groups: [{id: b, type: evnt}]\n")
	r.until("the bad file", func() bool { return r.gauge("schema_registry_refused_files") == 1 })
	require.Same(t, good, r.Registry())
	r.until("its report", func() bool { return r.host.Status() == componentstatus.StatusRecoverableError })
	var told []string
	for _, l := range r.logs.FilterLevelExact(zap.ErrorLevel).All() {
		told = append(told, fmt.Sprint(l.ContextMap()["reason"]))
	}
	require.Len(t, told, 1, "once, however often it is looked at")
	require.Contains(t, told[0], `team/b.yaml: group "b": type: is "evnt"`)

	r.write("team/b.yaml", event("b2"))
	r.until("the mended file", func() bool { return r.host.Status() == componentstatus.StatusOK })
	require.Equal(t, 3, r.Registry().Schemas())
	require.EqualValues(t, 3, r.gauge("schema_registry_schemas"))

	require.NoError(t, os.Rename(r.dir, r.dir+".gone"))
	r.until("that the directory is gone", func() bool { return r.host.Status() == componentstatus.StatusRecoverableError })
	require.Equal(t, 3, r.Registry().Schemas())
}

// Guarantees: a gateway starts without its registry, with limits alone, and takes it as soon as it is there.
func TestARegistryThatIsNotThereYet(t *testing.T) {
	r := start(t, nil)
	require.Zero(t, r.Registry().Schemas())
	require.Empty(t, r.Registry().Version())
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.Status())
	r.write("a.yaml", event("a"))
	r.until("the registry", func() bool { return r.Registry().Schemas() == 1 && r.host.Status() == componentstatus.StatusOK })
}

func TestShutdownWithoutStart(t *testing.T) {
	e, err := NewFactory().Create(t.Context(), extensiontest.NewNopSettings(metadata.Type()), createDefaultConfig())
	require.NoError(t, err)
	require.NotNil(t, e.(schema.Source).Registry())
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
