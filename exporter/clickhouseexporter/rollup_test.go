package clickhouseexporter

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

func TestEverySignalHasRollupsThatCountEveryEvent(t *testing.T) {
	ch := clickhousetest.Shared(t)
	for _, s := range signal.All {
		t.Run(s.String(), func(t *testing.T) {
			r := start(t, s, config(ch.URL))
			total := 0
			for seed := range uint64(10) {
				total += deliver(t, r, t.Context(), otlptest.Full(s, seed))
				total += deliver(t, r, t.Context(), otlptest.Realistic(s, seed, 100))
			}
			count := map[signal.Signal]string{signal.Metrics: "points"}[s]
			if count == "" {
				count = "count"
			}
			for _, rollup := range r.table.Rollups() {
				require.EqualValues(t, total, ch.QueryInt("SELECT sum("+count+") FROM pulsegrid."+rollup.Name))
			}
		})
	}
}

// The tables as the version before made them: no rollups, no ledger, another window.
func TestADatabaseOfTheVersionBeforeIsUpgraded(t *testing.T) {
	ch := clickhousetest.Shared(t)
	for _, stmt := range columns.Logs.ClickHouseDDL(columns.DDLOptions{Database: "pulsegrid", TTLDays: 30, DedupWindow: 1000}) {
		ch.Exec(stmt)
	}
	old := start(t, signal.Logs, config(ch.URL, mode(SchemaOff), func(c *Config) { c.Ledger = false }))
	ld, _ := someLogs(10, 0)
	require.NoError(t, old.ConsumeLogs(t.Context(), ld))

	verify := start(t, signal.Logs, config(ch.URL, mode(SchemaVerify)))
	require.ErrorContains(t, verify.schema.last, "table pulsegrid.logs: non_replicated_deduplication_window is 1000, deduplication_window needs at least 100000; "+
		"below that a block that comes again may be stored twice: ALTER TABLE pulsegrid.logs MODIFY SETTING non_replicated_deduplication_window = 100000, or set schema: create")

	r := start(t, signal.Logs, config(ch.URL))
	require.NoError(t, r.schema.last)
	require.NoError(t, r.deliver(t, 10, 100))
	require.EqualValues(t, 20, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.EqualValues(t, 10, ch.QueryInt("SELECT sum(count) FROM pulsegrid.logs_1h"), "rollups begin when their views exist")
	require.EqualValues(t, 10, ch.QueryInt("SELECT sum(rows) FROM pulsegrid.ledger FINAL"))
	verify = start(t, signal.Logs, config(ch.URL, mode(SchemaVerify)))
	require.NoError(t, verify.schema.last)
}

func TestVerifyNamesTheRollupOrLedgerThatIsMissingOrWrong(t *testing.T) {
	ch := clickhousetest.Shared(t)
	for name, tc := range map[string]struct{ spoil, want, mend string }{
		"table": {"DROP TABLE pulsegrid.logs_1m SYNC", "table pulsegrid.logs_1m: it does not exist: create it, or set schema: create, or rollups: false", ""},
		"view":  {"DROP TABLE pulsegrid.logs_1m_mv SYNC", "view pulsegrid.logs_1m_mv: it does not exist: create it, or set schema: create, or rollups: false", ""},
		"another view": {"ALTER TABLE pulsegrid.logs_1h_mv MODIFY COMMENT 'mine'", "view pulsegrid.logs_1h_mv: it is not the view that this version makes",
			"DROP TABLE pulsegrid.logs_1h_mv SYNC"},
		"window": {"ALTER TABLE pulsegrid.logs_10s RESET SETTING non_replicated_deduplication_window",
			"table pulsegrid.logs_10s: non_replicated_deduplication_window is 0, deduplication_window needs at least 100000", ""},
		"engine": {"CREATE OR REPLACE TABLE pulsegrid.logs_1h AS pulsegrid.logs_1h ENGINE = MergeTree PARTITION BY toYYYYMM(ingest_date) ORDER BY (tenant_id, service_name, time)",
			"table pulsegrid.logs_1h: engine is MergeTree, want one of the AggregatingMergeTree family", "DROP TABLE pulsegrid.logs_1h SYNC"},
		"column": {"ALTER TABLE pulsegrid.logs_1h DROP COLUMN count", "table pulsegrid.logs_1h: it lacks column count SimpleAggregateFunction(sum, UInt64)",
			"DROP TABLE pulsegrid.logs_1h SYNC"},
		"retention": {"ALTER TABLE pulsegrid.logs_1h MODIFY TTL ingest_date + INTERVAL 3 DAY", `table pulsegrid.logs_1h: TTL is "ingest_date + toIntervalDay(3)", want "ingest_date + toIntervalDay(800)" by rollup_retention_days 800`, ""},
		"ledger":    {"DROP TABLE pulsegrid.ledger SYNC", "table pulsegrid.ledger: it does not exist: create it, or set schema: create, or ledger: false", ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, start(t, signal.Logs, config(ch.URL)).schema.last)
			ch.Exec(tc.spoil)
			r := start(t, signal.Logs, config(ch.URL, mode(SchemaVerify)))
			require.ErrorContains(t, r.deliver(t, 10, 0), tc.want)
			if tc.mend != "" {
				require.Error(t, start(t, signal.Logs, config(ch.URL)).schema.last, "create does not throw away what it did not make")
				ch.Exec(tc.mend)
			}
			require.NoError(t, start(t, signal.Logs, config(ch.URL)).schema.last)
			require.Eventually(t, func() bool { return r.schema.ensure(t.Context()) == nil }, time.Minute, 50*time.Millisecond)
		})
	}
}

