package aggregate

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
)

const goodModel = `description: spans by hour
owner: somebody
engines: [clickhouse]
schedule: 10m
sources:
  - table: spans
partition: {column: time, size: hour}
allowed_lateness: 10m
rebuild: 24h
target:
  table: spans_by_hour
  retention_days: 30
  columns:
    - {name: tenant_id, type: LowCardinality(String), doc: tenant}
    - {name: time, type: DateTime('UTC'), doc: begin of the hour}
    - {name: spans, type: UInt64, doc: how many}
grain: [tenant_id, time]
tests:
  - range: {column: spans, min: 1}
`

const goodQuery = `-- a comment; with a ' and now()
SELECT tenant_id, toStartOfHour(toDateTime(s.time)) AS h, count() AS spans, 'now(); LIMIT' AS text FROM spans AS s GROUP BY ALL`

func directory(model, query string) fstest.MapFS {
	return fstest.MapFS{"m.yaml": {Data: []byte(model)}, "m.sql": {Data: []byte(query)}, "README.md": {}}
}

// Guarantee: a definition that is wrong is refused with the key and the value; nothing that is unknown is passed over.
func TestAWrongModelIsRefusedByItsKey(t *testing.T) {
	_, err := Load(directory(goodModel, goodQuery))
	require.NoError(t, err)
	for name, tc := range map[string]struct{ old, new, want string }{
		"unknown key":       {"owner: somebody", "owner: somebody\nretries: 3", "field retries not found"},
		"key twice":         {"owner: somebody", "owner: somebody\nowner: other", "already defined"},
		"two documents":     {"owner: somebody", "owner: somebody\n---\na: b", "more than one document"},
		"no owner":          {"owner: somebody", "owner: ' '", "owner: is missing"},
		"schedule":          {"schedule: 10m", "schedule: sometimes", "cannot unmarshal"},
		"no schedule":       {"schedule: 10m", "schedule: 0s", "schedule: want how often"},
		"engine":            {"[clickhouse]", "[oracle]", `engines: "oracle": want clickhouse, duckdb or athena`},
		"source":            {"table: spans\npart", "table: ledger\npart", `sources: table: "ledger": want logs, metrics or spans`},
		"lookback":          {"- table: spans\n", "- {table: spans, lookback: 90m}\n", "sources: lookback: 1h30m0s: want whole hours"},
		"cutoff":            {"- table: spans\n", "- {table: spans, cutoff: now}\n", `sources: cutoff: "now": want partition_end`},
		"size":              {"size: hour", "size: week", `partition: size: "week": want hour or day`},
		"partition column":  {"{column: time,", "{column: tenant_id,", `partition: column: "tenant_id": want a column of the type DateTime('UTC')`},
		"rebuild":           {"rebuild: 24h", "rebuild: 10m", "rebuild: 10m0s: want a partition (1h0m0s) at least"},
		"too many":          {"retention_days: 30", "retention_days: 300", "300 days are more than 5000 partitions of a hour"},
		"own table":         {"table: spans_by_hour", "table: spans_1m", `"spans_1m" is a table of PulseGrid's own`},
		"the builds' table": {"table: spans_by_hour", "table: aggregate_builds", "is a table of PulseGrid's own"},
		"null":              {"type: UInt64", "type: Nullable(UInt64)", `target: columns: spans: type "Nullable(UInt64)"`},
		"type":              {"type: UInt64", "type: 'UInt64) ENGINE = Log --'", "want a type of ClickHouse"},
		"no doc":            {"doc: how many", "doc: ''", "target: columns: spans: doc is missing"},
		"grain":             {"grain: [tenant_id, time]", "grain: [tenant, time]", `grain: "tenant" is no column of the target`},
		"test of nothing":   {"range: {column: spans, min: 1}", "range: {column: spans}", "tests: 1: range: want min, max or both"},
		"test's column":     {"column: spans, min", "column: span, min", `tests: 1: range: column: "span" is no column`},
		"two tests in one":  {"- range: {column: spans, min: 1}", "- range: {column: spans, min: 1}\n    holds: spans > 0", "tests: 1: want one of range, freshness, rows and holds"},
		"a test's query":    {"- range: {column: spans, min: 1}", "- holds: spans > (SELECT 1)", "tests: 1: holds: want an expression"},
		"lateness":          {"allowed_lateness: 10m", "allowed_lateness: -10m", "allowed_lateness: -10m0s: want 0 to 168h"},
		"empty":             {goodModel, "", "the file is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, 1, strings.Count(goodModel, tc.old), "the case changes what it means to")
			_, err := Load(directory(strings.Replace(goodModel, tc.old, tc.new, 1), goodQuery))
			require.ErrorContains(t, err, tc.want)
			require.ErrorContains(t, err, "model m: ")
		})
	}
}

