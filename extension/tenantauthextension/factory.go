package tenantauthextension

import (
	"context"
	_ "embed"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

//go:embed metadata.yaml
var metadataYAML []byte

var metadata = componentmeta.MustParse(metadataYAML)

// NewFactory returns the factory of extension `tenant_auth`.
func NewFactory() extension.Factory {
	return extension.NewFactory(metadata.Type(), createDefaultConfig,
		func(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
			return newExtension(set, cfg.(*Config))
		}, metadata.Stability("extension"))
}
