// Package columns is the one row model of both stores: which columns a signal's table has, how OTLP data becomes rows of them,
// and what the tables look like in ClickHouse and in Iceberg. Everything is generated from the definition (definition.go), so
// that a column has one name and one meaning everywhere: the Arrow batches that a Builder makes, the ClickHouse DDL, the
// Iceberg schema, and docs/formats.
//
// Flow: pdata -> Builder.AppendLogs|AppendMetrics|AppendTraces -> Builder.NewRecordBatch -> ClickHouse as it is (ArrowStream),
// Iceberg through an IcebergView (microseconds and nanosecond remainders instead of nanoseconds, signed instead of unsigned,
// plain text instead of dictionaries).
//
// A row loses nothing of its event but what docs/formats/rows.md lists under "What a store cannot hold"; package columnstest turns rows
// back into OTLP and compares every field, which is the proof.
package columns

//go:generate go test -run "Testdata|Docs" -update .
