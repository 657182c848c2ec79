package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/drain"
)

// reserveLook is the time over which loads are taken: agents send every few seconds.
const reserveLook = 10 * time.Second

func newCellReserve() *cobra.Command {
	var o cellOptions
	var times float64
	var over time.Duration
	cmd := &cobra.Command{
		Use:   "reserve",
		Short: "Show whether the cells have room for the load of one that is away",
		Long: `Look for some seconds at the events that each cell's gateways take, and say of each cell whether the others of its jurisdiction could take them, too: what each can take is in the list of cells
(capacity: events_per_second). Tenants of a jurisdiction have no other place to go, so room elsewhere does not count, nor does that of a drained cell. What is not known is not enough.

A cell is lost at any hour: give the peak's share of the load of now, --times 1.8 for instance, or run it at the peak.

Exit codes: 0 any one cell could be lost; 1 not, or it is not known, or it failed; 2 wrong command line or file.`,
		Example: "  pulsegrid cell reserve\n  pulsegrid cell reserve --times 1.8 --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if times <= 0 || over <= 0 {
				return usageError{fmt.Errorf("--times %v, --over %v: want more than 0", times, over)}
			}
			cells, err := readCells(o.cells)
			if err != nil {
				return err
			}
			loads, err := loadsOf(cmd.Context(), cells, over)
			if err != nil {
				return err
			}
			r := reserveReport{Times: times, Loads: loads, Losses: drain.WithoutEach(loads, times)}
			if o.json {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = r.print(cmd.OutOrStdout())
			}
			if n := r.short(); err == nil && n > 0 {
				err = fmt.Errorf("of %d cells the others are not known to have room for the load", n)
			}
			return err
		},
	}
	o.cellsFlag(cmd)
	cmd.Flags().Float64Var(&times, "times", 1, "judge loads that are so many times what they are now")
	cmd.Flags().DurationVar(&over, "over", reserveLook, "the time over which loads are taken")
	cmd.Flags().BoolVar(&o.json, "json", false, "print one JSON object")
	return cmd
}

// loadsOf looks at the cells that are not drained: the others take nothing, and have no room until somebody brings them back.
func loadsOf(ctx context.Context, cells []drain.Cell, over time.Duration) ([]drain.Load, error) {
	var there []drain.Cell
	for i := range cells {
		s, err := drain.Read(ctx, &cells[i])
		if err != nil {
			return nil, err
		}
		if !s.Drained {
			there = append(there, cells[i])
		}
	}
	return drain.Loads(ctx, there, cell.Scrape, over)
}

// checkRoom fails where the other cells of the jurisdiction are known not to have room, or where only some of them say what they can take.
func (o *cellOptions) checkRoom(cmd *cobra.Command, cells []drain.Cell, c *drain.Cell) error {
	if o.althoughFull || !slices.ContainsFunc(cells, func(other drain.Cell) bool {
		return other.Name != c.Name && other.Jurisdiction == c.Jurisdiction && other.Capacity.EventsPerSecond > 0
	}) {
		return nil
	}
	loads, err := loadsOf(cmd.Context(), slices.DeleteFunc(slices.Clone(cells), func(other drain.Cell) bool { return other.Jurisdiction != c.Jurisdiction }), reserveLook)
	if err != nil {
		return err
	}
	for _, l := range drain.WithoutEach(loads, 1) {
		if l.Cell == c.Name && l.Problem != "" {
			return fmt.Errorf("draining %s: %s", c.Name, l.Problem)
		}
	}
	return nil
}

type reserveReport struct {
	Times  float64
	Loads  []drain.Load
	Losses []drain.Loss
}

// short is the number of cells that cannot be lost.
func (r *reserveReport) short() (n int) {
	for _, l := range r.Losses {
		if l.Problem != "" {
			n++
		}
	}
	return n
}

func (r *reserveReport) print(out io.Writer) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "cell\tjurisdiction\tevents/s now\tcan take\twithout it\tthe others have room for") // a Builder takes everything
	known := func(n float64, ok bool) string {
		if !ok {
			return "-"
		}
		return fmt.Sprintf("%.0f", n)
	}
	for i, l := range r.Loads {
		loss := r.Losses[i]
		verdict := "enough"
		if loss.Problem != "" {
			verdict = "NOT ENOUGH: " + oneLine(loss.Problem)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.0f\n", l.Cell, l.Jurisdiction, known(l.Events, l.Error == ""), known(l.Capacity, l.Capacity > 0), verdict, loss.Room)
	}
	_ = w.Flush()
	_, err := io.WriteString(out, b.String())
	return err
}
