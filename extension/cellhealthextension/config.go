package cellhealthextension

import (
	"errors"
	"fmt"
	"net"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Defaults and bounds of Config.
const (
	defaultEndpoint       = "localhost:13135"
	defaultInterval       = 5 * time.Second
	defaultTimeout        = 3 * time.Second
	defaultLooks          = 3
	defaultHold           = time.Minute
	defaultReloadInterval = 5 * time.Second
	defaultReloadTimeout  = 30 * time.Second

	minInterval       = 10 * time.Millisecond
	maxInterval       = time.Minute
	maxLooks          = 100
	maxHold           = time.Hour
	maxReloadInterval = 10 * time.Second // what is promised: gateways follow `pulsegrid cell drain` within 10 s
	maxReloadTimeout  = 10 * time.Minute
)

// Config of extension `cell_health`.
type Config struct {
	// Endpoint is HOST:PORT of the health check. Default localhost:13135.
	Endpoint string `mapstructure:"endpoint"`
	// Cell is this cell's name. Required where state::location is set: a state of another cell is refused.
	Cell string `mapstructure:"cell"`
	// State is where an operator drains the cell.
	State StateConfig `mapstructure:"state"`
	// Interval of looks. Default 5s; 10ms to 1m.
	Interval time.Duration `mapstructure:"interval"`
	// Timeout of a look; what does not answer within it counts as failing. Default 3s; at most interval.
	Timeout time.Duration `mapstructure:"timeout"`
	// BadLooks is how many looks in a row must find that nothing can be accepted before the endpoint says so. Default 3; 1 to 100.
	BadLooks int `mapstructure:"bad_looks"`
	// GoodLooks is how many looks in a row must find that something can be accepted before the endpoint says so again. Default 3; 1 to 100.
	GoodLooks int `mapstructure:"good_looks"`
	// Hold is for how long the endpoint says at least that nothing can be accepted, once it does. Default 1m; 0s to 1h.
	Hold time.Duration `mapstructure:"hold"`
}

// StateConfig says where the cell's drain.yaml is.
type StateConfig struct {
	// Location is a directory, or s3://BUCKET/PREFIX?region=REGION, that all gateways of the cell read, `pulsegrid cell drain` writes, and nothing else
	// keeps in step with anything. Default empty: the cell cannot be drained.
	Location string `mapstructure:"location"`
	// ReloadInterval is how often changes are looked for. Default 5s; 10ms to 10s.
	ReloadInterval time.Duration `mapstructure:"reload_interval"`
	// Timeout of a look. Default 30s; at most 10m.
	Timeout time.Duration `mapstructure:"timeout"`
}

func createDefaultConfig() component.Config {
	return &Config{
		Endpoint: defaultEndpoint, Interval: defaultInterval, Timeout: defaultTimeout, BadLooks: defaultLooks, GoodLooks: defaultLooks, Hold: defaultHold,
		State: StateConfig{ReloadInterval: defaultReloadInterval, Timeout: defaultReloadTimeout},
	}
}

// Validate names the key and the value of what is wrong.
func (c *Config) Validate() error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	_, _, err := net.SplitHostPort(c.Endpoint)
	bad(err != nil, "endpoint: %q is not HOST:PORT", c.Endpoint)
	bad(c.Cell != "" && !tenant.ValidName(c.Cell), "cell: %q: "+tenant.WantName, c.Cell)
	if c.State.Location != "" {
		err := fileset.Check(c.State.Location)
		bad(err != nil, "state::location: %w", err)
		bad(c.Cell == "", "cell: is empty; state::location needs it, so that another cell's state is not taken for this one's")
	}
	bad(c.State.ReloadInterval < minInterval || c.State.ReloadInterval > maxReloadInterval, "state::reload_interval: is %v, want %v to %v", c.State.ReloadInterval, minInterval, maxReloadInterval)
	bad(c.State.Timeout <= 0 || c.State.Timeout > maxReloadTimeout, "state::timeout: is %v, want more than 0 and at most %v", c.State.Timeout, maxReloadTimeout)
	bad(c.Interval < minInterval || c.Interval > maxInterval, "interval: is %v, want %v to %v", c.Interval, minInterval, maxInterval)
	bad(c.Timeout <= 0 || c.Timeout > c.Interval, "timeout: is %v, want more than 0 and at most interval %v", c.Timeout, c.Interval)
	bad(c.BadLooks < 1 || c.BadLooks > maxLooks, "bad_looks: is %d, want 1 to %d", c.BadLooks, maxLooks)
	bad(c.GoodLooks < 1 || c.GoodLooks > maxLooks, "good_looks: is %d, want 1 to %d", c.GoodLooks, maxLooks)
	bad(c.Hold < 0 || c.Hold > maxHold, "hold: is %v, want 0s to %v", c.Hold, maxHold)
	return errors.Join(errs...)
}
