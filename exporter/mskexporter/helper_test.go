package mskexporter

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	stay := []goleak.Option{
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"), // sarama's, for the life of the process
		goleak.IgnoreAnyFunction("github.com/twmb/franz-go/pkg/kfake.(*Cluster).run"),   // may wait for itself for good where a control function sleeps (SleepControl)
	}
	goleak.VerifyTestMain(leaktest.Patient(m, stay...), stay...)
}

const gatewayName = "gw-1"

// rig is a started exporter of all three signals and what it reports.
type rig struct {
	t         *testing.T
	cfg       *Config
	logs      *mskExporter
	metrics   *mskExporter
	traces    *mskExporter
	telemetry *componenttest.Telemetry
	host      *collectortest.Host
}

// newRig starts exporters of one component, each topic with two partitions and one replica unless change says otherwise.
func newRig(t *testing.T, brokers []string, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, cfg: testConfig(brokers), telemetry: componenttest.NewTelemetry(), host: &collectortest.Host{}}
	if change != nil {
		change(r.cfg)
	}
	require.NoError(t, r.cfg.Validate())
	set := exportertest.NewNopSettings(metadata.Type())
	set.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	set.Resource.Attributes().PutStr("service.instance.id", gatewayName)
	f := NewFactory()
	l, err := f.CreateLogs(t.Context(), set, r.cfg)
	require.NoError(t, err)
	m, err := f.CreateMetrics(t.Context(), set, r.cfg)
	require.NoError(t, err)
	tr, err := f.CreateTraces(t.Context(), set, r.cfg)
	require.NoError(t, err)
	r.logs, r.metrics, r.traces = l.(*mskExporter), m.(*mskExporter), tr.(*mskExporter)
	require.Same(t, r.logs.client, r.metrics.client)
	require.Same(t, r.logs.client, r.traces.client)
	for _, e := range r.exporters() {
		require.NoError(t, e.Start(t.Context(), r.host))
	}
	t.Cleanup(r.shutdown)
	return r
}

func testConfig(brokers []string) *Config {
	cfg := createDefaultConfig()
	cfg.Brokers = brokers
	cfg.StartupTimeout = time.Minute // a busy machine makes topics slowly
	for _, topic := range []*TopicConfig{&cfg.Topics.Logs, &cfg.Topics.Metrics, &cfg.Topics.Traces} {
		topic.Partitions, topic.ReplicationFactor, topic.MinInSyncReplicas = 2, 1, 1
	}
	return cfg
}

func (r *rig) exporters() []component.Component {
	return []component.Component{r.logs, r.metrics, r.traces}
}

func (r *rig) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, e := range r.exporters() {
		require.NoError(r.t, e.Shutdown(ctx))
		require.NoError(r.t, e.Shutdown(ctx), "a second time")
	}
	require.NoError(r.t, r.telemetry.Shutdown(ctx))
}

func (r *rig) send(es ...envelope.Envelope) error { return r.sendCtx(r.t.Context(), es...) }

func (r *rig) sendCtx(ctx context.Context, es ...envelope.Envelope) error {
	ld := plog.NewLogs()
	for _, e := range es {
		e.Append(ld)
	}
	return r.logs.ConsumeLogs(ctx, ld)
}

func (r *rig) value(name string, attrs ...string) int64 {
	r.t.Helper()
	return collectortest.Sum(r.t, r.telemetry.Reader, name, attrs...)
}

// request is an envelope of n realistic events.
func request(s signal.Signal, tenant, source string, n int) envelope.Envelope {
	return envelope.Envelope{
		Signal: s, Tenant: tenant, Source: source, Events: n, Received: time.Unix(1_700_000_000, 42), Lane: envelope.LaneFast,
		SchemaVersion: "1.2.0", Body: otlptest.Realistic(s, 7, n),
	}
}

func requireRetryable(t *testing.T, err error) *failure {
	t.Helper()
	require.Error(t, err)
	require.False(t, consumererror.IsPermanent(err), err)
	st, ok := status.FromError(err)
	require.True(t, ok, err)
	require.Equal(t, codes.Unavailable, st.Code())
	var info *errdetails.RetryInfo
	for _, d := range st.Details() {
		if i, ok := d.(*errdetails.RetryInfo); ok {
			info = i
		}
	}
	require.NotNil(t, info, "no RetryInfo")
	require.Positive(t, info.RetryDelay.AsDuration())
	f, ok := errors.AsType[*failure](err)
	require.True(t, ok)
	return f
}

func requirePermanent(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.True(t, consumererror.IsPermanent(err), err)
}

// readAll reads every record of a topic up to its present end, by sarama.
func readAll(t *testing.T, brokers []string, topic string) []*sarama.ConsumerMessage {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V2_8_0_0
	cfg.Consumer.Return.Errors = true
	cfg.Metadata.Retry.Max = 20
	cl, err := sarama.NewClient(brokers, cfg)
	require.NoError(t, err)
	defer cl.Close()
	consumer, err := sarama.NewConsumerFromClient(cl)
	require.NoError(t, err)
	defer consumer.Close()
	partitions, err := cl.Partitions(topic)
	require.NoError(t, err)
	var out []*sarama.ConsumerMessage
	for _, p := range partitions {
		end, err := cl.GetOffset(topic, p, sarama.OffsetNewest)
		require.NoError(t, err)
		if end == 0 {
			continue
		}
		pc, err := consumer.ConsumePartition(topic, p, sarama.OffsetOldest)
		require.NoError(t, err)
		for next := int64(0); next < end; {
			select {
			case m := <-pc.Messages():
				out = append(out, m)
				next = m.Offset + 1
			case err := <-pc.Errors():
				require.NoError(t, err)
			case <-time.After(eventuallyWithin):
				t.Fatalf("topic %s partition %d: no record after offset %d of %d", topic, p, next, end)
			}
		}
		require.NoError(t, pc.Close())
	}
	return out
}

func headersOf(m *sarama.ConsumerMessage) map[string]string {
	out := map[string]string{}
	for _, h := range m.Headers {
		out[string(h.Key)] = string(h.Value)
	}
	return out
}

func eventsOf(t *testing.T, ms []*sarama.ConsumerMessage) int {
	t.Helper()
	sum := 0
	for _, m := range ms {
		n, err := strconv.Atoi(headersOf(m)[envelope.HeaderEvents])
		require.NoError(t, err)
		sum += n
	}
	return sum
}
