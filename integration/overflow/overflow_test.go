// Package overflow_test puts the exporter of the gateway and the receiver of the aggregator together, for what tenants send beyond their quotas.
package overflow_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/pulsegrid/pulsegrid/exporter/mskexporter"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

const (
	patience = 3 * time.Minute
	backlog  = 600 // records of the noisy tenant
	quiet    = 60  // tenants with one record each
)

func configured(t *testing.T, cfg component.Config, keys map[string]any) component.Config {
	t.Helper()
	require.NoError(t, confmap.NewFromStringMap(keys).Unmarshal(cfg))
	return cfg
}

func run(t *testing.T, c component.Component) {
	t.Helper()
	require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, c.Shutdown(ctx))
	})
}

// store is slow, and notes whose events it took, in their order.
type store struct {
	mu    sync.Mutex
	order []string
}

func (*store) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *store) ConsumeLogs(_ context.Context, ld plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	time.Sleep(5 * time.Millisecond) // one block at a time: the store is what all wait for
	for _, rl := range ld.ResourceLogs().All() {
		o, _ := lineage.ReadResource(rl.Resource().Attributes())
		s.order = append(s.order, o.Tenant)
	}
	return nil
}

// Scenario: a tenant leaves a backlog of many sources in the overflow lane; then sixty others leave a record each.
// Guarantees: those whose partitions the noisy one's backlog does not lie in are stored when hardly any of it is; everything is stored in the end.
func TestABacklogOfOneTenantDoesNotDelayTheOverflowOfOthers(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	ef := mskexporter.NewFactory()
	gateway, err := ef.CreateLogs(t.Context(), exportertest.NewNopSettings(ef.Type()), configured(t, ef.CreateDefaultConfig(), map[string]any{
		"brokers": k.ListenAddrs(), "topics": map[string]any{
			"overflow": true, "logs": map[string]any{"replication_factor": 1, "min_insync_replicas": 1}, "metrics": map[string]any{"replication_factor": 1, "min_insync_replicas": 1},
			"traces": map[string]any{"replication_factor": 1, "min_insync_replicas": 1},
		},
	}))
	require.NoError(t, err)
	run(t, gateway)
	send := func(id, source string, seed uint64) {
		ld := plog.NewLogs()
		envelope.Envelope{Signal: signal.Logs, Tenant: id, Source: source, Events: 1, Received: time.Now(), Lane: envelope.LaneOverflow, Body: otlptest.Logs(seed, 1)}.Append(ld)
		require.NoError(t, gateway.ConsumeLogs(t.Context(), ld))
	}
	for i := range backlog {
		send("noisy", fmt.Sprintf("source-%d", i%50), uint64(i))
	}
	for i := range quiet {
		send(fmt.Sprintf("quiet-%d", i), "source", uint64(backlog+i))
	}

	taken := &store{}
	rf := mskreceiver.NewFactory()
	aggregator, err := rf.CreateLogs(t.Context(), receivertest.NewNopSettings(rf.Type()), configured(t, rf.CreateDefaultConfig(), map[string]any{
		"brokers": k.ListenAddrs(), "group_id": "overflow", "topics": map[string]any{"logs": []string{"otlp.logs.overflow.v1"}},
		"block": map[string]any{"max_age": "20ms", "max_events": 5}, "max_in_flight_blocks": 1,
	}), taken)
	require.NoError(t, err)
	run(t, aggregator)
	require.Eventually(t, func() bool {
		taken.mu.Lock()
		defer taken.mu.Unlock()
		return len(taken.order) == backlog+quiet
	}, patience, 20*time.Millisecond)

	early, before := 0, 0
	for _, id := range taken.order {
		if id == "noisy" {
			before++
		} else if before < backlog/4 {
			early++
		}
	}
	t.Logf("%d of %d quiet tenants were stored before a quarter of the backlog was", early, quiet)
	require.GreaterOrEqual(t, early, quiet*6/10) // of 12 partitions the backlog lies in 2
}
