package drain

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/confmap"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Bounds of the list.
const (
	maxCells     = 100
	maxGateways  = 1000
	maxGroups    = 100
	maxCopies    = 100
	fileBytesMax = 4 << 20

	defaultDatabase = "pulsegrid"
)

// Cell is where the parts of a cell are.
type Cell struct {
	// Name as the cell's gateways have it (PULSEGRID_CELL). Required.
	Name string `mapstructure:"name"`
	// Jurisdiction as they have it. Required.
	Jurisdiction string `mapstructure:"jurisdiction"`
	// State is `state::location` of the gateways' cell_health. Required.
	State string `mapstructure:"state"`
	// Gateways are the URLs of all the cell's gateways' metrics. Required.
	Gateways []string `mapstructure:"gateways"`
	// Kafka says how to connect to the cell's Kafka. brokers is required.
	Kafka kafka.ClientConfig `mapstructure:"kafka"`
	// Groups are the consumer groups that fill the stores, with the topics of each. Default: those of distributions/aggregator.
	Groups []Group `mapstructure:"groups"`
	// Aggregator is the configuration of the cell's aggregators, which says where its stores are: files, merged as the Collector does. Relative paths are from the list's directory.
	// Only settling reads the stores. Default: none.
	Aggregator []string `mapstructure:"aggregator"`
	// IdentitiesMayLeave allows hashes that name events of this cell to go to a cell of another jurisdiction, when what both have is settled; never those of a tenant that has a
	// jurisdiction. Default: false.
	IdentitiesMayLeave bool `mapstructure:"identities_may_leave"`
	// Copies are object stores that hold copies of what the cell has: backups, and replicas of its lake (`pulsegrid cell inventory`). Default: there is none.
	Copies []Copy `mapstructure:"copies"`
	// Capacity is what the cell can take, by which it is known whether the others have room for one that is away (`pulsegrid cell reserve`). Default: nobody knows.
	Capacity Capacity `mapstructure:"capacity"`
	// ClickHouse is the cell's, as readers over cells reach it (`pulsegrid cell rollups`). Default: they do not.
	ClickHouse ClickHouse `mapstructure:"clickhouse"`
}

// Capacity of a cell.
type Capacity struct {
	// EventsPerSecond that all of its parts hold for hours, as it is scaled. Default: 0, not known.
	EventsPerSecond int `mapstructure:"events_per_second"`
}

// ClickHouse is that of a cell, for reading.
type ClickHouse struct {
	// Endpoint is the URL of its HTTP interface. Empty: nobody reads it from elsewhere.
	Endpoint string `mapstructure:"endpoint"`
	// Database of the tables. Default: pulsegrid.
	Database string `mapstructure:"database"`
	// Username that may read and no more. Default: ClickHouse's own.
	Username string `mapstructure:"username"`
	// PasswordFile holds the password. Default: none.
	PasswordFile string `mapstructure:"password_file"`
	// TLS is for https. Default: the authorities that the system trusts.
	TLS configtls.ClientConfig `mapstructure:"tls"`
}

// Copy is an object store with copies.
type Copy struct {
	// URL as for a spill: s3://BUCKET?prefix=PREFIX/&region=REGION or file:///DIRECTORY. Required.
	URL string `mapstructure:"url"`
	// Jurisdiction that it is in. Default: that of the cell.
	Jurisdiction string `mapstructure:"jurisdiction"`
	// Of says what it has: "lake" for files as the lake has them, which are read; "stores" for a format of another program, whose objects are taken for copies of all that the cell
	// holds. Required.
	Of string `mapstructure:"of"`
}

// What a Copy is of.
const (
	OfLake   = "lake"
	OfStores = "stores"
)

// Group is a consumer group of one store.
type Group struct {
	Name   string   `mapstructure:"name"`
	Topics []string `mapstructure:"topics"`
}

// Groups are those of distributions/aggregator, with its overflow.yaml.
func Groups() []Group {
	var fast, overflow []string
	for _, s := range signal.All {
		fast = append(fast, s.Topic())
		overflow = append(overflow, s.OverflowTopic())
	}
	groups := []Group{{"pulsegrid-hot", fast}, {"pulsegrid-lake", fast}, {"pulsegrid-hot-overflow", overflow}, {"pulsegrid-lake-overflow", overflow}}
	for _, name := range []string{"pulsegrid-quarantine-hot", "pulsegrid-quarantine-pii-hot", "pulsegrid-quarantine-lake", "pulsegrid-quarantine-pii-lake"} {
		groups = append(groups, Group{name, []string{signal.QuarantineTopic}})
	}
	return groups
}

