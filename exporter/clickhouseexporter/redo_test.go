package clickhouseexporter

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// redone makes a block one that an earlier owner decided so long ago.
func redone(ago time.Duration) func(*block.Block) {
	return func(b *block.Block) { b.Redo, b.Intended, b.Worker = true, time.Now().Add(-ago), workers.Add(1) }
}

var workers atomic.Uint64

// deliver delivers n logs in a block that begins at first, ten events a record.
func (r *rig) deliver(t *testing.T, n int, first int64, change ...func(*block.Block)) error {
	t.Helper()
	ld, b := someLogs(n, first)
	b.Intended, b.Account = time.Now(), accountOf(b.First, b.Last)
	for _, c := range change {
		c(&b)
	}
	lineage.StampResource(ld.ResourceLogs().At(0).Resource().Attributes(), lineage.Origin{Tenant: "acme", Source: "s", Received: received, Topic: b.Topic, Partition: b.Partition})
	for _, lr := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		ev, _ := lineage.ReadEvent(lr.Attributes())
		ev.ID[7] = b.TopicID[0] // another topic has other events
		lineage.StampEvent(lr.Attributes(), ev)
	}
	return r.ConsumeLogs(block.NewContext(t.Context(), b), ld)
}

// accountOf is the receiver's account of a block of someLogs.
func accountOf(first, last int64) *block.Account {
	var a block.Account
	for o := first; o <= last; o++ {
		a.Add(o, block.Tally{Events: 10})
	}
	return &a
}

// requireOnce: rows are in the table once, and so in each rollup, and the ledger has the entries and accounts for the rows.
func requireOnce(t *testing.T, ch *clickhousetest.Server, rows int64, entries ...string) {
	t.Helper()
	require.EqualValues(t, rows, ch.QueryInt("SELECT count() FROM pulsegrid.logs"), "rows")
	require.EqualValues(t, rows, ch.QueryInt("SELECT uniqExact(kafka_partition, kafka_offset, event_index) FROM pulsegrid.logs"), "different rows")
	for _, suffix := range columns.Resolutions() {
		require.EqualValues(t, rows, ch.QueryInt("SELECT sum(count) FROM pulsegrid.logs_"+suffix), "rollup "+suffix)
	}
	if len(entries) > 0 {
		text := ""
		for _, e := range entries {
			text += e + "\n"
		}
		require.Equal(t, text, ch.Query("SELECT concat(first_offset, '-', last_offset, ' events ', events, ' rows ', rows) FROM pulsegrid.ledger FINAL ORDER BY first_offset, last_offset")+"\n")
	}
	require.EqualValues(t, rows, ch.QueryInt("SELECT sum(rows) FROM pulsegrid.ledger FINAL"), "the ledger's rows")
	require.Equal(t, ch.Query("SELECT sum(reinterpretAsUInt64(substring(event_id, 1, 8))) FROM pulsegrid.logs"), ch.Query("SELECT sum(id_sum) FROM pulsegrid.ledger FINAL"), "sum of ids")
}

