package mskexporter

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
)

// These tests run against Apache Kafka itself, and read back with sarama.

func TestOneNode(t *testing.T) {
	k := kafkatest.StartWith(t, kafkatest.Options{Secure: true})
	// In this order: the last two stop the broker.
	t.Run("every signal is read back as plain OTLP by another client", func(t *testing.T) { readBack(t, k) })
	t.Run("frames that agents made are read back by another client", func(t *testing.T) { passedFrames(t, k) })
	t.Run("topics are made as asked", func(t *testing.T) { topicsAsAsked(t, k) })
	t.Run("SCRAM over TLS", func(t *testing.T) { scram(t, k) })
	t.Run("MSK IAM tokens", func(t *testing.T) { iam(t, k) })
	t.Run("64 MiB in one request", func(t *testing.T) { largeRequest(t, k) })
	t.Run("memory is bounded while the broker is frozen", func(t *testing.T) { frozen(t, k) })
	t.Run("a broker killed while producing loses nothing acknowledged", func(t *testing.T) { killed(t, k, 0) })
}

// topics gives a config topics of its own, so that tests can share a broker.
func topics(prefix string) func(*Config) {
	return func(c *Config) {
		c.Topics.Logs.Name, c.Topics.Metrics.Name, c.Topics.Traces.Name = prefix+".logs", prefix+".metrics", prefix+".traces"
		c.Topics.Quarantine = prefix + ".quarantine"
	}
}

func readBack(t *testing.T, k *kafkatest.Cluster) {
	r := newRig(t, k.Brokers(), topics("readback"))
	sent := map[signal.Signal]envelope.Envelope{}
	for _, s := range signal.All {
		sent[s] = request(s, "tenant-"+s.String(), "source-"+s.String(), 20)
	}
	require.NoError(t, r.send(sent[signal.Traces], sent[signal.Metrics], sent[signal.Logs]))
	// The same content as plain pdata, from stock components.
	logs := plogotlp.NewExportRequest()
	require.NoError(t, logs.UnmarshalProto(sent[signal.Logs].Body))
	require.NoError(t, r.logs.ConsumeLogs(t.Context(), logs.Logs()))
	metrics := pmetricotlp.NewExportRequest()
	require.NoError(t, metrics.UnmarshalProto(sent[signal.Metrics].Body))
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), metrics.Metrics()))
	traces := ptraceotlp.NewExportRequest()
	require.NoError(t, traces.UnmarshalProto(sent[signal.Traces].Body))
	require.NoError(t, r.traces.ConsumeTraces(t.Context(), traces.Traces()))

	want := map[signal.Signal]any{signal.Logs: logs.Logs(), signal.Metrics: metrics.Metrics(), signal.Traces: traces.Traces()}
	for _, s := range signal.All {
		ms := readAll(t, k.Brokers(), "readback."+s.String())
		require.Len(t, ms, 2)
		var enveloped int
		for _, m := range ms {
			require.Equal(t, want[s], decode(t, s, m))
			h := headersOf(m)
			require.Equal(t, s.String(), h[envelope.HeaderSignal])
			require.Equal(t, gatewayName, h[envelope.HeaderGateway])
			require.Equal(t, envelope.LaneFast, h[envelope.HeaderLane])
			if h[envelope.HeaderTenant] == "default" { // as pdata
				require.NotEmpty(t, m.Key)
				require.NotContains(t, h, envelope.HeaderSchemaVersion)
				continue
			}
			enveloped++
			require.Equal(t, sent[s].Body, m.Value, "byte for byte what was sent")
			require.Equal(t, sent[s].Source, string(m.Key))
			require.Equal(t, sent[s].Tenant, h[envelope.HeaderTenant])
			require.Equal(t, fmt.Sprint(sent[s].Events), h[envelope.HeaderEvents])
			require.Equal(t, "1700000000000000042", h[envelope.HeaderReceivedNanos])
			require.Equal(t, "1.2.0", h[envelope.HeaderSchemaVersion])
		}
		require.Equal(t, 1, enveloped)
		require.EqualValues(t, 40, r.value("msk_exporter_events", "signal="+s.String()))
		require.EqualValues(t, 2, r.value("msk_exporter_records", "signal="+s.String()))
		require.EqualValues(t, len(ms[0].Value)+len(ms[1].Value), r.value("msk_exporter_bytes", "signal="+s.String()))
	}
}

