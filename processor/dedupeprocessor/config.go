package dedupeprocessor

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/dedupe"
)

// Config of the processor. Each pipeline has a memory of its own.
type Config struct {
	// Window is how much later a copy of an event may come to be removed, in append time. Default 15m; 1s to 24h.
	Window time.Duration `mapstructure:"window"`

	// MaxMemoryBytes bounds what one pipeline remembers, about 18 bytes for an event of the window, or for a request whose events' times are whole
	// milliseconds. Where it is reached, the oldest are forgotten early, which is counted and logged. Default 1 GiB; at least 1 MiB.
	MaxMemoryBytes int64 `mapstructure:"max_memory_bytes"`
}

const (
	defaultWindow         = 15 * time.Minute
	defaultMaxMemoryBytes = 1 << 30
)

func createDefaultConfig() component.Config {
	return &Config{Window: defaultWindow, MaxMemoryBytes: defaultMaxMemoryBytes}
}

// Validate checks what no other part of the config checks.
func (c *Config) Validate() error {
	var errs []error
	if c.Window < dedupe.WindowMin || c.Window > dedupe.WindowMax {
		errs = append(errs, fmt.Errorf("window %v: want %v to %v", c.Window, dedupe.WindowMin, dedupe.WindowMax))
	}
	if c.MaxMemoryBytes < dedupe.MaxBytesMin {
		errs = append(errs, fmt.Errorf("max_memory_bytes %d: want at least %d", c.MaxMemoryBytes, int64(dedupe.MaxBytesMin)))
	}
	return errors.Join(errs...)
}
