package schemavalidationprocessor

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// What becomes of decoded events that violate something, where the policy is enforce.
const (
	pdataAttach = "attach"
	pdataDrop   = "drop"
)

// Config of processor `schema_validation`.
type Config struct {
	// Registry is the extension that has the schemas, such as schema_registry. Default none: only limits are checked.
	Registry component.ID `mapstructure:"registry"`
	// Tenants is the extension that knows each tenant's policy. Default none: Policy holds for all.
	Tenants component.ID `mapstructure:"tenants"`
	// Policy of tenants of which Tenants knows none. Default enforce, open.
	Policy schema.Policy `mapstructure:"policy"`
	// Limits of every event; a schema may replace them. Zero: not limited.
	Limits schema.Limits `mapstructure:"limits"`
	// Pdata is what becomes of decoded events (not envelopes) at fault: attach (default) puts the verdicts into the attribute
	// pulsegrid.findings, drop removes and counts them.
	Pdata string `mapstructure:"pdata"`
}

func createDefaultConfig() *Config {
	return &Config{
		Policy: schema.Policy{Mode: schema.Enforce, Unknown: schema.Open},
		Limits: schema.DefaultLimits(),
		Pdata:  pdataAttach,
	}
}

// Validate names the key and the value of what is wrong.
func (c *Config) Validate() error {
	var errs []error
	if err := c.Policy.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("policy::%w", err))
	}
	if err := c.Limits.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("limits::%w", err))
	}
	if c.Pdata != pdataAttach && c.Pdata != pdataDrop {
		errs = append(errs, fmt.Errorf("pdata: is %q, want %s or %s", c.Pdata, pdataAttach, pdataDrop))
	}
	return errors.Join(errs...)
}