// Guarantee: a query whose answer could be another one for the same rows does not become a model.
func TestAQueryThatIsNotAFunctionOfItsRowsIsRefused(t *testing.T) {
	for name, tc := range map[string]struct{ query, want string }{
		"empty":                {" -- nothing", "query: is empty"},
		"no SELECT":            {"DROP TABLE spans", `begins with "DROP"`},
		"two":                  {"SELECT 1; DROP TABLE spans", "';'"},
		"breaks out":           {"SELECT 1) FROM spans --", "a ) without its ("},
		"open":                 {"SELECT (1 FROM spans", "1 ( without their )"},
		"now":                  {"SELECT\n now() FROM spans", "query: line 2: now(): its answer is another one each time"},
		"now, hidden":          {"SELECT `NOW` /* ( */ () FROM spans", "NOW(): its answer is another one"},
		"now of a state":       {"SELECT countIf(time < Now64(3)) FROM spans", "Now64()"},
		"today":                {"SELECT today() FROM spans", "today()"},
		"without brackets":     {"SELECT CURRENT_TIMESTAMP FROM spans", "CURRENT_TIMESTAMP: its answer"},
		"random":               {"SELECT generateUUIDv4() FROM spans", "generateUUIDv4()"},
		"any":                  {"SELECT any(name) FROM spans", "any(): its answer depends on the order"},
		"combined":             {"SELECT anyLastIf(name, 1) FROM spans", "anyLastIf(): its answer depends on the order"},
		"twice combined":       {"SELECT quantileOrNullIf(0.5)(x, 1) FROM spans", "quantileOrNullIf(): its answer depends on the order"},
		"reservoir":            {"SELECT quantile(0.9)(duration_nano) FROM spans", "use quantileDD or quantileExact"},
		"array":                {"SELECT groupArray(name) FROM spans", "groupArray(): its order"},
		"limit":                {"SELECT name FROM spans LIMIT 1", "LIMIT: which rows it keeps"},
		"any join":             {"SELECT 1 FROM spans ANY JOIN logs USING (x)", "ANY: its answer depends on the order"},
		"settings":             {"SELECT 1 FROM spans SETTINGS max_threads = 9", "SETTINGS: the job decides"},
		"another parameter":    {"SELECT {when:DateTime} FROM spans", "{when:...}: want from or to"},
		"dictionary":           {"SELECT dictGetString('d', 'x', 1) FROM spans", "dictGetString(): it reads what is not in the sources"},
		"text that goes on":    {"SELECT 'a FROM spans", "does not end"},
		"comment that goes on": {"SELECT /* a FROM spans", "a comment that does not end"},
		"long":                 {"SELECT 1 --" + strings.Repeat("x", definitionMost), "m.sql: is longer than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(directory(goodModel, tc.query))
			require.ErrorContains(t, err, tc.want)
		})
	}
	for _, query := range []string{
		"WITH x AS (SELECT 1) SELECT \"limit\", x.any, now AS top, {from:DateTime('UTC')}, { to : DateTime64(9, 'UTC') }, formatDateTime(time, '%F'), 1e-3, 'it''s \\' now()' FROM spans",
		"select quantileDD(0.01, 0.9)(x), quantileExactIf(0.5)(x, y), argMinIf(a, b, c), groupArraySorted(10)(x), uniqExact(x), sumMap(m) from spans",
	} {
		require.NoError(t, checkQuery(EngineClickHouse, query), query)
	}
}

