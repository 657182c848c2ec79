package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
)

// progressInterval is the least time between two lines of progress.
const progressInterval = 5 * time.Second

// progressTo writes a line now and then.
func progressTo(w io.Writer) func(audit.Progress) {
	last := time.Now() // a short audit says nothing
	return func(p audit.Progress) {
		if time.Since(last) < progressInterval {
			return
		}
		last = time.Now()
		line := p.Step + ", topic " + p.Topic
		if p.Last > 0 {
			line += fmt.Sprintf(", partition %d, offset %d of %d", p.Partition, p.Offset, p.Last)
		}
		_, _ = fmt.Fprintf(w, "%s: %d events counted, %d rows read\n", line, p.Events, p.Rows) // nobody may be listening
	}
}

// printCertificate prints c as its file holds it.
func printCertificate(w io.Writer, c *certificate.Certificate) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(true) // as the file, whose hash it is
	return enc.Encode(c)
}

var verdicts = map[certificate.Verdict]string{
	certificate.Equal:      "equal: each event is in each store once, as it was sent",
	certificate.Different:  "DIFFERENT: the stores do not hold what Kafka holds",
	certificate.Incomplete: "INCOMPLETE: no difference found, but not all could be audited",
}

func printAudit(w io.Writer, c *certificate.Certificate, dir string) error {
	var b strings.Builder
	table := func(rows ...[]any) {
		tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
		for _, r := range rows {
			for _, cell := range r {
				_, _ = fmt.Fprint(tw, cell, "\t") // a strings.Builder does not fail
			}
			_, _ = fmt.Fprintln(tw)
		}
		_ = tw.Flush()
		b.WriteByte('\n')
	}
	verdict := verdicts[c.Verdict]
	if c.Verdict == certificate.Equal && c.Asked.Quick {
		verdict = "equal: each event is in each store once (places and ids; the content was not compared)"
	}
	if n := erasedOf(c); c.Verdict == certificate.Equal && n > 0 {
		verdict += fmt.Sprintf("; %d rows are missing as declared", n)
	}
	fmt.Fprintf(&b, "%s\n\n", verdict)
	rows := [][]any{{"topic", "partition", "offsets", "records", "events", "duplicates", "quarantined"}}
	for _, p := range c.Partitions {
		if p.Last >= p.First || p.Stores[0].Foreign > 0 {
			rows = append(rows, []any{p.Topic, p.Partition, fmt.Sprintf("%d-%d", p.First, p.Last), p.Records, p.Events, p.Duplicates, p.Quarantined})
		}
	}
	table(rows...)
	rows = [][]any{{"store", "expected", "rows", "lost", "doubled", "altered", "foreign", "undecidable", "erased", "former topic", "ledger faults"}}
	for _, t := range c.Totals {
		rows = append(rows, []any{t.Store, t.Expected, t.Rows, t.Lost, t.Doubled, t.Altered, t.Foreign, t.Undecidable, t.Erased, t.Former, t.LedgerFaults})
	}
	table(rows...)
	b.WriteString("Copies in Kafka (apart: in records that do not repeat a whole request)\n")
	if err := writeCopies(&b, c.Copies, c.Asked.Copies); err != nil {
		return err
	}
	b.WriteByte('\n')
	if len(c.Erasures) > 0 {
		rows = [][]any{{"erasure", "tenant", "at", "by", "reason", "missing"}}
		for _, e := range c.Erasures {
			of := e.Tenant
			if e.Attribute != "" {
				of += " by " + e.Attribute
			}
			rows = append(rows, []any{oneLine(e.ID), oneLine(of), e.At.Format(time.RFC3339), oneLine(e.By), oneLine(e.Reason), missing(e)})
		}
		table(rows...)
	}
	if len(c.Rollups) > 0 {
		rows = [][]any{{"rollup", "groups", "wrong"}}
		for _, r := range c.Rollups {
			rows = append(rows, []any{r.Table, r.Groups, r.Wrong})
		}
		table(rows...)
	}
	list(&b, "Ranges that differ", c.Stretches)
	list(&b, "Events that differ", c.Differences)
	list(&b, "Ledger", c.LedgerFaults)
	for _, r := range c.Rollups {
		list(&b, "Rollup "+r.Table, r.Shown)
	}
	list(&b, "Could not be audited", c.Problems)
	list(&b, "Note", c.Notes)
	if dir != "" {
		fmt.Fprintf(&b, "certificate %s in %s\n", c.SHA256, dir)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// erasedOf counts the rows that are missing because they were erased as declared.
func erasedOf(c *certificate.Certificate) (n int64) {
	for _, t := range c.Totals {
		n += t.Erased
	}
	return n
}

// missing says how many events an erasure explains, by store.
func missing(e certificate.ErasureResult) string {
	var parts []string
	for _, store := range slices.Sorted(maps.Keys(e.Events)) {
		parts = append(parts, fmt.Sprintf("%s %d", store, e.Events[store]))
	}
	return strings.Join(parts, ", ")
}

func list[T any](b *strings.Builder, title string, items []T) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintf(b, "%s:\n", title)
	for _, i := range items {
		fmt.Fprintf(b, "  %v\n", i)
	}
	b.WriteByte('\n')
}