func TestRollupsFalseMakesNoneAndLeavesThoseThatExist(t *testing.T) {
	ch := clickhousetest.Shared(t)
	without := func(c *Config) { c.Rollups = false }
	require.NoError(t, start(t, signal.Logs, config(ch.URL, without)).deliver(t, 10, 0))
	require.Equal(t, "ledger\nlogs", ch.Query("SELECT name FROM system.tables WHERE database = 'pulsegrid' AND engine != 'View' ORDER BY name"))
	require.NoError(t, start(t, signal.Logs, config(ch.URL)).deliver(t, 10, 1))
	require.NoError(t, start(t, signal.Logs, config(ch.URL, without)).deliver(t, 10, 2))
	require.EqualValues(t, 20, ch.QueryInt("SELECT sum(count) FROM pulsegrid.logs_1h"))
}

func TestRollupsAreKeptAtLeastAsLongAsTheRows(t *testing.T) {
	ch := clickhousetest.Shared(t)
	start(t, signal.Logs, config(ch.URL, func(c *Config) { c.RetentionDays, c.RollupRetentionDays.Hour = 100, 365 }))
	for table, days := range map[string]string{"logs": "100", "logs_10s": "100", "logs_1m": "180", "logs_1h": "365", "ledger": "100"} {
		require.Contains(t, engineOf(ch, table), "toIntervalDay("+days+")", table)
	}
	start(t, signal.Logs, config(ch.URL, func(c *Config) { c.RetentionDays = 0 }))
	for _, table := range []string{"logs", "logs_10s", "logs_1m", "logs_1h", "ledger"} {
		require.NotContains(t, engineOf(ch, table), "TTL", table)
	}
}

// Agents' clocks are input: a bucket must exist for whatever they say, in as many partitions as there are days of receipt.
func TestWildClocksMakeNoPartitionsAndDoNotWrapAround(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	ld, _ := someLogs(1000, 0)
	for i, lr := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		wild := time.Unix(int64(i)*86_400, 1) // a day each, from 1970 on
		if i%2 == 1 {
			wild = wild.AddDate(200, 0, 0)
		}
		lr.SetTimestamp(pcommon.NewTimestampFromTime(wild))
	}
	require.NoError(t, r.ConsumeLogs(t.Context(), ld))
	last := map[int]string{10: "'2106-02-07 06:28:10'", 60: "'2106-02-07 06:28:00'", 3600: "'2106-02-07 06:00:00'"}
	for _, rollup := range r.table.Rollups() {
		require.EqualValues(t, 1000, ch.QueryInt("SELECT sum(count) FROM pulsegrid."+rollup.Name))
		require.EqualValues(t, 1, ch.QueryInt("SELECT uniqExact(partition) FROM system.parts WHERE database = 'pulsegrid' AND active AND table = '"+rollup.Name+"'"))
		require.EqualValues(t, 500, ch.QueryInt("SELECT sum(count) FROM pulsegrid."+rollup.Name+" WHERE time = "+last[rollup.Seconds]))
	}
}

func TestReplicatedTablesNeedBothWindows(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.Fsync = false
	full := "ReplicatedMergeTree('/x', 'y') ORDER BY time SETTINGS replicated_deduplication_window_seconds = 604800, replicated_deduplication_window = 10000, index_granularity = 8192"
	var got []string
	for _, w := range tableSettings("ReplicatedMergeTree", cfg) {
		have, ok := w.in(full)
		require.True(t, ok, w.name)
		if have < w.least {
			got = append(got, w.name+" by "+w.key)
		}
	}
	require.Equal(t, []string{"replicated_deduplication_window by deduplication_window"}, got)
	_, ok := tableSettings("SharedMergeTree", cfg)[1].in("SharedMergeTree ORDER BY time")
	require.False(t, ok)
	require.Len(t, tableSettings("MergeTree", cfg), 1)

	tables, _ := wantedTables(&Config{Database: "d", Engine: "ReplicatedMergeTree", DeduplicationWindow: 500, DeduplicationPeriod: 48 * time.Hour, Rollups: true, Ledger: true}, columns.Spans)
	require.Len(t, tables, 5)
	for _, table := range tables {
		ddl := strings.Join(table.create, ";")
		require.Contains(t, ddl, "ENGINE = Replicated", table.name)
		require.Equal(t, table.promises, strings.Contains(ddl, "replicated_deduplication_window_seconds = 172800, replicated_deduplication_window = 500"), table.name)
	}
}
