package clickhouseexporter

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

func mode(m SchemaMode) func(*Config) { return func(c *Config) { c.Schema = m } }

func engineOf(ch *clickhousetest.Server, table string) string {
	return ch.Query("SELECT engine_full FROM system.tables WHERE database = 'pulsegrid' AND name = '" + table + "'")
}

func TestATableThatIsRightIsNotTouched(t *testing.T) {
	ch := clickhousetest.Shared(t)
	for _, s := range signal.All {
		start(t, s, config(ch.URL))
		table := start(t, s, config(ch.URL)).table.Name
		require.Zero(t, ch.QueryInt("SELECT count() FROM system.mutations WHERE table = '"+table+"'"))
		before := ch.Query("SELECT metadata_modification_time, create_table_query FROM system.tables WHERE name = '" + table + "'")
		start(t, s, config(ch.URL))
		r := start(t, s, config(ch.URL, mode(SchemaVerify)))
		require.True(t, r.schema.ready.Load())
		require.Empty(t, r.host.Statuses())
		require.Equal(t, before, ch.Query("SELECT metadata_modification_time, create_table_query FROM system.tables WHERE name = '"+table+"'"))
	}
}

func TestExportersThatStartTogetherAllSucceed(t *testing.T) {
	ch := clickhousetest.Shared(t)
	var wg sync.WaitGroup
	rigs := make([]*rig, 6)
	for i := range rigs {
		rigs[i] = start(t, signal.Logs, config(ch.URL, mode(SchemaOff)))
		rigs[i].schema = newSchema(config(ch.URL), rigs[i].client, rigs[i].table, rigs[i].set.Logger)
		wg.Go(func() { rigs[i].schema.last = rigs[i].schema.ensure(t.Context()) })
	}
	wg.Wait()
	for _, r := range rigs {
		require.NoError(t, r.schema.last)
	}
}

func TestAnOlderTableGetsTheColumnsItLacks(t *testing.T) {
	ch := clickhousetest.Shared(t)
	old := start(t, signal.Logs, config(ch.URL))
	require.NoError(t, old.consumeLogs(t, 10, 0))
	ch.Exec("ALTER TABLE pulsegrid.logs DROP COLUMN event_name, DROP COLUMN flags, ADD COLUMN own_note String DEFAULT 'n'")

	verify := start(t, signal.Logs, config(ch.URL, mode(SchemaVerify)))
	err := verify.consumeLogs(t, 10, 10)
	require.ErrorContains(t, err, "table pulsegrid.logs: it lacks column event_name LowCardinality(String), column flags UInt32")
	require.False(t, consumererror.IsPermanent(err))

	r := start(t, signal.Logs, config(ch.URL))
	require.NoError(t, r.consumeLogs(t, 10, 10))
	require.EqualValues(t, 20, ch.QueryInt("SELECT count() FROM pulsegrid.logs WHERE own_note = 'n' AND event_name = '' AND flags = 0"))
	require.Equal(t, "event_name", ch.Query("SELECT name FROM system.columns WHERE database = 'pulsegrid' AND table = 'logs' AND position = 1 + (SELECT position FROM system.columns WHERE database = 'pulsegrid' AND table = 'logs' AND name = 'body_type')"))
	require.EqualValues(t, len(r.table.Columns)+1, ch.QueryInt("SELECT count() FROM system.columns WHERE database = 'pulsegrid' AND table = 'logs'"))
}

func TestAnOlderTableGetsTheIndexesItLacks(t *testing.T) {
	ch := clickhousetest.Shared(t)
	require.NoError(t, start(t, signal.Logs, config(ch.URL)).consumeLogs(t, 10, 0))
	const indexes = "SELECT arrayStringConcat(arraySort(groupArray(name)), ' ') FROM system.data_skipping_indices WHERE database = 'pulsegrid' AND table = 'logs'"
	const all = "idx_body idx_body_lower idx_time idx_trace_id idx_trace_id_hex"
	require.Equal(t, all, ch.Query(indexes))
	ch.Exec("ALTER TABLE pulsegrid.logs DROP INDEX idx_trace_id_hex, DROP INDEX idx_body_lower, ADD INDEX own body_type TYPE set(9) SETTINGS mutations_sync = 2")

	verify := start(t, signal.Logs, config(ch.URL, mode(SchemaVerify)))
	require.NoError(t, verify.schema.last, "no row depends on an index")
	require.Equal(t, "idx_body idx_time idx_trace_id own", ch.Query(indexes))

	require.NoError(t, start(t, signal.Logs, config(ch.URL)).consumeLogs(t, 10, 10))
	require.Equal(t, all+" own", ch.Query(indexes))
	require.EqualValues(t, 20, ch.QueryInt("SELECT count() FROM pulsegrid.logs WHERE hasToken(lower(body), 'declined')"), "of parts with the index and without")
}

