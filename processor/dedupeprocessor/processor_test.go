package dedupeprocessor

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/dedupe"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// ctxOf is the context of a block of these events.
func ctxOf(t testing.TB, first, last int64, events ...event) (context.Context, block.Block) {
	b := block.Block{Topic: "t", First: first, Last: last, Events: len(events), Records: records(events...), Account: &block.Account{}}
	return block.NewContext(t.Context(), b), b
}

func eachSignal(t *testing.T, test func(t *testing.T, sig signal.Signal)) {
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) { test(t, sig) })
	}
}

func TestCopiesInABlockAndInLaterBlocksAreRemoved(t *testing.T) {
	eachSignal(t, func(t *testing.T, sig signal.Signal) {
		n := newNode(t, sig, nil)
		var events []event
		for id := range byte(10) {
			events = append(events, event{"a", id, int64(id / 3), int32(id % 3)})
		}
		first := append(slices.Clone(events), event{"a", 4, 4, 0}, event{"b", 4, 5, 0})
		ctx, b := ctxOf(t, 0, 5, first...)
		got := n.send(ctx, stamped(sig, first...))
		require.Equal(t, encoded(t, stamped(sig, append(events, event{"b", 4, 5, 0})...)), encoded(t, got))
		require.EqualValues(t, 1, b.Account.Within(b.First, b.Last).Duplicates)

		again := []event{{"a", 1, 6, 0}, {"a", 20, 7, 0}, {"a", 2, 7, 1}, {"a", 21, 8, 0}, {"a", 9, 9, 0}}
		ctx, b = ctxOf(t, 6, 9, again...)
		got = n.send(ctx, stamped(sig, again...))
		require.Equal(t, encoded(t, stamped(sig, again[1], again[3])), encoded(t, got), "nothing is left of what holds no events")
		require.EqualValues(t, 3, b.Account.Within(b.First, b.Last).Duplicates)
		require.EqualValues(t, 17, n.metric("dedupe_events"))
		require.EqualValues(t, 4, n.metric("dedupe_duplicates"))
		require.Positive(t, n.metric("dedupe_remembered_events"))
		require.Positive(t, n.metric("dedupe_memory_bytes"))
		require.EqualValues(t, 900, n.metric("dedupe_effective_window"))
	})
}

// The store notes in its ledger that it has the block, and the next one follows on it.
func TestABlockOfWhichNothingIsLeftIsPassedOn(t *testing.T) {
	eachSignal(t, func(t *testing.T, sig signal.Signal) {
		n := newNode(t, sig, nil)
		ctx, _ := ctxOf(t, 0, 0, event{"a", 1, 0, 0})
		n.send(ctx, stamped(sig, event{"a", 1, 0, 0}))
		ctx, b := ctxOf(t, 1, 1, event{"a", 1, 1, 0})
		got := n.send(ctx, stamped(sig, event{"a", 1, 1, 0}))
		require.NotNil(t, got)
		require.Empty(t, encoded(t, got))
		require.EqualValues(t, 1, b.Account.Within(b.First, b.Last).Duplicates)
		ctx, _ = ctxOf(t, 2, 5)
		require.NotNil(t, n.send(ctx, stamped(sig)), "nor of one without events")
		ctx, _ = ctxOf(t, 6, 6, event{"a", 2, 6, 0})
		require.Equal(t, 1, count(n.send(ctx, stamped(sig, event{"a", 2, 6, 0}))))
	})
}

func TestABlockThatFailedIsDecidedAlikeAgainWholeOrHalved(t *testing.T) {
	eachSignal(t, func(t *testing.T, sig signal.Signal) {
		n := newNode(t, sig, nil)
		events := []event{{"a", 1, 0, 0}, {"a", 1, 1, 0}, {"a", 2, 2, 0}, {"a", 3, 3, 0}, {"a", 2, 3, 1}}
		refused := errors.New("refused")
		for range 3 {
			ctx, b := ctxOf(t, 0, 3, events...)
			var seen int
			n.take = func(_ context.Context, d pdata) error { seen = count(d); return refused }
			require.Equal(t, refused, n.consume(ctx, stamped(sig, events...)), "the error is the pipeline's own")
			require.Equal(t, 3, seen)
			require.EqualValues(t, 2, b.Account.Within(b.First, b.Last).Duplicates)
		}
		require.Zero(t, n.metric("dedupe_events"), "what failed is not counted")
		ctx, _ := ctxOf(t, 0, 1, events[:2]...)
		require.Equal(t, 1, count(n.send(ctx, stamped(sig, events[:2]...))))
		ctx, b := ctxOf(t, 2, 3, events[2:]...)
		require.Equal(t, 2, count(n.send(ctx, stamped(sig, events[2:]...))))
		require.EqualValues(t, 1, b.Account.Within(b.First, b.Last).Duplicates)
		require.EqualValues(t, 5, n.metric("dedupe_events"))
		require.EqualValues(t, 2, n.metric("dedupe_duplicates"))
	})
}

