// Package rollout brings a version of the schema registry into force cell by cell: it warns, then it is enforced, and where a tenant loses more events or requests take longer than the
// plan allows, the version before is put in force again.
//
//	plan.go     what is asked: cells, durations, budgets
//	registry.go a cell's registry: which stage it is in (schema.Rollout), and the one write that changes it
//	figures.go  gateways' metrics -> counts by tenant, latency
//	watch.go    one stage: figures against budgets until its time is over
//	run.go      verdict, warn, enforce, done, cell by cell; back
//
// The state of a rollout is what lies in the registries, so whoever runs it may be killed at any moment and go on later. Nothing that could not be watched passes.
package rollout
