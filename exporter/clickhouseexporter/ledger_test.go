package clickhouseexporter

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

func TestEntriesThatArriveDuringAnInsertGoTogetherWithTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inserts [][]ledger.Entry
		w := newLedgerWriter(t.Context(), time.Minute, func(_ context.Context, entries []ledger.Entry) error {
			inserts = append(inserts, entries) // one at a time, or the race detector says so
			time.Sleep(time.Second)
			return nil
		})
		var wg sync.WaitGroup
		begun := time.Now()
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond) // all of them within the first insert
				if err := w.write(t.Context(), []ledger.Entry{{First: int64(i)}}); err != nil {
					t.Error(err)
				}
				if took := time.Since(begun); i > 0 && took < 2*time.Second {
					t.Errorf("entry %d: answered after %v, before its insert", i, took)
				}
			})
		}
		wg.Wait()
		require.Len(t, inserts, 2)
		require.Len(t, inserts[0], 1)
		require.Len(t, inserts[1], 99)
	})
}

func TestAFailedInsertFailsItsEntriesAndNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		n := 0
		w := newLedgerWriter(t.Context(), time.Minute, func(context.Context, []ledger.Entry) error {
			time.Sleep(time.Second)
			if n++; n == 2 {
				return broken
			}
			return nil
		})
		var failed atomic.Int32
		write := func() {
			if err := w.write(t.Context(), []ledger.Entry{{}}); errors.Is(err, broken) {
				failed.Add(1)
			}
		}
		var wg sync.WaitGroup
		wg.Go(write)
		synctest.Wait()
		for range 5 {
			wg.Go(write)
		}
		time.Sleep(1500 * time.Millisecond) // the second insert runs
		for range 3 {
			wg.Go(write)
		}
		wg.Wait()
		require.EqualValues(t, 5, failed.Load())
		require.Equal(t, 3, n)
	})
}

func TestACallerThatGivesUpNeitherBreaksNorHoldsUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLedgerWriter(t.Context(), time.Minute, func(ctx context.Context, _ []ledger.Entry) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { // leads
			err := w.write(ctx, []ledger.Entry{{}})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the caller that gave up heard %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() { // waits with it
			if err := w.write(ctx, []ledger.Entry{{}}); err == nil {
				t.Error("the caller that gave up heard nothing")
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		require.NoError(t, w.write(t.Context(), []ledger.Entry{{}}))
		wg.Wait()
		require.NoError(t, w.wait(t.Context()))
	})
}

func TestAnInsertThatHangsEndsAtTheTimeoutAndWithTheExporter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life, end := context.WithCancel(t.Context())
		w := newLedgerWriter(life, time.Minute, func(ctx context.Context, _ []ledger.Entry) error {
			<-ctx.Done()
			return ctx.Err()
		})
		require.ErrorIs(t, w.write(t.Context(), []ledger.Entry{{}}), context.DeadlineExceeded)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := w.write(t.Context(), []ledger.Entry{{}}); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		end()
		require.NoError(t, w.wait(t.Context()))
		wg.Wait()
	})
}

// ledgerInserts passes everything on to a real engine, inserts into the ledger through handler.
func ledgerInserts(t *testing.T, ch *clickhousetest.Server, handler func(w http.ResponseWriter, r *http.Request, next http.Handler)) string {
	return passing(t, ch, func(r *http.Request) bool {
		return r.URL.Query().Has("async_insert") && !r.URL.Query().Has("insert_deduplication_token")
	}, handler)
}

// Scenario: one place for inserts, and the first insert into the ledger is answered only when the rows of all blocks are stored.
// Guarantee: a call that waits for the ledger holds no place, and those that came meanwhile share one insert.
func TestBlocksStoredTogetherShareInsertsIntoTheLedger(t *testing.T) {
	const blocks = 20
	ch := clickhousetest.Shared(t)
	var inserts atomic.Int32
	ctx, stored := context.WithCancel(t.Context())
	defer stored()
	endpoint := ledgerInserts(t, ch, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if inserts.Add(1) == 1 {
			<-ctx.Done()
		}
		next.ServeHTTP(w, r)
	})
	r := start(t, signal.Logs, config(endpoint, func(c *Config) { c.MaxConcurrentInserts = 1 }))
	var wg sync.WaitGroup
	for i := range blocks {
		wg.Go(func() {
			if err := r.deliver(t, 10, int64(i)); err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return ch.QueryInt("SELECT count() FROM pulsegrid.logs") == blocks*10 }, time.Minute, 50*time.Millisecond)
	stored()
	wg.Wait()
	requireOnce(t, ch, blocks*10)
	require.EqualValues(t, blocks, ch.QueryInt("SELECT count() FROM pulsegrid.ledger"))
	require.EqualValues(t, blocks, r.sum(t, "clickhouse_ledger_entries", "outcome=stored"))
	require.Less(t, inserts.Load(), int32(blocks))
	require.EqualValues(t, inserts.Load(), r.sum(t, "clickhouse_ledger_duration"))
}

func TestALedgerThatFailsKeepsBlocksUnacknowledgedAndRowsOnce(t *testing.T) {
	ch := clickhousetest.Shared(t)
	var failures atomic.Int32
	endpoint := ledgerInserts(t, ch, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch failures.Add(1) {
		case 1:
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "Code: 252. DB::Exception: Too many parts. (TOO_MANY_PARTS)")
		case 2:
			next.ServeHTTP(httptest.NewRecorder(), r)
			cut(w)
		default:
			next.ServeHTTP(w, r)
		}
	})
	r := start(t, signal.Logs, config(endpoint))
	for range 2 {
		err := r.deliver(t, 50, 0)
		require.ErrorContains(t, err, "outcome unknown, send it again: its rows are stored, their entry in the ledger is not")
		require.NotContains(t, err.Error(), "INSERT")
	}
	require.NoError(t, r.deliver(t, 50, 0))
	requireOnce(t, ch, 50, "0-4 events 50 rows 50")
	require.EqualValues(t, 1, r.sum(t, "clickhouse_ledger_entries", "outcome=retryable"))
	require.EqualValues(t, 1, r.sum(t, "clickhouse_ledger_entries", "outcome=unknown"))
}

func TestALedgerThatVanishesIsMadeAgain(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	require.NoError(t, r.deliver(t, 10, 0))
	ch.Exec("DROP TABLE pulsegrid.ledger SYNC")
	require.NoError(t, r.deliver(t, 10, 1))
	ch.Exec("DROP TABLE pulsegrid.ledger SYNC")
	require.NoError(t, r.deliver(t, 10, 1, redone(time.Second)), "the lookup meets it first")
	require.EqualValues(t, 20, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.True(t, strings.HasPrefix(ch.Query("SELECT engine_full FROM system.tables WHERE name = 'ledger'"), "ReplacingMergeTree(written_time) ORDER BY (kafka_topic, kafka_partition, first_offset, last_offset, topic_id) TTL toDateTime(written_time) + toIntervalDay(30)"))
}
