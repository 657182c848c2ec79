package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	costdata "github.com/pulsegrid/pulsegrid/deploy/cost"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/cost"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// costInputs are the files that the model reads, and the workload.
type costInputs struct {
	scenario, scenarios, prices, measured string
	set                                   []string
}

func (o *costInputs) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.scenario, "scenario", "a", "a or b, or a name of --scenarios")
	f.StringVar(&o.scenarios, "scenarios", "", "YAML file of workloads and assumptions, as deploy/cost/scenarios.yaml, which is the default")
	f.StringVar(&o.prices, "prices", "", "JSON file of prices, as deploy/cost/prices.json, which is the default")
	f.StringVar(&o.measured, "measured", "", "JSON file of what make bench-hops measured, as deploy/cost/measured.json, which is the default")
	f.StringArrayVar(&o.set, "set", nil, "NAME=VALUE of the workload, as in scenarios.yaml: hot_days=14, raw_bytes_per_event=x0.8, 'mix={logs: 1}'; may be repeated")
}

// costModel is what the flags say.
type costModel struct {
	all      *cost.Scenarios
	workload cost.Workload
	measured *cost.Measured
	prices   *cost.PriceFile
}

func (o *costInputs) read() (m costModel, err error) {
	file := func(path string, embedded []byte) []byte {
		if path == "" || err != nil {
			return embedded
		}
		var text []byte
		if text, err = os.ReadFile(path); err != nil {
			return embedded
		}
		return text
	}
	scenarios, measured, prices := file(o.scenarios, costdata.Scenarios), file(o.measured, costdata.Measured), file(o.prices, costdata.Prices)
	if err != nil {
		return m, err
	}
	if m.all, err = cost.ParseScenarios(scenarios); err != nil {
		return m, err
	}
	if m.measured, err = cost.ParseMeasured(measured); err != nil {
		return m, err
	}
	if m.prices, err = cost.ParsePrices(prices); err != nil {
		return m, err
	}
	if m.workload, err = m.all.Workload(o.scenario); err != nil {
		return m, usageError{fmt.Errorf("--scenario: %w", err)}
	}
	for _, s := range o.set {
		name, text, ok := strings.Cut(s, "=")
		if !ok {
			return m, usageError{fmt.Errorf("--set %q: want NAME=VALUE", s)}
		}
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			return m, usageError{fmt.Errorf("--set %s: %w", s, err)}
		}
		if m.workload, err = m.workload.With(map[string]any{name: value}); err != nil {
			return m, usageError{fmt.Errorf("--set %s: %w", s, err)}
		}
	}
	if err := m.workload.Validate(); err != nil {
		return m, usageError{fmt.Errorf("--set: %w", err)}
	}
	return m, nil
}

type costOptions struct {
	costInputs
	by   string
	json bool

	where                        reach
	tenant                       string
	clickHouse, clickHouseUser   string
	window                       time.Duration
	services, sample, attributes int
}

