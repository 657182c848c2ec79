package orchestration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
)

const (
	// schedulePrefix begins the ids of the schedules that are standing jobs, and of their runs. Other schedules of the namespace are left alone.
	schedulePrefix = "standing."
	// attributeSchedule is Temporal's own search attribute of what a schedule has started.
	attributeSchedule = "TemporalScheduledById"
	memoBySchedule    = "its schedule"
	schedulesAPage    = 100
)

// ErrNoStanding says that there is no standing job of that name.
var ErrNoStanding = errors.New("no such standing job")

// What Apply does to a schedule.
const (
	ChangeCreate    = "create"
	ChangeUpdate    = "update"
	ChangeDelete    = "delete"
	ChangeUnchanged = "unchanged"
)

// Change is what Apply did, or would do, to a schedule.
type Change struct {
	Name   string    `json:"name"`
	Change string    `json:"change"`
	Before *Standing `json:"before,omitempty"`
	After  *Standing `json:"after,omitempty"`
}

// Apply makes the schedules equal to a file's: it makes, changes and deletes them, so it may be called again at any time. What somebody paused stays paused; what was changed otherwise by hand is
// undone. With dryRun it only says what it would do.
func Apply(ctx context.Context, c client.Client, namespace string, file []Standing, dryRun bool) (changes []Change, err error) {
	if err := keptLongEnough(ctx, c, namespace, file); err != nil {
		return nil, err
	}
	for i := range file {
		change, err := apply(ctx, c, &file[i], dryRun)
		if err != nil {
			return changes, fmt.Errorf("standing job %s: %w", file[i].Name, err)
		}
		changes = append(changes, change)
	}
	there, err := scheduled(ctx, c)
	if err != nil {
		return changes, err
	}
	for _, name := range there {
		if slices.ContainsFunc(file, func(s Standing) bool { return s.Name == name }) {
			continue
		}
		if !dryRun {
			if err := ofStanding(name, c.ScheduleClient().GetHandle(ctx, schedulePrefix+name).Delete(ctx)); err != nil && !errors.Is(err, ErrNoStanding) {
				return changes, fmt.Errorf("delete standing job %s: %w", name, err)
			}
		}
		changes = append(changes, Change{Name: name, Change: ChangeDelete})
	}
	return changes, nil
}

// keptLongEnough fails where a success may be forgotten before it is too old: the job would be told as late while it is not.
func keptLongEnough(ctx context.Context, c client.Client, namespace string, file []Standing) error {
	d, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	if err != nil {
		return fmt.Errorf("how long Temporal keeps jobs that have ended: %w", err)
	}
	kept := d.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration()
	for i := range file {
		if late := time.Duration(file[i].LateAfter); late >= kept {
			return fmt.Errorf("standing job %s: late_after: %v: the namespace keeps jobs that have ended for %v only", file[i].Name, late, kept)
		}
	}
	return nil
}

func apply(ctx context.Context, c client.Client, s *Standing, dryRun bool) (Change, error) {
	change := Change{Name: s.Name, Change: ChangeUnchanged, After: s}
	command, err := s.command()
	if err != nil {
		return change, err
	}
	spec := client.ScheduleSpec{CronExpressions: []string{s.Cron}}
	if s.Cron == "" {
		spec = client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Duration(s.Every)}}}
	}
	action := &client.ScheduleWorkflowAction{
		ID: schedulePrefix + s.Name, Workflow: s.Kind, Args: []any{command}, TaskQueue: QueueJobs,
		TypedSearchAttributes: attributes(s.Kind, ""), Memo: map[string]any{memoBy: memoBySchedule},
	}
	// A run that is still under way is the reason to skip the next. What Temporal missed while it was away is made up for once, while it counts.
	const overlap = enums.SCHEDULE_OVERLAP_POLICY_SKIP
	missed := time.Duration(s.LateAfter)

	handle := c.ScheduleClient().GetHandle(ctx, schedulePrefix+s.Name)
	there, err := handle.Describe(ctx)
	switch err = ofStanding(s.Name, err); {
	case errors.Is(err, ErrNoStanding):
		if change.Change = ChangeCreate; dryRun {
			return change, nil
		}
		_, err := c.ScheduleClient().Create(ctx, client.ScheduleOptions{
			ID: schedulePrefix + s.Name, Spec: spec, Action: action, Overlap: overlap, CatchupWindow: missed,
		})
		return change, err
	case err != nil:
		return change, err
	}
	if before := standingOf(there); !s.equal(before) {
		change.Change, change.Before = ChangeUpdate, before
	}
	if dryRun {
		return change, nil
	}
	return change, handle.Update(ctx, client.ScheduleUpdateOptions{DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
		return &client.ScheduleUpdate{Schedule: &client.Schedule{
			Action: action, Spec: &spec, Policy: &client.SchedulePolicies{Overlap: overlap, CatchupWindow: missed}, State: in.Description.Schedule.State,
		}}, nil
	}})
}

