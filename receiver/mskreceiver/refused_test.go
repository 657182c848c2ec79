package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// naming is the refusal of a store that says which events it refuses.
func naming(refs ...block.EventRef) error {
	return consumererror.NewPermanent(fmt.Errorf("INSERT: %w", &block.RefusedError{Events: refs, Err: errors.New("constraint")}))
}

// refusing names the first event of ld whose body is bad.
func refusing(ld plog.Logs, bad ...string) error {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				if slices.Contains(bad, lr.Body().AsString()) {
					ev, _ := lineage.ReadEvent(lr.Attributes())
					return naming(block.EventRef{Offset: ev.Offset, Index: ev.Index})
				}
			}
		}
	}
	return nil
}

// items are the records in quarantine, by origin offset; each holds those bodies.
func quarantined(t *testing.T, cl *kgo.Client) map[string][]string {
	t.Helper()
	end := endOfQuarantine(t, cl)
	out := map[string][]string{}
	for n := int64(0); n < end; {
		for _, r := range cl.PollFetches(t.Context()).Records() {
			n++
			code, _ := header(r, envelope.HeaderQuarantineCode)
			require.Equal(t, codeRefused, code)
			offset, _ := header(r, envelope.HeaderOriginOffset)
			ld, err := (&otlpdecode.Decoder{}).Logs(r.Value)
			require.NoError(t, err)
			var bodies []string
			for _, rl := range ld.ResourceLogs().All() {
				for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
					bodies = append(bodies, lr.Body().AsString())
				}
			}
			request, _ := header(r, envelope.HeaderRequest)
			if request != "" {
				of, ok := eventid.ParseRequest([]byte(request), len(bodies))
				require.True(t, ok)
				for i := range bodies {
					index, nth := of.At(i)
					bodies[i] = fmt.Sprintf("%s %x/%d/%d", bodies[i], of.Digest[:2], index, nth)
				}
			}
			out[offset] = append(out[offset], strings.Join(bodies, ","))
		}
	}
	return out
}

// Scenario: a store refuses events, one after the other, of three records of blocks of many; one record is itself a part of a request.
// Guarantees: just these events are in quarantine, with the identity that they had, and all others are stored once, in the blocks that
// were decided first: nothing is halved.
func TestOnlyTheEventsThatAStoreNamesAreQuarantined(t *testing.T) {
	c := fakeCluster(t, 1)
	cl := testClient(t, c.ListenAddrs(), kgo.ConsumeTopics(signal.QuarantineTopic))
	part := eventid.Request{Digest: [16]byte{0xab, 0xcd}}
	part.Add(7, 0)
	part.Add(9, 2)
	part.Add(12, 0)
	var records []*kgo.Record
	for i := range 30 {
		r := &kgo.Record{Topic: logsTopic, Value: logsRequest(fmt.Sprintf("%d-a", i), fmt.Sprintf("%d-b", i), fmt.Sprintf("%d-b", i))}
		if i == 20 {
			r.Headers = []kgo.RecordHeader{{Key: envelope.HeaderRequest, Value: part.Encode()}}
			r.Value = logsRequest("20-a", "20-b", "20-c")
		}
		records = append(records, r)
	}
	require.NoError(t, cl.ProduceSync(t.Context(), records...).FirstErr())
	s := newStore(func(_ context.Context, _ block.Block, ld plog.Logs) error { return refusing(ld, "3-a", "11-b", "20-b") })
	cfg := testConfig(c.ListenAddrs(), "g")
	cfg.Block.MaxEvents, cfg.Block.MaxAge = 15, time.Second // 5 records
	run(t, cfg, s)
	eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 30 })
	digest := func(offset int) string {
		d := eventid.Digest(records[offset].Value)
		return fmt.Sprintf("%x", d[:2])
	}
	require.Equal(t, map[string][]string{
		"3":  {"3-a " + digest(3) + "/0/0"},
		"11": {"11-b " + digest(11) + "/1/0", "11-b " + digest(11) + "/2/1"},
		"20": {"20-b abcd/9/2"},
	}, quarantined(t, cl))
	got, sum := s.stored(), 0
	for body, n := range got {
		require.NotContains(t, []string{"3-a", "11-b", "20-b"}, body)
		sum += n
	}
	require.Equal(t, 90-4, sum)
	requireTiles(t, s.offered(0), 0, 30)
	require.Len(t, s.offered(0), 6, "nothing was halved")
	s.mu.Lock()
	events, out := 0, int64(0)
	for _, b := range s.blocks {
		events += b.Events
		all := b.Account.Within(b.First, b.Last)
		require.EqualValues(t, b.Events, all.Events)
		out += all.Quarantined
	}
	s.mu.Unlock()
	require.Equal(t, []int64{86, 4}, []int64{int64(events), out})
	require.NotContains(t, metadataOf(t, cl, "g", 0), "x=", "nothing is begun any more")
	s.check(t)
}

