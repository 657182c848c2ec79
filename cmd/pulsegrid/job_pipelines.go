package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/processor"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/extension/tenantauthextension"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/backfill"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/processor/dedupeprocessor"
	"github.com/pulsegrid/pulsegrid/processor/enrichmentprocessor"
)

const (
	// receiverType is that of the pipelines that a job takes the receiver's place in.
	receiverType = "msk"
	// jobCommitAge is how long blocks of a job wait for a commit of the lake: it has only so many under way, and nobody waits for single events.
	jobCommitAge = 2 * time.Second
	// jobNice is how far inserts of jobs yield to those of live traffic, within ClickHouse: as far as there is.
	jobNice = 19
	// jobStopping bounds how long the pipelines may take to stop.
	jobStopping = 30 * time.Second
)

// pipelines are those of an aggregator's configuration, with a job in the place of their receiver.
type pipelines struct {
	conf   *confmap.Conf
	log    *zap.Logger
	window time.Duration // of dedupe, instead of the configuration's; 0: that

	exporters   map[component.ID]component.Config // one for all signals, as the Collector has it: what they share goes by it
	commitWaits map[component.ID]time.Duration    // of the lake's exporters: how long the aggregators' blocks wait for a commit
	processors  map[component.ID]component.Config
	extensions  map[component.ID]component.Component
	parts       []component.Component // in the order of their start

	stores []backfill.Store
	lake   *icebergexporter.Config // of events; nil: there is none
}

// GetExtensions implements component.Host.
func (p *pipelines) GetExtensions() map[component.ID]component.Component { return p.extensions }

func (p *pipelines) telemetry() component.TelemetrySettings {
	return noTelemetry(p.log)
}

// noTelemetry has a component log, and measure nothing.
func noTelemetry(log *zap.Logger) component.TelemetrySettings {
	return component.TelemetrySettings{Logger: log, MeterProvider: metricnoop.NewMeterProvider(), TracerProvider: tracenoop.NewTracerProvider(), Resource: pcommon.NewResource()}
}

// newPipelines reads an aggregator's configuration. It starts nothing.
func newPipelines(conf *confmap.Conf, window time.Duration, log *zap.Logger) (*pipelines, error) {
	p := &pipelines{
		conf: conf, window: window, log: log,
		exporters: map[component.ID]component.Config{}, commitWaits: map[component.ID]time.Duration{}, processors: map[component.ID]component.Config{}, extensions: map[component.ID]component.Component{},
	}
	for _, f := range exporterFactories {
		for _, id := range p.ids("exporters", f.Type().String()) {
			cfg, err := p.exporter(id)
			if err != nil {
				return nil, err
			}
			if c, isLake := cfg.(*icebergexporter.Config); isLake && c.Rows == columns.RowsEvents && p.lake == nil {
				p.lake = c
			}
		}
	}
	return p, nil
}

// ids are the components of a section that have a type, in order.
func (p *pipelines) ids(section, typ string) (out []component.ID) {
	sub, err := p.conf.Sub(section)
	if err != nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(sub.ToStringMap())) {
		var id component.ID
		if id.UnmarshalText([]byte(name)) == nil && id.Type().String() == typ {
			out = append(out, id)
		}
	}
	return out
}

// configure fills a factory's default configuration from a section.
func (p *pipelines) configure(section string, id component.ID, cfg component.Config) error {
	sub, err := p.conf.Sub(section + confmap.KeyDelimiter + id.String())
	if err == nil {
		err = sub.Unmarshal(cfg)
	}
	if v, ok := cfg.(interface{ Validate() error }); ok && err == nil {
		err = v.Validate()
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", section, id, err)
	}
	return nil
}

// exporterFactories are those of the stores.
var exporterFactories = []exporter.Factory{clickhouseexporter.NewFactory(), icebergexporter.NewFactory()}

func exporterFactory(id component.ID) exporter.Factory {
	for _, f := range exporterFactories {
		if f.Type() == id.Type() {
			return f
		}
	}
	return nil
}

