package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/confmap"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
)

// exitNotAudited is audit's: no difference was found, but not all could be looked at.
const exitNotAudited = 2

// passwordVariable holds ClickHouse's password; a flag would show in the list of processes.
const passwordVariable = "PULSEGRID_CLICKHOUSE_PASSWORD"

// auditError is an audit that did not find everything equal.
type auditError struct {
	code int
	error
}

func (e auditError) Unwrap() error { return e.error }

// Verdicts of an audit that came to its end.
var (
	errDiffers = errors.New("the stores differ from Kafka")
	errNotAll  = errors.New("no difference found, but not all could be audited")
)

type auditOptions struct {
	data, brokers, kafkaConfig                               string
	clickhouse, clickhouseUser, clickhousePassword, database string
	catalogURI, catalogType, catalogName                     string
	warehouse, namespace                                     string
	lakeProperties                                           map[string]string
	aggregators                                              []string
	stores, topics, ranges                                   []string
	from, to                                                 string
	json, quiet                                              bool
	config                                                   audit.Config
	hotGroup, lakeGroup                                      string
	erased                                                   []string
	signKey                                                  string
	metrics                                                  string
}

func newAudit() *cobra.Command {
	o := auditOptions{config: audit.DefaultConfig()}
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Prove that each acknowledged event is in ClickHouse once and in the lake once",
		Long: `Count again what Kafka holds, read ClickHouse and the lake, and compare them event by event and column by column. Each event of Kafka is a row that
is equal in every column, or it is in quarantine, or it is a copy of an earlier event, whose place is named: that is decided by comparing contents, with
code that the data path does not use. Copies are counted by rule, and too many of them are a warning. Without flags it audits the running local cell: every partition from the begin of its log to what each store's consumer group
has finished. It takes nothing from anybody and changes nothing.

It ends with a summary and, with --certificates, a certificate: JSON that is chained to the one before it by its hash
("pulsegrid audit verify DIR" checks the chain). Rows that were deleted lawfully are declared in a file (--erased, docs/formats/erasures.md); they count as
erased then, not as lost. Where Kafka's retention has removed records, only the ledger is left to compare the
stores with, and the certificate says so.

Memory: up to 100 bytes for each event that one partition took within the dedupe window, and 150 MB for the rest; rows that do not fit go to
temporary files (48 bytes a row).

Exit codes: 0 equal; 1 different: the differences are listed; 2 not all could be audited (a store is down, records are gone), or the
command line is wrong; 3 no cell is running.`,
		Example: `  pulsegrid audit
  pulsegrid audit --from 2h --tenant acme --quick
  pulsegrid audit --range otlp.logs.v1/3/120000-129999 --json | jq .differences
  pulsegrid audit --brokers kafka:9092 --clickhouse http://clickhouse:8123 --catalog-uri https://catalog --warehouse s3://lake/pulsegrid --certificates ./certificates
  pulsegrid audit --config aggregator.yaml --certificates ./certificates
  pulsegrid audit verify ./certificates`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAudit(cmd, o) },
	}
	f, c := cmd.Flags(), &o.config
	f.StringVar(&o.from, "from", "", "only records appended since: RFC 3339, or a duration ago such as 2h (default: the begin of the log)")
	f.StringVar(&o.to, "to", "", "only records appended before: RFC 3339, a duration ago, or now (default: what each store's group has finished)")
	f.StringArrayVar(&o.ranges, "range", nil, "only these offsets: TOPIC/PARTITION/FIRST-LAST, as blocks are named; may be repeated")
	f.StringVar(&c.Tenant, "tenant", "", "only this tenant (default: all)")
	f.StringArrayVar(&o.topics, "topic", nil, "only this topic, NAME or SIGNAL=NAME; may be repeated (default: all otlp.logs.*, otlp.metrics.*, otlp.traces.*)")
	f.StringSliceVar(&o.stores, "stores", []string{certificate.Hot, certificate.Lake}, "stores to audit")
	f.BoolVar(&c.Quick, "quick", false, "compare counts, places and ids, not the content of rows")
	f.BoolVar(&c.Rollups, "rollups", false, "compare ClickHouse's rollup tables with its rows too, over the days that the ranges lie in")
	f.BoolVar(&c.SkipLedger, "no-ledger", false, "do not compare the stores' ledgers")
	f.DurationVar(&c.Window, "dedupe-window", c.Window, "window of the dedupe rule; must be the aggregator's; 0: no dedupe")
	f.StringVar(&c.DefaultTenant, "default-tenant", c.DefaultTenant, "tenant of records without one, as in the aggregator")
	f.StringVar(&c.QuarantineTopic, "quarantine-topic", c.QuarantineTopic, "topic of quarantined records, as in the aggregator")
	f.IntVar(&c.MaxDifferences, "max-differences", c.MaxDifferences, "differences listed of each kind and store; totals are always exact")
	f.StringArrayVar(&o.erased, "erased", nil, "file that declares lawful deletions (docs/formats/erasures.md); may be repeated")
	f.Float64Var(&c.CopiesPercent, "copies-percent", c.CopiesPercent, copiesUsage)
	f.StringVar(&c.Certificates, "certificates", "", "directory to add the certificate to")
	f.StringVar(&o.metrics, "metrics", "", "file to write the verdict to, for a node exporter's textfile collector (docs/slo.md)")
	f.StringVar(&o.signKey, "sign-key", "", "private key to sign certificates with (`pulsegrid audit key new`)")
	f.StringVar(&c.TempDir, "temp-dir", "", "directory of temporary files (default: the system's)")
	f.BoolVar(&o.json, "json", false, "print the certificate instead of the summary")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")

	f.StringArrayVar(&o.aggregators, "config", nil, "configuration of the aggregators that fill the stores, instead of the flags below; may be repeated, as for the Collector")
	f.StringVar(&o.data, "data", defaultDataDir, "data directory of the running local cell, which the flags below default to")
	f.StringVar(&c.Cell, "cell", "", "name of the cell, for the certificate")
	f.StringVar(&o.brokers, "brokers", "", "HOST:PORT,... of Kafka")
	f.StringVar(&o.kafkaConfig, "kafka-config", "", "YAML file of Kafka client settings (brokers, tls, auth), as in the receiver's configuration")
	f.StringVar(&o.clickhouse, "clickhouse", "", "URL of ClickHouse's HTTP interface")
	f.StringVar(&o.clickhouseUser, "clickhouse-user", "", "user of ClickHouse; its password is read from "+passwordVariable)
	f.StringVar(&o.database, "database", audit.DefaultDatabase, "database in ClickHouse")
	f.StringVar(&o.catalogURI, "catalog-uri", "", "catalog of the lake: file:/path/catalog.db, or a REST catalog's URL")
	f.StringVar(&o.catalogType, "catalog-type", "", "sql, rest or glue (default: by --catalog-uri)")
	f.StringVar(&o.catalogName, "catalog-name", "pulsegrid", "name of the catalog")
	f.StringVar(&o.warehouse, "warehouse", "", "warehouse of the lake: file:///dir or s3://bucket/prefix")
	f.StringToStringVar(&o.lakeProperties, "lake-property", nil, "property for the catalog and the object store, KEY=VALUE, such as s3.endpoint; may be repeated")
	f.StringVar(&o.namespace, "namespace", audit.DefaultNamespace, "namespace of the lake's tables")
	f.StringVar(&o.hotGroup, "group-hot", audit.DefaultHotGroup, "consumer group that fills ClickHouse")
	f.StringVar(&o.lakeGroup, "group-lake", audit.DefaultLakeGroup, "consumer group that fills the lake")
	cmd.AddCommand(newAuditVerify(), newAuditKey())
	return cmd
}

