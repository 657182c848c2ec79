package tenantroutingprocessor

import (
	stdbytes "bytes"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// claims finds attributes that name another tenant than the request's.
//
// pulsegrid.tenant is looked for on resources only: on scopes and events it means nothing, and the aggregator removes it. The configured ones are
// looked for everywhere.
type claims struct {
	everywhere []string
	keys       [][]byte // everywhere, as bytes
}

func newClaims(attributes []string) *claims {
	c := &claims{everywhere: attributes}
	for _, a := range attributes {
		c.keys = append(c.keys, []byte(a))
	}
	return c
}

// foundIn tells whether a request's bytes name another tenant.
func (c *claims) foundIn(s signal.Signal, body []byte, tenant string) bool {
	for attributes := range otlpwire.Resources(body) {
		for key, v := range attributes.All() {
			if string(key) == lineage.AttrTenant && !names(v, tenant) {
				return true
			}
		}
	}
	// Looking for the bytes costs a fraction of looking at each attribute, and hardly any request has them.
	mentioned := false
	for _, key := range c.keys {
		mentioned = mentioned || stdbytes.Contains(body, key)
	}
	if !mentioned {
		return false
	}
	found := false
	// Resources without events have nothing that could be stored.
	err := otlpwire.Walk(s, body, func(e *otlpwire.Event) bool {
		found = c.claimed(e.ResourceAttributes(), tenant) || c.claimed(e.ScopeAttributes(), tenant) || c.claimed(e.Attributes(), tenant)
		return !found
	})
	return found || err != nil // what cannot be walked is not vouched for; overwriting decodes it, and refuses it then
}

func (c *claims) claimed(attributes otlpwire.Attributes, tenant string) bool {
	for key, v := range attributes.All() {
		for _, k := range c.keys {
			if stdbytes.Equal(key, k) && !names(v, tenant) {
				return true
			}
		}
	}
	return false
}

func names(v otlpwire.Value, tenant string) bool {
	return v.Type() == otlpwire.TypeString && v.Str() == tenant
}

// overwriteIn returns a request's bytes with the right tenant wherever another one was named.
func (c *claims) overwriteIn(s signal.Signal, body []byte, tenant string) ([]byte, error) {
	switch s {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		c.inLogs(req.Logs(), tenant, true)
		return req.MarshalProto()
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		c.inMetrics(req.Metrics(), tenant, true)
		return req.MarshalProto()
	default:
		req := ptraceotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		c.inTraces(req.Traces(), tenant, true)
		return req.MarshalProto()
	}
}

// in tells whether attributes name another tenant, and puts the right one there if it shall.
func (c *claims) in(m pcommon.Map, tenant string, overwrite bool) bool {
	if len(c.everywhere) == 0 {
		return false
	}
	return c.those(c.everywhere, m, tenant, overwrite)
}

func (c *claims) inResource(r pcommon.Resource, tenant string, overwrite bool) bool {
	own := c.those([]string{lineage.AttrTenant}, r.Attributes(), tenant, overwrite)
	return c.in(r.Attributes(), tenant, overwrite) || own
}

// those looks at every attribute: a key may be there twice, and it is up to the reader which one counts.
func (*claims) those(keys []string, m pcommon.Map, tenant string, overwrite bool) (found bool) {
	for k, v := range m.All() {
		for _, key := range keys {
			if k != key || v.Type() == pcommon.ValueTypeStr && v.Str() == tenant {
				continue
			}
			found = true
			if overwrite {
				v.SetStr(tenant)
			}
		}
	}
	return found
}

func (c *claims) inLogs(ld plog.Logs, tenant string, overwrite bool) (found bool) {
	for _, rl := range ld.ResourceLogs().All() {
		found = c.inResource(rl.Resource(), tenant, overwrite) || found
		if len(c.everywhere) == 0 {
			continue
		}
		for _, sl := range rl.ScopeLogs().All() {
			found = c.in(sl.Scope().Attributes(), tenant, overwrite) || found
			for _, lr := range sl.LogRecords().All() {
				found = c.in(lr.Attributes(), tenant, overwrite) || found
			}
		}
	}
	return found
}

func (c *claims) inTraces(td ptrace.Traces, tenant string, overwrite bool) (found bool) {
	for _, rs := range td.ResourceSpans().All() {
		found = c.inResource(rs.Resource(), tenant, overwrite) || found
		if len(c.everywhere) == 0 {
			continue
		}
		for _, ss := range rs.ScopeSpans().All() {
			found = c.in(ss.Scope().Attributes(), tenant, overwrite) || found
			for _, span := range ss.Spans().All() {
				found = c.in(span.Attributes(), tenant, overwrite) || found
			}
		}
	}
	return found
}

func (c *claims) inMetrics(md pmetric.Metrics, tenant string, overwrite bool) (found bool) {
	for _, rm := range md.ResourceMetrics().All() {
		found = c.inResource(rm.Resource(), tenant, overwrite) || found
		if len(c.everywhere) == 0 {
			continue
		}
		for _, sm := range rm.ScopeMetrics().All() {
			found = c.in(sm.Scope().Attributes(), tenant, overwrite) || found
			for _, m := range sm.Metrics().All() {
				found = c.inMetric(m, tenant, overwrite) || found
			}
		}
	}
	return found
}

func (c *claims) inMetric(m pmetric.Metric, tenant string, overwrite bool) (found bool) {
	look := func(attrs pcommon.Map) { found = c.in(attrs, tenant, overwrite) || found }
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, p := range m.Gauge().DataPoints().All() {
			look(p.Attributes())
		}
	case pmetric.MetricTypeSum:
		for _, p := range m.Sum().DataPoints().All() {
			look(p.Attributes())
		}
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			look(p.Attributes())
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			look(p.Attributes())
		}
	case pmetric.MetricTypeSummary:
		for _, p := range m.Summary().DataPoints().All() {
			look(p.Attributes())
		}
	case pmetric.MetricTypeEmpty:
	}
	return found
}
