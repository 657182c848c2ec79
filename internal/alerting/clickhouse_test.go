package alerting

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(leaktest.Patient(m))
}

// rig is a ClickHouse with the product's tables. end is the end of a minute, of which everything is stored.
type rig struct {
	*clickhousetest.Server
	t    testing.TB
	http *http.Client
	end  time.Time
	via  string // URL by which evaluators reach ClickHouse, as of a proxy; empty: its own
}

// TestOnClickHouse shares one engine. Each test has tenants of its own.
func TestOnClickHouse(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *rig)
	}{
		{"ShippedRulesFireAndDoNot", testShippedRulesFireAndDoNot},
		{"DocumentedRulesAreRight", testDocumentedRulesAreRight},
		{"ATenantsRuleSeesOnlyItsRows", testATenantsRuleSeesOnlyItsRows},
		{"HostileRulesAreRefused", testHostileRulesAreRefused},
		{"ARefusedRuleIsNeverRun", testARefusedRuleIsNeverRun},
		{"ParametersAreTexts", testParametersAreTexts},
		{"ARuleSeesCompleteBucketsOfItsWindowOnly", testARuleSeesCompleteBucketsOfItsWindowOnly},
		{"AWrongQueryIsRefusedWithItsPlace", testAWrongQueryIsRefusedWithItsPlace},
		{"ACostlyRuleIsEndedAndOthersGoOn", testACostlyRuleIsEndedAndOthersGoOn},
		{"AQueryWithoutEndIsTheRulesFailure", testAQueryWithoutEndIsTheRulesFailure},
		{"AQueryReadsTheWindowsGranulesOnly", testAQueryReadsTheWindowsGranulesOnly},
		{"AlertsFollowTheRows", testAlertsFollowTheRows},
		{"AStaleStoreNeverResolves", testAStaleStoreNeverResolves},
		{"ABucketWaitsForEventsThatAgentsKeepBack", testABucketWaitsForEventsThatAgentsKeepBack},
		{"AGapDoesNotCountTowardFor", testAGapDoesNotCountTowardFor},
		{"AColdStartThatFailsIsTriedAgain", testAColdStartThatFailsIsTriedAgain},
		{"StatesSurviveARestart", testStatesSurviveARestart},
		{"AFailingRuleWaitsForTheStoreAfterARestart", testAFailingRuleWaitsForTheStoreAfterARestart},
		{"TwoEvaluatorsGiveOneAlert", testTwoEvaluatorsGiveOneAlert},
		{"ABacktestSaysWhatWouldHaveFired", testABacktestSaysWhatWouldHaveFired},
	} {
		t.Run(c.name, func(t *testing.T) {
			own := *r
			own.t = t
			c.test(t, &own)
		})
	}
}

func newRig(t testing.TB) *rig {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 4}
	t.Cleanup(transport.CloseIdleConnections)
	r := &rig{Server: clickhousetest.Start(t), t: t, http: &http.Client{Transport: transport}, end: time.Now().UTC().Truncate(time.Minute)}
	for _, ddl := range tables(columns.ForSignal(signal.Logs), columns.ForSignal(signal.Traces), columns.ForSignal(signal.Metrics), columns.Quarantine, columns.QuarantinePII) {
		r.Exec(ddl)
	}
	return r
}

// tables are the statements that make tables and their rollups.
func tables(of ...*columns.Table) (ddl []string) {
	o := columns.DDLOptions{Database: "pulsegrid"}
	for _, t := range of {
		ddl = append(ddl, t.ClickHouseDDL(o)...)
		for _, r := range t.Rollups() {
			ddl = append(ddl, r.TableDDL(o), r.ViewDDL(o))
		}
	}
	return ddl
}

func (r *rig) store(b Bounds) *Store {
	r.t.Helper()
	c, err := clickhouse.NewClient(r.http, cmp.Or(r.via, r.URL), "", "")
	require.NoError(r.t, err)
	return NewStore(c, "pulsegrid", b)
}

// spans adds n server spans of a tenant's service, evenly within [from, to) before the rig's end, of which errors have failed.
func (r *rig) spans(tenant, service string, n, errors int, from, to, duration time.Duration) {
	r.rows("spans", tenant, service, n, from, to, "kind, status_code, duration_nano", fmt.Sprintf("'server', if(number < %d, 'error', 'ok'), %d", errors, duration.Nanoseconds()))
}

func (r *rig) logs(tenant, service string, n int, from, to time.Duration, severity int, body string) {
	r.rows("logs", tenant, service, n, from, to, "severity_number, body", fmt.Sprintf("%d, '%s'", severity, body))
}

func (r *rig) gauge(tenant, service, metric string, value float64, from, to time.Duration) {
	r.rows("metrics", tenant, service, int((from-to)/Tick), from, to, "metric_name, metric_type, value_type, value_double", fmt.Sprintf("'%s', 'gauge', 'double', %g", metric, value))
}

func (r *rig) rows(table, tenant, service string, n int, from, to time.Duration, names, values string) {
	r.t.Helper()
	r.Exec(fmt.Sprintf(`INSERT INTO pulsegrid.%s (tenant_id, service_name, time, ingest_time, event_id, %s)
SELECT '%s', '%s', fromUnixTimestamp64Nano(toInt64(%d + intDiv(%d * number, %d)), 'UTC') AS t, t + toIntervalSecond(1), unhex(hex(MD5(concat('%[1]s%[3]s%[4]s', toString(t), toString(number))))), %[8]s
FROM numbers(%[7]d)`, table, names, tenant, service, r.end.Add(-from).UnixNano(), (from - to).Nanoseconds(), n, values))
}

func (r *rig) group(tenant string, rules ...*Rule) *Group {
	for _, rule := range rules {
		if rule.Window == 0 {
			rule.Window = time.Minute
		}
		rule.file, rule.Limit = "test.yaml", defaultLimit
	}
	return &Group{Name: "g", Tenant: tenant, Interval: Tick, Freshness: 5 * time.Second, StaleAfter: time.Minute, Rules: rules}
}

// first is the value of a query's first row.
func (r *rig) first(tenant, sql string) (float64, error) {
	g := r.group(tenant, &Rule{Alert: "A", SQL: sql, Window: 24 * time.Hour})
	s := r.store(DefaultBounds)
	if _, err := s.Check(r.t.Context(), g, g.Rules[0]); err != nil {
		return 0, err
	}
	samples, err := s.Evaluate(r.t.Context(), g, g.Rules[0], r.end)
	if err != nil || len(samples) == 0 {
		return 0, err
	}
	return samples[0].Value, nil
}

const (
	minute = time.Minute
	hour   = time.Hour
)