func runAudit(cmd *cobra.Command, o auditOptions) error {
	config, err := o.resolve(cmd, time.Now())
	if err != nil {
		return err
	}
	config.Tool = "pulsegrid " + version
	if !o.quiet {
		config.Progress = progressTo(cmd.ErrOrStderr())
	}
	c, err := audit.Run(cmd.Context(), config)
	if err != nil {
		return notAudited(cmd.Context(), err)
	}
	err = reportAudit(cmd.OutOrStdout(), c, config, o.json)
	if o.metrics != "" {
		if failed := writeAuditMetrics(o.metrics, c); failed != nil {
			err = errors.Join(err, auditError{exitNotAudited, fmt.Errorf("--metrics: %w", failed)})
		}
	}
	return err
}

// reportAudit prints a certificate; its error is the verdict.
func reportAudit(w io.Writer, c *certificate.Certificate, config audit.Config, asJSON bool) (err error) {
	if asJSON {
		err = printCertificate(w, c)
	} else {
		err = printAudit(w, c, config.Certificates)
	}
	if err != nil {
		return err
	}
	switch c.Verdict {
	case certificate.Equal:
		return nil
	case certificate.Different:
		return auditError{exitFailed, errDiffers}
	}
	return auditError{exitNotAudited, errNotAll}
}

