package aggregate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/aggregate"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

// childVariable makes the test binary a program that builds service_health_1m in the ClickHouse that it names, or device_features_1h there and in a lake, for tests that kill it.
const childVariable = "PULSEGRID_TEST_AGGREGATE"

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	if at := os.Getenv(childVariable); at != "" {
		if err := buildAsAProgram(at); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(leaktest.Patient(m))
}

func buildAsAProgram(at string) error {
	url, rest, _ := strings.Cut(at, " ")
	database, dir, _ := strings.Cut(rest, " ")
	models, err := aggregate.Shipped()
	if err != nil {
		return err
	}
	e, err := aggregate.NewClickHouse(config(url, database, http.DefaultTransport))
	if err != nil {
		return err
	}
	model, o := "service_health_1m", options()
	if dir != "" {
		model, o.From, o.To = "device_features_1h", base.Add(10*time.Hour), base.Add(13*time.Hour)
		if o.Lake, err = openLake(context.Background(), dir); err != nil {
			return err
		}
	}
	_, err = aggregate.Build(context.Background(), e, modelOf(models, model), o)
	return err
}

func config(url, database string, via http.RoundTripper) aggregate.ClickHouseConfig {
	return aggregate.ClickHouseConfig{HTTP: &http.Client{Transport: via}, Endpoint: url, Database: database, Threads: 2, Longest: time.Minute}
}

func modelOf(models []*aggregate.Model, name string) *aggregate.Model {
	return models[slices.IndexFunc(models, func(m *aggregate.Model) bool { return m.Name == name })]
}

// base is the begin of a day that is not long ago, in the programs of a test the test's. complete is how far the stores are complete, unless a test says otherwise.
var (
	base     = begin()
	complete = base.Add(50 * time.Hour)
)

// baseVariable hands base to the programs.
const baseVariable = "PULSEGRID_TEST_AGGREGATE_BASE"

func begin() time.Time {
	if at, err := time.Parse(time.DateOnly, os.Getenv(baseVariable)); err == nil {
		return at
	}
	return time.Now().UTC().Truncate(24 * time.Hour).Add(-72 * time.Hour)
}

func options() aggregate.Options {
	return aggregate.Options{Watermark: func(context.Context, signal.Signal) (time.Time, error) { return complete, nil }}
}

// server is the ClickHouse of TestAggregates.
var server *clickhousetest.Server

// TestAggregates runs the tests that need ClickHouse on one server, each with a database of its own.
func TestAggregates(t *testing.T) {
	server = clickhousetest.Start(t)
	for name, test := range map[string]func(*testing.T){
		"ShippedModelsAreWhatTheRowsSay":                                    testShippedModelsAreWhatTheRowsSay,
		"ABuildThatDiesAtAnyStatementGivesTheSameBytesWhenItIsRunAgain":     testABuildThatDiesAtAnyStatementGivesTheSameBytesWhenItIsRunAgain,
		"AProgramThatIsKilledBetweenStepsGivesTheSameBytesWhenItIsRunAgain": testAProgramThatIsKilledBetweenStepsGivesTheSameBytesWhenItIsRunAgain,
		"AQueryDuringAPublicationSeesTheOldRowsOrTheNewOnes":                testAQueryDuringAPublicationSeesTheOldRowsOrTheNewOnes,
		"ABuildFindsWhatHasChanged":                                         testABuildFindsWhatHasChanged,
		"RowsThatWereDeletedForTheirAgeStayInTheTable":                      testRowsThatWereDeletedForTheirAgeStayInTheTable,
		"APartitionWaitsForTheWatermark":                                    testAPartitionWaitsForTheWatermark,
		"APartitionThatFailsATestIsNotPublished":                            testAPartitionThatFailsATestIsNotPublished,
		"RowsThatGoOrComeAgainstThePreviousBuildAreNotPublished":            testRowsThatGoOrComeAgainstThePreviousBuildAreNotPublished,
		"AQueryReadsItsSourcesAndNothingElse":                               testAQueryReadsItsSourcesAndNothingElse,
		"AFeatureRowNeverUsesAnEventThatArrivedAfterItsCutOff":              testAFeatureRowNeverUsesAnEventThatArrivedAfterItsCutOff,
		"EachFunctionThatClickHouseCallsUnsteadyIsRefused":                  testEachFunctionThatClickHouseCallsUnsteadyIsRefused,
		"AnAnswerThatIsNotWholeEndsTheBuild":                                testAnAnswerThatIsNotWholeEndsTheBuild,
		"TheLakeHasWhatIsPublished":                                         testTheLakeHasWhatIsPublished,
		"TheLakeKeepsEachType":                                              testTheLakeKeepsEachType,
		"TheLakeFollowsWhatIsPublished":                                     testTheLakeFollowsWhatIsPublished,
		"ALakeIsMendedAfterARunThatDiesAtAnyStatement":                      testALakeIsMendedAfterARunThatDiesAtAnyStatement,
		"AProgramThatIsKilledLeavesALakeThatTheNextRunMends":                testAProgramThatIsKilledLeavesALakeThatTheNextRunMends,
		"TheLakeBesideOtherWriters":                                         testTheLakeBesideOtherWriters,
		"RowsThatAreCutOffDoNotComeIntoTheLake":                             testRowsThatAreCutOffDoNotComeIntoTheLake,
		"TheLakeRefusesAnotherShape":                                        testTheLakeRefusesAnotherShape,
		"UpkeepOfACopyChangesNoRow":                                         testUpkeepOfACopyChangesNoRow,
	} {
		t.Run(name, test)
	}
}

