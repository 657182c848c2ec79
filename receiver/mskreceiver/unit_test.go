package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/hostile"
)

func testDeps(t *testing.T) *deps {
	t.Helper()
	tel, err := newTelemetry(component.NewID(metadata.Type()), componenttest.NewNopTelemetrySettings(), "group")
	require.NoError(t, err)
	b := newBudget(1<<20, 1<<19)
	b.pause, b.resume = func(string, int32) {}, func(string, int32) {}
	cfg := createDefaultConfig().(*Config)
	return &deps{
		cfg: cfg, tel: tel, budget: b, now: time.Now, waiting: func(int, error) int { return 0 },
		committer: newCommitter(cfg.Retry, zap.NewNop(), tel),
	}
}

func (d *deps) log() *zap.Logger { return d.committer.log }

func gatherOf(limits BlockConfig, events ...int) *gathering {
	n := 0
	g := &gathering{limits: limits, inspect: func(e *entry) { e.events = events[e.record.Offset]; n++ }}
	for i := range events {
		g.add([]*entry{{record: &kgo.Record{Offset: int64(i), Value: make([]byte, 10)}, arrived: time.Unix(100, 0)}})
	}
	return g
}

func offsets(s span) (out []int64) {
	for _, e := range s.entries {
		out = append(out, e.record.Offset)
	}
	return out
}

func TestABlockIsClosedByWhicheverBoundComesFirst(t *testing.T) {
	young, old := time.Unix(100, 0), time.Unix(102, 0)
	limits := BlockConfig{MaxBytes: 1000, MaxEvents: 10, MaxAge: time.Second}
	t.Run("events", func(t *testing.T) {
		g := gatherOf(limits, 4, 4, 4, 4)
		s, _, ok := g.cut(young, false)
		require.True(t, ok)
		require.Equal(t, []int64{0, 1}, offsets(s))
		_, wait, ok := g.cut(young, false)
		require.False(t, ok)
		require.Equal(t, time.Second, wait)
	})
	t.Run("exactly full", func(t *testing.T) {
		s, _, _ := gatherOf(limits, 5, 5).cut(young, false)
		require.Equal(t, []int64{0, 1}, offsets(s))
	})
	t.Run("bytes", func(t *testing.T) {
		l := limits
		l.MaxBytes = 25
		s, _, _ := gatherOf(l, 1, 1, 1).cut(young, false)
		require.Equal(t, []int64{0, 1}, offsets(s))
	})
	t.Run("age", func(t *testing.T) {
		s, _, _ := gatherOf(limits, 1, 1, 1).cut(old, false)
		require.Equal(t, []int64{0, 1, 2}, offsets(s))
	})
	t.Run("paused", func(t *testing.T) {
		s, _, _ := gatherOf(limits, 1).cut(young, true)
		require.Equal(t, []int64{0}, offsets(s))
	})
	t.Run("one record above the bound", func(t *testing.T) {
		s, _, _ := gatherOf(limits, 99, 1).cut(young, false)
		require.Equal(t, []int64{0}, offsets(s))
	})
	t.Run("nothing", func(t *testing.T) {
		_, wait, ok := gatherOf(limits).cut(old, true)
		require.False(t, ok)
		require.Zero(t, wait)
	})
}

func TestASlowPartitionCannotTakeTheOthersShare(t *testing.T) {
	d := testDeps(t)
	paused := map[int32]bool{}
	b := newBudget(1000, 600)
	b.pause = func(_ string, id int32) { paused[id] = true }
	b.resume = func(_ string, id int32) { delete(paused, id) }
	var ps []*partition
	for id := range int32(5) { // a share is 100, the pool is 500, the most is 600
		p := newPartition(topicPartition{logsTopic, id}, signal.Logs, d, zap.NewNop(), nil)
		defer p.cancel()
		ps = append(ps, p)
		b.attach(p)
	}
	b.add(ps[0], 400)
	require.Empty(t, paused, "a single partition borrows from the pool")
	b.add(ps[0], 200)
	require.Equal(t, map[int32]bool{0: true}, paused, "up to two blocks")
	b.add(ps[1], 90)
	require.Len(t, paused, 1, "another has its share, though the pool is taken")
	b.add(ps[1], 20)
	require.Len(t, paused, 2)
	b.add(ps[1], -50)
	require.Len(t, paused, 2, "resumed at half the share, while the pool is taken")
	b.add(ps[1], -20)
	require.Len(t, paused, 1)
	b.add(ps[0], -290)
	require.Len(t, paused, 1, "310 is above half of the most")
	b.add(ps[0], -20)
	require.Empty(t, paused)
	b.add(ps[0], 400)
	require.Len(t, paused, 1)
	b.detach(ps[0])
	require.Empty(t, paused, "a partition that leaves is not paused when it comes back")
	used, _ := b.usage()
	require.EqualValues(t, 730, used)
	b.remove(ps[0])
	b.add(ps[0], 1000)
	used, _ = b.usage()
	require.EqualValues(t, 40, used, "what a removed partition does no longer counts")
}