func TestAnEventWithoutAStampInABlockIsPassedOn(t *testing.T) {
	n := newNode(t, signal.Logs, nil)
	for first := range int64(2) {
		ld := stamped(signal.Logs, event{"a", 1, first, 0}, event{"a", 2, first, 1}).(plog.Logs)
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().Clear()
		ctx, _ := ctxOf(t, first, first, event{"a", 1, first, 0}, event{"a", 2, first, 1})
		got := n.send(ctx, ld)
		require.Equal(t, 2-int(first), count(got))
		_, ok := lineage.ReadEvent(got.(plog.Logs).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes())
		require.False(t, ok)
	}
}

func TestTheReceiverFindsTheMemoryAndWarmsItUp(t *testing.T) {
	eachSignal(t, func(t *testing.T, sig signal.Signal) {
		n := newNode(t, sig, nil)
		ctx, intro := block.Introduce(t.Context())
		require.NotNil(t, n.send(ctx, stamped(sig)), "others behind it may be memories, too")
		require.Len(t, intro.Memories(), 1)
		m := intro.Memories()[0]
		require.Greater(t, m.Window(), 15*time.Minute)
		m.Begin("t", 0, 7)
		m.Remember("t", 0, &records(event{"a", 1, 6, 0})[0])
		ctx, _ = ctxOf(t, 7, 7, event{"a", 1, 7, 0}, event{"a", 2, 7, 1})
		require.Equal(t, 1, count(n.send(ctx, stamped(sig, event{"a", 1, 7, 0}, event{"a", 2, 7, 1}))))
		m.End("t", 0)
	})
}

func TestWhatIsForgottenEarlyIsCountedAndLogged(t *testing.T) {
	n := newNode(t, signal.Logs, func(c *Config) { c.MaxMemoryBytes = dedupe.MaxBytesMin })
	ctx, intro := block.Introduce(t.Context())
	n.send(ctx, plog.NewLogs())
	m := intro.Memories()[0]
	m.Begin("t", 0, 0)
	for i := range 100 {
		r := eventid.Record{Appended: start.Add(time.Duration(i) * time.Second).UnixMilli(), Request: eventid.Request{Whole: true}}
		for range 1000 {
			r.Rules, r.Keys = append(r.Rules, eventid.ByContent), append(r.Keys, eventid.Key{Hi: rand.Uint64(), Lo: rand.Uint64()})
		}
		m.Remember("t", 0, &r)
	}
	require.EqualValues(t, 100_000, n.metric("dedupe_forgotten_early")+n.metric("dedupe_remembered_events"))
	require.Positive(t, n.metric("dedupe_forgotten_early"))
	require.Less(t, n.metric("dedupe_effective_window"), int64(100))
	require.LessOrEqual(t, n.metric("dedupe_memory_bytes"), int64(dedupe.MaxBytesMin))
	require.Equal(t, 1, n.log.Len())
}

func TestInAnyPipelineABatchIsPassedOnOnce(t *testing.T) {
	eachSignal(t, func(t *testing.T, sig signal.Signal) {
		n := newNode(t, sig, nil)
		one, two := otlptest.Realistic(sig, 1, 100), otlptest.Realistic(sig, 2, 50)
		require.Equal(t, encoded(t, decoded(t, sig, one)), encoded(t, n.send(t.Context(), decoded(t, sig, one))), "nothing is changed but by removing")
		require.Nil(t, n.send(t.Context(), decoded(t, sig, one)), "nothing is left, so nothing is passed on")
		both := decoded(t, sig, slices.Concat(one, two))
		require.Equal(t, encoded(t, decoded(t, sig, two)), encoded(t, n.send(t.Context(), both)))
		require.NotNil(t, n.send(t.Context(), stamped(sig)), "an empty batch is not the processor's to drop")
		require.EqualValues(t, 350, n.metric("dedupe_events"))
		require.EqualValues(t, 200, n.metric("dedupe_duplicates"))
		require.EqualValues(t, 200, n.removed(eventid.ByContent))
	})
}

