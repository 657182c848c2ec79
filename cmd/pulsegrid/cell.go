package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
	"github.com/pulsegrid/pulsegrid/internal/drain"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	defaultCells       = "cells.yaml"
	defaultCellTimeout = 30 * time.Minute
	cellWaitInterval   = 5 * time.Second // between two looks of --wait
)

type cellOptions struct {
	cells        string
	reason       string
	althoughFull bool
	althoughLast bool
	wait, json   bool
	timeout      time.Duration
}

// jurisdictionVariable says where a gateway is, and so where whoever works beside it is.
const jurisdictionVariable = "PULSEGRID_JURISDICTION"

func newCell() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cell",
		Short: "Take a cell out of service and back, settle what two cells have both, and state where tenants' bytes are",
		Long: `Take a cell out of service before its maintenance, and back. A drained cell refuses nothing: its gateways tell the health check of DNS to send senders to other
cells, take what comes until they have left, and ask connections to go. When no requests come any more, and all that was acknowledged is in both stores, it is
safe to take the cell away: "status" says so, and ends with 0.

    pulsegrid cell drain eu-1 --reason "kernel upgrade"
    pulsegrid cell status eu-1 --wait
    ... the maintenance ...
    pulsegrid cell undrain eu-1

After a failover two cells may have the same events: "settle" removes them from the one that is not the tenant's home. After a cell is lost for good, "restore" fills another one's hot store from the
replica of its lake. "inventory" counts what a cell holds, tenant by tenant, and "residency"
states where each tenant's bytes of a day were.

A file lists the cells (--cells): where each one's state, gateways and Kafka are. docs/regions.md has one, and says what to do when a cell is lost without a drain.`,
		Example: "  pulsegrid cell drain eu-1 --reason \"kernel upgrade\" --wait\n  pulsegrid cell status eu-1\n  pulsegrid cell undrain eu-1",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCellDrain(), newCellUndrain(), newCellStatus(), newCellReserve(), newCellSettle(), newCellSettled(), newCellRestore(), newCellInventory(), newCellResidency(), newCellRollups())
	return cmd
}

func oneCell(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("name one cell; see `%s --help`", cmd.CommandPath())}
	}
	return nil
}

func (o *cellOptions) cellsFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.cells, "cells", defaultCells, "file that lists the cells (docs/regions.md)")
}

func (o *cellOptions) waitFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.wait, "wait", false, "look again and again until the cell is safe to take away")
	cmd.Flags().DurationVar(&o.timeout, "timeout", defaultCellTimeout, "give up waiting after this time")
}

// readCells reads the list of cells. What is wrong with it is a wrong command line.
func readCells(path string) ([]drain.Cell, error) {
	cells, err := drain.ReadCells(path)
	if err != nil {
		return nil, usageError{fmt.Errorf("--cells: %w", err)}
	}
	return cells, nil
}

func (o *cellOptions) find(name string) (*drain.Cell, []drain.Cell, error) {
	cells, err := readCells(o.cells)
	if err != nil {
		return nil, nil, err
	}
	c, err := drain.Find(cells, name)
	if err != nil {
		return nil, nil, usageError{err}
	}
	return c, cells, nil
}

func newCellDrain() *cobra.Command {
	var o cellOptions
	cmd := &cobra.Command{
		Use:   "drain CELL",
		Short: "Send a cell's senders to other cells",
		Long: `Write into the cell's state location that it is drained. Its gateways follow within 10 s: the health check that DNS asks (cell_health) is answered with 503, each answer over
HTTP closes its connection, and gRPC connections end by their age, within 11 minutes as gateways come. Requests are taken as before. Senders leave as fast as DNS tells
them: its check interval and threshold, and the TTL of its answers.

It refuses to drain the last cell of a jurisdiction: tenants that must stay in it would have nowhere to go. Where the list of cells says what the others of the jurisdiction can take (capacity), it
refuses if they have no room for the cell's load: "pulsegrid cell reserve" shows it.

Exit codes: 0 it is drained (with --wait: and safe to take away); 1 it failed, or with --wait is not safe when --timeout is over; 2 wrong command line or file.`,
		Example: "  pulsegrid cell drain eu-1 --reason \"kernel upgrade\"\n  pulsegrid cell drain eu-1 --wait --timeout 1h",
		Args:    oneCell,
		RunE:    func(cmd *cobra.Command, args []string) error { return o.drain(cmd, args[0]) },
	}
	o.cellsFlag(cmd)
	o.waitFlags(cmd)
	cmd.Flags().StringVar(&o.reason, "reason", "", "why, for whoever reads status and logs")
	cmd.Flags().BoolVar(&o.althoughFull, "although-full", false, "drain it although the others of its jurisdiction are not known to have room for its load")
	cmd.Flags().BoolVar(&o.althoughLast, "although-last", false, "drain it although no other cell of its jurisdiction would take its tenants")
	return cmd
}

