package gateway_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"

	"github.com/pulsegrid/pulsegrid/exporter/mskexporter"
	"github.com/pulsegrid/pulsegrid/extension/cellhealthextension"
	"github.com/pulsegrid/pulsegrid/extension/schemaregistryextension"
	"github.com/pulsegrid/pulsegrid/extension/tenantauthextension"
	"github.com/pulsegrid/pulsegrid/processor/quarantineprocessor"
	"github.com/pulsegrid/pulsegrid/processor/schemavalidationprocessor"
	"github.com/pulsegrid/pulsegrid/processor/tenantroutingprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/ingestreceiver"
)

// resolved is a config of distributions/gateway with others merged over it.
func resolved(t *testing.T, files ...string) *confmap.Conf {
	t.Helper()
	var uris []string
	for _, file := range files {
		uris = append(uris, "file:../../distributions/gateway/"+file)
	}
	r, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs: uris, ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory()},
	})
	require.NoError(t, err)
	conf, err := r.Resolve(t.Context())
	require.NoError(t, err)
	require.NoError(t, r.Shutdown(t.Context()))
	return conf
}

// understand reads one component's part.
func understand(t *testing.T, conf *confmap.Conf, key string, cfg component.Config) {
	t.Helper()
	sub, err := conf.Sub(key)
	require.NoError(t, err)
	require.NoError(t, sub.Unmarshal(cfg), key)
	require.NoError(t, confmap.Validate(cfg), key)
}

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
		conf := resolved(t, "config.yaml")
		for key, cfg := range map[string]component.Config{
			"receivers::ingest":             ingestreceiver.NewFactory().CreateDefaultConfig(),
			"processors::tenant_routing":    tenantroutingprocessor.NewFactory().CreateDefaultConfig(),
			"processors::schema_validation": schemavalidationprocessor.NewFactory().CreateDefaultConfig(),
			"processors::quarantine":        quarantineprocessor.NewFactory().CreateDefaultConfig(),
			"exporters::msk":                mskexporter.NewFactory().CreateDefaultConfig(),
			"extensions::cell_health":       cellhealthextension.NewFactory().CreateDefaultConfig(),
			"extensions::schema_registry":   schemaregistryextension.NewFactory().CreateDefaultConfig(),
			"extensions::tenant_auth":       tenantauthextension.NewFactory().CreateDefaultConfig(),
		} {
			understand(t, conf, key, cfg)
			if v, ok := cfg.(*schemavalidationprocessor.Config); ok && mode != "" {
				require.EqualValues(t, mode, v.Policy.Mode)
				require.Zero(t, v.Limits.AgeMax)
			}
		}
	}
}

// Guarantees: as it is the gateway serves TLS and wants credentials, by both protocols; insecure.yaml, which one must name, switches all of that off.
func TestTheDistributionsGatewayIsSecureUnlessItIsToldOtherwise(t *testing.T) {
	security := func(files ...string) (tls, auth [2]bool, tenants component.ID) {
		conf := resolved(t, files...)
		ingest := ingestreceiver.NewFactory().CreateDefaultConfig().(*ingestreceiver.Config)
		understand(t, conf, "receivers::ingest", ingest)
		validation := schemavalidationprocessor.NewFactory().CreateDefaultConfig().(*schemavalidationprocessor.Config)
		understand(t, conf, "processors::schema_validation", validation)
		grpc, http := ingest.Protocols.GRPC.Get(), ingest.Protocols.HTTP.Get()
		return [2]bool{grpc.TLS.HasValue(), http.TLS.HasValue()}, [2]bool{grpc.Auth.HasValue(), http.Auth.HasValue()}, validation.Tenants
	}
	both, neither := [2]bool{true, true}, [2]bool{}
	tls, auth, tenants := security("config.yaml")
	require.Equal(t, both, tls)
	require.Equal(t, both, auth)
	require.Equal(t, component.MustNewID("tenant_auth"), tenants)
	tls, auth, tenants = security("config.yaml", "insecure.yaml")
	require.Equal(t, neither, tls)
	require.Equal(t, neither, auth)
	require.Zero(t, tenants)
	tls, auth, _ = security("config.yaml", "../../integration/rig/testdata/plaintext.yaml") // what distributions/gateway/README.md says of TLS that ends elsewhere
	require.Equal(t, neither, tls)
	require.Equal(t, both, auth)
}
