package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/apache/iceberg-go/table"
	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/aggregate"
	"github.com/pulsegrid/pulsegrid/internal/lakefile"
)

const (
	// aggregateLongest bounds one statement of a build.
	aggregateLongest = 30 * time.Minute
	threadsMost      = 64
)

type aggregateOptions struct {
	stores    storesOptions
	names     []string
	models    string
	engine    string
	from, to  string
	watermark string
	threads   int
	list      bool
	json      bool
	quiet     bool
	aggregate.Options
}

func newAggregate() *cobra.Command {
	var o aggregateOptions
	cmd := &cobra.Command{
		Use:   "aggregate",
		Short: "Build tables out of the tables of events, by models",
		Long: `Bring the tables of models (SQL and YAML) into the state of the events: each partition (an hour or a day of event time) whose sources have changed since its last build, by late
events, a replay or an erasure, is built anew beside the table, tested there, and published in one step. A query sees the old rows or the new ones. What is built already is left alone.

The tables of models that say ` + "`lake: true`" + ` are kept in the lake, too: each published partition replaces that of an Iceberg table of the same name, in one commit. Where
the configuration has no lake, they are in ClickHouse only.

A model says which engines may run its query: the first that this cell has, or --engine. clickhouse reads ClickHouse's tables of events. duckdb reads the lake's, in a directory,
by DuckDB's command line (duckdb of PATH, or the program that the variable ` + duckDBVariable + ` names). By either the table is in ClickHouse.

A partition is built once the engine's store is complete beyond its end and the model's allowed lateness: once the aggregators' group has stored every event that Kafka appended
before. Idle partitions of Kafka hold nothing back.

A partition that fails a test, or whose query fails, is not published: the table keeps what it had. Killed at any moment it can be run again: the tables are then the same, to the byte. Run one
at a time.

Exit codes: 0 the tables are as their models say; 1 a partition failed, or the build did not come to its end: the text says why; 2 wrong command line or model; 3 no cell is running.`,
		Example: `  pulsegrid job run aggregate --list
  pulsegrid job run aggregate --dry-run
  pulsegrid job run aggregate
  pulsegrid job run aggregate --model service_health_1m --from 2026-10-01 --to 2026-10-08
  pulsegrid job run aggregate --config aggregator.yaml --models ./models --quiet`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAggregate(cmd, o) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.names, "model", nil, "only this model; may be repeated (default: all)")
	f.StringVar(&o.models, "models", "", "directory of models, NAME.yaml and NAME.sql (default: those that come with PulseGrid)")
	f.StringVar(&o.engine, "engine", "", "only by this engine: clickhouse or duckdb; only models that allow it (default: the first of each model's that this cell has)")
	f.StringVar(&o.from, "from", "", "build partitions since: 2026-10-01, RFC 3339, or a duration ago such as 48h (default: as far back as the model says)")
	f.StringVar(&o.to, "to", "", "build partitions before; those that are not complete yet wait (default: all that are complete)")
	f.StringVar(&o.watermark, "complete-through", "", "take the engine's store for complete through this time, as --from, instead of asking Kafka: for history that did not come by Kafka")
	f.IntVar(&o.threads, "threads", 1, "threads of the engine that a build uses, at most")
	f.BoolVar(&o.Again, "again", false, "build partitions that nothing has changed, too")
	f.BoolVar(&o.Expired, "expired", false, "build partitions again although rows that they were built of may have been deleted for their age: these are lost in the table then, too")
	f.BoolVar(&o.AcceptRows, "accept-rows", false, "publish partitions whose number of rows has changed by more than the tests allow: after an erasure")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be built; change nothing")
	f.BoolVar(&o.list, "list", false, "list the models; ask no store")
	f.BoolVar(&o.json, "json", false, "print the report, or the list, as JSON")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	o.stores.flags(cmd, "configuration of the aggregators that fill ClickHouse; may be repeated, as for the Collector (default: the local cell's)")
	return cmd
}

