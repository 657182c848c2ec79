package tenantroutingprocessor

import (
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/processor"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// shared is what the processors of one configured component have in common, so that a tenant has one quota for a signal whatever pipelines it comes
// by. It lives from the first processor's making to the last one's shutdown.
type shared struct {
	cfg       *Config
	limiter   *limiter
	claims    *claims
	telemetry *telemetry

	mu       sync.Mutex // guards what follows
	holders  int
	registry tenant.Registry // set by the first Start
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
		s = &shared{cfg: cfg, limiter: newLimiter(cfg, time.Now), claims: newClaims(cfg.TenantAttributes)}
		var err error
		if s.telemetry, err = newTelemetry(set.ID, set.TelemetrySettings, s.limiter.buckets); err != nil {
			return nil, err
		}
		ofConfig.m[cfg] = s
	}
	s.mu.Lock()
	s.holders++
	s.mu.Unlock()
	return s, nil
}

func (s *shared) start(host component.Host) (tenant.Registry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.registry == nil {
		r, err := tenant.Find(host, s.cfg.Registry)
		if err != nil {
			return nil, fmt.Errorf("registry: %w", err)
		}
		s.registry = r
	}
	return s.registry, nil
}

func (s *shared) leave() {
	ofConfig.Lock()
	defer ofConfig.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders--; s.holders == 0 {
		delete(ofConfig.m, s.cfg)
		s.telemetry.Shutdown()
	}
}