// Scenario: for each rule that comes with PulseGrid, one tenant whose rows it is made for, and one whose rows are nearly so.
// Guarantees: it is active for the one and not for the other.
func testShippedRulesFireAndDoNot(t *testing.T, r *rig) {
	cases := map[string]struct{ fires, does func(tenant string) }{
		"ErrorRate": {
			func(tenant string) { r.spans(tenant, "api", 1000, 60, 5*minute, 0, time.Millisecond) },
			func(tenant string) {
				r.spans(tenant, "api", 1000, 40, 5*minute, 0, time.Millisecond)
				r.spans(tenant, "few", 50, 50, 5*minute, 0, time.Millisecond)
			},
		},
		"LatencyP99": {
			func(tenant string) {
				r.spans(tenant, "api", 900, 0, 5*minute, 0, 10*time.Millisecond)
				r.spans(tenant, "api", 100, 0, 5*minute, 0, 2*time.Second)
			},
			func(tenant string) {
				r.spans(tenant, "api", 995, 0, 5*minute, 0, 10*time.Millisecond)
				r.spans(tenant, "api", 5, 0, 5*minute, 0, 2*time.Second)
			},
		},
		"SpanErrorSurge": {
			func(tenant string) {
				r.spans(tenant, "api", 1200, 60, 65*minute, 5*minute, time.Millisecond)
				r.spans(tenant, "api", 100, 60, 5*minute, 0, time.Millisecond)
			},
			func(tenant string) {
				r.spans(tenant, "api", 1200, 600, 65*minute, 5*minute, time.Millisecond)
				r.spans(tenant, "api", 100, 60, 5*minute, 0, time.Millisecond)
				r.spans(tenant, "new", 100, 100, 5*minute, 0, time.Millisecond)
			},
		},
		"LogSurge": {
			func(tenant string) {
				r.logs(tenant, "api", 12000, 65*minute, 5*minute, 9, "ok")
				r.logs(tenant, "api", 11000, 5*minute, 0, 9, "ok")
			},
			func(tenant string) {
				r.logs(tenant, "api", 60000, 65*minute, 5*minute, 9, "ok")
				r.logs(tenant, "api", 11000, 5*minute, 0, 9, "ok")
			},
		},
		"LogPattern": {
			func(tenant string) { r.logs(tenant, "api", 1, minute, 0, 17, "PANIC: runtime error") },
			func(tenant string) {
				r.logs(tenant, "api", 5, minute, 0, 17, "no panic")
				r.logs(tenant, "api", 5, minute, 0, 9, "out of memory was read about")
				r.logs(tenant, "api", 5, 10*minute, 2*minute, 17, "panic: long ago")
			},
		},
		"Saturation": {
			func(tenant string) { r.gauge(tenant, "host", "system.filesystem.utilization", 0.95, minute, 0) },
			func(tenant string) {
				r.gauge(tenant, "host", "system.filesystem.utilization", 0.85, minute, 0)
				r.gauge(tenant, "host", "something.else", 0.95, minute, 0)
			},
		},
		"ConsumerLag": {
			func(tenant string) { r.gauge(tenant, "kafka", "kafka.consumer_group.lag", 20000, minute, 0) },
			func(tenant string) { r.gauge(tenant, "kafka", "kafka.consumer_group.lag", 9000, minute, 0) },
		},
		"ServiceSilent": {
			func(tenant string) {
				r.logs(tenant, "api", 400, 55*minute, 12*minute, 9, "ok")
				r.logs(tenant, "other", 400, 55*minute, 0, 9, "ok")
			},
			func(tenant string) {
				r.logs(tenant, "api", 400, 55*minute, 12*minute, 9, "ok")
				r.gauge(tenant, "api", "m", 1, 5*minute, 0)
				r.logs(tenant, "seldom", 2, 55*minute, 50*minute, 9, "ok")
			},
		},
		"TenantSilent": {
			func(tenant string) { r.logs(tenant, "api", 400, 100*minute, 20*minute, 9, "ok") },
			func(tenant string) {
				r.logs(tenant, "api", 400, 100*minute, 20*minute, 9, "ok")
				r.logs(tenant, "other", 1, minute, 0, 9, "ok")
			},
		},
		"NewService": {
			func(tenant string) { r.logs(tenant, "api", 10, 5*minute, 0, 9, "ok") },
			func(tenant string) {
				r.logs(tenant, "old", 1, 20*hour, 19*hour, 9, "ok")
				r.logs(tenant, "old", 10, 5*minute, 0, 9, "ok")
				r.logs(tenant, "younger", 10, 100*minute, 0, 9, "ok")
			},
		},
		"QuarantineShare": {
			func(tenant string) {
				r.quarantined(tenant, 200)
				r.logs(tenant, "api", 10000, 10*minute, 0, 9, "ok")
			},
			func(tenant string) {
				r.quarantined(tenant, 200)
				r.logs(tenant, "api", 30000, 10*minute, 0, 9, "ok")
			},
		},
	}
	groups, _, err := Shipped()
	require.NoError(t, err)
	s := r.store(DefaultBounds)
	// Also where a bucket of an hour has just ended, in which rows of the last minutes are.
	r.end = r.end.Truncate(hour).Add(2 * minute)
	if r.end.After(time.Now()) {
		r.end = r.end.Add(-hour)
	}
	for _, g := range groups {
		for _, rule := range g.Rules {
			c, ok := cases[rule.Alert]
			require.True(t, ok, "no test of %s", rule.Alert)
			delete(cases, rule.Alert)
			fires, does := strings.ToLower(rule.Alert)+"-fires", strings.ToLower(rule.Alert)+"-does-not"
			c.fires(fires)
			c.does(does)
			_, err := s.Check(t.Context(), g, rule)
			require.NoError(t, err)
			samples, err := s.Evaluate(t.Context(), g, rule, r.end)
			require.NoError(t, err, rule.Alert)
			tenants := map[string]Sample{}
			for _, s := range samples {
				tenants[s.Labels["tenant"]] = s
			}
			require.Contains(t, tenants, fires, rule.Alert)
			require.NotContains(t, tenants, does, rule.Alert)
			t.Logf("%s: %v %s", rule.Alert, tenants[fires], expand(rule.Annotations, tenants[fires])["summary"])
			require.NotContains(t, expand(rule.Annotations, tenants[fires])["summary"], "  ", "a label that is empty")
		}
	}
	require.Empty(t, cases)
}

func (r *rig) quarantined(tenant string, events int) {
	r.Exec(fmt.Sprintf("INSERT INTO pulsegrid.quarantine (tenant_id, code, time, ingest_time, event_id, events) SELECT '%s', 'c', fromUnixTimestamp64Nano(toInt64(%d), 'UTC') AS t, t, unhex(hex(MD5('%[1]s'))), %[3]d",
		tenant, r.end.Add(-minute).UnixNano(), events))
}