// request checks the flags.
func (o *aggregateOptions) request(now time.Time) (models []*aggregate.Model, through time.Time, err error) {
	wrong := func(flag string, err error) ([]*aggregate.Model, time.Time, error) {
		return nil, time.Time{}, usageError{fmt.Errorf("--%s: %w", flag, err)}
	}
	if o.models == "" {
		models, err = aggregate.Shipped()
	} else {
		models, err = aggregate.Load(os.DirFS(o.models))
	}
	if err != nil {
		return wrong("models", err)
	}
	for _, name := range o.names {
		if !slices.ContainsFunc(models, func(m *aggregate.Model) bool { return m.Name == name }) {
			return wrong("model", fmt.Errorf("there is no model %q: --list names them", name))
		}
	}
	if len(o.names) > 0 {
		models = slices.DeleteFunc(models, func(m *aggregate.Model) bool { return !slices.Contains(o.names, m.Name) })
	}
	if o.engine != "" {
		if err := aggregate.KnowsEngine(o.engine); err != nil {
			return wrong("engine", err)
		}
		for _, m := range models {
			if !slices.Contains(m.Engines, o.engine) && len(o.names) > 0 {
				return wrong("engine", fmt.Errorf("model %s allows %s, not %s", m.Name, strings.Join(m.Engines, ", "), o.engine))
			}
		}
		models = slices.DeleteFunc(models, func(m *aggregate.Model) bool { return !slices.Contains(m.Engines, o.engine) })
		if len(models) == 0 {
			return wrong("engine", fmt.Errorf("no model allows %s", o.engine))
		}
	}
	if o.From, err = parseDayOrAgo(o.from, now); err != nil {
		return wrong("from", err)
	}
	if o.To, err = parseDayOrAgo(o.to, now); err != nil {
		return wrong("to", err)
	}
	if !o.From.IsZero() && !o.To.IsZero() && !o.From.Before(o.To) {
		return wrong("to", fmt.Errorf("%s is not after --from", o.to))
	}
	if through, err = parseDayOrAgo(o.watermark, now); err != nil {
		return wrong("complete-through", err)
	}
	if through.After(now) {
		return wrong("complete-through", fmt.Errorf("%s is not yet", o.watermark))
	}
	if o.threads < 1 || o.threads > threadsMost {
		return wrong("threads", fmt.Errorf("%d: want 1 to %d", o.threads, threadsMost))
	}
	return models, through, nil
}

// parseDayOrAgo reads a day, a point in time, or how long ago it was.
func parseDayOrAgo(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, nil
	}
	t, err := parseTime(text, now)
	if err != nil {
		return t, fmt.Errorf("%q: want 2026-10-01, RFC 3339 (2026-10-01T15:04:05Z), or how long ago (48h)", text)
	}
	return t.UTC(), nil
}

func runAggregate(cmd *cobra.Command, o aggregateOptions) (err error) {
	ctx := cmd.Context()
	models, through, err := o.request(time.Now())
	if err != nil {
		return err
	}
	if o.list {
		return o.printModels(cmd.OutOrStdout(), models)
	}
	pipes, hot, err := o.stores.hot(cmd)
	if err != nil {
		return err
	}
	engines, err := newCellEngines(ctx, pipes, hot, o.threads, through)
	if err != nil {
		return errors.Join(err, pipes.stop())
	}
	defer func() { err = errors.Join(err, pipes.stop()) }()
	defer engines.close()
	if lake := pipes.lake; lake != nil {
		cat, closeCatalog, err := openCatalog(ctx, lake)
		if err != nil {
			return err
		}
		defer closeCatalog()
		engines.catalog = cat
		o.Lake = &aggregate.Lake{Catalog: cat, Namespace: lake.Namespace, Open: func(ctx context.Context, d lakefile.Definition) (*table.Table, error) {
			return lake.OpenTable(ctx, cat, d)
		}}
	}
	if !o.quiet {
		o.Progress = func(m *aggregate.Model, at time.Time, number, of int) {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s %s: partition %d of %d\n", m.Name, at.Format(time.RFC3339), number, of) // nobody may be listening
		}
	}
	var reports []aggregate.Report
	var errs []error
	failed := 0
	for _, m := range models {
		r, err := engines.build(ctx, m, o.engine, o.Options)
		reports, errs = append(reports, r), append(errs, err)
		failed += r.Count(aggregate.Failed) + r.Count(aggregate.NotTried)
		if ctx.Err() != nil {
			break
		}
	}
	if err := o.print(cmd.OutOrStdout(), reports); err != nil {
		return err
	}
	switch err := errors.Join(errs...); {
	case ctx.Err() != nil:
		return errors.New("stopped: what is published counts, and the same command goes on from here")
	case err != nil:
		return fmt.Errorf("%w; what is published counts, and the same command goes on from there", err)
	case failed > 0:
		return fmt.Errorf("%d partitions failed: the tables have what they had before", failed)
	}
	return nil
}

