package main

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: dedupe has removed copies of two rules; of one of them Kafka's newest records have an example.
// Guarantees: `status` shows the counts by signal and rule, the example with both places, and a warning that says what to check, above the bound only.
func TestStatusShowsCopiesWithExamples(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, signal.Logs.Topic()))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	for range 2 {
		require.NoError(t, client.ProduceSync(context.Background(), &kgo.Record{Topic: signal.Logs.Topic(), Value: otlptest.Logs(1, 2)}).FirstErr())
	}
	copies := []certificate.SignalCopies{
		{Signal: "traces", Events: 7}, {Signal: "metrics"},
		{Signal: "logs", Events: 1000, Copies: 100, Rules: []certificate.RuleCopies{{Rule: "content", Copies: 60}, {Rule: "request", Copies: 40}}},
	}
	state := cell.State{Endpoints: cell.Endpoints{Kafka: k.ListenAddrs()[0]}}
	require.Empty(t, addExamples(t.Context(), state, copies))
	var out strings.Builder
	require.NoError(t, printStatus(&out, state, cell.Figures{Copies: copies}, nil, 5))
	require.Contains(t, out.String(), `copies since the aggregator started
signal   events  copies  share    by rule
traces   7       0       0.00 %   -
metrics  0       0       0.00 %   -
logs     1000    100     10.00 %  content 60, request 40
  logs, rule content, of a repeated request: otlp.logs.v1/0/1#0 repeats 0#0, tenant default
WARNING: logs: 10.0 % of 1000 events are copies (limit 5 %), 60 by rule content, 40 by rule request. Check: agents send events again`)
	out.Reset()
	require.NoError(t, printStatus(&out, state, cell.Figures{Copies: copies}, nil, 10))
	require.NotContains(t, out.String(), "WARNING")

	state.Endpoints.Kafka = "127.0.0.1:1"
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Len(t, addExamples(ctx, state, copies), 1)
	require.Empty(t, addExamples(ctx, state, copies[:2]), "no copies, no look")
}
