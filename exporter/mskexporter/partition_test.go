package mskexporter

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	fleetTenants    = 10
	fleetSources    = 4 // of a tenant and signal
	fleetPartitions = 4
	fleetPause      = 20 * time.Millisecond // of a source, between two requests
)

// fleet sends numbered requests of all three signals for ten tenants, each source one after the other, until it is stopped; a request that is
// refused is sent again.
type fleet struct {
	t       *testing.T
	rig     atomic.Pointer[rig]
	stop    chan struct{}
	stopped sync.Once
	wg      sync.WaitGroup
	pause   time.Duration
	refused func(topic string, partition int32, err error)

	places map[string]place

	mu    sync.Mutex
	acked map[string]int            // guarded by mu; of topic/source
	took  map[place][]time.Duration // guarded by mu; what requests waited for their acknowledgement since waits was called
}

type place struct {
	topic     string
	partition int32
}

func startFleet(t *testing.T, r *rig, pause time.Duration, refused func(topic string, partition int32, err error)) *fleet {
	f := &fleet{t: t, stop: make(chan struct{}), pause: pause, refused: refused, acked: map[string]int{}, places: map[string]place{}, took: map[place][]time.Duration{}}
	f.rig.Store(r)
	t.Cleanup(func() { f.end() })
	for tenant := range fleetTenants {
		for _, s := range signal.All {
			for n := range fleetSources {
				source := fmt.Sprintf("%s-tenant-%d-agent-%d", s, tenant, n)
				p := place{s.Topic(), r.logs.client.router.partition(&kgo.Record{Topic: s.Topic(), Key: []byte(source)}, fleetPartitions)}
				f.places[source] = p
				f.wg.Go(func() { f.send(s, fmt.Sprintf("tenant-%d", tenant), source, p) })
			}
		}
	}
	return f
}

func (f *fleet) send(s signal.Signal, tenant, source string, p place) {
	for n := 0; ; {
		select {
		case <-f.stop:
			return
		case <-time.After(f.pause):
		}
		began := time.Now()
		err := f.rig.Load().send(envelope.Envelope{Signal: s, Tenant: tenant, Source: source, Events: 1, Received: time.Unix(1, 0), Lane: envelope.LaneFast, Body: strconv.AppendInt(nil, int64(n), 10)})
		if err != nil {
			f.refused(p.topic, p.partition, err)
			time.Sleep(20 * time.Millisecond)
			continue
		}
		n++
		f.mu.Lock()
		f.acked[source] = n
		f.took[p] = append(f.took[p], time.Since(began))
		f.mu.Unlock()
	}
}

// waits is what requests waited for their acknowledgement, by place, since the last call.
func (f *fleet) waits() map[place][]time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	took := f.took
	f.took = map[place][]time.Duration{}
	return took
}

// sent is how many requests of each source are acknowledged.
func (f *fleet) sent() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]int{}
	for source, n := range f.acked {
		out[source] = n
	}
	return out
}

func (f *fleet) end() map[string]int {
	f.stopped.Do(func() { close(f.stop) })
	f.wg.Wait()
	return f.sent()
}

// inKafka reads each source's numbers in the order of first copies: those that come again are copies, which deduplication removes.
func inKafka(t *testing.T, brokers []string) (first map[string][]int, copies int) {
	t.Helper()
	first = map[string][]int{}
	seen := map[string]bool{}
	for _, s := range signal.All {
		for _, m := range readAll(t, brokers, s.Topic()) {
			id := string(m.Key) + "/" + string(m.Value)
			if seen[id] {
				copies++
				continue
			}
			seen[id] = true
			n, err := strconv.Atoi(string(m.Value))
			require.NoError(t, err)
			first[string(m.Key)] = append(first[string(m.Key)], n)
		}
	}
	return first, copies
}

func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// requireAll: Kafka has what was acknowledged, in each source's order.
func requireAll(t *testing.T, brokers []string, acked map[string]int) {
	t.Helper()
	got, copies := inKafka(t, brokers)
	total := 0
	for source, n := range acked {
		require.GreaterOrEqual(t, len(got[source]), n, source)
		require.Equal(t, upTo(len(got[source])), got[source], source)
		total += n
	}
	t.Logf("%d requests, %d copies", total, copies)
}

// requireOthers: whatever is not for a bad place is in Kafka within two seconds of its acknowledgement.
func requireOthers(t *testing.T, brokers []string, f *fleet, bad func(place) bool) {
	t.Helper()
	acked := f.sent()
	time.Sleep(2 * time.Second)
	got, _ := inKafka(t, brokers)
	for source, n := range acked {
		if !bad(f.places[source]) {
			require.GreaterOrEqual(t, len(got[source]), n, "%s, %v", source, f.places[source])
			require.Equal(t, upTo(len(got[source])), got[source], source)
		}
	}
}

