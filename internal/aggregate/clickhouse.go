package aggregate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/columns"
)

const (
	// BuildsTable keeps the newest build of each partition of each model.
	BuildsTable = "aggregate_builds"
	// WatermarksTable keeps how far signals and models are complete.
	WatermarksTable = "aggregate_watermarks"
	// stagedMark is in the names of tables that partitions are staged in, before the run's own mark.
	stagedMark = "_staged_"
	// partitionsAtOnce lets a query that gives rows of other partitions be told so, instead of making a thousand files.
	partitionsAtOnce = 100
)

// ClickHouseConfig reaches a server and says how much of it a build may use.
type ClickHouseConfig struct {
	HTTP               *http.Client
	Endpoint           string // http[s]://host:port
	Username, Password string // empty username: ClickHouse's default
	Database           string // of the tables of events; targets are made there
	Engine             string // of tables that are made, of the MergeTree family; empty: MergeTree
	Threads            int    // of one build, at most
	// Longest bounds one statement.
	Longest time.Duration
}

// ClickHouse implements Engine. Each statement goes to the endpoint: it must be one server, or a proxy that keeps to one.
type ClickHouse struct {
	config ClickHouseConfig
	client *clickhouse.Client
	run    string // mark of this run in the names of its tables and queries

	statements atomic.Int64 // sent so far
}

// NewClickHouse connects to nothing yet.
func NewClickHouse(c ClickHouseConfig) (*ClickHouse, error) {
	client, err := clickhouse.NewClient(c.HTTP, c.Endpoint, c.Username, c.Password)
	if err != nil {
		return nil, err
	}
	mark := make([]byte, 4)
	_, _ = rand.Read(mark) // it never fails
	return &ClickHouse{config: c, client: client, run: hex.EncodeToString(mark)}, nil
}

// Name implements Engine.
func (*ClickHouse) Name() string { return EngineClickHouse }

func quote(name string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
}

func quoteText(text string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(text) + "'"
}

func quoteAll(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = quote(n)
	}
	return strings.Join(out, ", ")
}

func (c *ClickHouse) table(name string) string { return quote(c.config.Database) + "." + quote(name) }

func (c *ClickHouse) staged(m *Model) string { return c.table(m.Target.Table + stagedMark + c.run) }

// settings are those of every statement; more are name and value, in turn.
func (c *ClickHouse) settings(more ...string) map[string]string {
	out := map[string]string{
		"query_id":         c.queryPrefix() + strconv.FormatInt(c.statements.Add(1), 10),
		"session_timezone": "UTC", "max_threads": strconv.Itoa(c.config.Threads), "max_execution_time": strconv.Itoa(int(c.config.Longest.Seconds())),
		"priority": "10", // live queries come first
	}
	for i := 0; i+1 < len(more); i += 2 {
		out[more[i]] = more[i+1]
	}
	return out
}

// moment is a time as ClickHouse's parameters have it.
func moment(t time.Time) string { return t.UTC().Format(time.DateTime) }

// window are the settings of a query over [from, to).
func (c *ClickHouse) window(from, to time.Time) map[string]string {
	return c.settings("param_from", moment(from), "param_to", moment(to))
}

const fromTo = " >= {from:DateTime('UTC')} AND %s < {to:DateTime('UTC')}"

// within is the condition that a column lies in the window.
func within(column string) string { return quote(column) + fmt.Sprintf(fromTo, quote(column)) }

// partitionKey is a number that reads as the hour or day.
func partitionKey(p Partition) string {
	if p.Size == Day {
		return "toYYYYMMDD(" + p.Column + ")"
	}
	return "intDiv(toYYYYMMDDhhmmss(" + p.Column + "), 10000)"
}

// partitionID is ClickHouse's name of the partition.
func partitionID(p Partition, at time.Time) string {
	if p.Size == Day {
		return at.UTC().Format("20060102")
	}
	return at.UTC().Format("2006010215")
}

func (m *Model) columnNames() []string {
	out := make([]string, len(m.Target.Columns))
	for i, c := range m.Target.Columns {
		out[i] = c.Name
	}
	return out
}

