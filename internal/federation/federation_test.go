package federation

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(leaktest.Patient(m))
}

func registry(t *testing.T) *tenant.Snapshot {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "all.yaml"), []byte("tenants: [{id: stays, jurisdiction: eu}, {id: free}, {id: also-free}, {id: american, jurisdiction: us}]\n"), 0o600))
	source, err := fileset.Open(t.Context(), dir)
	require.NoError(t, err)
	l := tenant.NewLoader(source)
	_, err = l.Reload(t.Context())
	require.NoError(t, err)
	require.NoError(t, source.Close())
	return l.Snapshot()
}

// wire keeps what answers bring, by database.
type wire struct {
	mu      sync.Mutex
	answers map[string]string
	http.Transport
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	sql, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(sql))
	resp, err := w.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, database := range []string{"eu", "us"} {
		if strings.Contains(string(sql), "`"+database+"`") {
			w.answers[database] += string(answer)
		}
	}
	return resp, nil
}

// Scenario: two cells in two jurisdictions have rows of tenants that are pinned to each of them and of tenants that are not, and a third does not answer. Readers of both jurisdictions ask.
// Guarantees: sums over cells are those of the rows; a reader's answer, as it comes over the wire, has nothing of a tenant that is pinned elsewhere, nor its sums; each cell's freshness is told; an answer without a cell
// says so; a pinned tenant may be asked for in its own jurisdiction only.
func TestRollupsAreAddedOverCellsAndPinnedTenantsStay(t *testing.T) {
	s := clickhousetest.Start(t)
	at := time.Now().UTC().Truncate(time.Minute).Add(-10 * time.Minute)
	for database, rows := range map[string]map[string]int{"eu": {"stays": 7, "free": 5, "unknown": 11}, "us": {"american": 3, "free": 2, "also-free": 1}} {
		o := columns.DDLOptions{Database: database}
		statements := columns.Logs.ClickHouseDDL(o)
		for _, r := range columns.Logs.Rollups() {
			statements = append(statements, r.TableDDL(o), r.ViewDDL(o))
		}
		for _, sql := range statements {
			s.Exec(sql)
		}
		for id, n := range rows {
			when := "toDateTime64(" + strconv.FormatInt(at.Unix(), 10) + ", 9, 'UTC')"
			s.Exec("INSERT INTO " + database + ".logs (tenant_id, service_name, time, ingest_time) SELECT '" + id + "', 'of-" + id + "', " + when + ", " + when + " FROM numbers(" + strconv.Itoa(n) + ")")
		}
	}
	w := &wire{answers: map[string]string{}}
	defer w.CloseIdleConnections()
	cell := func(name, jurisdiction, database, url string) Cell {
		c, err := clickhouse.NewClient(&http.Client{Transport: w}, url, "", "")
		require.NoError(t, err)
		return Cell{Name: name, Jurisdiction: jurisdiction, Database: database, Client: c}
	}
	cells := []Cell{cell("eu-1", "eu", "eu", s.URL), cell("us-1", "us", "us", s.URL), cell("eu-2", "eu", "eu", "http://127.0.0.1:1")}
	query := func() *Query {
		return &Query{Table: columns.Logs, Rollup: columns.Logs.Rollups()[1], By: []string{"tenant_id", "service_name"}, From: at.Add(-time.Hour), To: at.Add(time.Hour), Timeout: time.Minute}
	}
	sums := func(a *Answer) map[string]uint64 {
		out := map[string]uint64{}
		for _, g := range a.Groups {
			require.Equal(t, "of-"+g.Keys[0], g.Keys[1])
			out[g.Keys[0]] += g.Measures[0]
		}
		return out
	}

	a, err := Ask(t.Context(), cells, Reader{"us", registry(t)}, query())
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{"american": 3, "free": 7, "also-free": 1}, sums(a))
	require.Equal(t, []string{"count"}, a.Measures)
	require.Equal(t, []string{"eu-2"}, a.Missing)
	require.Contains(t, a.Cells[2].Error, "does not answer")
	require.Equal(t, []string{"tenants that are pinned nowhere", "all tenants"}, []string{a.Cells[0].Of, a.Cells[1].Of})
	require.Contains(t, w.answers["eu"], "of-free")
	for _, no := range []string{"stays", "unknown"} {
		require.NotContains(t, w.answers["eu"], no)
	}
	for _, p := range a.Cells[:2] {
		require.Equal(t, at, p.Newest)
		require.Greater(t, p.AgeSeconds, 599.0)
	}

	// No sum may have them, either.
	q := query()
	q.By = nil
	a, err = Ask(t.Context(), cells[:1], Reader{"us", registry(t)}, q)
	require.NoError(t, err)
	require.Equal(t, []Group{{[]string{}, []uint64{5}}}, a.Groups)
	require.Empty(t, a.Missing)

	a, err = Ask(t.Context(), cells[:2], Reader{"eu", registry(t)}, query())
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{"stays": 7, "free": 7, "also-free": 1, "unknown": 11}, sums(a))

	q = query()
	q.Tenant = "stays"
	_, err = Ask(t.Context(), cells, Reader{"us", registry(t)}, q)
	require.ErrorContains(t, err, `data of tenant "stays" must stay in jurisdiction "eu", and this reader is in "us": nothing was read`)
	a, err = Ask(t.Context(), cells[:2], Reader{"eu", registry(t)}, q)
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{"stays": 7}, sums(a))
	for want, change := range map[string]func(q *Query, r *Reader){
		`the registry has no tenant "unknown"`: func(q *Query, _ *Reader) { q.Tenant = "unknown" },
		"where the reader is, is not known":    func(_ *Query, r *Reader) { r.Jurisdiction = "" },
		`"body" is no key of logs_1m`:          func(q *Query, _ *Reader) { q.By = []string{"body"} },
	} {
		q, r := query(), Reader{"us", registry(t)}
		change(q, &r)
		_, err := Ask(t.Context(), cells, r, q)
		require.ErrorContains(t, err, want)
	}
}
