package clickhouseexporter

import (
	"context"
	"fmt"
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
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// rawBody is of no encoding, with every byte that a text format would have to escape.
func rawBody(offset int64) string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return fmt.Sprintf("%d %s", offset, b)
}

// someItems are a block of the quarantine topic: one item an offset, every second one with personal data.
func someItems(t *testing.T, first, last int64) (context.Context, plog.Logs) {
	ld := plog.NewLogs()
	for offset := first; offset <= last; offset++ {
		r := &kgo.Record{Key: []byte("agent"), Value: []byte(rawBody(offset)), Offset: offset, Timestamp: received.Add(time.Second), Headers: []kgo.RecordHeader{
			{Key: envelope.HeaderQuarantineCode, Value: []byte("attribute_type")},
			{Key: envelope.HeaderFindings, Value: []byte(`[{"event":0,"verdicts":[{"code":"attribute_type","path":"a","schema":"s","version":"1"}]}]`)},
			{Key: envelope.HeaderPII, Value: fmt.Append(nil, offset%2 == 1)},
		}}
		rl := ld.ResourceLogs().AppendEmpty()
		lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "acme", Source: "agent", Received: received, Topic: signal.QuarantineTopic})
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		quarantine.ToLog(r, lr)
		lineage.StampEvent(lr.Attributes(), lineage.Event{ID: quarantine.FromRecord(r).ID(), Offset: offset})
	}
	b := block.Block{Topic: signal.QuarantineTopic, First: first, Last: last, Signal: signal.Logs, Events: ld.LogRecordCount(), Intended: time.Now()}
	return block.NewContext(t.Context(), b), ld
}

// Guarantee: an item is in the table of its rights, byte for byte and once, however often its block is delivered and whoever delivers it; the ledgers
// of the tables do not know each other.
func TestAnItemIsInItsTableOnceAndByteForByte(t *testing.T) {
	ch := clickhousetest.Shared(t)
	as := func(rows string) *rig {
		return start(t, signal.Logs, config(ch.URL, func(c *Config) { c.Rows = rows }))
	}
	plain, pii := as(columns.RowsQuarantine), as(columns.RowsQuarantinePII)
	for i, r := range []*rig{plain, pii, plain, pii, as(columns.RowsQuarantine), as(columns.RowsQuarantinePII)} {
		for _, part := range [][2]int64{{0, 9}, {10, 10}, {11, 11}} { // the last two have no rows in one of the tables
			ctx, ld := someItems(t, part[0], part[1])
			if b, _ := block.FromContext(ctx); i >= 4 {
				b.Redo = true // another owner's, after a crash
				ctx = block.NewContext(ctx, b)
			}
			require.NoError(t, r.ConsumeLogs(ctx, ld))
		}
	}
	for rows, odd := range map[string]int64{columns.RowsQuarantine: 0, columns.RowsQuarantinePII: 1} {
		require.EqualValues(t, 6, ch.QueryInt("SELECT count() FROM pulsegrid."+rows))
		for offset := odd; offset < 12; offset += 2 {
			where := fmt.Sprintf(" FROM pulsegrid.%s WHERE kafka_topic = 'quarantine.v1' AND kafka_partition = 0 AND kafka_offset = %d", rows, offset)
			body, err := ch.Try("SELECT body" + where + " FORMAT RawBLOB")
			require.NoError(t, err)
			require.Equal(t, rawBody(offset), body)
			require.Equal(t, "acme attribute_type s 1 agent", ch.Query("SELECT concat(tenant_id, ' ', code, ' ', schema, ' ', schema_version, ' ', source)"+where))
		}
		require.Equal(t, "3 12 6", ch.Query("SELECT concat(count(), ' ', sum(events), ' ', sum(rows)) FROM pulsegrid.ledger_"+rows+" FINAL"))
	}
	require.Zero(t, ch.QueryInt("SELECT count() FROM system.tables WHERE database = 'pulsegrid' AND (name = 'ledger' OR name LIKE '%_mv')"), "nothing of the events' tables")
}

// Guarantee: items that come in no block, from another receiver than msk, are stored too; those of the other table cost nothing.
func TestItemsThatComeInNoBlockAreStored(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL, func(c *Config) { c.Rows, c.Ledger = columns.RowsQuarantine, false }))
	for offset := range int64(2) {
		_, ld := someItems(t, offset, offset)
		require.NoError(t, r.ConsumeLogs(t.Context(), ld))
	}
	require.EqualValues(t, 1, ch.QueryInt("SELECT count() FROM pulsegrid.quarantine"))
}