func TestABlockIsStoredOnceHoweverOftenAndByWhomeverItIsDelivered(t *testing.T) {
	ch := clickhousetest.Shared(t)
	rigs := []*rig{start(t, signal.Logs, config(ch.URL)), start(t, signal.Logs, config(ch.URL))} // two that believe they own the partition
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			var change []func(*block.Block)
			if i%3 == 0 {
				change = append(change, redone(time.Duration(i)*time.Second))
			}
			if err := rigs[i%2].deliver(t, 100, int64(i%4)*10, change...); err != nil {
				t.Errorf("delivery %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	requireOnce(t, ch, 400, "0-9 events 100 rows 100", "10-19 events 100 rows 100", "20-29 events 100 rows 100", "30-39 events 100 rows 100")
}

func TestAnEngineKilledBetweenRowsAndLedgerHasBothOnceAfterTheRedo(t *testing.T) {
	ch := clickhousetest.Start(t)
	var armed atomic.Bool
	endpoint := inserting(t, ch, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(w, r)
		if armed.CompareAndSwap(true, false) {
			ch.Kill() // after the rows' INSERT, before the ledger's
		}
	})
	r := start(t, signal.Logs, config(endpoint))
	require.NoError(t, r.deliver(t, 50, 0))
	armed.Store(true)
	err := r.deliver(t, 50, 5)
	require.ErrorContains(t, err, "outcome unknown, send it again: its rows are stored, their entry in the ledger is not")
	require.False(t, consumererror.IsPermanent(err))
	ch.Restart()
	require.EqualValues(t, 100, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.EqualValues(t, 1, ch.QueryInt("SELECT count() FROM pulsegrid.ledger"), "this is the gap")

	next := start(t, signal.Logs, config(ch.URL)) // another owner
	require.NoError(t, next.deliver(t, 50, 5, redone(time.Second)))
	requireOnce(t, ch, 100, "0-4 events 50 rows 50", "5-9 events 50 rows 50")
	require.EqualValues(t, 1, next.sum(t, "clickhouse_redone_blocks", "redo="+redoToken))
}

func TestABlockThatTheLedgerHasIsNotSentAgain(t *testing.T) {
	ch := clickhousetest.Shared(t)
	var inserts atomic.Int32
	endpoint := inserting(t, ch, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		inserts.Add(1)
		next.ServeHTTP(w, r)
	})
	r := start(t, signal.Logs, config(endpoint))
	require.NoError(t, r.deliver(t, 50, 0))
	require.NoError(t, r.deliver(t, 50, 0, redone(time.Hour)))
	require.NoError(t, r.deliver(t, 50, 0, redone(10_000*time.Hour)), "however old")
	require.NoError(t, r.deliver(t, 50, 0, func(b *block.Block) { b.Intended = time.Now().Add(-time.Hour) }), "a consumer that was frozen does not know that another redid its block")
	require.EqualValues(t, 1, inserts.Load())
	require.EqualValues(t, 3, r.sum(t, "clickhouse_redone_blocks", "redo="+redoKnown))
	requireOnce(t, ch, 50, "0-4 events 50 rows 50")
}

// Some parts of a block were stored before a crash; its next owner gets the whole.
func TestOnlyWhatTheLedgerLacksOfABlockIsStored(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	require.NoError(t, r.deliver(t, 20, 102))
	require.NoError(t, r.deliver(t, 10, 107))
	require.NoError(t, r.deliver(t, 30, 104)) // its owner died before the ledger had it
	ch.Exec("DELETE FROM pulsegrid.ledger WHERE first_offset = 104")

	ld, b := shuffled(100, 100)
	b.Account = accountOf(100, 109)
	for offset := range int64(10) { // one of each record, and six of the last
		b.Account.Add(100+offset, block.Tally{Events: 1 + offset/9*5, Duplicates: 1 + offset/9*5, Quarantined: 2})
	}
	b.Events += 15
	redone(time.Second)(&b)
	require.NoError(t, r.ConsumeLogs(block.NewContext(t.Context(), b), ld))
	require.EqualValues(t, 1, r.sum(t, "clickhouse_redone_blocks", "redo="+redoPartly))
	requireOnce(t, ch, 100, "100-101 events 22 rows 20", "102-103 events 20 rows 20", "104-106 events 33 rows 30", "107-107 events 10 rows 10", "108-109 events 27 rows 20")
	require.EqualValues(t, 2+3+7, ch.QueryInt("SELECT sum(duplicates) FROM pulsegrid.ledger FINAL"))
}

// An entry that reaches beyond the block says nothing of how many of its events lay within it.
func TestTheEntryOfWhatAStraddlingEntryLeavesCountsOnlyThat(t *testing.T) {
	for name, cut := range map[string]struct {
		first int64
		want  string
	}{
		"its beginning is stored": {95, "95-104 events 100 rows 100 duplicates 0\n105-109 events 53 rows 50 duplicates 3"},
		"its end is stored":       {105, "100-104 events 57 rows 50 duplicates 7\n105-114 events 100 rows 100 duplicates 0"},
	} {
		t.Run(name, func(t *testing.T) {
			ch := clickhousetest.Shared(t)
			r := start(t, signal.Logs, config(ch.URL))
			require.NoError(t, r.deliver(t, 100, cut.first))
			moved := func(b *block.Block) {
				redone(time.Second)(b)
				b.Unstated, b.Oldest = true, min(b.First, cut.first)
				b.Account.Add(102, block.Tally{Events: 7, Duplicates: 7})
				b.Account.Add(107, block.Tally{Events: 3, Duplicates: 3})
				b.Events += 10
			}
			require.NoError(t, r.deliver(t, 100, 100, moved))
			require.Equal(t, cut.want, ch.Query("SELECT concat(first_offset, '-', last_offset, ' events ', events, ' rows ', rows, ' duplicates ', duplicates) FROM pulsegrid.ledger FINAL ORDER BY first_offset"))
			requireOnce(t, ch, 150)
		})
	}
}

// shuffled are someLogs whose records of odd offsets come last: a processor may have regrouped them.
func shuffled(n int, first int64) (plog.Logs, block.Block) {
	out := plog.NewLogs()
	var b block.Block
	for odd := range int64(2) {
		var ld plog.Logs
		ld, b = someLogs(n, first)
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().RemoveIf(func(lr plog.LogRecord) bool {
			e, _ := lineage.ReadEvent(lr.Attributes())
			return e.Offset%2 != odd
		})
		ld.ResourceLogs().MoveAndAppendTo(out.ResourceLogs())
	}
	return out, b
}

func TestABlockBeyondTheWindowWaitsForAnOperator(t *testing.T) {
	ch := clickhousetest.Shared(t)
	small := func(c *Config) {
		c.MaxConcurrentInserts, c.DeduplicationWindow, c.DeduplicationPeriod, c.BeyondWindow = 1, 10, time.Hour, BeyondRefuse
	}
	r := start(t, signal.Logs, config(ch.URL, small))

	err := r.deliver(t, 10, 100, redone(2*time.Hour))
	require.ErrorContains(t, err, "not stored, send it again: the block may be stored already, but it was first tried at 2")
	require.ErrorContains(t, err, "deduplication_period is 1h0m0s")
	require.ErrorContains(t, err, "pulsegrid audit --range otlp.logs.v1/3/100-100")
	require.ErrorContains(t, err, "beyond_window: compare")
	require.False(t, consumererror.IsPermanent(err), "it must neither be quarantined nor dropped")
	require.Error(t, r.deliver(t, 10, 100, func(b *block.Block) { b.Redo, b.Intended = true, time.Time{} }), "nobody knows since when")

	for i := range int64(4) {
		require.NoError(t, r.deliver(t, 10, i))
	}
	require.NoError(t, r.deliver(t, 10, 100, redone(time.Second)), "8 of 10 places may be taken since")
	err = r.deliver(t, 10, 101, redone(time.Second))
	require.ErrorContains(t, err, "5 blocks were stored since, which may take 2 places each of deduplication_window 10")
	require.NoError(t, r.deliver(t, 10, 101), "a block that nobody tried before")
	require.EqualValues(t, 3, r.sum(t, "clickhouse_redone_blocks", "redo="+redoRefused))
	requireOnce(t, ch, 60)
}

func TestCompareStoresExactlyWhatTheTableLacks(t *testing.T) {
	ch := clickhousetest.Shared(t)
	compare := func(c *Config) { c.BeyondWindow = BeyondCompare }
	r := start(t, signal.Logs, config(ch.URL, compare))
	before := start(t, signal.Logs, config(ch.URL)) // an earlier owner
	old := redone(10_000 * time.Hour)

	for name, tc := range map[string]struct {
		first  int64
		before func()
	}{
		"nothing of it": {100, func() {}},
		"all of it":     {200, func() { require.NoError(t, before.deliver(t, 100, 200)) }},
		"some records":  {300, func() { require.NoError(t, before.deliver(t, 30, 300)); require.NoError(t, before.deliver(t, 20, 305)) }},
		"deleted by hand": {400, func() {
			require.NoError(t, before.deliver(t, 100, 400)) // its token is remembered
			ch.Exec("ALTER TABLE pulsegrid.logs DELETE WHERE kafka_offset BETWEEN 400 AND 409 SETTINGS mutations_sync = 1")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.before()
			last := tc.first + 9
			ch.Exec(fmt.Sprintf("DELETE FROM pulsegrid.ledger WHERE first_offset BETWEEN %d AND %d", tc.first, last))
			for range 2 {
				require.NoError(t, r.deliver(t, 100, tc.first, old))
			}
			where := fmt.Sprintf(" WHERE kafka_offset BETWEEN %d AND %d", tc.first, last)
			require.EqualValues(t, 100, ch.QueryInt("SELECT count() FROM pulsegrid.logs"+where))
			require.EqualValues(t, 100, ch.QueryInt("SELECT uniqExact(kafka_offset, event_index) FROM pulsegrid.logs"+where))
			require.Equal(t, fmt.Sprintf("%d\t%d\t100", tc.first, last), ch.Query(fmt.Sprintf("SELECT min(first_offset), max(last_offset), sum(rows) FROM pulsegrid.ledger FINAL WHERE first_offset BETWEEN %d AND %d", tc.first, last)))
			require.EqualValues(t, 10, ch.QueryInt(fmt.Sprintf("SELECT sum(last_offset - first_offset + 1) FROM pulsegrid.ledger FINAL WHERE first_offset BETWEEN %d AND %d", tc.first, last)), "entries tile the block")
		})
	}
	require.EqualValues(t, 4, r.sum(t, "clickhouse_redone_blocks", "redo="+redoCompared))
	require.EqualValues(t, 4, r.sum(t, "clickhouse_redone_blocks", "redo="+redoKnown))
}

// The window is the engine's own: as many inserts as it says are recognised, in the table and in each rollup, and no more.
func TestTheWindowHoldsInTheTableAndInEveryRollup(t *testing.T) {
	ch := clickhousetest.Shared(t)
	const window = 10
	small := func(c *Config) { c.MaxConcurrentInserts, c.DeduplicationWindow = 1, window }
	r := start(t, signal.Logs, config(ch.URL, small))
	for range 2 {
		for i := range int64(window) {
			require.NoError(t, r.deliver(t, 10, i))
		}
	}
	requireOnce(t, ch, window*10)
	require.NoError(t, r.deliver(t, 10, window)) // pushes block 0 out
	require.NoError(t, r.deliver(t, 10, 0))      // not said to be a redo: what TestABlockBeyondTheWindow... refuses
	for _, table := range []string{"logs", "logs_10s", "logs_1m", "logs_1h"} {
		count := "sum(count)"
		if table == "logs" {
			count = "count()"
		}
		require.EqualValues(t, (window+2)*10, ch.QueryInt("SELECT "+count+" FROM pulsegrid."+table), table)
	}
}

// A crash between the table's part and a rollup's leaves the rollup behind; the redo fills it.
func TestARedoFillsRollupsThatTheFirstTryDidNotReach(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	ch.Exec("DETACH TABLE pulsegrid.logs_1m_mv")
	require.NoError(t, r.deliver(t, 50, 0))
	ch.Exec("DELETE FROM pulsegrid.ledger WHERE true")
	ch.Exec("ATTACH TABLE pulsegrid.logs_1m_mv")
	require.Zero(t, ch.QueryInt("SELECT sum(count) FROM pulsegrid.logs_1h"))
	require.NoError(t, r.deliver(t, 50, 0, redone(time.Second)))
	requireOnce(t, ch, 50, "0-4 events 50 rows 50")
}

func TestABlockWithoutEventsHasAnEntryAndNoInsert(t *testing.T) {
	ch := clickhousetest.Shared(t)
	endpoint := inserting(t, ch, func(http.ResponseWriter, *http.Request, http.Handler) { t.Error("rows were inserted") })
	r := start(t, signal.Logs, config(endpoint))
	b := block.Block{Topic: signal.Logs.Topic(), Partition: 3, First: 7, Last: 9, Signal: signal.Logs, Events: 4, Account: &block.Account{}}
	b.Account.Add(8, block.Tally{Duplicates: 4})
	b.Account.Add(9, block.Tally{Quarantined: 2})
	for range 2 {
		require.NoError(t, r.ConsumeLogs(block.NewContext(t.Context(), b), plog.NewLogs()))
	}
	require.Equal(t, "otlp.logs.v1\t3\t7\t9\tlogs\t4\t4\t2\t0\t0", ch.Query(
		"SELECT kafka_topic, kafka_partition, first_offset, last_offset, signal, events, duplicates, quarantined, rows, id_sum FROM pulsegrid.ledger FINAL"))
}

func TestAnIntroductionIsNoData(t *testing.T) {
	r := start(t, signal.Logs, config(fake(t, func(http.ResponseWriter, *http.Request) { t.Error("something was sent") }), mode(SchemaOff)))
	ctx, _ := block.Introduce(t.Context())
	require.NoError(t, r.ConsumeLogs(ctx, plog.NewLogs()))
	ld, b := someLogs(10, 0)
	require.NoError(t, r.ConsumeLogs(block.NewContext(ctx, b), ld), "whatever else comes with it")
}

func TestWithoutALedgerBlocksAreNotTakenAndOtherDataIs(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL, func(c *Config) { c.Ledger = false }))
	err := r.deliver(t, 10, 0)
	require.ErrorContains(t, err, "set ledger: true")
	require.False(t, consumererror.IsPermanent(err))
	ld, _ := someLogs(10, 0)
	require.NoError(t, r.ConsumeLogs(t.Context(), ld))
	require.Equal(t, "10\t0", ch.Query("SELECT (SELECT count() FROM pulsegrid.logs), (SELECT count() FROM system.tables WHERE name = 'ledger')"))
}

