package dedupeprocessor

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

// NewFactory returns the factory of the processor, of type dedupe.
func NewFactory() processor.Factory {
	return processor.NewFactory(metadata.Type(), createDefaultConfig,
		processor.WithLogs(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
			d, err := newDeduper(set, cfg.(*Config), signal.Logs)
			return logsProcessor{d, next}, err
		}, metadata.Stability("logs")),
		processor.WithMetrics(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
			d, err := newDeduper(set, cfg.(*Config), signal.Metrics)
			return metricsProcessor{d, next}, err
		}, metadata.Stability("metrics")),
		processor.WithTraces(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
			d, err := newDeduper(set, cfg.(*Config), signal.Traces)
			return tracesProcessor{d, next}, err
		}, metadata.Stability("traces")),
	)
}
