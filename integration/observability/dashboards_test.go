package observability_test

import (
	"encoding/json"
	"errors"
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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/cell"
)

// board is what Grafana reads of a dashboard to ask its questions.
type board struct {
	Panels     []picture
	Templating struct{ List []choice }
}

type picture struct {
	Type, Title string
	Targets     []target
}

type target struct {
	Expr         string
	LegendFormat string
	Instant      bool
	RawSQL       string `json:"rawSql"`
	Format       any    // of SQL a number
}

// choice is a variable.
type choice struct {
	Name, Type string
	Query      string
	Datasource struct{ Type string }
	Multi      bool
}

// boards are the files of dashboards/, by name.
func boards(t *testing.T) map[string]board {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(rig.Root(), "dashboards", "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 10)
	out := map[string]board{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var b board
		require.NoError(t, json.Unmarshal(text, &b))
		out[strings.TrimSuffix(filepath.Base(file), ".json")] = b
	}
	return out
}

// empty are the panels, or DASHBOARD: PANEL: LEGEND, that a healthy cell on one machine has nothing for, and why.
var empty = map[string]string{
	"cell: Disk left":                                  "no node exporter here",
	"cell: Clocks off by":                              "no node exporter here",
	"kafka: Partitions under min ISR":                  "no brokers' exporter here: the local cell's Kafka is in process",
	"clickhouse: Disk left":                            "no ClickHouse exporter here: the engine has no endpoint for Prometheus",
	"clickhouse: Errors by exception":                  "no insert fails",
	"gateway: Requests that Kafka did not take":        "Kafka takes every request",
	"kafka: Requests that were not acknowledged":       "Kafka takes every request",
	"aggregator: Tries again":                          "no delivery fails",
	"quarantine: Refused behind Kafka":                 "no store refuses a record",
	"quarantine: Kept nowhere":                         "quarantine keeps what is refused",
	"aggregator: Enrichment: forged":                   "nobody sends reserved attributes",
	"aggregator: Enrichment: untimed":                  "each event has a time",
	"lake: Attempts and conflicts: conflicts {{cell}}": "nobody else commits",
	"kafka: Objects set aside":                         "the counter is there once an object is damaged",
}

// asked is one query of one panel.
type asked struct {
	where string
	as    string // type of the panel
	target
}

// sources are what Grafana's data sources would ask.
type sources struct {
	prometheus, clickHouse string            // URLs
	values                 map[string]string // of variables with one value
}

// get reads JSON of an HTTP API.
func get(address string, out any) error {
	resp, err := http.Get(address)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return json.Unmarshal(text, out)
}

// expand writes PromQL as Grafana sends it: with the values of variables, or all of them.
func (s sources) expand(expr string) string {
	expr = strings.ReplaceAll(expr, "$__rate_interval", "15s")
	return regexp.MustCompile(`(=~?)"\$(\w+)"`).ReplaceAllStringFunc(expr, func(m string) string {
		operator, name, _ := strings.Cut(strings.TrimSuffix(m, `"`), `"$`)
		if operator == "=~" {
			return `=~".*"`
		}
		return fmt.Sprintf("=%q", s.values[name])
	})
}

// promQL asks Prometheus and tells what is wrong with the answer.
func (s sources) promQL(a asked) error {
	query := url.Values{"query": {s.expand(a.Expr)}}
	path, want := "/api/v1/query", "vector"
	if !a.Instant {
		now := time.Now()
		query.Set("start", strconv.FormatInt(now.Add(-30*time.Second).Unix(), 10))
		query.Set("end", strconv.FormatInt(now.Unix(), 10))
		query.Set("step", "5")
		path, want = "/api/v1/query_range", "matrix"
	}
	if strings.Contains(query.Get("query"), "$") {
		return fmt.Errorf("nothing is known of what is left: %s", query.Get("query"))
	}
	var answer struct {
		Data struct {
			ResultType string
			Result     []struct {
				Metric map[string]string
				Value  [2]any
				Values [][2]any
			}
		}
	}
	if err := get(s.prometheus+path+"?"+query.Encode(), &answer); err != nil {
		return err
	}
	if answer.Data.ResultType != want {
		return fmt.Errorf("is a %s, want a %s", answer.Data.ResultType, want)
	}
	finite := false
	for _, r := range answer.Data.Result {
		for _, point := range append(r.Values, r.Value) {
			text, _ := point[1].(string) // of a range, r.Value is empty
			if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
				finite = true
			}
		}
		for _, m := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(a.LegendFormat, -1) {
			if r.Metric[m[1]] == "" {
				return fmt.Errorf("the legend %q asks for a label that is not there: %v", a.LegendFormat, r.Metric)
			}
		}
	}
	if !finite {
		return errEmpty
	}
	return nil
}