func (p *pipelines) exporter(id component.ID) (component.Config, error) {
	if cfg, ok := p.exporters[id]; ok {
		return cfg, nil
	}
	cfg := exporterFactory(id).CreateDefaultConfig()
	if err := p.configure("exporters", id, cfg); err != nil {
		return nil, err
	}
	if c, isHot := cfg.(*clickhouseexporter.Config); isHot {
		c.InsertNice = jobNice
	}
	if c, isLake := cfg.(*icebergexporter.Config); isLake {
		p.commitWaits[id] = c.Commit.MaxAge
		c.Commit.MaxAge = min(c.Commit.MaxAge, jobCommitAge)
		c.Orphans.Interval = 0 // the aggregators sweep
	}
	p.exporters[id] = cfg
	return cfg, nil
}

// storeOf names the store of an exporter, and the stream that it takes of a signal; false: none of a job's.
func storeOf(cfg component.Config, s signal.Signal) (store string, stream backfill.Stream, ok bool) {
	rows := ""
	switch c := cfg.(type) {
	case *clickhouseexporter.Config:
		rows, store = c.Rows, "ClickHouse "+c.ClientConfig.Endpoint+", database "+c.Database
	case *icebergexporter.Config:
		rows, store = c.Rows, "lake "+c.Catalog.Warehouse+", namespace "+c.Namespace
	}
	switch {
	case rows == columns.RowsQuarantinePII:
		return store, backfill.Quarantine, true
	case rows != columns.RowsEvents:
		return store, 0, false // nobody knows what a line at fault holds, so a job has nothing for the table without personal data
	}
	return store, map[signal.Signal]backfill.Stream{signal.Logs: backfill.Logs, signal.Metrics: backfill.Metrics, signal.Traces: backfill.Traces}[s], true
}

// pipeline is one of service::pipelines.
type pipeline struct {
	Receivers  []string `mapstructure:"receivers"`
	Processors []string `mapstructure:"processors"`
	Exporters  []string `mapstructure:"exporters"`
}

// fromKafka are the pipelines that begin at a msk receiver, by name.
func (p *pipelines) fromKafka() (map[string]pipeline, error) {
	var service struct {
		Pipelines map[string]pipeline `mapstructure:"pipelines"`
	}
	sub, err := p.conf.Sub("service")
	if err == nil {
		err = sub.Unmarshal(&service, confmap.WithIgnoreUnused())
	}
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	maps.DeleteFunc(service.Pipelines, func(_ string, pl pipeline) bool {
		return !slices.ContainsFunc(pl.Receivers, func(r string) bool { return r == receiverType || strings.HasPrefix(r, receiverType+"/") })
	})
	return service.Pipelines, nil
}

// start builds and starts the pipelines that begin at a msk receiver, one of each stream and store.
func (p *pipelines) start(ctx context.Context) error {
	found, err := p.fromKafka()
	if err != nil {
		return err
	}
	if err := p.startExtensions(ctx); err != nil {
		return err
	}
	has := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		pl := found[name]
		kind, _, _ := strings.Cut(name, "/")
		s, err := signal.Parse(kind)
		if err != nil {
			return fmt.Errorf("service::pipelines: %s: %w", name, err)
		}
		if len(pl.Exporters) != 1 {
			return fmt.Errorf("service::pipelines: %s: has %d exporters; a job needs pipelines of one exporter each, so that a store that is down does not make the other take blocks again", name, len(pl.Exporters))
		}
		var id component.ID
		if err := id.UnmarshalText([]byte(pl.Exporters[0])); err != nil || exporterFactory(id) == nil {
			return fmt.Errorf("service::pipelines: %s: exporter %s is none of this program's", name, pl.Exporters[0])
		}
		cfg, err := p.exporter(id)
		if err != nil {
			return err
		}
		store, stream, ok := storeOf(cfg, s)
		if key := fmt.Sprint(store, "/", stream); !ok || has[key] {
			continue
		} else {
			has[key] = true
		}
		if err := p.build(ctx, p.store(store), stream, s, id, cfg, pl.Processors); err != nil {
			return fmt.Errorf("service::pipelines: %s: %w", name, err)
		}
	}
	if len(p.stores) == 0 {
		return errors.New("service::pipelines: none begins at a msk receiver: want the configuration of an aggregator")
	}
	for _, st := range p.stores {
		if st.Logs == nil || st.Metrics == nil || st.Traces == nil || st.Quarantine == nil {
			return fmt.Errorf("service::pipelines: %s: a job needs a pipeline of logs, of metrics, of traces, and of logs to an exporter with rows: %s", st.Name, columns.RowsQuarantinePII)
		}
	}
	return nil
}

