package aggregate_test

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	sqlcat "github.com/apache/iceberg-go/catalog/sql"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/driver/sqliteshim"

	"github.com/pulsegrid/pulsegrid/internal/aggregate"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/lakefile"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
	"github.com/pulsegrid/pulsegrid/internal/upkeep"
)

// openLake is a lake in a directory.
func openLake(ctx context.Context, dir string) (*aggregate.Lake, error) {
	cat, err := catalog.Load(ctx, "pulsegrid", iceberg.Properties{
		"type": "sql", "uri": "file:" + filepath.Join(dir, "catalog.db") + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)", "warehouse": "file://" + filepath.Join(dir, "warehouse"),
		sqlcat.DriverKey: sqliteshim.ShimName, sqlcat.DialectKey: string(sqlcat.SQLite),
	})
	if err != nil {
		return nil, err
	}
	// As the exporter opens a table.
	open := func(ctx context.Context, d lakefile.Definition) (*table.Table, error) {
		id := table.Identifier{"pulsegrid", d.Name}
		tbl, err := cat.LoadTable(ctx, id)
		if !errors.Is(err, catalog.ErrNoSuchTable) {
			return tbl, err
		}
		if there, err := cat.CheckNamespaceExists(ctx, id[:1]); err == nil && !there {
			if err := cat.CreateNamespace(ctx, id[:1], nil); err != nil {
				return nil, err
			}
		}
		return cat.CreateTable(ctx, id, d.Schema, catalog.WithPartitionSpec(&d.Spec), catalog.WithSortOrder(d.Order), catalog.WithProperties(d.Properties))
	}
	return &aggregate.Lake{Catalog: cat, Namespace: "pulsegrid", Open: open}, nil
}

// pond is a rig with a lake beside it.
type pond struct {
	*rig
	dir  string
	lake *aggregate.Lake
}

func startWithLake(t *testing.T) *pond {
	t.Helper()
	p := &pond{rig: start(t), dir: t.TempDir()}
	var err error
	p.lake, err = openLake(t.Context(), p.dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.lake.Catalog.(catalog.Closer).Close()) })
	return p
}

func (p *pond) options() aggregate.Options {
	o := options()
	o.Lake = p.lake
	return o
}

// copied is a build that must go well, and write so many partitions into the lake.
func (p *pond) copied(want int, m *aggregate.Model, o aggregate.Options) aggregate.Report {
	p.t.Helper()
	report, err := p.build(m, o)
	require.NoError(p.t, err)
	require.Equal(p.t, report.Count(aggregate.Built), len(report.Outcomes), "%+v", report)
	require.Equal(p.t, want, report.Lake.Written, "%+v", report)
	return report
}

func (p *pond) table(name string) *table.Table {
	p.t.Helper()
	tbl, err := p.lake.Catalog.LoadTable(p.t.Context(), table.Identifier{p.lake.Namespace, name})
	require.NoError(p.t, err)
	return tbl
}

// files are the paths of the table's files, by partition.
func (p *pond) files(name string) map[string][]string {
	p.t.Helper()
	tasks, err := p.table(name).Scan().PlanFiles(p.t.Context())
	require.NoError(p.t, err)
	out := map[string][]string{}
	for _, task := range tasks {
		at := fmt.Sprint(task.File.Partition())
		out[at] = append(out[at], task.File.FilePath())
	}
	return out
}

//go:embed testdata/rows.py
var rowsScript string

// rows are the lake's rows by pyiceberg, as texts: times in microseconds since 1970, dates in days.
func (p *pond) rows(name string) (out []string) {
	p.t.Helper()
	pytest.RunJSON(p.t, &out, rowsScript, p.table(name).MetadataLocation())
	return out
}

// query is ClickHouse's answer, a row a line.
func (p *pond) lines(query string) []string {
	p.t.Helper()
	out := strings.Split(p.Query(query), "\n")
	if out[0] == "" {
		return nil
	}
	return out
}

