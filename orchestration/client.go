package orchestration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
)

// Fields of a workflow's memo.
const (
	memoRequest = "request" // digest of the request
	memoBy      = "by"      // who started it
)

// queryTimeout bounds how long a worker may take to answer.
const queryTimeout = 10 * time.Second

// ErrNoJob says that there is no job of that id.
var ErrNoJob = errors.New("no such job")

// StateError says that a job is not in the state that was asked for.
type StateError struct{ ID, State, Want string }

func (e *StateError) Error() string {
	return fmt.Sprintf("job %s is in the state %s, want %s", e.ID, e.State, e.Want)
}

// OtherRequestError says that the job runs already, by another request.
type OtherRequestError struct{ ID string }

func (e *OtherRequestError) Error() string {
	return fmt.Sprintf("job %s runs already, and was started with other flags", e.ID)
}

// Summary is a line of a list of jobs.
type Summary struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	Tenant  string    `json:"tenant"`
	State   string    `json:"state"`
	By      string    `json:"started_by"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
}

// Job is a job as `job show` tells of it.
type Job struct {
	Summary
	Failures   int               `json:"failures"`             // attempts that failed
	LastError  string            `json:"last_error,omitempty"` // of the last of them; empty: it went well since
	Attempt    int               `json:"attempt,omitempty"`    // of the activity that is under way, from 1; 0: none is
	Running    bool              `json:"running"`              // a worker has that activity
	Progress   *backfill.Reading `json:"progress,omitempty"`   // of a load, some seconds old
	Said       string            `json:"said,omitempty"`       // by a command about its progress, likewise
	Detail     *Status           `json:"detail,omitempty"`     // plan, approval, outcome; nil: no worker has answered
	Unanswered string            `json:"unanswered,omitempty"` // why none has
}

// StartBackfill starts a backfill, unless it runs already by the same request; then started is false. by says who asks.
func StartBackfill(ctx context.Context, c client.Client, b Backfill, by string) (id string, started bool, err error) {
	return start(ctx, c, b.ID(), KindBackfill, b.Request.Spec.Tenant, b, by)
}

// StartCommand starts a command, likewise.
func StartCommand(ctx context.Context, c client.Client, command Command, by string) (id string, started bool, err error) {
	return start(ctx, c, command.ID(), command.Kind, command.Tenant, command, by)
}

func start(ctx context.Context, c client.Client, id, kind, tenant string, request any, by string) (_ string, started bool, err error) {
	text, err := json.Marshal(request)
	if err != nil {
		return id, false, err
	}
	sum := sha256.Sum256(text)
	digest := hex.EncodeToString(sum[:])
	_, err = c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: QueueJobs,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL, WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		TypedSearchAttributes:                    attributes(kind, tenant),
		Memo:                                     map[string]any{memoRequest: digest, memoBy: by},
	}, kind, request)
	if _, running := errors.AsType[*serviceerror.WorkflowExecutionAlreadyStarted](err); !running {
		return id, err == nil, err
	}
	d, err := c.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return id, false, err
	}
	if decoded(d.GetWorkflowExecutionInfo().GetMemo().GetFields()[memoRequest]) != digest {
		return id, false, &OtherRequestError{id}
	}
	return id, false, nil
}

// attributes are those that a job begins with. Whose rows it is about is left out where it is about everybody's.
func attributes(kind, tenant string) temporal.SearchAttributes {
	of := []temporal.SearchAttributeUpdate{attributeKind.ValueSet(kind), attributeState.ValueSet(StatePlanning)}
	if tenant != "" {
		of = append(of, attributeTenant.ValueSet(tenant))
	}
	return temporal.NewSearchAttributes(of...)
}

// List returns the jobs that somebody started, or the runs of standing jobs, the last started first, most of them at most. more says that there are others.
func List(ctx context.Context, c client.Client, standing bool, most int) (jobs []Summary, more bool, err error) {
	query := attributeKind.GetName() + " IS NOT NULL AND " + attributeSchedule
	if standing {
		query += " IS NOT NULL"
	} else {
		query += " IS NULL"
	}
	var page []byte
	for {
		r, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query, NextPageToken: page})
		if err != nil {
			return nil, false, fmt.Errorf("list the jobs: %w", err)
		}
		for _, info := range r.GetExecutions() {
			jobs = append(jobs, summary(info))
		}
		if page = r.GetNextPageToken(); len(page) == 0 || len(jobs) > most {
			break
		}
	}
	slices.SortStableFunc(jobs, func(a, b Summary) int { return b.Started.Compare(a.Started) })
	return jobs[:min(len(jobs), most)], len(jobs) > most, nil
}

// Show returns a job: what Temporal knows, and what a worker says of it.
func Show(ctx context.Context, c client.Client, id string) (Job, error) {
	d, err := c.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return Job{}, ofJob(id, err)
	}
	j := Job{Summary: summary(d.GetWorkflowExecutionInfo())}
	if said, err := status(ctx, c, id); err != nil {
		j.Unanswered = err.Error()
	} else {
		j.Detail, j.Failures, j.LastError = &said, said.Failures, said.LastError
		if j.Ended.IsZero() {
			j.State = said.State // the attribute is behind for a moment
		}
	}
	for _, a := range d.GetPendingActivities() {
		j.Attempt, j.Running = int(a.GetAttempt()), a.GetState() == enums.PENDING_ACTIVITY_STATE_STARTED
		j.Failures += j.Attempt - 1
		if f := a.GetLastFailure(); f != nil {
			j.LastError = reason(temporal.GetDefaultFailureConverter().FailureToError(f))
		}
		var r backfill.Reading
		if a.GetActivityType().GetName() == activityLoad && converter.GetDefaultDataConverter().FromPayloads(a.GetHeartbeatDetails(), &r) == nil && r.AllObjects > 0 {
			j.Progress = &r
		}
		if a.GetActivityType().GetName() == activityCommand {
			_ = converter.GetDefaultDataConverter().FromPayloads(a.GetHeartbeatDetails(), &j.Said) // none: it has said nothing yet
		}
	}
	return j, nil
}

// Approve approves what the job shows now. It fails with a StateError where none waits for that.
func Approve(ctx context.Context, c client.Client, id, by string) error {
	s, err := status(ctx, c, id)
	if err != nil {
		return err
	}
	if s.State != StateWaitingForApproval {
		return &StateError{id, s.State, StateWaitingForApproval}
	}
	return ofJob(id, c.SignalWorkflow(ctx, id, "", signalApprove, Approval{By: by, Digest: s.Digest}))
}

// RetryJob makes a job that waits for a person try again. It fails with a StateError where it does not wait.
func RetryJob(ctx context.Context, c client.Client, id, by string) error {
	s, err := status(ctx, c, id)
	if err != nil {
		return err
	}
	if s.State != StateWaitingForPerson {
		return &StateError{id, s.State, StateWaitingForPerson}
	}
	return ofJob(id, c.SignalWorkflow(ctx, id, "", signalRetry, Retry{By: by}))
}

// Cancel asks a job to end. What is loaded stays.
func Cancel(ctx context.Context, c client.Client, id string) error {
	d, err := c.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return ofJob(id, err)
	}
	if info := d.GetWorkflowExecutionInfo(); info.GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return &StateError{id, summary(info).State, "one that has not ended"}
	}
	return ofJob(id, c.CancelWorkflow(ctx, id, ""))
}

// status asks a worker.
func status(ctx context.Context, c client.Client, id string) (s Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	v, err := c.QueryWorkflow(ctx, id, "", queryStatus)
	if err == nil {
		return s, v.Get(&s)
	}
	if err = ofJob(id, err); errors.Is(err, ErrNoJob) {
		return s, err
	}
	return s, fmt.Errorf("no worker has answered about job %s: %w", id, err)
}

func ofJob(id string, err error) error {
	if _, ok := errors.AsType[*serviceerror.NotFound](err); ok {
		return fmt.Errorf("%w: %s", ErrNoJob, id)
	}
	return err
}

func summary(info *workflowpb.WorkflowExecutionInfo) Summary {
	attribute := func(key temporal.SearchAttributeKeyKeyword) string {
		return decoded(info.GetSearchAttributes().GetIndexedFields()[key.GetName()])
	}
	s := Summary{
		ID: info.GetExecution().GetWorkflowId(), Kind: attribute(attributeKind), Tenant: attribute(attributeTenant), State: attribute(attributeState),
		By: decoded(info.GetMemo().GetFields()[memoBy]), Started: info.GetStartTime().AsTime(),
	}
	if info.GetCloseTime() != nil {
		s.Ended = info.GetCloseTime().AsTime()
	}
	switch info.GetStatus() { // a workflow that was ended by hand, or whose code panicked, cannot have said so
	case enums.WORKFLOW_EXECUTION_STATUS_TERMINATED, enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		s.State = StateTerminated
	case enums.WORKFLOW_EXECUTION_STATUS_CANCELED:
		s.State = StateCancelled
	case enums.WORKFLOW_EXECUTION_STATUS_FAILED:
		s.State = StateFailed
	}
	return s
}

// decoded is a text of a memo or a search attribute; empty: it is none.
func decoded(p *commonpb.Payload) (text string) {
	_ = converter.GetDefaultDataConverter().FromPayload(p, &text)
	return text
}
