package enrichmentprocessor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/lookup"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// shared is what the processors of one configured component have in common: tables are read once, and both stores' pipelines have the same ones. It
// lives from the first processor's making to the last one's shutdown.
type shared struct {
	cfg                 *Config
	log                 *zap.Logger
	telemetry           *componentmeta.Telemetry
	counters            map[signal.Signal]*signalCounters
	reloads             componentmeta.Counter
	ofResource, ofEvent []finder
	loader              atomic.Pointer[lookup.Loader] // nil until Start, and where there are no lookups
	refused             atomic.Int64
	looked              atomic.Int64 // Unix nanoseconds of the last look with success, or of the start

	mu      sync.Mutex // guards what follows
	holders int
	started bool
	source  fileset.Source

	tenants tenant.Registry // set by the first Start, before any batch; nil: none is configured
	host    component.Host  // of the first Start, for the watch
	watch   fileset.Watch
}

// ofConfig: the Collector hands one *Config to all processors of a component.
var ofConfig = struct {
	sync.Mutex
	m map[*Config]*shared
}{m: map[*Config]*shared{}}

func sharedOf(set processor.Settings, cfg *Config) (*shared, error) {
	ofConfig.Lock()
	defer ofConfig.Unlock()
	s, ok := ofConfig.m[cfg]
	if !ok {
		var err error
		if s, err = newShared(set, cfg); err != nil {
			return nil, err
		}
		ofConfig.m[cfg] = s
	}
	s.mu.Lock()
	s.holders++
	s.mu.Unlock()
	return s, nil
}

func newShared(set processor.Settings, cfg *Config) (*shared, error) {
	t := metadata.Telemetry(set.ID, set.TelemetrySettings)
	s := &shared{cfg: cfg, log: set.Logger, telemetry: t, counters: newCounters(t, cfg.Lookups), reloads: t.Counter("enrichment_reloads")}
	s.looked.Store(time.Now().UnixNano())
	for i, l := range cfg.Lookups {
		f := finder{l.Attribute, i}
		if l.From == fromEvent {
			s.ofEvent = append(s.ofEvent, f)
		} else {
			s.ofResource = append(s.ofResource, f)
		}
	}
	t.Gauge("enrichment_refused_tables", func(record func(int64, ...attribute.KeyValue)) { record(s.refused.Load()) })
	t.Gauge("enrichment_look_age", func(record func(int64, ...attribute.KeyValue)) {
		if len(cfg.Lookups) == 0 {
			record(0)
			return
		}
		record(int64(time.Since(time.Unix(0, s.looked.Load())).Seconds()))
	})
	s.tableGauge("enrichment_table_rows", func(l lookup.Loaded) int64 { return int64(l.Rows()) })
	s.tableGauge("enrichment_table_age", func(l lookup.Loaded) int64 { return int64(time.Since(l.Since).Seconds()) })
	if err := t.Err(); err != nil {
		t.Shutdown()
		return nil, err
	}
	return s, nil
}

// tableGauge observes the tables that are there.
func (s *shared) tableGauge(name string, value func(lookup.Loaded) int64) {
	s.telemetry.Gauge(name, func(record func(int64, ...attribute.KeyValue)) {
		for i, l := range s.tables() {
			if l.Table != nil {
				record(value(l), attribute.String("table", s.cfg.Lookups[i].Table))
			}
		}
	})
}

// tables in force, in the order of the lookups.
func (s *shared) tables() []lookup.Loaded {
	if l := s.loader.Load(); l != nil {
		return l.Tables()
	}
	return make([]lookup.Loaded, len(s.cfg.Lookups))
}

// start is done by the first processor that starts. Tables that cannot be read are no error: an aggregator that does not start stores nothing, and
// events without their columns are not lost.
func (s *shared) start(ctx context.Context, host component.Host) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return nil
	}
	if s.cfg.Tenants != nil {
		r, err := tenant.Find(host, s.cfg.Tenants)
		if err != nil {
			return fmt.Errorf("tenants: %w", err)
		}
		s.tenants = r
	}
	if len(s.cfg.Lookups) > 0 {
		var specs []lookup.Spec
		for _, l := range s.cfg.Lookups {
			specs = append(specs, lookup.Spec{Table: l.Table, Key: l.key()})
		}
		source, err := fileset.OpenNamed(ctx, s.cfg.Tables.Location, lookup.Files(specs))
		if err != nil {
			return fmt.Errorf("tables::location: %w", err)
		}
		s.source, s.host = source, host
		s.loader.Store(lookup.NewLoader(source, specs))
		s.reload(ctx)
		s.watch.Start(s.cfg.Tables.ReloadInterval, s.reload)
	}
	s.started = true
	return nil
}

