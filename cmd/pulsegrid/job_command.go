package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.temporal.io/sdk/client"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

// commandKind is a kind of job that is one command of this program.
type commandKind struct {
	path     []string                   // of the command
	make     func() *cobra.Command      // a fresh one
	flags    []string                   // that a job may have: none that says which stores, or how the report looks
	required []string                   // of these
	check    func(*pflag.FlagSet) error // of what they say; nil: whatever it is
	example  string
}

var commandKinds = map[string]commandKind{
	orchestration.KindAggregate: {
		path: []string{"job", "run", "aggregate"}, make: newAggregate,
		flags:   []string{"model", "models", "engine", "from", "to", "complete-through", "threads", "again", "expired", "accept-rows"},
		example: "--model service_health_1m --from 2026-10-01 --to 2026-10-08",
	},
	orchestration.KindAudit: {
		path: []string{"audit"}, make: newAudit,
		flags:   []string{"from", "to", "range", "tenant", "topic", "stores", "quick", "rollups", "no-ledger", "max-differences", "erased", "copies-percent", "cell"},
		example: "--from 2h --rollups",
	},
	orchestration.KindErasure: {
		path: []string{"job", "run", "erasure"}, make: newErasure,
		flags: []string{"tenant", "attribute", "values", "id", "by", "reason", "declare", "wait"}, required: []string{"tenant", "id", "by", "reason", "declare"}, check: withoutValue,
		example: `--tenant acme --id GDPR-2026-117 --by privacy@example.com --reason "Art. 17 request of 2026-11-03" --declare /var/lib/pulsegrid/erasures.yaml`,
	},
	orchestration.KindReplay: {
		path: []string{"job", "run", "replay"}, make: newReplay,
		flags:   []string{"from", "to", "range", "source", "tenant", "topic", "signal", "erased", "to-topic", "to-live", "rate", "yield-after"},
		example: "--from 2026-11-20T08:00:00Z --tenant acme",
	},
	orchestration.KindUpkeep: {
		path: []string{"job", "run", "upkeep"}, make: newUpkeep,
		flags:   []string{"table", "keep", "retain-last", "target-mib"},
		example: "--keep 48h",
	},
}

// flagSet is the flags that a job may have, and no others.
func (k commandKind) flagSet() *pflag.FlagSet {
	all, allowed := k.make().Flags(), pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, name := range k.flags {
		allowed.AddFlag(all.Lookup(name))
	}
	return allowed
}

// given are the flags of a set that were given, as --NAME=VALUE.
func given(set *pflag.FlagSet) (flags []string) {
	set.VisitAll(func(f *pflag.Flag) {
		if !f.Changed { // Visit goes by the set that has parsed them
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, value := range values {
			flags = append(flags, "--"+f.Name+"="+value)
		}
	})
	return flags
}

// checkFlags fails where a job of a kind may not have these flags, or lacks one. They may come from anybody who reaches Temporal.
func checkFlags(kind string, flags []string) error {
	k, known := commandKinds[kind]
	if !known {
		return fmt.Errorf("no kind of job %q", kind)
	}
	set := k.flagSet()
	if err := set.Parse(flags); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return fmt.Errorf("%q is no flag", set.Arg(0))
	}
	for _, name := range k.required {
		if strings.TrimSpace(set.Lookup(name).Value.String()) == "" {
			return fmt.Errorf("--%s: a job of kind %s needs it", name, kind)
		}
	}
	if k.check != nil {
		return k.check(set)
	}
	return nil
}

// withoutValue refuses what Temporal would keep: flags are in the history of a workflow, and in the list of jobs.
func withoutValue(set *pflag.FlagSet) error {
	if strings.Contains(set.Lookup("attribute").Value.String(), "=") {
		return errors.New("--attribute: Temporal would keep the value in its history: give the key alone, and --values, a file of the worker's machine")
	}
	return nil
}

