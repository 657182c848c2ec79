package schemavalidationprocessor

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/composition"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// maxReasons are told to the sender.
const maxReasons = 3

// validation is what the processors of the three signals share.
type validation struct {
	id       component.ID
	cfg      *Config
	source   schema.Source   // nil: limits only
	policies schema.Policies // nil: one policy for all
	checking atomic.Pointer[checking]

	telemetry                           *componentmeta.Telemetry
	events, without, violations, drops  componentmeta.Counter
	duration                            componentmeta.Histogram
	plain                               componentmeta.Attributes
	bySignal                            [len(signal.All) + 1]componentmeta.Attributes
	valid, invalid, flagged, uncheckeds [len(signal.All) + 1]componentmeta.Attributes
}

// checking is what holds now, and how it is held against requests.
type checking struct {
	of      *schema.InForce
	checker *schema.Checker
	beside  *schema.Checker // of the rollout that is being tried; nil without one
}

func (v *validation) checkingOf(now *schema.InForce) *checking {
	c := &checking{of: now, checker: schema.NewChecker(now.Registry, v.cfg.Limits)}
	if now.Trial != nil {
		c.beside = schema.NewChecker(now.Trial.Beside, v.cfg.Limits)
	}
	return c
}

// asks tells whether a request, of which the version in force has found what res says, is to be checked by beside too. Without a rollout that is all that it costs.
func (c *checking) asks(res schema.Result) bool { return c.beside != nil && c.of.Trial.Asks(res) }

// count counts a request of a tenant, if a rollout is being tried.
func (c *checking) count(tenant string, res, beside schema.Result) {
	if c.beside != nil {
		c.of.Trial.Count(tenant, res, beside)
	}
}

func newValidation(set processor.Settings, cfg *Config) (*validation, error) {
	t := metadata.Telemetry(set.ID, set.TelemetrySettings)
	v := &validation{
		id: set.ID, cfg: cfg, telemetry: t,
		events: t.Counter("schema_validation_events"), without: t.Counter("schema_validation_events_without_schema"),
		violations: t.Counter("schema_validation_violations"), drops: t.Counter("schema_validation_dropped_events"),
		duration: t.Histogram("schema_validation_duration"), plain: t.With(),
	}
	for _, s := range signal.All {
		sig := attribute.String("signal", s.String())
		v.bySignal[s] = t.With(sig)
		v.valid[s] = t.With(sig, attribute.String("outcome", "valid"))
		v.invalid[s] = t.With(sig, attribute.String("outcome", "invalid"))
		v.flagged[s] = t.With(sig, attribute.String("outcome", "flagged"))
		v.uncheckeds[s] = t.With(sig, attribute.String("outcome", "unchecked"))
	}
	v.checking.Store(v.checkingOf(&schema.InForce{Registry: schema.Empty()}))
	return v, t.Err()
}

// Start finds the extensions.
func (v *validation) Start(_ context.Context, host component.Host) error {
	if id := v.cfg.Registry; id != (component.ID{}) {
		source, ok := host.GetExtensions()[id].(schema.Source)
		if !ok {
			return fmt.Errorf("registry: extension %q is not running, or has no schemas; add schema_registry to service::extensions", id)
		}
		v.source = source
	}
	if id := v.cfg.Tenants; id != (component.ID{}) {
		policies, ok := host.GetExtensions()[id].(schema.Policies)
		if !ok {
			return fmt.Errorf("tenants: extension %q is not running, or knows no schema policies; add the tenants' extension to service::extensions", id)
		}
		v.policies = policies
	}
	return nil
}

// step is what a walk is told.
func (v *validation) step() composition.Step {
	return composition.Step{ID: v.id.String(), Enforces: v.cfg.Policy.Mode == schema.Enforce || v.policies != nil}
}

func (v *validation) Shutdown(context.Context) error {
	v.telemetry.Shutdown()
	return nil
}

// Capabilities: decoded events may get an attribute, or be removed.
func (*validation) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

// current is how requests are checked now.
func (v *validation) current() *checking {
	c := v.checking.Load()
	if v.source == nil {
		return c
	}
	if now := v.source.InForce(); c.of != now {
		c = v.checkingOf(now)
		v.checking.Store(c) // two may do so at once; either is good
	}
	return c
}

func (v *validation) policy(tenant string) schema.Policy {
	p := v.cfg.Policy
	if v.policies == nil {
		return p
	}
	if own, ok := v.policies.SchemaPolicy(tenant); ok {
		if own.Mode != "" {
			p.Mode = own.Mode
		}
		if own.Unknown != "" {
			p.Unknown = own.Unknown
		}
	}
	return p
}

// judge counts what was found of a request, and tells its sender what will not be told by the quarantine. It returns the findings on events that
// are to be taken out.
func (v *validation) judge(ctx context.Context, s signal.Signal, mode schema.Mode, res schema.Result, took time.Duration) schema.Findings {
	v.duration.Record(ctx, took.Seconds(), v.plain)
	bad := len(res.Findings)
	if n := res.Events - bad; n > 0 {
		v.events.Add(ctx, int64(n), v.valid[s])
	}
	if n := res.Events - res.Matched; n > 0 && v.source != nil {
		v.without.Add(ctx, int64(n), v.bySignal[s])
	}
	if bad == 0 {
		return nil
	}
	codes := map[schema.Code]int64{}
	for _, f := range res.Findings {
		for _, verdict := range f.Verdicts {
			codes[verdict.Code]++
		}
	}
	for code, n := range codes {
		v.violations.Add(ctx, n, v.telemetry.With(attribute.String("signal", s.String()), attribute.String("code", string(code))))
	}
	if mode == schema.Enforce {
		v.events.Add(ctx, int64(bad), v.invalid[s])
		return res.Findings
	}
	v.events.Add(ctx, int64(bad), v.flagged[s])
	envelope.ResultOf(ctx).Flag(bad, reasons(res.Findings)...)
	return nil
}

func (v *validation) unchecked(ctx context.Context, s signal.Signal, events int) {
	v.events.Add(ctx, int64(events), v.uncheckeds[s])
}

func reasons(findings schema.Findings) []string {
	var out []string
	for _, f := range findings[:min(len(findings), maxReasons)] {
		out = append(out, fmt.Sprintf("event %d: %s", f.Event, f.Verdicts[0]))
	}
	return out
}