func (c *ClickHouse) targetDDL(m *Model) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s (", c.table(m.Target.Table))
	for i, col := range m.Target.Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s COMMENT %s", quote(col.Name), col.Type, quoteText(col.Doc))
	}
	fmt.Fprintf(&b, ") ENGINE = %s PARTITION BY %s ORDER BY (%s) TTL %s SETTINGS ttl_only_drop_parts = 1 COMMENT %s",
		columns.EngineOf("", c.config.Engine), partitionKey(m.Partition), quoteAll(m.Grain), ttl(m), quoteText(m.Description))
	return b.String()
}

func ttl(m *Model) string {
	return fmt.Sprintf("%s + toIntervalDay(%d)", m.Partition.Column, m.Target.RetentionDays)
}

func (c *ClickHouse) ownDDL() []string {
	return []string{
		fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (
    model LowCardinality(String) COMMENT 'name of the model',
    partition DateTime('UTC') COMMENT 'begin of the partition',
    version String COMMENT 'digest of the model that built it',
    source_rows Int64 COMMENT 'rows of the sources that the build saw',
    sources String COMMENT 'for each source: its rows, and the sum of their event ids as in the ledger',
    source_oldest DateTime('UTC') COMMENT 'the earliest ingest_time of these rows',
    rows Int64 COMMENT 'rows that were published',
    digest UInt64 COMMENT 'sum modulo 2^64 of their cityHash64',
    lake_rows Int64 COMMENT 'rows of the copy in the lake; 0: there is none yet',
    lake_digest UInt64 COMMENT 'sum modulo 2^64 of the digests of its files'' names',
    built_time DateTime64(3, 'UTC') COMMENT 'when'
) ENGINE = %s ORDER BY (model, partition)`, c.table(BuildsTable), columns.EngineOf("Replacing", c.config.Engine, "built_time")),
		// A table of an earlier version has them not.
		"ALTER TABLE " + c.table(BuildsTable) + " ADD COLUMN IF NOT EXISTS lake_rows Int64 AFTER digest, ADD COLUMN IF NOT EXISTS lake_digest UInt64 AFTER lake_rows",
		fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (
    name LowCardinality(String) COMMENT 'logs, metrics or traces; or a model',
    complete_through DateTime('UTC') COMMENT 'a signal: ClickHouse has each of its events that Kafka appended before; a model: its partitions before are built',
    published_time DateTime64(3, 'UTC') COMMENT 'when'
) ENGINE = %s ORDER BY name`, c.table(WatermarksTable), columns.EngineOf("Replacing", c.config.Engine, "published_time")),
	}
}

// Prepare implements Engine.
func (c *ClickHouse) Prepare(ctx context.Context, m *Model, create bool) error {
	if err := c.prepareTables(ctx, m, create); err != nil {
		return err
	}
	return c.checkSources(ctx, m)
}

// prepareTables is Prepare without the query.
func (c *ClickHouse) prepareTables(ctx context.Context, m *Model, create bool) error {
	if create {
		for _, ddl := range append(c.ownDDL(), c.targetDDL(m)) {
			if err := c.client.Exec(ctx, ddl, c.settings()); err != nil {
				return err
			}
		}
		left, err := clickhouse.Rows[struct{ Name string }](ctx, c.client, "SELECT name FROM system.tables WHERE database = {database:String} AND startsWith(name, {prefix:String})",
			c.settings("param_database", c.config.Database, "param_prefix", m.Target.Table+stagedMark))
		if err != nil {
			return err
		}
		for _, t := range left {
			if err := c.client.Exec(ctx, "DROP TABLE IF EXISTS "+c.table(t.Name), c.settings()); err != nil {
				return err
			}
		}
	}
	if err := c.checkTarget(ctx, m, create); err != nil {
		return fmt.Errorf("table %s.%s: %w", c.config.Database, m.Target.Table, err)
	}
	return nil
}