// Guarantees: the examples of the documents are rules that ClickHouse can run.
func testDocumentedRulesAreRight(t *testing.T, r *rig) {
	s := r.store(DefaultBounds)
	for _, g := range documented(t) {
		for _, rule := range g.Rules {
			_, err := s.Check(t.Context(), g, rule)
			require.NoError(t, err)
		}
	}
}

// Scenario: a tenant's rule that does its best to see the rows of another, by SQL that is allowed.
// Guarantees: it sees its own only, by whatever way it reads a table.
func testATenantsRuleSeesOnlyItsRows(t *testing.T, r *rig) {
	r.logs("mine", "a", 100, 10*minute, 0, 9, "mine")
	r.logs("theirs", "a", 300, 10*minute, 0, 9, "theirs")
	for _, c := range []struct {
		sql  string
		want float64
	}{
		{"SELECT count() AS value FROM logs", 100},
		{"SELECT count() AS value FROM logs WHERE 1 = 1 OR tenant_id = 'theirs'", 100},
		{"SELECT count() AS value FROM logs PREWHERE tenant_id = 'theirs'", 0},
		{"SELECT count() AS value FROM pulsegrid.logs AS theirs WHERE tenant_id != {tenant:String}", 0},
		{"SELECT sum(count) AS value FROM logs_10s WHERE tenant_id = 'theirs' OR 1", 100},
		{"SELECT sum(count) AS value FROM logs_1m", 100},
		{"SELECT count() AS value FROM (SELECT * FROM logs UNION ALL SELECT * FROM logs)", 200},
		{"SELECT uniqExact(tenant_id) AS value FROM logs", 1},
		{"WITH x AS (SELECT * FROM logs WHERE tenant_id = 'theirs' OR 1) SELECT count() AS value FROM x", 100},
		{"SELECT countIf(tenant_id IN (SELECT tenant_id FROM logs WHERE body = 'theirs')) AS value FROM logs", 0},
		{"SELECT toUInt8('theirs' IN (SELECT tenant_id FROM logs)) AS value", 0},
		{"SELECT toUInt64(assumeNotNull((SELECT count() FROM logs WHERE tenant_id = 'theirs'))) AS value", 0},
		{"SELECT count() AS value FROM logs AS a JOIN logs AS b ON a.service_name = b.service_name WHERE a.tenant_id != b.tenant_id", 0},
		{"SELECT count() AS value FROM logs AS a LEFT JOIN logs_10s AS b ON a.service_name = b.service_name WHERE b.tenant_id = 'theirs'", 0},
		{"SELECT toFloat64(max(tenant_id) = 'theirs') AS value FROM logs", 0},
	} {
		got, err := r.first("mine", c.sql)
		require.NoError(t, err, c.sql)
		require.Equal(t, c.want, got, c.sql)
	}
	got, err := r.first(AllTenants, "SELECT sum(count) AS value FROM logs_10s WHERE tenant_id IN ('mine', 'theirs')")
	require.NoError(t, err)
	require.Equal(t, 400., got, "a group of all tenants sees all")
}

// Scenario: a tenant's rule that tries to leave the conditions or the tables behind.
// Guarantees: it is refused by ClickHouse's own reading of it, before it is run; nothing of it is run.
func testHostileRulesAreRefused(t *testing.T, r *rig) {
	for sql, why := range map[string]string{
		// A SELECT within a query may set what the query itself may not: ClickHouse does not hold it against readonly.
		"SELECT count() AS value FROM (SELECT * FROM logs SETTINGS additional_table_filters = {})":         "has SETTINGS",
		"SELECT count() AS value FROM logs SETTINGS additional_table_filters = {}":                         "has SETTINGS",
		"SELECT 1 AS value WHERE 1 IN (SELECT 1 FROM logs SETTINGS max_execution_time = 0)":                "has SETTINGS",
		"WITH x AS (SELECT count() AS value FROM logs SETTINGS max_rows_to_read = 0) SELECT value FROM x":  "has SETTINGS",
		"SELECT value FROM (SELECT 1 AS value) SETTINGS readonly = 0":                                      "has SETTINGS",
		"SELECT count() AS value FROM merge('pulsegrid', '^logs$')":                                        "reads merge(): want tables",
		"SELECT count() AS value FROM merge(REGEXP('.*'), 'logs')":                                         "",
		"SELECT count() AS value FROM view(SELECT * FROM logs)":                                            "reads view()",
		"SELECT count() AS value FROM mergeTreeIndex('pulsegrid', 'logs')":                                 "reads mergeTreeIndex()",
		"SELECT sum(count) AS value FROM logs_10s_mv":                                                      "reads pulsegrid.logs_10s_mv: want tables of pulsegrid",
		"SELECT count() AS value FROM system.tables":                                                       "reads system.tables",
		"SELECT toUInt8('x' IN (SELECT name FROM system.users)) AS value":                                  "",
		"SELECT toUInt8(1 IN (SELECT count() FROM system.parts)) AS value":                                 "reads system.parts",
		"SELECT assumeNotNull((SELECT count() FROM system.query_log)) AS value":                            "",
		"SELECT count() AS value FROM information_schema.tables":                                           "reads ",
		"SELECT count() AS value FROM other.t":                                                             "ClickHouse error 81", // no such database
		"SELECT count() AS value FROM pulsegrid.quarantine_pii":                                            "reads pulsegrid.quarantine_pii",
		"SELECT count() AS value FROM logs AS a JOIN quarantine_pii AS b ON a.tenant_id = b.tenant_id":     "reads pulsegrid.quarantine_pii",
		"SELECT length(file('/etc/passwd')) AS value":                                                      "calls file(), which reads something else",
		"SELECT length(FILE('/etc/passwd')) AS value":                                                      "",
		"SELECT length(arrayMap(file, ['/etc/passwd'])[1]) AS value":                                       "calls file()",
		"SELECT * APPLY(length) FROM (SELECT * APPLY(file) FROM (SELECT '/etc/passwd' AS value))":          "calls file()",
		"SELECT count() AS value FROM file('/etc/passwd', 'LineAsString')":                                 "reads file(): want tables",
		"SELECT count() AS value FROM url('http://127.0.0.1:1/', 'LineAsString')":                          "reads url(): want tables",
		"SELECT count() AS value FROM s3('http://127.0.0.1:1/b/k', 'LineAsString')":                        "reads s3(): want tables",
		"SELECT count() AS value FROM remote('127.0.0.1:1', pulsegrid.logs)":                               "reads remote(): want tables",
		"SELECT toUInt8('x' IN url('http://127.0.0.1:1/', 'LineAsString')) AS value":                       "",
		"SELECT count() AS value FROM dictionary('d')":                                                     "reads dictionary(): want tables",
		"SELECT dictGet('d', 'a', 1) AS value":                                                             "calls dictget()",
		"SELECT joinGet('t', 'v', 1) AS value":                                                             "calls joinget()",
		"SELECT hasColumnInTable('pulsegrid', 'logs', 'body') AS value":                                    "calls hascolumnintable()",
		"SELECT length(getSetting('additional_table_filters')) AS value":                                   "calls getsetting()",
		"SELECT sleepEachRow(1) AS value FROM logs":                                                        "calls sleepeachrow()",
		"SELECT count() AS value FROM logs WHERE time > now() - 60":                                        "calls now(), which gives another answer each time",
		"SELECT count() AS value FROM numbers(10000000000)":                                                "reads numbers()",
		"SELECT 1 AS value INTO OUTFILE '/tmp/x'":                                                          "ClickHouse error 62",
		"SELECT 5 AS value) UNION ALL (SELECT toUInt8(count() = 300) FROM logs WHERE tenant_id = 'theirs'": "",
		"DROP TABLE logs":                                 "ClickHouse error 62",
		"SELECT 1 AS value) FORMAT Null -- ":              "ClickHouse error 62",
		"SELECT 1 AS value; DROP TABLE pulsegrid.logs":    "ClickHouse error 62",
		"SELECT count() AS value FROM (EXPLAIN SELECT 1)": "reads viewExplain()",
	} {
		_, err := r.first("mine", sql)
		wrong, ok := errors.AsType[*RuleError](err)
		require.True(t, ok, "%s: %v", sql, err)
		require.ErrorContains(t, wrong, why, sql)
		require.ErrorContains(t, wrong, "test.yaml:", sql)
	}
}