// rig is a database of the product's tables.
type rig struct {
	*clickhousetest.Server
	t        *testing.T
	database string
}

func start(t *testing.T) *rig {
	t.Helper()
	r := &rig{Server: server, t: t}
	r.fresh("pulsegrid")
	return r
}

// fresh goes on with an empty database.
func (r *rig) fresh(database string) {
	r.t.Helper()
	r.database = database
	r.Exec("DROP DATABASE IF EXISTS " + database + " SYNC")
	for _, s := range signal.All {
		for _, ddl := range columns.ForSignal(s).ClickHouseDDL(columns.DDLOptions{Database: database}) {
			r.Exec(ddl)
		}
	}
}

// insert adds n events of a table, one a minute from at on, that arrive late after they happen. The same arguments give the same events.
func (r *rig) insert(table string, n int, at time.Time, late time.Duration) {
	r.t.Helper()
	common := fmt.Sprintf(`concat('tenant', toString(number %% 3)), concat('service', toString(number %% 5)), t, t + toIntervalSecond(%d), unhex(hex(MD5(concat('%s', toString(t), toString(number), '%v'))))`, int(late.Seconds()), table, late)
	from := fmt.Sprintf("FROM (SELECT number, toDateTime64('%s', 9, 'UTC') + toIntervalSecond(60 * number) AS t FROM numbers(%d))", at.Format(time.DateTime), n)
	switch table {
	case "spans":
		r.Exec("INSERT INTO " + r.database + ".spans (tenant_id, service_name, time, ingest_time, event_id, kind, status_code, duration_nano) SELECT " + common +
			", ['server', 'client', 'consumer'][number % 3 + 1], if(number % 7 = 0, 'error', 'ok'), toInt64(number * number * 1000) - 5000 " + from)
	case "logs":
		r.Exec("INSERT INTO " + r.database + ".logs (tenant_id, service_name, time, ingest_time, event_id, severity_number, attr_session_id, attr_user_id, resource, attributes_string) SELECT " + common +
			`, number % 24, if(number % 4 = 0, '', concat('s', toString(number % 11))), if(number % 6 = 0, 'u', ''), if(number % 2 = 0, concat('{"device.id":"d', toString(number % 4), '"}'), '{}'), if(number % 3 = 0, map('device.id', 'mapped'), map()) ` + from)
	}
}

func (r *rig) build(m *aggregate.Model, o aggregate.Options) (aggregate.Report, error) {
	return r.buildBy(r.t.Context(), http.DefaultTransport, m, o)
}

func (r *rig) buildBy(ctx context.Context, via http.RoundTripper, m *aggregate.Model, o aggregate.Options) (aggregate.Report, error) {
	e, err := aggregate.NewClickHouse(config(r.URL, r.database, via))
	require.NoError(r.t, err)
	return aggregate.Build(ctx, e, m, o)
}

// built is a build that must go well, with so many partitions built.
func (r *rig) built(want int, m *aggregate.Model, o aggregate.Options) aggregate.Report {
	r.t.Helper()
	report, err := r.build(m, o)
	require.NoError(r.t, err)
	require.Equal(r.t, want, report.Count(aggregate.Built), "%+v", report)
	require.Equal(r.t, want, len(report.Outcomes), "%+v", report)
	return report
}

// bytes are the table's rows, told by ClickHouse's hash of all their columns.
func (r *rig) bytes(table string) string {
	r.t.Helper()
	return r.Query("SELECT count(), sum(cityHash64(*)), groupBitXor(cityHash64(*)) FROM " + r.database + "." + table)
}

// parts are the table's files: another build has others.
func (r *rig) parts(table string) string {
	r.t.Helper()
	return r.Query("SELECT groupArray((partition_id, name, modification_time)) FROM (SELECT * FROM system.parts WHERE active AND database = '" + r.database + "' AND table = '" + table + "' ORDER BY name)")
}