func fleetConfig(dir string) func(*Config) {
	return func(c *Config) {
		spilling(dir)(c)
		c.Spill.After = 4 * time.Second // a machine that does other work too must not look like a bad partition
		for _, t := range []*TopicConfig{&c.Topics.Logs, &c.Topics.Metrics, &c.Topics.Traces} {
			t.Partitions = fleetPartitions
		}
	}
}

// idle waits until nothing is in the store.
func (r *rig) idle() {
	r.t.Helper()
	r.direct()
	require.Eventually(r.t, func() bool { return r.logs.client.spillway.spool.Own() == 0 }, eventuallyWithin, 10*time.Millisecond)
}

// Scenario: metrics' partition 0 is below min.insync.replicas (or has no leader, or may not be written) under load of ten tenants and three signals.
// Guarantees: nobody is refused; what is for other partitions is in Kafka within two seconds, and not in the store; the bad one's records are all
// there, in each source's order, soon after it is mended.
func TestAPartitionThatCannotBeWrittenDelaysOnlyItself(t *testing.T) {
	for _, c := range []struct {
		name       string
		err        *kerr.Error
		partitions []int32 // nil: the whole topic
	}{
		{"too few in-sync replicas", kerr.NotEnoughReplicas, []int32{0}},
		{"no leader", kerr.LeaderNotAvailable, []int32{0}},
		{"a disk that fails", kerr.KafkaStorageError, []int32{0, 1}},
		{"a topic that may not be written", kerr.TopicAuthorizationFailed, nil},
		{"a topic that is gone", kerr.UnknownTopicOrPartition, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			k := fake(t)
			r := newRig(t, k.ListenAddrs(), fleetConfig(dir))
			r.direct()
			bad := func(p place) bool {
				return p.topic == "otlp.metrics.v1" && (c.partitions == nil || slices.Contains(c.partitions, p.partition))
			}
			f := startFleet(t, r, fleetPause, func(topic string, partition int32, err error) {
				t.Errorf("refused: %s/%d: %v", topic, partition, err)
			})
			time.Sleep(300 * time.Millisecond)
			fault := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "otlp.metrics.v1", Partitions: c.partitions, Err: c.err, Count: -1})
			n := fleetPartitions
			if c.partitions != nil {
				n = len(c.partitions)
			}
			require.Eventually(t, func() bool { return r.value("msk_exporter_spilling_partitions") == int64(n) }, eventuallyWithin, 10*time.Millisecond)
			for range 2 {
				requireOthers(t, k.ListenAddrs(), f, bad)
				require.EqualValues(t, n, r.value("msk_exporter_spilling_partitions"))
			}
			require.Zero(t, r.value("msk_exporter_spilled_records", "signal=logs"))
			require.Zero(t, r.value("msk_exporter_spilled_records", "signal=traces"))
			require.Positive(t, r.value("msk_exporter_spilled_records", "signal=metrics"))
			fault.Remove()
			r.direct() // under load
			acked := f.end()
			r.idle()
			requireAll(t, k.ListenAddrs(), acked)
			require.Equal(t, r.value("msk_exporter_spilled_records"), r.value("msk_exporter_unspilled_records"), "nothing is produced twice by probes")
		})
	}
}

// Scenario: a partition's replicas hang: each request with records for it is answered late, and says that they timed out.
// Guarantee: giving the partition up takes no connection away, on which the requests of others are.
func TestGivingAPartitionUpClosesNoConnection(t *testing.T) {
	var closed atomic.Int64
	k := fake(t, kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		return &countingListener{l, &closed}, err
	}))
	r := newRig(t, k.ListenAddrs(), func(c *Config) { spilling(t.TempDir())(c); c.Spill.After = time.Second })
	r.direct()
	require.NoError(t, r.send(request(signal.Logs, "t", "a", 1)))
	closed.Store(0)
	metrics := k.TopicInfo("otlp.metrics.v1").TopicID
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "otlp.metrics.v1", Partitions: []int32{0}, Err: kerr.RequestTimedOut, Count: -1})
	k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if slices.ContainsFunc(req.(*kmsg.ProduceRequest).Topics, func(t kmsg.ProduceRequestTopic) bool {
			return t.TopicID == metrics && slices.ContainsFunc(t.Partitions, func(p kmsg.ProduceRequestTopicPartition) bool { return p.Partition == 0 })
		}) {
			k.SleepControl(func() { time.Sleep(400 * time.Millisecond) }) // within half of spill::after, as a broker does
		}
		return nil, nil, false
	})
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			time.Sleep(time.Duration(n) * 50 * time.Millisecond)
			if err := r.send(request(signal.Metrics, "t", strconv.Itoa(n), 1)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Positive(t, r.value("msk_exporter_spilled_records", "signal=metrics"))
	require.Zero(t, closed.Load(), "connections that the gateway closed")
}

