package orchestration

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
)

// KindBackfill is the kind of a backfill's workflows.
const KindBackfill = "backfill"

// Backfill is the request of a backfill. The configuration of the stores is the worker's.
type Backfill struct {
	Request       backfill.Request // without DryRun and Approved
	Again         bool             // offer everything to the stores again
	State         string           // bucket that keeps plans and progress; empty: the worker's default
	Rate          int              // lines a second, at most; 0: no bound
	InFlight      int              // of backfill.Options
	Patience      time.Duration    // of backfill.Options
	YieldAfter    time.Duration    // how long live events may wait for a store before the load works less; 0: for ever
	NeedsApproval bool             // wait for a person who approves the plan
}

// ID is the workflow's id: requests with one ID are one job, of which one runs at a time.
func (b *Backfill) ID() string {
	id := b.Request.Spec.Job() // begins with the kind
	if b.Request.NewObjects {
		id += ".new-objects" // the job's own name depends on the jobs before it
	}
	return id
}

// Report is what became of a job. `pulsegrid job run` with the same flags lists every object.
type Report struct {
	Job     string          `json:"job"`
	Done    bool            `json:"done"`
	Planned time.Time       `json:"planned"`
	Objects int             `json:"objects"`
	Failed  int             `json:"failed"` // objects that could not be loaded whole
	Total   backfill.Tally  `json:"total"`
	Listed  []FailedObject  `json:"failed_objects,omitempty"` // the first of them
	Audit   *backfill.Audit `json:"audit,omitempty"`          // once it is done
}

// state is that of a job that came to its end.
func (r *Report) state() string {
	switch {
	case r == nil: // it did not
		return ""
	case r.Audit != nil && !r.Audit.Equal():
		return StateDiffers
	case r.Failed > 0:
		return StateIncomplete
	}
	return StateDone
}

// FailedObject is one that could not be loaded whole.
type FailedObject struct {
	Key    string `json:"key"`
	State  string `json:"state"`
	Reason string `json:"reason"`
}

// MaxListed is how many failed objects a Report lists: Temporal keeps results of up to 2 MB.
const MaxListed = 50

// names of the activities.
const (
	activityPreview = "BackfillPreview"
	activityPlan    = "BackfillPlan"
	activityLoad    = "BackfillLoad"
	activityReport  = "BackfillReport"
)

// BackfillWorkflow runs a backfill: preview, approval, plan, load, report. Its result is the report; its error says why the job failed for good.
func BackfillWorkflow(ctx workflow.Context, b Backfill) (*Report, error) {
	s := &steps{Status: Status{NeedsApproval: b.NeedsApproval}}
	if err := workflow.SetQueryHandler(ctx, queryStatus, func() (Status, error) { return s.Status, nil }); err != nil {
		return nil, err
	}
	err := s.backfill(ctx, b)
	if ctx.Err() != nil && s.Job != "" {
		after, _ := workflow.NewDisconnectedContext(ctx)
		s.report(after, b)
	}
	return s.Report, s.end(ctx, err, s.Report.state())
}

func (s *steps) backfill(ctx workflow.Context, b Backfill) error {
	if err := s.plan(ctx, b); err != nil {
		return err
	}
	if err := s.enter(ctx, StateLoading); err != nil {
		return err
	}
	var lines int64
	moved := func() bool {
		s.report(ctx, b)
		before := lines
		if s.Report != nil {
			lines = s.Report.Total.Lines
		}
		return lines > before
	}
	if err := s.do(ctx, step{queue: QueueLoads, atMost: longestLoad, moved: moved}, nil, activityLoad, b, s.Job); err != nil {
		return err
	}
	return s.do(ctx, step{}, &s.Report, activityReport, b, s.Job)
}

// plan writes the job's plan, after somebody has approved it where that is asked for.
func (s *steps) plan(ctx workflow.Context, b Backfill) error {
	for {
		if err := s.enter(ctx, StatePlanning); err != nil {
			return err
		}
		s.Plan = nil // a new value each time: queries read the old one meanwhile
		if err := s.do(ctx, step{}, &s.Plan, activityPreview, b); err != nil {
			return err
		}
		approved := ""
		if b.NeedsApproval {
			if err := s.waitForApproval(ctx, s.Plan.Digest); err != nil {
				return err
			}
			approved = s.Plan.Digest
			if err := s.enter(ctx, StatePlanning); err != nil {
				return err
			}
		}
		err := s.do(ctx, step{}, &s.Job, activityPlan, b, approved)
		if !isOtherPlan(err) {
			return err
		}
		s.Approved, s.LastError = nil, reason(err)+": it must be approved anew"
	}
}

// report asks once for what is loaded. It is for people, so the job goes on without it.
func (s *steps) report(ctx workflow.Context, b Backfill) {
	var r *Report
	if workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, step{}.options()), activityReport, b, s.Job).Get(ctx, &r) == nil {
		s.Report = r
	}
}
