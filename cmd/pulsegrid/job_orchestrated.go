package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	sdklog "go.temporal.io/sdk/log"

	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

const (
	// temporalTimeout bounds how long Temporal may take to answer at all.
	temporalTimeout = 30 * time.Second
	// jobsListed is how many jobs `job list` prints.
	jobsListed = 200
)

// temporalHelp says where the commands find Temporal.
const temporalHelp = `Temporal is found as its own tools find it: TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS and TEMPORAL_TLS_*, or a profile of
temporal.toml. Where none of them names an address it is the one of the running local cell (` + "`pulsegrid local --orchestration`" + `).`

// jobExitCodes are those of the commands that ask Temporal.
const jobExitCodes = "Exit codes: 0 done; 1 it failed, or the job is not in a state for it; 2 wrong command line; 3 no cell is running."

type temporalOptions struct {
	address, namespace, data string
}

func (o *temporalOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.address, "temporal-address", "", "HOST:PORT of Temporal (default: TEMPORAL_ADDRESS, else the local cell's)")
	f.StringVar(&o.namespace, "temporal-namespace", "", "namespace (default: TEMPORAL_NAMESPACE, else default)")
	f.StringVar(&o.data, "data", defaultDataDir, "data directory of the running local cell")
}

// connect returns a client, to be closed.
func (o *temporalOptions) connect(cmd *cobra.Command) (client.Client, error) {
	c, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, fmt.Errorf("settings of Temporal: %w", err)
	}
	if o.address != "" {
		c.HostPort = o.address
	}
	if o.namespace != "" {
		c.Namespace = o.namespace
	}
	if o.namespace = c.Namespace; o.namespace == "" {
		o.namespace = client.DefaultNamespace
	}
	if c.HostPort == "" {
		state, err := cell.ReadState(o.data)
		if err != nil {
			return nil, fmt.Errorf("%w; or name Temporal with --temporal-address", err)
		}
		if state.Endpoints.Temporal == "" {
			return nil, fmt.Errorf("the cell in %s runs without Temporal: start it with `pulsegrid local --orchestration`, or name another one with --temporal-address", state.DataDir)
		}
		c.HostPort = state.Endpoints.Temporal
	}
	c.ConnectionOptions.GetSystemInfoTimeout = temporalTimeout
	c.Logger = sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctx, cancel := context.WithTimeout(cmd.Context(), temporalTimeout)
	defer cancel()
	connected, err := client.DialContext(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("connect to Temporal at %s: %w", c.HostPort, err)
	}
	return connected, nil
}

// asking is a command that asks Temporal.
func (o *temporalOptions) asking(cmd *cobra.Command, ask func(ctx context.Context, c client.Client) error) error {
	c, err := o.connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	return ask(cmd.Context(), c)
}

func newJobStart() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "start",
		Short:   "Hand a job to Temporal, whose workers run it",
		Example: "  pulsegrid job start backfill --objects file:///data/legacy --tenant acme --needs-approval",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newStartBackfill())
	for _, kind := range orchestration.CommandKinds() {
		cmd.AddCommand(newStartCommand(kind))
	}
	return cmd
}

func newStartBackfill() *cobra.Command {
	var (
		o        backfillOptions
		t        temporalOptions
		approval bool
		by       string
	)
	cmd := &cobra.Command{
		Use:   "backfill",
		Short: "Load the old collectors' gzipped JSON lines into both stores, by Temporal's workers",
		Long: `Start what ` + "`pulsegrid job run backfill`" + ` does, with the same flags, as a workflow: see its --help for what is loaded and how. A worker (` + "`pulsegrid job worker`" + `)
makes the plan, loads it, and reports; its configuration says which stores. Another worker goes on when one dies. A file:// URL must lead to the same files there. The mapping's text is read here.

With --needs-approval nothing is planned or loaded before ` + "`pulsegrid job approve ID`" + `; ` + "`pulsegrid job show ID`" + ` shows what would be.
An activity that fails five times, without the job getting further, waits for a person: mend the cause, then ` + "`pulsegrid job retry ID`" + `. What no retry mends (no such
bucket, unknown tenant, other flags than the plan's) ends the job as failed.

The id follows from what is asked for. The same command again is the same job: while it runs nothing is started, and afterwards it finds everything done.

` + temporalHelp + `

` + jobExitCodes,
		Example: `  pulsegrid local --orchestration                   # in another terminal: Temporal and a worker too
  pulsegrid job start backfill --objects file:///data/legacy --tenant acme --needs-approval
  pulsegrid job list
  TEMPORAL_ADDRESS=jobs.example.tmprl.cloud:7233 TEMPORAL_NAMESPACE=cell-eu.example TEMPORAL_API_KEY=... \
    pulsegrid job start backfill --objects 's3://old-events?region=eu-central-1' --prefix eu/2026/10/ --to 2026-11-01 --tenant acme`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			request, err := o.request()
			if err != nil {
				return err
			}
			request.NeedsApproval = approval
			return t.asking(cmd, func(ctx context.Context, c client.Client) error {
				id, started, err := orchestration.StartBackfill(ctx, c, request, by)
				return tellStarted(cmd, id, started, err, o.json)
			})
		},
	}
	o.requestFlags(cmd)
	t.flags(cmd)
	byFlag(cmd, &by)
	cmd.Flags().BoolVar(&approval, "needs-approval", false, "wait for an approval (job approve) before anything is loaded")
	cmd.Flags().BoolVar(&o.json, "json", false, "print the id as JSON")
	return cmd
}