func TestAFailedBatchDoesNotMakeItsRetryACopy(t *testing.T) {
	eachSignal(t, func(t *testing.T, sig signal.Signal) {
		n := newNode(t, sig, nil)
		req := otlptest.Realistic(sig, 1, 20)
		n.take = func(context.Context, pdata) error { return errors.New("down") }
		require.Error(t, n.consume(t.Context(), decoded(t, sig, req)))
		require.Equal(t, 20, count(n.send(t.Context(), decoded(t, sig, req))))
		require.Nil(t, n.send(t.Context(), decoded(t, sig, req)))
	})
}

// A client that lost patience sends again while its first request is still on its way. Were the second answered as a copy, and then
// the first one failed, nobody would send it again.
func TestACopyOfWhatIsOnItsWayWaitsForItsOutcome(t *testing.T) {
	for _, stored := range []bool{true, false} {
		n := newNode(t, signal.Logs, nil)
		req := otlptest.Logs(1, 5)
		arrived, outcome := make(chan struct{}), make(chan error)
		calls := 0
		n.take = func(context.Context, pdata) error {
			if calls++; calls == 1 {
				close(arrived)
				return <-outcome
			}
			return nil
		}
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- n.consume(t.Context(), decoded(t, signal.Logs, req)) }()
		<-arrived
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, n.consume(impatient, decoded(t, signal.Logs, req)), context.Canceled)
		go func() { second <- n.consume(t.Context(), decoded(t, signal.Logs, req)) }()
		require.Eventually(t, func() bool { return n.metric("dedupe_waiting") == 1 }, time.Minute, time.Millisecond)
		if stored {
			outcome <- nil
			require.NoError(t, <-first)
			require.NoError(t, <-second)
			require.Equal(t, 1, calls)
		} else {
			outcome <- errors.New("down")
			require.Error(t, <-first)
			require.NoError(t, <-second)
			require.Equal(t, 2, calls)
		}
	}
}

// Guarantee: in a batch that comes again, whatever its events' times, nothing is new; equal events of one batch are no copies of each other; a uid is one
// event, of one resource.
func TestEqualEventsOfABatchAreDistinctAndItsRetryIsNot(t *testing.T) {
	logs := func(at pcommon.Timestamp, uid string, n int) plog.Logs {
		ld := plog.NewLogs()
		records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
		for range n {
			lr := records.AppendEmpty()
			lr.SetTimestamp(at)
			if uid != "" {
				lr.Attributes().PutStr(eventid.AttrUID, uid)
			}
		}
		return ld
	}
	n := newNode(t, signal.Logs, nil)
	for _, tc := range []struct {
		at    pcommon.Timestamp
		uid   string
		rule  eventid.Rule
		first int
	}{
		{1, "", eventid.ByContent, 5}, {0, "", eventid.ByRequest, 5}, {1_000_000, "", eventid.ByRequest, 5}, {1, "u", eventid.ByUID, 1},
	} {
		before := n.removed(tc.rule)
		require.Equal(t, tc.first, count(n.send(t.Context(), logs(tc.at, tc.uid, 5))))
		require.Nil(t, n.send(t.Context(), logs(tc.at, tc.uid, 5)))
		require.EqualValues(t, 10-tc.first, n.removed(tc.rule)-before)
	}
	require.Equal(t, 2, count(n.send(t.Context(), logs(1, "", 7))), "a batch with two more of them")
}

// An operator finds an example of each rule at work without asking for it, and not one for each copy.
func TestAnExampleOfEachRuleIsLogged(t *testing.T) {
	n := newNode(t, signal.Logs, nil)
	for first := range int64(20) {
		events := []event{{"acme", 1, first, 0}, {"acme", 2, first, 1}, {"acme", byte(10 + first), first, 2}}
		b := block.Block{Topic: "t", Partition: 7, First: first, Last: first, Events: 3, Records: records(events...)}
		b.Records[0].Rules[1] = eventid.ByContent
		require.NotNil(t, n.send(block.NewContext(t.Context(), b), stamped(signal.Logs, events...)))
	}
	require.EqualValues(t, 19, n.removed(eventid.ByUID))
	require.EqualValues(t, 19, n.removed(eventid.ByContent))
	lines := n.log.FilterMessageSnippet("a copy was removed").All()
	require.Len(t, lines, 2)
	require.Equal(t, map[string]any{"rule": "uid", "tenant": "acme", "topic": "t", "partition": int32(7), "offset": int64(1), "index": int32(0)}, lines[0].ContextMap())
	require.Equal(t, "content", lines[1].ContextMap()["rule"])
}

