package schemavalidationprocessor

import (
	"context"
	_ "embed"
	"fmt"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

//go:embed metadata.yaml
var metadataYAML []byte

var metadata = componentmeta.MustParse(metadataYAML)

// NewFactory returns the factory of processor `schema_validation`.
func NewFactory() processor.Factory {
	return processor.NewFactory(metadata.Type(), func() component.Config { return createDefaultConfig() },
		processor.WithLogs(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
			v, err := newValidation(set, cfg.(*Config))
			return &logs{v, next}, named(set, err)
		}, metadata.Stability("logs")),
		processor.WithMetrics(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
			v, err := newValidation(set, cfg.(*Config))
			return &metrics{v, next}, named(set, err)
		}, metadata.Stability("metrics")),
		processor.WithTraces(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
			v, err := newValidation(set, cfg.(*Config))
			return &traces{v, next}, named(set, err)
		}, metadata.Stability("traces")))
}

func named(set processor.Settings, err error) error {
	if err != nil {
		return fmt.Errorf("processor %s: %w", set.ID, err)
	}
	return nil
}