// countingListener counts the connections that the other side has closed.
type countingListener struct {
	net.Listener
	closed *atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &countingConn{Conn: c, closed: l.closed}, err
}

type countingConn struct {
	net.Conn
	closed *atomic.Int64
	once   sync.Once
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.once.Do(func() { c.closed.Add(1) })
	}
	return n, err
}

// Scenario: the same, and the gateway is started again in the middle, twice: once as an operator would, once after it lost everything that it
// had in memory.
func TestAGatewayThatStartsWhileAPartitionIsBadServesTheOthers(t *testing.T) {
	dir := t.TempDir()
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), fleetConfig(dir))
	r.direct()
	bad := func(p place) bool { return p == place{"otlp.metrics.v1", 0} }
	f := startFleet(t, r, fleetPause, func(_ string, _ int32, err error) {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("refused for good: %v", err)
		}
	})
	fault := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "otlp.metrics.v1", Partitions: []int32{0}, Err: kerr.NotEnoughReplicas, Count: -1})
	require.Eventually(t, func() bool { return objects(t, dir) > 5 }, eventuallyWithin, 10*time.Millisecond)
	for _, crash := range []bool{false, true} {
		if crash { // what is under way ends nowhere, not in the store either: a dead process puts nothing there
			require.NoError(t, r.logs.client.spillway.spool.Close())
			r.logs.client.kill(errClosing)
			r.logs.client.kafka.close()
			for _, p := range r.logs.client.back {
				p.close()
			}
		}
		for _, e := range r.exporters() {
			if err := e.Shutdown(t.Context()); !crash {
				require.NoError(t, err)
			}
		}
		r = newRig(t, k.ListenAddrs(), fleetConfig(dir))
		f.rig.Store(r)
		require.Eventually(t, func() bool { return r.value("msk_exporter_spilling_partitions") == 1 }, eventuallyWithin, 10*time.Millisecond)
		requireOthers(t, k.ListenAddrs(), f, bad)
		if !crash { // which has given up what was on its way to Kafka
			require.Zero(t, r.value("msk_exporter_unspilled_records"), "nothing but the bad partition's was in the store")
		}
	}
	fault.Remove()
	r.direct()
	acked := f.end()
	r.idle()
	requireAll(t, k.ListenAddrs(), acked)
}

// Scenario: the same, and the object store is away at the same time.
// Guarantees: only the bad partition's requests are refused, and as retryable; when either is back they are taken.
func TestWithoutTheStoreOnlyTheBadPartitionIsRefused(t *testing.T) {
	dir := t.TempDir()
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), fleetConfig(dir))
	r.direct()
	bad := func(p place) bool { return p == place{"otlp.metrics.v1", 0} }
	var refused atomic.Int64
	f := startFleet(t, r, fleetPause, func(topic string, partition int32, err error) {
		if !bad(place{topic, partition}) {
			t.Errorf("refused: %s/%d: %v", topic, partition, err)
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("refused for good: %v", err)
		}
		refused.Add(1)
	})
	fault := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "otlp.metrics.v1", Partitions: []int32{0}, Err: kerr.NotEnoughReplicas, Count: -1})
	away := func() {
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.WriteFile(dir, nil, 0o600)) // no directory any more
	}
	away()
	require.Eventually(t, func() bool { return refused.Load() > 10 }, eventuallyWithin, 10*time.Millisecond)
	for range 2 {
		requireOthers(t, k.ListenAddrs(), f, bad)
	}
	require.Greater(t, refused.Load(), int64(20))
	fault.Remove() // and the store stays away: nothing of the partition's is in it
	before := f.sent()
	require.Eventually(t, func() bool {
		now := f.sent()
		for source := range before {
			if now[source] <= before[source] {
				return false
			}
		}
		return true
	}, eventuallyWithin, 10*time.Millisecond)
	acked := f.end()
	requireAll(t, k.ListenAddrs(), acked)
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Mkdir(dir, 0o700))
}

