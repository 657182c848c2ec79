// Package spill keeps Kafka records in an object store while Kafka does not take them, and gives them back in order, each partition for
// itself: one that stays unwritable holds up nothing but its own records.
//
//	Put      records -> an object of many requests -> durable: the caller may acknowledge
//	Sweep    objects in the order of their names -> records of lanes that take them -> produced; the rest stays
//	Probe    the oldest record of each blocked lane -> produced -> the lane is swept again
//
// A lane is a partition of a topic, or the topic where its partitions are not known. Order is kept within a lane. An object holds the
// records of as many lanes as had any when it was closed: thousands of partitions that fail together fill common objects, and one that
// fails alone has objects of its own. A sweep that can give back only some of an object's records replaces the object by one of the
// others, so that nothing which is in Kafka is produced again, whoever sweeps next.
//
// Each gateway writes under its own name, <gateway>/v2-<Unix ms>-<sequence>-<lanes>, so that its objects are read in the order in which
// they were closed; objects of the first format have no "v2-" and no lanes, and come first. Whoever drains a gateway's objects holds its
// lease, an object that is written anew while it is held; a gateway that died leaves a lease that ends, and another one takes it over. Two
// holders at a time (clocks apart, a frozen process) are possible and harmless: records are then produced twice, with the same key and the
// same bytes, and deduplication removes the second.
//
// Invariants:
//   - Put returns nil only after the store has acknowledged the object.
//   - An object is deleted only when each of its records is in Kafka, or in an object that the store has acknowledged.
//   - What cannot be read, or is refused by Kafka for good, is moved aside (bad/), counted and kept.
//   - A lane's records are produced in the order of objects and, within one, in the order of Put; but for an object that the store has not given for minutes:
//     it stays where it is, the others go on, and its records come when the store gives it.
//
// The files, in the order of the data:
//
//	codec.go    records <-> an object's bytes
//	lane.go     lanes, and the names of objects
//	spool.go    Put: requests -> objects
//	index.go    what waits in the store, by lane
//	bounds.go   how much may wait, and how it is shared; whether anything can be put there at all
//	sweep.go    objects -> produce
//	probe.go    the oldest record of each blocked lane -> produce
//	adopt.go    leases; objects of gateways that are gone
//	survey.go   what lies in the store, for an operator
package spill
