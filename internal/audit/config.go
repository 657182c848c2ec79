package audit

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Defaults of Config.
const (
	DefaultWindow         = 15 * time.Minute
	DefaultTenant         = "default"
	DefaultMaxDifferences = 100
	DefaultDatabase       = "pulsegrid"
	DefaultNamespace      = "pulsegrid"
	DefaultHotGroup       = "pulsegrid-hot"
	DefaultLakeGroup      = "pulsegrid-lake"
	DefaultStallTimeout   = time.Minute
)

// Config says what to audit. Start with DefaultConfig.
type Config struct {
	Tool string // name and version of the program, for the certificate
	Cell string // name of the cell, for the certificate

	Kafka kafka.ClientConfig
	// Topics to audit. Empty: all that exist with a name that begins with otlp.logs., otlp.metrics. or otlp.traces.
	Topics []Topic
	// QuarantineTopic is where the aggregator puts what it cannot decode or store.
	QuarantineTopic string
	// DefaultTenant owns the events of records without a tenant header, as in the receiver.
	DefaultTenant string

	// The stores. Nil: not audited. At least one.
	ClickHouse *stored.ClickHouseConfig
	Lake       *stored.LakeConfig

	// Ranges are audited and nothing else, if there are any: offsets, inclusive.
	Ranges []certificate.Range
	// From and To bound the records by the time when Kafka appended them: From is in, To is not. Zero From: the begin of the log. Zero To:
	// what each store's consumer group has finished. Unused with Ranges.
	From, To time.Time
	// Tenant: only this tenant's events. The ledger, which counts all tenants, is then checked for holes only.
	Tenant string
	// Window of the dedupe rule, in append time; it must be the data path's. Zero: no event is a duplicate.
	Window time.Duration

	Quick      bool // compare counts, places and ids, not the content of rows
	SkipLedger bool // do not read the ledgers
	Rollups    bool // compare ClickHouse's rollup tables with its rows too

	// Erased are declared erasures: rows that they cover may be missing.
	Erased []erasure.Erasure
	// CopiesPercent is the share of copies of a signal above which the certificate warns.
	CopiesPercent float64

	MaxDifferences int                // differences listed of each kind and store; totals are exact
	TempDir        string             // for rows that do not fit in memory; empty: the system's
	Certificates   string             // directory to add the certificate to; empty: none is written
	Signer         certificate.Signer // of certificates; nil: they are not signed

	// Missing is called with the events that ClickHouse has lost, as they are found, stamped for internal/columns; an error ends the audit. Nil: not. It needs an
	// audit that is not Quick.
	Missing func(Missing) error

	// StallTimeout: an audit that hears nothing from Kafka for this long ends with an error.
	StallTimeout time.Duration
	// Progress is called now and then, from one goroutine at a time. Nil: not.
	Progress func(Progress)
}

// Missing are events of one topic that a store has lost: a request of one signal; the other two are zero.
type Missing struct {
	Topic   string
	Signal  signal.Signal
	Logs    plog.Logs
	Metrics pmetric.Metrics
	Traces  ptrace.Traces
	Events  int
}

// Topic is a topic and what it carries.
type Topic struct {
	Name   string
	Signal signal.Signal
}

// ParseTopic reads a topic's name, whose signal its beginning tells (otlp.logs.), or SIGNAL=NAME.
func ParseTopic(text string) (Topic, error) {
	if name, topic, ok := strings.Cut(text, "="); ok && topic != "" {
		s, err := signal.Parse(name)
		return Topic{topic, s}, err
	}
	if s := signal.OfTopic(text); s != 0 {
		return Topic{text, s}, nil
	}
	return Topic{}, fmt.Errorf("topic %q does not tell its signal: write logs=%s, metrics=%s or traces=%s", text, text, text, text)
}

// DefaultConfig is everything but the stores and the brokers.
func DefaultConfig() Config {
	return Config{
		Tool: "pulsegrid", Kafka: kafka.NewDefaultClientConfig(), QuarantineTopic: signal.QuarantineTopic, DefaultTenant: DefaultTenant,
		Window: DefaultWindow, MaxDifferences: DefaultMaxDifferences, CopiesPercent: certificate.DefaultCopiesPercent, StallTimeout: DefaultStallTimeout,
	}
}

// Validate says what is wrong, by the fields' names.
func (c *Config) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	errs = append(errs, c.Kafka.Validate())
	if c.ClickHouse == nil && c.Lake == nil {
		fail("no store to audit: name ClickHouse, the lake, or both")
	}
	if h := c.ClickHouse; h != nil && (h.URL == "" || h.Database == "" || h.Group == "") {
		fail("ClickHouse needs its URL (%q), database (%q) and consumer group (%q)", h.URL, h.Database, h.Group)
	}
	if l := c.Lake; l != nil {
		if l.Namespace == "" || l.Group == "" || l.CatalogName == "" {
			fail("the lake needs its catalog's name (%q), namespace (%q) and consumer group (%q)", l.CatalogName, l.Namespace, l.Group)
		}
		switch l.CatalogType {
		case "sql", "rest", "glue":
		default:
			fail("catalog type %q: want sql, rest or glue", l.CatalogType)
		}
	}
	if len(c.Ranges) > 0 && (!c.From.IsZero() || !c.To.IsZero()) {
		fail("ranges of offsets and a time range exclude each other")
	}
	if !c.From.IsZero() && !c.To.IsZero() && !c.From.Before(c.To) {
		fail("from %s is not before to %s", c.From.Format(time.RFC3339), c.To.Format(time.RFC3339))
	}
	for i, r := range c.Ranges {
		for _, o := range c.Ranges[:i] {
			if r.Topic == o.Topic && r.Partition == o.Partition {
				fail("ranges %s and %s are of one partition: audit them one after the other", o, r)
			}
		}
	}
	if c.Window < 0 {
		fail("dedupe window %s is negative", c.Window)
	}
	if c.DefaultTenant == "" || c.QuarantineTopic == "" {
		fail("the default tenant (%q) and the quarantine topic (%q) must be named", c.DefaultTenant, c.QuarantineTopic)
	}
	if c.MaxDifferences < 0 {
		fail("max differences %d is negative", c.MaxDifferences)
	}
	if c.CopiesPercent < 0 || c.CopiesPercent > 100 {
		fail("copies percent %g is not between 0 and 100", c.CopiesPercent)
	}
	if c.StallTimeout <= 0 {
		fail("stall timeout %s is not above zero", c.StallTimeout)
	}
	if c.Rollups && c.ClickHouse == nil {
		fail("rollups are in ClickHouse, which is not audited")
	}
	return errors.Join(errs...)
}

// Progress is where an audit is.
type Progress struct {
	Step      string // what is being done, for people
	Topic     string
	Partition int32
	Offset    int64 // the last offset counted
	Last      int64 // of the partition's range
	Events    int64 // of all partitions so far
	Rows      int64 // read from the stores so far
}