var errEmpty = errors.New("is empty")

// rows are an answer of ClickHouse.
type rows struct {
	Meta       []struct{ Name, Type string }
	Data       []map[string]any
	Statistics struct {
		Read int `json:"rows_read"`
	}
}

// sql expands a statement as Grafana's ClickHouse plugin 4.20 does, for a time and for all tenants or these, and runs it.
func (s sources) sql(statement string, from, to time.Time, tenants ...string) (rows, error) {
	const interval = 60 // seconds
	all := "1=1"
	if len(tenants) > 0 {
		all = "$1"
		statement = strings.ReplaceAll(statement, "($tenant)", "('"+strings.Join(tenants, "','")+"')")
	}
	for _, macro := range [][2]string{
		{`\$__conditionalAll\((\w+ IN \([^)]*\)), \$\w+\)`, all},
		{`\$__timeFilter\((\w+)\)`, fmt.Sprintf("$1 >= toDateTime(%d) AND $1 <= toDateTime(%d)", from.Unix(), to.Unix())},
		{`\$__timeInterval\((\w+)\)`, fmt.Sprintf("toStartOfInterval(toDateTime($1), INTERVAL %d second)", interval)},
		{`\$__fromTime\b`, fmt.Sprintf("toDateTime(%d)", from.Unix())},
		{`\$__interval_s\b`, strconv.Itoa(interval)},
	} {
		statement = regexp.MustCompile(macro[0]).ReplaceAllString(statement, macro[1])
	}
	var out rows
	if strings.Contains(statement, "$") {
		return out, fmt.Errorf("nothing is known of what is left: %s", statement)
	}
	resp, err := http.Post(s.clickHouse+"/?readonly=2&default_format=JSON&output_format_json_quote_64bit_integers=0", "text/plain", strings.NewReader(statement))
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return out, err
	}
	if resp.StatusCode != http.StatusOK {
		return out, fmt.Errorf("%s: %s", text, statement)
	}
	return out, json.Unmarshal(text, &out)
}

// table asks ClickHouse, for all tenants and for one, and tells what is wrong with the answers.
func (s sources) table(a asked) error {
	number := regexp.MustCompile(`^(U?Int|Float|Decimal)`)
	for _, tenants := range [][]string{nil, {"acme"}} {
		now := time.Now()
		r, err := s.sql(a.RawSQL, now.Add(-time.Hour), now, tenants...)
		if err != nil {
			return err
		}
		if a.as == "timeseries" {
			if a.Format != 0.0 || len(r.Meta) < 2 || r.Meta[0].Name != "time" || !strings.HasPrefix(r.Meta[0].Type, "DateTime") || !number.MatchString(r.Meta[len(r.Meta)-1].Type) {
				return fmt.Errorf("is no time series: %v, format %v", r.Meta, a.Format)
			}
		} else if a.Format != 1.0 {
			return fmt.Errorf("has format %v, want 1, a table", a.Format)
		}
		if len(r.Data) == 0 {
			return errEmpty
		}
		if len(tenants) > 0 && strings.Contains(a.RawSQL, "$tenant") && slices.ContainsFunc(r.Data, func(row map[string]any) bool { return row["tenant"] != nil && row["tenant"] != tenants[0] }) {
			return fmt.Errorf("shows another tenant than the one that is chosen: %v", r.Data)
		}
	}
	return nil
}

// choose asks for a variable's values.
func (s sources) choose(v choice) (values []string, err error) {
	if v.Datasource.Type == "prometheus" {
		m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Query)
		if m == nil {
			return nil, fmt.Errorf("%q is no label_values(SERIES, LABEL)", v.Query)
		}
		var answer struct{ Data []string }
		err = get(s.prometheus+"/api/v1/label/"+m[2]+"/values?"+url.Values{"match[]": {s.expand(m[1])}}.Encode(), &answer)
		return answer.Data, err
	}
	r, err := s.sql(v.Query, time.Now().Add(-time.Hour), time.Now())
	for _, row := range r.Data {
		value, _ := row[r.Meta[0].Name].(string) // what is none is seen as empty
		values = append(values, value)
	}
	return values, err
}