// The receiver halves a refused block until the poison stands alone, and then delivers its range empty.
func TestOnePoisonRecordIsRefusedAloneAndNamed(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	ch.Exec("ALTER TABLE pulsegrid.logs ADD CONSTRAINT no_poison CHECK attributes_int['attempt'] != 64") // event 4 of offset 106
	var refused []string
	var halve func(first, last int64)
	halve = func(first, last int64) {
		ld, b := someLogs(100, 100)
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().RemoveIf(func(lr plog.LogRecord) bool {
			e, _ := lineage.ReadEvent(lr.Attributes())
			return e.Offset < first || e.Offset > last
		})
		b.First, b.Last, b.Events, b.Account = first, last, ld.LogRecordCount(), accountOf(first, last)
		err := r.ConsumeLogs(block.NewContext(t.Context(), b), ld)
		switch {
		case err == nil:
		case !consumererror.IsPermanent(err):
			t.Errorf("offsets %d to %d: %v", first, last, err)
		case first < last:
			mid := first + (last-first)/2
			halve(first, mid)
			halve(mid+1, last)
		default:
			refused = append(refused, err.Error())
			b.Events, b.Account = 0, &block.Account{}
			b.Account.Add(first, block.Tally{Quarantined: 10})
			require.NoError(t, r.ConsumeLogs(block.NewContext(t.Context(), b), plog.NewLogs()))
		}
	}
	halve(100, 109)
	require.Len(t, refused, 1)
	for _, part := range []string{"table pulsegrid.logs", "offsets 106 to 106", "no_poison", "attributes_int", "event 4 of the record at offset 106"} {
		require.Contains(t, refused[0], part)
	}
	requireOnce(t, ch, 90)
	require.Equal(t, "10\t10", ch.Query("SELECT sum(last_offset - first_offset + 1), sum(quarantined) FROM pulsegrid.ledger FINAL"), "the entries tile the block")

	// Another owner is given the whole block again: nothing of it is sent, the poison neither.
	require.NoError(t, r.deliver(t, 100, 100, redone(time.Second)))
	requireOnce(t, ch, 90)
}

func TestUncoveredIsWhatNoEntryCovers(t *testing.T) {
	rows := func(pairs ...int64) (out []entryRow) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, entryRow{First: pairs[i], Last: pairs[i+1]})
		}
		return out
	}
	for _, tc := range []struct {
		have []entryRow
		want []extent
	}{
		{nil, []extent{{10, 19}}},
		{rows(10, 19), nil},
		{rows(5, 30), nil},
		{rows(10, 14, 15, 19), nil},
		{rows(10, 14), []extent{{15, 19}}},
		{rows(15, 19), []extent{{10, 14}}},
		{rows(12, 13, 16, 16), []extent{{10, 11}, {14, 15}, {17, 19}}},
		{rows(5, 11, 11, 12, 12, 12), []extent{{13, 19}}},
		{rows(10, 18, 11, 12), []extent{{19, 19}}},
		{rows(19, 25), []extent{{10, 18}}},
	} {
		require.Equal(t, tc.want, uncovered(extent{10, 19}, tc.have), "%v", tc.have)
	}
}