// front is a proxy before ClickHouse.
type front struct {
	mu         sync.Mutex
	statements []string // that were asked
}

// through has the rig's evaluators ask by a proxy. instead answers a statement in ClickHouse's place and returns true, or leaves it to ClickHouse.
func (r *rig) through(instead func(w http.ResponseWriter, req *http.Request, statement string) bool) *front {
	r.t.Helper()
	f := &front{}
	behind, err := url.Parse(r.URL)
	require.NoError(r.t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(behind) }, Transport: r.http.Transport}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return // the client has gone
		}
		f.mu.Lock()
		f.statements = append(f.statements, string(body))
		f.mu.Unlock()
		if !instead(w, req, string(body)) {
			req.Body = io.NopCloser(bytes.NewReader(body))
			proxy.ServeHTTP(w, req)
		}
	}))
	r.t.Cleanup(server.Close)
	r.via = server.URL
	return f
}

// isRule tells whether a statement runs a rule's query.
func isRule(statement string) bool { return strings.HasPrefix(statement, "SELECT * FROM (") }

// Scenario: an evaluator starts without states, and has a rule that Check refuses. Two more buckets end.
// Guarantees: ClickHouse is asked to explain it, once a bucket, and never to run it; the rule has failed.
func testARefusedRuleIsNeverRun(t *testing.T, r *rig) {
	f := r.through(func(http.ResponseWriter, *http.Request, string) bool { return false })
	e, _ := r.evaluator(DefaultBounds, r.group("mine", &Rule{Alert: "Hostile", SQL: "SELECT count() AS value FROM (SELECT * FROM logs SETTINGS additional_table_filters = {})"}))
	for n := range 3 {
		e.step(r.end.Add(time.Duration(n)*Tick + 5*time.Second))
		e.step(r.end.Add(time.Duration(n)*Tick + 6*time.Second))
	}
	require.Contains(t, e.groups[0].rules[0].failure, "has SETTINGS")
	require.Equal(t, r.end.Add(2*Tick), e.groups[0].evaluated)
	for _, s := range f.statements {
		require.Regexp(t, `^(EXPLAIN|DESCRIBE) `, s)
	}
	require.Len(t, f.statements, 3)
}

// Guarantees: a parameter has the characters that the file has, whichever they are; texts in a list too, but that a quote is doubled.
func testParametersAreTexts(t *testing.T, r *rig) {
	s := r.store(DefaultBounds)
	for _, text := range []string{`\b`, "a\tb", "a\nb\r", `\`, `it's`, `\N`, "{x}"} {
		g := r.group("params", &Rule{Alert: "A", SQL: "SELECT length({x:String}) AS value, {x:String} AS x", Params: map[string]string{"x": text}})
		_, err := s.Check(t.Context(), g, g.Rules[0])
		require.NoError(t, err, "%q", text)
		samples, err := s.Evaluate(t.Context(), g, g.Rules[0], r.end)
		require.NoError(t, err, "%q", text)
		require.Equal(t, float64(len(text)), samples[0].Value, "%q", text)
		require.Equal(t, text, samples[0].Labels["x"])
	}
	g := r.group("params", &Rule{Alert: "A", SQL: "SELECT length({x:Array(String)}[1]) AS value, {x:Array(String)}[2] AS x", Params: map[string]string{"x": `['a\b','it''s']`}})
	samples, err := s.Evaluate(t.Context(), g, g.Rules[0], r.end)
	require.NoError(t, err)
	require.Equal(t, Sample{Labels: map[string]string{"alertname": "A", "tenant": "params", "x": "it's"}, Value: 3}, samples[0])
}

// Guarantees: rows of the window only, and of rollups only buckets that are over at its end, even where the query asks for more.
func testARuleSeesCompleteBucketsOfItsWindowOnly(t *testing.T, r *rig) {
	r.logs("window", "a", 600, 10*minute, 0, 9, "x")
	s := r.store(DefaultBounds)
	for _, c := range []struct {
		sql    string
		window time.Duration
		to     time.Time
		want   float64
	}{
		{"SELECT count() AS value FROM logs", minute, r.end, 60},
		{"SELECT count() AS value FROM logs WHERE time > {from:DateTime64} - INTERVAL 1 DAY OR 1", minute, r.end, 60},
		{"SELECT sum(count) AS value FROM logs_10s", minute, r.end.Add(-Tick), 60},
		{"SELECT sum(count) AS value FROM logs_1m", 2 * minute, r.end.Add(-Tick), 60}, // the minute that ends 10 s later is not over, and the first one of three began before the window
		{"SELECT sum(count) AS value FROM logs_1m", 2 * minute, r.end, 120},
		{"SELECT sum(count) AS value FROM logs_10s WHERE time >= {from:DateTime64} AND time < {to:DateTime64}", 30 * time.Second, r.end, 30},
	} {
		g := r.group("window", &Rule{Alert: "A", SQL: c.sql, Window: c.window})
		samples, err := s.Evaluate(t.Context(), g, g.Rules[0], c.to)
		require.NoError(t, err)
		require.Equal(t, c.want, samples[0].Value, c.sql)
	}
}