func (r *rig) nothingStaged() {
	r.t.Helper()
	require.Empty(r.t, r.Query("SELECT name FROM system.tables WHERE database = '"+r.database+"' AND name LIKE '%staged%'"))
}

func shipped(t *testing.T, name string) *aggregate.Model {
	t.Helper()
	models, err := aggregate.Shipped()
	require.NoError(t, err)
	return modelOf(models, name)
}

// custom is a model of spans by hour with tests of its own.
func custom(t *testing.T, query, more string) *aggregate.Model {
	t.Helper()
	models, err := aggregate.Load(fstest.MapFS{"custom.yaml": {Data: []byte(`description: spans by hour
owner: somebody
engines: [clickhouse]
schedule: 10m
sources: [{table: spans}]
partition: {column: time, size: hour}
rebuild: 72h
target:
  table: custom
  retention_days: 30
  columns:
    - {name: tenant_id, type: LowCardinality(String), doc: tenant}
    - {name: time, type: DateTime('UTC'), doc: begin of the hour}
    - {name: n, type: Int64, doc: how many}
grain: [tenant_id, time]
` + more)}, "custom.sql": {Data: []byte(query)}})
	require.NoError(t, err)
	return models[0]
}

const byHour = "SELECT tenant_id, toStartOfHour(toDateTime(s.time)) AS h, count() AS n FROM spans AS s GROUP BY tenant_id, h"

// customQuery gives the columns that custom has.
const customQuery = "SELECT tenant_id, h AS time, n FROM (" + byHour + ")"

// Guarantees: each shipped model holds what a recount of the rows gives, for partitions that the watermark has passed and no others; a second build finds nothing to do;
// the watermark is published.
func testShippedModelsAreWhatTheRowsSay(t *testing.T) {
	r := start(t)
	r.insert("spans", 300, base.Add(22*time.Hour), time.Second)
	r.insert("logs", 300, base.Add(22*time.Hour), time.Second)
	r.insert("spans", 10, base.Add(51*time.Hour), time.Second) // beyond the watermark
	for name, recount := range map[string]string{
		"service_health_1m": `SELECT tenant_id, service_name, toDateTime(intDiv(toUnixTimestamp(time), 60) * 60, 'UTC') AS time, toUInt64(sum(1)) AS spans, sum(toUInt64(status_code = 'error')) AS errors,
			toFloat64(quantileDD(0.01, 0.5)(toUInt64(if(duration_nano < 0, 0, duration_nano)))) AS duration_p50_nano, toFloat64(quantileDD(0.01, 0.99)(toUInt64(if(duration_nano < 0, 0, duration_nano)))) AS duration_p99_nano,
			toUInt64(max(if(duration_nano < 0, 0, duration_nano))) AS duration_max_nano FROM DB.spans WHERE DB.spans.time < 'UNTIL' GROUP BY ALL`,
		"error_budget_1h": `SELECT tenant_id, toDateTime(intDiv(toUnixTimestamp(time), 3600) * 3600, 'UTC') AS time, toUInt64(sum(1)) AS requests, sum(toUInt64(status_code = 'error')) AS errors, requests / 1000 AS allowed
			FROM DB.spans WHERE DB.spans.time < 'UNTIL' AND (kind = 'server' OR kind = 'consumer') GROUP BY ALL`,
		"sessions_1d": `SELECT tenant_id, toDateTime(intDiv(toUnixTimestamp(time), 86400) * 86400, 'UTC') AS day, attr_session_id AS session_id, max(attr_user_id) AS user_id, min(DB.logs.time) AS first_time,
			max(DB.logs.time) AS last_time, toUInt64(sum(1)) AS events, sum(toUInt64(severity_number > 16)) AS errors, toUInt64(length(groupUniqArray(service_name))) AS services
			FROM DB.logs WHERE attr_session_id != '' AND DB.logs.time < 'DAY' GROUP BY ALL`,
	} {
		t.Run(name, func(t *testing.T) {
			m := shipped(t, name)
			report, err := r.build(m, options())
			require.NoError(t, err)
			require.NotZero(t, report.Count(aggregate.Built))
			require.Equal(t, len(report.Outcomes), report.Count(aggregate.Built), "%+v", report)
			recount := strings.NewReplacer("DB", r.database, "UNTIL", complete.Add(-m.AllowedLateness).Truncate(time.Hour).Format(time.DateTime), "DAY", base.Add(48*time.Hour).Format(time.DateTime)).Replace(recount)
			table := "SELECT * FROM " + r.database + "." + m.Target.Table
			require.NotZero(t, r.QueryInt("SELECT count() FROM ("+recount+")"))
			require.Empty(t, r.Query("SELECT * FROM ("+recount+" EXCEPT "+table+") LIMIT 3 FORMAT Vertical"), "the rows say this, the table does not")
			require.Empty(t, r.Query("SELECT * FROM ("+table+" EXCEPT "+recount+") LIMIT 3 FORMAT Vertical"), "the table says this, the rows do not")

			parts := r.parts(m.Target.Table)
			report = r.built(0, m, options())
			require.NotZero(t, report.Unchanged)
			require.Equal(t, parts, r.parts(m.Target.Table))
			require.Equal(t, report.To.Format(time.DateTime), r.Query("SELECT toString(complete_through) FROM "+r.database+".aggregate_watermarks FINAL WHERE name = '"+name+"'"))
			r.nothingStaged()
		})
	}
	require.Equal(t, complete.Format(time.DateTime), r.Query("SELECT toString(complete_through) FROM "+r.database+".aggregate_watermarks FINAL WHERE name = 'traces'"))
}

