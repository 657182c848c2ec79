package orchestration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
)

// Guarantees: each kind runs under its own name, without anybody's approval unless it destroys, and what its command printed is the result.
func TestACommandRunsToItsOutcome(t *testing.T) {
	for _, kind := range CommandKinds() {
		if commandKinds[kind].destroys {
			continue
		}
		s := newScripted()
		env := environment(t, s)
		env.ExecuteWorkflow(kind, Command{Kind: kind})
		require.NoError(t, env.GetWorkflowError(), kind)
		var out Outcome
		require.NoError(t, env.GetWorkflowResult(&out))
		require.Equal(t, "all well\n", out.Text)
		require.Equal(t, StateDone, statusOf(t, env).State)
		require.Zero(t, s.called("dry run"))
	}
}

// Guarantees: stores that differ, an audit that could not compare all, and what must not be, are told by the state; none is tried again.
func TestWhatACommandFoundIsToldByTheState(t *testing.T) {
	for _, state := range []string{StateDiffers, StateIncomplete, StateRejected} {
		s := newScripted()
		s.run = func(context.Context, int, bool, func(string)) (Outcome, error) {
			return Outcome{State: state, Text: "2 events are lost\n"}, nil
		}
		env := environment(t, s)
		env.ExecuteWorkflow(KindAudit, Command{Kind: KindAudit})
		require.NoError(t, env.GetWorkflowError())
		got := statusOf(t, env)
		require.Equal(t, state, got.State)
		require.Equal(t, "2 events are lost\n", got.Outcome.Text)
		require.Equal(t, 1, s.called("run"))
	}
}

// Scenario: an erasure waits for two days. Somebody approves what they have not seen; then what is shown, but rows have come meanwhile; then what is shown anew.
// Guarantees: nothing is erased before an approval of the counts that a dry run finds just before, and who gave it is known.
func TestAnErasureWaitsForAnApprovalOfWhatItWouldTakeOut(t *testing.T) {
	s := newScripted()
	rows := 7
	s.run = func(_ context.Context, _ int, dryRun bool, _ func(string)) (Outcome, error) {
		if !dryRun {
			require.Equal(t, 9, rows)
		}
		return Outcome{State: StateDone, Text: fmt.Sprintf("logs %d\n", rows)}, nil
	}
	env := environment(t, s)
	var seen string
	waits := func(shown string) string {
		got := statusOf(t, env)
		require.Equal(t, StateWaitingForApproval, got.State)
		require.Equal(t, shown, got.DryRun.Text)
		require.Nil(t, got.Approved)
		require.Zero(t, s.called("run"))
		return got.Digest
	}
	env.RegisterDelayedCallback(func() { env.SignalWorkflow(signalApprove, Approval{By: "eve", Digest: "unseen"}) }, time.Hour)
	env.RegisterDelayedCallback(func() {
		seen = waits("logs 7\n")
		rows = 9
		env.SignalWorkflow(signalApprove, Approval{By: "anna", Digest: seen})
	}, 24*time.Hour)
	env.RegisterDelayedCallback(func() {
		require.NotEqual(t, seen, waits("logs 9\n"))
		require.Contains(t, statusOf(t, env).LastError, "approved anew")
		env.SignalWorkflow(signalApprove, Approval{By: "anna", Digest: seen}) // of what was shown before
	}, 30*time.Hour)
	env.RegisterDelayedCallback(func() {
		env.SignalWorkflow(signalApprove, Approval{By: "ben", Digest: waits("logs 9\n")})
	}, 48*time.Hour)
	env.ExecuteWorkflow(KindErasure, Command{Kind: KindErasure, Tenant: "acme"})
	require.NoError(t, env.GetWorkflowError())
	got := statusOf(t, env)
	require.Equal(t, StateDone, got.State)
	require.Equal(t, "ben", got.Approved.By)
	require.Empty(t, got.LastError)
	require.Equal(t, 1, s.called("run"))
}

// Guarantees: an erasure that is cancelled instead of approved has erased nothing.
func TestAnErasureThatIsRefusedErasesNothing(t *testing.T) {
	s := newScripted()
	env := environment(t, s)
	env.RegisterDelayedCallback(env.CancelWorkflow, time.Hour)
	env.ExecuteWorkflow(KindErasure, Command{Kind: KindErasure, Tenant: "acme"})
	require.True(t, temporal.IsCanceledError(env.GetWorkflowError()))
	require.Equal(t, StateCancelled, statusOf(t, env).State)
	require.Zero(t, s.called("run"))
}