// features are ClickHouse's rows of device_features_1h, as pond.rows has them.
func (p *pond) features() []string {
	p.t.Helper()
	return p.lines("SELECT concatWithSeparator('|', tenant_id, device_id, toString(toUnixTimestamp(time) * 1000000), toString(toUnixTimestamp(cutoff_time) * 1000000), toString(events_1h), toString(events_24h)," +
		" toString(errors_1h), toString(errors_24h), toString(services_24h), toString(silent_seconds)) AS line FROM pulsegrid.device_features_1h ORDER BY line")
}

// same holds the lake against ClickHouse.
func (p *pond) same(msg ...any) {
	p.t.Helper()
	want := p.features()
	require.NotEmpty(p.t, want)
	require.Equal(p.t, want, p.rows("device_features_1h"), msg...)
}

// some is a range of three hours with log records, of device_features_1h.
func (p *pond) some() aggregate.Options {
	p.insert("logs", 240, base.Add(10*time.Hour), time.Second)
	o := p.options()
	o.From, o.To = base.Add(10*time.Hour), base.Add(13*time.Hour)
	return o
}

// Guarantees: the lake's table has ClickHouse's rows by a reader that is not ours, in one file for each partition; a second build writes nothing; sessions keep their
// nanoseconds.
func testTheLakeHasWhatIsPublished(t *testing.T) {
	p := startWithLake(t)
	o := p.some()
	m := shipped(t, "device_features_1h")
	dry := o
	dry.DryRun = true
	report, err := p.build(m, dry)
	require.NoError(t, err)
	require.Equal(t, 3, report.Lake.Written)
	_, err = p.lake.Catalog.LoadTable(t.Context(), table.Identifier{"pulsegrid", m.Target.Table})
	require.ErrorIs(t, err, catalog.ErrNoSuchTable)
	p.copied(3, m, o)
	p.same()
	before := p.files(m.Target.Table)
	require.Len(t, before, 3)
	require.Len(t, p.table(m.Target.Table).Metadata().Snapshots(), 3)
	require.Equal(t, 3, p.copied(0, m, o).Lake.Unchanged)
	again := o
	again.Again = true
	require.Equal(t, 3, p.copied(0, m, again).Lake.Unchanged, "it is the same")
	require.Equal(t, before, p.files(m.Target.Table))

	sessions := shipped(t, "sessions_1d")
	o.From, o.To = base, base.Add(24*time.Hour)
	p.copied(1, sessions, o)
	micro, nano := "toString(toUnixTimestamp64Micro(%[1]s)), toString(toUnixTimestamp64Nano(%[1]s) %% 1000)", ""
	for _, c := range []string{"first_time", "last_time"} {
		nano += fmt.Sprintf(micro, c) + ", "
	}
	require.Equal(t, p.lines("SELECT concatWithSeparator('|', tenant_id, toString(toUnixTimestamp(day) * 1000000), session_id, user_id, "+nano+
		"toString(events), toString(errors), toString(services)) AS line FROM pulsegrid.sessions_1d ORDER BY line"), p.rows("sessions_1d"))
}

// typed is a model with a column of each type that the lake keeps.
func typed(t *testing.T, query string) *aggregate.Model {
	t.Helper()
	models, err := aggregate.Load(fstest.MapFS{"typed.yaml": {Data: []byte(`description: every type
owner: somebody
engines: [clickhouse]
schedule: 10m
sources: [{table: spans}]
partition: {column: time, size: day}
rebuild: 72h
target:
  table: typed
  retention_days: 30
  lake: true
  columns:
    - {name: time, type: DateTime('UTC'), doc: begin of the day}
    - {name: n, type: UInt8, doc: which}
    - {name: s, type: String, doc: text}
    - {name: l, type: LowCardinality(String), doc: text}
    - {name: b, type: Bool, doc: truth}
    - {name: i8, type: Int8, doc: number}
    - {name: i16, type: Int16, doc: number}
    - {name: i32, type: Int32, doc: number}
    - {name: i64, type: Int64, doc: number}
    - {name: u16, type: UInt16, doc: number}
    - {name: u32, type: UInt32, doc: number}
    - {name: u64, type: UInt64, doc: number}
    - {name: f32, type: Float32, doc: number}
    - {name: f64, type: Float64, doc: number}
    - {name: d, type: Date, doc: day}
    - {name: d32, type: Date32, doc: day}
    - {name: t3, type: "DateTime64(3, 'UTC')", doc: time}
    - {name: t9, type: "DateTime64(9, 'UTC')", doc: time}
grain: [time, n]
`)}, "typed.sql": {Data: []byte(query)}})
	require.NoError(t, err)
	return models[0]
}

