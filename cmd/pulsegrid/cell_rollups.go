package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/drain"
	"github.com/pulsegrid/pulsegrid/internal/federation"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

type rollupsOverCellsOptions struct {
	cellOptions
	registry     string
	jurisdiction string
	from, to     string
	resolution   string
	by           []string
	tenant       string
	timeout      time.Duration
}

func newCellRollups() *cobra.Command {
	var o rollupsOverCellsOptions
	cmd := &cobra.Command{
		Use:   "rollups logs|metrics|traces",
		Short: "Add up rollups over cells, with the freshness of each",
		Long: `Ask the ClickHouse of each cell of the list (clickhouse in docs/regions.md) for one rollup, add the answers, and say beside them how fresh each cell is. A cell that does not answer
is named, its rows are in no sum, and the command ends with 1.

The reader is in one jurisdiction (--in). Cells of that one are asked for all tenants. Cells of another one are asked only for tenants that the registry pins to no jurisdiction, so neither rows
nor sums of pinned tenants leave their own. --tenant of one that is pinned elsewhere is refused: ask it there.

What two cells both acknowledged, in a failover, counts in both until it is settled.

Exit codes: 0 all cells are in the answer; 1 one is not, or it failed; 2 wrong command line or file.`,
		Example: `  pulsegrid cell rollups logs --tenants tenants/ --in us --from 1h
  pulsegrid cell rollups traces --tenants tenants/ --in eu --tenant acme --by time,service_name --resolution 1h --from 24h --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one of logs, metrics and traces; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.cellsFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&o.registry, "tenants", "", "the registry of tenants: a directory or s3://BUCKET/PREFIX; required")
	f.StringVar(&o.jurisdiction, "in", os.Getenv(jurisdictionVariable), "jurisdiction that this command runs in, and whoever reads its answer; required ("+jurisdictionVariable+")")
	f.StringVar(&o.from, "from", "1h", "begin of the time, of events: RFC 3339, or how long ago")
	f.StringVar(&o.to, "to", "now", "end of the time, likewise")
	f.StringVar(&o.resolution, "resolution", "1m", "rollup: "+strings.Join(columns.Resolutions(), ", "))
	f.StringSliceVar(&o.by, "by", []string{"service_name"}, "keys of the rollup that the answer is grouped by (docs/formats/rollups.md)")
	f.StringVar(&o.tenant, "tenant", "", "only this tenant")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "how long a cell may take")
	f.BoolVar(&o.json, "json", false, "print one JSON object")
	return cmd
}

func (o *rollupsOverCellsOptions) query(name string) (*federation.Query, error) {
	s, err := signal.Parse(name)
	if err != nil {
		return nil, usageError{err}
	}
	q := &federation.Query{Table: columns.ForSignal(s), By: o.by, Tenant: o.tenant, Timeout: o.timeout}
	i := slices.Index(columns.Resolutions(), o.resolution)
	if i < 0 {
		return nil, usageError{fmt.Errorf("--resolution %q: want one of %s", o.resolution, strings.Join(columns.Resolutions(), ", "))}
	}
	q.Rollup = q.Table.Rollups()[i]
	bucket, now := time.Duration(q.Rollup.Seconds)*time.Second, time.Now()
	for flag, at := range map[string]struct {
		text string
		into *time.Time
	}{"from": {o.from, &q.From}, "to": {o.to, &q.To}} {
		t, err := parseTime(at.text, now)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s %q: want RFC 3339 (2026-10-01T15:04:05Z), or how long ago (48h)", flag, at.text)}
		}
		*at.into = t.UTC().Truncate(bucket)
	}
	q.To = q.To.Add(bucket) // the bucket in which it lies
	switch {
	case !q.From.Before(q.To):
		return nil, usageError{errors.New("--from: is not before --to")}
	case o.timeout <= 0:
		return nil, usageError{fmt.Errorf("--timeout %v: want more than 0", o.timeout)}
	case o.jurisdiction == "":
		return nil, usageError{errors.New("--in is required: rows of pinned tenants must not leave their jurisdiction")}
	case o.registry == "":
		return nil, usageError{errors.New("--tenants is required: it says who is pinned")}
	}
	return q, nil
}

func (o *rollupsOverCellsOptions) run(cmd *cobra.Command, name string) error {
	q, err := o.query(name)
	if err != nil {
		return err
	}
	listed, err := readCells(o.cells)
	if err != nil {
		return err
	}
	var cells []federation.Cell
	for i := range listed {
		c, err := readableCell(cmd.Context(), &listed[i])
		if err != nil {
			return usageError{fmt.Errorf("--cells: cell %s: %w", listed[i].Name, err)}
		}
		cells = append(cells, c)
	}
	registry, err := (&residencyOptions{registry: o.registry}).snapshot(cmd)
	if err != nil {
		return err
	}
	a, err := federation.Ask(cmd.Context(), cells, federation.Reader{Jurisdiction: o.jurisdiction, Registry: registry}, q)
	if err != nil {
		return err
	}
	if o.json {
		err = printJSON(cmd.OutOrStdout(), a)
	} else {
		err = printOverCells(cmd.OutOrStdout(), a)
	}
	if len(a.Missing) > 0 && err == nil {
		err = fmt.Errorf("the answer is without %s", strings.Join(a.Missing, ", "))
	}
	return err
}

func readableCell(ctx context.Context, c *drain.Cell) (federation.Cell, error) {
	if c.ClickHouse.Endpoint == "" {
		return federation.Cell{}, errors.New("clickhouse::endpoint: is not said: an answer over cells would be without it")
	}
	password := ""
	if c.ClickHouse.PasswordFile != "" {
		b, err := os.ReadFile(c.ClickHouse.PasswordFile)
		if err != nil {
			return federation.Cell{}, fmt.Errorf("clickhouse::password_file: %w", err)
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	var err error
	if transport.TLSClientConfig, err = c.ClickHouse.TLS.LoadTLSConfig(ctx); err != nil {
		return federation.Cell{}, fmt.Errorf("clickhouse::tls: %w", err)
	}
	client, err := clickhouse.NewClient(&http.Client{Transport: transport}, c.ClickHouse.Endpoint, c.ClickHouse.Username, password)
	return federation.Cell{Name: c.Name, Jurisdiction: c.Jurisdiction, Database: c.ClickHouse.Database, Client: client}, err
}

func printOverCells(out io.Writer, a *federation.Answer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "from %s to %s, by the time of events\n\n", a.From.Format(time.RFC3339), a.To.Format(time.RFC3339))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, strings.Join(slices.Concat(a.By, a.Measures), "\t")) // a Builder takes everything
	for _, g := range a.Groups {
		line := make([]string, 0, len(g.Keys)+len(g.Measures))
		for _, k := range g.Keys {
			line = append(line, printable(k))
		}
		for _, m := range g.Measures {
			line = append(line, fmt.Sprint(m))
		}
		_, _ = fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	_, _ = fmt.Fprintln(w, "\ncell\tjurisdiction\trows of\tgroups\tnewest request")
	for _, p := range a.Cells {
		newest := "none"
		switch {
		case p.Error != "":
			newest = "NOT IN THE ANSWER: " + printable(p.Error)
		case !p.Newest.IsZero():
			newest = time.Duration(p.AgeSeconds*float64(time.Second)).Truncate(time.Second).String() + " ago"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", p.Cell, p.Jurisdiction, printable(p.Of), p.Groups, newest)
	}
	_ = w.Flush()
	_, err := io.WriteString(out, b.String())
	return err
}