func TestDecodedFactorCoversMeasuredMemory(t *testing.T) {
	for _, attributes := range []int{0, 4, 16} {
		ld := plog.NewLogs()
		records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
		for i := range 20_000 {
			lr := records.AppendEmpty()
			lr.Body().SetStr(fmt.Sprintf("%06d %s", i, strings.Repeat("x", 100)))
			for a := range attributes {
				lr.Attributes().PutStr("attribute."+strconv.Itoa(a), "a value "+strconv.Itoa(i))
			}
		}
		value, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
		require.NoError(t, err)
		held := heap()
		b := newBatch(signal.Logs, &otlpdecode.Decoder{})
		require.Nil(t, b.append(&entry{record: &kgo.Record{Value: value}, events: records.Len()}))
		factor := (heap() - held) / float64(len(value))
		t.Logf("%d attributes, %d bytes an event: decoded takes %.1f times the record", attributes, len(value)/records.Len(), factor)
		require.Less(t, factor, float64(decodedFactor))
		runtime.KeepAlive(ld)
		runtime.KeepAlive(value)
		runtime.KeepAlive(b)
	}
}

// Guarantee: what the receiver counts for a record covers what it takes decoded, whatever its shape, so that hostile records cannot hold more than the bound.
func TestCostsCoverHostileShapes(t *testing.T) {
	for _, shape := range hostile.Shapes() {
		if shape.JSON {
			continue // it is protobuf when it comes here
		}
		value := shape.Make(rand.New(rand.NewPCG(1, 1)), 1<<20, 1)
		e := &entry{record: &kgo.Record{Value: value}}
		inspector{signal: shape.Signal}.inspect(e)
		require.Nil(t, e.refusal, shape.Name)
		held := heap()
		b := newBatch(shape.Signal, &otlpdecode.Decoder{})
		require.Nil(t, b.append(e), shape.Name)
		took := heap() - held
		counted := float64(costOf(e.record)+beyondEstimate(e)) - float64(len(value))
		t.Logf("%s: %d bytes of %d events take %.1f MiB decoded, %.1f are counted", shape.Name, len(value), e.events, took/(1<<20), counted/(1<<20))
		assert.Less(t, took, counted+(1<<20), shape.Name)
		runtime.KeepAlive(value)
		runtime.KeepAlive(b)
	}
}

// heap is what is reachable, in bytes.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the first only ages what pools hold
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

func TestEveryEventOfEverySignalIsStamped(t *testing.T) {
	md := pmetric.NewMetrics()
	ms := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	ms.AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty()
	ms.AppendEmpty().SetEmptySum().DataPoints().AppendEmpty().SetTimestamp(1)
	ms.AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty()
	ms.AppendEmpty().SetEmptyExponentialHistogram().DataPoints().AppendEmpty()
	ms.AppendEmpty().SetEmptySummary().DataPoints().AppendEmpty()
	metrics, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	td := ptrace.NewTraces()
	spans := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	spans.AppendEmpty().SetName("a")
	spans.AppendEmpty().SetName("b")
	traces, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	require.NoError(t, err)

	inspect := func(s signal.Signal, value []byte) *entry {
		e := &entry{record: &kgo.Record{
			Topic: s.Topic(), Partition: 3, Offset: 9, Key: []byte("agent"), Value: value, Timestamp: time.Unix(5, 0),
			Headers: []kgo.RecordHeader{{Key: envelope.HeaderTenant, Value: []byte("acme")}, {Key: envelope.HeaderReceivedNanos, Value: []byte("4000000000")}},
		}}
		inspector{signal: s, defaultTenant: "d"}.inspect(e)
		require.Nil(t, e.refusal)
		return e
	}
	want := lineage.Origin{Tenant: "acme", Source: "agent", Received: time.Unix(4, 0).UTC(), Topic: "otlp.metrics.v1", Partition: 3, Appended: time.Unix(5, 0).UTC()}
	b, e := newBatch(signal.Metrics, &otlpdecode.Decoder{}), inspect(signal.Metrics, metrics)
	require.Nil(t, b.append(e))
	require.Equal(t, 5, b.events)
	require.Equal(t, 5, e.events)
	got, _ := lineage.ReadResource(b.metrics.ResourceMetrics().At(0).Resource().Attributes())
	require.Equal(t, want, got)
	m := b.metrics.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	ids := map[[16]byte]bool{}
	for i, attrs := range []func() (lineage.Event, bool){
		func() (lineage.Event, bool) {
			return lineage.ReadEvent(m.At(0).Gauge().DataPoints().At(0).Attributes())
		},
		func() (lineage.Event, bool) { return lineage.ReadEvent(m.At(1).Sum().DataPoints().At(0).Attributes()) },
		func() (lineage.Event, bool) {
			return lineage.ReadEvent(m.At(2).Histogram().DataPoints().At(0).Attributes())
		},
		func() (lineage.Event, bool) {
			return lineage.ReadEvent(m.At(3).ExponentialHistogram().DataPoints().At(0).Attributes())
		},
		func() (lineage.Event, bool) {
			return lineage.ReadEvent(m.At(4).Summary().DataPoints().At(0).Attributes())
		},
	} {
		ev, ok := attrs()
		require.True(t, ok)
		require.Equal(t, lineage.Event{ID: ev.ID, Offset: 9, Index: int32(i)}, ev)
		ids[ev.ID] = true
	}
	require.Len(t, ids, 5)

	b = newBatch(signal.Traces, &otlpdecode.Decoder{})
	require.Nil(t, b.append(inspect(signal.Traces, traces)))
	require.Nil(t, b.append(inspect(signal.Traces, traces)))
	require.Equal(t, 4, b.events)
	require.Equal(t, 4, b.traces.SpanCount())
	ev, _ := lineage.ReadEvent(b.traces.ResourceSpans().At(1).ScopeSpans().At(0).Spans().At(1).Attributes())
	require.EqualValues(t, 1, ev.Index)
}