func decode(t *testing.T, s signal.Signal, m *sarama.ConsumerMessage) any {
	t.Helper()
	switch s {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(m.Value))
		return req.Logs()
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(m.Value))
		return req.Metrics()
	default:
		req := ptraceotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(m.Value))
		return req.Traces()
	}
}

func topicsAsAsked(t *testing.T, k *kafkatest.Cluster) {
	newRig(t, k.Brokers(), func(c *Config) {
		topics("asked")(c)
		c.Topics.Logs.Partitions, c.Topics.Logs.Retention = 5, 36*time.Hour
		c.MaxRecordBytes = 2_000_000
	})
	config, partitions := describe(t, k.Brokers(), "asked.logs")
	require.Equal(t, 5, partitions)
	require.Equal(t, "1", config["min.insync.replicas"])
	require.Equal(t, "129600000", config["retention.ms"])
	require.Equal(t, "LogAppendTime", config["message.timestamp.type"])
	require.Equal(t, "2000000", config["max.message.bytes"])
}

func describe(t *testing.T, brokers []string, topic string) (config map[string]string, partitions int) {
	t.Helper()
	kc, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(50*time.Millisecond))
	require.NoError(t, err)
	defer kc.Close()
	adm := kadm.NewClient(kc)
	deadline := time.Now().Add(eventuallyWithin)
	for { // a broker hears of a new topic a moment after it was made
		rcs, err := adm.DescribeTopicConfigs(t.Context(), topic)
		require.NoError(t, err)
		td, err := adm.ListTopics(kadm.WithAuthorizedOps(t.Context()), topic)
		require.NoError(t, err)
		if partitions = len(td[topic].Partitions); partitions > 0 && len(rcs) == 1 && rcs[0].Err == nil {
			config = map[string]string{}
			for _, c := range rcs[0].Configs {
				config[c.Key] = c.MaybeValue()
			}
			return config, partitions
		}
		require.True(t, time.Now().Before(deadline), "topic %s is not known to every broker", topic)
		time.Sleep(50 * time.Millisecond)
	}
}

func scram(t *testing.T, k *kafkatest.Cluster) {
	secure := func(password string) func(*Config) {
		return func(c *Config) {
			topics("scram")(c)
			c.Auth = kafka.AuthConfig{Mechanism: kafka.MechanismScramSHA512, Username: kafkatest.Username, Password: configopaque.String(password)}
			c.TLS.GetOrInsertDefault().CAFile = k.CAFile()
		}
	}
	r := newRig(t, k.ScramBrokers(), secure(kafkatest.Password))
	require.NoError(t, r.send(request(signal.Logs, "t", "s", 3)))
	require.Equal(t, 3, eventsOf(t, readAll(t, k.Brokers(), "scram.logs")))
	wrong := newRig(t, k.ScramBrokers(), func(c *Config) { secure("wrong")(c); c.StartupTimeout = 3 * time.Second })
	f := requireRetryable(t, wrong.send(request(signal.Logs, "t", "s", 3)))
	require.Equal(t, reasonUnready, f.reason)
	require.ErrorContains(t, f, "SASL_AUTHENTICATION_FAILED")
	require.NotContains(t, f.Error(), "wrong", "no password in an error")
}

func iam(t *testing.T, k *kafkatest.Cluster) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
	t.Setenv("AWS_SESSION_TOKEN", "")
	r := newRig(t, k.IAMBrokers(), func(c *Config) {
		topics("iam")(c)
		c.Auth = kafka.AuthConfig{Mechanism: kafka.MechanismAWSMSKIAM, AWS: kafka.AWSConfig{Region: "eu-central-1"}}
		c.TLS.GetOrInsertDefault().CAFile = k.CAFile()
	})
	require.NoError(t, r.send(request(signal.Logs, "t", "s", 3)))
	require.Equal(t, 3, eventsOf(t, readAll(t, k.Brokers(), "iam.logs")))
}

