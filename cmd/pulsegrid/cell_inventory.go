package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/drain"
	"github.com/pulsegrid/pulsegrid/internal/residency"
	"github.com/pulsegrid/pulsegrid/internal/wholefile"
)

type inventoryOptions struct {
	cellOptions
	stores  storesOptions
	gateway []string
	day     string
	noSpill bool
	signKey string
	out     string
}

func newCellInventory() *cobra.Command {
	var o inventoryOptions
	cmd := &cobra.Command{
		Use:   "inventory CELL",
		Short: "Count what a cell has of a day, tenant by tenant, for statements of residency",
		Long: `Look at each place of a cell that holds what tenants send, and count what came on one day (UTC), by tenant: the gateways' spill, all topics of Kafka, all tables of ClickHouse,
all data files of the lake whether a snapshot names them or not, and the copies that the list of cells names. Places are read in the direction in which data flows, so that what moves meanwhile is seen
once at least.

The inventory holds names and counts, and nothing of what was sent: it may leave the cell. Run it with the rights of the cell, near to the cell, once the day is over and while Kafka still has the day;
"pulsegrid cell residency" wants one of each cell. More of them, during the day, also see what waited in the spill and has gone.

--sign-key signs it (make a key with "pulsegrid audit key new"). A place that cannot be read is named in the inventory, and no statement made of it proves anything.

Exit codes: 0 all places were read; 1 some were not, or it failed; 2 wrong command line or file; 3 no cell is running.`,
		Example: `  pulsegrid cell inventory eu-1 --config aggregator.yaml --gateway gateway.yaml --sign-key eu-1.key --out inventories/
  pulsegrid cell inventory eu-1 --day 2026-11-29 --config aggregator.yaml --gateway gateway.yaml --json`,
		Args: oneCell,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.cellsFlag(cmd)
	o.stores.flags(cmd, "configuration of the cell's aggregators; may be repeated, as for the Collector (default: the local cell's)")
	f := cmd.Flags()
	f.StringArrayVar(&o.gateway, "gateway", nil, "configuration of its gateways, for their spill; may be repeated (default: the local cell's)")
	f.BoolVar(&o.noSpill, "no-spill", false, "the gateways have no spill")
	dayFlag(cmd, &o.day)
	f.StringVar(&o.signKey, "sign-key", "", "file of the cell's private key; the inventory is signed by it")
	f.StringVar(&o.out, "out", "", "directory that the inventory is written to (default: it is printed only)")
	f.BoolVar(&o.json, "json", false, "print the inventory as JSON")
	return cmd
}

// dayFlag adds --day.
func dayFlag(cmd *cobra.Command, day *string) {
	cmd.Flags().StringVar(day, "day", "", "day of UTC, like 2026-11-29 (default: yesterday)")
}

func inventoryDay(s string) (residency.Day, error) {
	if s == "" {
		s = time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	}
	day, err := residency.ParseDay(s)
	if err != nil {
		return day, usageError{fmt.Errorf("--day: %w", err)}
	}
	return day, nil
}

// signer opens --sign-key; nil: there is none.
func signer(file string) (certificate.Signer, error) {
	if file == "" {
		return nil, nil
	}
	s, err := certificate.OpenSigner(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("--sign-key: %w", err)}
	}
	return s, nil
}

func (o *inventoryOptions) run(cmd *cobra.Command, name string) error {
	c, _, err := o.find(name)
	if err != nil {
		return err
	}
	day, err := inventoryDay(o.day)
	if err != nil {
		return err
	}
	key, err := signer(o.signKey)
	if err != nil {
		return err
	}
	pipes, err := o.stores.pipelines(cmd)
	if err != nil {
		return err
	}
	spills, err := o.spills(cmd.Context())
	if err != nil {
		return err
	}
	v, err := takeInventory(cmd.Context(), c, day, pipes, spills, teller(cmd, o.json))
	if err != nil {
		return err
	}
	file, err := v.Sealed(cmd.Context(), key)
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := writeDocument(filepath.Join(o.out, day.String(), fmt.Sprintf("%s.%s.json", v.Cell, v.Taken.Format("20060102T150405Z"))), file); err != nil {
			return err
		}
	}
	if o.json {
		_, err = cmd.OutOrStdout().Write(file)
	} else {
		err = printInventory(cmd.OutOrStdout(), v)
	}
	if n := len(v.Failed); err == nil && n > 0 {
		err = fmt.Errorf("cell %s: %d places could not be read: no statement can be made of this inventory", c.Name, n)
	}
	return err
}

// spills are the stores that the gateways spill to.
func (o *inventoryOptions) spills(ctx context.Context) ([]string, error) {
	if o.noSpill {
		return nil, nil
	}
	urls, err := (&spillCheckOptions{gateway: o.gateway, data: o.stores.data}).urls(ctx)
	if err == nil && len(urls) == 0 && len(o.gateway) > 0 { // more often than not a variable is missing
		err = usageError{errors.New("--gateway: the configuration, with the variables of this process, has no spill::url: say --no-spill if there is none")}
	}
	return urls, err
}

