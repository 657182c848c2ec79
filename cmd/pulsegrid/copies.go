package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
)

const copiesUsage = "share of copies of a signal, in percent, above which there is a warning"

// writeCopies writes the table of copies by signal, an example or more of each rule, and the warnings.
func writeCopies(w io.Writer, copies []certificate.SignalCopies, limit float64) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "signal\tevents\tcopies\tshare\tby rule") // a strings.Builder does not fail
	var examples, warnings []string
	for _, c := range copies {
		var by []string
		for _, r := range c.Rules {
			text := fmt.Sprintf("%s %d", r.Rule, r.Copies)
			if r.Apart > 0 {
				text += fmt.Sprintf(" (%d apart)", r.Apart)
			}
			by = append(by, text)
			for _, e := range r.Examples {
				kind := "of a repeated request"
				if e.Apart {
					kind = "apart"
				}
				examples = append(examples, fmt.Sprintf("%s, rule %s, %s: %s", c.Signal, r.Rule, kind, oneLine(e.String())))
			}
		}
		if by == nil {
			by = []string{"-"}
		}
		_, _ = fmt.Fprintf(tw, "%s\t%d\t%d\t%.2f %%\t%s\n", c.Signal, c.Events, c.Copies, c.Percent(), strings.Join(by, ", "))
		if text := c.Warning(limit); text != "" {
			warnings = append(warnings, "WARNING: "+text)
		}
	}
	_ = tw.Flush()
	for _, e := range examples {
		fmt.Fprintf(&b, "  %s\n", e)
	}
	for _, text := range warnings {
		fmt.Fprintln(&b, text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
