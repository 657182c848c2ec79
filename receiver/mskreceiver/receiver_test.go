package mskreceiver

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func TestEveryRecordIsDeliveredOnceAndCommitted(t *testing.T) {
	c := fakeCluster(t, 3)
	cl := testClient(t, c.ListenAddrs())
	want := produce(t, cl, "x", 90, 3)
	s := newStore(nil)
	_, stop := run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "delivered and committed", func() bool { return sumOffsets(committed(t, cl, "g")) == 90 })
	require.NoError(t, stop())
	got := s.stored()
	require.Len(t, got, 180)
	for _, b := range allBodies(want) {
		require.Equal(t, 1, got[b], b)
	}
	s.check(t)
}

func TestAFailingPipelineGetsTheSameBlockUntilItTakesIt(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	want := produce(t, cl, "x", 5, 1)
	var tries atomic.Int32
	var first string
	s := newStore(func(_ context.Context, b block.Block, ld plog.Logs) error {
		n := tries.Add(1)
		if n == 1 {
			first = b.String()
		}
		if b.String() != first {
			return errors.New("another block")
		}
		ld.ResourceLogs().RemoveIf(func(plog.ResourceLogs) bool { return n <= 5 }) // a pipeline may change what it was given
		if n <= 5 {
			return errors.New("not now")
		}
		return nil
	})
	run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "delivered", func() bool { return s.hasAll(allBodies(want)) })
	require.EqualValues(t, 6, tries.Load())
}

func TestAStuckPartitionHoldsNoOtherUpAndCommitsNothing(t *testing.T) {
	c := fakeCluster(t, 3)
	cl := testClient(t, c.ListenAddrs(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	s := newStore(func(ctx context.Context, b block.Block, _ plog.Logs) error {
		if b.Partition == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.MaxInFlightBytes = 1 << 20
	cfg.Fetch.MaxBytes, cfg.Fetch.MaxPartitionBytes = 64<<10, 64<<10
	cfg.ShutdownTimeout = 300 * time.Millisecond
	r, stop := run(t, cfg, s)
	for range 20 { // far more than the memory bound in all
		produce(t, cl, "x", 600, 3)
	}
	eventually(t, "the others are done", func() bool {
		o := committed(t, cl, "g")
		return o[0] == 4000 && o[2] == 4000
	})
	used, _ := r.group.deps.budget.usage()
	require.LessOrEqual(t, used, 4*cfg.MaxInFlightBytes)        // the client's own fetches come on top
	eventually(t, "only the stuck one is paused", func() bool { // the others are resumed when what they held is let go of, which is after the commit
		_, paused := r.group.deps.budget.usage()
		return paused == 1
	})
	require.ErrorContains(t, stop(), "partition 1")
	require.Zero(t, max(0, committed(t, cl, "g")[1]))
}

func TestOneRefusedEventIsQuarantinedAndTheRestGoesOn(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs(), kgo.ConsumeTopics(signal.QuarantineTopic))
	want := produce(t, cl, "x", 33, 1)
	s := newStore(func(_ context.Context, _ block.Block, ld plog.Logs) error {
		if contains(ld, "x-17-b") {
			return errPermanent
		}
		return nil
	})
	run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 33 })
	got := s.stored()
	require.Len(t, got, 64)
	require.Zero(t, got["x-17-a"])
	f := cl.PollFetches(t.Context())
	require.Len(t, f.Records(), 1)
	q := f.Records()[0]
	require.Equal(t, logsRequest(want[0][17]...), q.Value)
	require.Equal(t, "source-17", string(q.Key))
	code, _ := header(q, envelope.HeaderQuarantineCode)
	require.Equal(t, codeRefused, code)
	offset, _ := header(q, envelope.HeaderOriginOffset)
	require.Equal(t, "17", offset)
	reason, _ := header(q, envelope.HeaderQuarantineReason)
	require.Contains(t, reason, "this event is refused")
	group, _ := header(q, envelope.HeaderOriginGroup)
	require.Equal(t, "g", group)

	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.blocks, func(a, b block.Block) int { return int(a.First - b.First) })
	requireTiles(t, s.blocks, 0, 33)
	quarantined, events := int64(0), 0
	for _, b := range s.blocks {
		all := b.Account.Within(b.First, b.Last)
		require.EqualValues(t, b.Events, all.Events)
		quarantined += all.Quarantined
		events += b.Events
		if b.First == 17 && b.Last == 17 {
			require.Zero(t, b.Events, "the refused record's block is delivered without it")
		}
	}
	require.Equal(t, []int64{2, 64}, []int64{quarantined, int64(events)})
}

