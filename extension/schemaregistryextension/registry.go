package schemaregistryextension

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// schemaRegistry implements schema.Source.
type schemaRegistry struct {
	cfg       *Config
	log       *zap.Logger
	telemetry *componentmeta.Telemetry
	reloads   componentmeta.Counter
	duration  componentmeta.Histogram

	current atomic.Pointer[schema.InForce] // never nil
	files   atomic.Int64                   // that it is made of
	refused atomic.Int64
	looked  atomic.Int64 // Unix nanoseconds of the last look with success, or of the start

	// Of Start, Shutdown and the goroutine between them.
	host   component.Host
	source fileset.Tree
	loader *schema.Loader
	watch  fileset.Watch
}

var _ schema.Source = (*schemaRegistry)(nil)

func newRegistry(set extension.Settings, cfg *Config) (*schemaRegistry, error) {
	t := metadata.Telemetry(set.ID, set.TelemetrySettings)
	e := &schemaRegistry{
		cfg: cfg, log: set.Logger, telemetry: t,
		reloads: t.Counter("schema_registry_reloads"), duration: t.Histogram("schema_registry_reload_duration"),
	}
	e.current.Store(&schema.InForce{Registry: schema.Empty()})
	e.looked.Store(time.Now().UnixNano())
	gauge := func(name string, value func() int64) {
		t.Gauge(name, func(record func(int64, ...attribute.KeyValue)) { record(value()) })
	}
	gauge("schema_registry_schemas", func() int64 { return int64(e.InForce().Registry.Schemas()) })
	gauge("schema_registry_files", e.files.Load)
	gauge("schema_registry_refused_files", e.refused.Load)
	gauge("schema_registry_age", func() int64 { return int64(time.Since(time.Unix(0, e.looked.Load())).Seconds()) })
	e.observeRollout()
	if err := t.Err(); err != nil {
		t.Shutdown()
		return nil, err
	}
	return e, nil
}

// observeRollout tells of a rollout while one is tried. Each series has the attempt that it is of, so that whoever watches an attempt takes no other one's counts for its own.
func (e *schemaRegistry) observeRollout() {
	gauge := func(name string, observe func(t *schema.Trial, record func(int64, ...attribute.KeyValue))) {
		e.telemetry.Gauge(name, func(record func(int64, ...attribute.KeyValue)) {
			t := e.InForce().Trial
			if t == nil {
				return
			}
			r := t.Rollout
			of := []attribute.KeyValue{attribute.String("version", r.Proposed), attribute.String("stage", string(r.Stage)), attribute.String("since", r.Since.UTC().Format(time.RFC3339))}
			observe(t, func(n int64, more ...attribute.KeyValue) { record(n, append(of[:len(of):len(of)], more...)...) })
		})
	}
	gauge("schema_registry_rollout", func(_ *schema.Trial, record func(int64, ...attribute.KeyValue)) { record(1) })
	gauge("schema_registry_rollout_events", func(t *schema.Trial, record func(int64, ...attribute.KeyValue)) {
		for _, c := range t.Tenants() {
			record(c.Events, attribute.String("tenant", c.Tenant))
		}
	})
	gauge("schema_registry_rollout_refused", func(t *schema.Trial, record func(int64, ...attribute.KeyValue)) {
		for _, c := range t.Tenants() {
			if c.Refused > 0 {
				record(c.Refused, attribute.String("tenant", c.Tenant), attribute.String("code", string(c.Code)))
			}
		}
	})
}

// InForce implements schema.Source.
func (e *schemaRegistry) InForce() *schema.InForce { return e.current.Load() }

// Start reads the registry, and then looks for changes until Shutdown. A registry that cannot be read is no error: a gateway that does not start
// cannot tell its agents to keep their data, and events that are not checked are not lost. Until it can be read only limits are checked.
func (e *schemaRegistry) Start(ctx context.Context, host component.Host) error {
	e.host = host
	var err error
	if e.source, err = fileset.OpenTree(ctx, e.cfg.Location); err != nil {
		return fmt.Errorf("location: %w", err)
	}
	e.loader = schema.NewLoader(e.source)
	e.reload(ctx)
	e.watch.Start(e.cfg.ReloadInterval, e.reload)
	return nil
}

// Shutdown may be called without Start, and twice.
func (e *schemaRegistry) Shutdown(context.Context) error {
	e.watch.Stop()
	e.telemetry.Shutdown()
	if e.source == nil {
		return nil
	}
	source := e.source
	e.source = nil
	return source.Close()
}

// reload looks for changes. What is wrong is told when it changes, not at each look.
func (e *schemaRegistry) reload(ctx context.Context) {
	look, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	report, err := e.loader.Reload(look)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // shutting down
	}
	var wrong []string
	result := "same"
	switch {
	case err != nil:
		result = "failed"
		wrong = append(wrong, err.Error())
	default:
		e.looked.Store(time.Now().UnixNano())
		e.files.Store(int64(report.Files))
		notInForce := report.Refused
		if report.Unused != nil {
			notInForce = append(notInForce, report.Unused)
		}
		e.refused.Store(int64(len(notInForce)))
		for _, r := range notInForce {
			wrong = append(wrong, r.Error())
		}
	}
	if report.Changed {
		result = "changed"
		now := e.loader.InForce()
		e.current.Store(now)
		e.duration.Record(ctx, report.Duration.Seconds(), e.telemetry.With())
		fields := []zap.Field{zap.String("version", now.Registry.Version()), zap.Int("schemas", now.Registry.Schemas()), zap.Int("files", report.Files),
			zap.Int("refused_files", len(report.Refused)), zap.Duration("took", report.Duration)}
		if now.Trial != nil {
			fields = append(fields, zap.String("proposed", now.Trial.Rollout.Proposed), zap.String("stage", string(now.Trial.Rollout.Stage)))
		}
		e.log.Info("schema registry is in force", fields...)
	}
	e.reloads.Add(ctx, 1, e.telemetry.With(attribute.String("result", result)))
	e.watch.Tell(e.host, wrong, func(reason string) {
		e.log.Error("schema registry: what was good last stays in force", zap.String("reason", reason), zap.String("version", e.InForce().Registry.Version()))
	}, func(reason string) error { return fmt.Errorf("schema registry: %s", reason) })
}
