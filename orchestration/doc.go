// Package orchestration runs jobs as Temporal workflows (docs/decisions/0037).
//
// A workflow decides what comes next: plan, approval, load, report; whom to wait for when an activity keeps failing. An activity does the work, by the code that
// `pulsegrid job run` runs too. Nothing of a job's exactness rests on Temporal: an activity may be run again at any moment, by two workers at a time too, and
// goes on from the job's own plan and progress beside the lake.
//
// The files:
//
//	backfill.go    the request of a backfill, and its workflow
//	command.go     the request of a job that is one command, and its workflow: approvals of what it would do, and of its steps
//	standing.go    the file of standing jobs
//	schedules.go   standing jobs in Temporal: apply, list, pause, resume
//	metrics.go     how late they are, for Prometheus
//	steps.go       what workflows share: states, waiting for a person
//	activities.go  the activities: heartbeats, which errors no retry mends
//	worker.go      a process that runs workflows and activities
//	client.go      start, list, show, approve, cancel, retry
//
// devserver is a module of its own: a Temporal server for this machine and for tests.
package orchestration