// Scenario: a rule of a file whose query, or what it returns, is wrong.
// Guarantees: it is refused with the file's line and column where ClickHouse says them, else with those of the SQL.
func testAWrongQueryIsRefusedWithItsPlace(t *testing.T, r *rig) {
	s := r.store(DefaultBounds)
	for _, c := range []struct{ from, to, want string }{
		{"GROUP BY service", "GROUPED BY service", "r.yaml:12:19: Errors.sql: Syntax error"},
		{"sum(errors)", "sum(erors)", "r.yaml:10:11: Errors.sql: Unknown expression or function identifier `erors`"},
		{"FROM spans_10s", "FROM spans_10", "Errors.sql: "},
		{"AS value", "AS worth", "Errors.sql: column worth is UInt64: labels are String, use toString()"},
		{"sum(errors) AS value", "'many' AS value", "column value is String: want a number"},
		{"sum(errors) AS value", "toNullable(sum(errors)) AS value", "column value is Nullable(UInt64): want a number, without NULL"},
		{"service_name AS service, sum(errors) AS value\n          FROM spans_10s\n          GROUP BY service", "service_name AS `a-b`, sum(errors) AS value\n          FROM spans_10s\n          GROUP BY ALL", `column "a-b": want a name`},
		{"service_name AS service, sum(errors) AS value\n          FROM spans_10s\n          GROUP BY service", "tenant_id AS tenant, sum(errors) AS value\n          FROM spans_10s\n          GROUP BY tenant", "column tenant: the evaluator sets this label"},
		{"$labels.service", "$labels.host", "has no column host, which annotation summary names"},
		{"sum(errors)", "sum(errors) + {more:UInt64}", "Substitution `more` is not set"},
		{"tenant: acme", `tenant: "*"`, "has labels and no column `tenant`"},
	} {
		groups, err := Parse("r.yaml", []byte(strings.Replace(rightRules, c.from, c.to, 1)))
		require.NoError(t, err)
		_, err = s.Check(t.Context(), groups[0], groups[0].Rules[0])
		_, ok := errors.AsType[*RuleError](err)
		require.True(t, ok, "%v", err)
		require.ErrorContains(t, err, c.want, c.to)
	}
	_, err := r.first("places", "SELECT 1 AS value UNION ALL SELECT 1")
	require.ErrorContains(t, err, "gives several rows with the labels")
}

// Scenario: of three rules of two tenants, one reads more rows than it may, one takes longer than it may.
// Guarantees: both are ended, and are not tried at each bucket; the third is evaluated as ever. RuleFailed fires for each of the two, and says why.
func testACostlyRuleIsEndedAndOthersGoOn(t *testing.T, r *rig) {
	r.logs("costly", "a", 200_000, 10*minute, 0, 9, "x")
	bounds := DefaultBounds
	bounds.Rows, bounds.Time = 450_000, 3*time.Second
	reads := &Rule{Alert: "Reads", SQL: "SELECT sum(length(body)) AS value FROM (SELECT body FROM logs UNION ALL SELECT body FROM logs UNION ALL SELECT body FROM logs)", Window: 10 * minute}
	burns := &Rule{Alert: "Burns", SQL: "SELECT count() AS value FROM (SELECT event_id FROM logs LIMIT 200000) AS a CROSS JOIN (SELECT event_id FROM logs LIMIT 20000) AS b WHERE cityHash64(a.event_id, b.event_id) = 0", Window: 10 * minute}
	well := &Rule{Alert: "Well", SQL: "SELECT sum(count) AS value FROM logs_10s"}
	e, told := r.evaluator(bounds, r.group("costly", reads, burns), r.group("other", well))
	r.logs("other", "a", 10, minute, 0, 9, "x")
	for n := range 9 {
		e.step(r.end.Add(time.Duration(n)*Tick + 5*time.Second))
	}
	require.Equal(t, Firing, e.groups[1].rules[0].only().State)
	costly := e.groups[0]
	for i, why := range []string{"ClickHouse error 158", "ClickHouse error 159"} {
		rule := costly.rules[i]
		require.Contains(t, rule.failure, why)
		require.Equal(t, r.end, rule.since)
		require.GreaterOrEqual(t, rule.pause, 4*Tick, "costly rules pause")
		require.Empty(t, rule.alerts)
		failed := told.last(FailedAlert, "rule", rule.Alert)
		require.Contains(t, failed.Annotations["summary"], why)
		require.Equal(t, "costly", failed.Labels["tenant"])
		require.Equal(t, r.end.Add(minute), failed.StartsAt)
	}
	require.Empty(t, costly.stale.alerts, "the group is evaluated")
	metrics := e.Gather(t.Context())
	require.InDelta(t, 3, served(t, metrics, "alerts_rules", ""), 0)
	require.InDelta(t, 2, served(t, metrics, "alerts_failing_rules", ""), 0)
	require.GreaterOrEqual(t, served(t, metrics, "alerts_evaluations_total", resultCostly), 2.)
	require.GreaterOrEqual(t, served(t, metrics, "alerts_evaluations_total", resultOK), 9.)
	require.Zero(t, served(t, metrics, "alerts_evaluations_total", resultUnanswered))
	require.Zero(t, served(t, metrics, "alerts_stale_groups", ""))
}

// Scenario: ClickHouse answers, but not one rule's query, although its time is over; of another rule it does not even answer what the query reads. Another ClickHouse answers nothing.
// Guarantees: the rule has failed as costly, and the other rules of its group are evaluated; what is told has the time of when it is told. A ClickHouse that answers nothing is no rule's failure.
func testAQueryWithoutEndIsTheRulesFailure(t *testing.T, r *rig) {
	r.logs("long", "a", 10, minute, 0, 9, "x")
	hold := func(req *http.Request) bool { <-req.Context().Done(); return true }
	hung, bounds := *r, DefaultBounds
	bounds.Time = 3 * time.Second
	hung.through(func(_ http.ResponseWriter, req *http.Request, _ string) bool { return hold(req) })
	r.through(func(_ http.ResponseWriter, req *http.Request, statement string) bool {
		return (isRule(statement) && strings.Contains(statement, "'long'") || strings.Contains(statement, "'longer'")) && hold(req)
	})
	long := &Rule{Alert: "Long", SQL: "SELECT sum(count) AS value, 'long' AS kind FROM logs_10s"}
	well := &Rule{Alert: "Well", SQL: "SELECT sum(count) AS value FROM logs_10s"}
	e, told := r.evaluator(bounds, r.group("long", long, well))
	g := e.groups[0]
	g.evaluated = r.end.Add(-Tick)
	var checked, answered error
	var wg sync.WaitGroup
	wg.Go(func() {
		_, checked = e.config.Store.Check(t.Context(), g.Group, &Rule{Alert: "Longer", SQL: "SELECT 1 AS value, 'longer' AS kind", Window: minute})
	})
	wg.Go(func() { _, answered = hung.store(bounds).Evaluate(t.Context(), g.Group, well, r.end) })
	now := r.end.Add(5 * time.Second)
	e.step(now)
	wg.Wait()
	require.Empty(t, g.problem)
	require.Contains(t, g.rules[0].failure, "did not end within 3s")
	require.Equal(t, Tick, g.rules[0].pause)
	require.Equal(t, Firing, g.rules[1].only().State)
	require.False(t, told.last("Well", "tenant", "long").EndsAt.Before(now.Add(bounds.Time+answerSlack+g.valid())))
	refusal, wrong := errors.AsType[*RuleError](checked)
	require.True(t, wrong && refusal.Costly, "%v", checked)
	require.ErrorContains(t, answered, "does not answer")
	_, wrong = errors.AsType[*RuleError](answered)
	require.False(t, wrong)
}