func newCellUndrain() *cobra.Command {
	var o cellOptions
	cmd := &cobra.Command{
		Use:   "undrain CELL",
		Short: "Let senders come to a cell again",
		Long: `Write into the cell's state location that it is drained no more. Its gateways follow within 10 s: the health check that DNS asks says 200 again where something can be accepted.

Exit codes: 0 done; 1 it failed; 2 wrong command line or file.`,
		Example: "  pulsegrid cell undrain eu-1",
		Args:    oneCell,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := o.find(args[0])
			if err != nil {
				return err
			}
			before, _, err := drain.Set(cmd.Context(), c, false, "", time.Now())
			if err != nil {
				return err
			}
			text := fmt.Sprintf("cell %s is drained no more: within 10 s its gateways tell DNS to send senders again, where they can accept something", c.Name)
			if !before.Drained {
				text = fmt.Sprintf("cell %s was not drained: nothing was changed", c.Name)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
	o.cellsFlag(cmd)
	return cmd
}

func newCellStatus() *cobra.Command {
	var o cellOptions
	cmd := &cobra.Command{
		Use:   "status CELL",
		Short: "Show whether a cell is drained, and whether it is safe to take away",
		Long: `Look at a cell's gateways, spill and consumer groups, and say whether it is safe to take the cell away. It is when
  - it is drained, and each gateway follows;
  - no gateway had a request for a minute, and none has one under way. Whoever sends to this cell by its own name keeps it busy: probes, and agents that do not use DNS;
  - nothing waits in the spill, and each consumer group of the stores has committed all records of its topics, which it does when its store has them.
Everything that cannot be read counts as unsafe.

Exit codes: 0 safe; 1 not safe (or not yet, when --timeout is over), or it failed; 2 wrong command line or file.`,
		Example: "  pulsegrid cell status eu-1\n  pulsegrid cell status eu-1 --wait\n  pulsegrid cell status eu-1 --json | jq .Unsafe",
		Args:    oneCell,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := o.find(args[0])
			if err != nil {
				return err
			}
			return o.status(cmd, c)
		},
	}
	o.cellsFlag(cmd)
	o.waitFlags(cmd)
	cmd.Flags().BoolVar(&o.json, "json", false, "print one JSON object")
	return cmd
}

func (o *cellOptions) drain(cmd *cobra.Command, name string) error {
	c, cells, err := o.find(name)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if now, err := drain.Read(ctx, c); err != nil {
		return err
	} else if !now.Drained && !o.althoughLast {
		if err := drain.CheckLast(ctx, cells, c); err != nil {
			return fmt.Errorf("%w: end another one's drain first, or say --although-last", err)
		}
		if err := o.checkRoom(cmd, cells, c); err != nil {
			return fmt.Errorf("%w: wait for less load, or say --although-full", err)
		}
	}
	before, after, err := drain.Set(ctx, c, true, o.reason, time.Now())
	if err != nil {
		return err
	}
	text := fmt.Sprintf("cell %s is drained: within 10 s its gateways tell DNS to send senders elsewhere. They take what comes until then.\n"+
		"It is safe to take away when this ends with 0:\n  pulsegrid cell status %s --cells %s --wait", c.Name, c.Name, o.cells)
	if before.Drained {
		text = fmt.Sprintf("cell %s is %s: nothing was changed", c.Name, drainedSince(after))
	}
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), text); err != nil || !o.wait {
		return err
	}
	return o.status(cmd, c)
}

