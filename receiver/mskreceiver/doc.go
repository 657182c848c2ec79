// Package mskreceiver reads OTLP records from Kafka as one member of a consumer group and hands them, a block at a time, to the
// pipelines of its signals.
//
// A block is a contiguous offset range of one partition, decoded to one pdata whose resources and events carry their lineage
// (internal/lineage), and delivered with the block itself in the context (internal/block). The order is a contract:
//
//  1. what cannot be decoded is in the quarantine topic, acknowledged by all in-sync replicas;
//  2. the pipeline has returned nil for the rest: the store has it;
//  3. only then is the offset behind the block committed.
//
// A crash between any two of them delivers the block again and loses nothing.
//
// The files in the order of the data:
//
//	receiver.go    lifecycle, the poll loop, which only hands records over and never waits for a partition
//	group.go       assignment, revocation and loss of partitions
//	budget.go      memory: which partitions may be fetched
//	partition.go   one worker a partition: its states and invariants
//	gather.go      records -> block boundaries
//	decode.go      records -> pdata, stamped
//	deliver.go     block -> pipeline: retry, bisection
//	quarantine.go  what is refused -> quarantine topic
//	commit.go      offsets of finished blocks -> Kafka
//	monitor.go     lag, missing topics
package mskreceiver
