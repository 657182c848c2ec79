// Package clickhouseexporter stores logs, metrics and traces in ClickHouse: one call is one Arrow record batch (internal/columns)
// and one INSERT over ClickHouse's HTTP interface. A call returns nil only when the rows are stored.
//
// A block of Kafka offsets in the context (internal/block) becomes the insert's deduplication token, so that a block whose
// outcome was not learnt may be sent again: the table takes it once.
//
// Reading order: exporter.go (the way of a call), client.go (HTTP), classify.go (what an exception means for the caller), schema.go
// (tables are created, verified and upgraded), telemetry.go.
package clickhouseexporter