// checkTarget holds a target that is there against the model. Only its retention is changed.
func (c *ClickHouse) checkTarget(ctx context.Context, m *Model, create bool) error {
	key := c.settings("param_database", c.config.Database, "param_table", m.Target.Table)
	found, err := clickhouse.Rows[struct{ Partition, Sorting, Full string }](ctx, c.client, `SELECT partition_key AS Partition, sorting_key AS Sorting, engine_full AS Full
FROM system.tables WHERE database = {database:String} AND name = {table:String}`, key)
	if err != nil || len(found) == 0 && !create {
		return err
	}
	have, err := clickhouse.Rows[struct{ Name, Type string }](ctx, c.client, "SELECT name AS Name, type AS Type FROM system.columns WHERE database = {database:String} AND table = {table:String} ORDER BY position", key)
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return errors.New("it is gone")
	}
	var is, want []string
	for _, col := range have {
		is = append(is, col.Name+" "+col.Type)
	}
	for _, col := range m.Target.Columns {
		want = append(want, col.Name+" "+col.Type)
	}
	const advice = "name another table in the model, or move this one away to have it made anew"
	switch sorting := strings.Join(m.Grain, ", "); {
	case !slices.Equal(is, want):
		return fmt.Errorf("its columns are %s; the model has %s: %s", strings.Join(is, ", "), strings.Join(want, ", "), advice)
	case found[0].Sorting != sorting:
		return fmt.Errorf("it is ordered by %s, the model's grain is %s: %s", found[0].Sorting, sorting, advice)
	case found[0].Partition != partitionKey(m.Partition):
		return fmt.Errorf("its partitions are by %s, the model's by %s: %s", found[0].Partition, partitionKey(m.Partition), advice)
	}
	if create && !strings.Contains(found[0].Full, " TTL "+ttl(m)) {
		return c.client.Exec(ctx, "ALTER TABLE "+c.table(m.Target.Table)+" MODIFY TTL "+ttl(m), c.settings())
	}
	return nil
}

// query is the model's, over its sources as far as the partition sees them.
func (c *ClickHouse) query(m *Model) string {
	var with []string
	for _, s := range m.Sources {
		cond := fmt.Sprintf("time >= {from:DateTime('UTC')} - toIntervalHour(%d) AND time < {to:DateTime('UTC')}", int(s.Lookback.Hours()))
		if s.Cutoff == CutoffPartitionEnd {
			cond += " AND ingest_time < {to:DateTime('UTC')}"
		}
		with = append(with, fmt.Sprintf("%s AS (SELECT * FROM %s WHERE %s)", quote(s.Table), c.table(s.Table), cond))
	}
	return fmt.Sprintf("SELECT %s FROM (WITH %s SELECT * FROM (\n%s\n))", quoteAll(m.columnNames()), strings.Join(with, ", "), m.Query(EngineClickHouse))
}

// checkSources asks ClickHouse how it understands the query: it may read the model's sources, and nothing else.
func (c *ClickHouse) checkSources(ctx context.Context, m *Model) error {
	some := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) // one partition is as good as another
	tree, err := clickhouse.Analyze(ctx, c.client, c.query(m), c.window(some, some.Add(m.Partition.Size.Duration())))
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	for _, f := range tree.TableFunctions {
		return fmt.Errorf("query: %s(): %s", f, adviceOutside)
	}
	for _, t := range tree.Tables {
		database, table, _ := strings.Cut(t, ".")
		if database != c.config.Database || !slices.ContainsFunc(m.Sources, func(s Source) bool { return s.Table == table }) {
			return fmt.Errorf("query: it reads %s, which is not in the model's sources", t)
		}
	}
	return nil
}

// Sources implements Engine.
func (c *ClickHouse) Sources(ctx context.Context, m *Model, from, to time.Time) (map[time.Time]Seen, error) {
	var buckets [][]bucket
	for _, s := range m.Sources {
		found, err := clickhouse.Rows[bucket](ctx, c.client, `SELECT toUnixTimestamp(toStartOfHour(time)) AS hour, toUnixTimestamp(toStartOfHour(ingest_time)) AS arrived, count() AS rows,
    sum(reinterpretAsUInt64(substring(event_id, 1, 8))) AS ids, min(toUnixTimestamp(ingest_time)) AS oldest
FROM `+c.table(s.Table)+" WHERE "+within("time")+" GROUP BY hour, arrived", c.window(from.Add(-s.Lookback), to))
		if err != nil {
			return nil, fmt.Errorf("count the rows of %s: %w", s.Table, err)
		}
		buckets = append(buckets, found)
	}
	return seen(m, buckets, from, to), nil
}