// breaking sends so many statements. Then the program dies: it does not see the last one's answer, and sends nothing more.
type breaking struct {
	most int64
	sent atomic.Int64
}

var errDead = errors.New("the program is dead")

func (b *breaking) RoundTrip(req *http.Request) (*http.Response, error) {
	n := b.sent.Add(1)
	if n > b.most {
		return nil, errDead
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err == nil && n == b.most {
		_, err = io.Copy(io.Discard, resp.Body) // the statement has ended
		return nil, errors.Join(errDead, err, resp.Body.Close())
	}
	return resp, err
}

// Scenario: a build dies behind each of its statements.
// Guarantees: run again it gives the same table, to the byte, as a build that nothing broke; nothing is left beside it.
func testABuildThatDiesAtAnyStatementGivesTheSameBytesWhenItIsRunAgain(t *testing.T) {
	r := start(t)
	m := shipped(t, "service_health_1m")
	r.insert("spans", 90, base.Add(10*time.Hour), time.Second) // two partitions
	r.built(2, m, options())
	want := r.bytes(m.Target.Table)
	n := int64(1)
	for died := true; died; n++ {
		for _, table := range []string{m.Target.Table, aggregate.BuildsTable, aggregate.WatermarksTable} {
			r.Exec("DROP TABLE IF EXISTS " + r.database + "." + table + " SYNC")
		}
		_, err := r.buildBy(t.Context(), &breaking{most: n}, m, options())
		died = err != nil
		require.True(t, err == nil || errors.Is(err, errDead), "%v", err)
		report, err := r.build(m, options())
		require.NoError(t, err)
		require.Equal(t, report.Count(aggregate.Built), len(report.Outcomes), "%+v", report)
		require.Equal(t, want, r.bytes(m.Target.Table), "died behind statement %d", n)
		r.nothingStaged()
	}
	require.Greater(t, n, int64(20), "the build has that many statements")
}

// Guarantee: a program that is killed between any two steps of a partition, and run again, gives the same bytes.
func testAProgramThatIsKilledBetweenStepsGivesTheSameBytesWhenItIsRunAgain(t *testing.T) {
	r := start(t)
	m := shipped(t, "service_health_1m")
	r.insert("spans", 90, base.Add(10*time.Hour), time.Second)
	r.built(2, m, options())
	want := r.bytes(m.Target.Table)
	program := func(armed string) (string, error) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+r.URL+" "+r.database, baseVariable+"="+base.Format(time.DateOnly), failpoint.Variable+"="+armed)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, point := range []string{"aggregate-staged", "aggregate-tested", "aggregate-published"} {
		r.Exec("DROP TABLE " + r.database + "." + m.Target.Table + " SYNC")
		out, err := program(point + "=kill@2")
		require.ErrorContains(t, err, "killed", out)
		out, err = program("")
		require.NoError(t, err, out)
		require.Equal(t, want, r.bytes(m.Target.Table), point)
		r.nothingStaged()
	}
}

// Scenario: late events come again and again, and a dashboard polls the table while it is built.
// Guarantee: it sees the state before or the state after, never both, none or a part.
func testAQueryDuringAPublicationSeesTheOldRowsOrTheNewOnes(t *testing.T) {
	r := start(t)
	m := shipped(t, "service_health_1m")
	r.insert("spans", 60, base.Add(10*time.Hour), 0)
	r.built(1, m, options())
	table := r.database + "." + m.Target.Table
	const state = "SELECT count(), sum(spans), sum(cityHash64(*)) FROM "
	for late := range 5 {
		old := r.Query(state + table)
		r.insert("spans", 40, base.Add(10*time.Hour), time.Duration(late+1)*time.Second)
		stop, polled := make(chan struct{}), make(chan map[string]bool)
		first := make(chan struct{})
		go func() {
			seen := map[string]bool{}
			for n := 0; ; n++ {
				out, err := r.Try(state + table)
				if err != nil {
					out = err.Error()
				}
				seen[strings.TrimSpace(out)] = true
				if n == 0 {
					close(first)
				}
				select {
				case <-stop:
					polled <- seen
					return
				default:
				}
			}
		}()
		<-first
		r.built(1, m, options())
		close(stop)
		seen, now := <-polled, r.Query(state+table)
		require.NotEqual(t, old, now)
		delete(seen, old)
		delete(seen, now)
		require.Empty(t, seen)
	}
}

