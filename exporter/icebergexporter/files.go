package icebergexporter

import (
	"context"
	"fmt"
	"iter"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
)

// writeParquet writes records into data files; long are the columns with a text longer than statsMax. Files of a write that failed are
// removed: nothing names them.
func (s *store) writeParquet(ctx context.Context, tbl *table.Table, sc *arrow.Schema, long []string, records iter.Seq2[arrow.RecordBatch, error]) (files []iceberg.DataFile, err error) {
	arranged, tbl, err := arrange(tbl, sc, long)
	if err != nil {
		return nil, fmt.Errorf("arranging rows: %w", err)
	}
	// The writer's scratch memory is left to the Go allocator: iceberg-go does not release all of it, and there it is collected.
	for f, err := range table.WriteRecords(ctx, tbl, sc, arranged.all(ctx, records),
		table.WithWriteUUID(s.useFiles()), table.WithTargetFileSize(s.cfg.TargetFileSizeBytes), table.WithMaxWriteWorkers(1), table.WithRecordBatchBufferSize(1)) {
		if err != nil {
			s.remove(ctx, tbl, files)
			return nil, fmt.Errorf("writing data files: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// remove deletes data files that nothing names, as well as it can.
func (s *store) remove(ctx context.Context, tbl *table.Table, files []iceberg.DataFile) {
	if len(files) == 0 {
		return
	}
	fs, err := tbl.FS(ctx)
	out, ok := fs.(iceio.WriteFileIO)
	if err != nil || !ok {
		s.orphan(len(files))
		return
	}
	for _, f := range files {
		if err := out.Remove(f.FilePath()); err != nil {
			s.orphan(1)
		}
	}
}

func (s *store) orphan(n int) {
	if n > 0 {
		s.tel.orphans.Add(s.ctx, int64(n), s.tel.table)
	}
}
