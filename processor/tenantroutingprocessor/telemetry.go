package tenantroutingprocessor

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

type decision uint8

const (
	decidedFast decision = iota
	decidedOverflow
	decidedThrottled
	decidedDenied
	decidedUnauthenticated
	decidedUnavailable
	decidedSpoofed
	decidedInvalid
	decisions
)

var decisionNames = [decisions]string{"fast", "overflow", "throttled", "denied", "unauthenticated", "unavailable", "spoofed", "invalid"}

// noClass is of requests whose tenant is not known.
const noClass = "none"

const signals = len(signal.All) + 1

// attributeSets of a class are made once.
type attributeSets struct {
	plain   [signals]componentmeta.Attributes
	decided [signals][decisions]componentmeta.Attributes
}

type telemetry struct {
	*componentmeta.Telemetry
	requests, events, bytes, overwritten componentmeta.Counter
	retryAfter                           componentmeta.Histogram
	classes                              tenant.ByClass[*attributeSets]
}

func newTelemetry(id component.ID, set component.TelemetrySettings, buckets func() int64) (*telemetry, error) {
	t := metadata.Telemetry(id, set)
	m := &telemetry{
		Telemetry: t,
		requests:  t.Counter("tenant_routing_requests"), events: t.Counter("tenant_routing_events"), bytes: t.Counter("tenant_routing_bytes"),
		overwritten: t.Counter("tenant_routing_overwritten"), retryAfter: t.Histogram("tenant_routing_retry_after"),
	}
	m.classes.Make = func(class string) *attributeSets {
		sets := &attributeSets{}
		for _, s := range signal.All {
			common := []attribute.KeyValue{attribute.String("signal", s.String()), attribute.String("class", class)}
			sets.plain[s] = t.With(common...)
			for d, name := range decisionNames {
				sets.decided[s][d] = t.With(append(common[:2:2], attribute.String("decision", name))...)
			}
		}
		return sets
	}
	t.Gauge("tenant_routing_buckets", func(record func(int64, ...attribute.KeyValue)) { record(buckets()) })
	return m, t.Err()
}

func (m *telemetry) decided(ctx context.Context, d decision, u use, class string) {
	attrs := m.classes.Of(class).decided[u.signal][d]
	m.requests.Add(ctx, 1, attrs)
	m.events.Add(ctx, int64(u.events), attrs)
	m.bytes.Add(ctx, int64(u.bytes), attrs)
}

func (m *telemetry) sentBack(ctx context.Context, u use, class string, after time.Duration) {
	m.retryAfter.Record(ctx, after.Seconds(), m.classes.Of(class).plain[u.signal])
}