func TestAnOlderTableIsMergedLessOften(t *testing.T) {
	ch := clickhousetest.Shared(t)
	tables := []string{"logs", "logs_10s", "logs_1m", "logs_1h", "ledger"}
	start(t, signal.Logs, config(ch.URL))
	for _, table := range tables {
		require.Contains(t, engineOf(ch, table), "merge_selector_base = 16", table)
		ch.Exec("ALTER TABLE pulsegrid." + table + " RESET SETTING merge_selector_base")
	}
	ch.Exec("ALTER TABLE pulsegrid.logs_1h MODIFY SETTING merge_selector_base = 7")

	require.NoError(t, start(t, signal.Logs, config(ch.URL, mode(SchemaVerify))).schema.last, "no row depends on it")
	require.NotContains(t, engineOf(ch, "ledger"), "merge_selector_base")

	require.NoError(t, start(t, signal.Logs, config(ch.URL)).schema.last)
	for _, table := range tables {
		want := "merge_selector_base = 16"
		if table == "logs_1h" {
			want = "merge_selector_base = 7" // somebody's own
		}
		require.Contains(t, engineOf(ch, table), want, table)
	}
}

func TestAColumnOfAnotherTypeIsNamedWithBothTypesUntilItIsMended(t *testing.T) {
	ch := clickhousetest.Shared(t)
	start(t, signal.Traces, config(ch.URL))
	ch.Exec("ALTER TABLE pulsegrid.spans MODIFY COLUMN flags String")
	for _, m := range []SchemaMode{SchemaCreate, SchemaVerify} {
		r := start(t, signal.Traces, config(ch.URL, mode(m)))
		err := r.schema.ensure(t.Context())
		require.ErrorContains(t, err, "table pulsegrid.spans: column flags has type String, want UInt32")
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, r.host.Statuses())
		require.EqualValues(t, 1, r.sum(t, "clickhouse_errors", "class=schema"))
		defer func() {
			require.Eventually(t, func() bool { return r.schema.ensure(t.Context()) == nil }, time.Minute, 50*time.Millisecond)
		}()
	}
	ch.Exec("ALTER TABLE pulsegrid.spans MODIFY COLUMN flags UInt32")
}

func TestVerifyAsksForATableThatIsMissing(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL, mode(SchemaVerify)))
	err := r.consumeLogs(t, 10, 0)
	require.ErrorContains(t, err, "pulsegrid.logs: it does not exist: create it, or set schema: create")
	require.False(t, consumererror.IsPermanent(err))
	start(t, signal.Logs, config(ch.URL)) // somebody creates it
	require.Eventually(t, func() bool { return r.consumeLogs(t, 10, 0) == nil }, time.Minute, 50*time.Millisecond)
}

func TestRetentionFollowsTheConfig(t *testing.T) {
	ch := clickhousetest.Shared(t)
	days := func(n int) func(*Config) { return func(c *Config) { c.RetentionDays = n } }
	start(t, signal.Logs, config(ch.URL))
	require.Contains(t, engineOf(ch, "logs"), "toIntervalDay(30)")

	r := start(t, signal.Logs, config(ch.URL, days(7), mode(SchemaVerify)))
	require.ErrorContains(t, r.schema.last, "retention_days 7")
	start(t, signal.Logs, config(ch.URL, days(7)))
	require.Contains(t, engineOf(ch, "logs"), "toIntervalDay(7)")
	start(t, signal.Logs, config(ch.URL, days(0)))
	require.NotContains(t, engineOf(ch, "logs"), "TTL")
	start(t, signal.Logs, config(ch.URL, days(365)))
	require.Contains(t, engineOf(ch, "logs"), "toIntervalDay(365)")

	ch.Exec("ALTER TABLE pulsegrid.logs MODIFY TTL toDateTime(ingest_time) + INTERVAL 3 DAY DELETE WHERE tenant_id = 'x'")
	before := engineOf(ch, "logs")
	r = start(t, signal.Logs, config(ch.URL))
	require.NoError(t, r.schema.last)
	require.Equal(t, before, engineOf(ch, "logs"), "a TTL that somebody wrote is theirs")
}

