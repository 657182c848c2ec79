// Package admission tests the gateway's checks of DESIGN's admission table with its own components in one process: the ingest receiver, the
// authenticator with its registry, tenant routing and the exporter, against an in-process Kafka, by real HTTP and gRPC.
package admission

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/exporter/mskexporter"
	"github.com/pulsegrid/pulsegrid/extension/cellhealthextension"
	"github.com/pulsegrid/pulsegrid/extension/tenantauthextension"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
	"github.com/pulsegrid/pulsegrid/processor/tenantroutingprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/ingestreceiver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 3 * time.Minute

// gateway is what distributions/gateway is with its tenants switched on.
type gateway struct {
	t        testing.TB
	kafka    *kfake.Cluster
	registry string // its directory
	state    string // directory of the cell's state
	http     string
	health   string // of the cell
	grpc     *grpc.ClientConn
	receiver component.Component
	log      *observer.ObservedLogs // of the receiver
	keys     map[string]string      // by tenant
	writes   int
}

const gatewayYAML = `
tenant_auth:
  registry: {location: REGISTRY, reload_interval: 100ms}
  jurisdiction: us
  cell: us-1
  guesses: {burst: 5, per_second: 0.01}
cell_health:
  endpoint: HEALTH
  cell: us-1
  state: {location: STATE, reload_interval: 100ms}
  interval: 100ms
  timeout: 100ms
  hold: 500ms
ingest:
  protocols:
    http: {endpoint: HTTP, auth: {authenticator: tenant_auth}}
    grpc: {endpoint: GRPC, auth: {authenticator: tenant_auth}}
  limits: {max_compressed_bytes: 1000000, max_decompressed_bytes: 4000000, max_events: 10000}
tenant_routing:
  tenant_attributes: [tenant.id]
msk:
  brokers: [KAFKA]
  topics:
    overflow: true
    logs: &topic {name: otlp.logs.v1, partitions: 2, replication_factor: 1, min_insync_replicas: 1}
    metrics: {<<: *topic, name: otlp.metrics.v1}
    traces: {<<: *topic, name: otlp.traces.v1}
  max_wait: 100ms
  timeout: 5s
`

// tenants of the tests; each has a key.
var tenants = map[string]string{
	"acme":   "class: premium, jurisdiction: us",
	"europe": "jurisdiction: eu",
	"moved":  "jurisdiction: us, home: us-2, cells: [us-2]",
	"gone":   "status: suspended",
	"logs":   "signals: [logs]",
	"small":  "quotas: {logs: {events_per_second: 100, burst: 2s}}",
}

type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

func (g *gateway) write(name, text string) {
	g.t.Helper()
	path := filepath.Join(g.registry, name)
	require.NoError(g.t, os.WriteFile(path+".tmp", []byte(text), 0o600))
	g.writes++
	at := time.Unix(1_700_000_000+int64(g.writes), 0)
	require.NoError(g.t, os.Chtimes(path+".tmp", at, at))
	require.NoError(g.t, os.Rename(path+".tmp", path))
}

func (g *gateway) register() {
	g.t.Helper()
	var b strings.Builder
	b.WriteString("jurisdictions: {eu: {endpoint: \"https://ingest.eu.example.com\"}}\n" +
		"cells: {us-1: {jurisdiction: us, endpoint: \"https://us-1.example.com\"}, us-2: {jurisdiction: us, endpoint: \"https://us-2.example.com\"}}\ntenants:\n")
	for id, rest := range tenants {
		key, keyID, hash := tenant.NewKey()
		g.keys[id] = key
		fmt.Fprintf(&b, "  - {id: %s, keys: [{id: %s, hash: \"%s\"}], %s}\n", id, keyID, hash, rest)
	}
	g.write("tenants.yaml", b.String())
}

func free(t testing.TB) string {
	t.Helper()
	addr, err := freeport.Addr()
	require.NoError(t, err)
	return addr
}

