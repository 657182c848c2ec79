package flow

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

const (
	localVisible  = time.Minute     // from start to rows in ClickHouse, where the machine does nothing else
	localStopping = 2 * time.Minute // a drain
	webPage       = "http://localhost:3000"
)

// Scenario: what `make run` runs: the embedded cell, with nobody sending anything; stopped as by Ctrl-C; started again.
// Guarantees: within a minute `pulsegrid query` shows this host's metrics and the cell's own logs, and pyiceberg and DuckDB, which are not ours, read
// the lake; the second start has what the first one had, and goes on.
func TestLocalCellShowsThisHostAtOnceAndContinues(t *testing.T) {
	program := filepath.Join(rig.Root(), "_build", "pulsegrid")
	home := t.TempDir()
	data := filepath.Join(home, "pulsegrid-data") // as `make run` has it
	start := func() *rig.Process {
		_, grpcPort, _ := strings.Cut(rig.FreeAddr(), ":")
		_, httpPort, _ := strings.Cut(rig.FreeAddr(), ":")
		p := rig.NewProcess(nil, nil, program, "local", "--data", data, "--grpc", "127.0.0.1:"+grpcPort, "--http", "127.0.0.1:"+httpPort, "--cors", webPage)
		if err := p.Start(localVisible); err != nil {
			t.Fatal(err)
		}
		return p
	}
	query := func(sql string) string {
		out, err := exec.Command(program, "query", "--data", data, "--format", "TabSeparated", sql).CombinedOutput()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	count := func(table, where string) int {
		n, err := strconv.Atoi(query("SELECT count() FROM " + table + " WHERE " + where))
		if err != nil {
			return 0
		}
		return n
	}

	began := time.Now()
	p := start()
	t.Cleanup(func() {
		p.Stop(localStopping)
		if t.Failed() {
			t.Log(p.Log())
		}
	})
	const hostMetrics = "startsWith(metric_name, 'system.')"
	eventually(t, "this host's metrics in ClickHouse", func() bool { return count("metrics", hostMetrics) > 0 })
	if took, most := time.Since(began), time.Duration(rig.Busy()*float64(localVisible)); took > most {
		t.Errorf("this host's metrics took %v to be seen, more than %v", took, most)
	}
	eventually(t, "the cell's own logs in ClickHouse", func() bool { return count("logs", "1") > 0 })
	state, err := cell.ReadState(data)
	if err != nil {
		t.Fatal(err)
	}
	var lake struct{ Pyiceberg, DuckDB int }
	eventually(t, "this host's metrics in the lake", func() bool {
		pytest.RunJSON(t, &lake, hostMetricsScript, state.Endpoints.Catalog, state.Endpoints.Warehouse)
		return lake.Pyiceberg > 0 && lake.DuckDB == lake.Pyiceberg
	})
	t.Logf("the lake has %+v rows of this host's metrics", lake)
	cmd := exec.Command(pytest.Python(t), "-")
	cmd.Dir, cmd.Stdin = home, strings.NewReader(readmesPython(t))
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "system.") {
		t.Errorf("the README's way to read the lake: %v\n%s", err, out)
	}

	aBrowserMaySend(t, state)
	noOtherPageReachesTheGateway(t, state)
	operatorsCommandsTellTheTruth(t, program, data, state)
	nobodyElseReadsTheCell(t, data, state)
	refusalsAreSeen(t, program, data)

	if !p.Stop(localStopping) {
		t.Fatalf("did not stop within %v of SIGTERM:\n%s", localStopping, p.Log())
	}
	p = start()
	eventually(t, "ClickHouse has more than before the second start", func() bool { return count("metrics", hostMetrics) > lake.Pyiceberg })
	first := query("SELECT min(ingest_time) FROM metrics")
	if state2, err := cell.ReadState(data); err != nil || first == "" || first > state2.Started.UTC().Format(time.DateTime) {
		t.Errorf("after the second start, at %v, the oldest row is of %q (%v)", state2.Started, first, err)
	}
	eventually(t, "pulsegrid status says that all is well", func() bool { // not before the parts have answered once
		out, err := exec.Command(program, "status", "--data", data).CombinedOutput()
		if err != nil {
			t.Logf("pulsegrid status: %v\n%s", err, out)
		}
		return err == nil
	})
}

