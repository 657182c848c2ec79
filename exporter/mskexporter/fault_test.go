package mskexporter

import (
	"context"
	"fmt"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
)

// These tests run against kfake, which injects what real brokers do rarely. Real Kafka: kafka_test.go.

func fake(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func produceFault(err *kerr.Error, count int) kfake.Fault {
	return kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: count}
}

func stored(k *kfake.Cluster, topic string) int64 {
	var n int64
	for _, p := range k.PartitionInfos(topic) {
		n += p.HighWatermark
	}
	return n
}

func TestMovingLeadersAreWaitedOut(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	k.Fault(produceFault(kerr.NotLeaderForPartition, 3))
	require.NoError(t, r.send(request(signal.Logs, "t1", "a", 5)))
	require.EqualValues(t, 1, stored(k, "otlp.logs.v1"))
	require.EqualValues(t, 5, r.value("msk_exporter_events", "signal=logs"))
}

func TestAnAppendWhoseAnswerTimedOutIsStoredOnce(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	require.NoError(t, r.send(request(signal.Logs, "t1", "a", 5)))
	k.Fault(produceFault(kerr.RequestTimedOut, 2))
	require.NoError(t, r.send(request(signal.Logs, "t1", "a", 5)))
	require.EqualValues(t, 2, stored(k, "otlp.logs.v1"), "the broker recognises the client's own retry")
}

func TestAnOutcomeThatStaysUnknownIsSaidToBeUnknownWithinTheTimeout(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { c.Timeout = 3 * time.Second })
	h := k.Fault(produceFault(kerr.RequestTimedOut, -1))
	f := requireRetryable(t, r.send(request(signal.Logs, "t1", "a", 5)))
	require.Equal(t, kafka.Unknown, f.class)
	require.ErrorContains(t, f, "outcome unknown")
	require.ErrorContains(t, f, "otlp.logs.v1")
	require.ErrorContains(t, f, `"t1"`)
	require.EqualValues(t, 1, r.value("msk_exporter_failures", "class=unknown", "reason=kafka"))
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.Status())
	h.Remove()
	require.Eventually(t, func() bool { return r.send(request(signal.Logs, "t1", "a", 5)) == nil }, eventuallyWithin, 10*time.Millisecond, "the client recovers by itself")
	require.Equal(t, componentstatus.StatusOK, r.host.Status())
	require.Zero(t, r.value("msk_exporter_buffered_bytes"))
}

func TestACallerThatLeavesDoesNotCutTheWaitForTheOutcome(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cancel()
		return nil, nil, false
	})
	require.NoError(t, r.sendCtx(ctx, request(signal.Logs, "t1", "a", 5)), "it is stored, so that is what is said")
	require.EqualValues(t, 1, stored(k, "otlp.logs.v1"))
}

func TestARecordTooLargeForTheTopicIsPermanent(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	k.Fault(produceFault(kerr.MessageTooLarge, 1))
	err := r.send(request(signal.Traces, "t1", "a", 5))
	requirePermanent(t, err)
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.ErrorContains(t, err, kerr.MessageTooLarge.Message)
	require.EqualValues(t, 1, r.value("msk_exporter_failures", "class=permanent", "reason=kafka"))
	require.NoError(t, r.send(request(signal.Traces, "t1", "a", 5)))
}

func TestWhatAnOperatorMustMendIsRetryableSoThatAgentsKeepTheirData(t *testing.T) {
	for _, e := range []*kerr.Error{kerr.InvalidTopicException, kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.PolicyViolation} {
		t.Run(e.Message, func(t *testing.T) {
			k := fake(t)
			r := newRig(t, k.ListenAddrs(), nil)
			k.Fault(produceFault(e, 1))
			err := r.send(request(signal.Traces, "t1", "a", 5))
			require.Equal(t, kafka.Retryable, requireRetryable(t, err).class)
			require.ErrorContains(t, err, "topic otlp.traces.v1, tenant \"t1\", 5 events: refused until an operator mends it: "+e.Message)
			require.EqualValues(t, 1, r.value("msk_exporter_failures", "class=retryable", "reason=kafka"))
			require.Equal(t, componentstatus.StatusRecoverableError, r.host.Status())
			require.NoError(t, r.send(request(signal.Traces, "t1", "a", 5)), "mended")
			require.Equal(t, componentstatus.StatusOK, r.host.Status())
		})
	}
}

func TestATopicThatVanishesIsRetryable(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { c.Timeout = 5 * time.Second })
	k.Fault(produceFault(kerr.UnknownTopicOrPartition, -1))
	f := requireRetryable(t, r.send(request(signal.Logs, "t1", "a", 5)))
	require.Equal(t, kafka.Retryable, f.class)
}

func TestThrottlingSlowsAndLosesNothing(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		time.Sleep(200 * time.Millisecond) // a broker that throttles holds its answer back
		return nil, nil, false
	})
	for range 3 {
		require.NoError(t, r.send(request(signal.Metrics, "t1", "a", 5)))
	}
	require.EqualValues(t, 3, stored(k, "otlp.metrics.v1"))
}

