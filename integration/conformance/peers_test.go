package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/exporter/mskexporter"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
	"github.com/pulsegrid/pulsegrid/processor/quarantineprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/ingestreceiver"
)

// peer is one of the receivers.
type peer struct {
	http, grpc string
	// take returns what has been accepted since it was called last, each event as text, or countOnly of logs as nothing; and how many records are in quarantine.
	take func(countOnly bool) (accepted map[signal.Signal][]string, kept int)
}

func run(t *testing.T, c component.Component, err error) {
	t.Helper()
	require.NoError(t, err)
	require.NoError(t, c.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, c.Shutdown(ctx))
	})
}

func configure(t *testing.T, cfg component.Config, text string, args ...any) component.Config {
	t.Helper()
	raw := map[string]any{}
	require.NoError(t, yaml.Unmarshal(fmt.Appendf(nil, text, args...), &raw))
	require.NoError(t, confmap.NewFromStringMap(raw).Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	return cfg
}

func addresses(t *testing.T) (http, grpc string) {
	t.Helper()
	http, err := freeport.Addr()
	require.NoError(t, err)
	grpc, err = freeport.Addr()
	require.NoError(t, err)
	return http, grpc
}

// startGateway is what matters of distributions/gateway: the receiver with its defaults, the quarantine without a store, Kafka.
func startGateway(t *testing.T) *peer {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	p := &peer{}
	p.http, p.grpc = addresses(t)
	ctx := context.Background()
	ef := mskexporter.NewFactory()
	exp, err := ef.CreateLogs(ctx, exportertest.NewNopSettings(ef.Type()), configure(t, ef.CreateDefaultConfig(), `
brokers: [%q]
topics:
  logs: &topic {name: otlp.logs.v1, partitions: 1, replication_factor: 1, min_insync_replicas: 1}
  metrics: {<<: *topic, name: otlp.metrics.v1}
  traces: {<<: *topic, name: otlp.traces.v1}
`, k.ListenAddrs()[0]))
	run(t, exp, err)
	qf := quarantineprocessor.NewFactory()
	quarantine, err := qf.CreateLogs(ctx, processortest.NewNopSettings(qf.Type()), qf.CreateDefaultConfig(), exp)
	run(t, quarantine, err)
	rf := ingestreceiver.NewFactory()
	rec, err := rf.CreateLogs(ctx, receivertest.NewNopSettings(rf.Type()), configure(t, rf.CreateDefaultConfig(),
		`{protocols: {http: {endpoint: %q}, grpc: {endpoint: %q}}, quarantine_undecodable: true}`, p.http, p.grpc), quarantine)
	run(t, rec, err)

	topics := map[string]signal.Signal{signal.QuarantineTopic: 0}
	names := []string{signal.QuarantineTopic}
	for _, s := range signal.All {
		topics[s.Topic()] = s
		names = append(names, s.Topic())
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.ConsumeTopics(names...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	read := int64(0)
	p.take = func(countOnly bool) (map[signal.Signal][]string, int) {
		accepted, kept := map[signal.Signal][]string{}, 0
		var want int64
		for topic := range topics {
			for _, info := range k.PartitionInfos(topic) {
				want += info.HighWatermark
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for read < want {
			fetches := client.PollFetches(ctx)
			require.NoError(t, fetches.Err())
			for _, r := range fetches.Records() {
				read++
				s := topics[r.Topic]
				if s == 0 {
					kept++
					continue
				}
				if countOnly {
					n, err := otlpwire.Count(s, r.Value, otlpwire.Limits{})
					require.NoError(t, err)
					accepted[s] = append(accepted[s], make([]string, n)...)
					continue
				}
				req := otlptest.NewRequest(s)
				require.NoError(t, req.UnmarshalProto(r.Value))
				accepted[s] = append(accepted[s], events(t, req)...)
			}
		}
		return accepted, kept
	}
	return p
}

// startStock is the otlp receiver with its defaults.
func startStock(t *testing.T) *peer {
	t.Helper()
	p := &peer{}
	p.http, p.grpc = addresses(t)
	f := otlpreceiver.NewFactory()
	cfg := configure(t, f.CreateDefaultConfig(), `{protocols: {http: {endpoint: %q}, grpc: {endpoint: %q}}}`, p.http, p.grpc)
	var logs consumertest.LogsSink
	var metrics consumertest.MetricsSink
	var traces consumertest.TracesSink
	ctx, set := context.Background(), receivertest.NewNopSettings(f.Type())
	l, errLogs := f.CreateLogs(ctx, set, cfg, &logs)
	m, errMetrics := f.CreateMetrics(ctx, set, cfg, &metrics)
	tr, errTraces := f.CreateTraces(ctx, set, cfg, &traces)
	run(t, l, errLogs) // it is one receiver, which learns its signals before it starts
	run(t, m, errMetrics)
	run(t, tr, errTraces)
	p.take = func(countOnly bool) (map[signal.Signal][]string, int) {
		accepted := map[signal.Signal][]string{}
		for _, ld := range logs.AllLogs() {
			if countOnly {
				accepted[signal.Logs] = append(accepted[signal.Logs], make([]string, ld.LogRecordCount())...)
				continue
			}
			accepted[signal.Logs] = append(accepted[signal.Logs], events(t, plogotlp.NewExportRequestFromLogs(ld))...)
		}
		for _, md := range metrics.AllMetrics() {
			accepted[signal.Metrics] = append(accepted[signal.Metrics], events(t, pmetricotlp.NewExportRequestFromMetrics(md))...)
		}
		for _, td := range traces.AllTraces() {
			accepted[signal.Traces] = append(accepted[signal.Traces], events(t, ptraceotlp.NewExportRequestFromTraces(td))...)
		}
		logs.Reset()
		metrics.Reset()
		traces.Reset()
		return accepted, 0
	}
	return p
}

// lists are where events are in OTLP/JSON, from the outside in.
var lists = []string{"resourceLogs", "resourceMetrics", "resourceSpans", "scopeLogs", "scopeMetrics", "scopeSpans", "metrics", "gauge", "sum", "histogram", "exponentialHistogram", "summary", "dataPoints", "logRecords", "spans"}

// events are a request's, each with everything around it, as text: however they were divided into requests, they are the same.
func events(t *testing.T, req otlptest.Request) []string {
	t.Helper()
	b, err := req.MarshalJSON()
	require.NoError(t, err)
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	var root map[string]any
	require.NoError(t, d.Decode(&root))
	return flatten(root, "")
}

func flatten(m map[string]any, around string) (out []string) {
	var inner []map[string]any
	found := ""
	for _, name := range lists {
		switch v := m[name].(type) {
		case []any:
			found = name
			for _, item := range v {
				inner = append(inner, item.(map[string]any))
			}
		case map[string]any:
			if name != "summary" || v["dataPoints"] != nil {
				found, inner = name, []map[string]any{v}
			}
		}
		if found != "" {
			delete(m, name)
			break
		}
	}
	own, err := json.Marshal(m)
	if err != nil { // never: it has just come out of JSON
		panic(err)
	}
	around += "|" + found + string(own)
	if found == "" {
		if strings.Contains(around, "|logRecords") || strings.Contains(around, "|spans") || strings.Contains(around, "|dataPoints") {
			out = append(out, around)
		}
		return out
	}
	for _, item := range inner {
		out = append(out, flatten(item, around)...)
	}
	return out
}
