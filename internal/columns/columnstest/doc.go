// Package columnstest compares what a store holds with what was sent, field by field: it turns rows back into OTLP by internal/columns/rows.
package columnstest