const typedQuery = `SELECT at AS time, n, n = 0 ? '' : concat('a\'|', repeat('x', 5000)) AS s, n = 0 ? '\xff' : 'ä' AS l, n = 0 AS b, n = 0 ? -128 : 127 AS i8, n = 0 ? -32768 : 32767 AS i16,
	n = 0 ? -2147483648 : 2147483647 AS i32, n = 0 ? toInt64('-9223372036854775808') : toInt64('9223372036854775807') AS i64, 65535 AS u16, 4294967295 AS u32,
	n = 0 ? toUInt64(0) : toUInt64('MOST') AS u64, n = 0 ? toFloat32(0.5) : toFloat32('inf') AS f32, n = 0 ? -0.1 : nan AS f64, toDate('2026-03-04') AS d, toDate32(n = 0 ? '1925-01-02' : '2026-03-04') AS d32,
	toDateTime64(n = 0 ? '1969-12-31 23:59:59.999' : '2026-03-04 05:06:07.089', 3, 'UTC') AS t3, toDateTime64(n = 0 ? '1969-12-31 23:59:59.999999999' : '2026-03-04 05:06:07.089000123', 9, 'UTC') AS t9
FROM (SELECT DISTINCT toStartOfDay(toDateTime(p.time)) AS at, toUInt8(duration_nano > 0) AS n FROM spans AS p)`

// Guarantees: the extreme values of each type arrive as they are; text that is not UTF-8 is text of replacement characters; a number that the lake has not fails its
// partition, and says so.
func testTheLakeKeepsEachType(t *testing.T) {
	p := startWithLake(t)
	p.insert("spans", 60, base.Add(10*time.Hour), 0)
	m := typed(t, strings.Replace(typedQuery, "MOST", "9223372036854775807", 1))
	p.copied(1, m, p.options())
	day := fmt.Sprint(base.UnixMicro())
	require.Equal(t, []string{
		day + "|0||\ufffd|True|-128|-32768|-2147483648|-9223372036854775808|65535|4294967295|0|0.5|-0.1|20516|-16435|-1000|-1|999",
		day + "|1|a'|" + strings.Repeat("x", 5000) + "|ä|False|127|32767|2147483647|9223372036854775807|65535|4294967295|9223372036854775807|inf|nan|20516|20516|1772600767089000|1772600767089000|123",
	}, p.rows("typed"))

	report, err := p.build(typed(t, strings.Replace(typedQuery, "MOST", "9223372036854775808", 1)), p.options())
	require.NoError(t, err)
	require.Equal(t, []int{1, 1}, []int{report.Count(aggregate.Built), report.Count(aggregate.Failed)}, "%+v", report)
	require.Contains(t, report.Outcomes[1].Findings[0], "lake: ClickHouse exception")
	require.Len(t, p.rows("typed"), 2, "what was there")
	require.Equal(t, base.Format(time.DateTime), p.Query("SELECT toString(complete_through) FROM pulsegrid.aggregate_watermarks FINAL WHERE name = 'typed'"))
}

