// Package fault holds the fault tests: one fault at a time on a cell of real parts under load, and then the proof that every
// acknowledged event is in ClickHouse once and in the lake once. See docs/faults.md for the faults and how to repeat a run.
package fault
