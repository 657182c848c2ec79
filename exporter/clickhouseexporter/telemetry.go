package clickhouseexporter

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

// telemetry are the metrics of metadata.yaml, for one table.
type telemetry struct {
	all   *componentmeta.Telemetry
	table attribute.KeyValue

	rows, rejected, bytes, inserts, errs      componentmeta.Counter
	redoneBlocks, ledgerEntries               componentmeta.Counter
	insertDuration, buildDuration, freshnessS componentmeta.Histogram
	encodeDuration, ledgerDuration            componentmeta.Histogram
}

func newTelemetry(id component.ID, set component.TelemetrySettings, table string, running func() int) (*telemetry, error) {
	m := metadata.Telemetry(id, set)
	t := &telemetry{
		all:            m,
		table:          attribute.String("table", table),
		rows:           m.Counter("clickhouse_rows"),
		rejected:       m.Counter("clickhouse_rejected_rows"),
		bytes:          m.Counter("clickhouse_bytes"),
		inserts:        m.Counter("clickhouse_inserts"),
		errs:           m.Counter("clickhouse_errors"),
		insertDuration: m.Histogram("clickhouse_insert_duration"),
		buildDuration:  m.Histogram("clickhouse_build_duration"),
		freshnessS:     m.Histogram("clickhouse_freshness"),
		encodeDuration: m.Histogram("clickhouse_encode_duration"),
		redoneBlocks:   m.Counter("clickhouse_redone_blocks"),
		ledgerEntries:  m.Counter("clickhouse_ledger_entries"),
		ledgerDuration: m.Histogram("clickhouse_ledger_duration"),
	}
	m.Gauge("clickhouse_inserts_running", func(record func(int64, ...attribute.KeyValue)) {
		record(int64(running()), t.table)
	})
	return t, m.Err()
}

func (t *telemetry) shutdown() { t.all.Shutdown() }

func (t *telemetry) with(attrs ...attribute.KeyValue) componentmeta.Attributes {
	return t.all.With(append(attrs, t.table)...)
}

func (t *telemetry) built(took time.Duration) {
	t.buildDuration.Record(context.Background(), took.Seconds(), t.with())
}

func (t *telemetry) encoded(took time.Duration) {
	t.encodeDuration.Record(context.Background(), took.Seconds(), t.with())
}

// redone counts a block that may have been stored before.
func (t *telemetry) redone(outcome string) {
	t.redoneBlocks.Add(context.Background(), 1, t.with(attribute.String("redo", outcome)))
}

// ledgerWritten records the outcome of one INSERT into the ledger.
func (t *telemetry) ledgerWritten(entries int, took time.Duration, err error) {
	ctx := context.Background()
	o := attribute.String("outcome", t.outcome(err))
	t.ledgerEntries.Add(ctx, int64(entries), t.with(o))
	t.ledgerDuration.Record(ctx, took.Seconds(), t.with(o))
}

// outcome counts an INSERT's error and names its outcome.
func (t *telemetry) outcome(err error) string {
	if err == nil {
		return "stored"
	}
	cl := t.failed(err)
	if cl == badSchema {
		cl = retryable
	}
	return string(cl)
}

// inserted records the outcome of one INSERT.
func (t *telemetry) inserted(b *batch, took time.Duration, err error) {
	ctx := context.Background()
	outcome := t.outcome(err)
	if err == nil {
		t.rows.Add(ctx, b.rows, t.with())
		t.bytes.Add(ctx, int64(b.bytes), t.with())
		t.freshnessS.Record(ctx, max(time.Since(b.received), 0).Seconds(), t.with())
	}
	o := attribute.String("outcome", outcome)
	t.inserts.Add(ctx, 1, t.with(o))
	t.insertDuration.Record(ctx, took.Seconds(), t.with(o))
}

// failed counts an error and returns its class.
func (t *telemetry) failed(err error) class {
	cl, code := unknown, codeOther
	var se *storeError
	if errors.As(err, &se) {
		cl, code = se.class, se.code
	}
	t.errs.Add(context.Background(), 1, t.with(attribute.String("class", string(cl)), attribute.String("code", code)))
	return cl
}

// reject counts rows that are refused for good.
func (t *telemetry) reject(rows int64, code string) {
	t.rejected.Add(context.Background(), rows, t.with(attribute.String("code", code)))
}
