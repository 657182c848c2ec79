package enrichmentprocessor

import (
	"context"
	_ "embed"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

//go:embed metadata.yaml
var metadataYAML []byte

var metadata = componentmeta.MustParse(metadataYAML)

// NewFactory returns the factory of processor `enrichment`.
func NewFactory() processor.Factory {
	return processor.NewFactory(metadata.Type(), createDefaultConfig,
		processor.WithLogs(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
			e, err := newEnricher(set, cfg.(*Config), signal.Logs)
			return logsProcessor{e, next}, err
		}, metadata.Stability("logs")),
		processor.WithMetrics(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
			e, err := newEnricher(set, cfg.(*Config), signal.Metrics)
			return metricsProcessor{e, next}, err
		}, metadata.Stability("metrics")),
		processor.WithTraces(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
			e, err := newEnricher(set, cfg.(*Config), signal.Traces)
			return tracesProcessor{e, next}, err
		}, metadata.Stability("traces")),
	)
}
