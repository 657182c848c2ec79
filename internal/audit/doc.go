// Package audit proves, or refutes, that each acknowledged event is in ClickHouse once and in the lake once.
//
// It counts again what Kafka holds, by means of its own: a direct partition consumer instead of a consumer group, pdata's own decoder
// instead of internal/otlpdecode, a plain window of remembered ids instead of the dedupe processor. What it must share with the data path is
// what defines the answer: internal/eventid (the id of an event) and internal/columns (the row of an event). Then it reads both stores and
// compares event by event, column by column.
//
// The files, in the order of an audit:
//
//	config.go       what is audited, and where
//	audit.go        Run: stores, topics, verdict
//	ranges.go       which offsets: from times, explicit ranges, committed offsets; what retention has removed
//	quarantine.go   which records the aggregator put into quarantine, for which store
//	topic.go        a topic: the ledgers, the rows, the recount, what lies beyond the log
//	recount.go      a partition of Kafka, event by event; dedupe.go says which of them are duplicates
//	join.go         the comparison, event by event
//	ledger.go       the stores' ledgers against the recount, or, beyond Kafka's retention, against the rows
//	quick.go        sums instead of rows; where they differ, rows
//	rollups.go      ClickHouse's rollup tables against its rows
//	stored/         what the stores hold: queries, rows as they are compared, sorting
//	certificate/    the result, chained to the one before it
//
// Memory. Rows of a topic are sorted in runs of a million (48 MB for each store), which go to temporary files when there are more; a chunk of
// Kafka records is decoded at a time (chunkBytes); Arrow batches of the stores are released as they are read. What grows with the data is the
// dedupe window: 70 to 100 bytes for each distinct event that one partition took within the window, one partition at a time; the quarantine
// index, about 100 bytes a record in quarantine; and the ledger of one topic, about 200 bytes a block.
package audit
