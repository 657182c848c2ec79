// Package lakefile writes data files of the lake's tables, with names by which the exporter's sweeper tells that PulseGrid has written them, and commits beside other
// writers.
package lakefile

import (
	"context"
	"fmt"
	"iter"
	"regexp"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
)

// Definition is what a table is created with.
type Definition struct {
	Name       string // without the namespace
	Schema     *iceberg.Schema
	Spec       iceberg.PartitionSpec
	Order      table.SortOrder
	Properties iceberg.Properties
}

// Options of a write.
type Options struct {
	ID          uuid.UUID // of NewID
	TargetBytes int64     // of a file
	Long        []string  // columns with a text of which the Parquet writer keeps no bounds (LongTexts)
}

// Write writes records of schema sc into data files of tbl, divided into partitions and each batch sorted. It releases the records. With an error come the files
// that were written before it, which nothing names.
func Write(ctx context.Context, tbl *table.Table, sc *arrow.Schema, o Options, records iter.Seq2[arrow.RecordBatch, error]) (files []iceberg.DataFile, err error) {
	arranged, tbl, err := arrange(tbl, sc, o.Long)
	if err != nil {
		return nil, fmt.Errorf("arranging rows: %w", err)
	}
	// The writer's scratch memory is left to the Go allocator: iceberg-go does not release all of it, and there it is collected.
	for f, err := range table.WriteRecords(ctx, tbl, sc, arranged.all(ctx, records),
		table.WithWriteUUID(o.ID), table.WithTargetFileSize(o.TargetBytes), table.WithMaxWriteWorkers(1), table.WithRecordBatchBufferSize(1)) {
		if err != nil {
			return files, fmt.Errorf("writing data files: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// writer marks the UUIDs in names of data files: version 8 (free use), and this for a node.
var writer = [6]byte{'P', 'u', 'l', 's', 'e', 'G'}

// NewID returns a UUID for the names of the files of one write.
func NewID() uuid.UUID {
	id := uuid.New()
	id[6] = id[6]&0x0f | 0x80
	copy(id[10:], writer[:])
	return id
}

// ours finds the id in a data file's name, which iceberg-go makes as Java does: partition-task-uuid-count.parquet.
var ours = regexp.MustCompile(fmt.Sprintf(`^\d+-\d+-([0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-%x)-\d+\.parquet$`, writer))

// IDOf returns the id in the name of a file that Write has written, empty for any other name.
func IDOf(name string) string {
	if m := ours.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}