// digest is what tells two sets of rows apart.
func digest(m *Model) string { return "sum(cityHash64(" + quoteAll(m.columnNames()) + "))" }

// Published implements Engine.
func (c *ClickHouse) Published(ctx context.Context, m *Model, from, to time.Time) (map[time.Time]Count, error) {
	there, err := c.has(ctx, m.Target.Table)
	if err != nil || !there {
		return nil, err
	}
	begin := map[Size]string{Hour: "toStartOfHour", Day: "toStartOfDay"}[m.Partition.Size]
	found, err := clickhouse.Rows[struct {
		Begin  int64
		Rows   int64
		Digest uint64
	}](ctx, c.client, fmt.Sprintf("SELECT toUnixTimestamp(%s(%s)) AS Begin, count() AS Rows, %s AS Digest FROM %s WHERE %s GROUP BY Begin",
		begin, quote(m.Partition.Column), digest(m), c.table(m.Target.Table), within(m.Partition.Column)), c.window(from, to))
	if err != nil {
		return nil, fmt.Errorf("count the rows of %s: %w", m.Target.Table, err)
	}
	out := map[time.Time]Count{}
	for _, f := range found {
		out[time.Unix(f.Begin, 0).UTC()] = Count{f.Rows, f.Digest}
	}
	return out, nil
}

func (c *ClickHouse) has(ctx context.Context, table string) (bool, error) {
	found, err := clickhouse.Row[struct{ N int }](ctx, c.client, "SELECT count() AS N FROM system.tables WHERE database = {database:String} AND name = {table:String}",
		c.settings("param_database", c.config.Database, "param_table", table))
	return found.N > 0, err
}

// recordRow is a row of BuildsTable.
type recordRow struct {
	Model     string `json:"model"`
	Partition int64  `json:"partition"` // Unix, as the times below
	Version   string `json:"version"`
	Seen      int64  `json:"source_rows"`
	Sources   string `json:"sources"`
	Oldest    int64  `json:"source_oldest"`
	Rows      int64  `json:"rows"`
	Digest    uint64 `json:"digest"`
	Copied    int64  `json:"lake_rows"`
	Files     uint64 `json:"lake_digest"`
	Built     string `json:"built_time"`
}

// Builds implements Engine.
func (c *ClickHouse) Builds(ctx context.Context, m *Model, from, to time.Time) (map[time.Time]Record, error) {
	there, err := c.has(ctx, BuildsTable)
	if err != nil || !there {
		return nil, err
	}
	settings := c.window(from, to)
	settings["param_model"] = m.Name
	found, err := clickhouse.Rows[recordRow](ctx, c.client, "SELECT model, toUnixTimestamp(b.partition) AS partition, version, source_rows, sources, toUnixTimestamp(b.source_oldest) AS source_oldest, rows, digest, lake_rows, lake_digest, toString(b.built_time) AS built_time FROM "+
		c.table(BuildsTable)+" AS b FINAL WHERE model = {model:String} AND b.partition >= {from:DateTime('UTC')} AND b.partition < {to:DateTime('UTC')}", settings)
	if err != nil {
		return nil, fmt.Errorf("read the builds: %w", err)
	}
	out := map[time.Time]Record{}
	for _, f := range found {
		at := time.Unix(f.Partition, 0).UTC()
		out[at] = Record{At: at, Version: f.Version, Sources: Seen{f.Seen, f.Sources, time.Unix(f.Oldest, 0).UTC()}, Published: Count{f.Rows, f.Digest}, Lake: Count{f.Copied, f.Files}}
	}
	return out, nil
}

// Record implements Engine.
func (c *ClickHouse) Record(ctx context.Context, m *Model, r Record) error {
	oldest := max(r.Sources.Oldest.Unix(), 0) // of no rows there is none
	line, err := json.Marshal(recordRow{m.Name, r.At.Unix(), r.Version, r.Sources.Rows, r.Sources.Digest, oldest, r.Published.Rows, r.Published.Digest, r.Lake.Rows, r.Lake.Digest, instant(time.Now())})
	if err != nil {
		return err
	}
	return c.client.Exec(ctx, "INSERT INTO "+c.table(BuildsTable)+" FORMAT JSONEachRow\n"+string(line), c.settings("async_insert", "0"))
}

