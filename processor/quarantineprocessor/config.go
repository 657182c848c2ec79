package quarantineprocessor

import (
	"errors"
	"fmt"
	"net/url"
	"time"
)

// Defaults and bounds of Config.
const (
	defaultMaxRecordBytes = 900_000 // below the msk exporter's default of 1,000,000, with room for its headers
	minMaxRecordBytes     = 4 << 10
	maxMaxRecordBytes     = 64 << 20
	defaultTimeout        = 10 * time.Second
	maxTimeout            = 5 * time.Minute
)

// Config of processor `quarantine`.
type Config struct {
	// MaxRecordBytes bounds an envelope that is quarantined, with its verdicts: more events become several. An event or a body that is larger
	// alone goes to Oversized. Default 900000; it must be below max_record_bytes of the exporter.
	MaxRecordBytes int `mapstructure:"max_record_bytes"`
	// Oversized is where that is kept which is larger than a record.
	Oversized OversizedConfig `mapstructure:"oversized"`
}

// OversizedConfig is an object store.
type OversizedConfig struct {
	// URL: s3://BUCKET?region=REGION&prefix=quarantine/, or file:///DIRECTORY. Default none: events that are larger than a record are lost, and
	// their senders told so.
	URL string `mapstructure:"url"`
	// Timeout of writing one object. Default 10s; at most 5m.
	Timeout time.Duration `mapstructure:"timeout"`
}

func createDefaultConfig() *Config {
	return &Config{MaxRecordBytes: defaultMaxRecordBytes, Oversized: OversizedConfig{Timeout: defaultTimeout}}
}

// Validate names the key and the value of what is wrong.
func (c *Config) Validate() error {
	var errs []error
	if c.MaxRecordBytes < minMaxRecordBytes || c.MaxRecordBytes > maxMaxRecordBytes {
		errs = append(errs, fmt.Errorf("max_record_bytes: is %d, want %d to %d", c.MaxRecordBytes, minMaxRecordBytes, maxMaxRecordBytes))
	}
	if c.Oversized.URL != "" {
		if u, err := url.Parse(c.Oversized.URL); err != nil || u.Scheme != "s3" && u.Scheme != "file" {
			errs = append(errs, fmt.Errorf("oversized::url: %q is neither s3://BUCKET nor file:///DIRECTORY", c.Oversized.URL))
		}
	}
	if c.Oversized.Timeout <= 0 || c.Oversized.Timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("oversized::timeout: is %v, want more than 0 and at most %v", c.Oversized.Timeout, maxTimeout))
	}
	return errors.Join(errs...)
}