// Guarantees: late events, rows that were deleted, a partition that somebody dropped, and records that are lost are found by the next build, which builds those
// partitions and no others; the table is then what a build of nothing gives, whatever the order in which the rows came.
func testABuildFindsWhatHasChanged(t *testing.T) {
	r := start(t)
	m := shipped(t, "service_health_1m")
	r.insert("spans", 180, base.Add(10*time.Hour), time.Second)
	r.built(3, m, options())
	table := r.database + "." + m.Target.Table

	r.insert("spans", 30, base.Add(11*time.Hour), 5*time.Hour)
	report := r.built(1, m, options())
	require.Equal(t, base.Add(11*time.Hour), report.Outcomes[0].At)
	require.Equal(t, "its sources have changed: they had 60 rows, and have 90", report.Outcomes[0].Reason)
	require.Equal(t, 2, report.Unchanged)
	late := r.bytes(m.Target.Table)

	r.Exec("ALTER TABLE " + table + " DROP PARTITION ID '" + base.Add(12*time.Hour).Format("2006010215") + "'")
	require.NotEqual(t, late, r.bytes(m.Target.Table))
	require.Contains(t, r.built(1, m, options()).Outcomes[0].Reason, "the table is not as its build left it: it had 60 rows, and has 0")
	require.Equal(t, late, r.bytes(m.Target.Table))
	r.Exec("DROP TABLE " + r.database + ".aggregate_builds SYNC")
	r.built(3, m, options())
	require.Equal(t, late, r.bytes(m.Target.Table))
	again := options()
	again.Again = true
	r.built(3, m, again)
	require.Equal(t, late, r.bytes(m.Target.Table))

	other := &rig{Server: r.Server, t: t}
	other.fresh("other")
	other.insert("spans", 30, base.Add(11*time.Hour), 5*time.Hour)
	other.insert("spans", 180, base.Add(10*time.Hour), time.Second)
	other.Exec("OPTIMIZE TABLE other.spans FINAL")
	other.built(3, m, options())
	require.Equal(t, late, other.bytes(m.Target.Table))

	r.Exec("DELETE FROM " + r.database + ".spans WHERE ingest_time > time + INTERVAL 1 HOUR")
	r.Exec("DELETE FROM " + r.database + ".spans WHERE time >= '" + base.Add(12*time.Hour).Format(time.DateTime) + "'")
	require.Equal(t, "its sources have changed: they had 60 rows, and have none", r.built(2, m, options()).Outcomes[1].Reason)
	require.Zero(t, r.QueryInt("SELECT count() FROM "+table+" WHERE time >= '"+base.Add(12*time.Hour).Format(time.DateTime)+"'"))
	require.NotZero(t, r.QueryInt("SELECT count() FROM "+table))
	r.built(0, m, options())
}

// Guarantees: what retention has deleted from the sources stays in the table; a range of one's own is built where nothing was; --expired builds what is left.
func testRowsThatWereDeletedForTheirAgeStayInTheTable(t *testing.T) {
	r := start(t)
	m := shipped(t, "service_health_1m")
	r.insert("spans", 120, base.Add(10*time.Hour), time.Second)
	o := options()
	o.SourceRetention = 24 * time.Hour // all of it is older
	r.built(2, m, o)
	before := r.bytes(m.Target.Table)
	r.Exec("DELETE FROM " + r.database + ".spans WHERE time < '" + base.Add(11*time.Hour).Format(time.DateTime) + "'")
	report, err := r.build(m, o)
	require.NoError(t, err)
	require.Len(t, report.Outcomes, 1)
	require.Equal(t, aggregate.Kept, report.Outcomes[0].State)
	r.Exec("DROP TABLE " + r.database + ".aggregate_builds SYNC")
	report, err = r.build(m, o)
	require.NoError(t, err)
	require.Equal(t, 2, report.Count(aggregate.Kept), "nothing says what the partitions were built of")
	require.Equal(t, before, r.bytes(m.Target.Table))
	o.Expired = true
	r.built(2, m, o)
	require.NotEqual(t, before, r.bytes(m.Target.Table))
}

