package tenantroutingprocessor

import (
	"context"
	_ "embed"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

//go:embed metadata.yaml
var metadataYAML []byte

var metadata = componentmeta.MustParse(metadataYAML)

// NewFactory returns the factory of processor `tenant_routing`.
func NewFactory() processor.Factory {
	return processor.NewFactory(metadata.Type(), createDefaultConfig,
		processor.WithLogs(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
			return newProcessor(set, cfg.(*Config), sinks{logs: next})
		}, metadata.Stability("logs")),
		processor.WithMetrics(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
			return newProcessor(set, cfg.(*Config), sinks{metrics: next})
		}, metadata.Stability("metrics")),
		processor.WithTraces(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
			return newProcessor(set, cfg.(*Config), sinks{traces: next})
		}, metadata.Stability("traces")))
}
