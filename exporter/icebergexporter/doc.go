// Package icebergexporter writes logs, metrics and traces into Apache Iceberg v2 tables, one table a signal, with the row model
// of internal/columns. A Consume call returns nil only when its rows are in a committed snapshot.
//
// The files, in the order of the data path:
//
//	config.go     what can be configured, and what it must satisfy
//	factory.go    one exporter a signal, wired with the Collector's helper (no queue, no retry, no timeout of its own)
//	exporter.go   lifecycle; a call: reserve memory, build its Arrow batch, hand it to the committer, wait
//	budget.go     the bound on Arrow memory
//	group.go      the committer's loop: which calls are committed together, and when
//	plan.go       what a table's offsets say about a group: new, replayed, partly replayed
//	commit.go     Parquet files, one commit, and how a failed or unknown commit is decided by reloading
//	table.go      catalog, namespace, table, schema
//	telemetry.go  the metrics that metadata.yaml declares
//
// Invariants:
//   - Rows and the offsets that they end at enter the table in one commit, pinned to the snapshot that the plan was made from.
//     So the table's offset of a partition always says exactly which of its records the table holds.
//   - Nobody but the committer's goroutine commits to the table in this process; other processes are fenced by the pin.
//   - A data file is deleted only when no commit that names it can still land.
//   - An Arrow batch has one owner: its caller until it is handed over, then the committer, which releases it after the call
//     has been answered or abandoned.
package icebergexporter