func TestPartOfARequestStoredIsAnUnknownOutcome(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { c.Timeout = 3 * time.Second })
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "otlp.traces.v1", Err: kerr.NotEnoughReplicas, Count: -1})
	f := requireRetryable(t, r.send(request(signal.Logs, "t1", "a", 5), request(signal.Traces, "t1", "a", 5)))
	require.Equal(t, kafka.Unknown, f.class)
	require.ErrorContains(t, f, "1 of the request's 2 records are stored")
	require.EqualValues(t, 5, r.value("msk_exporter_events", "signal=logs"))
	require.Zero(t, r.value("msk_exporter_events", "signal=traces"))
}

func TestAFullBufferRefusesAsRetryableAfterMaxWaitAndSendsNothing(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) {
		c.Timeout, c.MaxWait = 30*time.Second, 50*time.Millisecond
		c.MaxRecordBytes, c.MaxBufferedBytes = 100_000, 100_000
	})
	block := make(chan struct{})
	arrived := make(chan struct{})
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		close(arrived)
		k.SleepControl(func() { <-block })
		return nil, nil, false
	})
	first := make(chan error, 1)
	go func() { first <- r.send(request(signal.Logs, "t1", "a", 90)) }()
	<-arrived
	require.Greater(t, r.value("msk_exporter_buffered_bytes"), int64(50_000))
	f := requireRetryable(t, r.send(request(signal.Logs, "t1", "a", 90)))
	require.Equal(t, kafka.Retryable, f.class)
	require.ErrorContains(t, f, "max_buffered_bytes")
	require.EqualValues(t, 1, r.value("msk_exporter_failures", "reason=buffer_full"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f = requireRetryable(t, r.sendCtx(ctx, request(signal.Logs, "t1", "a", 90)))
	require.Equal(t, reasonCancelled, f.reason)
	close(block)
	require.NoError(t, <-first)
	require.EqualValues(t, 1, stored(k, "otlp.logs.v1"))
	require.Zero(t, r.value("msk_exporter_buffered_bytes"))
}

func TestARequestIsSplitByEventsAndNoneIsLost(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { c.MaxRecordBytes = 20_000 })
	e := request(signal.Logs, "t1", "a", 500)
	require.NoError(t, r.send(e))
	ms := readAll(t, k.ListenAddrs(), "otlp.logs.v1")
	require.Greater(t, len(ms), 5)
	require.Equal(t, 500, eventsOf(t, ms))
	for _, m := range ms {
		require.Equal(t, "a", string(m.Key))
		require.Equal(t, ms[0].Partition, m.Partition, "one source, one partition")
	}
	require.EqualValues(t, 1, r.value("msk_exporter_splits", "signal=logs"))
}

// Guarantees: a request whose large resource would be repeated in many records is refused as a whole, before anything of it is sent.
func TestARequestThatWouldBecomeMoreThanTwiceItselfIsRefused(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { c.MaxRecordBytes = 100_000 })
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("large", strings.Repeat("x", 75_000))
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for range 1000 {
		records.AppendEmpty().Body().SetStr(strings.Repeat("y", 1000))
	}
	body, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	e := request(signal.Logs, "t1", "a", 1000)
	e.Body = body
	err = r.send(e)
	require.True(t, consumererror.IsPermanent(err), err)
	require.ErrorIs(t, err, otlpwire.ErrAmplified)
	require.Zero(t, stored(k, "otlp.logs.v1"))
}

func TestPlainLogsAreSplitByTenant(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	ld := plog.NewLogs()
	for _, tenant := range []string{"b", "", "a", "b"} {
		rl := ld.ResourceLogs().AppendEmpty()
		if tenant != "" {
			rl.Resource().Attributes().PutStr(lineage.AttrTenant, tenant)
		}
		rl.Resource().Attributes().PutStr("service.instance.id", "i-"+tenant)
		rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("of " + tenant)
	}
	ld.ResourceLogs().AppendEmpty() // without events
	require.NoError(t, r.logs.ConsumeLogs(t.Context(), ld))
	got := map[string]int{}
	for _, m := range readAll(t, k.ListenAddrs(), "otlp.logs.v1") {
		tenant := headersOf(m)[envelope.HeaderTenant]
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(m.Value))
		got[tenant] = req.Logs().LogRecordCount()
		for _, rl := range req.Logs().ResourceLogs().All() {
			if rl.ScopeLogs().Len() == 0 {
				continue
			}
			require.Equal(t, map[string]any{"service.instance.id": "i-" + strings.TrimPrefix(tenant, "default")}, rl.Resource().Attributes().AsRaw(), "the headers say whose it is")
		}
		require.NotEmpty(t, m.Key)
	}
	require.Equal(t, map[string]int{"a": 1, "b": 2, "default": 1}, got)
}

func TestWhatHasNoTenantIsRefusedWithoutADefault(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { c.DefaultTenant = "" })
	err := r.send(request(signal.Logs, "", "a", 1))
	requirePermanent(t, err)
	require.ErrorContains(t, err, "default_tenant")
}

