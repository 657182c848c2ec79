package icebergexporter

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/config/configopaque"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/testkit/catalogtest"
)

// Catalogs over HTTP whose answer to a commit is lost once, so that somebody repeats the commit and is told that it is refused: for Glue the
// AWS SDK itself, for REST a proxy.

// lossy cuts the connection of a commit that was done.
type lossy struct {
	http.Handler
	lose atomic.Int64 // so many
}

func (l *lossy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if catalogtest.IsGlueCommit(r) && l.lose.Add(-1) >= 0 {
		l.Handler.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	l.Handler.ServeHTTP(w, r)
}

func TestAGlueCommitThatTheSDKRepeatsLosesAndDoublesNothing(t *testing.T) {
	g := catalogtest.NewGlue("pulsegrid", nil)
	l := &lossy{Handler: g}
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	cfg := lake(t)
	warehouse := cfg.Catalog.Warehouse
	cfg.Catalog.Type, cfg.Catalog.URI = catalogGlue, ""
	cfg.Catalog.Properties = map[string]configopaque.String{
		"glue.endpoint": configopaque.String(server.URL), "glue.region": "eu-central-1", "glue.access-key-id": "test", "glue.secret-access-key": "test",
	}
	requireRepeatedCommits(t, cfg, warehouse, func() { l.lose.Store(2) }, &g.Refused)
}

// requireRepeatedCommits delivers blocks while answers to the commits of the table and of the ledger are lost.
func requireRepeatedCommits(t *testing.T, cfg *Config, warehouse string, lose func(), refused *atomic.Int64) {
	t.Helper()
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	for n := int64(10); n < 40; n += 10 {
		lose()
		require.NoError(t, h.send(0, n, n+9))
	}
	require.Equal(t, int64(6), refused.Load(), "of each block, the table's commit and the ledger's were repeated and refused")
	files := *cfg
	files.Catalog.Warehouse = warehouse
	require.Equal(t, 4, parquetFiles(t, &files), "nothing was removed, nothing was written twice")
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	defer cat.(catalog.Closer).Close()
	for name, rows := range map[string]int{"logs": 40, ledger.Name: 4} {
		tbl, err := cat.LoadTable(t.Context(), table.Identifier{"pulsegrid", name})
		require.NoError(t, err)
		require.Len(t, tbl.Metadata().Snapshots(), 4)
		_, batches, err := tbl.Scan(table.WithSelectedFields("kafka_topic")).ToArrowRecords(t.Context())
		require.NoError(t, err)
		for b, err := range batches {
			require.NoError(t, err, "every file that is named is there")
			rows -= int(b.NumRows())
			b.Release()
		}
		require.Zero(t, rows, name)
	}
	require.Zero(t, h.metric("iceberg_orphan_files"))
	require.Zero(t, h.metric("iceberg_replayed_rows"))
}

// repeating is a proxy that repeats a commit whose answer it has lost.
type repeating struct {
	http.Handler
	lose atomic.Int64
}

func (p *repeating) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if catalogtest.IsRESTCommit(r) && p.lose.Add(-1) >= 0 {
		body, _ := io.ReadAll(r.Body)
		again := r.Clone(r.Context())
		again.Body, r.Body = io.NopCloser(bytes.NewReader(body)), io.NopCloser(bytes.NewReader(body))
		p.Handler.ServeHTTP(httptest.NewRecorder(), again)
	}
	p.Handler.ServeHTTP(w, r)
}

func TestARESTCommitThatAProxyRepeatsLosesAndDoublesNothing(t *testing.T) {
	cfg := lake(t)
	behind, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, behind.(catalog.Closer).Close()) })
	s := catalogtest.NewREST(behind, cfg.Catalog.Warehouse)
	p := &repeating{Handler: s}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	warehouse := cfg.Catalog.Warehouse
	cfg.Catalog.Type, cfg.Catalog.URI, cfg.Catalog.Warehouse = catalogREST, server.URL, ""
	requireRepeatedCommits(t, cfg, warehouse, func() { p.lose.Store(2) }, &s.Refused)
}
