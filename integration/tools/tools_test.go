// Package tools holds the views for Grafana, ClickStack and BI tools to what these tools ask of them: real events of every signal go through the exporter into the real
// ClickHouse engine, statements of the shape that the tools send run on the views, and each value of each answer is compared with what was sent.
package tools

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

var plugin = flag.String("plugin", "", "a checkout of grafana/clickhouse-datasource, 4.20.0: its dashboards' own statements run, in place of ours")

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(m)
}

// rowsOfGranule makes a few thousand rows many granules.
const rowsOfGranule = 128

// store is a ClickHouse that holds the input.
type store struct {
	*clickhousetest.Server
	in     *input
	source grafanaConfig
}

// fill makes the tables with small granules, and lets the exporter do the rest: its views, and the rows.
func fill(t *testing.T) store {
	ch := clickhousetest.Start(t)
	in := makeInput(t, ch)
	for _, s := range signal.All {
		for _, stmt := range columns.ForSignal(s).ClickHouseDDL(columns.DDLOptions{Database: "pulsegrid", TTLDays: 30}) {
			if strings.HasPrefix(stmt, "CREATE TABLE") {
				stmt += fmt.Sprintf(", index_granularity = %d", rowsOfGranule)
			}
			ch.Exec(stmt)
		}
	}
	f := clickhouseexporter.NewFactory()
	cfg := f.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"endpoint": ch.URL, "fsync": false}).Unmarshal(cfg))
	set := exporter.Settings{ID: component.NewID(f.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	logs, err := f.CreateLogs(t.Context(), set, cfg)
	require.NoError(t, err)
	traces, err := f.CreateTraces(t.Context(), set, cfg)
	require.NoError(t, err)
	metrics, err := f.CreateMetrics(t.Context(), set, cfg)
	require.NoError(t, err)
	for _, c := range []component.Component{logs, traces, metrics} {
		require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
		defer func() { require.NoError(t, c.Shutdown(t.Context())) }()
	}
	require.NoError(t, logs.ConsumeLogs(t.Context(), in.records()))
	require.NoError(t, traces.ConsumeTraces(t.Context(), in.traces()))
	require.NoError(t, metrics.ConsumeMetrics(t.Context(), in.metrics()))
	for _, table := range []string{"logs", "spans", "metrics"} {
		ch.Exec("OPTIMIZE TABLE pulsegrid." + table + " FINAL") // merges build skip indexes
	}
	return store{ch, in, dataSource(t)}
}

// ask runs a statement as the provisioned data source does, in its database and with its settings. Times are time.Time, numbers float64.
func (s store) ask(t *testing.T, sql string) [][]any {
	t.Helper()
	params := url.Values{"database": {s.source.DefaultDatabase}, "default_format": {"JSONCompactEachRow"}, "output_format_json_quote_64bit_integers": {"0"}}
	for _, c := range s.source.CustomSettings {
		params.Set(c.Setting, c.Value)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/?"+params.Encode(), strings.NewReader(sql))
	require.NoError(t, err)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s\n%s", sql, body)
	var out [][]any
	for dec := json.NewDecoder(strings.NewReader(string(body))); dec.More(); {
		var row []any
		require.NoError(t, dec.Decode(&row))
		out = append(out, canonical(row).([]any))
	}
	return out
}

var instant = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?$`)

// canonical makes values of an answer, and of an expectation, comparable.
func canonical(v any) any {
	switch v := v.(type) {
	case string:
		if instant.MatchString(v) {
			if t, err := time.Parse("2006-01-02 15:04:05.999999999", v); err == nil {
				return t
			}
		}
	case []any:
		for i := range v {
			v[i] = canonical(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = canonical(v[k])
		}
	case int:
		return float64(v)
	case uint64:
		return float64(v)
	}
	return v
}

func same(want, got any) bool {
	switch want := canonical(want).(type) {
	case oneOf:
		return slices.ContainsFunc(want, func(w any) bool { return same(w, got) })
	case float64:
		got, ok := got.(float64)
		return ok && math.Abs(want-got) <= 1e-12*max(1, math.Abs(want))
	case time.Time:
		got, ok := got.(time.Time)
		return ok && want.Equal(got)
	case []any:
		got, ok := got.([]any)
		return ok && slices.EqualFunc(want, got, same)
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok || len(got) != len(want) {
			return false
		}
		for k, w := range want {
			if g, ok := got[k]; !ok || !same(w, g) {
				return false
			}
		}
		return true
	default:
		return want == got
	}
}

func compare(a, b any) int {
	switch a := canonical(a).(type) {
	case float64:
		return cmp.Compare(a, canonical(b).(float64))
	case time.Time:
		return a.Compare(canonical(b).(time.Time))
	}
	return cmp.Compare(a.(string), b.(string))
}

// check holds got to a: as many rows, in this order, each one of those that are wanted.
func (a answer) check(t *testing.T, got [][]any) {
	t.Helper()
	require.NotEmpty(t, a.rows, "the input must let the statement find something")
	want := slices.Clone(a.rows)
	if a.by >= 0 {
		slices.SortStableFunc(want, func(x, y []any) int {
			if a.desc {
				x, y = y, x
			}
			return compare(x[a.by], y[a.by])
		})
	}
	if a.limit == 0 || a.limit > len(want) {
		a.limit = len(want)
	}
	require.Len(t, got, a.limit)
	for i, row := range got {
		if a.by >= 0 {
			require.True(t, same(want[i][a.by], row[a.by]), "row %d: want %v, got %v", i, want[i], row)
		}
		at := slices.IndexFunc(a.rows, func(w []any) bool { return same(w, row) })
		require.GreaterOrEqual(t, at, 0, "row %d is none that is wanted: %v\nthe row wanted at its place, or an equal one: %v", i, row, want[i])
	}
	for i := range got {
		for j := range i {
			require.False(t, same(got[i], got[j]), "twice: %v", got[i])
		}
	}
}

// choices with which each statement is run.
var choices = map[string]choice{
	"all":    {},
	"chosen": {services: []string{"checkout", "cart"}, levels: []string{"ERROR", "WARN", "Fatal"}, operations: []string{"POST /pay/0", "POST /pay/2", "POST /pay/3", "reserve", "POST", "GET /shop"}, statuses: []string{"Error", "Ok"}, minDuration: "3"},
	"typed":  {search: "PAY"},
}

// Scenario: each statement of the three dashboards that the plugin brings, with all values chosen, with some, and with a text typed.
// Guarantees: it runs on the views and returns what was sent; each read of it leaves granules out that lie outside of the range.
func TestTools(t *testing.T) {
	s := fill(t)
	t.Run("dashboards", func(t *testing.T) {
		sql := map[string]string{}
		for _, st := range statements() {
			for _, name := range append(st.more, st.name) {
				sql[name] = st.sql
			}
		}
		if *plugin != "" {
			own := pluginStatements(t, *plugin)
			for name := range own {
				require.Contains(t, sql, name, "a statement that no expectation stands for")
			}
			require.Len(t, own, len(sql))
			sql = own
		}
		for _, st := range statements() {
			for _, name := range append(st.more, st.name) {
				for title, c := range choices {
					t.Run(name+"/"+title, func(t *testing.T) {
						want := st.want(s.in, c)
						q := expand(sql[name], s.in, c)
						if len(want.rows) == 0 && title != "all" {
							require.Empty(t, s.ask(t, q))
						} else {
							want.check(t, s.ask(t, q))
						}
						s.requirePruned(t, q)
					})
				}
			}
		}
	})
	t.Run("trace view", s.traceView)
	t.Run("query builder", s.queryBuilder)
	t.Run("ClickStack", s.clickStack)
	t.Run("metrics", s.metrics)
	t.Run("flat", s.flat)
	t.Run("pruning", s.pruning)
	t.Run("provisioning", s.provisioned)
}

// pluginStatements are the statements of a checkout's dashboards: dashboard/title/refId, dashboard/variable/name, dashboard/annotation/name. One of a name that
// occurred before has #2, #3, ... behind it.
func pluginStatements(t *testing.T, dir string) map[string]string {
	type target struct{ RawSQL, RefID string }
	type panel struct {
		Title   string
		Targets []target
		Panels  []panel
	}
	out := map[string]string{}
	for _, d := range []string{"otel-logs-explorer", "otel-traces-explorer", "otel-service-dashboard"} {
		text, err := os.ReadFile(filepath.Join(dir, "src", "dashboards", d+".json"))
		require.NoError(t, err)
		var dashboard struct {
			Panels      []panel
			Annotations struct {
				List []struct {
					Name   string
					Target target
				}
			}
			Templating struct {
				List []struct {
					Name, Type string
					Query      json.RawMessage
				}
			}
		}
		require.NoError(t, json.Unmarshal(text, &dashboard))
		put := func(name, sql string) {
			key := d + "/" + name
			for n := 2; out[key] != ""; n++ {
				key = d + "/" + name + "#" + strconv.Itoa(n)
			}
			out[key] = sql
		}
		for _, v := range dashboard.Templating.List {
			if v.Type == "query" {
				var q target
				require.NoError(t, json.Unmarshal(v.Query, &q))
				put("variable/"+v.Name, q.RawSQL)
			}
		}
		for _, a := range dashboard.Annotations.List {
			if a.Target.RawSQL != "" {
				put("annotation/"+a.Name, a.Target.RawSQL)
			}
		}
		var walk func([]panel)
		walk = func(panels []panel) {
			for _, p := range panels {
				for _, q := range p.Targets {
					put(strings.TrimSpace(p.Title)+"/"+q.RefID, q.RawSQL)
				}
				walk(p.Panels)
			}
		}
		walk(dashboard.Panels)
	}
	return out
}

var (
	read             = regexp.MustCompile(`\bReadFromMergeTree`) // not LazilyReadFromMergeTree, which fetches columns of rows that are found already
	selectedGranules = regexp.MustCompile(`Parts: \d+ \| Granules: (\d+)`)
	ofGranules       = regexp.MustCompile(`Granules: (\d+)/(\d+)`)
)

// granules are, for each read of a statement, how many granules it takes, and of how many.
func (s store) granules(t *testing.T, sql string) (taken, of []int) {
	t.Helper()
	plan := ""
	for _, row := range s.ask(t, "EXPLAIN indexes = 1 "+sql) {
		plan += row[0].(string) + "\n"
	}
	for _, step := range read.Split(plan, -1)[1:] {
		m := ofGranules.FindAllStringSubmatch(step, -1)
		require.NotEmpty(t, m, plan)
		n, err := strconv.Atoi(m[len(m)-1][1])
		require.NoError(t, err)
		all, err := strconv.Atoi(m[0][2])
		require.NoError(t, err)
		if head := selectedGranules.FindStringSubmatch(step); head != nil {
			n, err = strconv.Atoi(head[1])
			require.NoError(t, err)
		}
		taken, of = append(taken, n), append(of, all)
	}
	require.NotEmpty(t, taken, plan)
	return taken, of
}

func (s store) requirePruned(t *testing.T, sql string) {
	t.Helper()
	taken, of := s.granules(t, sql)
	for i := range taken {
		require.Less(t, taken[i], of[i], sql)
	}
}