// start runs a gateway whose registry is empty. sink replaces Kafka, if there is one.
func start(t testing.TB, sink consumer.Logs) *gateway {
	t.Helper()
	g := &gateway{t: t, registry: t.TempDir(), state: t.TempDir(), keys: map[string]string{}}
	kafkaAddress := "127.0.0.1:1"
	if sink == nil {
		var err error
		g.kafka, err = kfake.NewCluster(kfake.NumBrokers(1))
		require.NoError(t, err)
		t.Cleanup(g.kafka.Close)
		kafkaAddress = g.kafka.ListenAddrs()[0]
	}
	httpAddress, grpcAddress, healthAddress := free(t), free(t), free(t)
	g.http, g.health = "http://"+httpAddress, "http://"+healthAddress
	text := strings.NewReplacer("REGISTRY", g.registry, "STATE", g.state, "HEALTH", healthAddress, "HTTP", httpAddress, "GRPC", grpcAddress, "KAFKA", kafkaAddress).Replace(gatewayYAML)
	raw := map[string]any{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &raw))
	conf := confmap.NewFromStringMap(raw)
	config := func(name string, cfg component.Config) component.Config {
		sub, err := conf.Sub(name)
		require.NoError(t, err)
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		return cfg
	}
	run := func(c component.Component, h component.Host) {
		require.NoError(t, c.Start(t.Context(), h))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			require.NoError(t, c.Shutdown(ctx))
		})
	}
	extensions := host{}
	authID := component.MustNewID("tenant_auth")
	af := tenantauthextension.NewFactory()
	auth, err := af.Create(t.Context(), extension.Settings{ID: authID, TelemetrySettings: componenttest.NewNopTelemetrySettings()}, config("tenant_auth", af.CreateDefaultConfig()))
	require.NoError(t, err)
	run(auth, extensions)
	extensions[authID] = auth
	hf := cellhealthextension.NewFactory()
	health, err := hf.Create(t.Context(), extension.Settings{ID: component.NewID(hf.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, config("cell_health", hf.CreateDefaultConfig()))
	require.NoError(t, err)
	run(health, extensions)
	extensions[component.NewID(hf.Type())] = health
	if sink == nil {
		ef := mskexporter.NewFactory()
		e, err := ef.CreateLogs(t.Context(), exportertest.NewNopSettings(ef.Type()), config("msk", ef.CreateDefaultConfig()))
		require.NoError(t, err)
		run(e, extensions)
		sink = e
	}
	pf := tenantroutingprocessor.NewFactory()
	p, err := pf.CreateLogs(t.Context(), processor.Settings{ID: component.NewID(pf.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, config("tenant_routing", pf.CreateDefaultConfig()), sink)
	require.NoError(t, err)
	run(p, extensions)
	rf := ingestreceiver.NewFactory()
	set := receivertest.NewNopSettings(rf.Type())
	var core zapcore.Core
	core, g.log = observer.New(zapcore.WarnLevel)
	set.Logger = zap.New(core)
	g.receiver, err = rf.CreateLogs(t.Context(), set, config("ingest", rf.CreateDefaultConfig()), p)
	require.NoError(t, err)
	run(g.receiver, extensions)
	require.NoError(t, health.(interface{ Ready() error }).Ready()) // as the Collector does
	g.grpc, err = grpc.NewClient("passthrough:///"+grpcAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = g.grpc.Close() })
	return g
}

// ready waits until a registry with all tenants is in force.
func (g *gateway) ready() *gateway {
	g.t.Helper()
	g.register()
	require.Eventually(g.t, func() bool { return g.post("acme", "/v1/logs", []byte{}).code == http.StatusOK }, patience, 20*time.Millisecond)
	return g
}

// topics are all that Kafka has.
func (g *gateway) topics() []string {
	g.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(g.kafka.ListenAddrs()...))
	require.NoError(g.t, err)
	defer c.Close()
	all, err := kadm.NewClient(c).ListTopics(g.t.Context())
	require.NoError(g.t, err)
	require.GreaterOrEqual(g.t, len(all), 6, "three signals, two lanes")
	return all.Names()
}

// records of a topic, by tenant: the sum of their events.
func (g *gateway) records(topic string) map[string]int {
	g.t.Helper()
	var offsets int64
	for _, p := range g.kafka.PartitionInfos(topic) {
		offsets += p.HighWatermark
	}
	out := map[string]int{}
	if offsets == 0 {
		return out
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(g.kafka.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(g.t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	for offsets > 0 {
		fetches := c.PollFetches(ctx)
		require.NoError(g.t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			offsets--
			id, events := "", 0
			for _, h := range r.Headers {
				switch h.Key {
				case "tenant":
					id = string(h.Value)
				case "events":
					_, _ = fmt.Sscan(string(h.Value), &events)
				}
			}
			out[id] += events
		})
	}
	return out
}
