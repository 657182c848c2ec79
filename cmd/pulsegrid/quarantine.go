package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

type quarantineOptions struct {
	reach
	topic                string
	tenant, signal, code string
	since                time.Duration
	limit                int
	json, personal       bool
}

func newQuarantine() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "Look into the quarantine, and mend what is in it",
		Long: `Look into the quarantine topic: what the gateway or a store refused, why, and the bytes as they were; and mend it. It reads without a consumer
group, so it takes nothing from anybody. Codes: docs/formats/verdicts.md.`,
		Example: `  pulsegrid quarantine stats
  pulsegrid quarantine list --tenant acme --code attribute_missing --since 1h
  pulsegrid quarantine show 0/42
  pulsegrid quarantine repair rules.yaml --schemas schemas/`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newQuarantineList(), newQuarantineShow(), newQuarantineStats(), newQuarantineRepair())
	return cmd
}

// common adds the flags of all of them.
func (o *quarantineOptions) common(cmd *cobra.Command) {
	o.kafkaFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.topic, "topic", signal.QuarantineTopic, "the quarantine topic")
	f.BoolVar(&o.json, "json", false, "one JSON object a line")
}

// filter adds the flags that choose items.
func (o *quarantineOptions) filter(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.tenant, "tenant", "", "only this tenant")
	f.StringVar(&o.signal, "signal", "", "only traces, metrics or logs")
	f.StringVar(&o.code, "code", "", "only items with this code, in any of their verdicts")
	f.DurationVar(&o.since, "since", 0, "only what went to quarantine so long ago or less; 0: all that the topic keeps")
}

func newQuarantineList() *cobra.Command {
	var o quarantineOptions
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List items, one line each, oldest first within a partition",
		Example: "  pulsegrid quarantine list --tenant acme --since 1h",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := cmd.OutOrStdout()
			printed := 0
			return o.each(cmd.Context(), func(i quarantine.Item) error {
				if err := o.line(w, i); err != nil {
					return err
				}
				if printed++; printed == o.limit {
					return quarantine.ErrStop
				}
				return nil
			})
		},
	}
	o.common(cmd)
	o.filter(cmd)
	cmd.Flags().IntVar(&o.limit, "limit", 1000, "end after this many items; 0: never")
	return cmd
}

func newQuarantineShow() *cobra.Command {
	var o quarantineOptions
	cmd := &cobra.Command{
		Use:   "show PLACE",
		Short: "Show one item with every verdict and its events",
		Long: `Show one item with every verdict and its events as OTLP/JSON; a body that is not OTLP is shown as text or base64.
Events that a schema marks as personal data are only shown with --personal-data.`,
		Example: "  pulsegrid quarantine show 0/42\n  pulsegrid quarantine show 0/42 --json | jq .findings",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one place: PARTITION/OFFSET, as `pulsegrid quarantine list` prints it")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			partition, offset, err := quarantine.ParsePlace(args[0])
			if err != nil {
				return usageError{err}
			}
			client, err := o.kafkaClient(cmd.Context())
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), showTimeout)
			defer cancel()
			item, err := quarantine.Get(ctx, client, o.topic, partition, offset)
			if err != nil {
				return fmt.Errorf("%w (is there a place %s? `pulsegrid quarantine list` tells)", err, args[0])
			}
			return o.show(cmd.OutOrStdout(), item)
		},
	}
	o.common(cmd)
	cmd.Flags().BoolVar(&o.personal, "personal-data", false, "also show events that a schema marks as personal data")
	return cmd
}

// showTimeout bounds the wait for one record.
const showTimeout = 15 * time.Second

func newQuarantineStats() *cobra.Command {
	var o quarantineOptions
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Count items by tenant, code, path and schema, with when they were first and last seen",
		Long: `Count what is in quarantine by tenant, signal, code, path and schema, most first. An item of several events counts once for each
verdict of each event, so that the lines say what to mend.`,
		Example: "  pulsegrid quarantine stats --since 24h",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.stats(cmd.Context(), cmd.OutOrStdout()) },
	}
	o.common(cmd)
	o.filter(cmd)
	return cmd
}