// Guarantees: a partition waits until the watermark and the allowed lateness have passed; a dry run makes nothing; a range says what it leaves out.
func testAPartitionWaitsForTheWatermark(t *testing.T) {
	r := start(t)
	m := shipped(t, "service_health_1m") // allowed lateness 10m
	r.insert("spans", 180, base.Add(10*time.Hour), time.Second)
	o := options()
	through := base.Add(11*time.Hour + 9*time.Minute)
	o.Watermark = func(context.Context, signal.Signal) (time.Time, error) { return through, nil }
	r.built(0, m, o)
	through = base.Add(12*time.Hour + 10*time.Minute)
	o.DryRun = true
	report, err := r.build(m, o)
	require.NoError(t, err)
	require.Equal(t, 2, report.Count(aggregate.WouldBuild))
	require.Zero(t, r.QueryInt("SELECT count() FROM "+r.database+"."+m.Target.Table))
	o.DryRun, o.From, o.To = false, base.Add(11*time.Hour), base.Add(13*time.Hour+time.Minute)
	report = r.built(1, m, o)
	require.Equal(t, 2, report.Waiting)
	require.Equal(t, base.Add(11*time.Hour), report.Outcomes[0].At)
	through = complete
	r.built(2, m, options())

	fails := options()
	fails.Watermark = func(context.Context, signal.Signal) (time.Time, error) {
		return time.Time{}, errors.New("Kafka is away")
	}
	_, err = r.build(m, fails)
	require.ErrorContains(t, err, "model service_health_1m: watermark of traces: Kafka is away")
}

// Guarantee: a partition that fails a test is not published, whatever was there stays to the byte, the others are, and the report says which test, how many rows, and one of them.
func testAPartitionThatFailsATestIsNotPublished(t *testing.T) {
	r := start(t)
	r.insert("spans", 240, base.Add(10*time.Hour), time.Second)
	good := custom(t, customQuery, "")
	r.built(4, good, options())
	before := r.bytes("custom")
	bad := base.Add(11 * time.Hour).Format(time.DateTime)
	where := " FROM (" + byHour + ")"
	for name, tc := range map[string]struct{ query, more, want string }{
		"range":     {"SELECT tenant_id, h AS time, if(h = '" + bad + "', -1, n) AS n" + where, "tests: [{range: {column: n, min: 0, max: 1e6}}]", "range: rows without a n of at least 0 of at most 1e+06: 3 of 3; the first is ('tenant0','" + bad + "')"},
		"holds":     {"SELECT tenant_id, h AS time, if(h = '" + bad + "', 0, n) AS n" + where, "tests: [{holds: n * 2 > n}]", "holds: rows for which this is not true: n * 2 > n: 3 of 3"},
		"unique":    {"SELECT tenant_id, h AS time, n" + where + " UNION ALL SELECT tenant_id, h AS time, 7 AS n" + where + " WHERE h = '" + bad + "' AND tenant_id = 'tenant1'", "", "unique: 1 of 4 rows repeat the grain"},
		"outside":   {"SELECT tenant_id, if(h = '" + bad + "', h - 7200, h) AS time, n" + where, "", "rows whose time is not in the partition: 3 of 3"},
		"freshness": {customQuery, "tests: [{freshness: {within: 30m}}]", "freshness: the newest row is of "},
		"few rows":  {"SELECT tenant_id, h AS time, n" + where + " WHERE h != '" + bad + "' OR tenant_id = 'tenant1'", "tests: [{rows: {min: 2}}]", "rows: 1, want 2 or more"},
		"no rows":   {"SELECT tenant_id, h AS time, n" + where + " WHERE h != '" + bad + "'", "", "rows: the query gives none of 60 rows of its sources"},
		"null":      {"SELECT tenant_id, h AS time, if(h = '" + bad + "', NULL, n) AS n" + where, "", "Cannot convert NULL value to non-Nullable type"},
		"fails":     {"SELECT tenant_id, h AS time, n + throw AS n FROM (SELECT *, toUInt8(if(h = '" + bad + "', 'x', '0')) AS throw" + where + ")", "", "Cannot parse"},
	} {
		t.Run(name, func(t *testing.T) {
			m := custom(t, tc.query, tc.more)
			o := options()
			o.Again = true
			o.From, o.To = base.Add(11*time.Hour), base.Add(12*time.Hour)
			report, err := r.build(m, o)
			require.NoError(t, err)
			require.Len(t, report.Outcomes, 1, "%+v", report)
			require.Equal(t, aggregate.Failed, report.Outcomes[0].State, "%+v", report)
			require.Contains(t, strings.Join(report.Outcomes[0].Findings, "\n"), tc.want)
			require.Equal(t, before, r.bytes("custom"))
			r.nothingStaged()
		})
	}

	// The rest of a range goes on, up to failures that follow each other, and the model's watermark stops before the first.
	m := custom(t, "SELECT tenant_id, h AS time, if(h = '"+bad+"', -1, n) AS n"+where, "tests: [{range: {column: n, min: 0}}]")
	report, err := r.build(m, options())
	require.NoError(t, err)
	require.Equal(t, []int{3, 1}, []int{report.Count(aggregate.Built), report.Count(aggregate.Failed)})
	require.Equal(t, before, r.bytes("custom"))
	require.Equal(t, bad, r.Query("SELECT toString(complete_through) FROM "+r.database+".aggregate_watermarks FINAL WHERE name = 'custom'"))
	r.insert("spans", 600, base.Add(20*time.Hour), time.Second)
	report, err = r.build(custom(t, "SELECT tenant_id, h AS time, -n AS n"+where, "tests: [{range: {column: n, min: 0}}]"), options())
	require.NoError(t, err)
	require.Equal(t, []int{0, 5, 9}, []int{report.Count(aggregate.Built), report.Count(aggregate.Failed), report.Count(aggregate.NotTried)})
	require.Equal(t, before, r.bytes("custom"))
}

