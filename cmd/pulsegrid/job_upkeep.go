package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/aggregate"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/upkeep"
)

const (
	defaultKeep       = 24 * time.Hour
	defaultRetainLast = 100
	defaultTargetMiB  = 256
	maxTargetMiB      = 4096
)

type upkeepOptions struct {
	stores storesOptions
	tables []string
	target int64 // MiB
	upkeep.Options
	json bool
}

func newUpkeep() *cobra.Command {
	var o upkeepOptions
	cmd := &cobra.Command{
		Use:   "upkeep",
		Short: "Keep the lake fast: put small files together, merge manifests, expire snapshots",
		Long: `Do what the lake's tables need beside their writers: small data files of a partition are put together, without rows that delete files take out of them; manifests are
merged; and old snapshots are expired, with the files that only they name. Rows and the offsets of the lake do not change, so aggregators go on meanwhile. Run it every
hour or every day.

A reader that works on an expired snapshot fails, as files that it reads may be deleted: keep snapshots for longer than the longest query. A partition with five small
files is written anew, by one core and in about 0.5 GiB of memory: for tables of many terabytes an engine is better (docs/runbooks/upkeep.md).

Exit codes: 0 done; 1 a table failed: what was done to it and to the others counts; 2 wrong command line; 3 no cell is running.`,
		Example: `  pulsegrid job run upkeep --dry-run
  pulsegrid job run upkeep --keep 48h
  pulsegrid job run upkeep --config aggregator.yaml --table logs --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runUpkeep(cmd, o) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.tables, "table", nil, "only this table; may be repeated (default: those that PulseGrid writes, copies of aggregates among them)")
	f.DurationVar(&o.Keep, "keep", defaultKeep, "expire snapshots that are older")
	f.IntVar(&o.RetainLast, "retain-last", defaultRetainLast, "and not among so many newest ones")
	f.Int64Var(&o.target, "target-mib", defaultTargetMiB, "size of a data file that small ones are put together to; 0: leave data files as they are")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be done")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	o.stores.flags(cmd, "configuration of the aggregators that fill the lake; may be repeated, as for the Collector (default: the local cell's)")
	return cmd
}

// openCatalog opens the lake's catalog for a job.
func openCatalog(ctx context.Context, lake *icebergexporter.Config) (cat catalog.Catalog, closeIt func(), err error) {
	if cat, err = catalog.Load(ctx, lake.Catalog.Name, lake.CatalogProperties()); err != nil {
		return nil, nil, fmt.Errorf("catalog %s: %w", lake.Catalog.Name, err)
	}
	return cat, func() {
		if c, ok := cat.(catalog.Closer); ok {
			_ = c.Close() // what it was told is committed
		}
	}, nil
}

// writtenTables are those tables of the lake that PulseGrid writes, as far as they are there: those of events and what belongs to them, and copies of aggregates.
func writtenTables(ctx context.Context, cat catalog.Catalog, namespace string) ([]string, error) {
	own := []string{columns.Quarantine.Name, columns.QuarantinePII.Name}
	for _, s := range signal.All {
		own = append(own, columns.ForSignal(s).Name)
	}
	for _, rows := range []string{columns.RowsEvents, columns.RowsQuarantine, columns.RowsQuarantinePII} {
		own = append(own, ledger.NameFor(rows))
	}
	var there, names []string
	for id, err := range cat.ListTables(ctx, table.Identifier{namespace}) {
		if err != nil {
			return nil, fmt.Errorf("list the tables of %s: %w", namespace, err)
		}
		there = append(there, id[len(id)-1])
	}
	for _, name := range there {
		if !slices.Contains(own, name) {
			tbl, err := cat.LoadTable(ctx, table.Identifier{namespace, name})
			if err != nil {
				return nil, fmt.Errorf("load table %s.%s: %w", namespace, name, err)
			}
			if tbl.Properties()[aggregate.ModelProperty] == "" {
				continue
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (o *upkeepOptions) validate() error {
	wrong := func(flag, format string, args ...any) error {
		return usageError{fmt.Errorf("--%s: %w", flag, fmt.Errorf(format, args...))}
	}
	switch {
	case o.Keep < 0:
		return wrong("keep", "%v: must not be negative", o.Keep)
	case o.RetainLast < 1:
		return wrong("retain-last", "%d: want at least 1", o.RetainLast)
	case o.target < 0 || o.target > maxTargetMiB:
		return wrong("target-mib", "%d: want 0 to %d", o.target, maxTargetMiB)
	}
	o.TargetBytes = o.target << 20
	return nil
}

func runUpkeep(cmd *cobra.Command, o upkeepOptions) error {
	ctx := cmd.Context()
	if err := o.validate(); err != nil {
		return err
	}
	pipes, err := o.stores.pipelines(cmd)
	if err != nil {
		return err
	}
	if pipes.lake == nil {
		return usageError{errors.New("--config: the configuration has no lake: want an exporter iceberg with rows: events")}
	}
	lake := pipes.lake
	o.Within = lake.Orphans.MinAge / 2
	cat, closeCatalog, err := openCatalog(ctx, lake)
	if err != nil {
		return err
	}
	defer closeCatalog()
	names := o.tables
	if len(names) == 0 {
		if names, err = writtenTables(ctx, cat, lake.Namespace); err != nil {
			return err
		}
	}
	reports, failed := make([]upkeep.Report, 0, len(names)), 0
	for _, name := range names {
		if !o.json {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s ...\n", name) // a table may take minutes
		}
		r, err := upkeep.Table(ctx, cat, table.Identifier{lake.Namespace, name}, o.Options)
		if err != nil {
			failed++
		}
		reports = append(reports, r)
		if ctx.Err() != nil {
			break
		}
	}
	if err := o.print(cmd, reports); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("stopped: what was done counts")
	case failed > 0:
		return fmt.Errorf("%d of %d tables failed", failed, len(names))
	}
	return nil
}

func (o *upkeepOptions) print(cmd *cobra.Command, reports []upkeep.Report) error {
	if o.json {
		return printJSON(cmd.OutOrStdout(), reports)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "table\tfiles\tcompacted\tinto\tmanifests\tmerged\tsnapshots\texpired\tseconds")
	for _, r := range reports {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\n", r.Table, r.Files, r.Compacted, r.Written, r.Manifests, r.MergedManifests, r.Snapshots, r.Expired, r.Seconds)
	}
	for _, r := range reports {
		if r.Error != "" {
			_, _ = fmt.Fprintln(w, printable(r.Error))
		}
		if r.Kept != "" {
			_, _ = fmt.Fprintf(w, "%s: %s\n", r.Table, r.Kept)
		}
	}
	if o.DryRun {
		_, _ = fmt.Fprintln(w, "nothing was changed: this is what would be done; new files, and manifests that would be merged, are not counted")
	}
	return w.Flush()
}
