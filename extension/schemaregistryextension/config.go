package schemaregistryextension

import (
	"errors"
	"fmt"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
)

// Defaults and bounds of Config.
const (
	defaultReloadInterval = 5 * time.Second
	defaultTimeout        = 30 * time.Second
	minReloadInterval     = 100 * time.Millisecond
	maxReloadInterval     = 10 * time.Second // what is promised: a change holds within 10 s
	maxTimeout            = 10 * time.Minute
)

// Config of extension `schema_registry`.
type Config struct {
	// Location of the files: a directory, file:///DIRECTORY, or s3://BUCKET/PREFIX?region=REGION. Files named *.yaml and *.yml below it, at any
	// depth, are the registry. Required.
	Location string `mapstructure:"location"`
	// ReloadInterval between two looks at the files. Default 5s; 100ms to 10s.
	ReloadInterval time.Duration `mapstructure:"reload_interval"`
	// Timeout of one look. Default 30s; at most 10m.
	Timeout time.Duration `mapstructure:"timeout"`
}

func createDefaultConfig() *Config {
	return &Config{ReloadInterval: defaultReloadInterval, Timeout: defaultTimeout}
}

// Validate names the key and the value of what is wrong.
func (c *Config) Validate() error {
	var errs []error
	if err := fileset.Check(c.Location); err != nil {
		errs = append(errs, fmt.Errorf("location: %w", err))
	}
	if c.ReloadInterval < minReloadInterval || c.ReloadInterval > maxReloadInterval {
		errs = append(errs, fmt.Errorf("reload_interval: is %v, want %v to %v", c.ReloadInterval, minReloadInterval, maxReloadInterval))
	}
	if c.Timeout <= 0 || c.Timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("timeout: is %v, want more than 0 and at most %v", c.Timeout, maxTimeout))
	}
	return errors.Join(errs...)
}