// each calls do for every item that the flags choose.
func (o *quarantineOptions) each(ctx context.Context, do func(quarantine.Item) error) error {
	if o.limit < 0 {
		return usageError{fmt.Errorf("--limit %d: want 0 or more", o.limit)}
	}
	if o.since < 0 {
		return usageError{fmt.Errorf("--since %v: want 0 or more", o.since)}
	}
	if o.signal != "" {
		if _, err := signal.Parse(o.signal); err != nil {
			return usageError{fmt.Errorf("--signal: %w", err)}
		}
	}
	client, err := o.kafkaClient(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	var since time.Time
	if o.since > 0 {
		since = time.Now().Add(-o.since)
	}
	return ignoreCanceled(quarantine.Read(ctx, client, o.topic, since, func(i quarantine.Item) error {
		if !o.matches(i) {
			return nil
		}
		return do(i)
	}))
}

func (o *quarantineOptions) matches(i quarantine.Item) bool {
	if o.tenant != "" && i.Tenant != o.tenant || o.signal != "" && i.Signal != o.signal {
		return false
	}
	if o.code == "" || i.Code == o.code {
		return true
	}
	for _, f := range i.Findings {
		for _, v := range f.Verdicts {
			if string(v.Code) == o.code {
				return true
			}
		}
	}
	return false
}

// item is what --json prints.
type itemJSON struct {
	Place       string    `json:"place"`
	At          time.Time `json:"at"`
	Tenant      string    `json:"tenant"`
	Signal      string    `json:"signal,omitempty"`
	Source      string    `json:"source,omitempty"`
	Gateway     string    `json:"gateway,omitempty"`
	Received    time.Time `json:"received,omitzero"`
	Events      int       `json:"events"`
	Bytes       int       `json:"bytes"`
	ContentType string    `json:"content_type"`
	PII         bool      `json:"pii,omitempty"`
	Code        string    `json:"code"`
	Reason      string    `json:"reason"`
	Origin      string    `json:"origin,omitempty"` // topic/partition/offset
	Group       string    `json:"group,omitempty"`
	Findings    any       `json:"findings,omitempty"`
	Body        any       `json:"body,omitempty"`
}

func jsonOf(i quarantine.Item) itemJSON {
	out := itemJSON{
		Place: i.Place(), At: i.At, Tenant: i.Tenant, Signal: i.Signal, Source: i.Source, Gateway: i.Gateway, Received: i.Received, Events: i.Events,
		Bytes: len(i.Body), ContentType: i.ContentType, PII: i.PII, Code: i.Code, Reason: i.Reason, Group: i.OriginGroup,
	}
	if i.OriginTopic != "" {
		out.Origin = fmt.Sprintf("%s/%d/%d", i.OriginTopic, i.OriginPartition, i.OriginOffset)
	}
	return out
}

func (o *quarantineOptions) line(w io.Writer, i quarantine.Item) error {
	if o.json {
		return json.NewEncoder(w).Encode(jsonOf(i))
	}
	_, err := fmt.Fprintf(w, "%-10s %s  %-16s %-8s %5d events  %-24s %s\n",
		i.Place(), i.At.UTC().Format(time.DateTime), oneLine(i.Tenant), i.Signal, i.Events, i.Code, oneLine(i.Reason))
	return err
}

func (o *quarantineOptions) show(w io.Writer, i quarantine.Item) error {
	out := jsonOf(i)
	if len(i.Findings) > 0 {
		out.Findings = i.Findings
	}
	if i.PII && !o.personal {
		out.Body = "personal data: --personal-data shows it"
	} else {
		out.Body = readable(i)
	}
	enc := json.NewEncoder(w)
	if !o.json {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(out)
}

// readable is the body as OTLP/JSON, as text, or as base64.
func readable(i quarantine.Item) any {
	if i.ContentType == envelope.TypeOTLP && i.ContentEncoding == "" {
		if b := otlpJSON(i); b != nil {
			return json.RawMessage(b)
		}
	}
	if utf8.Valid(i.Body) {
		return string(i.Body)
	}
	return map[string]string{"$bytes": base64.StdEncoding.EncodeToString(i.Body)}
}

func otlpJSON(i quarantine.Item) []byte {
	s, err := signal.Parse(i.Signal)
	if err != nil {
		return nil
	}
	var b []byte
	switch s {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		if err = req.UnmarshalProto(i.Body); err == nil {
			b, err = req.MarshalJSON()
		}
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err = req.UnmarshalProto(i.Body); err == nil {
			b, err = req.MarshalJSON()
		}
	case signal.Traces:
		req := ptraceotlp.NewExportRequest()
		if err = req.UnmarshalProto(i.Body); err == nil {
			b, err = req.MarshalJSON()
		}
	}
	if err != nil {
		return nil // undecodable is one of the reasons for being here
	}
	return b
}

// reason is one line of the statistics.
type reason struct {
	Tenant string `json:"tenant"`
	Signal string `json:"signal,omitempty"`
	Code   string `json:"code"`
	Path   string `json:"path,omitempty"`
	Schema string `json:"schema,omitempty"`
}

type seen struct {
	reason
	Count int       `json:"count"`
	First time.Time `json:"first_seen"`
	Last  time.Time `json:"last_seen"`
	Place string    `json:"example"` // of the last one
}

// maxReasons bounds the memory of the statistics; what comes beyond is counted under the code alone.
const maxReasons = 10_000

func (o *quarantineOptions) stats(ctx context.Context, w io.Writer) error {
	counted := map[reason]*seen{}
	items := 0
	add := func(i quarantine.Item, r reason) {
		r.Tenant, r.Signal = i.Tenant, i.Signal
		if counted[r] == nil && len(counted) >= maxReasons {
			r = reason{Code: r.Code, Path: "(other)"}
		}
		s := counted[r]
		if s == nil {
			s = &seen{reason: r, First: i.At}
			counted[r] = s
		}
		s.Count++
		if i.At.Before(s.First) {
			s.First = i.At
		}
		if !i.At.Before(s.Last) {
			s.Last, s.Place = i.At, i.Place()
		}
	}
	err := o.each(ctx, func(i quarantine.Item) error {
		items++
		if len(i.Findings) == 0 {
			add(i, reason{Code: i.Code})
		}
		for _, f := range i.Findings {
			for _, v := range f.Verdicts {
				add(i, reason{Code: string(v.Code), Path: v.Path, Schema: strings.TrimSpace(v.Schema + " " + v.Version)})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	lines := make([]*seen, 0, len(counted))
	for _, s := range counted {
		lines = append(lines, s)
	}
	slices.SortFunc(lines, func(a, b *seen) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Path, b.Path))
	})
	if o.json {
		enc := json.NewEncoder(w)
		for _, s := range lines {
			if err := enc.Encode(s); err != nil {
				return err
			}
		}
		return nil
	}
	if items == 0 {
		_, err := fmt.Fprintln(w, "nothing is in quarantine")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(tw, "COUNT\tTENANT\tSIGNAL\tCODE\tPATH\tSCHEMA\tFIRST SEEN\tLAST SEEN\tEXAMPLE"); err != nil {
		return err
	}
	for _, s := range lines {
		if _, err := fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Count, oneLine(s.Tenant), s.Signal, s.Code, oneLine(s.Path), oneLine(s.Schema),
			s.First.UTC().Format(time.DateTime), s.Last.UTC().Format(time.DateTime), s.Place); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(tw, "\n%d items\n", items); err != nil {
		return err
	}
	return tw.Flush()
}