func largeRequest(t *testing.T, k *kafkatest.Cluster) {
	const events = 90_000
	large := topics("large")
	r := newRig(t, k.Brokers(), func(c *Config) { large(c); c.Timeout = 2 * time.Minute }) // it is a test of sizes, on whatever machine
	e := request(signal.Logs, "t", "s", 0)
	e.Events, e.Body = events, otlptest.Realistic(signal.Logs, 1, events)
	require.Greater(t, len(e.Body), 64<<20)
	require.NoError(t, r.send(e))
	ms := readAll(t, k.Brokers(), "large.logs")
	require.Equal(t, events, eventsOf(t, ms))
	sum := 0
	for _, m := range ms {
		require.LessOrEqual(t, len(m.Value), defaultMaxRecordBytes)
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(m.Value))
		sum += req.Logs().LogRecordCount()
	}
	require.Equal(t, events, sum)
}

func frozen(t *testing.T, k *kafkatest.Cluster) {
	const limit = 4 << 20
	r := newRig(t, k.Brokers(), func(c *Config) {
		topics("frozen")(c)
		c.MaxBufferedBytes, c.MaxWait, c.Timeout = limit, 100*time.Millisecond, 3*time.Second
	})
	sent := func() bool { return r.send(request(signal.Logs, "t", "s", 3)) == nil }
	require.Eventually(t, sent, eventuallyWithin, 100*time.Millisecond)
	require.NoError(t, k.Pause(0))
	e := request(signal.Logs, "t", "s", 1000)
	began := time.Now()
	var full, unknown int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			err := r.send(e)
			f, ok := errors.AsType[*failure](err)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ok && f.reason == reasonBufferFull:
				full++
			case ok && f.class == kafka.Unknown:
				unknown++
			default:
				t.Errorf("unexpected outcome: %v", err)
			}
		})
	}
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return full > 0 }, eventuallyWithin, 10*time.Millisecond)
	require.LessOrEqual(t, r.value("msk_exporter_buffered_bytes"), int64(limit))
	require.LessOrEqual(t, r.logs.client.kafka.client().BufferedProduceBytes(), int64(limit))
	wg.Wait()
	require.Less(t, time.Since(began), 20*time.Second, "a frozen broker holds a caller no longer than timeout, and what it takes to notice")
	require.LessOrEqual(t, unknown*len(e.Body), limit)
	require.Equal(t, 40, full+unknown)
	require.Zero(t, r.value("msk_exporter_buffered_bytes"))
	require.NoError(t, k.Resume(0))
	require.Eventually(t, sent, eventuallyWithin, 100*time.Millisecond)
}

// killed produces from several callers, kills a broker, starts it again, and compares what was acknowledged with what is stored.
func killed(t *testing.T, k *kafkatest.Cluster, node int) {
	prefix := fmt.Sprintf("killed%d", len(k.Brokers()))
	r := newRig(t, k.Brokers(), func(c *Config) {
		topics(prefix)(c)
		if len(k.Brokers()) > 1 {
			c.Topics.Logs.ReplicationFactor, c.Topics.Logs.MinInSyncReplicas, c.Topics.Logs.Partitions = 3, 2, 6
		}
	})
	if len(k.Brokers()) > 1 {
		config, _ := describe(t, k.Brokers(), prefix+".logs")
		require.Equal(t, "2", config["min.insync.replicas"])
	}
	stop := make(chan struct{})
	acked := make([]map[string]bool, 8)
	var wg sync.WaitGroup
	for w := range acked {
		acked[w] = map[string]bool{}
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				source := fmt.Sprintf("s-%d-%d", w, i)
				if r.send(request(signal.Logs, "t", source, 5)) == nil {
					acked[w][source] = true
				}
			}
		})
	}
	time.Sleep(500 * time.Millisecond)
	require.NoError(t, k.Kill(node))
	time.Sleep(500 * time.Millisecond)
	if len(k.Brokers()) > 1 { // the others go on: what is sent now must be acknowledged by them
		before := r.value("msk_exporter_records")
		require.Eventually(t, func() bool { return r.value("msk_exporter_records") > before+100 }, eventuallyWithin, 50*time.Millisecond)
	}
	require.NoError(t, k.Restart(node))
	after := r.value("msk_exporter_records")
	require.Eventually(t, func() bool { return r.value("msk_exporter_records") > after+100 }, eventuallyWithin, 50*time.Millisecond)
	close(stop)
	wg.Wait()
	stored := map[string]int{}
	for _, m := range readAll(t, k.Brokers(), prefix+".logs") {
		stored[string(m.Key)]++
	}
	n := 0
	for _, sources := range acked {
		for s := range sources {
			n++
			require.Positive(t, stored[s], "acknowledged and lost: %s", s)
		}
	}
	t.Logf("%d acknowledged, all of them among %d stored", n, len(stored))
}

