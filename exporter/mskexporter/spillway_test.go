package mskexporter

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/spill"
)

const eventuallyWithin = time.Minute

// spilling configures a spill into dir that acts fast.
func spilling(dir string) func(*Config) {
	return func(c *Config) {
		c.Spill.URL = "file://" + dir
		c.Spill.After, c.Spill.MaxLatency, c.Spill.ProbeInterval = 300*time.Millisecond, 10*time.Millisecond, 50*time.Millisecond
		c.StartupTimeout = 2 * time.Second
	}
}

// Scenario: a broker refuses a partition once, while records for it are still being handed to the Kafka client.
// Guarantee: what comes behind the record that failed is not taken either, so it keeps its place when all of them are produced again.
func TestBehindARecordThatFailedNothingOfItsPartitionIsTaken(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { spilling(t.TempDir())(c); c.Spill.After = 20 * time.Second })
	r.direct()
	const records = 50_000
	rs := make([]spill.Record, records)
	for i := range rs {
		rs[i] = spill.Record{Topic: "otlp.logs.v1", Key: []byte("agent"), Value: strconv.AppendInt(nil, int64(i), 10)}
	}
	for _, refusal := range []*kerr.Error{kerr.TopicAuthorizationFailed, kerr.InvalidRecord} {
		before := stored(k, "otlp.logs.v1")
		k.Fault(produceFault(refusal, 1))
		back := r.logs.client.spillway.back
		for i, err := range back.Produce(t.Context(), rs) {
			require.ErrorIs(t, err, refusal, i)
		}
		require.Equal(t, before, stored(k, "otlp.logs.v1"))
		for i, err := range back.Produce(t.Context(), rs) {
			require.NoError(t, err, i)
		}
		require.Equal(t, before+records, stored(k, "otlp.logs.v1"))
	}
}

// Scenario: one of many records is larger than its topic takes, which an operator has set lower than the gateway's bound.
// Guarantee: it alone is refused for good.
func TestARecordThatIsTooLargeTakesNoOtherOfItsBatchWithIt(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), spilling(t.TempDir()))
	r.direct()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	topic := kmsg.NewIncrementalAlterConfigsRequestResource()
	topic.ResourceType, topic.ResourceName = kmsg.ConfigResourceTypeTopic, "otlp.logs.v1"
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = "max.message.bytes", kmsg.StringPtr("1000")
	topic.Configs = append(topic.Configs, config)
	req.Resources = append(req.Resources, topic)
	resp, err := req.RequestWith(t.Context(), r.logs.client.kafka.client())
	require.NoError(t, err)
	require.Zero(t, resp.Resources[0].ErrorCode)
	const large = 3
	rs := make([]spill.Record, 10)
	for i := range rs {
		rs[i] = spill.Record{Topic: "otlp.logs.v1", Key: []byte("agent"), Value: make([]byte, 100)}
		if i == large {
			rs[i].Value = make([]byte, 2000)
			_, _ = rand.Read(rs[i].Value)
		}
	}
	for i, err := range r.logs.client.spillway.back.Produce(t.Context(), rs) {
		if i == large {
			require.ErrorIs(t, err, spill.ErrRefused)
		} else {
			require.NoError(t, err)
		}
	}
	require.EqualValues(t, len(rs)-1, stored(k, "otlp.logs.v1"))
}

// numbered is a request of one log record whose body is its number.
func numbered(t *testing.T, source string, n int) envelope.Envelope {
	t.Helper()
	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetInt(int64(n))
	b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	return envelope.Envelope{Signal: signal.Logs, Tenant: "acme", Source: source, Events: 1, Received: time.Unix(1, 0), Body: b}
}

// numbersOf reads the numbers of each source in the order in which Kafka has them.
func numbersOf(t *testing.T, brokers []string) map[string][]int {
	t.Helper()
	out := map[string][]int{}
	for _, m := range readAll(t, brokers, "otlp.logs.v1") {
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(m.Value))
		require.Equal(t, "acme", headersOf(m)[envelope.HeaderTenant])
		out[string(m.Key)] = append(out[string(m.Key)], int(req.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().Int()))
	}
	return out
}

func objects(t *testing.T, dir string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "[0-9v]*-*"))
	require.NoError(t, err)
	return len(files)
}

// direct waits until requests go to Kafka.
func (r *rig) direct() {
	r.t.Helper()
	c := r.logs.client
	require.Eventually(r.t, func() bool { return c.ready.Load() && !c.spillway.spool.Holds(0) && c.lanes.spillingNow() == 0 }, eventuallyWithin, 10*time.Millisecond)
}