// Guarantees: the conditions that are added are used to leave out what is not of the window: partitions, then granules.
func testAQueryReadsTheWindowsGranulesOnly(t *testing.T, r *rig) {
	r.end = r.end.Truncate(24 * hour).Add(-12 * hour) // rows of two days, which are over; the window does not end with one
	r.logs("granules", "a", 200_000, 20*hour, 0, 9, "x")
	s := r.store(DefaultBounds)
	g := r.group("granules", &Rule{Alert: "A", SQL: "SELECT count() AS value FROM logs WHERE body != ''"})
	settings := s.settings(g, g.Rules[0], r.end)
	settings["max_result_rows"] = "0"
	lines, err := clickhouse.Rows[struct{ Explain string }](t.Context(), s.client, "EXPLAIN indexes = 1 "+g.Rules[0].statement(), settings)
	require.NoError(t, err)
	var text strings.Builder
	for _, l := range lines {
		text.WriteString(l.Explain + "\n")
	}
	require.Contains(t, text.String(), "tenant_id")
	require.Regexp(t, `Ranges: 1\b`, text.String())
	require.NotRegexp(t, `Ranges: [2-9]`, text.String())
}

// told is what an evaluator has told.
type told []Notice

// last is the last notice of an alert with a label.
func (n told) last(alert, label, value string) Notice {
	for _, a := range slices.Backward(n) {
		if a.Labels["alertname"] == alert && a.Labels[label] == value {
			return a
		}
	}
	return Notice{}
}

// testEvaluator is an evaluator whose clock is the test's.
type testEvaluator struct {
	*Evaluator
	t       testing.TB
	through time.Time // how far the store is complete; zero: always
	failing error     // of asking so
}

func (r *rig) evaluator(b Bounds, groups ...*Group) (*testEvaluator, *told) {
	return r.evaluatorWith("", b, groups...)
}

func (r *rig) evaluatorWith(stateFile string, b Bounds, groups ...*Group) (*testEvaluator, *told) {
	r.t.Helper()
	te := &testEvaluator{t: r.t}
	all := &told{}
	e, err := New(Config{
		Groups: groups, Store: r.store(b), Workers: 2, Resend: time.Minute, StateFile: stateFile, Log: zap.NewNop(),
		Notify: func(n []Notice) { *all = append(*all, n...) },
		Complete: func(context.Context, signal.Signal) (time.Time, error) {
			if te.through.IsZero() && te.failing == nil {
				return time.Now().Add(24 * time.Hour), nil
			}
			return te.through, te.failing
		},
	})
	require.NoError(r.t, err)
	te.Evaluator = e
	for _, g := range e.groups {
		g.begun = r.end.Add(-hour) // by the test's clock
	}
	return te, all
}

// step is what the evaluator does at a time.
func (e *testEvaluator) step(now time.Time) {
	for _, g := range e.groups {
		g.evaluateDue(e.t.Context(), now)
		g.slow = false // of a test's machine
		g.tell(now)
	}
}

func countRule() *Rule {
	return &Rule{Alert: "Many", SQL: "SELECT service_name AS service, sum(count) AS value FROM logs_10s GROUP BY service HAVING value >= 10", Window: 20 * time.Second, For: 20 * time.Second}
}

// Scenario: rows come, and end.
// Guarantees: buckets are evaluated `freshness` after their end and not before; the alert fires `for` after the first active bucket, and is resolved at the first that is not.
func testAlertsFollowTheRows(t *testing.T, r *rig) {
	r.logs("follow", "a", 120, minute, 0, 9, "x") // 20 in each bucket until the end
	e, told := r.evaluator(DefaultBounds, r.group("follow", countRule()))
	rule := e.groups[0].rules[0]
	e.step(r.end.Add(-minute + Tick + 4*time.Second))
	require.Equal(t, r.end.Add(-minute), e.groups[0].evaluated, "the bucket is over, and not fresh enough")
	require.Empty(t, rule.alerts)
	e.step(r.end.Add(-minute + Tick + 5*time.Second))
	require.Equal(t, Pending, rule.only().State)
	for n := 2; n < 12; n++ {
		e.step(r.end.Add(-minute + time.Duration(n)*Tick + 5*time.Second))
	}
	require.NotEmpty(t, *told)
	first, last := (*told)[0], (*told)[len(*told)-1]
	require.Equal(t, map[string]string{"alertname": "Many", "tenant": "follow", "service": "a"}, first.Labels)
	require.Equal(t, r.end.Add(-minute+3*Tick), first.StartsAt)
	require.Equal(t, first.StartsAt, last.StartsAt)
	require.Equal(t, r.end.Add(2*Tick), last.EndsAt, "the window of 20 s has no row any more")
}

