package mskexporter

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

// NewFactory returns the factory of the exporter `msk`.
func NewFactory() exporter.Factory {
	return exporter.NewFactory(metadata.Type(), func() component.Config { return createDefaultConfig() },
		exporter.WithLogs(func(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Logs, error) {
			return newExporter(set, cfg.(*Config))
		}, metadata.Stability(signal.Logs.String())),
		exporter.WithMetrics(func(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
			return newExporter(set, cfg.(*Config))
		}, metadata.Stability(signal.Metrics.String())),
		exporter.WithTraces(func(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Traces, error) {
			return newExporter(set, cfg.(*Config))
		}, metadata.Stability(signal.Traces.String())),
	)
}
