// Package dedupe decides which events of a partition are duplicates.
//
// The rule is a function of the log, so whoever reads a partition, from wherever and in whatever blocks, decides alike:
//
//	The time of an event is the latest append time of the records with events up to and including its own: a partition's
//	time never goes back, though the clocks of two brokers may differ. An event is a duplicate if the same tenant and event id
//	occurred at a lower place (offset, index) of the same partition, at most a window earlier. Every occurrence counts, also
//	that of a duplicate.
//
// Two things follow. Only the last occurrence of an id matters, so one time is remembered for each. And nothing that is more
// than a window older than an event can matter to it: to begin in the middle of a partition it is enough to be told the records
// from the first one on whose append time is at most a window before that of the first record to be decided (warm-up). All
// before that one are older still, so the time of every record that is told is the same as if all had been.
//
// Reading order: memory.go (Memory: locks, warm-up, bound), partition.go (blocks: order, repetition), arrivals.go (data that is
// not read from a partition), table.go (what is remembered, compactly).
package dedupe
