package quarantineprocessor

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

// NewFactory returns the factory of processor `quarantine`. It is for logs pipelines, which carry envelopes of all signals.
func NewFactory() processor.Factory {
	return processor.NewFactory(metadata.Type(), func() component.Config { return createDefaultConfig() },
		processor.WithLogs(func(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
			p, err := newProcessor(set, cfg.(*Config), next)
			if err != nil {
				return nil, fmt.Errorf("processor %s: %w", set.ID, err)
			}
			return p, nil
		}, metadata.Stability("logs")))
}
