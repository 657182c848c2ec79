package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/upkeep"
)

const (
	defaultExpiryKeep = 365 * 24 * time.Hour
	// minExpiryKeep: Kafka's records, and who looks into the quarantine by hand, are younger.
	minExpiryKeep = 7 * 24 * time.Hour
	// clocksApart is by how much the clocks of this machine and of ClickHouse may differ: what a wrong clock takes for old is gone for good.
	clocksApart = 10 * time.Minute
)

type expiryOptions struct {
	stores       storesOptions
	keep         time.Duration
	dryRun, json bool
}

// expiryReport is what became of the lakes' tables of the quarantine.
type expiryReport struct {
	Before time.Time       `json:"received_before"`
	Tables []upkeep.Erased `json:"tables"`
}

func newExpiry() *cobra.Command {
	var o expiryOptions
	cmd := &cobra.Command{
		Use:   "expiry",
		Short: "Take what is older than --keep out of the lake's quarantine",
		Long: `Take the rows of the lake's tables quarantine and quarantine_pii that gateways received longer ago than --keep out of these tables. Whole days of receipt (UTC) expire. The rows are counted
first, file by file; a file is replaced only by one that has all of its other rows. Snapshots of before have them until upkeep expires these (` + "`job run upkeep --keep`" + `).

Nothing else is changed: ClickHouse deletes its rows after the exporter's retention_days, Kafka after the topic's retention, the store of large bodies by its lifecycle rule.

Nothing is changed either where the clocks of this machine and of ClickHouse are more than 10 minutes apart. Killed at any moment it can be run again.

Exit codes: 0 done; 1 a table failed, or a clock is wrong: the text says why; 2 wrong command line; 3 no cell is running.`,
		Example: `  pulsegrid job run expiry --dry-run
  pulsegrid job run expiry --keep 2160h
  pulsegrid job run expiry --config aggregator.yaml --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runExpiry(cmd, o) },
	}
	f := cmd.Flags()
	f.DurationVar(&o.keep, "keep", defaultExpiryKeep, "how long after their receipt rows are kept; at least 168h")
	f.BoolVar(&o.dryRun, "dry-run", false, "count what would expire; change nothing")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	o.stores.flags(cmd, "configuration of the aggregators that fill the lake; may be repeated, as for the Collector (default: the local cell's)")
	return cmd
}

// before is the beginning of the oldest day of receipt that is kept whole.
func (o *expiryOptions) before(now time.Time) time.Time {
	return now.UTC().Add(-o.keep).Truncate(24 * time.Hour)
}

func runExpiry(cmd *cobra.Command, o expiryOptions) error {
	ctx := cmd.Context()
	if o.keep < minExpiryKeep {
		return usageError{fmt.Errorf("--keep: %v: want at least %v", o.keep, minExpiryKeep)}
	}
	pipes, err := o.stores.pipelines(cmd)
	if err != nil {
		return err
	}
	if len(pipes.lakes()) == 0 {
		return usageError{errors.New("--config: the configuration has no lake: want an exporter iceberg")}
	}
	now := time.Now()
	if err := pipes.clocks(ctx, now); err != nil {
		return err
	}
	report := expiryReport{Before: o.before(now), Tables: []upkeep.Erased{}}
	err = o.expire(ctx, pipes, &report, teller(cmd, o.json))
	if printed := o.print(cmd.OutOrStdout(), report); err == nil {
		err = printed
	}
	if ctx.Err() != nil {
		return errors.New("stopped: what has expired stays expired; run it again")
	}
	return err
}

// clocks fails where a ClickHouse of the configuration has another time than now.
func (p *pipelines) clocks(ctx context.Context, now time.Time) error {
	asked := map[string]bool{}
	for _, id := range p.exporterIDs() {
		c, ok := p.exporters[id].(*clickhouseexporter.Config)
		if !ok || asked[c.ClientConfig.Endpoint] {
			continue
		}
		asked[c.ClientConfig.Endpoint] = true
		q, err := questionTo(ctx, c)
		if err != nil {
			return err
		}
		seconds, err := q.number(ctx, "SELECT toUnixTimestamp(now())")
		if err != nil {
			return fmt.Errorf("the time of ClickHouse %s: %w", redacted(c.ClientConfig.Endpoint), err)
		}
		if apart := time.Unix(seconds, 0).Sub(now).Abs(); apart > clocksApart {
			return fmt.Errorf("the clocks of this machine and of ClickHouse %s are %v apart: nothing was changed", redacted(c.ClientConfig.Endpoint), apart.Round(time.Second))
		}
	}
	return nil
}

func (o *expiryOptions) expire(ctx context.Context, p *pipelines, report *expiryReport, say func(string, ...any)) error {
	old := upkeep.Match{Within: iceberg.LessThan(iceberg.Reference("ingest_time"), iceberg.Timestamp(report.Before.UnixMicro())), History: true}
	var errs []error
	for _, c := range p.lakes() {
		cat, closeCatalog, err := openCatalog(ctx, c)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, name := range []string{columns.Quarantine.Name, columns.QuarantinePII.Name} {
			id := table.Identifier{c.Namespace, name}
			if there, err := cat.CheckTableExists(ctx, id); err != nil || !there {
				errs = append(errs, err)
				continue
			}
			say("%s ...", name)
			r, err := upkeep.Erase(ctx, cat, id, old, upkeep.Options{TargetBytes: erasureTarget, Within: c.Orphans.MinAge / 2, DryRun: o.dryRun})
			report.Tables = append(report.Tables, r)
			errs = append(errs, err)
		}
		closeCatalog()
	}
	return errors.Join(errs...)
}

func (o *expiryOptions) print(w io.Writer, r expiryReport) error {
	if o.json {
		return printJSON(w, r)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(tw, "received before %s\n", r.Before.Format(time.RFC3339)) // Flush tells of errors
	_, _ = fmt.Fprintln(tw, "table\trows\tfiles\tleft")
	for _, t := range r.Tables {
		_, _ = fmt.Fprintf(tw, "%s\t%d\t%d\t%d\n", t.Table, t.Rows, t.Files, t.Left)
	}
	if o.dryRun {
		_, _ = fmt.Fprintln(tw, "nothing was changed")
	}
	return tw.Flush()
}
