package composition

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"gopkg.in/yaml.v3"
)

var defaults = Defaults{QuarantineRecordBytes: 900_000, ExporterRecordBytes: 1_000_000}

func check(t *testing.T, text string) error {
	t.Helper()
	var m map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &m))
	return Check(confmap.NewFromStringMap(m), defaults)
}

func gateway(processors, exporters, settings string) string {
	return settings + `
service:
  pipelines:
    logs/ingest: {receivers: [ingest], processors: [` + processors + `], exporters: [` + exporters + `]}
`
}

const enforcing = "processors: {schema_validation: {policy: {mode: enforce}}}"

func TestRightCompositionsPass(t *testing.T) {
	for _, text := range []string{
		gateway("memory_limiter, schema_validation, quarantine", "msk", enforcing),
		gateway("memory_limiter, tenant_routing, schema_validation, quarantine", "msk, debug", enforcing),
		gateway("memory_limiter", "msk", ""),
		gateway("schema_validation", "msk", "processors: {schema_validation: {policy: {mode: warn}}}"), // nothing is to be taken out
		gateway("", "otlp", "exporters: {otlp: {sending_queue: {enabled: false}}}"),
		"service: {pipelines: {logs: {receivers: [otlp], processors: [batch], exporters: [otlp]}}}", // none of ours
		"service: {pipelines: {logs: {receivers: [msk/hot], processors: [memory_limiter, dedupe/hot, enrichment], exporters: [pulsegrid_clickhouse]}}}",
		"{}",
	} {
		require.NoError(t, check(t, text), text)
	}
}

// Guarantee: each wrong composition is named, with its pipeline and the fix.
func TestWrongCompositionsAreNamedWithTheFix(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no quarantine":               {gateway("schema_validation", "msk", enforcing), "add processor quarantine behind it"},
		"quarantine first":            {gateway("quarantine, schema_validation", "msk", enforcing), "put it behind"},
		"a tenant may enforce":        {gateway("schema_validation", "msk", "processors: {schema_validation: {tenants: tenant_auth}}"), "add processor quarantine"},
		"a name":                      {gateway("schema_validation/b", "msk/b", "processors: {schema_validation/b: {policy: {mode: enforce}}}"), "processor schema_validation/b finds"},
		"batch":                       {gateway("memory_limiter, batch/x", "msk", ""), "processor batch/x acknowledges what is only in memory"},
		"batch before Kafka":          {"service: {pipelines: {metrics: {receivers: [host_metrics], processors: [batch], exporters: [msk]}}}", "remove it"},
		"batch behind Kafka":          {"service: {pipelines: {metrics: {receivers: [msk], processors: [dedupe, batch], exporters: [iceberg]}}}", "remove it"},
		"queue":                       {"exporters: {x: {sending_queue: {queue_size: 5}}}\nservice: {pipelines: {metrics: {receivers: [msk], exporters: [x]}}}", "sending_queue::enabled"},
		"queue by default":            {gateway("", "otlp", ""), "exporter otlp has a sending_queue"},
		"sizes":                       {gateway("quarantine", "msk", "processors: {quarantine: {max_record_bytes: 999000}}"), "max_record_bytes of processor quarantine is 999000, and of exporter msk 1000000"},
		"sizes, the exporter's":       {gateway("quarantine", "msk", "exporters: {msk: {max_record_bytes: 500000}}"), "of exporter msk 500000"},
		"something before the dedupe": {"service: {pipelines: {logs: {receivers: [msk/hot], processors: [enrichment, dedupe/hot], exporters: [iceberg]}}}", "processor enrichment comes before dedupe/hot"},
	} {
		t.Run(name, func(t *testing.T) {
			err := check(t, c.text)
			require.ErrorContains(t, err, "service::pipelines::")
			require.ErrorContains(t, err, c.want)
			require.Equal(t, 1, strings.Count(err.Error(), "\n")+1, err)
		})
	}
}

// Guarantee: what runs is judged by the same rules, for each exporter that the walk comes to.
func TestAWalkFindsTheSame(t *testing.T) {
	validation, quarantine := Step{ID: "schema_validation", Enforces: true}, Step{ID: "quarantine", MaxRecordBytes: 900_000}
	walk := func(exporters []Step, steps ...Step) error {
		ctx, w := Begin(context.Background(), Step{ID: Ingest})
		require.True(t, Walking(ctx))
		for _, s := range steps {
			ctx = Pass(ctx, s)
		}
		for _, e := range exporters {
			End(ctx, e)
		}
		return w.Err()
	}
	msk := Step{ID: "msk", MaxRecordBytes: 1_000_000}
	require.NoError(t, walk([]Step{msk}, validation, quarantine))
	require.NoError(t, walk(nil, validation))
	require.ErrorContains(t, walk([]Step{msk, msk}, validation), "add processor quarantine")
	require.NotContains(t, walk([]Step{msk, msk}, validation).Error(), "\n")
	require.ErrorContains(t, walk([]Step{msk}, quarantine, validation), "put it behind")
	require.ErrorContains(t, walk([]Step{{ID: "msk/small", MaxRecordBytes: 900_000}}, validation, quarantine), "exporter msk/small 900000")
	require.False(t, Walking(context.Background()))
	require.Equal(t, context.Background(), Pass(context.Background(), validation))
	End(context.Background(), msk)
}