// standingOf is the standing job that a schedule was made of; a schedule of somebody else's making has none of its fields.
func standingOf(d *client.ScheduleDescription) *Standing {
	var c Command
	if action, ok := d.Schedule.Action.(*client.ScheduleWorkflowAction); ok && len(action.Args) == 1 {
		if payload, ok := action.Args[0].(*commonpb.Payload); ok {
			_ = converter.GetDefaultDataConverter().FromPayload(payload, &c)
		}
	}
	if c.Standing == nil {
		return &Standing{}
	}
	return c.Standing
}

// scheduled are the names of the standing jobs in Temporal, in order. It may lag behind for some seconds.
func scheduled(ctx context.Context, c client.Client) (names []string, err error) {
	list, err := c.ScheduleClient().List(ctx, client.ScheduleListOptions{PageSize: schedulesAPage})
	if err != nil {
		return nil, fmt.Errorf("list the schedules: %w", err)
	}
	for list.HasNext() {
		entry, err := list.Next()
		if err != nil {
			return nil, fmt.Errorf("list the schedules: %w", err)
		}
		if name, ours := strings.CutPrefix(entry.ID, schedulePrefix); ours {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// StandingState is a standing job with what has become of it.
type StandingState struct {
	Standing
	Made        time.Time `json:"scheduled"`             // since when it stands
	LastSuccess time.Time `json:"last_success,omitzero"` // the end of the last run that ended as done; zero: Temporal knows of none
	LastRun     *Summary  `json:"last_run,omitempty"`    // that has ended
	Running     bool      `json:"running"`
	Next        time.Time `json:"next,omitzero"`
	Paused      bool      `json:"paused"`
	Note        string    `json:"note,omitempty"` // why it is paused
}

// Since is what its lateness counts from.
func (s *StandingState) Since() time.Time {
	if s.LastSuccess.IsZero() {
		return s.Made
	}
	return s.LastSuccess
}

// Late tells whether its last success is older than it may be.
func (s *StandingState) Late(now time.Time) bool {
	return now.Sub(s.Since()) > time.Duration(s.LateAfter)
}

// Failed tells whether its last run did not end as done.
func (s *StandingState) Failed() bool { return s.LastRun != nil && s.LastRun.State != StateDone }

// ListStanding returns the standing jobs by name.
func ListStanding(ctx context.Context, c client.Client) ([]StandingState, error) {
	names, err := scheduled(ctx, c)
	if err != nil {
		return nil, err
	}
	var out []StandingState
	for _, name := range names[:min(len(names), maxStanding)] {
		s, err := standingState(ctx, c, name)
		if errors.Is(err, ErrNoStanding) {
			continue // the list lags behind
		}
		if err != nil {
			return nil, fmt.Errorf("standing job %s: %w", name, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func standingState(ctx context.Context, c client.Client, name string) (s StandingState, err error) {
	d, err := c.ScheduleClient().GetHandle(ctx, schedulePrefix+name).Describe(ctx)
	if err != nil {
		return s, ofStanding(name, err)
	}
	s = StandingState{
		Standing: *standingOf(d), Made: d.Info.CreatedAt, Running: len(d.Info.RunningWorkflows) > 0,
		Paused: d.Schedule.State.Paused, Note: d.Schedule.State.Note,
	}
	s.Name = name
	if len(d.Info.NextActionTimes) > 0 {
		s.Next = d.Info.NextActionTimes[0]
	}
	if s.LastRun, err = lastRun(ctx, c, name, "ExecutionStatus != 'Running'"); err != nil {
		return s, err
	}
	success, err := lastRun(ctx, c, name, fmt.Sprintf("ExecutionStatus = 'Completed' AND %s = '%s'", attributeState.GetName(), StateDone))
	if success != nil {
		s.LastSuccess = success.Ended
	}
	return s, err
}

// lastRun is the last of a standing job's runs that a query finds; nil: there is none. Runs do not overlap, so Temporal's order is that of their ends.
func lastRun(ctx context.Context, c client.Client, name, query string) (*Summary, error) {
	r, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("%s = '%s' AND %s", attributeSchedule, schedulePrefix+name, query), PageSize: 1,
	})
	if err != nil || len(r.GetExecutions()) == 0 {
		return nil, err
	}
	s := summary(r.GetExecutions()[0])
	return &s, nil
}

// PauseStanding stops a standing job from being begun until it is resumed. What is under way goes on.
func PauseStanding(ctx context.Context, c client.Client, name, by string) error {
	return ofStanding(name, c.ScheduleClient().GetHandle(ctx, schedulePrefix+name).Pause(ctx, client.SchedulePauseOptions{Note: "paused by " + by}))
}

// ResumeStanding has a standing job begun again at its times.
func ResumeStanding(ctx context.Context, c client.Client, name, by string) error {
	return ofStanding(name, c.ScheduleClient().GetHandle(ctx, schedulePrefix+name).Unpause(ctx, client.ScheduleUnpauseOptions{Note: "resumed by " + by}))
}

func ofStanding(name string, err error) error {
	if _, ok := errors.AsType[*serviceerror.NotFound](err); ok {
		return fmt.Errorf("%w: %s", ErrNoStanding, name)
	}
	return err
}
