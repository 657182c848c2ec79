package tenantauthextension

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionauth"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// authExtension is the registry and the authenticator.
type authExtension struct {
	cfg       *Config
	log       *zap.Logger
	telemetry *telemetry
	guesses   *guesses
	issuers   *issuers
	proxies   []netip.Prefix // trusted
	now       func() time.Time

	loader atomic.Pointer[tenant.Loader] // set by Start
	listed atomic.Int64                  // Unix nanoseconds of the last look that succeeded, or of Start
	bad    atomic.Int64                  // files refused by it

	// Of Start, Shutdown and the goroutine between them.
	host   component.Host
	source fileset.Source
	watch  fileset.Watch
}

var (
	_ extensionauth.Server = (*authExtension)(nil)
	_ tenant.Registry      = (*authExtension)(nil)
	_ schema.Policies      = (*authExtension)(nil)
)

func newExtension(set extension.Settings, cfg *Config) (*authExtension, error) {
	e := &authExtension{cfg: cfg, log: set.Logger, now: time.Now}
	var err error
	if e.proxies, err = cfg.proxies(); err != nil {
		return nil, fmt.Errorf("trusted_proxies: %w", err)
	}
	if e.guesses, err = newGuesses(cfg.Guesses, func() time.Time { return e.now() }); err != nil {
		return nil, err
	}
	if e.issuers, err = newIssuers(cfg.OIDC, func() time.Time { return e.now() }); err != nil {
		return nil, err
	}
	if e.telemetry, err = newTelemetry(set.ID, set.TelemetrySettings, e); err != nil {
		return nil, err
	}
	return e, nil
}

// Snapshot implements tenant.Registry.
func (e *authExtension) Snapshot() *tenant.Snapshot {
	if l := e.loader.Load(); l != nil {
		return l.Snapshot()
	}
	return nil
}

// SchemaPolicy implements schema.Policies.
func (e *authExtension) SchemaPolicy(id string) (schema.Policy, bool) {
	if s := e.Snapshot(); s != nil {
		if t := s.Tenant(id); t != nil {
			return t.Schema, true
		}
	}
	return schema.Policy{}, false
}

// Jurisdiction implements tenant.Registry.
func (e *authExtension) Jurisdiction() string { return e.cfg.Jurisdiction }

// Cell implements tenant.Registry.
func (e *authExtension) Cell() string { return e.cfg.Cell }

// disagreement is in what the registry and this gateway's configuration say of the cell; empty: there is none. Where they differ, tenants are taken that
// both agree on (tenant.Admit).
func (e *authExtension) disagreement(s *tenant.Snapshot) string {
	if e.cfg.Cell == "" || s == nil || s.Cells() == 0 {
		return ""
	}
	switch c, known := s.Cell(e.cfg.Cell); {
	case !known:
		return fmt.Sprintf("cell: %q is none of the registry's %d cells", e.cfg.Cell, s.Cells())
	case c.Jurisdiction != e.cfg.Jurisdiction:
		return fmt.Sprintf("jurisdiction: %q is this gateway's, and the registry has cell %q in %q", e.cfg.Jurisdiction, c.Name, c.Jurisdiction)
	}
	return ""
}

// Start reads the registry, and then looks for changes until Shutdown. A registry that cannot be read is no error: a gateway that does not start
// cannot tell its agents to keep their data. It accepts nothing until it can be read.
func (e *authExtension) Start(ctx context.Context, host component.Host) error {
	e.host = host
	var err error
	if e.source, err = fileset.Open(ctx, e.cfg.Registry.Location); err != nil {
		return fmt.Errorf("registry::location: %w", err)
	}
	loader := tenant.NewLoader(e.source)
	e.listed.Store(e.now().UnixNano())
	e.loader.Store(loader)
	e.reload(ctx, loader)
	e.watch.Start(e.cfg.Registry.ReloadInterval, func(ctx context.Context) { e.reload(ctx, loader) })
	return nil
}

// Shutdown may be called without Start, and twice.
func (e *authExtension) Shutdown(context.Context) error {
	e.watch.Stop()
	e.issuers.close()
	e.telemetry.shutdown()
	if e.source == nil {
		return nil
	}
	source := e.source
	e.source = nil
	return source.Close()
}

// reload looks for changes. What is wrong is told when it changes, not at each look.
func (e *authExtension) reload(ctx context.Context, loader *tenant.Loader) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Registry.Timeout)
	defer cancel()
	report, err := loader.Reload(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // shutting down
	}
	e.telemetry.reloaded(report, err)
	var wrong []string
	if err != nil {
		wrong = []string{err.Error()}
	} else {
		e.listed.Store(e.now().UnixNano())
		e.bad.Store(int64(len(report.Refused)))
		for _, r := range report.Refused {
			wrong = append(wrong, r.Error())
		}
	}
	if report.Changed {
		s := loader.Snapshot()
		e.log.Info("registry of tenants is in force", zap.Int("tenants", s.Len()), zap.Int("keys", s.Keys()),
			zap.Int("refused_files", len(report.Refused)), zap.Duration("took", report.Duration))
	}
	disagreement := e.disagreement(loader.Snapshot())
	if disagreement != "" {
		wrong = append(wrong, disagreement)
	}
	e.watch.Tell(e.host, wrong, func(reason string) {
		consequence := "what was read last stays in force"
		switch {
		case loader.Snapshot() == nil:
			consequence = "nothing is accepted until it can be read (registry::location)"
		case reason == disagreement:
			consequence = "it does not fit this gateway's configuration, and only tenants are taken that both allow here"
		}
		e.log.Error("registry of tenants: "+consequence, zap.String("reason", reason))
	}, func(reason string) error { return fmt.Errorf("registry of tenants: %s", reason) })
}