// ReadCells reads the list, a YAML file with the key `cells`. Its errors name the key and the value.
func ReadCells(path string) ([]Cell, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > fileBytesMax {
		return nil, fmt.Errorf("%s: %d bytes are more than %d", path, info.Size(), fileBytesMax)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cells, err := parseCells(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cells, nil
}

func parseCells(content []byte) ([]Cell, error) {
	var values map[string]any
	if err := yaml.Unmarshal(content, &values); err != nil {
		return nil, err
	}
	listed, ok := values["cells"].([]any)
	if !ok || len(values) != 1 || len(listed) == 0 || len(listed) > maxCells {
		return nil, fmt.Errorf("want one key `cells`, a list of 1 to %d cells", maxCells)
	}
	cells := make([]Cell, len(listed))
	seen := map[string]bool{}
	for i, item := range listed {
		fields, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("cells: the %d. is no mapping", i+1)
		}
		c := &cells[i]
		c.Kafka = kafka.NewDefaultClientConfig()
		c.Kafka.Brokers = nil
		c.ClickHouse.Database = defaultDatabase
		err := confmap.NewFromStringMap(fields).Unmarshal(c)
		if err == nil {
			err = c.validate()
		}
		if err != nil {
			return nil, fmt.Errorf("cells: the %d., %q: %w", i+1, c.Name, err)
		}
		if c.Groups == nil {
			c.Groups = Groups()
		}
		for _, what := range append([]string{"name " + c.Name, "state " + c.State}, c.Gateways...) {
			if seen[what] {
				return nil, fmt.Errorf("cells: the %d., %q: %s: is there twice", i+1, c.Name, what)
			}
			seen[what] = true
		}
	}
	return cells, nil
}

func (c *Cell) validate() error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(!tenant.ValidName(c.Name), "name: %q: "+tenant.WantName, c.Name)
	bad(!tenant.ValidName(c.Jurisdiction), "jurisdiction: %q: "+tenant.WantName, c.Jurisdiction)
	if err := fileset.Check(c.State); err != nil {
		bad(true, "state: %w", err)
	}
	bad(len(c.Gateways) == 0 || len(c.Gateways) > maxGateways, "gateways: are %d, want the URLs of 1 to %d gateways' metrics", len(c.Gateways), maxGateways)
	for _, g := range c.Gateways {
		u, err := url.Parse(g)
		bad(err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "", "gateways: %q: want a URL such as http://10.0.0.1:8888/metrics", g)
	}
	if err := c.Kafka.Validate(); err != nil {
		bad(true, "kafka::%w", err)
	}
	bad(c.Groups != nil && len(c.Groups) == 0 || len(c.Groups) > maxGroups, "groups: are %d, want 1 to %d", len(c.Groups), maxGroups)
	bad(c.Capacity.EventsPerSecond < 0, "capacity::events_per_second: %d is below 0", c.Capacity.EventsPerSecond)
	bad(len(c.Copies) > maxCopies, "copies: are %d, want at most %d", len(c.Copies), maxCopies)
	if c.ClickHouse.Endpoint != "" {
		u, err := url.Parse(c.ClickHouse.Endpoint)
		bad(err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "", "clickhouse::endpoint: %q: want a URL such as https://clickhouse.eu-1.example.com:8443", c.ClickHouse.Endpoint)
		bad(c.ClickHouse.Database == "", "clickhouse::database: is empty")
	}
	for _, copied := range c.Copies {
		u, err := url.Parse(copied.URL)
		bad(err != nil || u.Scheme != "s3" && u.Scheme != "file", "copies: url %q: want s3://BUCKET?prefix=PREFIX/&region=REGION or file:///DIRECTORY", copied.URL)
		bad(copied.Jurisdiction != "" && !tenant.ValidName(copied.Jurisdiction), "copies: jurisdiction: %q: "+tenant.WantName, copied.Jurisdiction)
		bad(copied.Of != OfLake && copied.Of != OfStores, "copies: of %q: want %s or %s", copied.Of, OfLake, OfStores)
	}
	for _, g := range c.Groups {
		bad(g.Name == "" || len(g.Topics) == 0, "groups: %q: needs name and topics", g.Name)
	}
	return errors.Join(errs...)
}

// Find returns the cell of a name.
func Find(cells []Cell, name string) (*Cell, error) {
	i := slices.IndexFunc(cells, func(c Cell) bool { return c.Name == name })
	if i >= 0 {
		return &cells[i], nil
	}
	names := make([]string, 0, len(cells))
	for _, c := range cells {
		names = append(names, c.Name)
	}
	return nil, fmt.Errorf("%q is none of the cells: %s", name, strings.Join(names, ", "))
}