// listedModel is a model as --list has it.
type listedModel struct {
	Model       string         `json:"model"`
	Table       string         `json:"table"`
	Partition   aggregate.Size `json:"partition"`
	Sources     []string       `json:"sources"`
	Engines     []string       `json:"engines"`
	Schedule    string         `json:"schedule"`
	Lake        bool           `json:"lake"`
	Owner       string         `json:"owner"`
	Description string         `json:"description"`
	Version     string         `json:"version"` // by the first of the engines
}

func (o *aggregateOptions) printModels(w io.Writer, models []*aggregate.Model) error {
	list := make([]listedModel, len(models))
	for i, m := range models {
		list[i] = listedModel{m.Name, m.Target.Table, m.Partition.Size, nil, m.Engines, m.Schedule.String(), m.Target.Lake, m.Owner, m.Description, m.Version(m.Engines[0])}
		for _, s := range m.Sources {
			list[i].Sources = append(list[i].Sources, s.Table)
		}
	}
	if o.json {
		return printJSON(w, list)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "model\ttable\tpartition\tsources\tengines\tschedule\tstores\towner\tdescription")
	for _, m := range list {
		stores := "clickhouse"
		if m.Lake {
			stores += ",lake"
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Model, m.Table, m.Partition, strings.Join(m.Sources, ","), strings.Join(m.Engines, ","), m.Schedule, stores, printable(m.Owner), printable(m.Description))
	}
	return tw.Flush()
}

func (o *aggregateOptions) print(w io.Writer, reports []aggregate.Report) error {
	if o.json {
		return printJSON(w, reports)
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	built, copied, state := "built", "to lake", aggregate.Built
	if o.DryRun {
		built, copied, state = "to build", "to copy to lake", aggregate.WouldBuild
	}
	_, _ = fmt.Fprintln(tw, "model\tcomplete through\t"+built+"\tunchanged\tfailed\tkept\twaiting\t"+copied)
	for _, r := range reports {
		lake := "-"
		if r.Lake != nil {
			lake = strconv.Itoa(r.Lake.Written)
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", r.Model, r.Watermark.Format(time.RFC3339), r.Count(state), r.Unchanged,
			r.Count(aggregate.Failed)+r.Count(aggregate.NotTried), r.Count(aggregate.Kept), r.Waiting, lake)
	}
	_ = tw.Flush() // a strings.Builder does not fail
	for _, r := range reports {
		notTried := r.Count(aggregate.NotTried)
		for _, p := range r.Outcomes {
			at := r.Model + " " + p.At.Format(time.RFC3339)
			switch p.State {
			case aggregate.Failed:
				_, _ = fmt.Fprintf(&b, "%s FAILED (owner: %s)\n", at, printable(r.Owner))
				for _, f := range p.Findings {
					_, _ = fmt.Fprintf(&b, "  %s\n", printable(f))
				}
			case aggregate.Kept:
				_, _ = fmt.Fprintf(&b, "%s kept as it is, although %s: rows that it was built of may be deleted for their age; --expired builds it of what is left\n", at, p.Reason)
			case aggregate.WouldBuild:
				_, _ = fmt.Fprintf(&b, "%s would be built: %s\n", at, p.Reason)
			}
		}
		if notTried > 0 {
			_, _ = fmt.Fprintf(&b, "%s: %d more partitions were not tried\n", r.Model, notTried)
		}
		if r.Error != "" {
			_, _ = fmt.Fprintf(&b, "%s\n", printable(r.Error))
		}
	}
	if o.DryRun {
		b.WriteString("nothing was changed\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
