// Package topicreplay copies records of Kafka's topics of events into another topic, effectively once (docs/decisions/0051).
//
// A copy has the key, the value and the headers of its record, so its events have the ids that they had; one more header says where the record lies. Records of source partition p
// go to partition p modulo the target's number of partitions, in their order: what dedupe finds in one partition it finds in the other.
//
// The first run writes a plan to the journal: the offsets of each partition. Each batch of copies is one transaction with the positions behind it. So whoever kills a run
// and runs it again finds positions and copies together.
//
// The files, in their order:
//
//	plan.go  what is copied: request, plan, and what forbids it
//	run.go   read, choose, write
package topicreplay