// Guarantees: late events, an hour that has lost all rows, a partition that somebody has taken out of the lake or put rows into, and a table that was dropped: the next build
// writes these partitions, and no others; each change is one snapshot. What is older than the model keeps leaves the lake.
func testTheLakeFollowsWhatIsPublished(t *testing.T) {
	p := startWithLake(t)
	o := p.some()
	m := shipped(t, "device_features_1h")
	blind := *m // so that late events count
	blind.Sources = []aggregate.Source{{Table: "logs", Lookback: time.Hour}}
	p.copied(3, &blind, o)
	before := p.files(m.Target.Table)

	p.insert("logs", 30, base.Add(12*time.Hour), 20*time.Hour)
	p.copied(1, &blind, o)
	p.same()
	now := p.files(m.Target.Table)
	maps.DeleteFunc(now, func(at string, f []string) bool { return f[0] == before[at][0] })
	require.Len(t, now, 1)

	require.NoError(t, p.change(m.Target.Table, func(tx *table.Transaction, files []iceberg.DataFile) error {
		return tx.ReplaceFiles(t.Context(), files[:1], nil, nil, nil)
	}))
	require.Len(t, p.files(m.Target.Table), 2)
	p.copied(1, &blind, o)
	p.same("a partition was taken out")

	require.NoError(t, p.change(m.Target.Table, func(tx *table.Transaction, _ []iceberg.DataFile) error {
		all, err := p.table(m.Target.Table).Scan().ToArrowTable(t.Context())
		if err != nil {
			return err
		}
		defer all.Release()
		return tx.AppendTable(t.Context(), all, 1<<20, nil)
	}))
	p.copied(3, &blind, o)
	p.same("rows were put in")

	snapshots := len(p.table(m.Target.Table).Metadata().Snapshots())
	p.Exec("DELETE FROM pulsegrid.logs WHERE time >= '" + base.Add(11*time.Hour).Format(time.DateTime) + "' AND time < '" + base.Add(13*time.Hour).Format(time.DateTime) + "'")
	p.copied(2, &blind, o)
	p.same("an hour is empty, and the one before has less")
	require.Len(t, p.files(m.Target.Table), 2)
	require.Len(t, p.table(m.Target.Table).Metadata().Snapshots(), snapshots+2)

	require.NoError(t, p.lake.Catalog.DropTable(t.Context(), table.Identifier{"pulsegrid", m.Target.Table}))
	p.copied(2, &blind, o)
	p.same("the table was dropped")

	require.Zero(t, p.copied(0, &blind, o).Lake.Dropped)
	blind.Target.RetentionDays = 2 // base is three days ago
	recent := p.options()
	recent.From = base.Add(48 * time.Hour)
	report, err := p.build(&blind, recent)
	require.NoError(t, err)
	require.Equal(t, 2, report.Lake.Dropped)
	require.Empty(t, p.files(m.Target.Table))
}

// change commits to a table as another program does.
func (p *pond) change(name string, with func(*table.Transaction, []iceberg.DataFile) error) error {
	tbl := p.table(name)
	tasks, err := tbl.Scan().PlanFiles(p.t.Context())
	if err != nil {
		return err
	}
	var files []iceberg.DataFile
	for _, task := range tasks {
		files = append(files, task.File)
	}
	tx := tbl.NewTransaction()
	if err := with(tx, files); err != nil {
		return err
	}
	_, err = tx.Commit(p.t.Context())
	return err
}

// Guarantees: a run that dies behind any of its last statements to ClickHouse, which copy two partitions, leaves a lake that the next run mends, and no row twice.
func testALakeIsMendedAfterARunThatDiesAtAnyStatement(t *testing.T) {
	p := startWithLake(t)
	o := p.some()
	o.To = base.Add(12 * time.Hour)
	m := shipped(t, "device_features_1h")
	const never, last = 1 << 30, 10
	counting := &breaking{most: never}
	_, err := p.buildBy(t.Context(), counting, m, o)
	require.NoError(t, err)
	p.same()
	want := p.features()
	mended := 0
	for n := counting.sent.Load() - last; n <= counting.sent.Load(); n++ {
		for _, name := range []string{m.Target.Table, aggregate.BuildsTable} {
			p.Exec("DROP TABLE pulsegrid." + name + " SYNC")
		}
		_, err := p.buildBy(t.Context(), &breaking{most: n}, m, o)
		require.True(t, err == nil || errors.Is(err, errDead), "%v", err)
		report, err := p.build(m, o)
		require.NoError(t, err)
		mended += report.Lake.Written
		p.copied(0, m, o)
		require.Equal(t, want, p.features())
		files, rows := p.table(m.Target.Table).CurrentSnapshot().Summary.Properties["total-data-files"], p.table(m.Target.Table).CurrentSnapshot().Summary.Properties["total-records"]
		require.Equal(t, []string{"2", strconv.Itoa(len(want))}, []string{files, rows}, "died behind statement %d", n)
	}
	require.Greater(t, mended, 4)
	p.same()
}