// Guarantees: an engine has the query of its own file, else that of NAME.sql, and its version goes by it; a file for an engine that the model does not allow, or that there is none of, is
// refused, and so is a query that DuckDB could answer otherwise each time.
func TestAnEngineHasAQueryOfItsOwn(t *testing.T) {
	both := strings.Replace(goodModel, "[clickhouse]", "[clickhouse, duckdb]", 1)
	const duck = "SELECT tenant_id, {from:TIMESTAMPTZ} AS time, count(*) AS spans FROM spans GROUP BY tenant_id"
	with := func(model, file, query string) fstest.MapFS {
		fs := directory(model, goodQuery)
		fs[file] = &fstest.MapFile{Data: []byte(query)}
		return fs
	}
	ms, err := Load(with(both, "m.duckdb.sql", duck))
	require.NoError(t, err)
	require.Len(t, ms, 1)
	require.Equal(t, []string{goodQuery, duck, goodQuery}, []string{ms[0].Query(EngineClickHouse), ms[0].Query(EngineDuckDB), ms[0].SQL})
	alone, err := Load(directory(goodModel, goodQuery))
	require.NoError(t, err)
	require.Equal(t, alone[0].Version(EngineClickHouse), ms[0].Version(EngineClickHouse), "tables that ClickHouse built stay as they are")
	require.NotEqual(t, ms[0].Version(EngineClickHouse), ms[0].Version(EngineDuckDB))
	begin, end := time.Date(2026, 10, 1, 5, 0, 0, 0, time.UTC), time.Date(2026, 10, 1, 6, 0, 0, 0, time.UTC)
	require.Equal(t, "SELECT '{to:X}', (TIMESTAMPTZ '2026-10-01 05:00:00.000000+00') , (TIMESTAMPTZ '2026-10-01 06:00:00.000000+00')",
		bindDuckDB("SELECT '{to:X}', {from:TIMESTAMPTZ} , { to : TIMESTAMPTZ }", begin, end))
	for want, fs := range map[string]fstest.MapFS{
		"engines: [clickhouse] do not have duckdb, of which there is a query":                     with(goodModel, "m.duckdb.sql", duck),
		`m.oracle.sql: NAME.ENGINE.sql: engine "oracle": want clickhouse, duckdb or athena`:       with(both, "m.oracle.sql", duck),
		"n.duckdb.sql: n.yaml is missing":                                                         with(both, "n.duckdb.sql", duck),
		"duckdb.sql: query: is empty":                                                             with(both, "m.duckdb.sql", "-- nothing"),
		"duckdb.sql: query: line 1: {from:DateTime}: want {from:TIMESTAMPTZ}":                     with(both, "m.duckdb.sql", strings.Replace(duck, "TIMESTAMPTZ", "DateTime", 1)),
		"duckdb.sql: query: line 1: get_current_timestamp(): its answer is another one each time": with(both, "m.duckdb.sql", "SELECT get_current_timestamp() AS time FROM spans"),
		"duckdb.sql: query: line 1: LIMIT: which rows it keeps":                                   with(both, "m.duckdb.sql", duck+" LIMIT 1"),
		"m.duckdb.sql: is longer than 65536 bytes":                                                with(both, "m.duckdb.sql", duck+strings.Repeat(" ", definitionMost)),
		"target: columns: spans: duckdb cannot give the type UUID: want String, Bool,":            with(strings.Replace(both, "UInt64", "UUID", 1), "m.duckdb.sql", duck),
	} {
		_, err := Load(fs)
		require.ErrorContains(t, err, want)
	}
}

func TestADirectoryHoldsModelsAndNothingElse(t *testing.T) {
	for name, tc := range map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"nothing":      {fstest.MapFS{"README.md": {}}, "no model is here"},
		"without SQL":  {fstest.MapFS{"m.yaml": {Data: []byte(goodModel)}}, "m.yaml: m.sql is missing"},
		"without YAML": {fstest.MapFS{"m.sql": {Data: []byte(goodQuery)}}, "m.sql: m.yaml is missing"},
		"other":        {fstest.MapFS{"m.yml": {}}, "m.yml: want NAME.yaml and NAME.sql"},
		"folder":       {fstest.MapFS{"a/m.yaml": {}}, "a: want NAME.yaml and NAME.sql"},
		"one table": {fstest.MapFS{"a.yaml": {Data: []byte(goodModel)}, "a.sql": {Data: []byte(goodQuery)}, "b.yaml": {Data: []byte(goodModel)}, "b.sql": {Data: []byte(goodQuery)}},
			"model b: target: table: spans_by_hour is that of model a"},
		"name":  {fstest.MapFS{"A-b.yaml": {Data: []byte(goodModel)}, "A-b.sql": {Data: []byte(goodQuery)}}, `name: "A-b": want small letters`},
		"large": {fstest.MapFS{"m.yaml": {Data: []byte(goodModel)}, "m.sql": {Data: make([]byte, definitionMost+1)}}, "m.sql: is longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(tc.files)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestAModelsVersionIsWhatItsTableDependsOn(t *testing.T) {
	version := func(model, query string) string {
		t.Helper()
		ms, err := Load(directory(model, query))
		require.NoError(t, err)
		return ms[0].Version(EngineClickHouse)
	}
	is := version(goodModel, goodQuery)
	require.NotEqual(t, is, version(goodModel, goodQuery+" "+"HAVING spans > 1"))
	require.NotEqual(t, is, version(strings.Replace(goodModel, "- table: spans", "- {table: spans, lookback: 1h}", 1), goodQuery))
	require.Equal(t, is, version(strings.Replace(goodModel, "min: 1", "min: 2", 1), goodQuery), "another test makes no other table")
	require.Equal(t, is, version(strings.Replace(goodModel, "somebody", "me", 1), goodQuery))
}
