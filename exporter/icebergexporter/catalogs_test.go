package icebergexporter

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/config/configopaque"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// Catalogs over HTTP whose answer to a commit is lost once, so that somebody repeats the commit and is told that it is refused: for Glue the
// AWS SDK itself, for REST a proxy. Client, retry and mapping of errors are the real ones; the servers are the part of the API that the
// exporter uses.

// glue is the AWS Glue Data Catalog: a table is replaced if the caller names its version. (Moto's does not look at the version.)
type glue struct {
	mu       sync.Mutex
	database bool
	tables   map[string]map[string]any // as TableInput
	versions map[string]int
	lose     atomic.Int64 // so many answers to updates that were done are lost
	refused  atomic.Int64 // updates that named an old version
}

func (g *glue) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name, VersionId string
		TableInput      map[string]any
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	name, _ := in.TableInput["Name"].(string)
	answer := func(status int, body any) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	fail := func(kind string) { answer(http.StatusBadRequest, map[string]string{"__type": kind, "Message": kind}) }
	switch action := r.Header.Get("X-Amz-Target"); action {
	case "AWSGlue.GetDatabase":
		if !g.database {
			fail("EntityNotFoundException")
			return
		}
		answer(http.StatusOK, map[string]any{"Database": map[string]any{"Name": in.Name, "Parameters": map[string]string{}}})
	case "AWSGlue.CreateDatabase":
		g.database = true
		answer(http.StatusOK, struct{}{})
	case "AWSGlue.CreateTable":
		g.tables[name] = in.TableInput
		answer(http.StatusOK, struct{}{})
	case "AWSGlue.GetTable":
		found, ok := g.tables[in.Name]
		if !ok {
			fail("EntityNotFoundException")
			return
		}
		found["DatabaseName"], found["VersionId"] = "pulsegrid", strconv.Itoa(g.versions[in.Name])
		answer(http.StatusOK, map[string]any{"Table": found})
	case "AWSGlue.UpdateTable":
		if in.VersionId != strconv.Itoa(g.versions[name]) {
			g.refused.Add(1)
			fail("ConcurrentModificationException")
			return
		}
		g.tables[name] = in.TableInput
		g.versions[name]++
		if g.lose.Add(-1) >= 0 {
			panic(http.ErrAbortHandler) // the connection is cut
		}
		answer(http.StatusOK, struct{}{})
	default:
		http.Error(w, action, http.StatusNotImplemented)
	}
}

func TestAGlueCommitThatTheSDKRepeatsLosesAndDoublesNothing(t *testing.T) {
	g := &glue{tables: map[string]map[string]any{}, versions: map[string]int{}}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	cfg := lake(t)
	warehouse := cfg.Catalog.Warehouse
	cfg.Catalog.Type, cfg.Catalog.URI = catalogGlue, ""
	cfg.Catalog.Properties = map[string]configopaque.String{
		"glue.endpoint": configopaque.String(server.URL), "glue.region": "eu-central-1", "glue.access-key-id": "test", "glue.secret-access-key": "test",
	}
	requireRepeatedCommits(t, cfg, warehouse, func() { g.lose.Store(2) }, &g.refused)
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

// rest is an Iceberg REST catalog in front of another one, behind a proxy that repeats a commit whose answer it has lost.
type rest struct {
	behind  catalog.Catalog
	lose    atomic.Int64
	refused atomic.Int64
}

func (s *rest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && path.Base(path.Dir(r.URL.Path)) == "tables" && s.lose.Add(-1) >= 0 {
		body, _ := io.ReadAll(r.Body)
		again := r.Clone(r.Context())
		again.Body, r.Body = io.NopCloser(bytes.NewReader(body)), io.NopCloser(bytes.NewReader(body))
		s.serve(httptest.NewRecorder(), again)
	}
	s.serve(w, r)
}

func (s *rest) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	id := table.Identifier{"pulsegrid", path.Base(r.URL.Path)}
	fail := func(status int, kind string, err error) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": err.Error(), "type": kind, "code": status}})
	}
	switch {
	case path.Base(r.URL.Path) == "config":
		_, _ = io.WriteString(w, `{"defaults":{},"overrides":{}}`)
	case r.Method == http.MethodGet:
		tbl, err := s.behind.LoadTable(r.Context(), id)
		if err != nil {
			fail(http.StatusNotFound, "NoSuchTableException", err)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata-location": tbl.MetadataLocation(), "metadata": tbl.Metadata(), "config": map[string]string{}})
	case r.Method == http.MethodPost:
		var in struct {
			Requirements table.Requirements `json:"requirements"`
			Updates      table.Updates      `json:"updates"`
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			fail(http.StatusBadRequest, "BadRequestException", err)
			return
		}
		meta, location, err := s.behind.CommitTable(r.Context(), id, in.Requirements, in.Updates)
		if err != nil {
			s.refused.Add(1)
			fail(http.StatusConflict, "CommitFailedException", err)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata-location": location, "metadata": meta})
	}
}

func TestARESTCommitThatAProxyRepeatsLosesAndDoublesNothing(t *testing.T) {
	cfg := lake(t)
	made := start(t, other(cfg), columns.Logs) // it makes the tables
	require.Eventually(t, func() bool { return made.ready.Load() != nil && made.ledger.ready.Load() != nil }, 20*time.Second, time.Millisecond)
	made.shutdown()
	behind, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, behind.(catalog.Closer).Close()) })
	s := &rest{behind: behind}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	warehouse := cfg.Catalog.Warehouse
	cfg.Catalog.Type, cfg.Catalog.URI, cfg.Catalog.Warehouse = catalogREST, server.URL, ""
	requireRepeatedCommits(t, cfg, warehouse, func() { s.lose.Store(2) }, &s.refused)
}
