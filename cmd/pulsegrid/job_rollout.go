package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/rollout"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

type rolloutOptions struct {
	plan                  string
	gateway               []string
	askToEnforce          bool
	approved              []string
	yes, dryRun, rollback bool
}

func newRollout() *cobra.Command {
	var o rolloutOptions
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Bring a version of the schema registry into force, cell by cell",
		Long: `Bring a version of the schema registry into force in the cells of a plan, one after the other. In each cell it first warns: gateways enforce the version that they have, and count
what the proposed one would refuse beyond that. Then the proposed version is enforced. Each stage is watched for the time that the plan says, by the gateways' own metrics.

Where the proposed version refuses more than refuse_above of a tenant's events that the current one accepts, or requests take longer than latency_growth allows, the cell goes back to
the version that it had, and the rollout ends. Where that cannot be told, because a gateway's metrics cannot be read or there is no traffic, the rollout stops where it is: the same command
goes on. Before each further cell it asks, and with --ask-to-enforce also before a cell enforces the version (--yes: does not ask).

A cell is begun only if no change of the version is breaking ("pulsegrid schema diff"), or a rehearsal in this cell has passed ("pulsegrid job run rehearsal --json", named in the plan).

The state lies in the cells' registries, in rollout.yaml: killed at any moment, the same command goes on. Once a cell has a rollout.yaml, that file says which version is in force there,
and other files that are put into its registry have no effect. docs/runbooks/rollout.md has a plan.

Exit codes: 0 the version is in force in all cells; 1 it was rolled back, is paused, waits for an approval, or was refused: the text says why; 2 wrong command line or plan.`,
		Example: `  pulsegrid job run rehearsal --current schemas/ --proposed proposed/ --from 24h --json > rehearsed.json
  pulsegrid job run rollout --plan plan.yaml --dry-run
  pulsegrid job run rollout --plan plan.yaml
  pulsegrid job run rollout --plan plan.yaml --rollback`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runRollout(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.plan, "plan", "", "the plan, docs/runbooks/rollout.md (required)")
	f.StringArrayVar(&o.gateway, "gateway", nil, gatewayHelp)
	f.BoolVar(&o.yes, "yes", false, "go on to the next cell without asking")
	f.BoolVar(&o.askToEnforce, "ask-to-enforce", false, "ask before a cell enforces the version, too")
	f.StringArrayVar(&o.approved, "approved", nil, "a step that is approved, as the error of one that waits for it says; may be repeated")
	f.BoolVar(&o.dryRun, "dry-run", false, "say where each cell is and whether it could begin; change nothing")
	f.BoolVar(&o.rollback, "rollback", false, "put the version before in force again, in each cell that has the proposed one or is on the way to it")
	return cmd
}

func runRollout(cmd *cobra.Command, o rolloutOptions) error {
	ctx := cmd.Context()
	if o.plan == "" {
		return usageError{errors.New("--plan: name the plan's file")}
	}
	if o.rollback && (o.yes || o.dryRun) {
		return usageError{errors.New("--rollback: goes with neither --yes nor --dry-run")}
	}
	plan, err := rollout.ReadPlan(o.plan)
	if err != nil {
		return usageError{fmt.Errorf("--plan: %w", err)}
	}
	validation, err := validationConfig(ctx, o.gateway)
	if err != nil {
		return err
	}
	proposed, err := loadRegistry(ctx, "proposed", plan.Proposed)
	if err != nil {
		return err
	}
	c := rollout.Config{
		Plan: plan, Proposed: proposed, Limits: validation.Limits, Scrape: cell.Scrape, Open: fileset.OpenTree,
		AskToEnforce: o.askToEnforce,
		Approve: func(s rollout.Step) bool {
			return o.yes || slices.Contains(o.approved, s.String()) || ask(cmd, "go on: "+oneLine(s.String())+"?")
		},
		Say: func(format string, args ...any) {
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), oneLine(fmt.Sprintf(format, args...))) // nobody may be listening
		},
	}
	do := rollout.Run
	if o.rollback {
		do = rollout.Rollback
	} else if o.dryRun {
		do = rollout.Check
	}
	err = do(ctx, c)
	if err == nil {
		return nil
	}
	said := errors.New(oneLine(err.Error())) // it quotes metrics
	if waits, ok := errors.AsType[*rollout.WaitsError](err); ok {
		step := waits.Step.String()
		return endError{error: fmt.Errorf("%w (--approved %q)", said, oneLine(step)), state: orchestration.StateWaitingForApproval, step: step}
	}
	if _, ok := errors.AsType[rollout.Ended](err); ok {
		return endError{error: said, state: orchestration.StateRejected}
	}
	return said
}

// ask asks whoever sits at the terminal. Where nobody does, the answer is no.
func ask(cmd *cobra.Command, question string) bool {
	in, isFile := cmd.InOrStdin().(*os.File)
	if !isFile || !isatty.IsTerminal(in.Fd()) {
		return false
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question) // nobody may be listening
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	return strings.EqualFold(strings.TrimSpace(answer), "y")
}
