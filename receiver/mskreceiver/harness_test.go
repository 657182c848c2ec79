package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	// sarama's metrics library keeps one goroutine for the whole process.
	sarama := goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick")
	goleak.VerifyTestMain(leaktest.Patient(m, sarama), sarama)
}

const (
	logsTopic = "otlp.logs.v1"
	patience  = 60 * time.Second
)

// place is where an event lies in Kafka.
type place struct {
	partition int32
	offset    int64
	index     int32
}

// store is a scripted consumer: what it has answered nil for is stored.
type store struct {
	// script is asked before a block is stored; nil stores it.
	script   func(ctx context.Context, b block.Block, ld plog.Logs) error
	memories []block.Memory // introduced to the receiver

	mu     sync.Mutex
	events map[place]string // body
	count  map[place]int    // how often it was stored
	blocks []block.Block    // stored
	offers []block.Block    // offered, stored or not
	faults []string         // what must never happen
}

func newStore(script func(context.Context, block.Block, plog.Logs) error) *store {
	return &store{script: script, events: map[place]string{}, count: map[place]int{}}
}

func (s *store) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	if i := block.IntroductionOf(ctx); i != nil {
		for _, m := range s.memories {
			i.Add(m)
		}
		return nil
	}
	b, ok := block.FromContext(ctx)
	if !ok {
		return errors.New("no block in the context")
	}
	s.mu.Lock()
	s.offers = append(s.offers, b)
	if b.Account == nil || b.Oldest > b.First || b.Last < b.First || b.Intended.IsZero() {
		s.faults = append(s.faults, fmt.Sprintf("block %s is not filled in: %+v", b, b))
	}
	s.mu.Unlock()
	if s.script != nil {
		if err := s.script(ctx, b, ld); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rl := range ld.ResourceLogs().All() {
		o, ok := lineage.ReadResource(rl.Resource().Attributes())
		if !ok || o.Topic != b.Topic || o.Partition != b.Partition {
			s.faults = append(s.faults, fmt.Sprintf("resource stamp %+v in block %s", o, b))
		}
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				e, ok := lineage.ReadEvent(lr.Attributes())
				if !ok || e.Offset < b.First || e.Offset > b.Last || e.ID == [16]byte{} {
					s.faults = append(s.faults, fmt.Sprintf("event stamp %+v in block %s", e, b))
				}
				at := place{b.Partition, e.Offset, e.Index}
				s.events[at] = lr.Body().AsString()
				s.count[at]++
			}
		}
	}
	s.blocks = append(s.blocks, b)
	return nil
}

func (*store) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

func (s *store) stored() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for at, body := range s.events {
		out[body] += s.count[at]
	}
	return out
}

// storedUpTo tells whether the store has every event below an offset; events maps partition and offset to bodies.
func (s *store) missingBelow(partition int32, next int64, want map[int64][]string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []string
	for offset, bodies := range want {
		if offset >= next {
			continue
		}
		for i, body := range bodies {
			if s.events[place{partition, offset, int32(i)}] != body {
				missing = append(missing, body)
			}
		}
	}
	return missing
}

func (s *store) check(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.faults[:min(len(s.faults), 3)])
}

// offered returns the distinct ranges that were offered of a partition, in the order of their first offsets.
func (s *store) offered(partition int32) (out []block.Block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, b := range s.offers {
		if b.Partition == partition && !seen[b.String()] {
			seen[b.String()] = true
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b block.Block) int { return int(a.First - b.First) })
	return out
}

// requireTiles checks that ranges follow each other without a gap or an overlap, from an offset to another.
func requireTiles(t *testing.T, ranges []block.Block, from, to int64) {
	t.Helper()
	for _, b := range ranges {
		require.Equal(t, from, b.First, "%v", ranges)
		from = b.Next()
	}
	require.Equal(t, to, from)
}

// crash ends a receiver so that the group hears nothing more of what it has done: its committer ends first, then its pipelines.
func crash(r *mskReceiver, stop func() error) {
	r.finish()
	r.final.Wait()
	for _, p := range r.group.partitions() {
		p.abandon()
	}
	_ = stop()
}

// metadataOf returns the text that the group has committed for a partition of the logs topic.
func metadataOf(t *testing.T, cl *kgo.Client, group string, partition int32) string {
	t.Helper()
	resp, err := kadm.NewClient(cl).FetchOffsets(context.Background(), group)
	if err != nil {
		return ""
	}
	o, _ := resp.Lookup(logsTopic, partition)
	return o.Metadata
}

