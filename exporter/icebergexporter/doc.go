// Package icebergexporter writes logs, metrics and traces into Apache Iceberg v2 tables, one table a signal, with the row model
// of internal/columns, and a ledger of what became of each block. A Consume call returns nil only when its rows are in a committed
// snapshot and its block has its entry.
//
// The files, in the order of the data path:
//
//	config.go     what can be configured, and what it must satisfy
//	factory.go    one exporter a signal, wired with the Collector's helper (no queue, no retry, no timeout of its own)
//	exporter.go   a call: wait for its turn, reserve memory, build its Arrow batch, hand it to the committer, wait
//	turns.go      the order in which calls of a partition take memory
//	budget.go     the bound on Arrow memory
//	group.go      the committer's loop: which calls are committed together, and when
//	stage.go      what becomes of the calls of a signal's group: written, passed on to the ledger, held, sent back, refused
//	ledger.go     the second stage: entries, for all signals of a component
//	commit.go     one group: files, one commit, and how a failed or unknown commit is decided by reloading
//	plan.go       what a table's offsets say about a group's blocks
//	offsets.go    how offsets are written into properties and summaries
//	book.go       where each partition ends, as the branch and the properties say together
//	refuse.go     what waits for an operator: tables, and blocks of a partition; topics made anew
//	files.go      Parquet files: written, removed
//	store.go      lifecycle of a committer and its table
//	table.go      catalog, namespace, table, schema
//	orphans.go    removal of files that failed commits left behind
//	telemetry.go  the metrics that metadata.yaml declares
//
// Invariants:
//   - Rows and the offsets that they end at enter the table in one commit, pinned to the snapshot that the plan was made from.
//     So the newest snapshot of the branch that moved a partition always says exactly which of its records the table holds.
//   - No offset passes a block that is not in. The same holds for the ledger, whose offset of a partition is never beyond the table's
//     unless the table was restored.
//   - Nobody but the committer's goroutine commits offsets to the table in this process; other processes are fenced by the pin.
//   - Memory is held only by calls whose predecessors hold theirs or are done, or that give it up when anybody waits.
//   - A data file is deleted only when a loaded table proves that no commit that names it has landed or can land.
//   - An Arrow batch has one owner: its caller until it is handed over, then the committer, which releases it once its rows are in
//     the table, or after the call has been answered or abandoned.
package icebergexporter
