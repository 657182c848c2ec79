package orchestration

import (
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
)

// States of a job.
const (
	StatePlanning           = "planning"
	StateWaitingForApproval = "waits_for_approval"
	StateLoading            = "loading"
	StateRunning            = "running"            // the command of the job is under way
	StateWaitingForPerson   = "waits_for_a_person" // an activity keeps failing: the signal retry, or a cancellation
	StateDone               = "done"
	StateIncomplete         = "incomplete" // it came to its end, and some objects could not be loaded whole, or not all could be compared, checked or built
	StateDiffers            = "differs"    // it came to its end, and the stores do not hold what they must
	StateRejected           = "rejected"   // it came to its end, and what it was asked for must not be, or was taken back
	StateCancelled          = "cancelled"
	StateFailed             = "failed"     // it cannot be met as it is: no retry mends it
	StateTerminated         = "terminated" // by hand, in Temporal
)

// Search attributes, all of type Keyword. The namespace must have them.
var (
	attributeKind   = temporal.NewSearchAttributeKeyKeyword("JobKind")
	attributeTenant = temporal.NewSearchAttributeKeyKeyword("JobTenant")
	attributeState  = temporal.NewSearchAttributeKeyKeyword("JobState")
)

// SearchAttributes are the names of the search attributes that the namespace must have, of type Keyword.
func SearchAttributes() []string {
	return []string{attributeKind.GetName(), attributeTenant.GetName(), attributeState.GetName()}
}

const (
	queryStatus   = "status"
	signalApprove = "approve"
	signalRetry   = "retry"
)

// Approval is the signal approve.
type Approval struct {
	By     string `json:"by"`     // who
	Digest string `json:"digest"` // Status.Digest that they have seen: another one counts for nothing
}

// Retry is the signal retry.
type Retry struct {
	By string `json:"by"` // who
}

// Given is an approval that counts.
type Given struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Status is the answer to the query status.
type Status struct {
	State         string            `json:"state"`
	Job           string            `json:"job,omitempty"`     // its name in the stores, once the plan is written
	Plan          *backfill.Preview `json:"plan,omitempty"`    // of a backfill, once it is known
	DryRun        *Outcome          `json:"dry_run,omitempty"` // of a command that destroys: what it would do
	NeedsApproval bool              `json:"needs_approval"`
	Digest        string            `json:"digest,omitempty"` // of what is shown: an approval must have it
	Approved      *Given            `json:"approved,omitempty"`
	Failures      int               `json:"failures"`             // failed attempts, those of the activity that runs excepted
	LastError     string            `json:"last_error,omitempty"` // of the last that failed; empty: it went well since
	RetriedBy     string            `json:"retried_by,omitempty"` // who sent the last retry
	Report        *Report           `json:"report,omitempty"`     // of a backfill
	Outcome       *Outcome          `json:"outcome,omitempty"`    // of a command, when it ran last
}

const (
	// attempts of an activity, one after the other, before a person is waited for.
	attempts = 5
	// heartbeatTimeout is how long a worker may be silent before its activity is given to another one: twice sendEvery, and some.
	heartbeatTimeout = 20 * time.Second
	longestLoad      = 90 * 24 * time.Hour
	longestStanding  = 24 * time.Hour // so that a run that hangs does not hold up its standing job for ever
	longestStep      = time.Hour
)

// steps is a workflow on its way.
type steps struct{ Status }

func (s *steps) enter(ctx workflow.Context, state string) error {
	s.State = state
	return workflow.UpsertTypedSearchAttributes(ctx, attributeState.ValueSet(state))
}

// end is the last step of a workflow: err says why the job did not come to its end, and state what its end is else. The workflow returns its error.
func (s *steps) end(ctx workflow.Context, err error, state string) error {
	after, _ := workflow.NewDisconnectedContext(ctx) // a cancelled one runs nothing
	switch {
	case err == nil:
		return s.enter(after, state)
	case ctx.Err() != nil:
		return errors.Join(s.enter(after, StateCancelled), temporal.NewCanceledError())
	}
	s.LastError = reason(err)
	return errors.Join(s.enter(after, StateFailed), err)
}

// step says how an activity is run.
type step struct {
	queue  string        // empty: the workflow's
	atMost time.Duration // empty: longestStep
	moved  func() bool   // tells whether the job moved since it was asked last; nil: it cannot
	alone  bool          // nobody looks after it: when every attempt has failed, so has the job
}

func (p step) options() workflow.ActivityOptions {
	o := workflow.ActivityOptions{
		TaskQueue: p.queue, StartToCloseTimeout: p.atMost, HeartbeatTimeout: heartbeatTimeout,
		WaitForCancellation: true, // so that what is in flight is written down before the report
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 3, MaximumInterval: time.Minute, MaximumAttempts: attempts},
	}
	if o.StartToCloseTimeout == 0 {
		o.StartToCloseTimeout = longestStep
	}
	return o
}

// do runs an activity until it has succeeded. When every attempt of it has failed, and the job has not moved, it waits for a person. It fails when no retry would
// mend it or nobody looks after the job, and when the workflow is cancelled.
func (s *steps) do(ctx workflow.Context, p step, result any, activity string, args ...any) error {
	for {
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, p.options()), activity, args...).Get(ctx, result)
		var app *temporal.ApplicationError
		switch {
		case err == nil:
			s.LastError = ""
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &app) && app.NonRetryable():
			return err
		}
		s.Failures, s.LastError = s.Failures+attempts, reason(err)
		if p.moved != nil && p.moved() {
			continue // workers come and go in the days that a job may take
		}
		if p.alone {
			return err
		}
		if err := s.waitForPerson(ctx); err != nil {
			return err
		}
	}
}

// waitForPerson waits for the signal retry, then goes back to the state before.
func (s *steps) waitForPerson(ctx workflow.Context) error {
	before := s.State
	retries := workflow.GetSignalChannel(ctx, signalRetry)
	var r Retry
	for retries.ReceiveAsync(&r) { // nobody had asked for those that came before
	}
	if err := s.enter(ctx, StateWaitingForPerson); err != nil {
		return err
	}
	if err := receive(ctx, retries, &r); err != nil {
		return err
	}
	s.RetriedBy = r.By
	return s.enter(ctx, before)
}

// waitForApproval waits until somebody approves what is shown, which has that digest.
func (s *steps) waitForApproval(ctx workflow.Context, digest string) error {
	s.Digest = digest
	if err := s.enter(ctx, StateWaitingForApproval); err != nil {
		return err
	}
	approvals := workflow.GetSignalChannel(ctx, signalApprove)
	for {
		var a Approval
		if err := receive(ctx, approvals, &a); err != nil {
			return err
		}
		if a.Digest == digest {
			s.Approved = &Given{By: a.By, At: workflow.Now(ctx)}
			return nil
		}
	}
}

// receive waits for a signal, or until ctx is cancelled.
func receive(ctx workflow.Context, from workflow.ReceiveChannel, into any) error {
	workflow.NewSelector(ctx).
		AddReceive(ctx.Done(), func(workflow.ReceiveChannel, bool) {}).
		AddReceive(from, func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, into) }).
		Select(ctx)
	return ctx.Err()
}

// reason is an activity's own error, without what Temporal puts around it.
func reason(err error) string {
	var app *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	var activity *temporal.ActivityError
	switch {
	case errors.As(err, &app):
		return app.Message()
	case errors.As(err, &timeout):
		return "no worker has said that it is alive: " + timeout.Message()
	case errors.As(err, &activity):
		return activity.Unwrap().Error()
	}
	return err.Error()
}