func TestPoisonIsQuarantinedBeforeItsOffsetIsCommitted(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs(), kgo.ConsumeTopics(signal.QuarantineTopic))
	var failures atomic.Int32
	var full atomic.Bool
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		p := req.(*kmsg.ProduceRequest)
		if !full.Load() {
			return nil, nil, false
		}
		failures.Add(1)
		resp := p.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range p.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition = topic.Partitions[0].Partition
			rp.ErrorCode = kerr.MessageTooLarge.Code
			rt.Partitions = append(rt.Partitions, rp)
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	require.NoError(t, cl.ProduceSync(t.Context(),
		&kgo.Record{Topic: logsTopic, Value: logsRequest("good-1")},
		&kgo.Record{Topic: logsTopic, Key: []byte("k"), Value: []byte("{json}"), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}, {Key: envelope.HeaderQuarantineCode, Value: []byte("old")}}},
		&kgo.Record{Topic: logsTopic, Value: logsRequest("other"), Headers: []kgo.RecordHeader{{Key: envelope.HeaderSignal, Value: []byte("metrics")}}},
		&kgo.Record{Topic: logsTopic, Value: deepLogs(10_000)},
		&kgo.Record{Topic: logsTopic, Value: logsRequest("good-2")},
	).FirstErr())
	s := newStore(nil)
	full.Store(true)
	run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "the quarantine refused", func() bool { return failures.Load() >= 3 })
	require.LessOrEqual(t, committed(t, cl, "g")[0], int64(1), "nothing behind the poison may be committed")
	full.Store(false)
	eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 5 })
	require.Equal(t, map[string]int{"good-1": 1, "good-2": 1}, s.stored())

	codes := map[string]string{}
	for len(codes) < 3 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for _, r := range cl.PollFetches(ctx).Records() {
			require.NoError(t, ctx.Err())
			offset, _ := header(r, envelope.HeaderOriginOffset)
			codes[offset], _ = header(r, envelope.HeaderQuarantineCode)
			if offset == "1" {
				require.Equal(t, "{json}", string(r.Value))
				v, _ := header(r, "h")
				require.Equal(t, "v", v)
			}
		}
		cancel()
	}
	require.Equal(t, map[string]string{"1": codeUndecodable, "2": codeWrongSignal, "3": codeLimitExceeded}, codes)
}

// deepLogs is a request whose body is nested depth levels deep; nested wraps bytes as one level.
func deepLogs(depth int) []byte {
	v := []byte{0x0a, 0x01, 'x'} // AnyValue{string_value}
	for range depth {
		v = nested(v)
	}
	for _, tag := range []byte{0x2a, 0x12, 0x12, 0x0a} { // body, log_records, scope_logs, resource_logs
		v = field(tag, v)
	}
	return v
}

func nested(v []byte) []byte { return field(0x2a, field(0x0a, v)) } // AnyValue{array_value{values}}

func field(tag byte, content []byte) []byte {
	out := []byte{tag}
	n := uint64(len(content))
	for n >= 0x80 {
		out = append(out, byte(n)|0x80)
		n >>= 7
	}
	return append(append(out, byte(n)), content...)
}

func TestNoBlockIsDeliveredBeforeItsIntentIsCommitted(t *testing.T) {
	c := fakeCluster(t, 2)
	cl := testClient(t, c.ListenAddrs())
	var refused atomic.Int32
	var heal atomic.Bool
	c.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if heal.Load() {
			return nil, nil, false
		}
		q := req.(*kmsg.OffsetCommitRequest)
		resp := q.ResponseKind().(*kmsg.OffsetCommitResponse)
		code := []int16{kerr.NotCoordinator.Code, kerr.IllegalGeneration.Code, kerr.CoordinatorLoadInProgress.Code}[refused.Add(1)%3]
		for _, topic := range q.Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
			for _, p := range topic.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	want := produce(t, cl, "x", 20, 2)
	s := newStore(nil)
	run(t, testConfig(c.ListenAddrs(), "g"), s)
	eventually(t, "commits were refused", func() bool { return refused.Load() >= 9 })
	require.Empty(t, s.stored(), "nothing may be delivered that the group does not know of")
	heal.Store(true)
	eventually(t, "delivered", func() bool { return s.hasAll(allBodies(want)) })
	eventually(t, "committed", func() bool { return sumOffsets(committed(t, cl, "g")) == 20 })
	for _, n := range s.stored() {
		require.Equal(t, 1, n)
	}
}

