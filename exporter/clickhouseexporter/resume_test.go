package clickhouseexporter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// worker delivers blocks of one worker of the receiver, which begins at an offset.
type worker struct {
	*rig
	number   uint64
	unstated bool // nobody knows which blocks were begun before it
	fresh    bool
	topic    block.TopicID
	oldest   int64
}

func (r *rig) worker(begins int64, change ...func(*worker)) *worker {
	w := &worker{rig: r, number: workers.Add(1), oldest: begins}
	for _, c := range change {
		c(w)
	}
	return w
}

func unstated(w *worker) { w.unstated = true }
func fresh(w *worker)    { w.fresh, w.unstated = true, true }

// take delivers the records at the offsets from first to last as one block, and goes on behind it if it was stored.
func (w *worker) take(t *testing.T, first, last int64, change ...func(*block.Block)) error {
	t.Helper()
	err := w.deliver(t, int(last-first+1)*10, first, append([]func(*block.Block){func(b *block.Block) {
		b.Worker, b.Unstated, b.Fresh, b.TopicID, b.Oldest = w.number, w.unstated, w.fresh, w.topic, w.oldest
	}}, change...)...)
	if err == nil {
		w.oldest, w.fresh = last+1, false
	}
	return err
}

// takeAll delivers the offsets [first, next) in blocks of size records.
func (w *worker) takeAll(t *testing.T, first, next, size int64) {
	t.Helper()
	for ; first < next; first += size {
		require.NoError(t, w.take(t, first, min(first+size, next)-1))
	}
}

// inGap makes rows of which the ledger knows nothing: their owner died in between.
func (w *worker) inGap(t *testing.T, ch *clickhousetest.Server, first, last int64) {
	t.Helper()
	require.NoError(t, w.take(t, first, last))
	ch.Exec(fmt.Sprintf("DELETE FROM pulsegrid.ledger WHERE first_offset = %d AND last_offset = %d", first, last))
}

func sentBackTo(t *testing.T, err error) int64 {
	t.Helper()
	back, ok := errors.AsType[*block.ResumeError](err)
	require.True(t, ok, "%v", err)
	return back.Next
}

func TestOffsetsThatWereResetDoubleNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		begins int64
		how    func(*worker)
	}{
		"to an earlier offset":              {33, unstated},
		"to the start":                      {0, fresh},
		"to the end of what the ledger has": {100, unstated},
	} {
		t.Run(name, func(t *testing.T) {
			ch := clickhousetest.Shared(t)
			r := start(t, signal.Logs, config(ch.URL))
			first := r.worker(0)
			first.takeAll(t, 0, 100, 10)
			first.inGap(t, ch, 100, 109)

			next := start(t, signal.Logs, config(ch.URL)) // blocks are cut otherwise
			next.worker(tc.begins, tc.how).takeAll(t, tc.begins, 130, 7)
			requireOnce(t, ch, 1300)
		})
	}
}

func TestAnOffsetThatWasMovedForwardIsSentBack(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	r.worker(0).takeAll(t, 0, 100, 10)
	require.EqualValues(t, 100, sentBackTo(t, r.worker(150, unstated).take(t, 150, 159)))
	require.EqualValues(t, 100, sentBackTo(t, r.worker(150, fresh).take(t, 150, 159)), "initial_offset: latest, after the group was lost")
	r.worker(100, unstated).takeAll(t, 100, 200, 13)
	requireOnce(t, ch, 2000)
	require.EqualValues(t, 2, r.sum(t, "clickhouse_redone_blocks", "redo="+redoSentBack))
}

