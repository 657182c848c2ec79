// Package tenant is the registry of tenants: who may send, how they prove who they are, where their data may go, to which cells, and how much of it.
//
//	key.go        API keys and what is kept of them
//	tenant.go     a tenant, compiled
//	file.go       a registry file (docs/formats/tenants.md) -> definitions, or errors that name file, line, field and value
//	node.go       YAML nodes -> values
//	snapshot.go   the definitions of all files -> one immutable Snapshot
//	loader.go     files that change -> snapshots, the last good one kept
//	admit.go      whether this cell takes a request of a tenant
//	identity.go   the tenant of a request, in its context
//	registry.go   how components find the registry
//
// A Snapshot and everything in it is never written to after it was made: readers take it once a request and need no lock.
package tenant
