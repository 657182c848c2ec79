// Package columnstest turns rows back into OTLP, so that tests compare what a store holds with what was sent, field by field.
// It reads Arrow record batches by column name, whichever store they come from: a Builder's own batch, an Iceberg view,
// ClickHouse's FORMAT ArrowStream, a Parquet file of the lake.
package columnstest
