package gateway_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/pulsegrid/pulsegrid/exporter/mskexporter"
	"github.com/pulsegrid/pulsegrid/extension/tenantauthextension"
	"github.com/pulsegrid/pulsegrid/processor/quarantineprocessor"
	"github.com/pulsegrid/pulsegrid/processor/schemavalidationprocessor"
	"github.com/pulsegrid/pulsegrid/processor/tenantroutingprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/ingestreceiver"
)

// Guarantee: a gateway whose pipeline would write invalid events where stores take them for good, or could not quarantine them, does not start; the
// error names the fix.
func TestAGatewayThatIsComposedWronglyDoesNotStart(t *testing.T) {
	for name, c := range map[string]struct {
		processors []string // behind the receiver, in order
		mode       string   // of the policy; tenants: warn, and tenants may have others
		recordMax  int
		want       string // empty: it starts
	}{
		"right":            {[]string{"schema_validation", "quarantine"}, "enforce", 1_000_000, ""},
		"nothing enforced": {[]string{"schema_validation"}, "warn", 1_000_000, ""},
		"no quarantine":    {[]string{"schema_validation"}, "enforce", 1_000_000, "add processor quarantine behind it"},
		"quarantine first": {[]string{"quarantine", "schema_validation"}, "enforce", 1_000_000, "processor quarantine comes before schema_validation"},
		"tenants' modes":   {[]string{"schema_validation"}, "tenants", 1_000_000, "add processor quarantine behind it"},
		"behind a router":  {[]string{"tenant_routing", "schema_validation"}, "enforce", 1_000_000, "add processor quarantine behind it"},
		"sizes":            {[]string{"schema_validation", "quarantine"}, "enforce", 800_000, "it needs 2048 more than the processor for headers"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, extensions := context.Background(), host{}
			begin := func(c component.Component, err error) error {
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, c.Shutdown(ctx)) })
				return c.Start(ctx, extensions)
			}
			configured := func(cfg component.Config, values map[string]any) component.Config {
				require.NoError(t, confmap.NewFromStringMap(values).Unmarshal(cfg))
				require.NoError(t, confmap.Validate(cfg))
				return cfg
			}
			af := tenantauthextension.NewFactory()
			auth, err := af.Create(ctx, extensiontest.NewNopSettings(af.Type()), configured(af.CreateDefaultConfig(), map[string]any{
				"registry": map[string]any{"location": t.TempDir()},
			}))
			require.NoError(t, begin(auth, err))
			extensions[component.NewID(af.Type())] = auth
			ef := mskexporter.NewFactory()
			exp, err := ef.CreateLogs(ctx, exportertest.NewNopSettings(ef.Type()), configured(ef.CreateDefaultConfig(), map[string]any{
				"brokers": []any{"127.0.0.1:1"}, "startup_timeout": "0s", "max_record_bytes": c.recordMax,
			}))
			require.NoError(t, begin(exp, err))
			next := consumer.Logs(exp)
			for i := len(c.processors) - 1; i >= 0; i-- {
				var f processor.Factory
				values := map[string]any{}
				switch c.processors[i] {
				case "quarantine":
					f = quarantineprocessor.NewFactory()
				case "tenant_routing":
					f = tenantroutingprocessor.NewFactory()
				default:
					f = schemavalidationprocessor.NewFactory()
					values["policy"] = map[string]any{"mode": c.mode}
					if c.mode == "tenants" {
						values = map[string]any{"tenants": "tenant_auth", "policy": map[string]any{"mode": "warn"}}
					}
				}
				set := processortest.NewNopSettings(f.Type())
				set.ID = component.NewID(f.Type())
				p, err := f.CreateLogs(ctx, set, configured(f.CreateDefaultConfig(), values), next)
				require.NoError(t, begin(p, err))
				next = p
			}
			rf := ingestreceiver.NewFactory()
			rec, err := rf.CreateLogs(ctx, receivertest.NewNopSettings(rf.Type()), configured(rf.CreateDefaultConfig(), map[string]any{
				"protocols": map[string]any{"http": map[string]any{"endpoint": freeAddr(t)}},
			}), next)
			if err = begin(rec, err); c.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.want)
			}
		})
	}
}
