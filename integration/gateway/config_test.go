package gateway_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"

	"github.com/pulsegrid/pulsegrid/exporter/mskexporter"
	"github.com/pulsegrid/pulsegrid/extension/schemaregistryextension"
	"github.com/pulsegrid/pulsegrid/processor/quarantineprocessor"
	"github.com/pulsegrid/pulsegrid/processor/schemavalidationprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/ingestreceiver"
)

// Guarantees: what distributions/gateway says to these components is what they understand, as it is and with its variables set. That the built
// Collector takes the whole of it is tested in distributions.
func TestTheDistributionsConfigIsUnderstood(t *testing.T) {
	for _, mode := range []string{"", "off"} {
		if mode != "" {
			t.Setenv("PULSEGRID_SCHEMA_MODE", mode)
			t.Setenv("PULSEGRID_SCHEMAS", "s3://bucket/schemas?region=eu-central-1")
			t.Setenv("PULSEGRID_EVENT_AGE_MAX", "0")
			t.Setenv("PULSEGRID_QUARANTINE_STORE", "s3://bucket?region=eu-central-1&prefix=quarantine/")
		}
		r, err := confmap.NewResolver(confmap.ResolverSettings{
			URIs:              []string{"file:../../distributions/gateway/config.yaml"},
			ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory()},
		})
		require.NoError(t, err)
		conf, err := r.Resolve(t.Context())
		require.NoError(t, err)
		for key, cfg := range map[string]component.Config{
			"receivers::ingest":             ingestreceiver.NewFactory().CreateDefaultConfig(),
			"processors::schema_validation": schemavalidationprocessor.NewFactory().CreateDefaultConfig(),
			"processors::quarantine":        quarantineprocessor.NewFactory().CreateDefaultConfig(),
			"exporters::msk":                mskexporter.NewFactory().CreateDefaultConfig(),
			"extensions::schema_registry":   schemaregistryextension.NewFactory().CreateDefaultConfig(),
		} {
			sub, err := conf.Sub(key)
			require.NoError(t, err)
			require.NoError(t, sub.Unmarshal(cfg), key)
			require.NoError(t, confmap.Validate(cfg), key)
			if v, ok := cfg.(*schemavalidationprocessor.Config); ok && mode != "" {
				require.EqualValues(t, mode, v.Policy.Mode)
				require.Zero(t, v.Limits.AgeMax)
			}
		}
		require.NoError(t, r.Shutdown(t.Context()))
	}
}
