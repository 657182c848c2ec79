package icebergexporter

import (
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// Scenario: two blocks in one commit; a dictionary column is all empty in one of them.
// Guarantee: the bounds of their file begin with the empty text, that is: there is no lower bound, and never that of the other block.
func TestBoundsOfAFileAreThoseOfAllOfItsBlocks(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAge, cfg.Commit.MaxRows = time.Hour, 20 // the rows of both close the group
	h := start(t, cfg, columns.Logs)
	var g errgroup.Group
	for part := range int32(2) {
		g.Go(func() error {
			ctx, ld := logs(part, 0, 9, 1)
			if part == 0 {
				ld.ResourceLogs().At(0).Resource().Attributes().Remove("service.name")
			}
			return h.consumeLogs(ctx, ld)
		})
	}
	require.NoError(t, g.Wait())
	tbl := loaded(t, cfg, columns.Logs.Name)
	service, _ := columns.Logs.Column("service_name")
	files, err := tbl.Scan().PlanFiles(t.Context())
	require.NoError(t, err)
	require.Len(t, files, 1, "both blocks are in one file")
	require.Empty(t, files[0].File.LowerBoundValues()[service.FieldID])
	require.Equal(t, "shop", string(files[0].File.UpperBoundValues()[service.FieldID]))
	_, rows, err := tbl.Scan(table.WithRowFilter(iceberg.EqualTo(iceberg.Reference("service_name"), ""))).ToArrowRecords(t.Context())
	require.NoError(t, err)
	n := int64(0)
	for b, err := range rows {
		require.NoError(t, err)
		n += b.NumRows()
		b.Release()
	}
	require.EqualValues(t, 10, n)
}
