package clickhouseexporter

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// refusals are answers after which the receiver halves a block: of something before ClickHouse, and of ClickHouse.
var refusals = map[string]func(http.ResponseWriter){
	"413": func(w http.ResponseWriter) { w.WriteHeader(http.StatusRequestEntityTooLarge) },
	"an exception": func(w http.ResponseWriter) {
		w.Header().Set("X-ClickHouse-Exception-Code", "131")
		w.WriteHeader(http.StatusBadRequest)
	},
}

// Scenario: a proxy forwards a block and loses the answer; its other node refuses the block as too large.
// Guarantee: the block is known to be stored, so that nobody halves it: halves would be stored again.
func TestABlockThatIsStoredIsNotRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		first  func(w http.ResponseWriter, r *http.Request, next http.Handler)
		stored bool
	}{
		"stored, its answer lost": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			cut(w)
		}, true},
		"stored, and the answer is 413": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}, true},
		"lost": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) { cut(w) }, false},
	} {
		for _, who := range []string{"the same worker", "its next owner"} {
			for how, refuse := range refusals {
				if name == "stored, and the answer is 413" && (how != "413" || who != "the same worker") {
					continue // there is one try
				}
				t.Run(name+", then "+who+", then "+how, func(t *testing.T) {
					ch := clickhousetest.Shared(t)
					var tries atomic.Int32
					endpoint := inserting(t, ch, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
						if tries.Add(1) == 1 {
							tc.first(w, r, next)
							return
						}
						_, _ = io.Copy(io.Discard, r.Body)
						refuse(w)
					})
					r := start(t, signal.Logs, config(endpoint))
					w := r.worker(0)
					err := w.take(t, 0, 9)
					if name == "stored, and the answer is 413" {
						require.NoError(t, err, "it is asked at once")
					} else {
						require.False(t, consumererror.IsPermanent(err))
						require.Error(t, err)
						again := func(*block.Block) {}
						if who == "its next owner" {
							w, again = start(t, signal.Logs, config(endpoint)).worker(0), redone(time.Second)
						}
						err = w.take(t, 0, 9, again)
					}
					if tc.stored {
						require.NoError(t, err)
						requireOnce(t, ch, 100, "0-9 events 100 rows 100")
						return
					}
					require.True(t, consumererror.IsPermanent(err), "%v", err)
					halves := start(t, signal.Logs, config(ch.URL)).worker(0)
					halves.takeAll(t, 0, 10, 5)
					requireOnce(t, ch, 100, "0-4 events 50 rows 50", "5-9 events 50 rows 50")
				})
			}
		}
	}
}

// Scenario: a part of a block is stored by a worker that nobody knows of; the rest is stored too, and the answer is 413.
// Guarantee: the table is asked again, not what it was known to hold before.
func TestTheRestOfABlockThatIsStoredIsNotRefused(t *testing.T) {
	ch := clickhousetest.Shared(t)
	start(t, signal.Logs, config(ch.URL)).worker(0).inGap(t, ch, 0, 3)
	endpoint := inserting(t, ch, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(httptest.NewRecorder(), r)
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	require.NoError(t, start(t, signal.Logs, config(endpoint)).worker(0, unstated).take(t, 0, 9))
	requireOnce(t, ch, 100)
}

// Part of a block is stored under another name; what is refused of it is halved.
func TestHalvesOfABlockThatIsStoredInPartStoreTheRest(t *testing.T) {
	ch := clickhousetest.Shared(t)
	var refuse atomic.Bool
	endpoint := inserting(t, ch, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if refuse.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		next.ServeHTTP(w, r)
	})
	r := start(t, signal.Logs, config(endpoint))
	r.worker(0).inGap(t, ch, 0, 3)
	refuse.Store(true)
	w := start(t, signal.Logs, config(endpoint)).worker(0)
	require.True(t, consumererror.IsPermanent(w.take(t, 0, 9, redone(time.Second), func(b *block.Block) { b.Worker = w.number })))
	refuse.Store(false)
	w.takeAll(t, 0, 10, 5)
	requireOnce(t, ch, 100)
}
