package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/rehearsal"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/wholefile"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

const (
	defaultRehearsed   = "1h"
	defaultRefuseAbove = "1%"
	// rehearsalListed is how many sources of a tenant, and how many tenants, the text of a report lists.
	rehearsalListed = 20
)

type rehearsalOptions struct {
	stores            storesOptions
	current, proposed string
	from, to          string
	tenant, tenants   string
	gateway           []string
	strict            bool
	refuseAbove       string
	reports           string
	json, quiet       bool
}

func newRehearsal() *cobra.Command {
	var o rehearsalOptions
	cmd := &cobra.Command{
		Use:   "rehearsal",
		Short: "Try a version of the schema registry on real traffic of the lake",
		Long: `Hold the events that the lake has of a time against two versions of the schema registry: the one in force and a proposed one. It says what of each tenant's traffic would
violate what, by service and schema, beside what does so now; what of the quarantine of that time would be accepted; and which attributes want columns. It is the
gateways' own check, event by event, with the time at which each was received, and it changes nothing.

It fails where more than --refuse-above of a tenant's events in the lake would violate the proposed version: enforced, it would put them in quarantine.

A row is the event but for what docs/runbooks/rehearsal.md lists. Copies are not in the lake, and nor is what the gateways refused. Rows of backfills are left out: no gateway checks
them. Each tenant's policy comes from the registry of tenants (--tenants); without it --gateway's or --strict holds for all.

Exit codes: 0 no tenant is above the bound; 1 one is, or not all could be checked, or there was nothing to check; 2 wrong command line; 3 no cell is running.`,
		Example: `  pulsegrid local                                   # in another terminal
  pulsegrid job run rehearsal --current schemas/ --proposed proposed/ --from 24h
  pulsegrid job run rehearsal --current schemas/ --proposed proposed/ --tenant acme --refuse-above 0.1% --json
  pulsegrid job run rehearsal --config aggregator.yaml --gateway gateway.yaml --tenants tenants/ --current schemas/ --proposed proposed/`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRehearsal(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.current, "current", "", "the registry in force: a directory or s3://BUCKET/PREFIX?region=REGION; one without schemas is a file that says groups: [] (required)")
	f.StringVar(&o.proposed, "proposed", "", "the proposed registry, likewise (required)")
	f.StringVar(&o.from, "from", defaultRehearsed, "only events received since: RFC 3339, or a duration ago such as 2h")
	f.StringVar(&o.to, "to", "now", "only events received before: RFC 3339, a duration ago, or now")
	f.StringVar(&o.tenant, "tenant", "", "only this tenant (default: all)")
	f.StringVar(&o.tenants, "tenants", "", "the registry of tenants, for each one's policy: a directory or s3://BUCKET/PREFIX?region=REGION")
	f.StringArrayVar(&o.gateway, "gateway", nil, gatewayHelp)
	f.BoolVar(&o.strict, "strict", false, "attributes that a schema does not name are violations, where a tenant's policy does not say")
	f.StringVar(&o.refuseAbove, "refuse-above", defaultRefuseAbove, "fail where a larger share of a tenant's events would violate the proposed version; 0% to 100%")
	f.StringVar(&o.reports, "reports", "", "directory to which the report is written as JSON too, as CURRENT-PROPOSED.json, the two versions; with --tenant, as CURRENT-PROPOSED.TENANT.json")
	f.BoolVar(&o.json, "json", false, "print the report as JSON, with every source")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	o.stores.flags(cmd, "configuration of the aggregators that fill the lake; may be repeated, as for the Collector (default: the local cell's)")
	return cmd
}

// asked is what the flags ask for, but the lake, and the bound in percent.
func (o *rehearsalOptions) asked(ctx context.Context, now time.Time) (c rehearsal.Config, percent float64, err error) {
	wrong := func(flag, format string, args ...any) (rehearsal.Config, float64, error) {
		return c, 0, usageError{fmt.Errorf("--%s: %w", flag, fmt.Errorf(format, args...))}
	}
	if percent, err = rehearsal.ParsePercent(o.refuseAbove); err != nil {
		return wrong("refuse-above", "%w", err)
	}
	if o.current == "" {
		return wrong("current", "name the registry in force")
	}
	if o.proposed == "" {
		return wrong("proposed", "name the proposed registry")
	}
	if c.From, err = parseTime(o.from, now); err != nil {
		return wrong("from", "%w", err)
	}
	if c.To, err = parseTime(o.to, now); err != nil {
		return wrong("to", "%w", err)
	}
	if c.From.IsZero() || !c.From.Before(c.To) {
		return wrong("to", "%q is not after --from", o.to)
	}
	if c.Tenant = o.tenant; c.Tenant != "" && !tenant.ValidID(c.Tenant) {
		return wrong("tenant", "%q is not a tenant id: "+tenant.WantID, o.tenant)
	}
	validation, err := validationConfig(ctx, o.gateway)
	if err != nil {
		return c, 0, err
	}
	current, err := loadRegistry(ctx, "--current", o.current)
	if err != nil {
		return c, 0, err
	}
	proposed, err := loadRegistry(ctx, "--proposed", o.proposed)
	if err != nil {
		return c, 0, err
	}
	c.Current, c.Proposed = schema.NewChecker(current, validation.Limits), schema.NewChecker(proposed, validation.Limits)
	policy := validation.Policy
	if o.strict {
		policy.Unknown = schema.Strict
	}
	c.Policy = func(string) schema.Policy { return policy }
	if o.tenants == "" {
		return c, percent, nil
	}
	tenants, err := loadTenants(ctx, o.tenants)
	if err != nil {
		return c, 0, err
	}
	c.Policy = func(id string) schema.Policy {
		p := policy
		if t := tenants.Tenant(id); t != nil {
			if t.Schema.Mode != "" {
				p.Mode = t.Schema.Mode
			}
			if t.Schema.Unknown != "" {
				p.Unknown = t.Schema.Unknown
			}
		}
		return p
	}
	return c, percent, nil
}

// loadTenants refuses a registry of which a file is at fault: its tenants would be checked by another policy than theirs.
func loadTenants(ctx context.Context, location string) (_ *tenant.Snapshot, err error) {
	source, err := fileset.Open(ctx, location)
	if err != nil {
		return nil, usageError{fmt.Errorf("--tenants: %w", err)}
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	l := tenant.NewLoader(source)
	report, err := l.Reload(ctx)
	if err != nil {
		return nil, fmt.Errorf("--tenants: %w", err)
	}
	if len(report.Refused) > 0 {
		return nil, fmt.Errorf("--tenants %s: %w", location, report.Refused[0])
	}
	return l.Snapshot(), nil
}

func runRehearsal(cmd *cobra.Command, o rehearsalOptions) error {
	ctx := cmd.Context()
	c, percent, err := o.asked(ctx, time.Now())
	if err != nil {
		return err
	}
	pipes, err := o.stores.pipelines(cmd)
	if err != nil {
		return err
	}
	if pipes.lake == nil {
		return usageError{errors.New("--config: the configuration has no lake: want an exporter iceberg with rows: events")}
	}
	lake, err := stored.OpenLake(ctx, storedLake(pipes.lake))
	if err != nil {
		return err
	}
	defer lake.Close()
	c.Lake = lake
	if !o.quiet {
		c.Progress = o.progress(cmd.ErrOrStderr())
	}
	began := time.Now()
	report, err := rehearsal.Run(ctx, c)
	switch {
	case ctx.Err() != nil:
		return errors.New("stopped: nothing was changed")
	case err != nil:
		return err
	}
	if o.json {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = printRehearsal(cmd.OutOrStdout(), &report, time.Since(began))
	}
	if err == nil && o.reports != "" {
		err = writeRehearsal(o.reports, &report)
	}
	if err != nil {
		return err
	}
	if err := report.Verdict(percent); err != nil {
		end := endError{error: errors.New(oneLine(err.Error())), state: orchestration.StateIncomplete} // it quotes rows
		if len(report.Above(percent)) > 0 {
			end.state = orchestration.StateRejected
		}
		return end
	}
	return nil
}

// writeRehearsal keeps a report for a rollout's plan to name. One of the same versions takes the place of the one before.
func writeRehearsal(dir string, r *rehearsal.Report) error {
	name := cmp.Or(r.Current.Version, "empty") + "-" + cmp.Or(r.Proposed.Version, "empty")
	if r.Tenant != "" {
		name += "." + url.PathEscape(r.Tenant)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = wholefile.Write(filepath.Join(dir, name+".json"), append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("--reports: %w", err)
	}
	return nil
}

// progress tells how far it is: on each table, and then every jobLine.
func (o *rehearsalOptions) progress(w io.Writer) func(rehearsal.Progress) {
	var last time.Time
	began := time.Now()
	rows, table := int64(0), ""
	return func(p rehearsal.Progress) {
		if p.Table != table {
			table, rows, began = p.Table, 0, time.Now()
		} else if time.Since(last) < jobLine {
			return
		}
		last = time.Now()
		rate := float64(p.Rows-rows) / max(time.Since(began).Seconds(), 0.001)
		_, _ = fmt.Fprintf(w, "%s: %d of %d rows  %.0f rows/s\n", p.Table, p.Rows, p.Of, rate) // nobody may be listening
	}
}

func printRehearsal(w io.Writer, r *rehearsal.Report, took time.Duration) error {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%d events received from %s to %s, in %s: registry %s with %d schemas now, %s with %d schemas proposed\n", r.Events, r.From.Format(time.RFC3339), r.To.Format(time.RFC3339),
		took.Round(100*time.Millisecond), cmp.Or(r.Current.Version, "(empty)"), r.Current.Schemas, cmp.Or(r.Proposed.Version, "(empty)"), r.Proposed.Schemas)
	table := func(head string) (row func(format string, args ...any), end func()) {
		tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(tw, head)
		return func(format string, args ...any) { _, _ = fmt.Fprintf(tw, format+"\n", args...) }, func() { _ = tw.Flush() } // a strings.Builder does not fail
	}
	listed := r.Tenants[:min(len(r.Tenants), rehearsalListed)]
	if len(listed) > 0 {
		row, end := table("tenant\tmode\tevents\tviolate now\tproposed\tnewly\tno longer\tKB proposed\tunchecked")
		for _, t := range listed {
			row("%s\t%s\t%d\t%s\t%s\t%d\t%d\t%d of %d\t%d", oneLine(t.Tenant), t.Mode, t.Events, outcome(t.Current), outcome(t.Proposed), t.Newly, t.NoLonger, t.Proposed.Bytes>>10, t.Bytes>>10, t.Unchecked)
		}
		end()
	}
	moreThan(&b, len(r.Tenants)-len(listed), "tenants")
	for _, t := range listed {
		if len(t.Sources) == 0 {
			continue
		}
		_, _ = fmt.Fprintf(&b, "\nviolations of tenant %s\n", oneLine(t.Tenant))
		sources := t.Sources[:min(len(t.Sources), rehearsalListed)]
		row, end := table("now\tproposed\tsignal\tservice\tschema\tcode\tat")
		for _, s := range sources {
			row("%d\t%d\t%s\t%s\t%s\t%s\t%s", s.Current, s.Proposed, s.Signal, oneLine(s.Service), oneLine(s.Schema), s.Code, oneLine(s.Path))
		}
		end()
		moreThan(&b, len(t.Sources)-len(sources), "sources")
	}
	rehearsedQuarantine(&b, listed, table)
	if len(r.NewColumns) > 0 {
		b.WriteString("\nattributes that want columns\n")
		row, end := table("signal\tattribute\ttype\tcolumn\tevents\tbytes")
		for _, c := range r.NewColumns {
			row("%s\t%s\t%s\t%s\t%d\t%d", c.Signal, oneLine(c.Attribute), c.Type, c.Column, c.Events, c.Bytes)
		}
		end()
	}
	if r.JobRows > 0 {
		_, _ = fmt.Fprintf(&b, "\n%d rows of backfills were left out\n", r.JobRows)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// rehearsedQuarantine tells what would become of what is in quarantine.
func rehearsedQuarantine(b *strings.Builder, tenants []rehearsal.Tenant, table func(string) (func(string, ...any), func())) {
	tenants = slices.DeleteFunc(slices.Clone(tenants), func(t rehearsal.Tenant) bool { return t.Quarantine.Items == 0 })
	if len(tenants) == 0 {
		return
	}
	b.WriteString("\nquarantine of that time\n")
	row, end := table("tenant\titems\tevents\taccepted now\tproposed\titems not checked")
	for _, t := range tenants {
		q := t.Quarantine
		var not []string
		for _, why := range slices.Sorted(maps.Keys(q.NotChecked)) {
			not = append(not, fmt.Sprintf("%d: %s", q.NotChecked[why], why))
		}
		row("%s\t%d\t%d\t%d\t%d\t%s", oneLine(t.Tenant), q.Items, q.Events, q.AcceptedCurrent, q.AcceptedProposed, strings.Join(not, "; "))
	}
	end()
}

func outcome(o rehearsal.Outcome) string { return fmt.Sprintf("%d (%.2f%%)", o.Violating, o.Percent) }

// moreThan tells that a list has been cut.
func moreThan(b *strings.Builder, left int, what string) {
	if left > 0 {
		_, _ = fmt.Fprintf(b, "(%d further %s are left out; --json has all)\n", left, what)
	}
}
