package orchestration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
)

// scripted does what a test says, and counts.
type scripted struct {
	mu      sync.Mutex
	calls   map[string]int
	given   [][]string // Command.Approved of each run
	preview func(call int) (backfill.Preview, error)
	plan    func(call int, approved string) (string, error)
	load    func(ctx context.Context, call int, read func(func() backfill.Reading)) error
	report  func(call int) (Report, error)
	run     func(ctx context.Context, call int, dryRun bool, said func(string)) (Outcome, error)
}

func newScripted() *scripted {
	return &scripted{
		calls:   map[string]int{},
		preview: func(int) (backfill.Preview, error) { return backfill.Preview{Objects: 2, Digest: "d1"}, nil },
		plan:    func(int, string) (string, error) { return "backfill.j", nil },
		load:    func(context.Context, int, func(func() backfill.Reading)) error { return nil },
		report: func(int) (Report, error) {
			return Report{Job: "backfill.j", Done: true, Objects: 2, Audit: &backfill.Audit{}}, nil
		},
		run: func(context.Context, int, bool, func(string)) (Outcome, error) {
			return Outcome{State: StateDone, Text: "all well\n"}, nil
		},
	}
}

func (s *scripted) called(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[name]
}

func (s *scripted) call(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[name]++
	return s.calls[name]
}

func (s *scripted) Preview(context.Context, Backfill) (backfill.Preview, error) {
	return s.preview(s.call("preview"))
}

func (s *scripted) Plan(_ context.Context, _ Backfill, approved string) (string, error) {
	return s.plan(s.call("plan"), approved)
}

func (s *scripted) Load(ctx context.Context, _ Backfill, _ string, read func(func() backfill.Reading)) error {
	return s.load(ctx, s.call("load"), read)
}

func (s *scripted) Report(context.Context, Backfill, string) (Report, error) {
	return s.report(s.call("report"))
}

func (s *scripted) Run(ctx context.Context, c Command, dryRun bool, said func(string)) (Outcome, error) {
	name := "run"
	if dryRun {
		name = "dry run"
	} else {
		s.mu.Lock()
		s.given = append(s.given, c.Approved)
		s.mu.Unlock()
	}
	return s.run(ctx, s.call(name), dryRun, said)
}