// Scenario: an alert fires; then the store is no longer complete, then nobody can say, then ClickHouse is gone; at last all is well again.
// Guarantees: the alert is told as firing all the time, although no row is in its window. Stale fires once the newest evaluated bucket is older than the bound, begins at that bucket and the
// bound, and is resolved when buckets are complete again; then what ended is resolved.
func testAStaleStoreNeverResolves(t *testing.T, r *rig) {
	r.logs("stale", "a", 120, minute, 0, 9, "x")
	e, told := r.evaluator(DefaultBounds, r.group("stale", countRule()))
	e.step(r.end.Add(5 * time.Second))
	require.Equal(t, Firing, e.groups[0].rules[0].only().State)
	e.through = r.end.Add(9 * time.Second)
	for n := 1; n < 20; n++ {
		now := r.end.Add(time.Duration(n)*Tick + 5*time.Second)
		if n == 10 {
			e.failing = errors.New("Kafka is away")
		}
		e.step(now)
		require.Equal(t, Firing, e.groups[0].rules[0].only().State)
		require.Equal(t, n >= 6, len(e.groups[0].stale.alerts) == 1, n)
	}
	stale := told.last(StaleAlert, "group", "g")
	require.Equal(t, r.end.Add(minute), stale.StartsAt)
	require.Equal(t, "stale", stale.Labels["tenant"])
	require.Contains(t, stale.Annotations["summary"], "Kafka is away")
	firing := told.last("Many", "service", "a")
	require.True(t, firing.EndsAt.After(r.end.Add(19*Tick)), "it is told as firing")
	require.InDelta(t, 1, served(t, e.Gather(t.Context()), "alerts_stale_groups", ""), 0)

	e.failing, e.through = nil, time.Time{}
	store := e.config.Store
	gone, err := clickhouse.NewClient(r.http, "http://127.0.0.1:1", "", "")
	require.NoError(t, err)
	e.config.Store = NewStore(gone, "pulsegrid", DefaultBounds)
	now := r.end.Add(20*Tick + 5*time.Second)
	e.step(now)
	require.Equal(t, Firing, e.groups[0].rules[0].only().State)
	require.Contains(t, e.groups[0].problem, "does not answer")
	require.InDelta(t, 1, served(t, e.Gather(t.Context()), "alerts_evaluations_total", resultUnanswered), 0)
	e.config.Store = store
	e.step(now.Add(time.Second))
	require.Equal(t, Resolved, e.groups[0].rules[0].only().State)
	require.Equal(t, r.end.Add(2*Tick), e.groups[0].rules[0].only().ResolvedAt, "the buckets that were missed are made up")
	require.False(t, told.last(StaleAlert, "group", "g").EndsAt.After(now.Add(time.Second)), "Stale is over")
	require.Zero(t, served(t, e.Gather(t.Context()), "alerts_stale_groups", ""))
	require.Positive(t, served(t, e.Gather(t.Context()), "alerts_lateness_seconds", ""))
	require.Positive(t, served(t, e.Gather(t.Context()), "alerts_evaluation_seconds", ""))
}

// Scenario: Kafka has appended events after a bucket's end, which agents kept back for as long as `freshness`; the store is complete for the bucket, then for these, too.
// Guarantees: the bucket is evaluated when they are stored, and not before.
func testABucketWaitsForEventsThatAgentsKeepBack(t *testing.T, r *rig) {
	e, _ := r.evaluator(DefaultBounds, r.group("late", countRule()))
	g := e.groups[0]
	now := r.end.Add(8 * time.Second)
	e.through = r.end.Add(4 * time.Second)
	e.step(now)
	require.Equal(t, r.end.Add(-Tick), g.evaluated)
	require.Contains(t, g.problem, "ClickHouse has logs only until "+e.through.Format(time.RFC3339))
	e.through = r.end.Add(5 * time.Second)
	e.step(now)
	require.Equal(t, r.end, g.evaluated)
	require.Empty(t, g.problem)
}

// Scenario: an alert is pending; nobody evaluates for an hour, more than is made up; at its end rows come again.
// Guarantees: the buckets that nobody evaluated do not count toward `for`, as in Prometheus after a restart; also where ClickHouse does not answer at first.
func testAGapDoesNotCountTowardFor(t *testing.T, r *rig) {
	r.logs("gap", "a", 10, Tick, 0, 9, "x")
	r.logs("gap", "a", 300, -55*minute, -60*minute, 9, "x")
	e, told := r.evaluator(DefaultBounds, r.group("gap", countRule()))
	rule := e.groups[0].rules[0]
	e.step(r.end.Add(5 * time.Second))
	require.Equal(t, Pending, rule.only().State)
	store := e.config.Store
	r.via = "http://127.0.0.1:1"
	e.config.Store = r.store(DefaultBounds)
	e.step(r.end.Add(hour - Tick + 5*time.Second))
	require.Contains(t, e.groups[0].problem, "does not answer")
	require.InDelta(t, 1, served(t, e.Gather(t.Context()), "alerts_evaluations_total", resultUnanswered), 0)
	e.config.Store = store
	e.step(r.end.Add(hour + 5*time.Second))
	begins := r.end.Add(hour - (catchUpMost-1)*Tick) // of what is made up
	require.Equal(t, begins.Add(-Tick+20*time.Second), told.last("Many", "service", "a").StartsAt)
}

