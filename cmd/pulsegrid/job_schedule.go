package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/pulsegrid/pulsegrid/orchestration"
)

func newJobSchedule() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "schedule",
		Short:   "Standing jobs: what Temporal starts again and again",
		Example: "  pulsegrid job schedule list",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newScheduleApply(), newScheduleList(), newSchedulePause(), newScheduleResume())
	return cmd
}

// readStanding reads a file of standing jobs; path is empty for those that come with PulseGrid.
func readStanding(path string) ([]orchestration.Standing, error) {
	text := orchestration.DefaultStanding()
	if path != "" {
		var err error
		if text, err = os.ReadFile(path); err != nil {
			return nil, usageError{fmt.Errorf("--file: %w", err)}
		}
	}
	file, err := orchestration.ParseStanding(text, checkFlags)
	if err != nil {
		return nil, usageError{fmt.Errorf("--file %s: %w", path, err)}
	}
	return file, nil
}

func newScheduleApply() *cobra.Command {
	var (
		t              temporalOptions
		path           string
		dryRun, asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make Temporal's schedules equal to a file of standing jobs",
		Long: `Make Temporal's schedules equal to a file of standing jobs (docs/formats/standing-jobs.md): schedules are made, changed, and deleted where the file no longer has their job. It may be run
again at any time. Schedules of others, whose ids do not begin with "standing.", are left alone. A job that is paused stays paused; what else was changed by hand is undone.

Without --file the jobs are those that come with PulseGrid; --print shows their file, to begin one of your own with.

` + temporalHelp + `

` + jobExitCodes,
		Example: `  pulsegrid job schedule apply --print > standing.yaml
  pulsegrid job schedule apply --file standing.yaml --dry-run
  pulsegrid job schedule apply --file standing.yaml`,
		Args: noArgs,
	}
	var printed bool
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := readStanding(path)
		if err != nil {
			return err
		}
		if printed {
			_, err := cmd.OutOrStdout().Write(orchestration.DefaultStanding())
			return err
		}
		return t.asking(cmd, func(ctx context.Context, c client.Client) error {
			changes, err := orchestration.Apply(ctx, c, t.namespace, file, dryRun)
			if asJSON {
				return errors.Join(err, printJSON(cmd.OutOrStdout(), changes))
			}
			return errors.Join(err, printChanges(cmd.OutOrStdout(), changes, dryRun))
		})
	}
	t.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&path, "file", "", "file of standing jobs (default: those that come with PulseGrid)")
	f.BoolVar(&dryRun, "dry-run", false, "say what would be changed; change nothing")
	f.BoolVar(&printed, "print", false, "print the file of the jobs that come with PulseGrid; ask nobody")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printChanges(w io.Writer, changes []orchestration.Change, dryRun bool) error {
	var b strings.Builder
	for _, c := range changes {
		_, _ = fmt.Fprintf(&b, "%-9s  %s\n", c.Change, c.Name)
		switch c.Change {
		case orchestration.ChangeCreate:
			_, _ = fmt.Fprintf(&b, "           + %s\n", standingLine(c.After))
		case orchestration.ChangeUpdate:
			_, _ = fmt.Fprintf(&b, "           - %s\n           + %s\n", standingLine(c.Before), standingLine(c.After))
		}
	}
	if dryRun {
		b.WriteString("nothing was changed\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func standingLine(s *orchestration.Standing) string {
	text, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func newScheduleList() *cobra.Command {
	var t temporalOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the standing jobs, and say which are late or have failed",
		Long: `List the standing jobs. One is late when its last success is older than its late_after allows; one has failed when its last run did not end as done.

` + temporalHelp + `

Exit codes: 0 none is late or has failed; 1 one is, or has; 2 wrong command line; 3 no cell is running.`,
		Example: "  pulsegrid job schedule list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.asking(cmd, func(ctx context.Context, c client.Client) error {
				jobs, err := orchestration.ListStanding(ctx, c)
				if err != nil {
					return err
				}
				return tellStanding(cmd.OutOrStdout(), jobs, time.Now(), asJSON)
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// listedStanding is a standing job as --json has it.
type listedStanding struct {
	orchestration.StandingState
	Late   bool `json:"late"`
	Failed bool `json:"failed"`
}

// tellStanding lists standing jobs; its error says how many are late or have failed.
func tellStanding(w io.Writer, jobs []orchestration.StandingState, now time.Time, asJSON bool) error {
	listed, bad := []listedStanding{}, 0
	for i := range jobs {
		l := listedStanding{jobs[i], jobs[i].Late(now), jobs[i].Failed()}
		if l.Late || l.Failed {
			bad++
		}
		listed = append(listed, l)
	}
	var err error
	if asJSON {
		err = printJSON(w, listed)
	} else {
		err = printStanding(w, listed, now)
	}
	if err == nil && bad > 0 {
		err = fmt.Errorf("%d of %d standing jobs are late or have failed: see `pulsegrid job list --standing` and `pulsegrid job show ID`", bad, len(jobs))
	}
	return err
}

func printStanding(w io.Writer, jobs []listedStanding, now time.Time) error {
	if len(jobs) == 0 {
		_, err := fmt.Fprintln(w, "no standing jobs: see `pulsegrid job schedule apply --help`")
		return err
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.UTC().Format(time.RFC3339)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "name\tkind\twhen\tis\tlast success\tlate after\tlast run\tnext\towner") // Flush tells of errors
	for i := range jobs {
		j := &jobs[i]
		is := "well"
		switch {
		case j.Late:
			is = "LATE by " + (now.Sub(j.Since()) - time.Duration(j.LateAfter)).Round(time.Second).String()
		case j.Failed:
			is = "FAILED"
		}
		if j.Running {
			is += ", running"
		}
		if j.Paused {
			is += ", " + j.Note
		}
		last := "-"
		if j.LastRun != nil {
			last = j.LastRun.ID + ": " + j.LastRun.State
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%v\t%s\t%s\t%s\n", printable(j.Name), printable(j.Kind), printable(j.When()), printable(is), at(j.LastSuccess), time.Duration(j.LateAfter), printable(last), at(j.Next), printable(j.Owner))
	}
	return tw.Flush()
}

func newSchedulePause() *cobra.Command {
	return standingCommand("pause", "Begin a standing job no more until it is resumed",
		"Begin a standing job no more until it is resumed. What is under way goes on. It still gets late, so that nobody forgets it.", "paused", orchestration.PauseStanding)
}

func newScheduleResume() *cobra.Command {
	return standingCommand("resume", "Begin a standing job again at its times", "Begin a standing job again at its times, after a pause. What it missed meanwhile is not made up for.", "resumed", orchestration.ResumeStanding)
}

// standingCommand is a command about standing jobs of some names.
func standingCommand(name, short, long, done string, do func(ctx context.Context, c client.Client, name, by string) error) *cobra.Command {
	var t temporalOptions
	var by string
	cmd := &cobra.Command{
		Use:     name + " NAME...",
		Short:   short,
		Long:    long + "\n\n" + temporalHelp + "\n\n" + jobExitCodes,
		Example: "  pulsegrid job schedule " + name + " aggregates",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("%s takes names of standing jobs; see `pulsegrid job schedule list`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.asking(cmd, func(ctx context.Context, c client.Client) error {
				for _, job := range args {
					if err := do(ctx, c, job, by); err != nil {
						return fmt.Errorf("%w; see `pulsegrid job schedule list`", err)
					}
					if _, err := fmt.Fprintf(cmd.OutOrStdout(), "standing job %s: %s by %s\n", job, done, by); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	t.flags(cmd)
	byFlag(cmd, &by)
	return cmd
}
