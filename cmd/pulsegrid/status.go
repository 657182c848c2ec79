package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/refusals"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// statusInterval is the time between the two looks from which rates come.
const statusInterval = time.Second

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the running cell: endpoints, hops, lag, freshness, topics, refusals",
		Long: `Show the running cell once: endpoints, what each hop has done and does now, what waits in Kafka, how fresh the stores are, and how many copies of
events dedupe has removed since the aggregator started, with examples from the newest records of Kafka. Too many copies are a warning. What the
gateway refused, requests or events of them, is shown by kind, from its log: status, reason, tenant, sender, how many, an example.
Exit code 1 if any part is unhealthy, 3 if no cell is running.`,
		Example: `  pulsegrid status
  pulsegrid status --json | jq .Hops`,
		Args: noArgs,
	}
	data := dataFlag(cmd)
	limit := cmd.Flags().Float64("copies-percent", certificate.DefaultCopiesPercent, copiesUsage)
	asJSON := cmd.Flags().Bool("json", false, "print one JSON object")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		state, err := cell.ReadState(*data)
		if err != nil {
			return err
		}
		f, err := look(cmd.Context(), state)
		if err != nil {
			return err
		}
		refused, err := refusedByGateway(state)
		if err != nil {
			f.Problems = append(f.Problems, fmt.Sprintf("log of the gateway: %v", err))
		}
		f.Problems = append(f.Problems, addExamples(cmd.Context(), state, f.Copies)...)
		if *asJSON {
			err = printJSON(cmd.OutOrStdout(), struct {
				cell.State
				cell.Figures
				Refused []refusals.Line // by the gateway, newest first
			}{state, f, refused})
		} else {
			err = printStatus(cmd.OutOrStdout(), state, f, refused, *limit)
		}
		if err != nil {
			return err
		}
		return verdict(state, f)
	}
	return cmd
}

func look(ctx context.Context, state cell.State) (cell.Figures, error) {
	observer, err := cell.NewObserver(state.Endpoints)
	if err != nil {
		return cell.Figures{}, err
	}
	defer observer.Close()
	observer.Look(ctx)
	if err := sleep.For(ctx, statusInterval); err != nil {
		return cell.Figures{}, err
	}
	return observer.Look(ctx), nil
}

// Bounds of the look for examples.
const (
	examplesSince   = audit.DefaultWindow
	examplesTimeout = 10 * time.Second
)

// addExamples adds an example of each rule from Kafka's newest records, where there is one. It returns what went wrong.
func addExamples(ctx context.Context, state cell.State, copies []certificate.SignalCopies) (problems []string) {
	if !slices.ContainsFunc(copies, func(c certificate.SignalCopies) bool { return c.Copies > 0 }) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, examplesTimeout)
	defer cancel()
	config := audit.DefaultConfig()
	config.Kafka.Brokers = []string{state.Endpoints.Kafka}
	recent, err := audit.Recent(ctx, config, time.Now().Add(-examplesSince))
	if err != nil {
		return []string{fmt.Sprintf("examples of copies: %v", err)}
	}
	for _, found := range recent.Copies {
		for i := range copies {
			if copies[i].Signal == found.Signal {
				copies[i].TakeExamples(found)
			}
		}
	}
	return nil
}

// refusedByGateway are the kinds of refusals that the gateway's log tells of.
func refusedByGateway(state cell.State) ([]refusals.Line, error) {
	for _, p := range state.Processes {
		if p.Name == cell.HopGateway {
			return refusals.Newest(p.Log)
		}
	}
	return nil, nil
}

// maxRefused kinds are printed.
const maxRefused = 20

// refusedLines are the table of refusals.
func refusedLines(refused []refusals.Line) []string {
	if len(refused) == 0 {
		return []string{"refused by the gateway: nothing in its log"}
	}
	var b strings.Builder
	b.WriteString("refused by the gateway, the newest line of each kind in its log\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "last\trequests\tevents\tanswer\treason\ttenant\tsender\texample") // a Builder takes everything
	for _, r := range refused[:min(len(refused), maxRefused)] {
		events := "-"
		if r.Events > 0 {
			events = strconv.FormatInt(r.Events, 10)
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%s %s\t%s\t%s\t%s\t%s\n", r.Last.Local().Format(time.DateTime), r.Requests, events, r.Protocol, r.Status,
			strings.TrimSpace(r.Reason+" "+r.Detail), cmp.Or(r.Tenant, "-"), cmp.Or(r.Sender, "-"), r.Example)
	}
	_ = w.Flush()
	if more := len(refused) - maxRefused; more > 0 {
		fmt.Fprintf(&b, "and %d more kinds", more)
	}
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}

func verdict(state cell.State, f cell.Figures) error {
	if !state.Ready {
		return errors.New("the cell is still starting")
	}
	if !f.Healthy() {
		return fmt.Errorf("unhealthy: %s", strings.Join(f.Problems, "; "))
	}
	return nil
}

func printStatus(w io.Writer, s cell.State, f cell.Figures, refused []refusals.Line, limit float64) error {
	lines := []string{fmt.Sprintf("cell %s, process %d, since %s, data in %s", s.Version, s.PID, s.Started.Format(time.RFC3339), s.DataDir)}
	section := func(more []string) { lines = append(append(lines, ""), more...) }
	section(cell.EndpointLines(s.Endpoints))
	section(cell.HopLines(f))
	section(refusedLines(refused))
	section(cell.TopicLines(f))
	var copies strings.Builder
	if err := writeCopies(&copies, f.Copies, limit); err != nil {
		return err
	}
	section([]string{"copies since the aggregator started", strings.TrimRight(copies.String(), "\n")})
	processes := make([]string, 0, len(s.Processes))
	for _, p := range s.Processes {
		line := fmt.Sprintf("%-12s process %-8d restarts %-4d log %s", p.Name, p.PID, p.Restarts, p.Log)
		if p.LastError != "" {
			first, _, _ := strings.Cut(p.LastError, "\n")
			line += "\n             last error: " + first
		}
		processes = append(processes, line)
	}
	section(processes)
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}
