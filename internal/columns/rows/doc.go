// Package rows turns rows of internal/columns back into OTLP. It reads Arrow record batches by column name, whichever store they come from: a Builder's own
// batch, an Iceberg view, ClickHouse's FORMAT ArrowStream, a Parquet file of the lake.
//
// Nothing of an event is lost on the way there and back but for the list in docs/formats/rows.md ("What a store cannot hold"); internal/columns/columnstest
// compares every field.
package rows
