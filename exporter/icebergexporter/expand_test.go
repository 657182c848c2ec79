package icebergexporter

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/heaptest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// Guarantee: what a block takes while it is written is bounded by its own bytes and a constant, however often its rows repeat a text.
func TestARepeatedTextTakesBoundedMemory(t *testing.T) {
	for _, tc := range []struct {
		name         string
		signal       signal.Signal
		events, size int
		each, shared string // columns; SQL
	}{
		{"a resource of 450 KB of 1,500 logs", signal.Logs, 1500, 450 << 10, "body", "resource"},
		{"a scope of 1 MB of 700 spans", signal.Traces, 700, 1 << 20, "name", "scope_attributes"},
		{"a description of 60 KB of 10,000 points", signal.Metrics, 10_000, 60 << 10, "value_int", "metric_description"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			request := otlptest.Shared(tc.signal, tc.events, tc.size)
			cfg := lake(t)
			cfg.Commit.Timeout = 5 * time.Minute
			h := start(t, cfg, columns.ForSignal(tc.signal))
			deliver := deliveryOf(t, h, tc.signal, request)
			const constant = 640 << 20 // about six copies of a slice, and as much garbage
			peak := heaptest.Peak(func() { require.NoError(t, deliver()) })
			t.Logf("a request of %d KB, %d MB written out, takes %d MB", len(request)>>10, tc.events*tc.size>>20, peak>>20)
			require.Less(t, peak, int64(8*len(request)+constant))

			var rows struct{ N, Events, Texts, Longest, Shortest int64 }
			pytest.RunJSON(t, &rows, `
import sys, json, duckdb
dir, each, shared = sys.argv[1:]
row = duckdb.sql(f"select count(*), count(distinct {each}), count(distinct md5({shared})), max(strlen({shared})), min(strlen({shared})) "
  f"from read_parquet('{dir}/**/*.parquet', hive_partitioning=false)").fetchall()[0]
print(json.dumps(dict(zip(["N", "Events", "Texts", "Longest", "Shortest"], row))))
`, strings.TrimPrefix(cfg.Catalog.Warehouse, "file://")+"/pulsegrid/"+h.model.Name+"/data", tc.each, tc.shared)
			require.EqualValues(t, tc.events, rows.N)
			require.EqualValues(t, tc.events, rows.Events)
			require.EqualValues(t, 1, rows.Texts, "all rows have the same text")
			require.GreaterOrEqual(t, rows.Shortest, int64(tc.size))
			require.Equal(t, rows.Shortest, rows.Longest)
		})
	}
}

// deliveryOf decodes a request and returns what delivers it.
func deliveryOf(t *testing.T, h *harness, s signal.Signal, request []byte) func() error {
	switch s {
	case signal.Logs:
		ld, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(request)
		require.NoError(t, err)
		return func() error { return h.consumeLogs(t.Context(), ld) }
	case signal.Traces:
		td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(request)
		require.NoError(t, err)
		return func() error { return h.consumeTraces(t.Context(), td) }
	default:
		md, err := (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics(request)
		require.NoError(t, err)
		return func() error { return h.consumeMetrics(t.Context(), md) }
	}
}