func TestATableThatForgetsInsertsIsMendedOrRefused(t *testing.T) {
	ch := clickhousetest.Shared(t)
	start(t, signal.Logs, config(ch.URL))
	ch.Exec("ALTER TABLE pulsegrid.logs RESET SETTING non_replicated_deduplication_window")
	r := start(t, signal.Logs, config(ch.URL, mode(SchemaVerify)))
	require.ErrorContains(t, r.schema.last, "stored twice")
	start(t, signal.Logs, config(ch.URL, func(c *Config) { c.DeduplicationWindow = 777 }))
	require.Contains(t, engineOf(ch, "logs"), "non_replicated_deduplication_window = 777")
}

func TestAnotherEngineIsRefusedUnlessTheSchemaIsOff(t *testing.T) {
	ch := clickhousetest.Shared(t)
	start(t, signal.Logs, config(ch.URL))
	ch.Exec("RENAME TABLE pulsegrid.logs TO pulsegrid.real")
	ch.Exec("CREATE TABLE pulsegrid.logs AS pulsegrid.real ENGINE = Null")
	r := start(t, signal.Logs, config(ch.URL))
	require.ErrorContains(t, r.schema.last, "engine is Null")
	r = start(t, signal.Logs, config(ch.URL, mode(SchemaOff)))
	require.NoError(t, r.consumeLogs(t, 10, 0))
}

func TestAWrongPasswordIsSaidClearlyAndGoesOnOnceMended(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL, func(c *Config) { c.Username, c.Password = "nobody", configopaque.String("wrong") }))
	err := r.consumeLogs(t, 10, 0)
	require.ErrorContains(t, err, "check username, password")
	require.ErrorContains(t, err, "exception 516")
	require.NotContains(t, err.Error(), "wrong")
	require.False(t, consumererror.IsPermanent(err))
	r.client.username, r.client.password = "default", ""
	require.Eventually(t, func() bool { return r.consumeLogs(t, 10, 0) == nil }, time.Minute, 50*time.Millisecond)

	r = start(t, signal.Logs, config(ch.URL, mode(SchemaOff)))
	r.client.http.Transport = readOnly{r.client.http.Transport}
	err = r.consumeLogs(t, 10, 10)
	require.False(t, consumererror.IsPermanent(err))
	require.ErrorContains(t, err, "check username, password and the user's rights")
}

// readOnly makes a client that of a user who may only read.
type readOnly struct{ http.RoundTripper }

func (r readOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.RawQuery += "&readonly=1"
	return r.RoundTripper.RoundTrip(req)
}

// ledgerBefore is the ledger as the version before made it.
const ledgerBefore = `CREATE TABLE pulsegrid.ledger (kafka_topic LowCardinality(String), kafka_partition Int32, first_offset Int64, last_offset Int64, signal LowCardinality(String),
	events Int64, duplicates Int64, quarantined Int64, rows Int64, id_sum UInt64, written_time DateTime64(3, 'UTC'))
	ENGINE = ReplacingMergeTree(written_time) ORDER BY (kafka_topic, kafka_partition, first_offset, last_offset) TTL toDateTime(written_time) + toIntervalDay(30)`

func TestALedgerOfTheVersionBeforeGetsTopicIDs(t *testing.T) {
	ch := clickhousetest.Shared(t)
	start(t, signal.Logs, config(ch.URL))
	ch.Exec("DROP TABLE pulsegrid.ledger SYNC")
	ch.Exec(ledgerBefore)
	ch.Exec("INSERT INTO pulsegrid.ledger SELECT 'otlp.logs.v1', 3, 0, 9, 'logs', 1, 0, 0, 1, 1, now()")

	verify := start(t, signal.Logs, config(ch.URL, mode(SchemaVerify)))
	require.ErrorContains(t, verify.schema.last, "table pulsegrid.ledger: it lacks column topic_id LowCardinality(String): ALTER TABLE pulsegrid.ledger ADD COLUMN IF NOT EXISTS `topic_id`")
	require.ErrorContains(t, verify.schema.last, "MODIFY ORDER BY (kafka_topic, kafka_partition, first_offset, last_offset, topic_id), or set schema: create")

	r := start(t, signal.Logs, config(ch.URL))
	require.NoError(t, r.schema.last)
	require.Equal(t, "kafka_topic, kafka_partition, first_offset, last_offset, topic_id", ch.Query("SELECT sorting_key FROM system.tables WHERE database = 'pulsegrid' AND name = 'ledger'"))
	r.worker(10).takeAll(t, 10, 30, 10)
	require.EqualValues(t, 3, ch.QueryInt("SELECT count() FROM pulsegrid.ledger"))
	require.NoError(t, start(t, signal.Logs, config(ch.URL, mode(SchemaVerify))).schema.last)
}