// Guarantee: when the bad partition has filled its part of the spill, only its requests are refused.
func TestAPartitionThatFillsTheSpillIsRefusedAlone(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { fleetConfig(t.TempDir())(c); c.Spill.MaxBytes = 20_000 })
	r.direct()
	bad := func(p place) bool { return p == place{"otlp.metrics.v1", 0} }
	var refused atomic.Int64
	f := startFleet(t, r, fleetPause, func(topic string, partition int32, err error) {
		if !bad(place{topic, partition}) {
			t.Errorf("refused: %s/%d: %v", topic, partition, err)
		}
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "bound") {
			t.Errorf("refused otherwise: %v", err)
		}
		refused.Add(1)
	})
	fault := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "otlp.metrics.v1", Partitions: []int32{0}, Err: kerr.NotEnoughReplicas, Count: -1})
	require.Eventually(t, func() bool { return refused.Load() > 10 }, eventuallyWithin, 10*time.Millisecond)
	requireOthers(t, k.ListenAddrs(), f, bad)
	fault.Remove()
	r.direct()
	acked := f.end()
	r.idle()
	requireAll(t, k.ListenAddrs(), acked)
}

// Guarantee: a request whose records are for several partitions is acknowledged when each is in Kafka or in the store.
func TestARequestForAGoodAndABadPartitionIsInBoth(t *testing.T) {
	dir := t.TempDir()
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), fleetConfig(dir))
	r.direct()
	fault := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "otlp.metrics.v1", Err: kerr.NotEnoughReplicas, Count: -1})
	var es []envelope.Envelope
	for n := range 20 {
		for _, s := range signal.All {
			es = append(es, envelope.Envelope{Signal: s, Tenant: "acme", Source: fmt.Sprintf("%s-%d", s, n), Events: 1, Received: time.Unix(1, 0), Body: []byte("0")})
		}
	}
	for range 2 { // as it is found to be bad, and when that is known
		require.NoError(t, r.send(es...))
	}
	require.EqualValues(t, 40, stored(k, "otlp.logs.v1"))
	require.EqualValues(t, 40, stored(k, "otlp.traces.v1"))
	require.Zero(t, stored(k, "otlp.metrics.v1"))
	require.Positive(t, objects(t, dir))
	fault.Remove()
	r.idle()
	require.EqualValues(t, 40, stored(k, "otlp.metrics.v1"))
}

// Guarantee: a topic that cannot be verified at the start holds up no other.
func TestATopicThatIsMissingAtTheStartHoldsUpNoOther(t *testing.T) {
	for _, spill := range []bool{true, false} {
		t.Run(fmt.Sprintf("spill %v", spill), func(t *testing.T) {
			k := fake(t)
			for _, topic := range []string{"otlp.logs.v1", "otlp.traces.v1", signal.QuarantineTopic} {
				require.NoError(t, k.CreateTopic(topic, 2, map[string]string{"message.timestamp.type": "LogAppendTime"}))
			}
			dir := t.TempDir()
			r := newRig(t, k.ListenAddrs(), func(c *Config) {
				if spill {
					spilling(dir)(c)
				}
				c.Topics.Manage, c.StartupTimeout = "verify", time.Second
			})
			require.Eventually(t, func() bool { return r.send(request(signal.Logs, "t", "a", 1)) == nil && stored(k, "otlp.logs.v1") > 0 }, eventuallyWithin, 10*time.Millisecond)
			err := r.send(request(signal.Metrics, "t", "a", 1))
			if !spill {
				require.ErrorContains(t, requireRetryable(t, err), "otlp.metrics.v1 does not exist")
			} else {
				require.NoError(t, err)
				require.Eventually(t, func() bool { return r.logs.client.lanes.spillingNow() == 1 }, eventuallyWithin, 10*time.Millisecond)
			}
			require.NoError(t, r.send(request(signal.Traces, "t", "a", 1)))
			require.EqualValues(t, 0, r.value("msk_exporter_ready"))
		})
	}
}

// Scenario: a topic is deleted while the gateway runs, and made anew: it has another id.
func TestATopicThatIsMadeAnewIsWrittenAgain(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), func(c *Config) { spilling(t.TempDir())(c); c.Spill.After = 3 * time.Second })
	r.direct()
	require.NoError(t, r.send(request(signal.Metrics, "t", "a", 1)))
	require.NoError(t, k.DeleteTopic("otlp.metrics.v1"))
	require.NoError(t, r.send(request(signal.Metrics, "t", "a", 1)))
	require.NoError(t, r.send(request(signal.Logs, "t", "a", 1)))
	require.EqualValues(t, 1, r.value("msk_exporter_spilling_partitions"))
	require.NoError(t, k.CreateTopic("otlp.metrics.v1", 2, nil))
	r.idle()
	require.EqualValues(t, 1, stored(k, "otlp.metrics.v1"))
	require.NoError(t, r.send(request(signal.Metrics, "t", "a", 1))) // of which the client learns that it is another topic
	r.idle()
	require.EqualValues(t, 2, stored(k, "otlp.metrics.v1"))
	require.NoError(t, r.send(request(signal.Metrics, "t", "a", 1)))
	require.EqualValues(t, 3, stored(k, "otlp.metrics.v1"))
}