func TestThreeNodes(t *testing.T) {
	k := kafkatest.Start(t, 3)
	t.Run("a partition below min.insync.replicas delays only itself", func(t *testing.T) { belowMinInSync(t, k) })
	t.Run("they go on without a leader", func(t *testing.T) { killed(t, k, 1) })
}

// Scenario: metrics' partition 0 keeps one in-sync replica of the two that it needs, under load of ten tenants and three signals.
// Guarantees: no other partition's request is spilled, or waits noticeably longer than with a whole cluster, those of the same broker among them; the bad one's
// records are all there, in each source's order, soon after it is mended.
func belowMinInSync(t *testing.T, k *kafkatest.Cluster) {
	r := newRig(t, k.Brokers(), func(c *Config) {
		fleetConfig(t.TempDir())(c)
		c.Spill.After = 10 * time.Second // three brokers and a fleet on a machine that does other work too
		for _, topic := range []*TopicConfig{&c.Topics.Logs, &c.Topics.Metrics, &c.Topics.Traces} {
			topic.ReplicationFactor, topic.MinInSyncReplicas = 3, 2
		}
	})
	r.direct()
	bad := place{"otlp.metrics.v1", 0}
	f := startFleet(t, r, 50*time.Millisecond, func(topic string, partition int32, err error) {
		t.Errorf("refused: %s/%d: %v", topic, partition, err)
	})
	time.Sleep(5 * time.Second) // brokers that have just started are slow, and may let any partition wait
	r.direct()
	was := r.value("msk_exporter_spilled_records", "signal=logs") + r.value("msk_exporter_spilled_records", "signal=traces")
	feed, err := k.Starve(t.Context(), bad.topic, bad.partition)
	require.NoError(t, err)
	f.waits()
	require.Eventually(t, func() bool { return r.value("msk_exporter_spilling_partitions") == 1 }, eventuallyWithin, 10*time.Millisecond)
	for range 3 {
		time.Sleep(time.Second)
		require.EqualValues(t, 1, r.value("msk_exporter_spilling_partitions"))
	}
	during := waitOfOthers(f, bad)
	require.Equal(t, was, r.value("msk_exporter_spilled_records", "signal=logs")+r.value("msk_exporter_spilled_records", "signal=traces"))
	require.Positive(t, r.value("msk_exporter_spilled_records", "signal=metrics"))
	requireOthers(t, k.Brokers(), f, func(p place) bool { return p == bad })
	require.NoError(t, feed(t.Context()))
	r.direct() // under load
	f.waits()
	time.Sleep(3 * time.Second)
	whole := waitOfOthers(f, bad)
	acked := f.end()
	r.idle()
	t.Logf("of ten requests nine waited at most %v while the partition was bad, and %v after that", during, whole)
	require.Less(t, during, 3*whole+2*time.Second) // which is far from spill::after
	requireAll(t, k.Brokers(), acked)
}

// waitOfOthers is what nine of ten requests for the worst of all places but the bad one waited at most, since the last call.
func waitOfOthers(f *fleet, bad place) (most time.Duration) {
	for p, took := range f.waits() {
		if p != bad {
			slices.Sort(took)
			most = max(most, took[len(took)*9/10])
		}
	}
	return most
}