// environment is Temporal's test environment, whose clock skips what nobody waits for.
func environment(t *testing.T, s *scripted) *testsuite.TestWorkflowEnvironment {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(time.Minute)
	registerWorkflows(env)
	a := activities{s, &counts{}}
	for name, f := range map[string]any{activityPreview: a.preview, activityPlan: a.plan, activityLoad: a.load, activityReport: a.report, activityCommand: a.command} {
		env.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
	return env
}

func statusOf(t *testing.T, env *testsuite.TestWorkflowEnvironment) (s Status) {
	t.Helper()
	v, err := env.QueryWorkflow(queryStatus)
	require.NoError(t, err)
	require.NoError(t, v.Get(&s))
	return s
}

func TestABackfillThatNobodyMustApproveRunsToItsReport(t *testing.T) {
	s := newScripted()
	env := environment(t, s)
	env.ExecuteWorkflow(KindBackfill, Backfill{})
	require.NoError(t, env.GetWorkflowError())
	var r Report
	require.NoError(t, env.GetWorkflowResult(&r))
	require.True(t, r.Done)
	got := statusOf(t, env)
	require.Equal(t, StateDone, got.State)
	require.Equal(t, 2, got.Plan.Objects)
	require.Nil(t, got.Approved)
}

// Scenario: a plan waits for three days; somebody approves another plan first; then the one that is shown.
// Guarantees: nothing is planned or loaded before the approval of the plan that is shown, and who gave it is known.
func TestNothingIsLoadedBeforeThePlanThatIsShownIsApproved(t *testing.T) {
	s := newScripted()
	s.plan = func(_ int, approved string) (string, error) {
		require.Equal(t, "d1", approved)
		return "backfill.j", nil
	}
	env := environment(t, s)
	env.RegisterDelayedCallback(func() { env.SignalWorkflow(signalApprove, Approval{By: "eve", Digest: "another"}) }, time.Hour)
	env.RegisterDelayedCallback(func() {
		got := statusOf(t, env)
		require.Equal(t, StateWaitingForApproval, got.State)
		require.Equal(t, "d1", got.Plan.Digest)
		require.Zero(t, s.called("plan"))
		env.SignalWorkflow(signalApprove, Approval{By: "anna", Digest: "d1"})
	}, 72*time.Hour)
	env.ExecuteWorkflow(KindBackfill, Backfill{NeedsApproval: true})
	require.NoError(t, env.GetWorkflowError())
	got := statusOf(t, env)
	require.Equal(t, StateDone, got.State)
	require.Equal(t, "anna", got.Approved.By)
	require.Equal(t, 1, s.called("load"))
}

// Scenario: objects come between the approval and the plan.
// Guarantees: the new plan is shown, and waits for an approval of its own.
func TestAPlanThatIsAnotherThanTheApprovedOneMustBeApprovedAnew(t *testing.T) {
	s := newScripted()
	s.preview = func(call int) (backfill.Preview, error) {
		return backfill.Preview{Objects: call, Digest: fmt.Sprintf("d%d", call)}, nil
	}
	s.plan = func(_ int, approved string) (string, error) {
		if approved != "d2" {
			return "", backfill.ErrOtherPlan
		}
		return "backfill.j", nil
	}
	env := environment(t, s)
	env.RegisterDelayedCallback(func() { env.SignalWorkflow(signalApprove, Approval{By: "anna", Digest: "d1"}) }, time.Hour)
	env.RegisterDelayedCallback(func() {
		got := statusOf(t, env)
		require.Equal(t, StateWaitingForApproval, got.State)
		require.Nil(t, got.Approved)
		require.Equal(t, 2, got.Plan.Objects)
		env.SignalWorkflow(signalApprove, Approval{By: "ben", Digest: "d2"})
	}, 2*time.Hour)
	env.ExecuteWorkflow(KindBackfill, Backfill{NeedsApproval: true})
	require.NoError(t, env.GetWorkflowError())
	require.Equal(t, "ben", statusOf(t, env).Approved.By)
}

// Guarantees: a job that is cancelled instead of approved has planned and loaded nothing.
func TestAPlanThatIsRefusedLeavesNothing(t *testing.T) {
	s := newScripted()
	env := environment(t, s)
	env.RegisterDelayedCallback(env.CancelWorkflow, time.Hour)
	env.ExecuteWorkflow(KindBackfill, Backfill{NeedsApproval: true})
	require.True(t, temporal.IsCanceledError(env.GetWorkflowError()))
	require.Equal(t, StateCancelled, statusOf(t, env).State)
	require.Zero(t, s.called("plan"))
	require.Zero(t, s.called("load"))
}

// Scenario: the load fails every time; somebody mends the cause a day later, and says so. An earlier retry that nobody had asked for is there too.
// Guarantees: after five attempts the job waits and says why; the signal makes it go on.
func TestALoadThatKeepsFailingWaitsForAPerson(t *testing.T) {
	s := newScripted()
	mended := false
	s.load = func(context.Context, int, func(func() backfill.Reading)) error {
		if !mended {
			return errors.New("lake: permission denied")
		}
		return nil
	}
	env := environment(t, s)
	env.RegisterDelayedCallback(func() { env.SignalWorkflow(signalRetry, Retry{By: "too early"}) }, time.Second)
	env.RegisterDelayedCallback(func() {
		got := statusOf(t, env)
		require.Equal(t, StateWaitingForPerson, got.State)
		require.Equal(t, "lake: permission denied", got.LastError)
		require.Equal(t, attempts, got.Failures)
		require.Equal(t, attempts, s.called("load"))
		mended = true
		env.SignalWorkflow(signalRetry, Retry{By: "carl"})
	}, 24*time.Hour)
	env.ExecuteWorkflow(KindBackfill, Backfill{})
	require.NoError(t, env.GetWorkflowError())
	got := statusOf(t, env)
	require.Equal(t, StateDone, got.State)
	require.Equal(t, "carl", got.RetriedBy)
	require.Empty(t, got.LastError)
	require.Equal(t, attempts+1, s.called("load"))
}

// Scenario: workers come and go, so that many attempts of the load fail, but each gets further.
// Guarantees: nobody is waited for.
func TestALoadThatGetsFurtherEachTimeNeedsNobody(t *testing.T) {
	s := newScripted()
	s.load = func(_ context.Context, call int, _ func(func() backfill.Reading)) error {
		if call < 4*attempts {
			return errWorkerStops
		}
		return nil
	}
	s.report = func(int) (Report, error) {
		return Report{Objects: 2, Total: backfill.Tally{Lines: int64(s.called("load"))}, Audit: &backfill.Audit{}}, nil
	}
	env := environment(t, s)
	env.ExecuteWorkflow(KindBackfill, Backfill{})
	require.NoError(t, env.GetWorkflowError())
	require.Equal(t, 4*attempts, s.called("load"))
}

// Guarantees: what no retry mends ends the job at once, as failed, with the reason.
func TestARequestThatCannotBeMetFailsAtOnce(t *testing.T) {
	s := newScripted()
	s.preview = func(int) (backfill.Preview, error) {
		return backfill.Preview{}, backfill.RequestError{Cause: errors.New("--tenant: the registry has no tenant \"acme\"")}
	}
	env := environment(t, s)
	env.ExecuteWorkflow(KindBackfill, Backfill{})
	require.ErrorContains(t, env.GetWorkflowError(), `no tenant "acme"`)
	got := statusOf(t, env)
	require.Equal(t, StateFailed, got.State)
	require.Equal(t, `--tenant: the registry has no tenant "acme"`, got.LastError)
	require.Equal(t, 1, s.called("preview"))
}

// Scenario: a job is cancelled in the middle of its load.
// Guarantees: the job ends, and says what is loaded. (That the load has written that down before, only the real server shows: integration/backfill.)
func TestAJobThatIsCancelledSaysWhatIsLoaded(t *testing.T) {
	s := newScripted()
	s.load = func(ctx context.Context, _ int, _ func(func() backfill.Reading)) error {
		<-ctx.Done()
		return ctx.Err()
	}
	s.report = func(int) (Report, error) {
		return Report{Objects: 2, Total: backfill.Tally{Lines: 7}}, nil
	}
	env := environment(t, s)
	env.SetOnActivityHeartbeatListener(func(info *activity.Info, _ converter.EncodedValues) {
		if info.ActivityType.Name == activityLoad {
			env.CancelWorkflow()
		}
	})
	env.ExecuteWorkflow(KindBackfill, Backfill{})
	require.True(t, temporal.IsCanceledError(env.GetWorkflowError()), "%v", env.GetWorkflowError())
	got := statusOf(t, env)
	require.Equal(t, StateCancelled, got.State)
	require.EqualValues(t, 7, got.Report.Total.Lines)
}

// Guarantees: some objects that could not be loaded whole do not fail the job, and are told.
func TestFailedObjectsAreToldByTheState(t *testing.T) {
	s := newScripted()
	s.report = func(int) (Report, error) {
		return Report{Done: true, Objects: 2, Audit: &backfill.Audit{}, Failed: 1, Listed: []FailedObject{{Key: "k", State: backfill.StateTruncated}}}, nil
	}
	env := environment(t, s)
	env.ExecuteWorkflow(KindBackfill, Backfill{})
	require.NoError(t, env.GetWorkflowError())
	got := statusOf(t, env)
	require.Equal(t, StateIncomplete, got.State)
	require.Equal(t, "k", got.Report.Listed[0].Key)
}

// Guarantees: stores that do not hold what they must are told by the state.
func TestAnAuditThatDiffersIsToldByTheState(t *testing.T) {
	s := newScripted()
	s.report = func(int) (Report, error) {
		return Report{Done: true, Objects: 2, Audit: &backfill.Audit{Different: 1, Findings: []string{"k: clickhouse has 1 rows of events, want 2"}}}, nil
	}
	env := environment(t, s)
	env.ExecuteWorkflow(KindBackfill, Backfill{})
	require.NoError(t, env.GetWorkflowError())
	require.Equal(t, StateDiffers, statusOf(t, env).State)
}

// Guarantees: heartbeats carry how far the load is.
func TestHeartbeatsCarryTheProgress(t *testing.T) {
	s := newScripted()
	heard := make(chan backfill.Reading, 100)
	s.load = func(ctx context.Context, _ int, read func(func() backfill.Reading)) error {
		read(func() backfill.Reading { return backfill.Reading{Objects: 1, AllObjects: 2, Events: 5} })
		select {
		case r := <-heard:
			require.Equal(t, backfill.Reading{Objects: 1, AllObjects: 2, Events: 5}, r)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var r backfill.Reading
		if details.HasValues() && details.Get(&r) == nil {
			heard <- r
		}
	})
	a := activities{s, &counts{}}
	env.RegisterActivity(a.load)
	_, err := env.ExecuteActivity(a.load, Backfill{}, "backfill.j")
	require.NoError(t, err)
}

// Guarantees: requests for the same are one job, whatever the speed they ask for; those for other objects are others.
func TestTheIDFollowsFromWhatIsAskedFor(t *testing.T) {
	a := Backfill{Request: backfill.Request{Spec: backfill.Spec{Objects: "file:///x", Tenant: "acme"}}}
	b := a
	b.Rate, b.NeedsApproval = 7, true
	require.Equal(t, a.ID(), b.ID())
	require.Contains(t, a.ID(), "backfill.")
	b.Request.Spec.Tenant = "other"
	require.NotEqual(t, a.ID(), b.ID())
	b = a
	b.Request.NewObjects = true
	require.Equal(t, a.ID()+".new-objects", b.ID())
}
