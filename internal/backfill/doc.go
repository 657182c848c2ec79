// Package backfill loads the gzipped JSON lines that the old REST collectors left in an object store into the pipelines of both stores, effectively once
// (docs/decisions/0036).
//
// A job is a source of blocks, like a topic of Kafka. Its plan is the log: a list of objects that is written once and never changes. Each of the
// job's streams (logs, metrics, traces, quarantine) is a topic of one partition, whose id is made from the plan. A line lies at offset
//
//	object << 32 | line number, from 1
//
// so a row tells by its kafka_offset which line of which object it is. Blocks are cut at fixed numbers of lines and bytes, never across objects, and tile their
// stream: a block begins where the last one with events ended. So whoever runs the job, and however often, delivers the same blocks under the same names.
//
// How far a job is, is kept beside its plan as a group's offset is kept by Kafka: it is written after the stores have the blocks, so it may be behind and is
// never ahead, and a store that has less answers with a block.ResumeError. Which blocks may have been begun is written before they are (the intent).
//
// The files, in the order of the data:
//
//	plan.go      what is loaded: the list of objects, and the settings that decide how it is cut
//	state.go     plans and progress in the object store
//	progress.go  how far a job is, and what became of each object
//	read.go      object -> lines -> chunks
//	decode.go    chunk -> events of the four streams, stamped
//	run.go       the pass over the objects: chunks in order, warm-up, what is finished
//	deliver.go   block -> pipeline: retry, resume, refusal
//	estimate.go  what a plan will take, from a sample
package backfill
