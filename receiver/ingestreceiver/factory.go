package ingestreceiver

import (
	"context"
	_ "embed"
	"fmt"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

//go:embed metadata.yaml
var metadataYAML []byte

var metadata = componentmeta.MustParse(metadataYAML)

// NewFactory returns the factory of receiver `ingest`.
func NewFactory() receiver.Factory {
	return receiver.NewFactory(metadata.Type(), createDefaultConfig,
		receiver.WithLogs(createLogs, metadata.Stability("logs")),
		receiver.WithMetrics(createMetrics, metadata.Stability("metrics")),
		receiver.WithTraces(createTraces, metadata.Stability("traces")))
}

func createLogs(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Logs) (receiver.Logs, error) {
	return instance(set, cfg.(*Config), func(r *ingestReceiver) { r.next.logs = next })
}

func createMetrics(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	if err := pdataOnly(set, cfg.(*Config), signal.Metrics); err != nil {
		return nil, err
	}
	return instance(set, cfg.(*Config), func(r *ingestReceiver) { r.next.metrics = next })
}

func createTraces(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
	if err := pdataOnly(set, cfg.(*Config), signal.Traces); err != nil {
		return nil, err
	}
	return instance(set, cfg.(*Config), func(r *ingestReceiver) { r.next.traces = next })
}

// pdataOnly refuses a pipeline that envelopes cannot go to: they are log records, whatever signal they carry.
func pdataOnly(set receiver.Settings, cfg *Config, sig signal.Signal) error {
	if cfg.Output == outputPdata {
		return nil
	}
	return fmt.Errorf("receiver %s: output: %s sends the requests of all signals to one logs pipeline, so it cannot be used in a %s pipeline; take it out there or set output: %s",
		set.ID, cfg.Output, sig, outputPdata)
}

// instances are the receivers by their configuration: the Collector creates a receiver once a signal, but one configured
// receiver has one pair of listeners.
var (
	instancesMu sync.Mutex
	instances   = map[*Config]*ingestReceiver{}
)

func instance(set receiver.Settings, cfg *Config, attach func(*ingestReceiver)) (*ingestReceiver, error) {
	instancesMu.Lock()
	defer instancesMu.Unlock()
	r, ok := instances[cfg]
	if !ok {
		var err error
		if r, err = newReceiver(set, cfg); err != nil {
			return nil, fmt.Errorf("receiver %s: %w", set.ID, err)
		}
		r.onShutdown = func() {
			instancesMu.Lock()
			defer instancesMu.Unlock()
			delete(instances, cfg)
		}
		instances[cfg] = r
	}
	attach(r)
	return r, nil
}
