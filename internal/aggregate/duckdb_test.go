package aggregate

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// duckRun is a DuckDB without a lake, for what needs none.
func duckRun(t *testing.T, program string) *DuckDB {
	t.Helper()
	d, err := NewDuckDB(DuckDBConfig{Program: program, Warehouse: "file://" + t.TempDir(), Threads: 1, MemoryMiB: 512, Longest: time.Minute}, nil)
	require.NoError(t, err)
	return d
}

// duckTree is the error of checkTree of a query over spans as DuckDB parses it.
func duckTree(t *testing.T, d *DuckDB, sql string) error {
	t.Helper()
	ms, err := Load(fstest.MapFS{"m.yaml": {Data: []byte(goodModel)}, "m.sql": {Data: []byte(goodQuery)}})
	require.NoError(t, err)
	out, err := d.run(t.Context(), "SELECT CAST(json_serialize_sql("+duckText(sql)+") AS VARCHAR) AS tree", "json")
	require.NoError(t, err)
	var answer struct{ Tree string }
	require.NoError(t, json.Unmarshal(out, &answer))
	return checkTree(ms[0], answer.Tree)
}

// Guarantee: a query that reads more than its sources, or whose answer could be another one for the same rows, is refused by what DuckDB itself takes it for, however it is written.
func TestDuckDBReadsItsSourcesAndNothingElse(t *testing.T) {
	d := duckRun(t, pytest.DuckDB(t))
	for name, tc := range map[string]struct{ query, want string }{
		"another table":   {"SELECT count(*) FROM logs", "it reads logs, which is not in the model's sources"},
		"of a catalog":    {"SELECT count(*) FROM main.spans", "it reads main.spans"},
		"the catalog":     {"SELECT * FROM information_schema.tables", "it reads information_schema.tables"},
		"a file":          {"SELECT * FROM '/etc/passwd.csv'", "it reads /etc/passwd.csv"},
		"a file, hidden":  {`WITH "x.csv" AS (SELECT 1) SELECT (SELECT max(a) FROM 'x.csv') FROM spans`, `WITH "x.csv": want small letters`},
		"a function":      {"SELECT * FROM spans, read_text('/etc/passwd')", "read_text(): it reads what is not in the sources"},
		"the environment": {"SELECT getenv('HOME') FROM spans", "getenv(): it reads what is not in the sources"},
		"two":             {"SELECT 1; SELECT 2", "2 statements: want one SELECT"},
		"no SELECT":       {"DROP TABLE spans", "Only SELECT statements"},
		"no SQL":          {"SELECT FROM WHERE", "DuckDB: syntax error"},
		"now":             {`SELECT "now"() FROM spans`, "now(): its answer is another one each time"},
		"now in a text":   {`SELECT '\' || now() || '\' FROM spans`, "now(): its answer"},
		"random":          {"SELECT x FROM (SELECT random() AS x FROM spans)", "random(): its answer"},
		"first":           {"SELECT first(name) FROM spans", "first(): its answer depends on the order in which rows are read: give it an ORDER BY"},
		"a list":          {"SELECT list(DISTINCT name) FILTER (time IS NOT NULL) FROM spans", "list(): its answer depends on the order"},
		"a window":        {"SELECT row_number() OVER (PARTITION BY name) FROM spans", "row_number(): its answer depends on the order"},
		"distinct on":     {"SELECT DISTINCT ON (name) name, time FROM spans", "DISTINCT ON: which rows it keeps"},
		"a limit":         {"SELECT name FROM spans ORDER BY name LIMIT 1", "LIMIT: which rows it keeps"},
		"a sample":        {"SELECT name FROM spans TABLESAMPLE 10%", "SAMPLE: which rows it keeps"},
		"by position":     {"SELECT * FROM spans POSITIONAL JOIN (SELECT name AS n FROM spans)", "POSITIONAL JOIN: which rows"},
		"a mode":          {"SELECT mode(name) FROM spans", "mode(): of values that are as frequent"},
	} {
		t.Run(name, func(t *testing.T) { require.ErrorContains(t, duckTree(t, d, tc.query), tc.want) })
	}
	for _, query := range []string{
		"WITH x AS (SELECT name, time FROM spans AS s) SELECT name, string_agg(name ORDER BY time), max(time) OVER (PARTITION BY name) FROM x, unnest([1, 2]) AS u(n) GROUP BY ALL",
		"SELECT quantile_cont(duration_nano, 0.9), arg_max(name, time), count_if(error('no') = 1), row_number() OVER (ORDER BY name) FROM spans",
	} {
		require.NoError(t, duckTree(t, d, query), query)
	}
	_, err := d.run(t.Context(), "SELECT * FROM read_text('/etc/hostname')", "json")
	require.ErrorContains(t, err, "Permission Error", "what the tree would not tell")
}

// Guarantee: each function that DuckDB itself does not call consistent is refused. error is as good as a division by zero.
func TestEachFunctionThatDuckDBCallsUnsteadyIsRefused(t *testing.T) {
	out, err := duckRun(t, pytest.DuckDB(t)).run(t.Context(), "SELECT DISTINCT function_name AS name FROM duckdb_functions() WHERE stability != 'CONSISTENT'", "json")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Greater(t, len(lines), 20)
	for _, line := range lines {
		var f struct{ Name string }
		require.NoError(t, json.Unmarshal([]byte(line), &f))
		if f.Name != "error" {
			require.NotEmpty(t, duckAdvice(f.Name), f.Name)
		}
	}
}

// Scenario: a program in DuckDB's place fails as a process does: it is not there, is killed, hangs, or writes without an end.
// Guarantees: each is an error that says so, within its time, with no answer; only what DuckDB refuses is the model's fault.
func TestADuckDBThatFailsGivesNoAnswer(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		script, want string
		refused      bool
	}{
		"refuses":        {"echo 'Conversion Error: no  number' >&2; exit 1", "DuckDB: Conversion Error: no number", true},
		"fails in peace": {"exit 3", "exit status 3", false},
		"killed":         {"echo half; kill -9 $$", "signal: killed", false},
		"hangs":          {"exec sleep 60", "DuckDB: it took longer than 300ms", false},
		"endless":        {"exec head -c 300000000 /dev/zero", "the answer is longer than 268435456 bytes", true},
	} {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\nexport PATH=/usr/bin:/bin\n"+tc.script+"\n"), 0o700))
			d := duckRun(t, program)
			if name == "hangs" {
				d.lake.Longest = 300 * time.Millisecond
			}
			out, err := d.run(t.Context(), "SELECT 1", "json")
			require.ErrorContains(t, err, tc.want)
			require.Empty(t, out)
			require.Equal(t, tc.refused, refused(err) != nil)
		})
	}
	_, err := duckRun(t, filepath.Join(dir, "none")).run(t.Context(), "SELECT 1", "json")
	require.ErrorContains(t, err, "no such file")
	_, err = NewDuckDB(DuckDBConfig{Warehouse: "s3://lake/warehouse"}, nil)
	require.ErrorContains(t, err, "the lake is in s3://lake/warehouse: DuckDB reads one in a directory only")
}
