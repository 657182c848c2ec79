package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/processor/schemavalidationprocessor"
)

func newSchema() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Compare versions of the schema registry",
		Long: `Compare versions of the registry of schemas before one is pushed to the gateways. docs/formats/schemas.md describes the files. What a version would do to real traffic
says "pulsegrid job run rehearsal".`,
		Example: "  pulsegrid schema diff schemas/ proposed/",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSchemaDiff())
	return cmd
}

const gatewayHelp = "configuration of the gateways, for their limits and policy of schemas; may be repeated, as for the Collector (default: the processor's own)"

func newSchemaDiff() *cobra.Command {
	var gateway []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say how a version of the registry differs, and whether it refuses what the old one accepts",
		Long: `Say how the registry at NEW differs from the one at OLD, each a directory or s3://BUCKET/PREFIX?region=REGION: what is added, removed, narrowed and widened, schema by schema.

A change is breaking where NEW may refuse an event that OLD accepts, whether anybody sends such an event or not; all others are compatible. So a new schema for events that had
none is breaking, and so is a new attribute of a schema that allows unknown ones: it was accepted unseen. "pulsegrid job run rehearsal" counts what a breaking change would refuse.

Exit codes: 0 every change is compatible; 1 a change is breaking, or a registry cannot be read; 2 wrong command line.`,
		Example: "  pulsegrid schema diff schemas/ proposed/\n  pulsegrid schema diff 's3://registry/schemas?region=eu-central-1' proposed/ --json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError{fmt.Errorf("name two registries, the old one and the new one; see `%s --help`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return diffSchemas(cmd.Context(), cmd.OutOrStdout(), args[0], args[1], gateway, asJSON)
		},
	}
	cmd.Flags().StringArrayVar(&gateway, "gateway", nil, gatewayHelp)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the changes as JSON")
	return cmd
}

// schemaDiff is what --json prints.
type schemaDiff struct {
	Old        string          `json:"old"` // versions
	New        string          `json:"new"`
	Compatible bool            `json:"compatible"`
	Changes    []schema.Change `json:"changes"`
}

func diffSchemas(ctx context.Context, w io.Writer, from, to string, gateway []string, asJSON bool) error {
	validation, err := validationConfig(ctx, gateway)
	if err != nil {
		return err
	}
	before, err := loadRegistry(ctx, "OLD", from)
	if err != nil {
		return err
	}
	after, err := loadRegistry(ctx, "NEW", to)
	if err != nil {
		return err
	}
	d := schemaDiff{Old: before.Version(), New: after.Version(), Compatible: true, Changes: schema.Diff(before, after, validation.Limits)}
	breaking := 0
	for _, c := range d.Changes {
		if c.Breaking {
			breaking++
		}
	}
	d.Compatible = breaking == 0
	if asJSON {
		err = printJSON(w, d)
	} else {
		_, err = io.WriteString(w, d.text(breaking))
	}
	if err == nil && breaking > 0 {
		err = fmt.Errorf("%d of %d changes are breaking", breaking, len(d.Changes))
	}
	return err
}

func (d *schemaDiff) text(breaking int) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "registry %s is the old one, %s the new one: %d changes, %d of them breaking\n", d.Old, d.New, len(d.Changes), breaking)
	at := ""
	for _, c := range d.Changes {
		if schema := c.Kind + " " + c.Name + " (" + c.Schema + ")"; schema != at {
			at = schema
			_, _ = fmt.Fprintln(&b, oneLine(schema))
		}
		mark := "compatible"
		if c.Breaking {
			mark = "BREAKING"
		}
		_, _ = fmt.Fprintf(&b, "  %-10s  %-8s  %s\n", mark, c.Effect, oneLine(c.Text))
	}
	return b.String()
}

// loadRegistry refuses schemas of which a file is at fault: an event must not pass because its schema is missing. what names the flag or argument.
func loadRegistry(ctx context.Context, what, location string) (_ *schema.Registry, err error) {
	source, err := fileset.OpenTree(ctx, location)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", what, err)}
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	l := schema.NewLoader(source)
	report, err := l.Reload(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(report.Refused) > 0 {
		return nil, fmt.Errorf("%s %s: %w", what, location, report.Refused[0])
	}
	if report.Files == 0 {
		return nil, usageError{fmt.Errorf("%s: %s holds no schemas", what, location)}
	}
	return l.Registry(), nil
}

// validationConfig is the gateways' of processor schema_validation: of the files, or where there are none its default.
func validationConfig(ctx context.Context, gateway []string) (*schemavalidationprocessor.Config, error) {
	f := schemavalidationprocessor.NewFactory()
	cfg := f.CreateDefaultConfig().(*schemavalidationprocessor.Config)
	if len(gateway) == 0 {
		return cfg, nil
	}
	conf, err := resolve(ctx, gateway...)
	if err != nil {
		return nil, fmt.Errorf("--gateway: %w", err)
	}
	p := &pipelines{conf: conf}
	ids := p.ids("processors", f.Type().String())
	if len(ids) != 1 {
		return nil, fmt.Errorf("--gateway: the configuration has %d processors %s, want one", len(ids), f.Type())
	}
	if err := p.configure("processors", ids[0], cfg); err != nil {
		return nil, fmt.Errorf("--gateway: %w", err)
	}
	return cfg, nil
}