// Kafka no longer has it: the block that the receiver is sent back to spans it, and the hole is closed.
func TestAHoleThatKafkaNoLongerHasIsClosedByTheBlockThatSpansIt(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	r.worker(0).takeAll(t, 0, 100, 10)
	ch.Exec("DELETE FROM pulsegrid.ledger WHERE first_offset IN (30, 50)") // rows are there
	require.EqualValues(t, 30, sentBackTo(t, r.worker(100).take(t, 100, 109)), "a hole in the middle, however it came")
	require.NoError(t, r.worker(30, unstated).take(t, 55, 64, func(b *block.Block) { b.First, b.Oldest = 30, 30 }))
	r.worker(65, unstated).takeAll(t, 65, 110, 10)
	r.worker(110).takeAll(t, 110, 120, 10)
	require.EqualValues(t, 1200, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.EqualValues(t, 1200, ch.QueryInt("SELECT sum(count) FROM pulsegrid.logs_1h"))
}

func TestAnEmptyClickHouseIsFilledFromTheStart(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	require.EqualValues(t, block.FromStart, sentBackTo(t, r.worker(500).take(t, 500, 509)))
	r.worker(20, fresh).takeAll(t, 20, 60, 10) // the log's start
	requireOnce(t, ch, 400)
}

func TestALedgerThatWasLostReadsNothingAgain(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	r.worker(0).takeAll(t, 0, 50, 10)
	ch.Exec("TRUNCATE TABLE pulsegrid.ledger")
	r.worker(50).takeAll(t, 50, 70, 10)
	require.EqualValues(t, 700, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
}

// Scenario: ClickHouse's disk is put back to an earlier state while the aggregator goes on.
// Guarantee: the worker that goes on is sent back to where the ledger ends, although no request of it failed, and so is a new one.
func TestARestoredClickHouseIsFilledAgain(t *testing.T) {
	dir, backup := filepath.Join(t.TempDir(), "now"), filepath.Join(t.TempDir(), "backup")
	ch := clickhousetest.StartWith(t, chengine.Options{Dir: dir})
	r := start(t, signal.Logs, config(ch.URL))
	w := r.worker(0)
	w.takeAll(t, 0, 100, 10)
	w.inGap(t, ch, 100, 109) // rows and ledger were not saved at the same moment
	ch.Stop()
	require.NoError(t, os.CopyFS(backup, os.DirFS(dir)))
	ch.Restart()
	w = r.worker(100)
	require.Eventually(t, func() bool { // the first try may find out that the server is another
		return w.take(t, 100, 109, func(b *block.Block) { b.Redo = true }) == nil
	}, time.Minute, 10*time.Millisecond)
	w.takeAll(t, 110, 200, 10)

	ch.Stop()
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.CopyFS(dir, os.DirFS(backup)))
	time.Sleep(2 * time.Second) // a restore takes longer
	ch.Restart()
	require.Eventually(t, func() bool { // the first try may find out only when it has been answered
		err := w.take(t, 200, 209)
		require.Error(t, err)
		back, ok := errors.AsType[*block.ResumeError](err)
		return ok && back.Next == 100
	}, time.Minute, 10*time.Millisecond)
	require.EqualValues(t, 100, sentBackTo(t, r.worker(200).take(t, 200, 209)))

	r.worker(100, unstated).takeAll(t, 100, 230, 17)
	requireOnce(t, ch, 2300)
}

// Scenario: a topic is deleted and made anew; its blocks have the names of blocks that are stored.
func TestATopicMadeAnewIsStoredCompletely(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	of := func(id byte) func(*worker) { return func(w *worker) { w.topic = block.TopicID{id} } }
	r.worker(0, of(1)).takeAll(t, 0, 200, 10)
	r.worker(0, of(2), fresh).takeAll(t, 0, 20, 10)
	old := func(b *block.Block) { b.Redo, b.Intended = true, time.Now().Add(-10_000*time.Hour) }
	require.NoError(t, r.worker(20, of(2)).take(t, 20, 29, old), "not even where it is compared with the table")
	require.NoError(t, r.worker(30, of(2)).take(t, 30, 39, redone(time.Second)))
	require.NoError(t, r.worker(30, of(2)).take(t, 30, 39, redone(time.Second)), "and again")
	require.EqualValues(t, 2400, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.EqualValues(t, 2400, ch.QueryInt("SELECT sum(count) FROM pulsegrid.logs_1h"))
	require.EqualValues(t, 2400, ch.QueryInt("SELECT sum(rows) FROM pulsegrid.ledger FINAL"))
	require.EqualValues(t, 2, ch.QueryInt("SELECT uniqExact(topic_id) FROM pulsegrid.ledger"))
	ch.Exec("OPTIMIZE TABLE pulsegrid.ledger FINAL")
	require.EqualValues(t, 24, ch.QueryInt("SELECT count() FROM pulsegrid.ledger"), "entries of two topics are not one")

	// A group that does not begin anew goes on where the ledger of the new topic ends.
	require.EqualValues(t, 40, sentBackTo(t, r.worker(100, of(2)).take(t, 100, 109)))
	require.Equal(t, block.FromStart, sentBackTo(t, r.worker(100, of(3)).take(t, 100, 109)))
}

func TestEntriesThatAnOlderVersionWroteCount(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	r.worker(0).takeAll(t, 0, 50, 10)
	of := func(w *worker) { w.topic = block.TopicID{7} }
	w := r.worker(50, of)
	w.takeAll(t, 50, 70, 10)
	require.NoError(t, r.worker(40, of).take(t, 40, 49, redone(time.Second)))
	require.EqualValues(t, 700, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
}

// Scenario: so many blocks were stored since that the tables have forgotten the tokens of those that a crash left in doubt.
// Guarantees: all of them are redone without an operator, rows and rollups are exact, and they share look-ups.
func TestBlocksInDoubtBeyondTheWindowPassByThemselves(t *testing.T) {
	ch := clickhousetest.Shared(t)
	intended := time.Now().Add(-30 * time.Second)
	small := func(c *Config) { c.MaxConcurrentInserts, c.DeduplicationWindow = 1, 20 }
	lookUps := map[string]int{"AS holes": 0, "LIMIT 1 BY": 0, "written_time >=": 0, "GROUP BY kafka_offset ORDER BY": 0} // by what only they have
	endpoint := passing(t, ch, func(r *http.Request) bool { return !r.URL.Query().Has("async_insert") }, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		query, _ := io.ReadAll(r.Body)
		for mark := range lookUps {
			if strings.Contains(string(query), mark) {
				lookUps[mark]++ // one at a time: so are the blocks
			}
		}
		r.Body = io.NopCloser(bytes.NewReader(query))
		next.ServeHTTP(w, r)
	})
	r := start(t, signal.Logs, config(ch.URL, small))
	crashed := r.worker(0)
	crashed.takeAll(t, 0, 10, 10)
	for first := int64(10); first < 200; first += 20 {
		crashed.inGap(t, ch, first, first+9) // every second one has rows, none an entry
	}
	other := r.worker(0)
	for i := range int64(25) {
		require.NoError(t, other.take(t, i, i, func(b *block.Block) { b.Partition = 4 }))
	}

	next := start(t, signal.Logs, config(endpoint, small))
	w := next.worker(10)
	begun := time.Now()
	for first := int64(10); first < 200; first += 10 {
		require.NoError(t, w.take(t, first, first+9, func(b *block.Block) { b.Redo, b.Intended = true, intended }))
	}
	require.EqualValues(t, 19, next.sum(t, "clickhouse_redone_blocks", "redo="+redoCompared))
	atMost := func(n int, mark string) {
		t.Helper()
		require.Positive(t, lookUps[mark], mark)
		require.LessOrEqual(t, lookUps[mark], n, mark)
	}
	elapsed := time.Since(begun)
	looks := 2 + int(elapsed/lookAge)
	atMost(looks, "AS holes")
	atMost(looks, "LIMIT 1 BY")
	atMost(looks+9, "GROUP BY kafka_offset ORDER BY") // and once for each block that was stored, to verify it
	atMost(2+int(elapsed/countAge), "written_time >=")
	rows := int64(2000 + 250)
	require.EqualValues(t, rows, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	for _, suffix := range []string{"10s", "1m", "1h"} {
		require.EqualValues(t, rows, ch.QueryInt("SELECT sum(count) FROM pulsegrid.logs_"+suffix), suffix)
	}
	require.EqualValues(t, rows, ch.QueryInt("SELECT sum(rows) FROM pulsegrid.ledger FINAL"))
}

func TestAPartitionThatGoesOnIsNotLookedUpAgain(t *testing.T) {
	ch := clickhousetest.Shared(t)
	var reads atomic.Int32
	endpoint := passing(t, ch, func(r *http.Request) bool { return !r.URL.Query().Has("async_insert") }, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		reads.Add(1)
		next.ServeHTTP(w, r)
	})
	r := start(t, signal.Logs, config(endpoint))
	w := r.worker(0)
	w.takeAll(t, 0, 10, 10)
	before := reads.Load()
	w.takeAll(t, 10, 100, 10)
	require.Equal(t, before, reads.Load())
}

// A power cut takes the newest entries, which nothing writes through to the disk; their rows are there.
func TestEntriesThatAPowerCutTookAreWrittenAgain(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	r.worker(0).takeAll(t, 0, 100, 10)
	ch.Exec("DELETE FROM pulsegrid.ledger WHERE first_offset >= 70")
	require.EqualValues(t, 70, sentBackTo(t, r.worker(100).take(t, 100, 109)))
	r.worker(70, unstated).takeAll(t, 70, 120, 7)
	requireOnce(t, ch, 1200)
}