// A processor in front may have removed events, or regrouped them: copies are found by their stamps.
func TestCopiesAreFoundWhereverTheyLie(t *testing.T) {
	n := newNode(t, signal.Logs, nil)
	first := []event{{"a", 1, 0, 0}, {"a", 2, 0, 1}, {"a", 3, 1, 0}}
	ctx, _ := ctxOf(t, 0, 1, first...)
	require.Equal(t, 1, count(n.send(ctx, stamped(signal.Logs, first[1]))))
	again := []event{{"a", 1, 2, 0}, {"a", 9, 2, 1}, {"a", 3, 3, 0}, {"a", 8, 3, 1}, {"a", 2, 3, 2}}
	ctx, b := ctxOf(t, 2, 3, again...)
	got := n.send(ctx, stamped(signal.Logs, again[4], again[3], again[4], again[1], again[0]))
	require.Equal(t, 2, count(got), "what was removed before has occurred all the same; what became two is a copy twice")
	require.EqualValues(t, 3, b.Account.Within(b.First, b.Last).Duplicates, "what is removed here is counted")
}

func TestABlockThatSaysNothingOfItsEventsIsRefused(t *testing.T) {
	n := newNode(t, signal.Logs, nil)
	e := event{"a", 1, 0, 0}
	ctx := block.NewContext(t.Context(), block.Block{Topic: "t", Events: 1})
	require.ErrorContains(t, n.consume(ctx, stamped(signal.Logs, e)), "compared by")
}

// Without a receiver that removes them, attributes that look like stamps are an agent's own.
func TestStampsThatAnAgentMadeUpMeanNothing(t *testing.T) {
	n := newNode(t, signal.Logs, nil)
	one := stamped(signal.Logs, event{"a", 1, 0, 0}).(plog.Logs)
	two := plog.NewLogs()
	one.CopyTo(two)
	two.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().SetStr("another event with the same stamp")
	require.NotNil(t, n.send(t.Context(), one))
	require.NotNil(t, n.send(t.Context(), two))
}

func TestAMetricKeepsThePointsThatAreNoCopies(t *testing.T) {
	n := newNode(t, signal.Metrics, nil)
	request := func(times ...int) pmetric.Metrics {
		md := pmetric.NewMetrics()
		metrics := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
		for typ := range 5 {
			m := metrics.AppendEmpty()
			m.SetName("m")
			point(m, typ)
			for i, at := range times {
				add := i > 0 // point has made the first one
				switch at := pcommon.Timestamp(at); typ {
				case 0:
					pointAt(m.Gauge().DataPoints(), i, add).SetTimestamp(at)
				case 1:
					pointAt(m.Sum().DataPoints(), i, add).SetTimestamp(at)
				case 2:
					pointAt(m.Histogram().DataPoints(), i, add).SetTimestamp(at)
				case 3:
					pointAt(m.ExponentialHistogram().DataPoints(), i, add).SetTimestamp(at)
				case 4:
					pointAt(m.Summary().DataPoints(), i, add).SetTimestamp(at)
				}
			}
		}
		return md
	}
	n.send(t.Context(), request(1, 2))
	require.Equal(t, encoded(t, request(3, 5, 5)), encoded(t, n.send(t.Context(), request(1, 3, 2, 5, 5))))
}

// pointAt is point i, which add says is to be added.
func pointAt[P any](points interface {
	At(int) P
	AppendEmpty() P
}, i int, add bool,
) P {
	if add {
		return points.AppendEmpty()
	}
	return points.At(i)
}

func TestShutdownTwiceAndWithoutStart(t *testing.T) {
	n := newNode(t, signal.Traces, nil) // started, and shut down once more when the test ends
	require.NoError(t, n.proc.Shutdown(t.Context()))
	p, err := NewFactory().CreateTraces(t.Context(), processortest.NewNopSettings(metadata.Type()), createDefaultConfig(), consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, p.Shutdown(t.Context()))
}