// drainedSince says in words what a state is.
func drainedSince(s cellhealth.State) string {
	if !s.Drained {
		return "not drained"
	}
	text := "drained since " + s.Since.Format(time.RFC3339)
	if s.Reason != "" {
		text += " (" + s.Reason + ")"
	}
	return text
}

// status prints what a look finds; with --wait, the look that finds the cell safe, or the last one within the time.
func (o *cellOptions) status(cmd *cobra.Command, c *drain.Cell) error {
	if o.timeout <= 0 {
		return usageError{fmt.Errorf("--timeout %v: want more than 0", o.timeout)}
	}
	ctx, end := cmd.Context(), time.Now().Add(o.timeout)
	ask := drain.Sources{Scrape: cell.Scrape, State: drain.Read, Backlog: drain.ReadBacklog}
	s := drain.Look(ctx, c, ask, nil)
	interval := statusInterval // a rate needs two looks
	for told := []string(nil); ; interval = cellWaitInterval {
		if err := sleep.For(ctx, interval); err != nil {
			return err
		}
		s = drain.Look(ctx, c, ask, &s)
		undrained := s.State.Cell != "" && !s.State.Drained // which no time mends; the state of one that cannot be read has no name
		if len(s.Unsafe) == 0 || !o.wait || undrained || time.Now().Add(cellWaitInterval).After(end) {
			break
		}
		if !slices.Equal(told, s.Unsafe) {
			told = s.Unsafe
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s waits: %s\n", time.Now().Format(time.TimeOnly), oneLine(strings.Join(told, "; "))) // nobody may be listening
		}
	}
	var err error
	if o.json {
		err = printJSON(cmd.OutOrStdout(), s)
	} else {
		err = printCell(cmd.OutOrStdout(), &s)
	}
	if n := len(s.Unsafe); err == nil && n > 0 {
		err = fmt.Errorf("cell %s is not safe to take away, for %d reasons", c.Name, n)
	}
	return err
}

func printCell(out io.Writer, s *drain.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "cell %s, jurisdiction %s: %s\n\n", s.Cell, s.Jurisdiction, drainedSince(s.State))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	yes := map[bool]string{true: "yes", false: "no"}
	_, _ = fmt.Fprintln(w, "gateway\tdrained\tDNS is told to come\trequests/s\tlast request\tin flight") // a Builder takes everything
	for _, g := range s.Gateways {
		if g.Error != "" {
			_, _ = fmt.Fprintf(w, "%s\t-\t-\t-\t-\t-\n", g.URL)
			continue
		}
		rate := "-"
		if g.Rate >= 0 {
			rate = fmt.Sprintf("%.1f", g.Rate)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%v ago\t%d bytes\n", g.URL, yes[g.Drained], yes[g.Serving], rate, time.Duration(g.IdleSeconds)*time.Second, g.InFlightBytes)
	}
	_ = w.Flush()
	fmt.Fprintf(&b, "\nspill: %d bytes wait\n\n", s.SpillBytes)
	w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(s.Backlog.Groups) == 0 {
		_, _ = fmt.Fprintln(w, "consumer groups: not known")
	} else {
		_, _ = fmt.Fprintln(w, "consumer group\trecords that wait")
	}
	for _, g := range s.Backlog.Groups {
		_, _ = fmt.Fprintf(w, "%s\t%d\n", g.Group, g.Records)
	}
	_ = w.Flush()
	if len(s.Unsafe) == 0 {
		fmt.Fprintf(&b, "\nSAFE to take away: no gateway had a request for %v, and all that was acknowledged is in both stores\n", drain.Quiet)
	} else {
		fmt.Fprintf(&b, "\nNOT SAFE to take away:\n- %s\n", strings.Join(s.Unsafe, "\n- "))
	}
	var lines []string
	for line := range strings.Lines(b.String()) { // it quotes metrics, and a reason that somebody has given
		lines = append(lines, oneLine(strings.TrimRight(line, "\n")))
	}
	_, err := fmt.Fprintln(out, strings.Join(lines, "\n"))
	return err
}
