// Package dedupe decides which events of a partition are copies: it repeats earlier ones, by the rules of internal/eventid.
//
// The decision is a function of the log, so whoever reads a partition, from wherever and in whatever blocks, decides alike:
//
//	The time of an event is the latest append time of the records with events up to and including its own, in steps of the Unix
//	clock: a partition's time never goes back, though the clocks of two brokers may differ. An event is a copy if, by its rule,
//	it occurred at a lower place (offset, index) of the same partition, at most a window of steps earlier. Every occurrence
//	counts, also that of a copy.
//
// Two things follow. Only the last occurrence matters, so one time is remembered for each key. And nothing that is older than
// Memory.Window than an event can matter to it: to begin in the middle of a partition it is enough to be told the records
// from the first one on whose append time is at most that before that of the first record to be decided (warm-up). All
// before that one are older still, so the time of every record that is told is the same as if all had been.
//
// Of events by request, one key stands for a whole request. Where parts of it occur (a gateway divided it), each of their events
// has a key, and one more says that there are parts: only then a whole request is looked up event by event.
//
// Reading order: memory.go (Memory: locks, warm-up, bound), partition.go (blocks: order, repetition), decide.go (the rules), arrivals.go (data that is
// not read from a partition), table.go (what is remembered, compactly).
package dedupe
