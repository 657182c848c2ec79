package mskreceiver

import (
	"context"
	_ "embed"
	"fmt"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

//go:embed metadata.yaml
var metadataYAML []byte

var metadata = componentmeta.MustParse(metadataYAML)

// NewFactory returns the factory of receiver `msk`.
func NewFactory() receiver.Factory {
	return receiver.NewFactory(metadata.Type(), createDefaultConfig,
		receiver.WithLogs(createLogs, metadata.Stability("logs")),
		receiver.WithMetrics(createMetrics, metadata.Stability("metrics")),
		receiver.WithTraces(createTraces, metadata.Stability("traces")))
}

func createLogs(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Logs) (receiver.Logs, error) {
	return instance(set, cfg.(*Config), func(r *mskReceiver) { r.sinks.logs = next })
}

func createMetrics(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	return instance(set, cfg.(*Config), func(r *mskReceiver) { r.sinks.metrics = next })
}

func createTraces(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
	return instance(set, cfg.(*Config), func(r *mskReceiver) { r.sinks.traces = next })
}

// instances are the receivers by their configuration: the Collector creates a receiver once a signal, but one configured
// receiver is one member of its group.
var (
	instancesMu sync.Mutex
	instances   = map[*Config]*mskReceiver{}
)

func instance(set receiver.Settings, cfg *Config, attach func(*mskReceiver)) (*mskReceiver, error) {
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
	r.attached++
	return r, nil
}