// noOtherPageReachesTheGateway: not by sending what browsers send without asking first, nor by a domain that resolves to this machine.
func noOtherPageReachesTheGateway(t *testing.T, state cell.State) {
	t.Helper()
	_, port, _ := strings.Cut(state.Endpoints.HTTP, ":")
	for _, c := range []struct {
		host, origin, contentType string
		want                      int
	}{
		{"127.0.0.1", "", "application/json", http.StatusOK},
		{"localhost", webPage, "application/json", http.StatusOK},
		{"127.0.0.1", "", "text/plain", http.StatusUnsupportedMediaType},
		{"127.0.0.1", "http://somewhere.example", "text/plain", http.StatusForbidden},
		{"127.0.0.1", "http://somewhere.example", "application/json", http.StatusForbidden},
		{"somewhere.example", "", "application/json", http.StatusForbidden},
		{"somewhere.example", "http://somewhere.example:" + port, "application/json", http.StatusForbidden},
	} {
		for _, path := range []string{"/v1/logs", "/v1/events"} {
			body := map[string]string{"/v1/logs": `{}`, "/v1/events": ``}[path] // no event
			req, err := http.NewRequest(http.MethodPost, "http://"+state.Endpoints.HTTP+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = c.host + ":" + port
			req.Header.Set("Content-Type", c.contentType)
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != c.want {
				t.Errorf("%s of host %q, origin %q, content type %q: %s, want %d", path, c.host, c.origin, c.contentType, resp.Status, c.want)
			}
		}
	}
}

// refusalsAreSeen: what the checks before this one have been refused.
func refusalsAreSeen(t *testing.T, program, data string) {
	t.Helper()
	kinds := []*regexp.Regexp{
		regexp.MustCompile(`gateway errors: .*web_page \d+`),
		regexp.MustCompile(`(?m)^.* http 403 +web_page +- +127\.0\.0\.1 +(host|origin) `),
		regexp.MustCompile(`(?m)^.* http 415 +content_type +- +127\.0\.0\.1 +content type is "text/plain", want `),
		regexp.MustCompile(`(?m)^.* 1 +1 +http 200 +events_quarantined +default +127\.0\.0\.1 +1 events were put into quarantine`),
	}
	eventually(t, "each kind of refusal in pulsegrid status", func() bool {
		out, err := exec.Command(program, "status", "--data", data).CombinedOutput()
		for _, kind := range kinds {
			if !kind.Match(out) {
				t.Logf("pulsegrid status has no %s: %v\n%s", kind, err, out)
				return false
			}
		}
		return err == nil
	})
}

// aBrowserMaySend asks as a browser does before a page sends, for the page that --cors names and for another one.
func aBrowserMaySend(t *testing.T, state cell.State) {
	t.Helper()
	for origin, allowed := range map[string]string{webPage: webPage, "http://localhost:3001": ""} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, "http://"+state.Endpoints.HTTP+"/v1/traces", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		req.Header.Set("Access-Control-Request-Method", http.MethodPost)
		req.Header.Set("Access-Control-Request-Headers", "content-type,x-pulsegrid-tenant")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != allowed {
			t.Errorf("a page of %s: allowed origin %q, want %q (status %d)", origin, got, allowed, resp.StatusCode)
		}
	}
}

// nobodyElseReadsTheCell: not another user of the machine, neither by files nor by ClickHouse, and no web page.
func nobodyElseReadsTheCell(t *testing.T, data string, state cell.State) {
	t.Helper()
	entries, err := os.ReadDir(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v (%v)", e.Name(), info.Mode(), err)
		}
	}
	for _, query := range []string{"", "?user=default", "?add_http_cors_header=1", "?user=" + state.Endpoints.ClickHouseUser} {
		req, err := http.NewRequest(http.MethodPost, "http://"+state.Endpoints.ClickHouseHTTP+"/"+query, strings.NewReader("SELECT count() FROM pulsegrid.logs"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "text/plain")
		req.Header.Set("Origin", "http://somewhere.example")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode < http.StatusBadRequest {
			t.Errorf("ClickHouse answered %s to whoever asked with %q", resp.Status, query)
		}
	}
}

