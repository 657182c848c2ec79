package mskexporter

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/composition"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// mskExporter is one pipeline's end. The work is done by the client that it shares with the other pipelines of its component.
type mskExporter struct {
	id     component.ID
	client *client
	start  sync.Once
	stop   sync.Once
}

func newExporter(set exporter.Settings, cfg *Config) (*mskExporter, error) {
	c, err := clientOf(set, cfg)
	if err != nil {
		return nil, err
	}
	return &mskExporter{id: set.ID, client: c}, nil
}

// Start connects, unless another pipeline's exporter of the component has.
func (e *mskExporter) Start(ctx context.Context, host component.Host) (err error) {
	e.start.Do(func() { err = e.client.join(ctx, e.id, host) })
	return err
}

// Shutdown leaves the shared client; the last one to leave closes it.
func (e *mskExporter) Shutdown(ctx context.Context) (err error) {
	e.stop.Do(func() { err = e.client.leave(ctx) })
	return err
}

// Capabilities: nothing that is consumed is changed.
func (*mskExporter) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: false}
}

// ConsumeLogs writes envelopes of any signal, or ordinary log records.
func (e *mskExporter) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	if composition.Walking(ctx) {
		composition.End(ctx, composition.Step{ID: e.id.String(), MaxRecordBytes: e.client.cfg.MaxRecordBytes})
		return nil
	}
	if envelope.Is(ld) {
		return e.client.deliver(ctx, func() ([]envelope.Envelope, error) { return envelope.All(ld) })
	}
	return e.client.deliver(ctx, func() ([]envelope.Envelope, error) {
		rls := ld.ResourceLogs()
		return e.client.byTenant(signal.Logs, rls.Len(), func(i int) pcommon.Resource { return rls.At(i).Resource() }, func(of []int) ([]byte, int, error) {
			part := ld
			if of != nil {
				part = plog.NewLogs()
				for _, i := range of {
					rls.At(i).CopyTo(part.ResourceLogs().AppendEmpty())
				}
			}
			b, err := plogotlp.NewExportRequestFromLogs(part).MarshalProto()
			return b, part.LogRecordCount(), err
		})
	})
}

// ConsumeMetrics writes metrics.
func (e *mskExporter) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return e.client.deliver(ctx, func() ([]envelope.Envelope, error) {
		rms := md.ResourceMetrics()
		return e.client.byTenant(signal.Metrics, rms.Len(), func(i int) pcommon.Resource { return rms.At(i).Resource() }, func(of []int) ([]byte, int, error) {
			part := md
			if of != nil {
				part = pmetric.NewMetrics()
				for _, i := range of {
					rms.At(i).CopyTo(part.ResourceMetrics().AppendEmpty())
				}
			}
			b, err := pmetricotlp.NewExportRequestFromMetrics(part).MarshalProto()
			return b, part.DataPointCount(), err
		})
	})
}

// ConsumeTraces writes spans.
func (e *mskExporter) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return e.client.deliver(ctx, func() ([]envelope.Envelope, error) {
		rss := td.ResourceSpans()
		return e.client.byTenant(signal.Traces, rss.Len(), func(i int) pcommon.Resource { return rss.At(i).Resource() }, func(of []int) ([]byte, int, error) {
			part := td
			if of != nil {
				part = ptrace.NewTraces()
				for _, i := range of {
					rss.At(i).CopyTo(part.ResourceSpans().AppendEmpty())
				}
			}
			b, err := ptraceotlp.NewExportRequestFromTraces(part).MarshalProto()
			return b, part.SpanCount(), err
		})
	})
}

// byTenant makes one envelope per tenant and route of n resources. marshal is given the resources of one tenant, or nil for all of them:
// the usual case, in which nothing is copied.
func (c *client) byTenant(s signal.Signal, n int, resource func(int) pcommon.Resource, marshal func(of []int) ([]byte, int, error)) ([]envelope.Envelope, error) {
	type group struct {
		origin lineage.Origin
		route  lineage.Route
		of     []int
	}
	type key struct {
		tenant string
		route  lineage.Route
	}
	var groups []*group
	index := map[key]*group{}
	for i := range n {
		o, _ := lineage.ReadResource(resource(i).Attributes())
		k := key{o.Tenant, lineage.ReadRoute(resource(i).Attributes())}
		g, ok := index[k]
		if !ok {
			g = &group{origin: o, route: k.route}
			index[k] = g
			groups = append(groups, g)
		}
		g.of = append(g.of, i)
	}
	now := time.Now()
	out := make([]envelope.Envelope, 0, len(groups))
	for _, g := range groups {
		of := g.of
		if len(groups) == 1 {
			of = nil
		}
		body, events, err := marshal(of)
		if err == nil { // its stamps are no part of the request: they say when it was received
			body, err = otlpwire.RemoveResourceAttributes(s, body, lineage.Prefix)
		}
		if err != nil {
			return nil, fmt.Errorf("%s of tenant %q: %w", s, g.origin.Tenant, err)
		}
		if events == 0 {
			continue // resources without events say nothing
		}
		e := envelope.Envelope{Signal: s, Tenant: g.origin.Tenant, Source: g.origin.Source, Events: events, Received: g.origin.Received, Lane: g.route.Lane, Jurisdiction: g.route.Jurisdiction, TopicClass: g.route.TopicClass, IDAttribute: g.route.IDAttribute, Body: body}
		if e.Lane == "" {
			e.Lane = envelope.LaneFast
		}
		if e.Source == "" {
			e.Source = otlpwire.Source(s, body)
		}
		if e.Received.IsZero() {
			e.Received = now
		}
		out = append(out, e)
	}
	return out, nil
}