func notAudited(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = errors.New("stopped")
	}
	return auditError{exitNotAudited, fmt.Errorf("could not audit: %w", err)}
}

// asked is the configuration with the records, deletions and signer that the flags name.
func (o *auditOptions) asked(now time.Time) (audit.Config, error) {
	c := o.config
	wrong := func(flag string, err error) (audit.Config, error) {
		return c, usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	var err error
	if o.signKey != "" {
		if c.Certificates == "" {
			return wrong("--sign-key", errors.New("is of no use without --certificates"))
		}
		if c.Signer, err = certificate.OpenSigner(o.signKey); err != nil {
			return wrong("--sign-key", err)
		}
	}
	if c.From, err = parseTime(o.from, now); err != nil {
		return wrong("--from", err)
	}
	if c.To, err = parseTime(o.to, now); err != nil {
		return wrong("--to", err)
	}
	for _, text := range o.ranges {
		r, err := certificate.ParseRange(text)
		if err != nil {
			return wrong("--range", err)
		}
		c.Ranges = append(c.Ranges, r)
	}
	ids := map[string]string{}
	for _, path := range o.erased {
		declared, err := erasure.ReadFile(path)
		if err != nil {
			return wrong("--erased", err)
		}
		for _, e := range declared {
			if other, ok := ids[e.ID]; ok {
				return wrong("--erased", fmt.Errorf("%s: id %q is in %s too", path, e.ID, other))
			}
			ids[e.ID] = path
		}
		c.Erased = append(c.Erased, declared...)
	}
	for _, text := range o.topics {
		t, err := audit.ParseTopic(text)
		if err != nil {
			return wrong("--topic", err)
		}
		c.Topics = append(c.Topics, t)
	}
	return c, nil
}

// resolve makes the audit's configuration of the flags and, where they leave something open, of the running local cell.
func (o *auditOptions) resolve(cmd *cobra.Command, now time.Time) (audit.Config, error) {
	c, err := o.asked(now)
	if err != nil {
		return c, err
	}
	wrong := func(flag string, err error) (audit.Config, error) {
		return c, usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	for _, s := range o.stores {
		if s != certificate.Hot && s != certificate.Lake {
			return wrong("--stores", fmt.Errorf("%q is neither %s nor %s", s, certificate.Hot, certificate.Lake))
		}
	}
	if len(o.aggregators) > 0 {
		return o.fromAggregators(cmd, c)
	}
	if o.kafkaConfig != "" {
		if c.Kafka, err = readKafkaConfig(o.kafkaConfig); err != nil {
			return wrong("--kafka-config", err)
		}
	}
	hot, lake := slices.Contains(o.stores, certificate.Hot), slices.Contains(o.stores, certificate.Lake)
	o.clickhousePassword = os.Getenv(passwordVariable)
	if o.brokers == "" && o.kafkaConfig == "" || hot && o.clickhouse == "" || lake && o.catalogURI == "" && o.catalogType != "glue" {
		if err := o.fromCell(&c); err != nil {
			return c, err
		}
	}
	if o.brokers != "" {
		c.Kafka.Brokers = strings.Split(o.brokers, ",")
	}
	if hot {
		c.ClickHouse = &stored.ClickHouseConfig{
			URL: httpURL(o.clickhouse), Database: o.database, Username: o.clickhouseUser, Password: o.clickhousePassword, Group: o.hotGroup,
		}
	}
	if lake {
		c.Lake = &stored.LakeConfig{
			CatalogType: catalogType(o.catalogType, o.catalogURI), CatalogName: o.catalogName, CatalogURI: o.catalogURI, Warehouse: o.warehouse,
			Properties: o.lakeProperties, Namespace: o.namespace, Group: o.lakeGroup,
		}
	}
	if err := c.Validate(); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// aggregatorFlags say what the configuration of aggregators says, too.
var aggregatorFlags = []string{
	"brokers", "kafka-config", "clickhouse", "clickhouse-user", "database", "catalog-uri", "catalog-type", "catalog-name", "warehouse", "lake-property", "namespace", "group-hot", "group-lake",
	"dedupe-window", "default-tenant", "quarantine-topic",
}

// fromAggregators completes a configuration with what aggregators are configured with.
func (o *auditOptions) fromAggregators(cmd *cobra.Command, c audit.Config) (audit.Config, error) {
	for _, flag := range aggregatorFlags {
		if cmd.Flags().Changed(flag) {
			return c, usageError{fmt.Errorf("--%s: --config says that already: give one of them", flag)}
		}
	}
	stores := storesOptions{config: o.aggregators}
	pipes, hot, err := stores.hot(cmd)
	if err != nil {
		return c, err
	}
	if err := hot.asked(cmd.Context(), &c); err != nil {
		return c, err
	}
	if !slices.Contains(o.stores, certificate.Hot) {
		c.ClickHouse = nil
	}
	if slices.Contains(o.stores, certificate.Lake) {
		if c.Lake, err = pipes.auditedLake(); err != nil {
			return c, fmt.Errorf("configuration of the aggregators: %w", err)
		}
	}
	if err := c.Validate(); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// fromCell fills in what was left open.
func (o *auditOptions) fromCell(c *audit.Config) error {
	state, err := cell.ReadState(o.data)
	if err != nil {
		return fmt.Errorf("%w; or name another cell's --brokers, --clickhouse and --catalog-uri", err)
	}
	e := state.Endpoints
	if o.brokers == "" && o.kafkaConfig == "" {
		o.brokers = e.Kafka
	}
	if o.clickhouse == "" {
		o.clickhouse, o.clickhouseUser, o.clickhousePassword = e.ClickHouseHTTP, e.ClickHouseUser, e.ClickHousePassword
	}
	if o.catalogURI == "" {
		o.catalogURI = "file:" + strings.TrimPrefix(e.Catalog, "sqlite:///")
		if o.warehouse == "" {
			o.warehouse = e.Warehouse
		}
	}
	if c.Cell == "" {
		c.Cell = "local"
	}
	return nil
}

// parseTime reads a point in time; empty is none.
func parseTime(text string, now time.Time) (time.Time, error) {
	switch text {
	case "":
		return time.Time{}, nil
	case "now":
		return now, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q: want RFC 3339 (2026-01-02T15:04:05Z), or how long ago (90m)", text)
	}
	return t, nil
}

// readKafkaConfig reads a file that looks like the receiver's configuration.
func readKafkaConfig(path string) (kafka.ClientConfig, error) {
	c := kafka.NewDefaultClientConfig()
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	if err := confmap.NewFromStringMap(values).Unmarshal(&c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func httpURL(address string) string {
	if address == "" || strings.Contains(address, "://") {
		return address
	}
	return "http://" + address
}

func catalogType(given, uri string) string {
	switch {
	case given != "":
		return given
	case strings.HasPrefix(uri, "http://"), strings.HasPrefix(uri, "https://"):
		return "rest"
	}
	return "sql"
}
