// Package lookup holds the lookup tables of enrichment: files of CSV or JSON lines, read again when they change, that give attributes to whatever
// has one of their keys (docs/formats/lookup-tables.md).
//
//	table.go    a table, and finding a row in it
//	parse.go    CSV or JSON lines -> a table, or an error that names file, line, column and value
//	loader.go   files that change -> tables, the last good ones kept
//
// A Table is never written to after it was made: any number of goroutines may read it without a lock.
package lookup
