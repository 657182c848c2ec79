package icebergexporter

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// rawBody is of no encoding.
func rawBody(offset int64) string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return fmt.Sprintf("%d %s", offset, b)
}

// someItems are a block of the quarantine topic: one item an offset, every second one with personal data.
func someItems(first, last int64) (context.Context, plog.Logs) {
	ld := plog.NewLogs()
	for offset := first; offset <= last; offset++ {
		r := &kgo.Record{Key: []byte("agent"), Value: []byte(rawBody(offset)), Offset: offset, Timestamp: received.Add(time.Second), Headers: []kgo.RecordHeader{
			{Key: envelope.HeaderFindings, Value: []byte(`[{"event":0,"verdicts":[{"code":"attribute_type","path":"a"}]}]`)},
			{Key: envelope.HeaderPII, Value: fmt.Append(nil, offset%2 == 1)},
		}}
		rl := ld.ResourceLogs().AppendEmpty()
		lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "acme", Source: "agent", Received: received, Topic: signal.QuarantineTopic})
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		quarantine.ToLog(r, lr)
		lineage.StampEvent(lr.Attributes(), lineage.Event{ID: quarantine.FromRecord(r).ID(), Offset: offset})
	}
	b := block.Block{Topic: signal.QuarantineTopic, First: first, Last: last, Signal: signal.Logs, Events: ld.LogRecordCount()}
	return block.NewContext(context.Background(), b), ld
}

// Guarantee: an item is in the table of its rights, byte for byte for a reader that is not ours, and once, however often its block is delivered and
// whoever delivers it; personal data has a prefix of its own.
func TestAnItemIsInItsTableOnceAndByteForByte(t *testing.T) {
	base := lake(t)
	as := func(rows string, model *columns.Table) *harness {
		cfg := other(base)
		cfg.Rows = rows
		require.NoError(t, cfg.Validate())
		return start(t, cfg, model)
	}
	plain, pii := as(columns.RowsQuarantine, columns.Quarantine), as(columns.RowsQuarantinePII, columns.QuarantinePII)
	for _, h := range []*harness{plain, pii, plain, pii, as(columns.RowsQuarantine, columns.Quarantine), as(columns.RowsQuarantinePII, columns.QuarantinePII)} {
		for _, part := range [][2]int64{{0, 9}, {10, 10}, {11, 11}} { // the last two have no rows in one of the tables
			ctx, ld := someItems(part[0], part[1])
			require.NoError(t, h.consumeLogs(ctx, ld))
		}
	}
	for name, odd := range map[string]int64{columns.RowsQuarantine: 0, columns.RowsQuarantinePII: 1} {
		var want, got []string
		for offset := odd; offset < 12; offset += 2 {
			want = append(want, base64.StdEncoding.EncodeToString([]byte(rawBody(offset))))
		}
		pytest.RunJSON(t, &got, `
import sys, json, base64
from pyiceberg.catalog import load_catalog
name, uri, warehouse, ident = sys.argv[1:]
rows = load_catalog(name, type="sql", uri="sqlite:///" + uri, warehouse=warehouse).load_table(ident).scan().to_arrow().to_pylist()
assert all(r["tenant_id"] == "acme" and r["source"] == "agent" and r["kafka_topic"] == "quarantine.v1" for r in rows), rows
print(json.dumps([base64.b64encode(r["body"]).decode() for r in sorted(rows, key=lambda r: r["kafka_offset"])]))
`, base.Catalog.Name, base.Catalog.URI[len("file:"):], base.Catalog.Warehouse, base.Namespace+"."+name)
		require.Equal(t, want, got, name)
		require.Len(t, stored(t, base, "ledger_"+name, "events"), 3)

		files, err := filepath.Glob(filepath.Join(strings.TrimPrefix(base.Catalog.Warehouse, "file://"), base.Namespace, name, "data", "*", "*", "*.parquet"))
		require.NoError(t, err)
		require.NotEmpty(t, files, "a prefix of its own, which can have rights of its own")
	}
}
