package orchestration

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
)

// Jobs does the work of jobs. Each method may be called again at any moment, and by two workers at a time. Its errors are a backfill.RequestError where no retry mends it.
type Jobs interface {
	// Preview says what a backfill would load, and stores nothing.
	Preview(ctx context.Context, b Backfill) (backfill.Preview, error)
	// Plan writes a backfill's plan unless the job has one, and returns the job's name. approved is Request.Approved.
	Plan(ctx context.Context, b Backfill, approved string) (job string, err error)
	// Load loads what is left of a backfill. It calls read, once, with what tells how far it is.
	Load(ctx context.Context, b Backfill, job string, read func(func() backfill.Reading)) error
	// Report says what became of the backfill so far.
	Report(ctx context.Context, b Backfill, job string) (Report, error)
	// Run runs a command; with dryRun it changes nothing and says what it would. It hands each line about its progress to said.
	Run(ctx context.Context, c Command, dryRun bool, said func(line string)) (Outcome, error)
}

// Types of errors that no retry mends.
const (
	errorRequest   = "request"
	errorOtherPlan = "other plan"
)

const (
	// beatEvery is the time between two heartbeats, and sendEvery that between two that the SDK sends: each may be an action to pay for. It is also how long the SDK tries to
	// send one before it cancels the activity, so for so long Temporal may be away without a load noticing.
	beatEvery = time.Second
	sendEvery = 8 * time.Second
)

var errWorkerStops = errors.New("the worker was stopped: another one, or the next start, goes on")

type activities struct {
	jobs   Jobs
	counts *counts
}

func (a activities) preview(ctx context.Context, b Backfill) (p backfill.Preview, err error) {
	err = alive(ctx, func(ctx context.Context, _ func(func() any)) (err error) {
		p, err = a.jobs.Preview(ctx, b)
		return err
	})
	return p, err
}

func (a activities) plan(ctx context.Context, b Backfill, approved string) (job string, err error) {
	err = alive(ctx, func(ctx context.Context, _ func(func() any)) (err error) {
		job, err = a.jobs.Plan(ctx, b, approved)
		return err
	})
	return job, err
}

func (a activities) load(ctx context.Context, b Backfill, job string) error {
	err := alive(ctx, func(ctx context.Context, read func(func() any)) error {
		return a.jobs.Load(ctx, b, job, func(gauge func() backfill.Reading) { read(func() any { return gauge() }) })
	})
	a.counts.add(KindBackfill, StateDone, err)
	return err
}

func (a activities) report(ctx context.Context, b Backfill, job string) (r Report, err error) {
	err = alive(ctx, func(ctx context.Context, _ func(func() any)) (err error) {
		r, err = a.jobs.Report(ctx, b, job)
		return err
	})
	return r, err
}

func (a activities) command(ctx context.Context, c Command, dryRun bool) (out Outcome, err error) {
	err = alive(ctx, func(ctx context.Context, read func(func() any)) (err error) {
		var last atomic.Value
		last.Store("")
		read(last.Load)
		out, err = a.jobs.Run(ctx, c, dryRun, func(line string) { last.Store(cut(line, maxSaid)) })
		return err
	})
	a.counts.add(c.Kind, out.State, err)
	return out, err
}

// alive runs the work of an activity and says meanwhile that it is alive, and how far the work is once it calls read. The work's context ends when the activity
// is cancelled or the worker is to stop.
func alive(ctx context.Context, work func(ctx context.Context, read func(func() any)) error) error {
	working, stop := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	var gauge atomic.Pointer[func() any]
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		t := time.NewTicker(beatEvery)
		defer t.Stop()
		for {
			if read := gauge.Load(); read != nil {
				activity.RecordHeartbeat(ctx, (*read)())
			} else {
				activity.RecordHeartbeat(ctx)
			}
			select {
			case <-t.C:
			case <-activity.GetWorkerStopChannel(ctx):
				stop(errWorkerStops)
				return // whoever is silent is replaced, and what is under way ends now
			case <-ended:
				return
			}
		}
	}()
	err := work(working, func(read func() any) { gauge.Store(&read) })
	close(ended)
	<-beating
	stop(nil)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		if cause := context.Cause(ctx); !temporal.IsCanceledError(cause) && !errors.Is(cause, context.Canceled) {
			return fmt.Errorf("heartbeats did not reach Temporal, or another attempt has begun: %w", cause)
		}
		return ctx.Err()
	case errors.Is(context.Cause(working), errWorkerStops):
		return errWorkerStops
	case errors.Is(err, backfill.ErrOtherPlan):
		return temporal.NewNonRetryableApplicationError(err.Error(), errorOtherPlan, nil)
	}
	if _, ok := errors.AsType[backfill.RequestError](err); ok {
		return temporal.NewNonRetryableApplicationError(err.Error(), errorRequest, nil)
	}
	return err
}

func isOtherPlan(err error) bool {
	var app *temporal.ApplicationError
	return errors.As(err, &app) && app.Type() == errorOtherPlan
}