// Columns that somebody has added, or a newer exporter during a rolling upgrade, are left to their defaults.
func TestColumnsThatTheExporterDoesNotKnowStopNothing(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	w := r.worker(0)
	w.takeAll(t, 0, 10, 10)
	for _, table := range []string{"logs", "logs_10s", "ledger"} {
		ch.Exec("ALTER TABLE pulsegrid." + table + " ADD COLUMN note String, ADD COLUMN added DateTime DEFAULT now() FIRST")
	}
	w.takeAll(t, 10, 20, 10)
	for _, how := range []SchemaMode{SchemaCreate, SchemaVerify, SchemaOff} {
		w := start(t, signal.Logs, config(ch.URL, mode(how))).worker(w.oldest)
		require.NoError(t, w.take(t, w.oldest, w.oldest+9), how)
	}
	require.EqualValues(t, 300, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.EqualValues(t, 300, ch.QueryInt("SELECT sum(count) FROM pulsegrid.logs_1h"))
	require.EqualValues(t, 300, ch.QueryInt("SELECT sum(rows) FROM pulsegrid.ledger FINAL"))
}

func TestTablesKeepOverAPowerCutWhatTheyHaveTaken(t *testing.T) {
	ch := clickhousetest.Shared(t)
	start(t, signal.Logs, config(ch.URL, func(c *Config) { c.Fsync = false }))
	for _, table := range []string{"logs", "logs_10s", "logs_1m", "logs_1h"} {
		require.NotContains(t, engineOf(ch, table), "fsync", table)
	}
	verify := start(t, signal.Logs, config(ch.URL, mode(SchemaVerify)))
	require.ErrorContains(t, verify.schema.last, "table pulsegrid.logs: fsync_after_insert is 0, fsync needs at least 1; below that a power cut may remove what has been acknowledged: "+
		"ALTER TABLE pulsegrid.logs MODIFY SETTING fsync_after_insert = 1, or set schema: create")
	require.NoError(t, start(t, signal.Logs, config(ch.URL)).schema.last)
	for _, table := range []string{"logs", "logs_10s", "logs_1m", "logs_1h"} {
		require.Contains(t, engineOf(ch, table), "fsync_after_insert = 1, fsync_part_directory = 1", table)
	}
	require.NotContains(t, engineOf(ch, "ledger"), "fsync", "an entry that is lost is found again: the receiver is sent back, and the rows are compared")
}

func TestReplicatedTablesAreGivenAQuorum(t *testing.T) {
	for engine, want := range map[string]string{"": "", "ReplicatedMergeTree": "auto", "ReplicatedMergeTree('/x', 'y')": "auto", "SharedMergeTree": ""} {
		for quorum, want := range map[string]string{"auto": want, "0": ""} {
			var asked []string
			endpoint := fake(t, func(_ http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.URL.Query().Get("insert_quorum"))
			})
			e := start(t, signal.Logs, config(endpoint, mode(SchemaOff), func(c *Config) { c.Engine, c.InsertQuorum = engine, quorum }))
			require.Equal(t, want, e.insertSettings("token")["insert_quorum"], engine)
			require.NoError(t, e.insertEntries(t.Context(), []ledger.Entry{{}}))
			require.Equal(t, []string{want}, asked, "an entry says that its rows are stored: a replica must not have it without them")
		}
	}
	require.Equal(t, "auto", createDefaultConfig().(*Config).InsertQuorum)
}

// An operator who makes the tables by the statements of SchemaCreate has the promises too.
func TestStatementsThatMakeTablesSayThatInsertsAreWrittenThrough(t *testing.T) {
	for engine, want := range map[string]bool{"": true, "ReplicatedMergeTree": true, "SharedMergeTree": false} {
		cfg := config("", func(c *Config) { c.Engine = engine })
		tables, _ := wantedTables(cfg, columns.Logs)
		for _, table := range tables {
			require.Equal(t, want && table.promises, strings.Contains(table.create[len(table.create)-1], "fsync_after_insert = 1, fsync_part_directory = 1"), "%s, engine %q", table.name, engine)
		}
	}
}

// Guarantees: an insert's threads in ClickHouse have the nice value of the configuration; live inserts ask for none.
func TestInsertsHaveTheirNiceValue(t *testing.T) {
	endpoint := fake(t, func(http.ResponseWriter, *http.Request) {})
	for nice, want := range map[int]string{0: "", 10: "10"} {
		e := start(t, signal.Logs, config(endpoint, mode(SchemaOff), func(c *Config) { c.InsertNice = nice }))
		require.Equal(t, want, e.insertSettings("token")["os_thread_priority"])
	}
	require.Zero(t, createDefaultConfig().(*Config).InsertNice)
}