func logsRequest(bodies ...string) []byte {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "test")
	sl := rl.ScopeLogs().AppendEmpty()
	for _, b := range bodies {
		sl.LogRecords().AppendEmpty().Body().SetStr(b)
	}
	v, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	if err != nil {
		panic(err)
	}
	return v
}

func fakeCluster(t testing.TB, partitions int32, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(3), kfake.SeedTopics(partitions, logsTopic, "otlp.metrics.v1", "otlp.traces.v1"), kfake.SeedTopics(1, signal.QuarantineTopic),
		kfake.GroupMinSessionTimeout(time.Millisecond),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func testClient(t *testing.T, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(50 * time.Millisecond),
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// produce writes records of two events each to the partitions in turn, and returns the bodies by partition and offset.
func produce(t *testing.T, cl *kgo.Client, name string, records int, partitions int32) map[int32]map[int64][]string {
	t.Helper()
	out := map[int32]map[int64][]string{}
	var all []*kgo.Record
	bodies := map[*kgo.Record][]string{}
	for i := range records {
		two := []string{fmt.Sprintf("%s-%d-a", name, i), fmt.Sprintf("%s-%d-b", name, i)}
		r := &kgo.Record{Topic: logsTopic, Partition: int32(i) % partitions, Key: []byte("source-" + strconv.Itoa(i)), Value: logsRequest(two...)}
		bodies[r] = two
		all = append(all, r)
	}
	require.NoError(t, cl.ProduceSync(t.Context(), all...).FirstErr())
	for r, two := range bodies {
		if out[r.Partition] == nil {
			out[r.Partition] = map[int64][]string{}
		}
		out[r.Partition][r.Offset] = two
	}
	return out
}

func allBodies(sets ...map[int32]map[int64][]string) []string {
	var out []string
	for _, set := range sets {
		for _, p := range set {
			for _, bodies := range p {
				out = append(out, bodies...)
			}
		}
	}
	return out
}

func testConfig(brokers []string, group string) *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.Brokers = brokers
	cfg.GroupID = group
	cfg.Block.MaxAge = 20 * time.Millisecond
	cfg.Retry = RetryConfig{InitialInterval: 2 * time.Millisecond, MaxInterval: 50 * time.Millisecond}
	cfg.HeartbeatInterval = 50 * time.Millisecond
	cfg.SessionTimeout = 6 * time.Second
	cfg.RebalanceTimeout = 6 * time.Second
	cfg.ShutdownTimeout = 10 * time.Second
	cfg.MetadataMinAge = 20 * time.Millisecond
	return cfg
}

// run starts a receiver; stop shuts it down, once.
func run(t *testing.T, cfg *Config, s consumer.Logs) (r *mskReceiver, stop func() error) {
	t.Helper()
	require.NoError(t, cfg.Validate())
	set := receivertest.NewNopSettings(metadata.Type())
	set.Logger = zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	rc, err := NewFactory().CreateLogs(t.Context(), set, cfg, s)
	require.NoError(t, err)
	require.NoError(t, rc.Start(t.Context(), componenttest.NewNopHost()))
	stop = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return rc.Shutdown(ctx)
	}
	t.Cleanup(func() { _ = stop() })
	return rc.(*mskReceiver), stop
}

// committed returns the group's committed offsets of the logs topic.
func committed(t *testing.T, cl *kgo.Client, group string) map[int32]int64 {
	t.Helper()
	resp, err := kadm.NewClient(cl).FetchOffsets(context.Background(), group)
	out := map[int32]int64{}
	if err != nil {
		return out // the group does not exist yet
	}
	for id, o := range resp[logsTopic] {
		out[id] = o.At
	}
	return out
}

// endOfQuarantine is where the one partition of the quarantine topic ends. A leader that has just been elected does not say for a moment.
func endOfQuarantine(t *testing.T, cl *kgo.Client) (end int64) {
	t.Helper()
	eventually(t, "Kafka says where the quarantine topic ends", func() bool {
		ends, err := kadm.NewClient(cl).ListEndOffsets(t.Context(), signal.QuarantineTopic)
		o, ok := ends.Lookup(signal.QuarantineTopic, 0)
		end = o.Offset
		return err == nil && ok && o.Err == nil
	})
	return end
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, 10*time.Millisecond, what)
}

func (s *store) hasAll(want []string) bool {
	got := s.stored()
	for _, b := range want {
		if got[b] == 0 {
			return false
		}
	}
	return true
}

func sumOffsets(m map[int32]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

// seeded returns a source of randomness whose seed is in the test's log.
func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

var errPermanent = consumererror.NewPermanent(errors.New("this event is refused"))

func contains(ld plog.Logs, body string) bool {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				if lr.Body().AsString() == body {
					return true
				}
			}
		}
	}
	return false
}
