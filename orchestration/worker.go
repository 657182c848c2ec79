package orchestration

import (
	"fmt"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// Task queues. Loads have one of their own, so that a plan does not wait for days until a load has ended, and so have commands; those that watch for days take the place
// of a load. A namespace is a cell's own: whoever takes a task of it fills the stores of its own configuration.
const (
	QueueJobs     = "pulsegrid-jobs"
	QueueLoads    = "pulsegrid-loads"
	QueueCommands = "pulsegrid-commands"
)

const (
	// loadsAtATime bounds the loads of a worker: each has pipelines and blocks in flight of its own.
	loadsAtATime = 2
	// commandsAtATime bounds the commands of a worker: each may take a core and 0.5 GiB.
	commandsAtATime = 2
	// stepsAtATime bounds its other activities.
	stepsAtATime = 16
	// stoppingWithin is what activities get to write down where they are.
	stoppingWithin = 45 * time.Second
	// starvedFor is how long a step of a workflow may take before it counts as stuck: on a machine whose cores others have the SDK's second is soon over.
	starvedFor = 10 * time.Second
)

// Worker runs workflows and activities until it is stopped.
type Worker struct{ queues []worker.Worker }

// StartWorker starts a worker, whose attempts m counts. fatal is called where it cannot go on.
func StartWorker(c client.Client, jobs Jobs, m *Metrics, fatal func(error)) (*Worker, error) {
	a := activities{jobs, &m.counts}
	w := &Worker{}
	for _, q := range []struct {
		name       string
		atATime    int
		workflows  bool
		activities map[string]any
	}{
		{QueueJobs, stepsAtATime, true, map[string]any{activityPreview: a.preview, activityPlan: a.plan, activityReport: a.report}},
		{QueueLoads, loadsAtATime, false, map[string]any{activityLoad: a.load, activityCommand: a.command}},
		{QueueCommands, commandsAtATime, false, map[string]any{activityCommand: a.command}},
	} {
		queue := worker.New(c, q.name, worker.Options{
			WorkerStopTimeout: stoppingWithin, MaxHeartbeatThrottleInterval: sendEvery, DefaultHeartbeatThrottleInterval: sendEvery, OnFatalError: fatal,
			MaxConcurrentActivityExecutionSize: q.atATime, DisableWorkflowWorker: !q.workflows, DeadlockDetectionTimeout: starvedFor,
		})
		if q.workflows {
			registerWorkflows(queue)
		}
		for name, f := range q.activities {
			queue.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
		}
		if err := queue.Start(); err != nil {
			w.Stop()
			return nil, fmt.Errorf("start the worker of %s: %w", q.name, err)
		}
		w.queues = append(w.queues, queue)
	}
	return w, nil
}

// registerWorkflows names the workflows after the kinds of jobs.
func registerWorkflows(r interface {
	RegisterWorkflowWithOptions(w any, options workflow.RegisterOptions)
}) {
	r.RegisterWorkflowWithOptions(BackfillWorkflow, workflow.RegisterOptions{Name: KindBackfill})
	for _, kind := range CommandKinds() {
		r.RegisterWorkflowWithOptions(CommandWorkflow, workflow.RegisterOptions{Name: kind})
	}
}

// Stop lets what is under way write down where it is.
func (w *Worker) Stop() {
	var all sync.WaitGroup
	for _, queue := range w.queues {
		all.Go(queue.Stop)
	}
	all.Wait()
}