func newCost() *cobra.Command {
	var o costOptions
	cmd := &cobra.Command{
		Use:   "cost",
		Short: "Say what PulseGrid costs on AWS, and what a tenant costs",
		Long: `Without --tenant: make instance counts and a month's bill out of a workload, the bytes and CPU an event that the benchmarks measured, and list prices. docs/cost.md
explains the model, and has the bills of the two scenarios.

With --tenant: read from ClickHouse's rollups how much a tenant sends, and from a sample of its newest rows what they and their attributes take on disk; print what each service costs a
month at this rate, and what is saved by each attribute that is dropped. Unit costs are those of the scenario. Everything is only read.

Exit codes: 0 done; 1 it failed; 2 wrong command line; 3 no cell is running.`,
		Example: `  pulsegrid cost
  pulsegrid cost --scenario b --by item
  pulsegrid cost --set events_per_second=200000 --set peak_events_per_second=600000 --set hot_days=14
  pulsegrid cost --tenant acme
  pulsegrid cost --tenant acme --clickhouse clickhouse:8123 --window 24h --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.tenant != "" {
				return o.ofTenant(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return o.bill(cmd.OutOrStdout())
		},
	}
	o.flags(cmd)
	o.where.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.by, "by", "component", "component, item or count")
	f.BoolVar(&o.json, "json", false, "print one JSON object")
	f.StringVar(&o.tenant, "tenant", "", "the tenant to reckon with, instead of the whole")
	f.StringVar(&o.clickHouse, "clickhouse", "", "with --tenant: HOST:PORT of ClickHouse's HTTP interface (default: the running cell's)")
	f.StringVar(&o.clickHouseUser, "clickhouse-user", "", "with --tenant: user of ClickHouse; its password is read from "+passwordVariable)
	f.DurationVar(&o.window, "window", time.Hour, "with --tenant: over which rates are taken; 1m to 168h")
	f.IntVar(&o.services, "services", 5, "with --tenant: services of each signal whose rows are sampled, the busiest first; 1 to 100")
	f.IntVar(&o.sample, "sample", 50_000, "with --tenant: rows of each service that are sampled, the newest; 1000 to 200000")
	f.IntVar(&o.attributes, "attributes", 20, "with --tenant: attributes that are printed, the most expensive first; --json has all")
	cmd.AddCommand(newCostWhatIf(), newCostRefresh())
	return cmd
}

func (o *costOptions) bill(w io.Writer) error {
	m, err := o.read()
	if err != nil {
		return err
	}
	b, err := cost.Reckon(m.workload, m.measured, m.prices)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(w, b)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	regions := regionsOf(b)
	switch o.by {
	case "component":
		by := b.By(func(l cost.Line) string { return l.Component + "|" + l.Region })
		fmt.Fprintf(t, "USD a month\t%s\tall\t\n", strings.Join(regions, "\t"))
		all := map[string]float64{}
		for _, c := range cost.Components {
			sum := 0.0
			fmt.Fprintf(t, "%s\t", c)
			for _, r := range regions {
				v := by[c+"|"+r]
				sum, all[r] = sum+v, all[r]+v
				fmt.Fprintf(t, "%.0f\t", v)
			}
			fmt.Fprintf(t, "%.0f\t\n", sum)
		}
		fmt.Fprint(t, "all\t")
		for _, r := range regions {
			fmt.Fprintf(t, "%.0f\t", all[r])
		}
		fmt.Fprintf(t, "%.0f\t\n", b.USD)
	case "item":
		t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "region\tcomponent\titem\tUSD\tquantity\tunit\tinputs")
		for _, l := range b.Lines {
			fmt.Fprintf(t, "%s\t%s\t%s\t%.0f\t%.0f\t%s\t%s\n", l.Region, l.Component, l.Item, l.USD, l.Quantity, l.Unit, l.Inputs)
		}
	case "count":
		t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "region\twhat\tinstance\tmean\tpeak")
		for _, c := range b.Counts {
			fmt.Fprintf(t, "%s\t%s\t%s\t%.0f\t%.0f\n", c.Region, c.What, c.Instance, c.Mean, c.Peak)
		}
	default:
		return usageError{fmt.Errorf("--by %q: want component, item or count", o.by)}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s: $%.0f a month, of which $%.0f rest on prices that were never read from a document (docs/cost.md)\n", b.Workload.Title, b.USD, b.Unverified)
	return err
}

func regionsOf(b *cost.Bill) (out []string) {
	for _, l := range b.Lines {
		if !slices.Contains(out, l.Region) {
			out = append(out, l.Region)
		}
	}
	return out
}

const costTimeout = 10 * time.Minute

func (o *costOptions) ofTenant(ctx context.Context, w, progress io.Writer) error {
	switch {
	case !tenant.ValidID(o.tenant):
		return usageError{fmt.Errorf("--tenant: %q is not a tenant id: "+tenant.WantID, o.tenant)}
	case o.window < time.Minute || o.window > cost.WindowMost:
		return usageError{fmt.Errorf("--window %v: want 1m to %v", o.window, cost.WindowMost)}
	case o.services < 1 || o.services > cost.ServicesMost:
		return usageError{fmt.Errorf("--services %d: want 1 to %d", o.services, cost.ServicesMost)}
	case o.sample < 1000 || o.sample > cost.SampleMost:
		return usageError{fmt.Errorf("--sample %d: want 1000 to %d", o.sample, cost.SampleMost)}
	}
	m, err := o.read()
	if err != nil {
		return err
	}
	bill, err := cost.Reckon(m.workload, m.measured, m.prices)
	if err != nil {
		return err
	}
	at := &clickHouse{http.DefaultClient, httpURL(o.clickHouse), o.clickHouseUser, os.Getenv(passwordVariable), cell.Database}
	if o.clickHouse == "" {
		if at, err = o.where.clickHouse(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, costTimeout)
	defer cancel()
	client, err := clickhouse.NewClient(at.http, at.endpoint, at.user, at.password)
	if err != nil {
		return err
	}
	u, err := cost.ReadUsage(ctx, client, cost.UsageOptions{
		Database: at.database, Tenant: o.tenant, Window: o.window, Services: o.services, Sample: o.sample,
		Progress: func(format string, args ...any) { fmt.Fprintf(progress, "reading "+format+"\n", args...) },
	})
	if err != nil {
		return err
	}
	u.Charge(bill)
	if o.json {
		return printJSON(w, u)
	}
	return o.printUsage(w, u, bill)
}

func (o *costOptions) printUsage(w io.Writer, u *cost.Usage, b *cost.Bill) error {
	if len(u.Services) == 0 {
		_, err := fmt.Fprintf(w, "%s has no rows in the %v up to %s: the minute that is not over yet does not count\n", u.Tenant, o.window, u.To.Format(time.RFC3339))
		return err
	}
	all, _ := b.PerGiB()
	fmt.Fprintf(w, "%s, %v up to %s: $%.2f a month at this rate, by the unit costs of scenario %s ($%.3f for each GiB of rows in one copy of ClickHouse, all hops)\n\n",
		u.Tenant, o.window, u.To.Format(time.RFC3339), u.USD, o.scenario, all)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "signal\tservice\tevents/s\tbytes an event\tUSD a month")
	for _, s := range u.Services {
		note := ""
		if s.Sampled == 0 {
			note = " (not sampled: the others' mean)"
		}
		fmt.Fprintf(t, "%s\t%s\t%.1f\t%.0f%s\t%.2f\n", s.Signal, s.Service, s.EventsPerSecond, s.BytesPerEvent, note, s.USD)
	}
	fmt.Fprintln(t, "\t\t\t\t")
	fmt.Fprintln(t, "signal\tdrop this attribute\tof the events\tbytes an event\tsaves USD a month")
	for i, a := range u.Attributes {
		if i == o.attributes {
			break
		}
		fmt.Fprintf(t, "%s\t%s\t%.0f %%\t%.1f\t%.2f\n", a.Signal, a.Attribute, 100*a.Share, a.BytesPerEvent, a.USD)
	}
	return t.Flush()
}

func newCostWhatIf() *cobra.Command {
	var o costInputs
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "what-if",
		Short: "Say what moves the bill, and what to do when it grows",
		Long: `Print what each change of scenarios.yaml's sensitivity does to the bill of a scenario, each alone; then the levers, in the order in which to pull them, with what each gives up, what it
saves alone, and the bill with all up to it.`,
		Example: "  pulsegrid cost what-if --scenario b",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := o.read()
			if err != nil {
				return err
			}
			changes, err := cost.Sensitivity(m.workload, m.all.Sensitivity, m.measured, m.prices)
			if err != nil {
				return err
			}
			levers, err := cost.Levers(m.workload, m.all.Levers, m.measured, m.prices)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, map[string][]cost.Effect{"sensitivity": changes, "levers": levers})
			}
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "change\tUSD a month")
			for _, e := range changes {
				fmt.Fprintf(t, "%s\t%+.0f\n", e.What, e.Alone)
			}
			fmt.Fprintln(t, "\t\t")
			fmt.Fprintln(t, "lever\talone\tbill with all up to here\tcosts")
			for _, e := range levers {
				fmt.Fprintf(t, "%s\t%+.0f\t%.0f\t%s\n", e.What, e.Alone, e.Together, e.Costs)
			}
			return t.Flush()
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

const awsPriceList = "https://pricing.us-east-1.amazonaws.com"

func newCostRefresh() *cobra.Command {
	var prices, from string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "refresh",
		Short: "Take prices from AWS' public price list",
		Long: `Replace the prices of a file that have an offer by those of AWS' price list, the bulk files that need no account (offers/v1.0/aws/SERVICE/current/REGION/index.json). EC2's file is some
hundreds of MB a region; it is read as it comes. A price of which no product, or several products with different prices, are found stays as it was, is named, and makes this command fail
after the others are written. Run go generate ./internal/cost afterwards: docs/cost.md has the bills.`,
		Example: `  pulsegrid cost refresh --prices deploy/cost/prices.json
  pulsegrid cost refresh --prices deploy/cost/prices.json --from file:///mirror`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if prices == "" {
				return usageError{fmt.Errorf("name the file of --prices, which is rewritten")}
			}
			text, err := os.ReadFile(prices)
			if err != nil {
				return err
			}
			file, err := cost.ParsePrices(text)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			open := cost.OverHTTP(ctx, http.DefaultClient, from)
			if dir, ok := strings.CutPrefix(from, "file://"); ok {
				open = func(path string) (io.ReadCloser, error) { return os.Open(filepath.Join(dir, path)) }
			}
			found, err := file.Refresh(func(path string) (io.ReadCloser, error) {
				fmt.Fprintln(cmd.ErrOrStderr(), "reading", path)
				return open(path)
			})
			if err != nil {
				return fmt.Errorf("nothing was written: %w", err)
			}
			return writeRefreshed(cmd.OutOrStdout(), file, prices, found)
		},
	}
	f := cmd.Flags()
	f.StringVar(&prices, "prices", "", "JSON file of prices, which is rewritten")
	f.StringVar(&from, "from", awsPriceList, "URL of the price list, or of a mirror; file:///DIR for a directory")
	f.DurationVar(&timeout, "timeout", time.Hour, "for all files together")
	return cmd
}

func writeRefreshed(w io.Writer, file *cost.PriceFile, path string, found []cost.Finding) error {
	if err := file.Write(path); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	problems := 0
	for _, f := range found {
		switch {
		case f.Problem != "":
			problems++
			fmt.Fprintf(t, "%s\t%s\tkept: %s\n", f.Name, f.Region, f.Problem)
		case !slices.Equal(f.Was, f.Now):
			fmt.Fprintf(t, "%s\t%s\t%s -> %s\n", f.Name, f.Region, tiersText(f.Was), tiersText(f.Now))
		default:
			fmt.Fprintf(t, "%s\t%s\tas it was\n", f.Name, f.Region)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if problems > 0 {
		return fmt.Errorf("%d of %d prices were not found; the others are written to %s", problems, len(found), path)
	}
	return nil
}

func tiersText(tiers []cost.Tier) string {
	var out []string
	for _, t := range tiers {
		out = append(out, fmt.Sprintf("%g", t.USD))
	}
	return strings.Join(out, "/")
}