// Guarantees: what a person starts waits for an approval of what it would take out; the run of a standing job, whose file somebody has reviewed, does not.
func TestAnExpiryWaitsForAnApprovalUnlessItStands(t *testing.T) {
	s := newScripted()
	env := environment(t, s)
	env.RegisterDelayedCallback(func() {
		got := statusOf(t, env)
		require.Equal(t, StateWaitingForApproval, got.State)
		require.Zero(t, s.called("run"))
		env.SignalWorkflow(signalApprove, Approval{By: "anna", Digest: got.Digest})
	}, time.Hour)
	env.ExecuteWorkflow(KindExpiry, Command{Kind: KindExpiry})
	require.NoError(t, env.GetWorkflowError())
	require.Equal(t, "anna", statusOf(t, env).Approved.By)
	require.Equal(t, 1, s.called("run"))

	s = newScripted()
	env = environment(t, s)
	env.ExecuteWorkflow(KindExpiry, Command{Kind: KindExpiry, Standing: &Standing{Name: "quarantine"}})
	require.NoError(t, env.GetWorkflowError())
	require.Equal(t, StateDone, statusOf(t, env).State)
	require.Zero(t, s.called("dry run"))
	require.Equal(t, 1, s.called("run"))
}

// Scenario: a rollout's command ends twice because its next step wants an approval. Somebody approves what they have not seen, and then, a week later, what is shown; the
// second step is tried three times.
// Guarantees: the command is run again with the approvals that were given, and no others; what it printed is shown meanwhile; the job takes no place of commands that work.
func TestAStepOfARolloutWaitsForAnApproval(t *testing.T) {
	s := newScripted()
	steps := []string{"enforce in cell one", "warn in cell two"}
	s.run = func(ctx context.Context, call int, _ bool, _ func(string)) (Outcome, error) {
		require.Equal(t, QueueLoads, activity.GetInfo(ctx).TaskQueue)
		s.mu.Lock()
		given := s.given[len(s.given)-1]
		s.mu.Unlock()
		if call == 2 || call == 3 {
			return Outcome{}, errors.New("paused: metrics of a gateway cannot be read")
		}
		if len(given) < len(steps) {
			return Outcome{State: StateWaitingForApproval, Step: steps[len(given)], Text: "stage warn has passed\n"}, nil
		}
		return Outcome{State: StateDone, Text: "in force\n"}, nil
	}
	env := environment(t, s)
	waits := func(step string) string {
		got := statusOf(t, env)
		require.Equal(t, StateWaitingForApproval, got.State)
		require.Equal(t, Outcome{State: StateWaitingForApproval, Step: step, Text: "stage warn has passed\n"}, *got.Outcome)
		require.Nil(t, got.Approved, "that was of another step")
		return got.Digest
	}
	var first string
	env.RegisterDelayedCallback(func() {
		first = waits(steps[0])
		env.SignalWorkflow(signalApprove, Approval{By: "eve", Digest: "unseen"})
	}, time.Hour)
	env.RegisterDelayedCallback(func() {
		require.Equal(t, first, waits(steps[0]))
		require.Equal(t, 1, s.called("run"))
		env.SignalWorkflow(signalApprove, Approval{By: "anna", Digest: first})
	}, 7*24*time.Hour)
	env.RegisterDelayedCallback(func() {
		second := waits(steps[1])
		require.NotEqual(t, first, second)
		env.SignalWorkflow(signalApprove, Approval{By: "anna", Digest: first})
		env.SignalWorkflow(signalApprove, Approval{By: "ben", Digest: second})
	}, 8*24*time.Hour)
	env.ExecuteWorkflow(KindRollout, Command{Kind: KindRollout, Flags: []string{"--plan=plan.yaml"}})
	require.NoError(t, env.GetWorkflowError())
	got := statusOf(t, env)
	require.Equal(t, StateDone, got.State)
	require.Equal(t, "ben", got.Approved.By)
	require.Equal(t, "in force\n", got.Outcome.Text)
	require.Equal(t, [][]string{nil, steps[:1], steps[:1], steps[:1], steps}, s.given)
}

