package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/drain"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

type restoreOptions struct {
	replayOptions                    // of the lake
	cells, lost, into, tenants, here string
}

func newCellRestore() *cobra.Command {
	o := restoreOptions{replayOptions: replayOptions{auditOptions: auditOptions{config: audit.DefaultConfig()}}}
	cmd := &cobra.Command{
		Use:   "restore LOST --into CELL --tenant TENANT --from TIME",
		Short: "Fill the hot store of another cell with a tenant's rows of a cell that is gone",
		Long: `After a cell is lost for good, its tenants' agents send to another one, which has none of their past. This command reads a tenant's rows from the replica of the lost cell's lake. The list of
cells names the replica (copies, of: lake). Rows whose events the other cell does not have go into its ClickHouse. The lost cell's catalog is not needed: the command takes the newest version of each
table that has arrived whole. What had not arrived is lost; the output says when each version was committed.

--from and --to are times of receipt. Rows lie in tables beside first, and each partition takes its rows in one step. They keep their events' ids; their topic is cell/LOST/TOPIC, since this cell's
Kafka has other events at these places: the audit of this cell does not judge them. The lake of this cell is not filled: the replica is the tenant's lake of that time. Rollups do not have these
rows until "pulsegrid job run rollups" builds them anew; the end says which differ.

Nothing is read unless that is known to be allowed: the registry (--tenants) has the tenant, CELL may have its data, and both cells, and this process (--jurisdiction), are in one jurisdiction, the
tenant's if it has one.

Killed at any moment it can be run again, and so it can with a replica that was completed since: what is there is not put back again. Run one at a time.

Exit codes: 0 each row of the replica is in ClickHouse; 1 it is not, or rollups differ: the text says why; 2 wrong command line or file, or not allowed.`,
		Example: `  pulsegrid cell restore eu-1 --into eu-2 --tenant acme --from 720h --tenants /etc/pulsegrid/tenants --jurisdiction eu --dry-run
  pulsegrid cell restore eu-1 --into eu-2 --tenant acme --from 720h --tenants /etc/pulsegrid/tenants --jurisdiction eu`,
		Args: oneCell,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.lost = args[0]
			return runRestore(cmd, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.cells, "cells", defaultCells, "file that lists the cells (docs/regions.md): `copies` of the lost one, `aggregator` of the other")
	f.StringVar(&o.into, "into", "", "the cell whose ClickHouse is filled; required")
	f.StringVar(&o.config.Tenant, "tenant", "", "whose rows; required")
	f.StringVar(&o.from, "from", "", "only rows received since: RFC 3339, or a duration ago such as 720h; required")
	f.StringVar(&o.to, "to", "", "only rows received before: RFC 3339, a duration ago, or now (default: now)")
	f.StringArrayVar(&o.signals, "signal", nil, "only this signal: logs, metrics or traces; may be repeated (default: all)")
	f.StringVar(&o.tenants, "tenants", os.Getenv(tenantsVariable), "the registry of tenants: a directory or s3://BUCKET/PREFIX?region=REGION (default: "+tenantsVariable+")")
	f.StringVar(&o.here, "jurisdiction", os.Getenv(jurisdictionVariable), "where this process runs (default: "+jurisdictionVariable+")")
	f.StringArrayVar(&o.erased, "erased", nil, "file that declares lawful deletions (docs/formats/erasures.md), which are not put back; may be repeated")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what is missing; change nothing")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	return cmd
}

// allowed finds the two cells, and fails where a tenant's rows may not go from the one to the other.
func (o *restoreOptions) allowed(ctx context.Context) (lost, into *drain.Cell, err error) {
	for flag, value := range map[string]string{"into": o.into, "tenant": o.config.Tenant, "tenants": o.tenants, "jurisdiction": o.here} {
		if value == "" {
			return nil, nil, usageError{fmt.Errorf("--%s: is required", flag)}
		}
	}
	cells, err := readCells(o.cells)
	if err != nil {
		return nil, nil, err
	}
	if lost, err = drain.Find(cells, o.lost); err != nil {
		return nil, nil, usageError{err}
	}
	if into, err = drain.Find(cells, o.into); err != nil {
		return nil, nil, usageError{fmt.Errorf("--into: %w", err)}
	}
	registry, err := loadTenants(ctx, o.tenants)
	if err != nil {
		return nil, nil, err
	}
	t := registry.Tenant(o.config.Tenant)
	if t == nil {
		return nil, nil, usageError{fmt.Errorf("--tenant: the registry has no tenant %q: where its data may be is not known", o.config.Tenant)}
	}
	if err := restoreAllowed(t, lost, into, o.here); err != nil {
		return nil, nil, usageError{fmt.Errorf("not allowed: %w: nothing was read", err)}
	}
	return lost, into, nil
}

func restoreAllowed(t *tenant.Tenant, lost, into *drain.Cell, here string) error {
	switch {
	case lost.Name == into.Name:
		return fmt.Errorf("cell %s is both lost and filled", into.Name)
	case t.Jurisdiction != "" && t.Jurisdiction != into.Jurisdiction:
		return fmt.Errorf("data of tenant %q must stay in jurisdiction %q, and cell %s is in %q", t.ID, t.Jurisdiction, into.Name, into.Jurisdiction)
	case !t.MayBeIn(into.Name):
		return fmt.Errorf("tenant %q may be in %s, and not in %s", t.ID, strings.Join(t.Cells, ", "), into.Name)
	case lost.Jurisdiction != into.Jurisdiction:
		return fmt.Errorf("rows of cell %s may not leave %s for %s", lost.Name, lost.Jurisdiction, into.Jurisdiction)
	case here != into.Jurisdiction:
		return fmt.Errorf("this process is in %s, and would read rows in %s", here, into.Jurisdiction)
	}
	return nil
}

func runRestore(cmd *cobra.Command, o restoreOptions) error {
	ctx := cmd.Context()
	lost, into, err := o.allowed(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(lost.Copies, func(c drain.Copy) bool { return c.Of == drain.OfLake })
	if i < 0 {
		return usageError{fmt.Errorf("--cells: cell %s has no copy of its lake (copies, of: lake)", lost.Name)}
	}
	if at := cmp.Or(lost.Copies[i].Jurisdiction, lost.Jurisdiction); at != into.Jurisdiction {
		return usageError{fmt.Errorf("not allowed: the copy of the lake of cell %s is in %s: nothing was read", lost.Name, at)}
	}
	files, err := aggregatorFiles(o.cells, into)
	if err != nil {
		return err
	}
	o.stores.config = files
	pipes, hot, err := o.stores.hot(cmd)
	if err != nil {
		return fmt.Errorf("cell %s: %w", into.Name, err)
	}
	if pipes.lake == nil {
		return usageError{fmt.Errorf("cell %s: the configuration has no lake: want an exporter iceberg with rows: events", into.Name)}
	}
	asked, signals, err := o.lakeAsked(time.Now(), hot.exporter.RetentionDays)
	if err != nil {
		return err
	}
	replica, err := replicaAt(lost.Copies[i].URL, pipes.lake.CatalogProperties())
	if err != nil {
		return usageError{fmt.Errorf("--cells: copies of cell %s: %w", lost.Name, err)}
	}
	replica.Namespace = pipes.lake.Namespace
	from := stored.OpenReplica(replica)
	r, err := o.newLakeReplay(cmd, hot, &asked, signals)
	if err != nil {
		return err
	}
	r.lake, r.of = from.Lake, lost.Name
	if err := r.fill(ctx, hot, "restored"); err != nil {
		return err
	}
	return r.show(cmd, o.json, &restoreReport{lakeReport: r.report, Lost: lost.Name, Into: into.Name, Tenant: asked.Tenant, Versions: from.Versions})
}

// replicaAt reads the URL of a copy: s3://BUCKET?prefix=PREFIX/&region=REGION or file:///DIRECTORY, with the credentials of the lake that the properties are of.
func replicaAt(address string, properties iceberg.Properties) (c stored.ReplicaConfig, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return c, err
	}
	q := u.Query()
	c.Location, c.Properties = u.Scheme+"://"+u.Host+u.Path+"/"+q.Get("prefix"), maps.Clone(properties)
	for name, property := range map[string]string{"region": iceio.S3Region, "endpoint": iceio.S3EndpointURL} {
		if value := q.Get(name); value != "" {
			c.Properties[property] = value
		}
	}
	if q.Get("use_path_style") == "true" {
		c.Properties[iceio.S3ForceVirtualAddressing] = "false"
	}
	return c, nil
}

// restoreReport is what a restore did.
type restoreReport struct {
	lakeReport
	Lost     string                    `json:"lost"`
	Into     string                    `json:"into"`
	Tenant   string                    `json:"tenant"`
	Versions map[string]stored.Version `json:"versions"` // of the replica's tables
}

func (r *restoreReport) print(w io.Writer) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "table\tthe replica is of\tnewer versions that are not whole\trows in it\terased\tnot in "+r.Into)
	missing := int64(0)
	for _, t := range r.Tables {
		v, at := r.Versions[t.Table], "-"
		if !v.At.IsZero() {
			at = v.At.Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%d\t%d\n", t.Table, at, v.Behind, t.Rows, t.Erased, t.Missing)
		missing += t.Missing
	}
	_ = tw.Flush() // a strings.Builder does not fail
	if r.DryRun {
		_, _ = fmt.Fprintf(&b, "%d rows of %s would be restored: nothing was changed\n", missing, r.Tenant)
	} else {
		_, _ = fmt.Fprintf(&b, "%d rows of %s were not in %s: %d were restored\n", missing, r.Tenant, r.Into, r.Back)
	}
	r.printRollups(&b)
	_, err := io.WriteString(w, b.String())
	return err
}