// takeInventory looks at all places. What cannot be read is in the inventory; the error is that of whoever stopped it.
func takeInventory(ctx context.Context, c *drain.Cell, day residency.Day, pipes *pipelines, spills []string, say func(string, ...any)) (*residency.Inventory, error) {
	v := &residency.Inventory{Format: residency.Format, Cell: c.Name, Jurisdiction: c.Jurisdiction, Day: day.String(), Began: time.Now().UTC(), Looked: []string{}, Places: []residency.Place{}, Failed: []string{}}
	look := func(kind, name string, find func() ([]residency.Place, error)) {
		looked := strings.TrimSpace(kind + " " + name)
		say("%s ...", printable(looked))
		places, err := find()
		v.Add(looked, places, err)
	}
	for _, at := range spills {
		name := redacted(at)
		look(residency.KindSpill, name, func() ([]residency.Place, error) {
			b, err := openObjects(ctx, at)
			if errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("is not there: %w", err)
			}
			if err != nil {
				return nil, err
			}
			places, err := residency.Spill(ctx, b, name, day)
			return places, errors.Join(err, b.Close())
		})
	}
	look(residency.KindTopic, strings.Join(c.Kafka.Brokers, ","), func() ([]residency.Place, error) {
		opts, err := c.Kafka.Options(ctx, zap.NewNop())
		if err != nil {
			return nil, err
		}
		return residency.Topics(ctx, opts, day)
	})
	hot, err := pipes.hotStores()
	if err != nil {
		return nil, err
	}
	asked := map[string]bool{}
	for _, h := range hot {
		name := redacted(h.ClientConfig.Endpoint)
		if asked[name] { // all its databases are looked at
			continue
		}
		asked[name] = true
		look(residency.KindTable, name, func() ([]residency.Place, error) { return tablesOf(ctx, h, day) })
	}
	for _, l := range pipes.lakes() {
		roots, err := lakeRoots(ctx, l)
		if err != nil {
			v.Add(residency.KindLake+" "+redacted(l.Catalog.Warehouse), nil, err)
			continue
		}
		for _, root := range roots {
			if asked[root] {
				continue
			}
			asked[root] = true
			look(residency.KindLake, root, func() ([]residency.Place, error) { return lakeObjects(ctx, l.CatalogProperties(), root, day) })
		}
	}
	for _, copied := range c.Copies {
		name := redacted(copied.URL)
		kind := map[string]string{drain.OfLake: residency.KindReplica, drain.OfStores: residency.KindBackup}[copied.Of]
		look(kind, name, func() ([]residency.Place, error) {
			b, err := openObjects(ctx, copied.URL)
			if err != nil {
				return nil, err
			}
			places, err := residency.Objects(ctx, residency.InBucket(b), kind, name, day)
			for i := range places {
				places[i].Jurisdiction, places[i].Copies = copied.Jurisdiction, copied.Of == drain.OfStores
			}
			return places, errors.Join(err, b.Close())
		})
	}
	v.Taken = time.Now().UTC()
	return v, ctx.Err()
}

func tablesOf(ctx context.Context, h *clickhouseexporter.Config, day residency.Day) ([]residency.Place, error) {
	hc, err := clickHouseClient(ctx, h)
	if err != nil {
		return nil, err
	}
	client, err := clickhouse.NewClient(hc, h.ClientConfig.Endpoint, h.Username, string(h.Password))
	if err != nil {
		return nil, err
	}
	return residency.Tables(ctx, client, day)
}

// lakeRoots are the locations below which a lake's objects lie: its warehouse, where that is a location, and those of tables that are elsewhere.
func lakeRoots(ctx context.Context, l *icebergexporter.Config) (roots []string, err error) {
	if u, err := url.Parse(l.Catalog.Warehouse); err == nil && u.Scheme != "" && (u.Host != "" || u.Path != "") {
		roots = append(roots, strings.TrimSuffix(l.Catalog.Warehouse, "/"))
	}
	cat, closeCatalog, err := openCatalog(ctx, l)
	if err != nil {
		return nil, err
	}
	defer closeCatalog()
	for id, err := range cat.ListTables(ctx, table.Identifier{l.Namespace}) {
		if err != nil {
			return nil, fmt.Errorf("list the tables of %s: %w", l.Namespace, err)
		}
		tbl, err := cat.LoadTable(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("load table %s: %w", strings.Join(id, "."), err)
		}
		for _, at := range []string{tbl.Location(), tbl.Properties()[table.WriteDataPathKey]} {
			if at = strings.TrimSuffix(at, "/"); at != "" && !slices.ContainsFunc(roots, func(r string) bool { return strings.HasPrefix(at+"/", r+"/") }) {
				roots = append(roots, at)
			}
		}
	}
	return roots, nil
}

func lakeObjects(ctx context.Context, properties iceberg.Properties, root string, day residency.Day) ([]residency.Place, error) {
	fsys, err := iceio.LoadFS(ctx, properties, root)
	if err != nil {
		return nil, err
	}
	s, err := residency.InLake(fsys, root)
	if err != nil {
		return nil, err
	}
	return residency.Objects(ctx, s, residency.KindLake, strings.TrimPrefix(root, "file://"), day)
}

// writeDocument writes an inventory or a statement into a new file, whose folders are made.
func writeDocument(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return wholefile.Write(path, content, 0o644)
}

func printInventory(out io.Writer, v *residency.Inventory) error {
	var b strings.Builder
	fmt.Fprintf(&b, "cell %s, jurisdiction %s, day %s\n\n", v.Cell, v.Jurisdiction, v.Day)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "kind\tplace\tjurisdiction\ttenants\titems\tof no known tenant") // a Builder takes everything
	for _, p := range v.Places {
		items := int64(0)
		for _, h := range p.Tenants {
			items += h.Items
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\n", p.Kind, printable(p.Name), p.Jurisdiction, len(p.Tenants), items, p.Unknown.Items)
	}
	_ = w.Flush()
	for _, f := range v.Failed {
		fmt.Fprintf(&b, "NOT READ: %s\n", printable(f))
	}
	_, err := io.WriteString(out, b.String())
	return err
}
