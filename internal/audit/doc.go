// Package audit proves, or refutes, that each acknowledged event is in ClickHouse once and in the lake once.
//
// Each event of Kafka must be a row that is equal in every column, or be in quarantine, or repeat an earlier event that is named. The audit counts again
// what Kafka holds, by means of its own: a direct partition consumer instead of a consumer group, pdata's own decoder instead of internal/otlpdecode, and
// the rules of what a copy is written a second time (oracle). It shares nothing with internal/eventid and internal/dedupe: what it shared, it could not
// prove. What it must share with the data path is what defines the answer: internal/columns (the row of an event). Then it reads both stores and compares
// event by event, column by column.
//
// The files, in the order of an audit:
//
//	config.go       what is audited, and where
//	audit.go        Run: stores, topics, verdict
//	ranges.go       which offsets: from times, explicit ranges, committed offsets; what retention has removed
//	quarantine.go   which records the aggregator put into quarantine, for which store
//	topic.go        a topic: the ledgers, the rows, the recount, what lies beyond the log
//	decode.go       a record of Kafka, decoded twice: by pdata for its rows, by oracle for its copies
//	recount.go      a partition of Kafka, event by event
//	oracle/         which events are copies, and of what
//	join.go         the comparison, event by event
//	former.go       rows of a topic that was deleted and made anew
//	erased.go       rows that were deleted lawfully; erasure/ reads the declarations
//	ledger.go       the stores' ledgers against the recount, or, beyond Kafka's retention, against the rows
//	quick.go        sums instead of rows; where they differ, rows
//	rollups.go      ClickHouse's rollup tables against its rows
//	recent.go       copies in the newest part of Kafka, for `pulsegrid tenant show` and `status`
//	stored/         what the stores hold: queries, rows as they are compared, sorting
//	certificate/    the result, chained to the one before it
//
// Memory. Rows of a topic are sorted in runs of a million (48 MB for each store), which go to temporary files when there are more; a chunk of
// Kafka records is decoded at a time (chunkBytes); Arrow batches of the stores are released as they are read. What grows with the data is the
// dedupe window: 70 to 100 bytes for each event that one partition took within the window, or 32 where the rule `request` decides, one partition at a
// time; the quarantine index, about 100 bytes a record in quarantine; and the ledger of one topic, about 200 bytes a block.
package audit
