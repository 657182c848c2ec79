// Package mskreceiver reads OTLP records from Kafka as one member of a consumer group and hands them, a block at a time, to the
// pipelines of its signals.
//
// A block is a contiguous offset range of one partition, decoded to one pdata whose resources and events carry their lineage
// (internal/lineage), and delivered with the block itself in the context (internal/block). The order is a contract:
//
//  1. the group has the block's range as an intent: whoever takes the partition over delivers the same block;
//  2. what cannot be decoded is in the quarantine topic, acknowledged by all in-sync replicas;
//  3. the pipeline has returned nil for the rest: the store has it;
//  4. only then, and when all blocks before it are so far, is the offset behind the block committed.
//
// A crash between any two of them delivers the block again, under the same name, and loses nothing. The fault tests stop the
// program there: failpoints block-intended (after 1), block-delivered (after 3) and block-committed (after 4).
//
// The files in the order of the data:
//
//	receiver.go    lifecycle, the poll loop, which only hands records over and never waits for a partition
//	group.go       assignment, revocation and loss of partitions; partitions that a store sends back
//	locate.go      where a partition begins
//	intent.go      what the group holds of a partition: the text of a commit's metadata
//	budget.go      memory: which partitions may be fetched
//	partition.go   one worker a partition: its states and invariants
//	warmup.go      what occurred before the first block -> memories of the pipeline
//	ids.go         records -> event ids, and nothing else
//	gather.go      records -> block boundaries
//	flights.go     blocks on their way: intended, delivered, finished in order
//	deliver.go     block -> pipeline: retry, refusal
//	decode.go      records -> pdata, stamped
//	quarantine.go  what is refused -> quarantine topic
//	commit.go      intents and offsets of finished blocks -> Kafka
//	monitor.go     lag, missing topics
package mskreceiver