// store is the one of that name.
func (p *pipelines) store(name string) *backfill.Store {
	i := slices.IndexFunc(p.stores, func(s backfill.Store) bool { return s.Name == name })
	if i < 0 {
		i = len(p.stores)
		p.stores = append(p.stores, backfill.Store{Name: name})
	}
	return &p.stores[i]
}

func (p *pipelines) startExtensions(ctx context.Context) error {
	f := tenantauthextension.NewFactory() // the only one that a processor of ours asks for
	for _, id := range p.ids("extensions", f.Type().String()) {
		cfg := f.CreateDefaultConfig()
		if err := p.configure("extensions", id, cfg); err != nil {
			return err
		}
		e, err := f.Create(ctx, extension.Settings{ID: id, TelemetrySettings: p.telemetry()}, cfg)
		if err != nil {
			return fmt.Errorf("extensions: %s: %w", id, err)
		}
		p.extensions[id] = e
		if err := p.begin(ctx, e); err != nil {
			return fmt.Errorf("extensions: %s: %w", id, err)
		}
	}
	return nil
}

// knows fails where the configuration has a registry of tenants, and this one is not in it.
func (p *pipelines) knows(ctx context.Context, id string) (err error) {
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.startExtensions(ctx); err != nil {
		return err
	}
	for at, e := range p.extensions {
		registry, ok := e.(tenant.Registry)
		if !ok {
			continue
		}
		switch s := registry.Snapshot(); {
		case s == nil || s.Tenant(id) == nil && s.Incomplete():
			return fmt.Errorf("extensions: %s: the registry of tenants cannot be read: whether there is a tenant %q is not known", at, id)
		case s.Tenant(id) == nil:
			return usageError{fmt.Errorf("--tenant: the registry of the configuration has no tenant %q", id)}
		}
	}
	return nil
}

func (p *pipelines) begin(ctx context.Context, c component.Component) error {
	p.parts = append(p.parts, c)
	return c.Start(ctx, p)
}

// build builds and starts one pipeline, from its end.
func (p *pipelines) build(ctx context.Context, store *backfill.Store, stream backfill.Stream, s signal.Signal, id component.ID, cfg component.Config, processors []string) error {
	next, err := p.createExporter(ctx, s, id, cfg)
	if err != nil {
		return err
	}
	for _, name := range slices.Backward(processors) {
		if next, err = p.createProcessor(ctx, s, name, next); err != nil {
			return err
		}
	}
	switch stream {
	case backfill.Logs:
		store.Logs = next.(consumer.Logs)
	case backfill.Metrics:
		store.Metrics = next.(consumer.Metrics)
	case backfill.Traces:
		store.Traces = next.(consumer.Traces)
	case backfill.Quarantine:
		store.Quarantine = next.(consumer.Logs)
	}
	return nil
}

