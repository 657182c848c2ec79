package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/exporter/mskexporter"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/spill"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

const defaultSpillLateAfter = time.Hour

type spillCheckOptions struct {
	gateway   []string
	data      string
	lateAfter time.Duration
	json      bool
}

// checkedSpill is one that the gateways' configuration names.
type checkedSpill struct {
	URL string `json:"url"`
	spill.Survey
	Late []string `json:"late"` // gateways whose oldest object is older than it may be
}

func newSpillCheck() *cobra.Command {
	var o spillCheckOptions
	cmd := &cobra.Command{
		Use:   "spill-check",
		Short: "Look for objects that were left in the gateways' spill",
		Long: `List what lies in the store to which gateways spill while Kafka does not take records: what waits of each gateway and since when, and what was set aside. It
finds what no gateway's metrics tell: objects where no gateway runs any more. It changes nothing.

An object that has waited for longer than --late-after is one that nobody gives back, or Kafka does not take. Objects under bad/ are acknowledged events that are in
no store (docs/runbooks/spill.md).

Exit codes: 0 nothing was left, or the local cell does not spill; 1 something was, or the store cannot be read: the text says what; 2 wrong command line; 3 no cell is running.`,
		Example: `  pulsegrid job run spill-check
  pulsegrid job run spill-check --gateway gateway.yaml --late-after 15m`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runSpillCheck(cmd, o) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.gateway, "gateway", nil, "configuration of the gateways; may be repeated, as for the Collector (default: the local cell's)")
	f.StringVar(&o.data, "data", defaultDataDir, "data directory of the running local cell")
	f.DurationVar(&o.lateAfter, "late-after", defaultSpillLateAfter, "how old an object may become; at least 1m")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	return cmd
}

// urls are those of the spills of the gateways' exporters.
func (o *spillCheckOptions) urls(ctx context.Context) (urls []string, err error) {
	paths := o.gateway
	if len(paths) == 0 {
		state, err := cell.ReadState(o.data)
		if err != nil {
			return nil, fmt.Errorf("%w; or name the gateways' configuration with --gateway", err)
		}
		paths = []string{state.Gateway()}
	}
	conf, err := resolve(ctx, paths...)
	if err != nil {
		return nil, fmt.Errorf("--gateway: %w", err)
	}
	p, f := &pipelines{conf: conf}, mskexporter.NewFactory()
	ids := p.ids("exporters", f.Type().String())
	if len(ids) == 0 {
		return nil, usageError{fmt.Errorf("--gateway: the configuration has no exporter %s", f.Type())}
	}
	seen := map[string]bool{}
	for _, id := range ids {
		cfg := f.CreateDefaultConfig().(*mskexporter.Config)
		if err := p.configure("exporters", id, cfg); err != nil {
			return nil, fmt.Errorf("--gateway: %w", err)
		}
		if at := cfg.Spill.URL; at != "" && !seen[at] {
			seen[at] = true
			urls = append(urls, at)
		}
	}
	return urls, nil
}

func runSpillCheck(cmd *cobra.Command, o spillCheckOptions) error {
	ctx := cmd.Context()
	if o.lateAfter < time.Minute {
		return usageError{fmt.Errorf("--late-after: %v: want at least 1m", o.lateAfter)}
	}
	urls, err := o.urls(ctx)
	if err != nil {
		return err
	}
	if len(urls) == 0 && len(o.gateway) > 0 { // more often than not a variable is missing
		return endError{error: errors.New("--gateway: the configuration, with the variables of this process, has no spill::url: nothing was looked at"), state: orchestration.StateIncomplete}
	}
	checked, left := []checkedSpill{}, []string{}
	for _, at := range urls {
		s, err := o.look(ctx, at, time.Now())
		if err != nil {
			return err
		}
		if n := len(s.Late); n > 0 {
			left = append(left, fmt.Sprintf("objects of %d gateways have waited for longer than %v", n, o.lateAfter))
		}
		if s.More > 0 {
			left = append(left, fmt.Sprintf("there are more gateways than are looked at: %d objects of these", s.More))
		}
		if s.Asides > 0 {
			left = append(left, fmt.Sprintf("%d objects lie under bad/", s.Asides))
		}
		checked = append(checked, s)
	}
	if o.json {
		err = printJSON(cmd.OutOrStdout(), checked)
	} else {
		err = printSpills(cmd.OutOrStdout(), checked)
	}
	if err == nil && len(left) > 0 {
		err = endError{error: errors.New(strings.Join(left, "; ")), state: orchestration.StateDiffers}
	}
	return err
}

// look looks at one spill.
func (o *spillCheckOptions) look(ctx context.Context, at string, now time.Time) (s checkedSpill, err error) {
	s = checkedSpill{URL: redacted(at), Late: []string{}}
	b, err := openObjects(ctx, at)
	if err != nil {
		return s, fmt.Errorf("spill %s: %w", s.URL, err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if s.Survey, err = spill.Look(ctx, b); err != nil {
		return s, fmt.Errorf("spill %s: %w", s.URL, err)
	}
	for _, g := range s.Gateways {
		if now.Sub(g.Oldest) > o.lateAfter {
			s.Late = append(s.Late, g.Gateway)
		}
	}
	return s, nil
}

func printSpills(w io.Writer, checked []checkedSpill) error {
	var b strings.Builder
	if len(checked) == 0 {
		b.WriteString("the local cell does not spill\n")
	}
	for _, s := range checked {
		_, _ = fmt.Fprintf(&b, "spill %s\n", printable(s.URL))
		if len(s.Gateways) == 0 {
			b.WriteString("nothing waits\n")
		} else {
			tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(tw, "gateway\tobjects\tbytes\toldest\tgiven back last by")
			for _, g := range s.Gateways {
				by := "-"
				if g.Holder != "" {
					by = printable(g.Holder) + " " + g.Renewed.UTC().Format(time.RFC3339)
				}
				_, _ = fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%s\n", printable(g.Gateway), g.Objects, g.Bytes, g.Oldest.UTC().Format(time.RFC3339), by)
			}
			_ = tw.Flush() // a strings.Builder does not fail
		}
		moreThan(&b, s.More, "objects of further gateways")
		for _, name := range s.Aside {
			_, _ = fmt.Fprintf(&b, "set aside: %s\n", printable(name))
		}
		moreThan(&b, s.Asides-len(s.Aside), "objects under bad/")
		for _, name := range s.Foreign {
			_, _ = fmt.Fprintf(&b, "written by no gateway: %s\n", printable(name))
		}
		moreThan(&b, s.Foreigns-len(s.Foreign), "objects that no gateway has written")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