// Scenario: Kafka refuses every record while several sources send, and takes them again later, under load.
// Guarantees: no request is refused, none is lost, and each source's requests are in Kafka in their order.
func TestWhileKafkaIsDownNothingIsRefusedAndOrderIsKept(t *testing.T) {
	dir := t.TempDir()
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), spilling(dir))
	r.direct()

	const sources, requests = 4, 120
	down := make(chan *kfake.FaultHandle, 1)
	var wg sync.WaitGroup
	for s := range sources {
		wg.Go(func() {
			for n := range requests {
				if s == 0 && n == 20 {
					down <- k.Fault(produceFault(kerr.NotEnoughReplicas, -1))
				}
				if s == 0 && n == 80 {
					(<-down).Remove()
				}
				if err := r.send(numbered(t, fmt.Sprintf("agent-%d", s), n)); err != nil {
					t.Errorf("source %d, request %d: %v", s, n, err)
				}
			}
		})
	}
	wg.Wait()
	r.direct()
	require.Positive(t, r.value("msk_exporter_spilled_records"))
	require.Equal(t, r.value("msk_exporter_spilled_records"), r.value("msk_exporter_unspilled_records"))
	require.Zero(t, objects(t, dir))

	want := make([]int, requests)
	for i := range want {
		want[i] = i
	}
	for source, got := range numbersOf(t, k.ListenAddrs()) {
		// A request whose outcome was unknown may be there twice; its first copy is the one that counts.
		seen := map[int]bool{}
		first := slices.DeleteFunc(slices.Clone(got), func(n int) bool { twice := seen[n]; seen[n] = true; return twice })
		require.Equal(t, want, first, source)
	}
}

func TestAGatewayThatStartsWithoutKafkaTakesRequestsAndDeliversThemLater(t *testing.T) {
	k := fake(t, kfake.Ports(0))
	addrs := k.ListenAddrs()
	down := k.Fault(kfake.Fault{Err: kerr.BrokerNotAvailable, Count: -1})
	r := newRig(t, addrs, spilling(t.TempDir()))
	require.NoError(t, r.send(numbered(t, "a", 1)))
	require.NoError(t, r.send(numbered(t, "a", 2)))
	down.Remove()
	r.direct()
	require.Equal(t, map[string][]int{"a": {1, 2}}, numbersOf(t, addrs))
}

func TestWhatADeadGatewaySpilledIsDeliveredByTheNextOneOfItsName(t *testing.T) {
	dir := t.TempDir()
	k := fake(t)
	first := newRig(t, k.ListenAddrs(), spilling(dir))
	first.direct()
	down := k.Fault(produceFault(kerr.NotEnoughReplicas, -1))
	require.NoError(t, first.send(numbered(t, "a", 1)))
	for _, e := range first.exporters() { // which leaves the store as a crash would: only Kafka could empty it
		require.NoError(t, e.Shutdown(t.Context()))
	}
	require.Positive(t, objects(t, dir))
	down.Remove()

	second := newRig(t, k.ListenAddrs(), spilling(dir))
	require.NoError(t, second.send(numbered(t, "a", 2)))
	second.direct()
	require.NoError(t, second.send(numbered(t, "a", 3)))
	require.Equal(t, []int{1, 2, 3}, slices.Compact(numbersOf(t, k.ListenAddrs())["a"]))
}

func TestWithKafkaAndTheStoreDownRequestsAreRefusedAsRetryable(t *testing.T) {
	dir := t.TempDir()
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), spilling(dir))
	r.direct()
	k.Fault(produceFault(kerr.NotEnoughReplicas, -1))
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // no directory any more
	f := requireRetryable(t, r.send(numbered(t, "a", 1)))
	require.ErrorContains(t, f, "the spill does not take it")
	require.EqualValues(t, 1, r.value("msk_exporter_failures", "reason=spill"))
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, r.send(numbered(t, "a", 1)), "the store is back")
}

func TestBeyondItsBoundTheSpillRefusesAsRetryable(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { spilling(t.TempDir())(c); c.Spill.MaxBytes = 1 })
	r.direct()
	k.Fault(produceFault(kerr.NotEnoughReplicas, -1))
	require.NoError(t, r.send(numbered(t, "a", 1)))
	f := requireRetryable(t, r.send(numbered(t, "a", 2)))
	require.ErrorContains(t, f, "bound")
	require.EqualValues(t, 1, r.value("msk_exporter_spill_max_bytes"))
}

func TestWhatIsRefusedForGoodIsNotSpilled(t *testing.T) {
	dir := t.TempDir()
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { spilling(dir)(c); c.Spill.After = 10 * time.Second })
	r.direct()
	k.Fault(produceFault(kerr.MessageTooLarge, 1))
	requirePermanent(t, r.send(numbered(t, "a", 1)))
	require.Zero(t, objects(t, dir))
	require.Zero(t, r.logs.client.lanes.spillingNow())
}

func TestSpillConfigIsChecked(t *testing.T) {
	for _, change := range []func(*SpillConfig){
		func(c *SpillConfig) { c.URL = "ftp://x" },
		func(c *SpillConfig) { c.After = time.Hour },
		func(c *SpillConfig) { c.MaxObjectBytes = 1 },
		func(c *SpillConfig) { c.MaxLatency = -1 },
		func(c *SpillConfig) { c.MaxBytes = 0 },
		func(c *SpillConfig) { c.MaxAge = 0 },
		func(c *SpillConfig) { c.ProbeInterval = 0 },
	} {
		cfg := createDefaultConfig()
		cfg.Spill.URL = "file:///spill"
		require.NoError(t, cfg.Validate())
		change(&cfg.Spill)
		require.ErrorContains(t, cfg.Validate(), "spill::")
	}
}
