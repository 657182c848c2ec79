// Package cells is three cells on one machine, with DNS before them, for drills: two of jurisdiction eu, one of us. Each has its own gateway, Kafka, aggregator, ClickHouse and object store, and a
// loopback address of its own, since DNS knows no ports. Senders and health checks reach a cell through links that can be cut and delayed; cells share nothing.
//
//	cells.go       the cells, the list of cells that commands read, DNS
//	registry.go    tenants: of the EU, of the US, and of no jurisdiction
//	times.go       how often is looked, and for how long answers hold
//	run_test.go    a drill: load, what is done to a cell, its return, and the counts
//	drills_test.go the drills
//	serve          the cells alone, to try things by hand: `make run-cells`
package cells
