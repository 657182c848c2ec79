package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/repair"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

type repairOptions struct {
	quarantineOptions
	schemas           string
	noSchemas, strict bool
	apply, dryRun     bool
	examples          int
}

func newQuarantineRepair() *cobra.Command {
	var o repairOptions
	cmd := &cobra.Command{
		Use:   "repair FILE",
		Short: "Mend what is in quarantine by rules, and send it again",
		Long: `Mend events in quarantine by the rules in FILE (docs/formats/repair.md), hold them against the schemas, and say what would become of them. With
--apply those that are valid now are sent again, to the topics of their signals, with the ids that they had.

An apply keeps a journal, the topic ` + repair.JournalTopic + `: applying twice sends nothing twice, and one that broke off goes on where it was. While one
operator applies, another one who begins stops the first. Events that are still invalid, and those that no rule is for, stay where they are.`,
		Example: `  pulsegrid quarantine repair rules.yaml --schemas schemas/           # a dry run: says what would be done
  pulsegrid quarantine repair rules.yaml --schemas schemas/ --apply`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one file of rules; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), cmd.OutOrStdout(), args[0]) },
	}
	o.common(cmd)
	f := cmd.Flags()
	f.StringVar(&o.schemas, "schemas", "", "directory or s3://BUCKET/PREFIX of the schemas that events must obey: the gateways' own")
	f.BoolVar(&o.noSchemas, "no-schemas", false, "send what a rule is for without holding it against schemas")
	f.BoolVar(&o.strict, "strict", false, "attributes that a schema does not name are violations")
	f.BoolVar(&o.apply, "apply", false, "send again what is valid now")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be done; the default")
	f.IntVar(&o.examples, "examples", 3, "events to show before and after, of each rule")
	f.BoolVar(&o.personal, "personal-data", false, "also show events that a schema marks as personal data")
	return cmd
}

func (o *repairOptions) run(ctx context.Context, w io.Writer, file string) error {
	switch {
	case o.apply && o.dryRun:
		return usageError{fmt.Errorf("--apply and --dry-run exclude each other")}
	case (o.schemas == "") == !o.noSchemas:
		return usageError{fmt.Errorf("name the schemas that events must obey with --schemas, or say --no-schemas")}
	case o.examples < 0:
		return usageError{fmt.Errorf("--examples %d: want 0 or more", o.examples)}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return usageError{err}
	}
	rules, err := repair.Parse(content)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", file, err)}
	}
	c := repair.Config{Topic: o.topic, Rules: rules, RulesFile: filepath.Base(file), Unknown: schema.Open, Apply: o.apply}
	if o.strict {
		c.Unknown = schema.Strict
	}
	if !o.noSchemas {
		registry, err := loadRegistry(ctx, "--schemas", o.schemas)
		if err != nil {
			return err
		}
		c.Checker = schema.NewChecker(registry, schema.DefaultLimits())
	}
	if c.Kafka, err = o.kafkaOpts(ctx); err != nil {
		return err
	}
	if !o.json {
		c.Each, c.Examples = o.exampler(w), o.examples
	}
	report, err := repair.Run(ctx, c)
	if o.json {
		if printed := json.NewEncoder(w).Encode(report); printed != nil {
			return printed
		}
		return err
	}
	if printed := o.print(w, report); printed != nil {
		return printed
	}
	return err
}

// exampler prints the first events of each rule, before and after.
func (o *repairOptions) exampler(w io.Writer) func(quarantine.Item, repair.Mended) {
	shown := map[string]int{}
	return func(i quarantine.Item, m repair.Mended) {
		for index, e := range m.Events {
			first := slices.IndexFunc(e.Rules, func(rule string) bool { return shown[rule] < o.examples })
			if first < 0 {
				continue
			}
			for _, rule := range e.Rules {
				shown[rule]++
			}
			before, after := oneLine(string(e.Before)), oneLine(string(e.After))
			if i.PII && !o.personal {
				before, after = "personal data: --personal-data shows it", "personal data"
			}
			state := "valid"
			if !e.Valid {
				state = "still invalid: " + e.Verdicts[0].String()
			}
			// An error of printing shows when the report is printed.
			_, _ = fmt.Fprintf(w, "%s event %d of %s (%s): %s\n  before %s\n  after  %s\n", i.Place(), index, oneLine(i.Tenant), strings.Join(e.Rules, ", "), oneLine(state), before, after)
		}
	}
}

func (o *repairOptions) print(w io.Writer, r repair.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d items, %d events in those that can be repaired\n", r.Items, r.Events)
	line := func(n int, format string, args ...any) {
		if n > 0 {
			fmt.Fprintf(&b, "%8d "+format+"\n", append([]any{n}, args...)...)
		}
	}
	if o.apply {
		line(r.Valid, "events are valid now and were sent again, in %d records", r.Records)
	} else {
		line(r.Valid, "events are valid now: --apply sends them again")
	}
	line(r.SentBefore, "events were sent again before")
	line(r.NoRule, "events have no rule")
	for _, code := range slices.Sorted(maps.Keys(r.Invalid)) {
		line(r.Invalid[code], "events are still invalid: %s", code)
	}
	for _, why := range slices.Sorted(maps.Keys(r.NotRepairable)) {
		line(r.NotRepairable[why], "items cannot be repaired: %s", why)
	}
	for _, rule := range slices.Sorted(maps.Keys(r.ByRule)) {
		line(r.ByRule[rule], "events had rule %q", rule)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
