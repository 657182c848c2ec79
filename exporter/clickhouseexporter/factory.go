package clickhouseexporter

import (
	"context"
	_ "embed"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

//go:embed metadata.yaml
var metadataYAML []byte

var metadata = componentmeta.MustParse(metadataYAML)

// NewFactory returns the factory of the exporter, of type pulsegrid_clickhouse.
func NewFactory() exporter.Factory {
	return exporter.NewFactory(metadata.Type(), createDefaultConfig,
		exporter.WithLogs(func(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Logs, error) {
			return newExporter(set, cfg.(*Config), signal.Logs)
		}, metadata.Stability("logs")),
		exporter.WithMetrics(func(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
			return newExporter(set, cfg.(*Config), signal.Metrics)
		}, metadata.Stability("metrics")),
		exporter.WithTraces(func(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Traces, error) {
			return newExporter(set, cfg.(*Config), signal.Traces)
		}, metadata.Stability("traces")),
	)
}