// operatorsCommandsTellTheTruth sends legacy events, one of which cannot be mapped, finds that one in quarantine and in
// the quarantine's tables of both stores, and has the cell audited.
func operatorsCommandsTellTheTruth(t *testing.T, program, data string, state cell.State) {
	t.Helper()
	events := `[{"type":"log","service":"legacy-test","message":"from long ago"},{"type":"riddle"}]`
	resp, err := http.Post("http://"+state.Endpoints.HTTP+"/v1/events", "application/json", strings.NewReader(events))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(answer), `"accepted":1`) {
		t.Errorf("POST /v1/events: %d %s (%v)", resp.StatusCode, answer, err)
	}
	list, err := exec.Command(program, "quarantine", "list", "--data", data, "--code", "unmapped").CombinedOutput()
	if err != nil || !strings.Contains(string(list), "unknown_type") {
		t.Errorf("pulsegrid quarantine list: %v\n%s", err, list)
	}
	eventually(t, "the quarantined event in ClickHouse", func() bool {
		out, err := exec.Command(program, "query", "--data", data, "--format", "TabSeparated",
			"SELECT position(body, 'riddle') > 0 FROM quarantine_pii WHERE code = 'unmapped'").CombinedOutput()
		return err == nil && strings.TrimSpace(string(out)) == "1"
	})
	eventually(t, "the quarantined event in the lake", func() bool {
		var found int
		pytest.RunJSON(t, &found, quarantinedScript, state.Endpoints.Catalog, state.Endpoints.Warehouse)
		return found == 1
	})
	if out, err := exec.Command(program, "tenant", "show", "default", "--data", data).CombinedOutput(); err != nil || !strings.Contains(string(out), "unmapped") {
		t.Errorf("pulsegrid tenant show: %v\n%s", err, out)
	}
	certificates := t.TempDir()
	eventually(t, "the audit finds all equal", func() bool { // not before both groups have committed what was just sent
		out, err := exec.Command(program, "audit", "--data", data, "--certificates", certificates).CombinedOutput()
		if err != nil {
			t.Logf("pulsegrid audit: %v\n%s", err, out)
		}
		return err == nil
	})
	if out, err := exec.Command(program, "audit", "verify", certificates).CombinedOutput(); err != nil {
		t.Errorf("pulsegrid audit verify: %v\n%s", err, out)
	}
}

// readmesPython is the script that the README shows.
func readmesPython(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(rig.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, found := strings.Cut(string(readme), "python3 - <<'PY'\n")
	script, _, ended := strings.Cut(script, "    PY\n")
	if !found || !ended {
		t.Fatal("the README shows no Python script")
	}
	return strings.ReplaceAll(strings.TrimPrefix(script, "    "), "\n    ", "\n")
}

// quarantinedScript counts the lake's quarantined events that could not be mapped.
const quarantinedScript = `
import json, sys
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
try:
    rows = SqlCatalog("pulsegrid", uri=sys.argv[1], warehouse=sys.argv[2]).load_table("pulsegrid.quarantine_pii").scan().to_arrow().to_pylist()
except NoSuchTableError:
    rows = []
print(json.dumps(sum(r["code"] == "unmapped" and b"riddle" in r["body"] for r in rows)))
`

// hostMetricsScript counts this host's metrics in the lake with two readers, as the README shows it.
const hostMetricsScript = `
import json, sys, duckdb
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import StartsWith
n = {"pyiceberg": 0, "duckdb": 0}
try:
    table = SqlCatalog("pulsegrid", uri=sys.argv[1], warehouse=sys.argv[2]).load_table("pulsegrid.metrics")
    n["pyiceberg"] = table.scan(row_filter=StartsWith("metric_name", "system."), selected_fields=("metric_name",)).to_arrow().num_rows
    files = [t.file.file_path.removeprefix("file://") for t in table.scan().plan_files()]
    if files:
        n["duckdb"] = duckdb.sql(f"select count(*) from read_parquet({files!r}) where starts_with(metric_name, 'system.')").fetchall()[0][0]
except NoSuchTableError:
    pass
print(json.dumps(n))
`