func testRowsThatGoOrComeAgainstThePreviousBuildAreNotPublished(t *testing.T) {
	r := start(t)
	query := "SELECT concat(tenant_id, toString(duration_nano)) AS tenant_id, toStartOfHour(toDateTime(s.time)) AS time, count() AS n FROM (SELECT * FROM spans) AS s GROUP BY ALL"
	m := custom(t, strings.Replace(query, "AS time,", "AS h,", 1), "tests: [{rows: {lose_percent: 20, grow_percent: 50}}]")
	m.SQL = "SELECT t AS tenant_id, h AS time, n FROM (SELECT concat(tenant_id, toString(duration_nano)) AS t, toStartOfHour(toDateTime(s.time)) AS h, count() AS n FROM spans AS s GROUP BY t, h)"
	r.insert("spans", 60, base.Add(10*time.Hour), 0)
	r.built(1, m, options())
	before := r.bytes("custom")
	r.Exec("DELETE FROM " + r.database + ".spans WHERE duration_nano > 900000")
	report, err := r.build(m, options())
	require.NoError(t, err)
	require.Regexp(t, `rows: \d+, \d+\.\d % fewer than the previous build's \d+: at most 20 % may go`, report.Outcomes[0].Findings[0])
	require.Equal(t, before, r.bytes("custom"))
	accept := options()
	accept.AcceptRows = true
	r.built(1, m, accept)
	require.NotEqual(t, before, r.bytes("custom"))
	r.insert("spans", 60, base.Add(10*time.Hour), 0)
	report, err = r.build(m, options())
	require.NoError(t, err)
	require.Contains(t, report.Outcomes[0].Findings[0], "more than the previous build's")
}

// Guarantee: a query that reads anything but its sources, or that ClickHouse does not understand, is refused before anything is built.
func testAQueryReadsItsSourcesAndNothingElse(t *testing.T) {
	r := start(t)
	r.insert("spans", 60, base.Add(10*time.Hour), 0)
	for name, tc := range map[string]struct{ query, want string }{
		"another table":       {"SELECT tenant_id, toStartOfHour(toDateTime(l.time)) AS time, 1 AS n FROM pulsegrid.logs AS l", "query: it reads pulsegrid.logs, which is not in the model's sources"},
		"by IN":               {customQuery + " WHERE n NOT IN (SELECT dummy FROM system.one)", "query: it reads system.one"},
		"table function":      {customQuery + " WHERE n IN (SELECT number FROM numbers(3))", "query: numbers(): it reads what is not in the sources"},
		"nothing":             {"SELECT 'a' AS tenant_id, {from:DateTime('UTC')} AS time, 1 AS n", "query: it reads system.one, which is not in the model's sources"},
		"unknown column":      {"SELECT tenant, toStartOfHour(toDateTime(s.time)) AS time, 1 AS n FROM spans AS s", "query: ClickHouse exception 47"},
		"a column is missing": {"SELECT tenant_id, n FROM (" + byHour + ")", "query: ClickHouse exception 47"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.build(custom(t, tc.query, ""), options())
			require.ErrorContains(t, err, tc.want)
			require.Zero(t, r.QueryInt("SELECT count() FROM pulsegrid.custom"))
		})
	}
	r.Exec("DROP TABLE pulsegrid.custom SYNC")
	r.Exec("CREATE TABLE pulsegrid.custom (tenant_id String) ENGINE = MergeTree ORDER BY tenant_id")
	_, err := r.build(custom(t, customQuery, ""), options())
	require.ErrorContains(t, err, "table pulsegrid.custom: its columns are tenant_id String; the model has tenant_id LowCardinality(String), time DateTime('UTC'), n Int64")
	duck := custom(t, customQuery, "")
	duck.Engines = []string{aggregate.EngineDuckDB}
	_, err = r.build(duck, options())
	require.ErrorContains(t, err, "engines: it allows [duckdb], and this is clickhouse")
}

