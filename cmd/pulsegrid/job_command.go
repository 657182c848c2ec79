package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	always   []string                   // flags of every job
	says     bool                       // what it prints is its progress
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
	orchestration.KindExpiry: {
		path: []string{"job", "run", "expiry"}, make: newExpiry,
		flags:   []string{"keep"},
		example: "--keep 8760h",
	},
	orchestration.KindRehearsal: {
		path: []string{"job", "run", "rehearsal"}, make: newRehearsal,
		flags: []string{"current", "proposed", "from", "to", "tenant", "tenants", "strict", "refuse-above"}, required: []string{"current", "proposed"},
		example: "--current 's3://pulsegrid-eu-1/schemas?region=eu-central-1' --proposed 's3://pulsegrid-eu-1/proposed?region=eu-central-1' --from 24h",
	},
	orchestration.KindReplay: {
		path: []string{"job", "run", "replay"}, make: newReplay,
		flags:   []string{"from", "to", "range", "source", "tenant", "topic", "signal", "erased", "to-topic", "to-live", "rate", "yield-after"},
		example: "--from 2026-11-20T08:00:00Z --tenant acme",
	},
	orchestration.KindRollout: {
		path: []string{"job", "run", "rollout"}, make: newRollout,
		flags: []string{"plan"}, required: []string{"plan"}, always: []string{"--ask-to-enforce"}, says: true,
		example: "--plan /etc/pulsegrid/rollout.yaml",
	},
	orchestration.KindRollups: {
		path: []string{"job", "run", "rollups"}, make: newRollups,
		flags:   []string{"from", "to"},
		example: "--from 2026-10-01 --to 2026-10-08",
	},
	orchestration.KindSpillCheck: {
		path: []string{"job", "run", "spill-check"}, make: newSpillCheck,
		flags:   []string{"late-after"},
		example: "--late-after 1h",
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
	const counted = `
First the rows are counted, and nothing is erased before ` + "`pulsegrid job approve ID`; `pulsegrid job show ID`" + ` shows the counts. They are counted again after the
approval: where they have changed, it waits for another one.`
	switch kind {
	case orchestration.KindErasure:
		approval, id = counted+` --declare and --values name files on the worker's machine; a value itself is refused, since Temporal would keep it.
`, "One erasure of a tenant runs at a time, and its id is erasure.TENANT."
	case orchestration.KindExpiry:
		approval = counted + "\n"
	case orchestration.KindRehearsal:
		approval = `
It ends as rejected where a tenant is above the bound, and as incomplete where not all could be checked. Workers with --reports DIR keep the report there, for a rollout's plan to name.
`
	case orchestration.KindRollout:
		approval = `
Before each further cell, and before the version is enforced in a cell, it waits: ` + "`pulsegrid job show ID`" + ` shows what the stage before has seen, and
` + "`pulsegrid job approve ID`" + ` has it go on. It ends as rejected where it was rolled back, where the version is refused, or where somebody else has changed a registry.
Where a cell cannot be watched it waits for a person. To undo it, cancel it, and then ` + "`pulsegrid job run rollout --rollback`" + `.
`
	case orchestration.KindRollups:
		approval = "\nIt ends as incomplete where a partition waits until nobody inserts into it.\n"
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
	k := commandKinds[c.Kind]
	args := slices.Concat(k.path, c.Flags, k.always, w.flags(k, c))
	if dryRun {
		args = append(args, "--dry-run")
	}
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(strings.NewReader("")) // whoever sits at the worker's terminal is not asked
	printed, progress := &bounded{most: orchestration.MaxText}, &lines{said: said}
	root.SetOut(printed)
	if k.says {
		root.SetOut(io.MultiWriter(printed, progress))
	}
	root.SetErr(progress)
	err := root.ExecuteContext(ctx)
	out.Text = printed.text()
	_, usage := errors.AsType[usageError](err)
	end, ended := errors.AsType[endError](err)
	switch {
	case errors.Is(err, errDiffers):
		out.State = orchestration.StateDiffers
	case errors.Is(err, errNotAll):
		out.State = orchestration.StateIncomplete
	case ended:
		out.State, out.Step = end.state, end.step
		out.Text += err.Error() + "\n"
	case usage:
		return out, backfill.RequestError{Cause: err}
	case err != nil && out.Text != "": // most say in it what failed
		return out, fmt.Errorf("%w\n%s", err, out.Text[:min(len(out.Text), errorText)])
	case err != nil:
		return out, err
	}
	return out, nil
}

// flags are those of a command that the worker's own say, and the approvals of a job.
func (w *jobRunner) flags(k commandKind, c orchestration.Command) (flags []string) {
	has := k.make().Flags()
	add := func(name string, values ...string) {
		for _, value := range values {
			if has.Lookup(name) != nil && value != "" {
				flags = append(flags, "--"+name+"="+value)
			}
		}
	}
	add("config", w.stores.config...)
	add("data", w.stores.data)
	add("gateway", w.gateway...)
	add("certificates", w.certificates)
	add("reports", w.reports)
	add("approved", c.Approved...)
	return flags
}

// endError is the error of a command that came to its end, and would come to the same end if it were run again.
type endError struct {
	error
	state string // of its job
	step  string // what the job waits for an approval of
}

func (e endError) Unwrap() error { return e.error }

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
