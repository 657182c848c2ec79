package cellhealthextension

import (
	"context"
	_ "embed"
	"fmt"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

//go:embed metadata.yaml
var metadataYAML []byte

var metadata = componentmeta.MustParse(metadataYAML)

// NewFactory returns the factory of extension `cell_health`.
func NewFactory() extension.Factory {
	return extension.NewFactory(metadata.Type(), createDefaultConfig,
		func(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
			e, err := newCellHealth(set, cfg.(*Config))
			if err != nil {
				return nil, fmt.Errorf("extension %s: %w", set.ID, err)
			}
			return e, nil
		}, metadata.Stability("extension"))
}
