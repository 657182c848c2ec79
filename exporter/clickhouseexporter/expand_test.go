package clickhouseexporter

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/heaptest"
)

// Guarantee: what a block takes while it is inserted is bounded by its own bytes and a constant, on both sides, however often its rows
// repeat a text; sent again, it is the same insert.
func TestARepeatedTextTakesBoundedMemory(t *testing.T) {
	for _, tc := range []struct {
		name         string
		signal       signal.Signal
		events, size int
		each, shared string // columns
	}{
		{"a resource of 450 KB of 9,000 logs", signal.Logs, 9000, 450 << 10, "body", "resource"},
		{"a scope of 1 MB of 5,000 spans", signal.Traces, 5000, 1 << 20, "name", "scope_attributes"},
		{"a description of 60 KB of 10,000 points", signal.Metrics, 10_000, 60 << 10, "value_int", "metric_description"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ch := clickhousetest.Start(t)
			request := otlptest.Shared(tc.signal, tc.events, tc.size)
			r := start(t, tc.signal, config(ch.URL, func(c *Config) { c.RetentionDays = 0 }))
			require.Zero(t, ch.QueryInt("SELECT count() FROM "+r.schema.name(r.table.Name)), "the engine is warm")
			before := residentMax(t, ch.PID())
			blk := block.Block{Topic: tc.signal.Topic(), Signal: tc.signal, Events: tc.events}
			client := heaptest.Peak(func() { deliver(t, r, block.NewContext(t.Context(), blk), request) })
			server := residentMax(t, ch.PID()) - before
			t.Logf("a request of %d KB, %d MB written out, takes %d MB here and %d MB there", len(request)>>10, tc.events*tc.size>>20, client>>20, server>>20)
			require.Less(t, client, int64(16*len(request)+64<<20))
			require.Less(t, server, int64(16*len(request)+256<<20))

			ch.Exec("TRUNCATE TABLE " + r.schema.name("ledger")) // as after a crash before the entry
			blk.Redo, blk.Intended = true, time.Now()
			deliver(t, r, block.NewContext(t.Context(), blk), request)
			require.EqualValues(t, 1, r.sum(t, "clickhouse_redone_blocks", "redo="+redoToken))

			from := " FROM " + r.schema.name(r.table.Name) + " SETTINGS max_block_size = 100"
			require.EqualValues(t, tc.events, ch.QueryInt("SELECT count()"+from))
			require.EqualValues(t, tc.events, ch.QueryInt("SELECT uniqExact("+tc.each+")"+from))
			require.EqualValues(t, 1, ch.QueryInt("SELECT uniqExact(sipHash64("+tc.shared+"))"+from), "all rows have the same text")
			require.GreaterOrEqual(t, ch.QueryInt("SELECT min(length("+tc.shared+"))"+from), int64(tc.size))
		})
	}
}

// residentMax is the most memory that a process has held, in bytes.
func residentMax(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), "VmHWM:")
	require.True(t, ok)
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	require.NoError(t, err)
	return kb << 10
}