// Scenario: at the first start ClickHouse does not answer the first query.
// Guarantees: the past is looked at when it does: the alert begins when it began.
func testAColdStartThatFailsIsTriedAgain(t *testing.T, r *rig) {
	r.logs("cold", "a", 120, minute, 0, 9, "x")
	failed := false
	r.through(func(w http.ResponseWriter, _ *http.Request, statement string) bool {
		if failed || !isRule(statement) {
			return false
		}
		failed = true
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	e, told := r.evaluator(DefaultBounds, r.group("cold", countRule()))
	e.step(r.end.Add(5 * time.Second))
	e.step(r.end.Add(6 * time.Second))
	require.True(t, failed)
	require.Equal(t, r.end.Add(-minute+3*Tick), told.last("Many", "service", "a").StartsAt)
}

// Scenario: an alert fires, then its rule fails; the evaluator is started again, and the rule is well, but the store is no longer complete.
// Guarantees: the alert fires on: the rule is not evaluated before the store is complete for what it reads.
func testAFailingRuleWaitsForTheStoreAfterARestart(t *testing.T, r *rig) {
	r.logs("refail", "a", 120, minute, 0, 9, "x")
	file := t.TempDir() + "/alerts.json"
	e, _ := r.evaluatorWith(file, DefaultBounds, r.group("refail", countRule()))
	e.step(r.end.Add(5 * time.Second))
	require.Equal(t, Firing, e.groups[0].rules[0].only().State)
	bounds := DefaultBounds
	bounds.Rows = 1
	e.config.Store = r.store(bounds)
	e.step(r.end.Add(Tick + 5*time.Second))
	require.Equal(t, r.end.Add(Tick), e.groups[0].rules[0].since)
	require.NoError(t, e.save())
	again, _ := r.evaluatorWith(file, DefaultBounds, r.group("refail", countRule()))
	again.through = r.end.Add(Tick + 5*time.Second)
	again.step(r.end.Add(20*Tick + 5*time.Second))
	require.Equal(t, r.end.Add(Tick), again.groups[0].evaluated)
	require.Equal(t, Firing, again.groups[0].rules[0].only().State)
}

// Scenario: an evaluator ends while one alert is pending and one fires, and is started again. Then its state file would grow over its bound, then it is spoilt.
// Guarantees: pending goes on to fire when it would have, firing goes on with its begin; what was told is told again, since it may not have been delivered. A file that a restart could not read
// is not written, and the old one stays; a spoilt one is refused with its name.
func testStatesSurviveARestart(t *testing.T, r *rig) {
	r.logs("restart", "old", 120, minute, 0, 9, "x")
	r.logs("restart", "new", 10, Tick, 0, 9, "x")
	file := t.TempDir() + "/alerts.json"
	e, told := r.evaluatorWith(file, DefaultBounds, r.group("restart", countRule()))
	now := r.end.Add(5 * time.Second)
	e.step(now)
	require.Len(t, *told, 1)
	require.NoError(t, e.save())
	again, toldAgain := r.evaluatorWith(file, DefaultBounds, r.group("restart", countRule()))
	rule := again.groups[0].rules[0]
	for key, a := range e.groups[0].rules[0].alerts {
		kept := *a
		kept.SentAt, kept.SentState = time.Time{}, ""
		require.Equal(t, &kept, rule.alerts[key])
	}
	require.Equal(t, r.end, again.groups[0].evaluated)
	again.step(now.Add(time.Second))
	require.Equal(t, r.end.Add(-minute+3*Tick), toldAgain.last("Many", "service", "old").StartsAt)
	r.Exec("INSERT INTO pulsegrid.logs (tenant_id, service_name, time, ingest_time, event_id) SELECT 'restart', 'new', fromUnixTimestamp64Nano(toInt64(" + fmt.Sprint(r.end.Add(15*time.Second).UnixNano()) +
		"), 'UTC') AS t, t, unhex(hex(MD5(concat('restart', toString(number))))) FROM numbers(10)")
	again.step(now.Add(2 * Tick))
	require.Equal(t, r.end.Add(2*Tick), toldAgain.last("Many", "service", "new").StartsAt, "pending since the first evaluator's bucket")

	before, err := os.ReadFile(file)
	require.NoError(t, err)
	again.most = len(before)
	require.ErrorContains(t, again.save(), "the file is left as it was")
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, before, after)

	require.NoError(t, os.WriteFile(file, []byte(`{"version":1,"groups":{"restart/g":`), 0o600))
	_, err = New(Config{StateFile: file, Workers: 1})
	require.ErrorContains(t, err, "alerts.json: ")
	require.ErrorContains(t, err, "move it away")
}

// Scenario: a second evaluator without a state file is started while an alert fires, and evaluates at other times than the first.
// Guarantees: both tell the same labels and the same begin.
func testTwoEvaluatorsGiveOneAlert(t *testing.T, r *rig) {
	r.logs("two", "a", 240, 2*minute, 0, 9, "x")
	rule := func() *Group { return r.group("two", countRule()) }
	one, toldByOne := r.evaluator(DefaultBounds, rule())
	for n := range 12 {
		one.step(r.end.Add(-2*minute + time.Duration(n)*Tick + 5*time.Second))
	}
	two, toldByTwo := r.evaluator(DefaultBounds, rule())
	two.step(r.end.Add(9 * time.Second))
	a, b := toldByOne.last("Many", "service", "a"), toldByTwo.last("Many", "service", "a")
	require.Equal(t, r.end.Add(-2*minute+3*Tick), a.StartsAt)
	require.Equal(t, a.StartsAt, b.StartsAt)
	require.Equal(t, a.Labels, b.Labels)
}

// Guarantees: a backtest says when a rule would have been pending, firing and over, and its greatest value.
func testABacktestSaysWhatWouldHaveFired(t *testing.T, r *rig) {
	r.logs("past", "a", 120, 5*minute, 4*minute, 9, "x")
	r.logs("past", "a", 10, 2*minute, 2*minute-Tick, 9, "x")
	g := r.group("past", countRule())
	episodes, err := Backtest(t.Context(), r.store(DefaultBounds), []*Group{g}, r.end.Add(-10*minute), r.end, func(*Group, *Rule, int) {})
	require.NoError(t, err)
	require.Len(t, episodes, 2)
	long, short := episodes[0], episodes[1]
	require.Equal(t, []time.Time{r.end.Add(-5*minute + Tick), r.end.Add(-5*minute + 3*Tick), r.end.Add(-4*minute + 2*Tick)}, []time.Time{long.Pending, long.Firing, long.Ended})
	require.Equal(t, number(40), long.Most)
	require.True(t, short.Firing.IsZero(), "not active for long enough")
	require.Equal(t, "a", short.Labels["service"])
	_, err = Backtest(t.Context(), r.store(DefaultBounds), []*Group{g}, r.end.Add(-1000*hour), r.end, nil)
	require.ErrorContains(t, err, "choose a shorter range")
}

// Scenario: the evaluator has a user of its own, with the rights that docs/alerts.md gives it.
// Guarantees: rules are evaluated, and a rule meets ClickHouse's rights, too.
func TestAUserThatMayOnlyReadEvaluatesRules(t *testing.T) {
	owner := chengine.User{Name: "owner", Password: "o", Grants: []string{"ALL ON pulsegrid.*", "TABLE ENGINE ON MergeTree", "TABLE ENGINE ON AggregatingMergeTree"}}
	alerts := chengine.User{Name: "alerts", Password: "a", Grants: []string{"SELECT ON pulsegrid.logs", "SELECT ON pulsegrid.logs_10s"}}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	engine, err := chengine.Start(t.Context(), chengine.Options{Dir: t.TempDir(), Users: []chengine.User{owner, alerts}})
	require.NoError(t, err)
	t.Cleanup(engine.Kill)
	as := func(u chengine.User) *clickhouse.Client {
		c, err := clickhouse.NewClient(&http.Client{Transport: transport}, "http://"+engine.HTTPAddr, u.Name, u.Password)
		require.NoError(t, err)
		return c
	}
	for _, ddl := range tables(columns.ForSignal(signal.Logs), columns.ForSignal(signal.Traces)) {
		require.NoError(t, as(owner).Exec(t.Context(), ddl, nil))
	}
	s := NewStore(as(alerts), "pulsegrid", DefaultBounds)
	for sql, why := range map[string]string{
		"SELECT count() AS value FROM logs":         "",
		"SELECT sum(count) AS value FROM logs_10s":  "",
		"SELECT 1 AS value":                         "",
		"SELECT sum(count) AS value FROM spans_10s": "ClickHouse error 497",
	} {
		g := (&rig{}).group("acme", &Rule{Alert: "A", SQL: sql})
		_, err := s.Check(t.Context(), g, g.Rules[0])
		if err == nil {
			_, err = s.Evaluate(t.Context(), g, g.Rules[0], time.Now().UTC().Truncate(Tick))
		}
		if why == "" {
			require.NoError(t, err, sql)
		} else {
			require.ErrorContains(t, err, why, sql)
		}
	}
}