// Scenario: a cell at work: a gateway of `pulsegrid local`, one with TLS, tenants, schemas and a spill, senders good and bad, a probe, an evaluator of alerts, an audit, and a Prometheus that
// scrapes all of it and has the rules.
// Guarantees: each query of each panel, with Grafana's macros and variables written out, is taken by Prometheus or ClickHouse, is of the type that the panel draws, has labels for its legend, and is not empty
// unless `empty` says why. SQL shows the chosen tenant only, reads no row of days before the time that is chosen, and an answer that would cost more than it may is refused. Each variable has values.
func TestEachPanelShowsARunningCell(t *testing.T) {
	c := start(t)
	state, err := cell.ReadState(filepath.Join(c.shell.Dir, "pulsegrid-data"))
	require.NoError(t, err)
	to := state.Endpoints
	gateway := startGateway(t, to.Kafka)
	gateway.sendAllTheTime(t)
	verdict := filepath.Join(c.shell.Dir, "pulsegrid.prom")
	require.Eventually(t, func() bool { // the lake may be a commit behind
		_, err := c.shell.Run("pulsegrid audit --from 2h --quiet --metrics pulsegrid.prom")
		if err != nil {
			_, err = os.Stat(verdict) // whatever it says, dashboards show it
		}
		return err == nil
	}, patience, time.Second)
	seen := rig.FreeAddr()
	probe := rig.NewProcess(nil, []string{seen}, filepath.Join(rig.Root(), "_build", "pulsegrid"), "probe", "--data", filepath.Join(c.shell.Dir, "pulsegrid-data"), "--interval", "2s", "--metrics", seen)
	require.NoError(t, probe.Start(starts))
	stopAfter(t, probe)
	_, evaluated := evaluate(t, c.shell.Dir, receive(t).URL, "states.json")
	node, err := rig.StartNodeExporter(c.shell.Dir)
	require.NoError(t, err)
	stopAfter(t, node.Process)
	s := sources{
		prometheus: startPrometheus(t, map[string][]string{
			"pulsegrid-gateway": {host(t, to.GatewayMetrics), gateway.metrics}, "pulsegrid-aggregator": {host(t, to.AggregatorMetrics)}, "node": {host(t, node.URL)}, "pulsegrid-probe": {seen},
			"pulsegrid-alerts": {evaluated},
		}),
		clickHouse: (&url.URL{Scheme: "http", Host: to.ClickHouseHTTP, User: url.UserPassword(to.ClickHouseUser, to.ClickHousePassword)}).String(),
		values:     map[string]string{"cell": "local"},
	}

	all := boards(t)
	var waiting []asked
	known := map[string]bool{}
	for name, b := range all {
		for _, p := range b.Panels {
			for _, q := range p.Targets {
				a := asked{name + ": " + p.Title, p.Type, q}
				known[a.where], known[a.where+": "+q.LegendFormat] = true, true
				waiting = append(waiting, a)
			}
		}
	}
	for where := range empty {
		require.True(t, known[where], "`empty` names %s, which does not exist", where)
	}
	problems := map[string]error{}
	deadline := time.Now().Add(patience)
	for count := len(waiting); len(waiting) > 0 && time.Now().Before(deadline); time.Sleep(time.Second) {
		waiting = slices.DeleteFunc(waiting, func(a asked) bool {
			ask := s.promQL
			if a.RawSQL != "" {
				ask = s.table
			}
			key := a.where + ": " + a.LegendFormat
			err := ask(a)
			if errors.Is(err, errEmpty) && (empty[a.where] != "" || empty[key] != "") {
				err = nil
			}
			if delete(problems, key); err != nil {
				problems[key] = err
			}
			return err == nil
		})
		t.Logf("%d of %d queries are answered as they should be", count-len(waiting), count)
	}
	assert.Empty(t, problems)

	for name, b := range all {
		for _, v := range b.Templating.List {
			if v.Type != "query" {
				continue
			}
			values, err := s.choose(v)
			assert.NoError(t, err, "%s: $%s", name, v.Name)
			assert.NotEmpty(t, values, "%s: $%s", name, v.Name)
			assert.NotContains(t, values, "", "%s: $%s", name, v.Name)
			if v.Name == "tenant" {
				assert.Subset(t, values, []string{"acme", "small"})
			}
		}
		for _, p := range b.Panels {
			for _, q := range p.Targets {
				if !strings.Contains(q.RawSQL, "pulsegrid.") {
					continue
				}
				later := time.Now().Add(72 * time.Hour)
				r, err := s.sql(q.RawSQL, later, later.Add(time.Hour))
				assert.NoError(t, err)
				assert.Zero(t, r.Statistics.Read, "%s: %s reads rows of days that are not asked for", name, p.Title)
				_, err = s.sql(regexp.MustCompile(`max_rows_to_read = \d+`).ReplaceAllString(q.RawSQL, "max_rows_to_read = 1"), time.Now().Add(-time.Hour), time.Now())
				assert.ErrorContains(t, err, "TOO_MANY_ROWS", "%s: %s", name, p.Title)
			}
		}
	}
}