func TestAnEmptyRequestIsAcknowledgedWithoutARecord(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	require.NoError(t, r.logs.ConsumeLogs(t.Context(), plog.NewLogs()))
	require.NoError(t, r.send(envelope.Envelope{Signal: signal.Logs, Tenant: "t"}))
	require.Zero(t, stored(k, "otlp.logs.v1"))
}

func TestItStartsWithoutKafkaRefusesAndRecovers(t *testing.T) {
	port, err := freeport.Port()
	require.NoError(t, err)
	r := newRig(t, []string{fmt.Sprint("127.0.0.1:", port)}, func(c *Config) { c.StartupTimeout = 50 * time.Millisecond })
	f := requireRetryable(t, r.send(request(signal.Logs, "t1", "a", 1)))
	require.Equal(t, reasonUnready, f.reason)
	require.Zero(t, r.value("msk_exporter_ready"))
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.Status())

	k := fake(t, kfake.Ports(port))
	require.Eventually(t, func() bool { return r.send(request(signal.Logs, "t1", "a", 1)) == nil }, eventuallyWithin, 50*time.Millisecond)
	require.EqualValues(t, 1, r.value("msk_exporter_ready"))
	require.Equal(t, componentstatus.StatusOK, r.host.Status())
	require.EqualValues(t, 1, stored(k, "otlp.logs.v1"))
}

func TestATopicWithoutAppendTimeIsRefusedUntilItIsMended(t *testing.T) {
	k := fake(t)
	require.NoError(t, k.CreateTopic("otlp.logs.v1", 2, map[string]string{"message.timestamp.type": "CreateTime"}))
	r := newRig(t, k.ListenAddrs(), func(c *Config) { c.StartupTimeout = 100 * time.Millisecond })
	f := requireRetryable(t, r.send(request(signal.Logs, "t1", "a", 1)))
	require.ErrorContains(t, f, "topic otlp.logs.v1: message.timestamp.type is CreateTime, want LogAppendTime")
	require.NoError(t, k.DeleteTopic("otlp.logs.v1"))
	require.Eventually(t, func() bool { return r.send(request(signal.Logs, "t1", "a", 1)) == nil }, eventuallyWithin, 50*time.Millisecond)
}

func TestLifecycle(t *testing.T) {
	set := exportertest.NewNopSettings(metadata.Type())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	t.Run("Shutdown without Start, of one and of all", func(t *testing.T) {
		k := fake(t)
		cfg := testConfig(k.ListenAddrs())
		a, err := NewFactory().CreateLogs(ctx, set, cfg)
		require.NoError(t, err)
		b, err := NewFactory().CreateTraces(ctx, set, cfg)
		require.NoError(t, err)
		require.NoError(t, a.Start(ctx, componenttest.NewNopHost()))
		require.NoError(t, a.Shutdown(ctx))
		require.NoError(t, b.Shutdown(ctx))
		require.NoError(t, b.Shutdown(ctx))
		require.NotContains(t, clients.of, cfg)
	})
	t.Run("Shutdown after a failed Start", func(t *testing.T) {
		cfg := testConfig([]string{"127.0.0.1:1"})
		cfg.TLS.GetOrInsertDefault().CAFile = "missing.pem"
		e, err := NewFactory().CreateLogs(ctx, set, cfg)
		require.NoError(t, err)
		require.ErrorContains(t, e.Start(ctx, componenttest.NewNopHost()), "tls")
		require.NoError(t, e.Shutdown(ctx))
	})
	t.Run("Consume before Start and after Shutdown is refused as retryable", func(t *testing.T) {
		k := fake(t)
		e, err := NewFactory().CreateLogs(ctx, set, testConfig(k.ListenAddrs()))
		require.NoError(t, err)
		ld := plog.NewLogs()
		request(signal.Logs, "t", "s", 1).Append(ld)
		require.Equal(t, reasonUnready, requireRetryable(t, e.ConsumeLogs(ctx, ld)).reason)
		require.NoError(t, e.Start(ctx, componenttest.NewNopHost()))
		require.NoError(t, e.Shutdown(ctx))
		require.Equal(t, reasonUnready, requireRetryable(t, e.ConsumeLogs(ctx, ld)).reason)
	})
	t.Run("Shutdown gives up what a silent broker holds, when its time is over", func(t *testing.T) {
		k := fake(t)
		e, err := NewFactory().CreateLogs(ctx, set, testConfig(k.ListenAddrs()))
		require.NoError(t, err)
		require.NoError(t, e.Start(ctx, componenttest.NewNopHost()))
		arrived, block := make(chan struct{}), make(chan struct{})
		k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			close(arrived)
			k.SleepControl(func() { <-block })
			return nil, nil, false
		})
		ld := plog.NewLogs()
		request(signal.Logs, "t", "s", 1).Append(ld)
		sent := make(chan error, 1)
		go func() { sent <- e.ConsumeLogs(context.Background(), ld) }()
		<-arrived
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, e.Shutdown(short), context.DeadlineExceeded)
		require.Equal(t, kafka.Unknown, requireRetryable(t, <-sent).class)
		close(block)
	})
}
