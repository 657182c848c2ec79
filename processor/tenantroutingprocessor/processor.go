package tenantroutingprocessor

import (
	"context"

	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"google.golang.org/grpc/codes"

	"github.com/pulsegrid/pulsegrid/internal/composition"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// sinks are the next component; a processor has one of them.
type sinks struct {
	logs    consumer.Logs
	metrics consumer.Metrics
	traces  consumer.Traces
}

// routing is one pipeline's processor.
type routing struct {
	*shared
	next     sinks
	registry tenant.Registry // set by Start
	stop     sync.Once
}

// undecodableEvent is the size, in bytes, of the events that a body which cannot be decoded is taken to hold. Nobody knows how many there are.
const undecodableEvent = 1 << 10

// use is what a request takes of its tenant's quota.
type use struct {
	signal signal.Signal
	events int
	bytes  int // as OTLP protobuf
}

func newProcessor(set processor.Settings, cfg *Config, next sinks) (*routing, error) {
	s, err := sharedOf(set, cfg)
	if err != nil {
		return nil, err
	}
	return &routing{shared: s, next: next}, nil
}

// Start finds the registry.
func (p *routing) Start(_ context.Context, host component.Host) (err error) {
	p.registry, err = p.start(host)
	return err
}

// Shutdown may be called without Start, and twice.
func (p *routing) Shutdown(context.Context) error {
	p.stop.Do(p.leave)
	return nil
}

// Capabilities: plain pdata is stamped where it is.
func (*routing) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

// ConsumeLogs routes envelopes of any signal, or ordinary log records.
func (p *routing) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	if composition.Walking(ctx) {
		return p.next.logs.ConsumeLogs(ctx, ld)
	}
	if envelope.Is(ld) {
		routed, err := p.envelopes(ctx, ld)
		if err != nil {
			return err
		}
		return p.next.logs.ConsumeLogs(ctx, routed)
	}
	u := use{signal.Logs, ld.LogRecordCount(), (&plog.ProtoMarshaler{}).LogsSize(ld)}
	resources := func(yield func(int, pcommon.Resource) bool) {
		for i, r := range ld.ResourceLogs().All() {
			if !yield(i, r.Resource()) {
				return
			}
		}
	}
	err := p.pdata(ctx, u, resources, func(tenant string, overwrite bool) bool { return p.claims.inLogs(ld, tenant, overwrite) })
	if err != nil {
		return err
	}
	return p.next.logs.ConsumeLogs(ctx, ld)
}

// ConsumeMetrics routes metrics.
func (p *routing) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	u := use{signal.Metrics, md.DataPointCount(), (&pmetric.ProtoMarshaler{}).MetricsSize(md)}
	resources := func(yield func(int, pcommon.Resource) bool) {
		for i, r := range md.ResourceMetrics().All() {
			if !yield(i, r.Resource()) {
				return
			}
		}
	}
	err := p.pdata(ctx, u, resources, func(tenant string, overwrite bool) bool { return p.claims.inMetrics(md, tenant, overwrite) })
	if err != nil {
		return err
	}
	return p.next.metrics.ConsumeMetrics(ctx, md)
}

// ConsumeTraces routes spans.
func (p *routing) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	u := use{signal.Traces, td.SpanCount(), (&ptrace.ProtoMarshaler{}).TracesSize(td)}
	resources := func(yield func(int, pcommon.Resource) bool) {
		for i, r := range td.ResourceSpans().All() {
			if !yield(i, r.Resource()) {
				return
			}
		}
	}
	err := p.pdata(ctx, u, resources, func(tenant string, overwrite bool) bool { return p.claims.inTraces(td, tenant, overwrite) })
	if err != nil {
		return err
	}
	return p.next.traces.ConsumeTraces(ctx, td)
}