// recountFeatures is device_features_1h by a join of hours and log records, with the condition of arrival written out.
const recountFeatures = `SELECT tenant_id, device AS device_id, hour AS time, hour + 3600 AS cutoff_time, toUInt64(sum(happened >= hour)) AS events_1h, toUInt64(sum(1)) AS events_24h,
	toUInt64(sum(happened >= hour AND severity_number > 16)) AS errors_1h, toUInt64(sum(severity_number > 16)) AS errors_24h, toUInt64(length(groupUniqArray(service_name))) AS services_24h,
	toUInt64(toUnixTimestamp(cutoff_time) - toUnixTimestamp(max(happened))) AS silent_seconds
FROM (SELECT *, l.time AS happened, if(resource = '{}', attributes_string['device.id'], extract(resource, '"device.id":"(.*?)"')) AS device FROM pulsegrid.logs AS l) AS e
CROSS JOIN (SELECT toDateTime('FROM', 'UTC') + 3600 * number AS hour FROM numbers(HOURS)) AS h
WHERE device != '' AND happened < hour + 3600 AND happened >= hour - 86400 AND ingest_time < hour + 3600
GROUP BY ALL`

// Guarantees: a feature row uses no log record that arrived after its cut-off, whenever it is built; records that arrive later change nothing. Without the cut-off the same
// test fails.
func testAFeatureRowNeverUsesAnEventThatArrivedAfterItsCutOff(t *testing.T) {
	r := start(t)
	m := shipped(t, "device_features_1h")
	r.insert("logs", 240, base.Add(10*time.Hour), time.Second)
	r.insert("logs", 90, base.Add(10*time.Hour), 70*time.Minute) // an hour or two later
	o := options()
	o.From, o.To = base.Add(10*time.Hour), base.Add(14*time.Hour)
	r.built(4, m, o)
	known := r.bytes(m.Target.Table)
	recount := func(m *aggregate.Model) string {
		report, err := r.build(m, o)
		require.NoError(t, err)
		want := strings.NewReplacer("FROM'", report.From.Format(time.DateTime)+"'", "HOURS", fmt.Sprint(int(report.To.Sub(report.From).Hours()))).Replace(recountFeatures)
		require.NotZero(t, r.QueryInt("SELECT count() FROM ("+want+")"))
		table := "SELECT * FROM pulsegrid." + m.Target.Table
		return r.Query("SELECT count() FROM ((" + want + " EXCEPT " + table + ") UNION ALL (" + table + " EXCEPT " + want + "))")
	}
	require.Equal(t, "0", recount(m))

	r.insert("logs", 60, base.Add(10*time.Hour), 90*time.Hour) // long after all of it
	r.built(0, m, o)
	require.Equal(t, known, r.bytes(m.Target.Table))
	again := o
	again.Again = true
	r.built(4, m, again)
	require.Equal(t, known, r.bytes(m.Target.Table), "whenever it is built")
	require.Equal(t, "0", recount(m))

	blind := shipped(t, "device_features_1h")
	blind.Sources[0].Cutoff = ""
	require.NotEqual(t, "0", recount(blind), "the cut-off is what the test above rests on")
}

// Guarantee: no function that ClickHouse itself calls unsteady can be in a model.
func testEachFunctionThatClickHouseCallsUnsteadyIsRefused(t *testing.T) {
	r := start(t)
	// These give the same for the same rows.
	steady := []string{"arrayJoin", "unnest", "financialNetPresentValueExtended"}
	var passed []string
	names := strings.Fields(r.Query("SELECT name FROM system.functions WHERE deterministic = 0"))
	require.Greater(t, len(names), 100)
	for _, name := range names {
		if aggregate.CheckQuery("SELECT "+name+"(1) FROM spans") == nil && !slices.Contains(steady, name) {
			passed = append(passed, name)
		}
	}
	require.Empty(t, passed)
}

// Guarantee: an answer that was cut off is no answer: the build ends, and the published table stays.
func testAnAnswerThatIsNotWholeEndsTheBuild(t *testing.T) {
	r := start(t)
	m := shipped(t, "service_health_1m")
	r.insert("spans", 60, base.Add(10*time.Hour), 0)
	r.built(1, m, options())
	before := r.bytes(m.Target.Table)
	empty := roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
			resp.Body = http.NoBody
		}
		return resp, err
	})
	_, err := r.buildBy(t.Context(), empty, m, options())
	require.ErrorContains(t, err, "is not whole: 0 bytes")
	require.Equal(t, before, r.bytes(m.Target.Table))
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