func (p *pipelines) createExporter(ctx context.Context, s signal.Signal, id component.ID, cfg component.Config) (c component.Component, err error) {
	f, set := exporterFactory(id), exporter.Settings{ID: id, TelemetrySettings: p.telemetry()}
	switch s {
	case signal.Logs:
		c, err = f.CreateLogs(ctx, set, cfg)
	case signal.Metrics:
		c, err = f.CreateMetrics(ctx, set, cfg)
	case signal.Traces:
		c, err = f.CreateTraces(ctx, set, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("exporter %s: %w", id, err)
	}
	if err := p.begin(ctx, c); err != nil {
		return nil, fmt.Errorf("exporter %s: %w", id, err)
	}
	return c, nil
}

func (p *pipelines) createProcessor(ctx context.Context, s signal.Signal, name string, next component.Component) (c component.Component, err error) {
	var id component.ID
	if err := id.UnmarshalText([]byte(name)); err != nil {
		return nil, err
	}
	var f processor.Factory
	for _, known := range []processor.Factory{dedupeprocessor.NewFactory(), enrichmentprocessor.NewFactory()} {
		if known.Type() == id.Type() {
			f = known
		}
	}
	if f == nil {
		return nil, fmt.Errorf("processor %s is not part of this program, and without it the job's rows would be others than the aggregator's", id)
	}
	cfg, ok := p.processors[id]
	if !ok {
		cfg = f.CreateDefaultConfig()
		if err := p.configure("processors", id, cfg); err != nil {
			return nil, err
		}
		if d, isDedupe := cfg.(*dedupeprocessor.Config); isDedupe && p.window > 0 {
			d.Window = p.window
			if err := d.Validate(); err != nil {
				return nil, fmt.Errorf("--dedupe-window: %w", err)
			}
		}
		p.processors[id] = cfg
	}
	set := processor.Settings{ID: id, TelemetrySettings: p.telemetry()}
	switch s {
	case signal.Logs:
		c, err = f.CreateLogs(ctx, set, cfg, next.(consumer.Logs))
	case signal.Metrics:
		c, err = f.CreateMetrics(ctx, set, cfg, next.(consumer.Metrics))
	case signal.Traces:
		c, err = f.CreateTraces(ctx, set, cfg, next.(consumer.Traces))
	}
	if err != nil {
		return nil, fmt.Errorf("processor %s: %w", id, err)
	}
	if err := p.begin(ctx, c); err != nil {
		return nil, fmt.Errorf("processor %s: %w", id, err)
	}
	return c, nil
}

// exporterIDs are the stores' exporters in order.
func (p *pipelines) exporterIDs() []component.ID {
	return slices.SortedFunc(maps.Keys(p.exporters), compareIDs)
}

// stored opens the stores of events for an audit of what is in them. The caller closes them.
func (p *pipelines) stored(ctx context.Context) (out []stored.Store, err error) {
	defer func() {
		if err != nil {
			closeAll(out)
		}
	}()
	for _, id := range p.exporterIDs() {
		switch c := p.exporters[id].(type) {
		case *clickhouseexporter.Config:
			if c.Rows != columns.RowsEvents {
				continue
			}
			s, err := openClickHouse(ctx, c)
			if err != nil {
				return out, err
			}
			out = append(out, s)
		case *icebergexporter.Config:
			if c.Rows != columns.RowsEvents {
				continue
			}
			s, err := stored.OpenLake(ctx, storedLake(c))
			if err != nil {
				return out, err
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// storedClickHouse reaches the ClickHouse of an exporter.
func storedClickHouse(ctx context.Context, c *clickhouseexporter.Config) (stored.ClickHouseConfig, error) {
	tls, err := c.ClientConfig.TLS.LoadTLSConfig(ctx)
	if err != nil {
		err = fmt.Errorf("exporters: ClickHouse: tls: %w", err)
	}
	return stored.ClickHouseConfig{URL: c.ClientConfig.Endpoint, Database: c.Database, Username: c.Username, Password: string(c.Password), TLS: tls}, err
}

func openClickHouse(ctx context.Context, c *clickhouseexporter.Config) (*stored.ClickHouse, error) {
	config, err := storedClickHouse(ctx, c)
	if err != nil {
		return nil, err
	}
	return stored.NewClickHouse(config)
}

// storedLake reaches the lake of an exporter.
func storedLake(c *icebergexporter.Config) stored.LakeConfig {
	return stored.LakeConfig{
		CatalogType: c.Catalog.Type, CatalogName: c.Catalog.Name, CatalogURI: c.Catalog.URI, Warehouse: c.Catalog.Warehouse, Namespace: c.Namespace, Properties: c.CatalogProperties(),
	}
}

func closeAll(stores []stored.Store) {
	for _, s := range stores {
		s.Close()
	}
}

// stop stops what was started, the last first.
func (p *pipelines) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), jobStopping)
	defer cancel()
	var errs []error
	for _, c := range slices.Backward(p.parts) {
		errs = append(errs, c.Shutdown(ctx))
	}
	p.parts = nil
	return errors.Join(errs...)
}