func TestATopicThatDoesNotExistYetIsWaitedFor(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs())
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.Topics.Logs = []string{"later.v1"}
	s := newStore(nil)
	run(t, cfg, s)
	time.Sleep(200 * time.Millisecond) // let it see that there is none
	require.NoError(t, c.CreateTopic("later.v1", 1, nil))
	cl.ForceMetadataRefresh()
	eventually(t, "produced", func() bool {
		return cl.ProduceSync(t.Context(), &kgo.Record{Topic: "later.v1", Value: logsRequest("z")}).FirstErr() == nil
	})
	eventually(t, "delivered", func() bool { return s.hasAll([]string{"z"}) })
}

func TestShutdownNeverHangs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	create := func() *mskReceiver {
		cfg := testConfig([]string{"127.0.0.1:1"}, "g")
		r, err := NewFactory().CreateLogs(ctx, receivertest.NewNopSettings(metadata.Type()), cfg, consumertest.NewNop())
		require.NoError(t, err)
		return r.(*mskReceiver)
	}
	t.Run("without Start", func(t *testing.T) {
		r := create()
		require.NoError(t, r.Shutdown(ctx))
		require.NoError(t, r.Shutdown(ctx))
		require.Error(t, r.Start(ctx, componenttest.NewNopHost()))
	})
	t.Run("after a failed Start", func(t *testing.T) {
		r := create()
		r.cfg.Topics.Logs = nil
		require.Error(t, r.Start(ctx, componenttest.NewNopHost()))
		require.NoError(t, r.Shutdown(ctx))
		require.NoError(t, r.Shutdown(ctx))
	})
	t.Run("without any broker", func(t *testing.T) {
		r := create()
		require.NoError(t, r.Start(ctx, componenttest.NewNopHost()))
		require.NoError(t, r.Shutdown(ctx))
		require.NoError(t, r.Shutdown(ctx))
	})
	require.NoError(t, ctx.Err())
	require.Empty(t, instances)
}

func TestOneConfiguredReceiverIsOneMemberForAllSignals(t *testing.T) {
	cfg := testConfig([]string{"127.0.0.1:1"}, "g")
	f, set := NewFactory(), receivertest.NewNopSettings(metadata.Type())
	l, err := f.CreateLogs(t.Context(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	m, err := f.CreateMetrics(t.Context(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	require.Same(t, l, m)
	require.NoError(t, l.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, m.Start(t.Context(), componenttest.NewNopHost()))
	require.Equal(t, map[string]signal.Signal{"otlp.logs.v1": signal.Logs, "otlp.metrics.v1": signal.Metrics}, l.(*mskReceiver).group.signals)
	require.NoError(t, m.Shutdown(t.Context()))
	require.NoError(t, l.Shutdown(t.Context()))
}

// statusHost keeps what a pipeline's host is told.
type statusHost struct {
	component.Host
	told chan componentstatus.Status
}

func (h statusHost) Report(e *componentstatus.Event) { h.told <- e.Status() }

// Guarantee: the status of a receiver that several pipelines use is that of each of them.
func TestEveryPipelinesHostHearsTheStatus(t *testing.T) {
	cfg := testConfig([]string{"127.0.0.1:1"}, "g")
	f, set := NewFactory(), receivertest.NewNopSettings(metadata.Type())
	l, err := f.CreateLogs(t.Context(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	m, err := f.CreateMetrics(t.Context(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	var hosts []statusHost
	for _, c := range []component.Component{l, m} {
		h := statusHost{componenttest.NewNopHost(), make(chan componentstatus.Status, 10)}
		require.NoError(t, c.Start(t.Context(), h))
		hosts = append(hosts, h)
	}
	r := l.(*mskReceiver)
	r.countWaiting(1, errors.New("the store is down"))
	r.countWaiting(-1, nil)
	for i, h := range hosts {
		require.Len(t, h.told, 2, "host %d", i)
		require.Equal(t, componentstatus.StatusRecoverableError, <-h.told)
		require.Equal(t, componentstatus.StatusOK, <-h.told)
	}
	require.NoError(t, l.Shutdown(t.Context()))
}