// Guarantee: a program that is killed between the publication in ClickHouse, the lake's commit and their records, and run again, leaves the lake as one that was not.
func testAProgramThatIsKilledLeavesALakeThatTheNextRunMends(t *testing.T) {
	p := startWithLake(t)
	p.some()
	m := shipped(t, "device_features_1h")
	program := func(armed string) (string, error) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+p.URL+" "+p.database+" "+p.dir, baseVariable+"="+base.Format(time.DateOnly), failpoint.Variable+"="+armed)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, point := range []string{"aggregate-published", "aggregate-recorded", "aggregate-lake-written", "aggregate-lake-committed"} {
		p.Exec("DROP TABLE IF EXISTS pulsegrid." + m.Target.Table + " SYNC")
		p.Exec("DROP TABLE IF EXISTS pulsegrid." + aggregate.BuildsTable + " SYNC")
		out, err := program(point + "=kill@2")
		require.ErrorContains(t, err, "killed", out)
		out, err = program("")
		require.NoError(t, err, out)
		p.same(point)
		before := p.table(m.Target.Table).MetadataLocation()
		out, err = program("")
		require.NoError(t, err, out)
		require.Equal(t, before, p.table(m.Target.Table).MetadataLocation(), "nothing is left to do")
	}
}

// contended does something before each of the first commits, as another writer that is faster.
type contended struct {
	catalog.Catalog
	before []func() error
	after  error // of the first commit, which has landed
}

func (c *contended) CommitTable(ctx context.Context, id table.Identifier, reqs []table.Requirement, updates []table.Update) (table.Metadata, string, error) {
	if len(c.before) > 0 {
		next := c.before[0]
		c.before = c.before[1:]
		if err := next(); err != nil {
			return nil, "", err
		}
	}
	meta, location, err := c.Catalog.CommitTable(ctx, id, reqs, updates)
	switch {
	case err != nil: // as a REST catalog says it, whereupon iceberg-go makes a commit that is not pinned again
		return nil, "", fmt.Errorf("%w: %w", table.ErrCommitFailed, err)
	case c.after != nil:
		err, c.after = c.after, nil
	}
	return meta, location, err
}

func (c *contended) LoadTable(ctx context.Context, id table.Identifier) (*table.Table, error) {
	tbl, err := c.Catalog.LoadTable(ctx, id)
	if err != nil {
		return nil, err
	}
	return table.New(tbl.Identifier(), tbl.Metadata(), tbl.MetadataLocation(), tbl.FS, c), nil
}

// Guarantees: beside writers that are faster, also of the same partition, each row is in the lake once; so is it where the answer to a commit is lost.
func testTheLakeBesideOtherWriters(t *testing.T) {
	p := startWithLake(t)
	o := p.some()
	o.To = base.Add(11 * time.Hour)
	m := shipped(t, "device_features_1h")
	p.copied(1, m, o)
	real := p.lake.Catalog
	fresh := func() { // forgets what the lake has
		require.NoError(t, p.change(m.Target.Table, func(tx *table.Transaction, files []iceberg.DataFile) error {
			return tx.ReplaceFiles(t.Context(), files, nil, nil, nil)
		}))
		require.Empty(t, p.files(m.Target.Table))
	}
	others := *p.lake
	other := o
	other.Lake = &others
	for name, c := range map[string]*contended{
		"the same partition": {before: []func() error{func() error { _, err := p.build(m, other); return err }}},
		"a property": {before: []func() error{func() error {
			return p.change(m.Target.Table, func(tx *table.Transaction, _ []iceberg.DataFile) error {
				return tx.SetProperties(iceberg.Properties{"a": "b"})
			})
		}}},
		"the answer is lost": {after: errors.New("the connection was reset")},
	} {
		fresh()
		c.Catalog = real
		one := *p.lake
		one.Catalog = c
		mine := o
		mine.Lake = &one
		p.copied(1, m, mine)
		p.same(name)
		require.Empty(t, c.before)
		require.NoError(t, c.after)
	}
}

