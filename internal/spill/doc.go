// Package spill keeps Kafka records in an object store while Kafka does not take them, and gives them back in order.
//
//	Put      records -> an object of many requests -> durable: the caller may acknowledge
//	Drain    objects in the order of their names -> produce -> deleted
//
// Each gateway writes under its own name, <gateway>/<Unix ms>-<sequence>, so that its objects are read in the order in which they were
// closed. Whoever drains a gateway's objects holds its lease, an object that is written anew while it is held; a gateway that died
// leaves a lease that ends, and another one takes it over. Two holders at a time (clocks apart, a frozen process) are possible and
// harmless: records are then produced twice, with the same key and the same bytes, and deduplication removes the second.
//
// Invariants:
//   - Put returns nil only after the store has acknowledged the object.
//   - An object is deleted only after produce has returned nil for all of its records.
//   - What cannot be read is moved aside (bad/), counted and kept; nothing is deleted for being damaged.
//
// The files, in the order of the data:
//
//	codec.go    records <-> an object's bytes
//	spool.go    Put: requests -> objects
//	backlog.go  what waits in the store, and its bounds
//	drain.go    leases; objects -> produce
package spill