// Scenario: an owner crashes after it has stated which events a block is delivered without: before or after these are in quarantine, or
// after the store has taken the rest.
// Guarantees: the next owner delivers the block without them again, though its store would take them now; they are in quarantine.
func TestARedoneBlockIsDeliveredWithoutTheSameEvents(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprintf("stored %v", stored), func(t *testing.T) {
			c := fakeCluster(t, 1)
			cl := testClient(t, c.ListenAddrs(), kgo.ConsumeTopics(signal.QuarantineTopic))
			produce(t, cl, "x", 10, 1)
			first := newStore(func(_ context.Context, b block.Block, ld plog.Logs) error {
				if err := refusing(ld, "x-4-b"); err != nil || b.First > 4 || stored {
					return err
				}
				return errors.New("not now")
			})
			cfg := testConfig(c.ListenAddrs(), "g")
			cfg.Block.MaxAge = time.Hour // so that only intents are in a hurry to be committed
			cfg.Block.MaxEvents = 10     // 5 records
			r, stop := run(t, cfg, first)
			eventually(t, "it is stated, and the rest was offered", func() bool {
				first.mu.Lock()
				defer first.mu.Unlock()
				offers := 0
				for _, b := range first.offers {
					if b.First == 0 && b.Events == 9 {
						offers++
					}
				}
				return offers > 0
			})
			crash(r, stop)
			require.Contains(t, metadataOf(t, cl, "g", 0), " x=4:1")

			second := newStore(nil)
			run(t, testConfig(c.ListenAddrs(), "g"), second)
			eventually(t, "all committed", func() bool { return committed(t, cl, "g")[0] == 10 })
			require.Len(t, second.stored(), 19)
			require.Zero(t, second.stored()["x-4-b"])
			require.Equal(t, first.offered(0)[0].Name(), second.offered(0)[0].Name())
			require.True(t, second.offered(0)[0].Redo)
			for offset, items := range quarantined(t, cl) {
				require.Equal(t, "4", offset)
				require.LessOrEqual(t, len(items), 2, "once by each owner")
				for _, item := range items {
					require.Regexp(t, "^x-4-b [0-9a-f]{4}/1/0$", item)
				}
			}
			second.check(t)
		})
	}
}