// instant is a time in milliseconds.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") }

// PublishWatermark implements Engine.
func (c *ClickHouse) PublishWatermark(ctx context.Context, name string, through time.Time) error {
	line, err := json.Marshal(map[string]any{"name": name, "complete_through": max(through.Unix(), 0), "published_time": instant(time.Now())})
	if err != nil {
		return err
	}
	return c.client.Exec(ctx, "INSERT INTO "+c.table(WatermarksTable)+" FORMAT JSONEachRow\n"+string(line), c.settings("async_insert", "0"))
}

// Stage implements Engine.
func (c *ClickHouse) Stage(ctx context.Context, m *Model, at time.Time) (Count, error) {
	return c.stage(ctx, m, c.query(m), c.window(at, at.Add(m.Partition.Size.Duration())))
}

// stage fills a new staged table with rows: a SELECT, or a format and, after a line's end, data in it.
func (c *ClickHouse) stage(ctx context.Context, m *Model, rows string, settings map[string]string) (Count, error) {
	for _, ddl := range []string{"DROP TABLE IF EXISTS " + c.staged(m), "CREATE TABLE " + c.staged(m) + " AS " + c.table(m.Target.Table) + " ENGINE = MergeTree PARTITION BY " +
		partitionKey(m.Partition) + " ORDER BY (" + quoteAll(m.Grain) + ")"} {
		if err := c.client.Exec(ctx, ddl, c.settings()); err != nil {
			return Count{}, err
		}
	}
	settings["insert_null_as_default"] = "0" // a NULL is a mistake of the query
	settings["max_partitions_per_insert_block"] = strconv.Itoa(partitionsAtOnce)
	if err := c.client.Exec(ctx, fmt.Sprintf("INSERT INTO %s (%s) %s", c.staged(m), quoteAll(m.columnNames()), rows), settings); err != nil {
		return Count{}, err
	}
	return clickhouse.Row[Count](ctx, c.client, "SELECT count() AS Rows, "+digest(m)+" AS Digest FROM "+c.staged(m), c.settings())
}