// tellStarted prints the id of a job that was started, or ran already; err says why neither.
func tellStarted(cmd *cobra.Command, id string, started bool, err error, asJSON bool) error {
	if _, ok := errors.AsType[*orchestration.OtherRequestError](err); ok {
		return fmt.Errorf("%w: let it end, or end it with `pulsegrid job cancel %s`", err, id)
	}
	if err != nil {
		return fmt.Errorf("start job %s: %w", id, err)
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), struct {
			ID      string `json:"id"`
			Started bool   `json:"started"`
		}{id, started})
	}
	text := "job " + id + ": started"
	if !started {
		text = "job " + id + ": runs already, by the same request; nothing was started"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\nsee `pulsegrid job show %s`\n", text, id)
	return err
}

// byFlag adds --by: who asks.
func byFlag(cmd *cobra.Command, by *string) {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	cmd.Flags().StringVar(by, "by", name, "who asks, for the record")
}

func newJobList() *cobra.Command {
	var t temporalOptions
	var asJSON, standing bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the jobs that Temporal has, the last started first",
		Long: `List the jobs that run, and those that have ended and that Temporal still keeps (a namespace has a retention, a day in the local cell).
The runs of standing jobs (` + "`pulsegrid job schedule`" + `) are another list: --standing.

` + temporalHelp + `

` + jobExitCodes,
		Example: "  pulsegrid job list\n  pulsegrid job list --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.asking(cmd, func(ctx context.Context, c client.Client) error {
				jobs, more, err := orchestration.List(ctx, c, standing, jobsListed)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), jobs)
				}
				return printJobs(cmd.OutOrStdout(), jobs, more)
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&standing, "standing", false, "list the runs of standing jobs")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newJobShow() *cobra.Command {
	var asJSON bool
	cmd := jobCommand("show", "Show a job: state, plan, progress, attempts, last error, who approved it, report",
		`Show a job: its state, its plan, how far the load is and how fast, failed attempts and the last error, who approved it, and what became of it.
Plan, approval and report are asked from a worker, so one must be running; the rest comes from Temporal.`,
		func(cmd *cobra.Command, ctx context.Context, c client.Client, id, _ string) error {
			j, err := orchestration.Show(ctx, c, id)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), j)
			}
			return printJob(cmd.OutOrStdout(), j, time.Now())
		})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newJobApprove() *cobra.Command {
	return jobCommand("approve", "Approve what a job that waits for that shows",
		`Approve what `+"`pulsegrid job show`"+` shows: the plan of a backfill, so that it is loaded, the rows that an erasure or an expiry would take out, or the next step of a rollout.
When that has changed since, the job shows it anew and waits again.`,
		func(cmd *cobra.Command, ctx context.Context, c client.Client, id, by string) error {
			if err := orchestration.Approve(ctx, c, id, by); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "job %s: approved by %s\n", id, by)
			return err
		})
}

func newJobCancel() *cobra.Command {
	return jobCommand("cancel", "End a job; what is loaded stays",
		`End a job. The load stops after what is under way, and what is loaded stays and counts: the same `+"`job start`"+` or `+"`job run`"+` goes on from there.`,
		func(cmd *cobra.Command, ctx context.Context, c client.Client, id, _ string) error {
			if err := orchestration.Cancel(ctx, c, id); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "job %s: is asked to end; see `pulsegrid job show %s`\n", id, id)
			return err
		})
}

func newJobRetry() *cobra.Command {
	return jobCommand("retry", "Make a job try again that waits for a person",
		`Make a job that waits for a person try again. `+"`pulsegrid job show`"+` says why it waits: mend that first.`,
		func(cmd *cobra.Command, ctx context.Context, c client.Client, id, by string) error {
			if err := orchestration.RetryJob(ctx, c, id, by); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "job %s: tries again, asked by %s\n", id, by)
			return err
		})
}