// Guarantee: rows that are cut off on their way are not committed, and their files are removed.
func testRowsThatAreCutOffDoNotComeIntoTheLake(t *testing.T) {
	p := startWithLake(t)
	o := p.some()
	m := shipped(t, "device_features_1h")
	for _, most := range []int64{0, 1_500, 1 << 10 << 10} {
		cutting := roundTripper(func(req *http.Request) (*http.Response, error) {
			statement, err := io.ReadAll(req.Body)
			if err != nil {
				return nil, err
			}
			text := string(statement)
			less := most == 1<<20 && strings.HasSuffix(text, "FORMAT ArrowStream")
			if less { // an answer that is whole, of other rows
				text = strings.Replace(text, " WHERE ", " WHERE events_24h % 2 = 0 AND ", 1)
			}
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err == nil && strings.HasSuffix(text, "FORMAT ArrowStream") && !less {
				resp.Body = struct {
					io.Reader
					io.Closer
				}{io.LimitReader(resp.Body, most), resp.Body}
			}
			return resp, err
		})
		_, err := p.buildBy(t.Context(), cutting, m, o)
		require.ErrorContains(t, err, "is published in ClickHouse, and not copied", "%d", most)
		require.Empty(t, p.files(m.Target.Table))
	}
	var left []string
	require.NoError(t, filepath.WalkDir(p.dir, func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".parquet") {
			left = append(left, path)
		}
		return err
	}))
	require.Empty(t, left)
	p.copied(3, m, o)
	p.same()
}

// Guarantees: another shape than the model's is refused before anything is built, and what the lake cannot keep where the model is read.
func testTheLakeRefusesAnotherShape(t *testing.T) {
	p := startWithLake(t)
	o := p.some()
	m := shipped(t, "device_features_1h")
	p.copied(3, m, o)
	for want, change := range map[string]func(*aggregate.Model){
		"its columns are tenant_id string, device_id string, time timestamptz,": func(m *aggregate.Model) { m.Target.Columns = m.Target.Columns[:9] },
		"its partitions are by hour(time), the model's by day(time)":            func(m *aggregate.Model) { m.Partition.Size = aggregate.Day },
		`its property pulsegrid.model is "device_features_1h"`:                  func(m *aggregate.Model) { m.Name = "other" },
	} {
		other := shipped(t, "device_features_1h")
		change(other)
		p.Exec("DROP TABLE IF EXISTS pulsegrid." + m.Target.Table + " SYNC") // ClickHouse would refuse it first
		_, err := p.build(other, o)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "table pulsegrid.device_features_1h of the lake: ")
	}
}

// Guarantee: upkeep expires the snapshots of such a table, and the rows stay; a build after it writes nothing.
func testUpkeepOfACopyChangesNoRow(t *testing.T) {
	p := startWithLake(t)
	o := p.some()
	m := shipped(t, "device_features_1h")
	p.copied(3, m, o)
	report, err := upkeep.Table(t.Context(), p.lake.Catalog, table.Identifier{"pulsegrid", m.Target.Table}, upkeep.Options{RetainLast: 1, TargetBytes: 64 << 20, Within: time.Hour})
	require.NoError(t, err)
	require.Equal(t, 2, report.Expired)
	p.same()
	p.copied(0, m, o)
}