// envelopes returns the same envelopes, routed. If one of them may not go on none does: they came in one call, and it has one answer. The ingest
// receiver makes one a call.
func (p *routing) envelopes(ctx context.Context, ld plog.Logs) (plog.Logs, error) {
	out := plog.NewLogs()
	es, err := envelope.All(ld)
	if err != nil {
		p.telemetry.decided(ctx, decidedInvalid, use{signal: signal.Logs}, noClass)
		return out, consumererror.NewPermanent(err)
	}
	for _, e := range es {
		u := use{e.Signal, e.Events, len(e.Body)}
		t, err := p.tenantOf(ctx, u, e.Tenant)
		if err != nil {
			return out, err
		}
		quarantined := e.Lane == envelope.LaneQuarantine // the receiver could not decode it: it is kept as it came, and counts towards the quota
		inBody := !quarantined && p.claims.foundIn(e.Signal, e.Body, t.ID)
		if inBody || e.Tenant != "" && e.Tenant != t.ID {
			if err := p.spoofed(ctx, u, t); err != nil {
				return out, err
			}
		}
		if inBody {
			if len(e.Request) == 0 { // the request is what its sender sent, and so it is when it is sent again
				whole := eventid.OfBody(e.Body, nil, e.Events)
				e.Request = whole.Encode()
			}
			if e.Body, err = p.claims.overwriteIn(e.Signal, e.Body, t.ID); err != nil {
				p.telemetry.decided(ctx, decidedInvalid, u, t.Class)
				return out, consumererror.NewPermanent(fmt.Errorf("request of tenant %q: %w", t.ID, err))
			}
		}
		var lane string
		if quarantined {
			lane, err = p.undecodable(ctx, u, t)
		} else {
			lane, err = p.lane(ctx, u, u.events, t)
		}
		if err != nil {
			return out, err
		}
		e.Tenant, e.Lane, e.Jurisdiction, e.TopicClass, e.IDAttribute = t.ID, lane, t.Jurisdiction, t.TopicClass, t.IDAttribute
		e.Append(out)
	}
	return out, nil
}

// pdata routes plain pdata, whose resources are stamped. claimed looks for other tenants in it, and overwrites them if it shall.
func (p *routing) pdata(ctx context.Context, u use, resources func(func(int, pcommon.Resource) bool), claimed func(tenant string, overwrite bool) bool) error {
	named := map[string]bool{}
	for _, r := range resources {
		o, _ := lineage.ReadResource(r.Attributes())
		named[o.Tenant] = true
	}
	name := ""
	if _, known := tenant.FromContext(ctx); !known {
		if len(named) > 1 { // one call has one answer
			p.telemetry.decided(ctx, decidedDenied, u, noClass)
			return tenant.Denied(tenant.ReasonSpoofed, nil, "one request names %d tenants (%.3q): send each tenant's data in requests of its own", len(named), slices.Sorted(maps.Keys(named)))
		}
		for only := range named {
			name = only
		}
	}
	t, err := p.tenantOf(ctx, u, name)
	if err != nil {
		return err
	}
	if claimed(t.ID, false) {
		if err := p.spoofed(ctx, u, t); err != nil {
			return err
		}
		claimed(t.ID, true)
	}
	lane, err := p.lane(ctx, u, u.events, t)
	if err != nil {
		return err
	}
	for _, r := range resources {
		r.Attributes().PutStr(lineage.AttrTenant, t.ID)
		lineage.StampRoute(r.Attributes(), lineage.Route{Lane: lane, Jurisdiction: t.Jurisdiction, TopicClass: t.TopicClass, IDAttribute: t.IDAttribute})
	}
	return nil
}

// tenantOf finds out whose a request is, and whether this cell takes it. claimed is the tenant that it names itself.
func (p *routing) tenantOf(ctx context.Context, u use, claimed string) (*tenant.Tenant, error) {
	var t *tenant.Tenant
	if identity, ok := tenant.FromContext(ctx); ok {
		t = identity.Tenant
	} else {
		if p.cfg.Unauthenticated != trustUnauthenticated {
			p.telemetry.decided(ctx, decidedUnauthenticated, u, noClass)
			return nil, &tenant.Refusal{Reason: tenant.ReasonUnknown, Code: codes.Unauthenticated, Text: "nobody has checked whose this request is: set auth of its receiver to the registry's extension"}
		}
		if claimed == "" {
			claimed = p.cfg.DefaultTenant
		}
		var refusal *tenant.Refusal
		if t, refusal = tenant.Lookup(p.registry, claimed); refusal != nil {
			return nil, p.refused(ctx, u, refusal, noClass)
		}
	}
	if refusal := tenant.Admit(p.registry, t, u.signal); refusal != nil {
		return nil, p.refused(ctx, u, refusal, t.Class)
	}
	return t, nil
}