// jobCommand is a command about one job.
func jobCommand(name, short, long string, run func(cmd *cobra.Command, ctx context.Context, c client.Client, id, by string) error) *cobra.Command {
	var t temporalOptions
	var by string
	cmd := &cobra.Command{
		Use:     name + " ID",
		Short:   short,
		Long:    long + "\n\n" + temporalHelp + "\n\n" + jobExitCodes,
		Example: "  pulsegrid job " + name + " backfill.0123456789ab",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("%s takes the id of one job, got %d arguments; see `pulsegrid job list`", cmd.CommandPath(), len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.asking(cmd, func(ctx context.Context, c client.Client) error {
				err := run(cmd, ctx, c, args[0], by)
				if errors.Is(err, orchestration.ErrNoJob) {
					err = fmt.Errorf("%w; see `pulsegrid job list`", err)
				}
				return err
			})
		},
	}
	t.flags(cmd)
	if name == "approve" || name == "retry" {
		byFlag(cmd, &by)
	}
	return cmd
}

func printJobs(w io.Writer, jobs []orchestration.Summary, more bool) error {
	if len(jobs) == 0 {
		_, err := fmt.Fprintln(w, "no jobs")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "id\tkind\ttenant\tstate\tstarted\tended\tby") // Flush tells of errors
	for _, j := range jobs {
		ended := "-"
		if !j.Ended.IsZero() {
			ended = j.Ended.UTC().Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", j.ID, j.Kind, printable(j.Tenant), j.State, j.Started.UTC().Format(time.RFC3339), ended, printable(j.By))
	}
	if err := tw.Flush(); err != nil || !more {
		return err
	}
	_, err := fmt.Fprintf(w, "(only the last %d)\n", jobsListed)
	return err
}

func printJob(w io.Writer, j orchestration.Job, now time.Time) error {
	var b strings.Builder
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	line("job %s: %s", j.ID, j.State)
	end := now
	ended := ""
	if !j.Ended.IsZero() {
		end, ended = j.Ended, ", ended "+j.Ended.UTC().Format(time.RFC3339)
	}
	of := j.Kind
	if j.Tenant != "" {
		of += " of tenant " + printable(j.Tenant)
	}
	line("%s, started %s by %s%s, %s", of, j.Started.UTC().Format(time.RFC3339), printable(j.By), ended, end.Sub(j.Started).Round(time.Second))
	d := j.Detail
	if d == nil {
		line("plan, approval and outcome are not known: %s", j.Unanswered)
		d = &orchestration.Status{}
	}
	if d.Plan != nil {
		previewLines(&b, *d.Plan)
	}
	if d.DryRun != nil {
		b.WriteString(d.DryRun.Text)
	}
	if d.Approved != nil {
		line("approved by %s at %s", printable(d.Approved.By), d.Approved.At.UTC().Format(time.RFC3339))
	}
	if j.Progress != nil {
		line("%s", progressLine(*j.Progress))
	}
	if j.Said != "" {
		line("%s", printable(j.Said))
	}
	if j.Attempt > 0 && !j.Running {
		line("attempt %d waits for a worker", j.Attempt)
	} else if j.Attempt > 1 {
		line("attempt %d is under way", j.Attempt)
	}
	if j.Failures > 0 {
		line("failed attempts: %d", j.Failures)
	}
	if j.LastError != "" {
		line("last error: %s", j.LastError)
	}
	if d.RetriedBy != "" {
		line("last retry asked by %s", printable(d.RetriedBy))
	}
	if r := d.Report; r != nil {
		line("%s", totals(r.Objects, r.Failed, r.Total))
		for _, o := range r.Listed {
			line("  %s  %s  %s", printable(o.Key), o.State, o.Reason)
		}
		if more := r.Failed - len(r.Listed); more > 0 {
			line("  and %d more; `pulsegrid job run` with the same flags lists every object", more)
		}
		if r.Audit != nil {
			auditLines(&b, r.Audit)
		}
	}
	if d.Outcome != nil {
		b.WriteString(d.Outcome.Text)
	}
	switch j.State {
	case orchestration.StateWaitingForApproval:
		line("it waits: `pulsegrid job approve %s`, or `pulsegrid job cancel %s`", j.ID, j.ID)
	case orchestration.StateWaitingForPerson:
		line("it waits: mend the cause, then `pulsegrid job retry %s`; or `pulsegrid job cancel %s`", j.ID, j.ID)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
