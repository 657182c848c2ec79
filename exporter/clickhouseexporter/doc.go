// Package clickhouseexporter stores logs, metrics and traces in ClickHouse: one call is one Arrow record batch (internal/columns)
// and one INSERT over ClickHouse's HTTP interface. A call returns nil only when the rows are stored and the block's entry is in the
// ledger (internal/ledger).
//
// A block of Kafka offsets in the context (internal/block) becomes the insert's deduplication token, so that a block whose
// outcome was not learnt may be sent again: the table, and each rollup of it, takes it once. A block that an earlier owner may have
// stored is looked up in the ledger first.
//
// Reading order: exporter.go (the way of a call), redo.go (what of a block is stored already), ledger.go (entries, many to an insert),
// client.go (HTTP), classify.go and refusal.go (what an exception means for the caller), tables.go and schema.go (tables and views are
// created, verified and upgraded), telemetry.go.
package clickhouseexporter