// Test implements Engine.
func (c *ClickHouse) Test(ctx context.Context, m *Model, at time.Time) ([]string, error) {
	end := at.Add(m.Partition.Size.Duration())
	column, grain := quote(m.Partition.Column), "tuple("+quoteAll(m.Grain)+")"
	type check struct {
		bad  string // condition of a row that fails
		text string
	}
	checks := []check{{"NOT (" + within(m.Partition.Column) + ")", fmt.Sprintf("rows whose %s is not in the partition", m.Partition.Column)}}
	var fresh time.Time
	for _, t := range m.Tests {
		switch {
		case t.Range != nil:
			cond, text := "isNotNull("+quote(t.Range.Column)+")", ""
			if t.Range.Min != nil {
				cond, text = cond+" AND "+quote(t.Range.Column)+" >= "+number(*t.Range.Min), " of at least "+number(*t.Range.Min)
			}
			if t.Range.Max != nil {
				cond, text = cond+" AND "+quote(t.Range.Column)+" <= "+number(*t.Range.Max), text+" of at most "+number(*t.Range.Max)
			}
			checks = append(checks, check{"NOT (" + cond + ")", "range: rows without a " + t.Range.Column + text})
		case t.Holds != "":
			checks = append(checks, check{"NOT (" + t.Holds + "\n)", "holds: rows for which this is not true: " + t.Holds})
		case t.Freshness != nil:
			if want := end.Add(-t.Freshness.Within); want.After(fresh) {
				fresh = want
			}
		}
	}
	var counts, first []string
	for _, k := range checks {
		counts = append(counts, "countIf("+k.bad+")")
		first = append(first, "minIf(toString("+grain+"), "+k.bad+")")
	}
	got, err := clickhouse.Row[struct {
		Rows, Repeated, Newest int64
		Counts                 []int64
		First                  []string
	}](ctx, c.client, fmt.Sprintf("SELECT count() AS Rows, count() - uniqExact(%s) AS Repeated, toInt64(toUnixTimestamp(max(%s))) AS Newest, [%s] AS Counts, [%s] AS First FROM %s",
		grain, column, strings.Join(counts, ", "), strings.Join(first, ", "), c.staged(m)), c.window(at, end))
	if err != nil {
		return nil, err
	}
	var out []string
	if got.Repeated > 0 {
		out = append(out, fmt.Sprintf("unique: %d of %d rows repeat the grain of another one (%s)", got.Repeated, got.Rows, strings.Join(m.Grain, ", ")))
	}
	for i, k := range checks {
		if got.Counts[i] > 0 {
			out = append(out, fmt.Sprintf("%s: %d of %d; the first is %s", k.text, got.Counts[i], got.Rows, got.First[i]))
		}
	}
	if newest := time.Unix(got.Newest, 0).UTC(); got.Rows > 0 && newest.Before(fresh) {
		out = append(out, fmt.Sprintf("freshness: the newest row is of %s, want %s or later", newest.Format(time.RFC3339), fresh.Format(time.RFC3339)))
	}
	return out, nil
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// Publish implements Engine. ClickHouse replaces or drops a partition in one step: a query sees the old rows or the new ones.
func (c *ClickHouse) Publish(ctx context.Context, m *Model, at time.Time, empty bool) error {
	if empty { // ClickHouse does not replace by nothing
		return c.client.Exec(ctx, fmt.Sprintf("ALTER TABLE %s DROP PARTITION ID '%s'", c.table(m.Target.Table), partitionID(m.Partition, at)), c.settings())
	}
	return c.client.Exec(ctx, fmt.Sprintf("ALTER TABLE %s REPLACE PARTITION ID '%s' FROM %s", c.table(m.Target.Table), partitionID(m.Partition, at), c.staged(m)), c.settings())
}

// Rows implements Engine.
func (c *ClickHouse) Rows(ctx context.Context, m *Model, at time.Time) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		fail := func(err error) { yield(nil, fmt.Errorf("read the rows of %s: %w", m.Target.Table, err)) }
		cols, err := m.lakeColumns()
		if err != nil {
			fail(err)
			return
		}
		of := func(names []string) string { return "t." + strings.ReplaceAll(quoteAll(names), ", ", ", t.") }
		var given []string
		for _, col := range cols {
			given = append(given, fmt.Sprintf(col.expr, "t."+quote(col.source))+" AS "+quote(col.name))
		}
		settings := c.window(at, at.Add(m.Partition.Size.Duration()))
		maps.Copy(settings, map[string]string{
			"output_format_arrow_string_as_string": "1", "output_format_arrow_low_cardinality_as_dictionary": "0", "output_format_arrow_compression_method": "none",
		})
		key := "t." + quote(m.Partition.Column)
		body, err := c.client.Stream(ctx, fmt.Sprintf("SELECT %s, cityHash64(%s) AS _hash FROM %s AS t WHERE %s"+fromTo+" ORDER BY %s\nFORMAT ArrowStream",
			strings.Join(given, ", "), of(m.columnNames()), c.table(m.Target.Table), key, key, of(m.Grain)), settings)
		if err != nil {
			fail(err)
			return
		}
		defer body.Close()
		r, err := ipc.NewReader(body)
		if err != nil {
			fail(err)
			return
		}
		defer r.Release()
		for r.Next() {
			b := r.RecordBatch()
			b.Retain()
			if !yield(b, nil) {
				return
			}
		}
		if err := r.Err(); err != nil {
			fail(err)
		}
	}
}

func (c *ClickHouse) queryPrefix() string { return "aggregate-" + c.run + "-" }

// Close implements Engine. It also ends a statement of a run that was stopped, which ClickHouse still works on.
func (c *ClickHouse) Close(ctx context.Context, m *Model) error {
	own := c.settings("param_prefix", c.queryPrefix())
	// Who may not do so leaves it to max_execution_time.
	_, _ = c.client.Do(ctx, "KILL QUERY WHERE user = currentUser() AND startsWith(query_id, {prefix:String}) AND query_id != "+quoteText(own["query_id"])+" ASYNC", own)
	return c.client.Exec(ctx, "DROP TABLE IF EXISTS "+c.staged(m), c.settings())
}