func (p *routing) refused(ctx context.Context, u use, r *tenant.Refusal, class string) error {
	d := decidedDenied
	if r.Reason == tenant.ReasonUnavailable {
		d = decidedUnavailable
	}
	p.telemetry.decided(ctx, d, u, class)
	return r
}

// spoofed decides about a request that names another tenant than its own.
func (p *routing) spoofed(ctx context.Context, u use, t *tenant.Tenant) error {
	if p.cfg.Spoofed == refuseSpoofed {
		p.telemetry.decided(ctx, decidedSpoofed, u, t.Class)
		return tenant.Denied(tenant.ReasonSpoofed, map[string]string{"tenant": t.ID}, "the request is of tenant %q and names another one in an attribute: leave it out", t.ID)
	}
	p.telemetry.overwritten.Add(ctx, 1, p.telemetry.classes.Of(t.Class).plain[u.signal])
	return nil
}

// undecodable decides about what its receiver could not decode. It costs of the tenant's quota what events of its size would: were it free, whoever may
// send could fill the quarantine.
func (p *routing) undecodable(ctx context.Context, u use, t *tenant.Tenant) (string, error) {
	if lane, after := p.limiter.takeUndecodable(t, u.bytes); lane == laneNone {
		return "", p.throttled(ctx, u, t, after, fmt.Sprintf("tenant %q sends more that cannot be decoded than the %d bytes/s that are kept of it: nothing of the request is stored",
			t.ID, p.cfg.UndecodableBytesPerSecond))
	}
	_, err := p.lane(ctx, u, max(u.events, (u.bytes+undecodableEvent-1)/undecodableEvent, 1), t)
	return envelope.LaneQuarantine, err
}

// lane decides by the tenant's quota, of which the request costs its bytes and so many events.
func (p *routing) lane(ctx context.Context, u use, events int, t *tenant.Tenant) (string, error) {
	lane, after := p.limiter.take(t, u.signal, events, u.bytes)
	switch {
	case lane == laneNone:
		return "", p.throttled(ctx, u, t, after, fmt.Sprintf("tenant %q is over its quota of %s, %s, and its burst of %v is full: nothing of the %d events is stored",
			t.ID, u.signal, rates(t.Quota(u.signal)), t.Quota(u.signal).Burst, u.events))
	case lane == laneOverflow || t.Lane == envelope.LaneOverflow || tenant.ShedOf(p.registry, t) == tenant.ShedOverflow:
		p.telemetry.decided(ctx, decidedOverflow, u, t.Class)
		return envelope.LaneOverflow, nil
	}
	p.telemetry.decided(ctx, decidedFast, u, t.Class)
	return envelope.LaneFast, nil
}

func (p *routing) throttled(ctx context.Context, u use, t *tenant.Tenant, after time.Duration, why string) error {
	p.telemetry.decided(ctx, decidedThrottled, u, t.Class)
	p.telemetry.sentBack(ctx, u, t.Class, after)
	return &tenant.Refusal{
		Reason: tenant.ReasonQuota, Code: codes.ResourceExhausted, After: after, Info: map[string]string{"tenant": t.ID, "signal": u.signal.String()},
		Text: fmt.Sprintf("%s, send it again in %v", why, after.Round(time.Millisecond)),
	}
}

func rates(q tenant.Quota) string {
	switch {
	case q.BytesPerSecond == 0:
		return fmt.Sprintf("%.0f events/s", q.EventsPerSecond)
	case q.EventsPerSecond == 0:
		return fmt.Sprintf("%.0f bytes/s", q.BytesPerSecond)
	}
	return fmt.Sprintf("%.0f events/s and %.0f bytes/s", q.EventsPerSecond, q.BytesPerSecond)
}
