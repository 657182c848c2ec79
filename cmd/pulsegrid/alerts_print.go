package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/alerting"
)

func printEpisodes(w io.Writer, episodes []alerting.Episode, rules int, from, to time.Time) error {
	moment := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.UTC().Format(time.RFC3339)
	}
	fired := 0
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(episodes) > 0 {
		_, _ = fmt.Fprintln(tw, "rule\tpending\tfiring\tended\tgreatest value\tlabels") // Flush tells
	}
	for _, e := range episodes {
		if !e.Firing.IsZero() {
			fired++
		}
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(e.Labels)) {
			if name != "alertname" {
				labels = append(labels, name+"="+printable(e.Labels[name]))
			}
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%.4g\t%s\n", e.Rule, moment(e.Pending), moment(e.Firing), moment(e.Ended), float64(e.Most), strings.Join(labels, " "))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d rules from %s to %s: %d alerts would have fired, %d were pending only\n", rules, moment(from), moment(to), fired, len(episodes)-fired)
	return err
}