// Guarantees: a rollout that is cancelled while it waits for an approval takes no further step.
func TestAStepOfARolloutThatIsCancelledIsNotTaken(t *testing.T) {
	s := newScripted()
	s.run = func(context.Context, int, bool, func(string)) (Outcome, error) {
		return Outcome{State: StateWaitingForApproval, Step: "enforce in cell one"}, nil
	}
	env := environment(t, s)
	env.RegisterDelayedCallback(env.CancelWorkflow, 24*time.Hour)
	env.ExecuteWorkflow(KindRollout, Command{Kind: KindRollout})
	require.True(t, temporal.IsCanceledError(env.GetWorkflowError()))
	require.Equal(t, StateCancelled, statusOf(t, env).State)
	require.Equal(t, 1, s.called("run"))
}

// Scenario: a command fails every time, until somebody mends the cause a day later.
// Guarantees: one that somebody started waits for a person; the run of a standing job fails, so that the next one is begun.
func TestACommandThatKeepsFailingWaitsForAPersonUnlessItStands(t *testing.T) {
	for name, c := range map[string]Command{
		"started":  {Kind: KindUpkeep},
		"standing": {Kind: KindUpkeep, Standing: &Standing{Name: "upkeep"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripted()
			mended := false
			s.run = func(context.Context, int, bool, func(string)) (Outcome, error) {
				if !mended {
					return Outcome{}, errors.New("catalog: permission denied")
				}
				return Outcome{State: StateDone}, nil
			}
			env := environment(t, s)
			env.RegisterDelayedCallback(func() {
				require.Equal(t, StateWaitingForPerson, statusOf(t, env).State)
				mended = true
				env.SignalWorkflow(signalRetry, Retry{By: "carl"})
			}, 24*time.Hour)
			env.ExecuteWorkflow(c.Kind, c)
			got := statusOf(t, env)
			if c.Standing == nil {
				require.NoError(t, env.GetWorkflowError())
				require.Equal(t, StateDone, got.State)
				require.Equal(t, "carl", got.RetriedBy)
				require.Equal(t, attempts+1, s.called("run"))
				return
			}
			require.ErrorContains(t, env.GetWorkflowError(), "permission denied")
			require.Equal(t, StateFailed, got.State)
			require.Equal(t, "catalog: permission denied", got.LastError)
			require.Equal(t, attempts, s.called("run"))
		})
	}
}

// Guarantees: flags that the command does not take fail the job at once.
func TestACommandThatCannotBeMetFailsAtOnce(t *testing.T) {
	s := newScripted()
	s.run = func(context.Context, int, bool, func(string)) (Outcome, error) {
		return Outcome{}, backfill.RequestError{Cause: errors.New("unknown flag: --brokers")}
	}
	env := environment(t, s)
	env.ExecuteWorkflow(KindAudit, Command{Kind: KindAudit, Flags: []string{"--brokers=elsewhere"}})
	require.ErrorContains(t, env.GetWorkflowError(), "--brokers")
	require.Equal(t, StateFailed, statusOf(t, env).State)
	require.Equal(t, 1, s.called("run"))
}

// Guarantees: heartbeats carry the last line that a command said, cut to a bound.
func TestHeartbeatsCarryWhatACommandSays(t *testing.T) {
	s := newScripted()
	heard := make(chan string, 100)
	s.run = func(ctx context.Context, _ int, _ bool, said func(string)) (Outcome, error) {
		said(strings.Repeat("x", 10*maxSaid))
		for {
			select {
			case line := <-heard:
				if line != "" { // one from before
					require.Len(t, line, maxSaid+len("... (cut)"))
					return Outcome{State: StateDone}, nil
				}
			case <-ctx.Done():
				return Outcome{}, ctx.Err()
			}
		}
	}
	env := environment(t, s)
	env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var line string
		if details.HasValues() && details.Get(&line) == nil {
			heard <- line
		}
	})
	env.ExecuteWorkflow(KindUpkeep, Command{Kind: KindUpkeep})
	require.NoError(t, env.GetWorkflowError())
}

// Guarantees: one job of a kind at a time; an erasure, one of a tenant.
func TestTheIDOfACommand(t *testing.T) {
	require.Equal(t, "replay", (&Command{Kind: KindReplay, Flags: []string{"--from=2h"}, Tenant: "acme"}).ID())
	require.Equal(t, "erasure.acme", (&Command{Kind: KindErasure, Tenant: "acme"}).ID())
}
