package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

const (
	// rollupGroupsListed is how many groups that differ are listed of a day.
	rollupGroupsListed = 3
	// retentionMargin: rows that are deleted for their age within this time count as deleted, as they may be while a job runs.
	retentionMargin = 6 * time.Hour
)

type rollupsOptions struct {
	stores      storesOptions
	from, to    string
	dryRun      bool
	json, quiet bool
}

func newRollups() *cobra.Command {
	var o rollupsOptions
	cmd := &cobra.Command{
		Use:   "rollups",
		Short: "Build days of ClickHouse's rollups anew that differ from the rows",
		Long: `Compare ClickHouse's rollups with the rows, day of receipt by day, and build those anew that differ: because rows were deleted by hand or put back, or a rollup lost some. A
partition (a day of the rollups of 10 s and 1 min, a month of those of 1 h) is counted again from the rows into a table beside, and takes the place of the old one in one
step: a query sees the old partition or the new one. Days whose rows may be deleted for their age keep what their rollups have.

Events go on coming in meanwhile, but not into a partition that is exchanged. So one that is not over, as today's and this month's, is exchanged only while the aggregators are
stopped: events wait in Kafka for as long. The job says which partitions wait for that.

Killed at any moment it can be run again. Run one at a time: where two run, the one that began first fails and exchanges nothing more.

Exit codes: 0 the rollups are equal to the rows; 1 some are not, or the job failed: the text says why; 2 wrong command line; 3 no cell is running.`,
		Example: `  pulsegrid job run rollups --dry-run
  pulsegrid job run rollups
  pulsegrid job run rollups --config aggregator.yaml --from 2026-10-01 --to 2026-10-08`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRollups(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "only days of receipt since: 2026-10-01, RFC 3339, or a duration ago such as 48h (default: as far back as rows are kept)")
	f.StringVar(&o.to, "to", "", "only days of receipt before that; the day of a time is included (default: today included)")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what differs; change nothing")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	o.stores.flags(cmd, "configuration of the aggregators that fill ClickHouse; may be repeated, as for the Collector (default: the local cell's)")
	return cmd
}

// days are the days of receipt that the flags ask for, and whose rows are all there, from first to end, exclusive. kept is the number of days that rows are kept; 0: for ever.
func (o *rollupsOptions) days(now time.Time, kept int) (first, end time.Time, err error) {
	wrong := func(flag string, err error) (time.Time, time.Time, error) {
		return first, end, usageError{fmt.Errorf("--%s: %w", flag, err)}
	}
	if first, err = parseDayOrAgo(o.from, now); err != nil {
		return wrong("from", err)
	}
	if end, err = parseDayOrAgo(o.to, now); err != nil {
		return wrong("to", err)
	}
	const day = 24 * time.Hour
	if end.IsZero() {
		end = now.UTC()
	}
	if !first.Before(end) {
		return wrong("to", fmt.Errorf("%s is not after --from", o.to))
	}
	first, end = first.Truncate(day), end.Add(day-1).Truncate(day)
	if kept > 0 {
		// Rows are deleted when they are that many days old, the first of a day at its begin.
		if oldest := now.UTC().Add(retentionMargin - time.Duration(kept)*day).Truncate(day).Add(day); first.Before(oldest) {
			first = oldest
		}
	}
	if !first.Before(end) {
		return wrong("to", fmt.Errorf("rows of these days may be deleted for their age (retention_days: %d)", kept))
	}
	return first, end, nil
}

func runRollups(cmd *cobra.Command, o rollupsOptions) (err error) {
	ctx := cmd.Context()
	pipes, hot, err := o.stores.hot(cmd)
	if err != nil {
		return err
	}
	first, end, err := o.days(time.Now(), hot.exporter.RetentionDays)
	if err != nil {
		return err
	}
	switch {
	case !hot.exporter.Rollups:
		return usageError{errors.New("--config: the exporter makes no rollups")}
	case !hot.exporter.Ledger:
		return errors.New("exporters: ledger: false: without a ledger nobody knows which blocks are finished, so rollups cannot be built beside aggregators")
	case columns.Replicated(hot.exporter.Engine):
		return fmt.Errorf("exporters: engine %s: rollups of replicated tables are not supported: inserts by way of another replica would not be seen", hot.exporter.Engine)
	}
	r := &rollups{database: hot.exporter.Database, suffix: rebuiltSuffix + "_" + rand.Text()[:rebuiltRandom], dryRun: o.dryRun, tell: teller(cmd, o.quiet)}
	if r.clickHouse, err = questionTo(ctx, &hot.exporter); err != nil {
		return err
	}
	if r.recount, err = openClickHouse(ctx, &hot.exporter); err != nil {
		return err
	}
	defer r.recount.Close()
	group, err := pipes.newGroup(ctx, hot.receiver)
	if err != nil {
		return err
	}
	defer group.admin.Close()
	r.group, r.watermark = group, group.watermarks(hot.receiver)

	for _, s := range signal.All {
		if err = r.table(ctx, columns.ForSignal(s), first, end); err != nil {
			break
		}
	}
	if printed := o.print(cmd.OutOrStdout(), r.report); err == nil {
		err = printed
	}
	left := 0
	for _, p := range r.report {
		if p.State != rollupRebuilt {
			left++
		}
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("stopped: each partition is the old one or the new one; run it again")
	case err != nil:
		return err
	case left > 0:
		return endError{error: fmt.Errorf("%d partitions of rollups differ from the rows", left), state: orchestration.StateIncomplete}
	}
	return nil
}

// What became of a partition.
const (
	rollupDiffers = "differs" // a dry run
	rollupRebuilt = "rebuilt"
	rollupWaits   = "waits"
)

// rollupPartition is a partition that differs, or did.
type rollupPartition struct {
	Table     string   `json:"table"`
	Partition string   `json:"partition"`
	Days      []string `json:"days"`   // of receipt, that differ
	Groups    int64    `json:"groups"` // of these days, that differ: bucket and key
	Shown     []string `json:"shown"`  // some of them
	State     string   `json:"state"`
	Reason    string   `json:"reason,omitempty"` // why it waits

	rollup columns.Rollup
	days   []time.Time
}

func (o *rollupsOptions) print(w io.Writer, report []*rollupPartition) error {
	if o.json {
		if report == nil {
			report = []*rollupPartition{} // not null
		}
		return printJSON(w, report)
	}
	if len(report) == 0 {
		_, err := fmt.Fprintln(w, "the rollups are equal to the rows")
		return err
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "rollup\tpartition\tdays\tgroups\tstate")
	for _, p := range report {
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\n", p.Table, p.Partition, strings.Join(p.Days, ","), p.Groups, p.State)
	}
	_ = tw.Flush() // a strings.Builder does not fail
	for _, p := range report {
		if p.State != rollupRebuilt {
			for _, s := range p.Shown {
				_, _ = fmt.Fprintf(&b, "%s %s\n", p.Table, printable(s))
			}
		}
		if p.Reason != "" {
			_, _ = fmt.Fprintf(&b, "%s %s waits: %s\n", p.Table, p.Partition, p.Reason)
		}
	}
	if o.dryRun {
		b.WriteString("nothing was changed\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// rollups compares and builds.
type rollups struct {
	clickHouse question
	recount    *stored.ClickHouse // compares by expressions of its own, not by those that make the rollups
	database   string
	suffix     string // of the tables beside
	group      *liveGroup
	watermark  func(context.Context, signal.Signal) (time.Time, error)
	dryRun     bool
	tell       func(format string, args ...any)
	report     []*rollupPartition
}

// table brings the rollups of a table into the state of its rows.
func (r *rollups) table(ctx context.Context, t *columns.Table, first, end time.Time) error {
	days, err := r.daysOf(ctx, t, first, end)
	if err != nil {
		return err
	}
	for _, rollup := range t.Rollups() {
		if r.dryRun {
			break
		}
		if err := r.dropBefore(ctx, rollup); err != nil {
			return err
		}
	}
	r.tell("%s: comparing %d days of its rollups", t.Name, len(days))
	found, err := compareRollups(ctx, r.recount, t, days)
	if err != nil {
		return err
	}
	var differ []*rollupPartition
	for _, d := range found { // by rollup, then by day
		id, _, _ := d.rollup.Partition(d.day)
		if n := len(differ); n == 0 || differ[n-1].Table != d.rollup.Name || differ[n-1].Partition != id {
			differ = append(differ, &rollupPartition{Table: d.rollup.Name, Partition: id, State: rollupDiffers, rollup: d.rollup})
		}
		p := differ[len(differ)-1]
		p.days, p.Days = append(p.days, d.day), append(p.Days, d.day.Format(time.DateOnly))
		p.Groups, p.Shown = p.Groups+d.Wrong, append(p.Shown, d.Shown...)
	}
	r.report = append(r.report, differ...)
	if r.dryRun {
		return nil
	}
	for _, p := range differ {
		r.tell("%s: building partition %s", p.Table, p.Partition)
		if err := errors.Join(r.rebuild(ctx, t, p), r.drop(ctx, p.rollup)); err != nil {
			return fmt.Errorf("rollup %s, partition %s: %w", p.Table, p.Partition, err)
		}
	}
	if found, err = compareRollups(ctx, r.recount, t, days); err != nil {
		return err
	}
	for _, d := range found {
		id, _, _ := d.rollup.Partition(d.day)
		if slices.ContainsFunc(differ, func(p *rollupPartition) bool {
			return p.State == rollupRebuilt && p.Table == d.rollup.Name && p.Partition == id
		}) {
			return fmt.Errorf("rollup %s, partition %s was built anew and still differs in %d groups: %s", d.rollup.Name, id, d.Wrong, strings.Join(d.Shown, "; "))
		}
	}
	return nil
}

// rollupDay is a day of receipt on which a rollup differs from the rows.
type rollupDay struct {
	certificate.RollupResult
	rollup columns.Rollup
	day    time.Time
}

// compareRollups compares days of a table's rollups with its rows, and returns those that differ, by rollup and day. Some are compared at a time, since the look at what
// differs is repeated after a while.
func compareRollups(ctx context.Context, recount *stored.ClickHouse, t *columns.Table, days []time.Time) ([]rollupDay, error) {
	var all []*rollupDay
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(len(stored.Resolutions))
	for i, rollup := range t.Rollups() {
		for _, day := range days {
			d := &rollupDay{rollup: rollup, day: day}
			all = append(all, d)
			g.Go(func() (err error) {
				if d.RollupResult, err = recount.Rollup(ctx, t, stored.Resolutions[i], []string{day.Format(time.DateOnly)}, rollupGroupsListed); err != nil {
					err = fmt.Errorf("rollup %s: %w", rollup.Name, err)
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var differ []rollupDay
	for _, d := range all {
		if d.Wrong > 0 {
			differ = append(differ, *d)
		}
	}
	return differ, nil
}

// daysOf are the days on which rows of the table, or of its rollups, were received.
func (r *rollups) daysOf(ctx context.Context, t *columns.Table, first, end time.Time) (out []time.Time, err error) {
	var union []string
	within := func(day, table string) {
		union = append(union, fmt.Sprintf("SELECT DISTINCT %[1]s AS day FROM %[2]s.%[3]s WHERE %[1]s >= '%[4]s' AND %[1]s < '%[5]s'",
			day, quoted(r.database), quoted(table), first.Format(time.DateOnly), end.Format(time.DateOnly)))
	}
	within("toDate(ingest_time)", t.Name)
	for _, rollup := range t.Rollups() {
		within("ingest_date", rollup.Name)
	}
	texts, err := r.clickHouse.texts(ctx, "SELECT DISTINCT toString(day) FROM ("+strings.Join(union, " UNION ALL ")+") ORDER BY 1")
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		day, err := time.Parse(time.DateOnly, text)
		if err != nil {
			return nil, fmt.Errorf("ClickHouse answered a day %q: %w", text, err)
		}
		out = append(out, day)
	}
	return out, nil
}