func newStartCommand(kind string) *cobra.Command {
	k := commandKinds[kind]
	set := k.flagSet()
	var (
		t      temporalOptions
		by     string
		asJSON bool
	)
	name := "`pulsegrid " + strings.Join(k.path, " ") + "`"
	approval, id := "", "One job of the kind runs at a time, and its id is "+kind+"."
	if kind == orchestration.KindErasure {
		approval, id = `
First the rows are counted, and nothing is erased before `+"`pulsegrid job approve ID`; `pulsegrid job show ID`"+` shows the counts. They are counted again after the approval: where they have changed, it waits for another
one. --declare and --values name files on the worker's machine; a value itself is refused, since Temporal would keep it.
`, "One erasure of a tenant runs at a time, and its id is erasure.TENANT."
	}
	cmd := &cobra.Command{
		Use:   kind,
		Short: k.make().Short + ", by Temporal's workers",
		Long: `Start what ` + name + ` does, by the same code, as a workflow: see its --help for what that is. A worker (` + "`pulsegrid job worker`" + `) does it; its configuration says on which
stores. Files that flags name are the worker's. A time ago, such as 2h, counts from the begin of each attempt: name points in time where that matters.
` + approval + `
Another worker does it again when one dies. Five failed attempts, and it waits for a person: mend the cause, then ` + "`pulsegrid job retry ID`" + `. What no retry mends ends the job as failed.

` + id + ` The same command while it runs starts nothing.

` + temporalHelp + `

` + jobExitCodes,
		Example: "  pulsegrid job start " + kind + " " + k.example,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := orchestration.Command{Kind: kind, Flags: given(set)}
			if err := checkFlags(kind, c.Flags); err != nil {
				return usageError{err}
			}
			if f := set.Lookup("tenant"); f != nil {
				c.Tenant = f.Value.String()
			}
			if f := set.Lookup("by"); f != nil {
				by = f.Value.String()
			}
			return t.asking(cmd, func(ctx context.Context, to client.Client) error {
				id, started, err := orchestration.StartCommand(ctx, to, c, by)
				return tellStarted(cmd, id, started, err, asJSON)
			})
		},
	}
	cmd.Flags().AddFlagSet(set)
	t.flags(cmd)
	if set.Lookup("by") == nil {
		byFlag(cmd, &by)
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the id as JSON")
	return cmd
}

// Run implements orchestration.Jobs.
func (w *jobRunner) Run(ctx context.Context, c orchestration.Command, dryRun bool, said func(line string)) (orchestration.Outcome, error) {
	out := orchestration.Outcome{State: orchestration.StateDone}
	if err := checkFlags(c.Kind, c.Flags); err != nil {
		return out, backfill.RequestError{Cause: err}
	}
	args := slices.Concat(commandKinds[c.Kind].path, c.Flags)
	for _, config := range w.stores.config {
		args = append(args, "--config="+config)
	}
	args = append(args, "--data="+w.stores.data)
	if dryRun {
		args = append(args, "--dry-run")
	}
	if c.Kind == orchestration.KindAudit && w.certificates != "" {
		args = append(args, "--certificates="+w.certificates)
	}
	root := newRoot()
	root.SetArgs(args)
	printed, progress := &bounded{most: orchestration.MaxText}, &lines{said: said}
	root.SetOut(printed)
	root.SetErr(progress)
	err := root.ExecuteContext(ctx)
	out.Text = printed.text()
	_, usage := errors.AsType[usageError](err)
	switch {
	case errors.Is(err, errDiffers):
		out.State = orchestration.StateDiffers
	case errors.Is(err, errNotAll):
		out.State = orchestration.StateIncomplete
	case usage:
		return out, backfill.RequestError{Cause: err}
	case err != nil && out.Text != "": // most say in it what failed
		return out, fmt.Errorf("%w\n%s", err, out.Text[:min(len(out.Text), errorText)])
	case err != nil:
		return out, err
	}
	return out, nil
}

// bounded keeps the beginning of what is written.
type bounded struct {
	most int
	kept bytes.Buffer
	more bool
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := p[:min(len(p), b.most-b.kept.Len())]
	b.more = b.more || len(keep) < len(p)
	_, _ = b.kept.Write(keep) // a bytes.Buffer does not fail
	return len(p), nil
}

func (b *bounded) text() string {
	text := strings.ToValidUTF8(b.kept.String(), "")
	if b.more {
		text += "\n(cut here: `job run` prints all)\n"
	}
	return text
}

// lines hands on what is written, line by line.
type lines struct {
	said func(string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		l.rest = append(l.rest, line[:min(len(line), lineMost-len(l.rest))]...)
		if bytes.HasSuffix(line, []byte("\n")) {
			l.said(strings.TrimSpace(string(l.rest)))
			l.rest = l.rest[:0]
		}
	}
	return len(p), nil
}

const (
	// lineMost bounds a line of progress.
	lineMost = 4 << 10
	// errorText bounds what an error has of a report: Temporal cuts errors off at 4 KB.
	errorText = 2 << 10
)
