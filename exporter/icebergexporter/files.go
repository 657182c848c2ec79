package icebergexporter

import (
	"context"
	"iter"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/lakefile"
)

// writeParquet writes records into data files; long are the columns of lakefile.LongTexts. Files of a write that failed are removed: nothing
// names them.
func (s *store) writeParquet(ctx context.Context, tbl *table.Table, sc *arrow.Schema, long []string, records iter.Seq2[arrow.RecordBatch, error]) ([]iceberg.DataFile, error) {
	files, err := lakefile.Write(ctx, tbl, sc, lakefile.Options{ID: s.useFiles(), TargetBytes: s.cfg.TargetFileSizeBytes, Long: long}, records)
	if err != nil {
		s.remove(ctx, tbl, files)
		return nil, err
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