func TestARecordWithoutHeadersHasDefaults(t *testing.T) {
	e := &entry{record: &kgo.Record{Value: logsRequest("x"), Timestamp: time.Unix(7, 0), Headers: []kgo.RecordHeader{{Key: envelope.HeaderReceivedNanos, Value: []byte("soon")}}}}
	inspector{signal: signal.Logs, defaultTenant: "d"}.inspect(e)
	require.Nil(t, e.refusal)
	require.Equal(t, "d", e.origin.Tenant)
	require.Equal(t, time.Unix(7, 0), e.origin.Received)
	require.False(t, e.origin.gateway)
	require.Equal(t, 1, e.events)
}

// Guarantee: no bytes make decoding panic; what inspection accepts decodes to as many events as it counted, all stamped.
func FuzzRecord(f *testing.F) {
	f.Add(uint8(3), logsRequest("a", "b"), "agent")
	f.Add(uint8(3), deepLogs(10_000), "")
	f.Add(uint8(2), []byte("{}"), "\xff")
	f.Add(uint8(1), []byte{0x0a, 0x00}, "")
	f.Fuzz(func(t *testing.T, sig uint8, value []byte, key string) {
		s := signal.All[int(sig)%len(signal.All)]
		e := &entry{record: &kgo.Record{Topic: s.Topic(), Key: []byte(key), Value: value}}
		inspector{signal: s, defaultTenant: "d"}.inspect(e)
		if e.refusal != nil {
			q := newQuarantine("q", "g").record(e)
			if string(q.Value) != string(value) || len(q.Headers) != 7 {
				t.Fatalf("quarantine changed the record: %v", q)
			}
			return
		}
		b := newBatch(s, &otlpdecode.Decoder{})
		if refused := b.append(e); refused != nil {
			t.Fatalf("inspection accepted what decoding refuses: %s", refused.reason)
		}
		if b.events != e.events {
			t.Fatalf("inspection counted %d events, decoding %d", e.events, b.events)
		}
	})
}

// Guarantees of the committer: statements of a partition that was forgotten count for nothing, forget waits for a commit that is
// on its way, a failed commit never overwrites a later statement, and its owner hears of none but those that are committed.
func TestCommitterGivesUpWhatWasForgotten(t *testing.T) {
	d := testDeps(t)
	c := d.committer
	c.retry = RetryConfig{InitialInterval: time.Millisecond, MaxInterval: time.Millisecond}
	p := newPartition(topicPartition{logsTopic, 0}, signal.Logs, d, zap.NewNop(), nil)
	defer p.cancel()
	state := func(number uint64, next int64) { c.state(p, statement{position: position{next: next}, number: number}) }
	state(1, 1)
	require.Empty(t, c.dirty, "not owned yet")
	c.own(p)

	requests := make(chan map[topicPartition]statement, 10)
	answer := make(chan error)
	c.commit = func(ctx context.Context, o map[topicPartition]statement) (map[topicPartition]error, error) {
		requests <- o
		var err error
		select {
		case err = <-answer:
		case <-ctx.Done():
			err = ctx.Err()
		}
		return map[topicPartition]error{p.topicPartition: err}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.run(ctx) }()
	defer func() { cancel(); <-ended }()

	state(2, 5)
	require.EqualValues(t, 5, (<-requests)[p.topicPartition].next)
	state(3, 8)
	answer <- errors.New("not now")
	require.EqualValues(t, 8, (<-requests)[p.topicPartition].next)
	require.Zero(t, p.acked.Load(), "the first was not committed, the second not yet")
	answer <- nil
	require.NoError(t, c.flush(t.Context(), []*partition{p}))
	require.EqualValues(t, 3, p.acked.Load())

	state(4, 9)
	<-requests
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	require.ErrorIs(t, c.flush(short, []*partition{p}), context.DeadlineExceeded)
	c.forget([]*partition{p})
	require.Nil(t, c.flight)
	require.Empty(t, c.dirty)
	state(5, 10)
	require.Empty(t, c.dirty)
	require.EqualValues(t, 3, p.acked.Load())
}