// Guarantee: where a refusal names what is not there, or more events than a partition can state, or all of a record, it is found down to a
// record, as where none is named; the others are stored.
func TestARefusalThatNamesTooMuchCostsTheRecord(t *testing.T) {
	many := make([]string, maxOmitted+5)
	for i := range many {
		many[i] = fmt.Sprint("many-", i)
	}
	for name, answer := range map[string]func(offset int64) error{
		"another record": func(int64) error { return naming(block.EventRef{Offset: 99}) },
		"no event of it": func(o int64) error { return naming(block.EventRef{Offset: o, Index: int32(len(many))}) },
		"too many": func(o int64) error {
			var refs []block.EventRef
			for i := range maxOmitted + 1 {
				refs = append(refs, block.EventRef{Offset: o, Index: int32(i)})
			}
			return naming(refs...)
		},
		"none": func(int64) error { return errPermanent },
	} {
		t.Run(name, func(t *testing.T) {
			c := fakeCluster(t, 1)
			cl := testClient(t, c.ListenAddrs(), kgo.ConsumeTopics(signal.QuarantineTopic))
			require.NoError(t, cl.ProduceSync(t.Context(),
				&kgo.Record{Topic: logsTopic, Value: logsRequest("a", "b")},
				&kgo.Record{Topic: logsTopic, Value: logsRequest(many...)},
				&kgo.Record{Topic: logsTopic, Value: logsRequest("c", "d")},
			).FirstErr())
			s := newStore(func(_ context.Context, _ block.Block, ld plog.Logs) error {
				if contains(ld, many[0]) {
					return answer(1)
				}
				return nil
			})
			run(t, testConfig(c.ListenAddrs(), "g"), s)
			eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 3 })
			require.Equal(t, map[string]int{"a": 1, "b": 1, "c": 1, "d": 1}, s.stored())
			require.Equal(t, map[string][]string{"1": {strings.Join(many, ",")}}, quarantined(t, cl), "as it was")
		})
	}
	t.Run("all, one by one", func(t *testing.T) {
		c := fakeCluster(t, 1)
		cl := testClient(t, c.ListenAddrs(), kgo.ConsumeTopics(signal.QuarantineTopic))
		produce(t, cl, "x", 3, 1)
		s := newStore(func(_ context.Context, _ block.Block, ld plog.Logs) error { return refusing(ld, "x-1-a", "x-1-b") })
		run(t, testConfig(c.ListenAddrs(), "g"), s)
		eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 3 })
		require.Len(t, s.stored(), 4)
		items := quarantined(t, cl)["1"]
		require.Contains(t, items, "x-1-a,x-1-b", "the whole record")
	})
}

// Guarantee: events are left out of every signal by their place, and nothing else is.
func TestEventsAreLeftOutOfEverySignal(t *testing.T) {
	md := pmetric.NewMetrics()
	ms := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	gauge := ms.AppendEmpty().SetEmptyGauge().DataPoints()
	gauge.AppendEmpty()
	gauge.AppendEmpty()
	ms.AppendEmpty().SetEmptySum().DataPoints().AppendEmpty()
	ms.AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty()
	ms.AppendEmpty().SetEmptyExponentialHistogram().DataPoints().AppendEmpty()
	ms.AppendEmpty().SetEmptySummary().DataPoints().AppendEmpty()
	metrics, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	td := ptrace.NewTraces()
	for range 3 {
		td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty().SetName("a")
	}
	traces, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	require.NoError(t, err)
	for _, tc := range []struct {
		signal  signal.Signal
		value   []byte
		omitted []int32
		left    int
	}{
		{signal.Metrics, metrics, []int32{0, 2, 5}, 3},
		{signal.Metrics, metrics, []int32{3, 4}, 4},
		{signal.Traces, traces, []int32{1}, 2},
		{signal.Logs, logsRequest("a", "b", "c"), []int32{0, 2}, 1},
	} {
		e := &entry{record: &kgo.Record{Topic: tc.signal.Topic(), Offset: 9, Value: tc.value}}
		inspector{signal: tc.signal, defaultTenant: "d"}.inspect(e)
		e.omitted = tc.omitted
		b := newBatch(tc.signal, &otlpdecode.Decoder{})
		require.Nil(t, b.append(e))
		b.leaveOut([]*entry{e})
		require.Equal(t, tc.left, b.events)
		switch tc.signal {
		case signal.Metrics:
			require.Equal(t, tc.left, b.metrics.DataPointCount())
		case signal.Traces:
			require.Equal(t, tc.left, b.traces.SpanCount())
		case signal.Logs:
			require.Equal(t, tc.left, b.logs.LogRecordCount())
			require.Equal(t, "b", b.logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().AsString())
		}
	}
}
