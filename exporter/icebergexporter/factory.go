package icebergexporter

import (
	"context"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// NewFactory makes the factory of the exporter `iceberg`.
func NewFactory() exporter.Factory {
	return exporter.NewFactory(metadata.Type(), createDefaultConfig,
		exporter.WithLogs(createLogs, metadata.Stability("logs")),
		exporter.WithMetrics(createMetrics, metadata.Stability("metrics")),
		exporter.WithTraces(createTraces, metadata.Stability("traces")),
	)
}

func createDefaultConfig() component.Config {
	return &Config{
		Catalog:          CatalogConfig{Name: defaultCatalogName},
		Namespace:        defaultNamespace,
		Tables:           tablesCreate,
		Rows:             columns.RowsEvents,
		PartitionBuckets: defaultPartitionBuckets,
		Commit: CommitConfig{
			MaxAge: defaultMaxAge, MaxBytes: defaultMaxBytes, MaxRows: defaultMaxRows,
			MaxAttempts: defaultMaxAttempts, Timeout: defaultCommitTimeout,
		},
		TargetFileSizeBytes: defaultTargetFileSize,
		MaxBufferedBytes:    defaultMaxBuffered,
		Orphans:             OrphansConfig{Interval: defaultSweepInterval, MinAge: defaultOrphanAge},
	}
}

// options of the Collector's helper: no queue and no retry, because a call must not return before its rows are committed and the
// receiver redelivers; no timeout, because the commit has its own; capabilities: the data is only read.
func options(s *sink) []exporterhelper.Option {
	return []exporterhelper.Option{
		exporterhelper.WithStart(s.start),
		exporterhelper.WithShutdown(s.stop),
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{Timeout: 0}),
		exporterhelper.WithCapabilities(consumer.Capabilities{MutatesData: false}),
	}
}

func newSignalSink(set exporter.Settings, cfg *Config, s signal.Signal) (*sink, error) {
	model, err := columns.ForRows(cfg.Rows, s)
	if err != nil {
		return nil, err
	}
	return newSink(cfg, set.ID, set.TelemetrySettings, model, memory.DefaultAllocator)
}

func createLogs(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Logs, error) {
	s, err := newSignalSink(set, cfg.(*Config), signal.Logs)
	if err != nil {
		return nil, err
	}
	return exporterhelper.NewLogs(ctx, set, cfg, s.consumeLogs, options(s)...)
}

func createMetrics(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
	s, err := newSignalSink(set, cfg.(*Config), signal.Metrics)
	if err != nil {
		return nil, err
	}
	return exporterhelper.NewMetrics(ctx, set, cfg, s.consumeMetrics, options(s)...)
}

func createTraces(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Traces, error) {
	s, err := newSignalSink(set, cfg.(*Config), signal.Traces)
	if err != nil {
		return nil, err
	}
	return exporterhelper.NewTraces(ctx, set, cfg, s.consumeTraces, options(s)...)
}

func (s *sink) consumeLogs(ctx context.Context, ld plog.Logs) error {
	return s.consume(ctx, int64((&plog.ProtoMarshaler{}).LogsSize(ld)), func(b *columns.Builder) error { return b.AppendLogs(ld) })
}

func (s *sink) consumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return s.consume(ctx, int64((&pmetric.ProtoMarshaler{}).MetricsSize(md)), func(b *columns.Builder) error { return b.AppendMetrics(md) })
}

func (s *sink) consumeTraces(ctx context.Context, td ptrace.Traces) error {
	return s.consume(ctx, int64((&ptrace.ProtoMarshaler{}).TracesSize(td)), func(b *columns.Builder) error { return b.AppendTraces(td) })
}
