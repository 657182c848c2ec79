// Package schema holds events against the schemas of a registry. A registry is files in the format of the OpenTelemetry semantic
// conventions (Weaver's `groups`, and its second edition `definition/2`), so the published conventions load as they are; what PulseGrid
// needs beyond them are annotations (docs/formats/schemas.md). What an event violates is told as verdicts (docs/formats/verdicts.md).
//
//	definition.go  YAML of both editions -> groups
//	annotation.go  what PulseGrid adds to the format
//	resolve.go     registries and their dependencies; refs, extends, refinements -> attributes of each group
//	compile.go     groups -> tables of checks
//	registry.go    which schema an event has: by event name, metric name, span kind and name, scope, schema URL
//	loader.go      files that change -> the newest good registry
//	rollout.go     the file that says which version is in force, and which one is on its way
//	trial.go       what a proposed version refuses and the current one does not, counted by tenant
//	check.go       a request's events against limits and schemas, on the bytes of the request
//	value.go       an attribute's or a body's value against its check
//	pdata.go       the same for decoded requests
//	verdict.go     verdicts, their codes and their JSON
//	policy.go      how strict a tenant's events are taken
//	diff.go        how a registry differs from another one, and whether it refuses what that accepts
//	compare.go     the same of two schemas
//
// A Registry and a Checker never change, so that any number of goroutines may use one; a reload makes another.
package schema
