package icebergexporter

import (
	"context"
	_ "embed"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

//go:embed metadata.yaml
var metadataYAML []byte

var metadata = componentmeta.MustParse(metadataYAML)

// Reasons for refusing rows for good, as metadata.yaml lists them.
const (
	reasonBuild = "build" // an event cannot be made a row
	reasonWrite = "write" // a row cannot be written as Parquet
)

// telemetry holds one sink's instruments.
type telemetry struct {
	meta      *componentmeta.Telemetry
	table     componentmeta.Attributes
	tableAttr attribute.KeyValue

	commitCount, attempts, rows, replayed, rejected, files, fileBytes, orphans, held, resumes, conflicts, entries componentmeta.Counter
	refusals, topicsRemade                                                                                        componentmeta.Counter
	sweeps, orphansFound, orphansRemoved                                                                          componentmeta.Counter
	commitDuration, groupAge, freshness                                                                           componentmeta.Histogram
}

func newTelemetry(id component.ID, set component.TelemetrySettings, tableName string, buffered func() int64) (*telemetry, error) {
	m := metadata.Telemetry(id, set)
	attr := attribute.String("table", tableName)
	t := &telemetry{
		meta: m, tableAttr: attr, table: m.With(attr),
		commitCount:    m.Counter("iceberg_commits"),
		attempts:       m.Counter("iceberg_commit_attempts"),
		commitDuration: m.Histogram("iceberg_commit_duration"),
		groupAge:       m.Histogram("iceberg_group_age"),
		freshness:      m.Histogram("iceberg_freshness"),
		rows:           m.Counter("iceberg_rows"),
		replayed:       m.Counter("iceberg_replayed_rows"),
		rejected:       m.Counter("iceberg_rejected_rows"),
		files:          m.Counter("iceberg_files"),
		fileBytes:      m.Counter("iceberg_file_bytes"),
		orphans:        m.Counter("iceberg_orphan_files"),
		held:           m.Counter("iceberg_held_blocks"),
		resumes:        m.Counter("iceberg_resumes"),
		conflicts:      m.Counter("iceberg_conflicts"),
		entries:        m.Counter("iceberg_ledger_entries"),
		refusals:       m.Counter("iceberg_refused_blocks"),
		topicsRemade:   m.Counter("iceberg_topics_made_anew"),
		sweeps:         m.Counter("iceberg_sweeps"),
		orphansFound:   m.Counter("iceberg_orphans_found"),
		orphansRemoved: m.Counter("iceberg_orphans_removed"),
	}
	if buffered != nil { // the ledger holds next to nothing
		m.Gauge("iceberg_buffered_bytes", func(record func(int64, ...attribute.KeyValue)) { record(buffered(), attr) })
	}
	return t, m.Err()
}

func (t *telemetry) commits(ctx context.Context, outcome string, took time.Duration) {
	attrs := t.meta.With(t.tableAttr, attribute.String("outcome", outcome))
	t.commitCount.Add(ctx, 1, attrs)
	t.commitDuration.Record(ctx, took.Seconds(), attrs)
}

func (t *telemetry) sweep(ctx context.Context, outcome string) {
	t.sweeps.Add(ctx, 1, t.meta.With(t.tableAttr, attribute.String("outcome", outcome)))
}

func (t *telemetry) reject(ctx context.Context, rows int64, reason string) {
	t.rejected.Add(ctx, rows, t.meta.With(t.tableAttr, attribute.String("reason", reason)))
}
