// Package rehearsal holds events that the lake has against two registries of schemas, the one in force and a proposed one: which of them would violate what, by
// tenant and source. Events are made of rows (internal/columns/rows) and checked by the gateways' own code (internal/schema), one by one, as if received when they
// were. What is in quarantine of the same time is checked as well.
//
//	config.go   what is asked
//	run.go      rows and items -> checks
//	tally.go    checks -> counts
//	report.go   what comes out
//
// A rehearsal changes nothing. It holds one batch of rows and the counts, whose number is bounded.
package rehearsal
