package quarantineprocessor

import "fmt"

// Defaults and bounds of Config.
const (
	defaultMaxRecordBytes = 900_000 // below the msk exporter's default of 1,000,000, with room for its headers
	minMaxRecordBytes     = 4 << 10
	maxMaxRecordBytes     = 64 << 20
)

// Config of processor `quarantine`.
type Config struct {
	// MaxRecordBytes bounds an envelope that is quarantined, with its verdicts: more events become several. An event that is larger alone is
	// left to the exporter to refuse. Default 900000; it must be below max_record_bytes of the exporter.
	MaxRecordBytes int `mapstructure:"max_record_bytes"`
}

func createDefaultConfig() *Config { return &Config{MaxRecordBytes: defaultMaxRecordBytes} }

// Validate names the key and the value of what is wrong.
func (c *Config) Validate() error {
	if c.MaxRecordBytes < minMaxRecordBytes || c.MaxRecordBytes > maxMaxRecordBytes {
		return fmt.Errorf("max_record_bytes: is %d, want %d to %d", c.MaxRecordBytes, minMaxRecordBytes, maxMaxRecordBytes)
	}
	return nil
}