// leave lets go of one processor's part; with the last one's everything ends.
func (s *shared) leave() error {
	ofConfig.Lock()
	defer ofConfig.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders--; s.holders > 0 {
		return nil
	}
	delete(ofConfig.m, s.cfg)
	s.watch.Stop()
	s.telemetry.Shutdown()
	if s.source == nil {
		return nil
	}
	return s.source.Close()
}

// reload looks for changes. What is wrong is told when it changes, not at each look.
func (s *shared) reload(ctx context.Context) {
	look, cancel := context.WithTimeout(ctx, s.cfg.Tables.Timeout)
	defer cancel()
	report, err := s.loader.Load().Reload(look, time.Now())
	if errors.Is(ctx.Err(), context.Canceled) {
		return // shutting down
	}
	var wrong []string
	result := "same"
	if err != nil {
		result = "failed"
		s.refused.Store(int64(len(s.cfg.Lookups)))
		wrong = append(wrong, err.Error())
	} else {
		s.looked.Store(time.Now().UnixNano())
		s.refused.Store(int64(len(report.Refused)))
		for _, r := range report.Refused {
			wrong = append(wrong, r.Error())
		}
	}
	if len(report.Changed) > 0 {
		result = "changed"
		s.log.Info("lookup tables are in force", zap.Strings("changed", report.Changed))
	}
	s.reloads.Add(ctx, 1, s.telemetry.With(attribute.String("result", result)))
	s.watch.Tell(s.host, wrong, func(reason string) {
		s.log.Error("lookup tables: what was good last stays in force", zap.String("reason", reason))
	}, func(reason string) error { return fmt.Errorf("lookup tables: %s", reason) })
}

// signalCounters count for one signal.
type signalCounters struct {
	events, enriched, untimed, forged, strangers, lookups componentmeta.Counter
	plain                                                 componentmeta.Attributes
	outcome                                               [][outcomes]componentmeta.Attributes // by lookup
}

func newCounters(t *componentmeta.Telemetry, lookups []LookupConfig) map[signal.Signal]*signalCounters {
	out := map[signal.Signal]*signalCounters{}
	names := [outcomes]string{outcomeFound: "found", outcomeMissed: "missed", outcomeAbsent: "absent", outcomeUnavailable: "unavailable"}
	for _, sig := range signal.All {
		of := attribute.String("signal", sig.String())
		c := &signalCounters{
			events: t.Counter("enrichment_events"), enriched: t.Counter("enrichment_enriched"), untimed: t.Counter("enrichment_untimed"),
			forged: t.Counter("enrichment_forged"), strangers: t.Counter("enrichment_unknown_tenants"), lookups: t.Counter("enrichment_lookups"),
			plain: t.With(of), outcome: make([][outcomes]componentmeta.Attributes, len(lookups)),
		}
		for i, l := range lookups {
			for o, name := range names {
				c.outcome[i][o] = t.With(of, attribute.String("table", l.Table), attribute.String("outcome", name))
			}
		}
		out[sig] = c
	}
	return out
}

func (c *signalCounters) add(ctx context.Context, s *shared, t *tally) {
	for _, n := range [...]struct {
		counter componentmeta.Counter
		n       int64
	}{{c.events, t.events}, {c.enriched, t.enriched}, {c.untimed, t.untimed}, {c.forged, t.forged}, {c.strangers, t.strangers}} {
		if n.n > 0 {
			n.counter.Add(ctx, n.n, c.plain)
		}
	}
	for i := range s.cfg.Lookups {
		for o, n := range t.lookups[i] {
			if n > 0 {
				c.lookups.Add(ctx, n, c.outcome[i][o])
			}
		}
	}
}
