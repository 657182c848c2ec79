package lineage

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

var (
	origin = Origin{
		Tenant: "acme", Source: "agent-7", Received: time.Unix(1_780_000_000, 123_456_789).UTC(), Topic: "otlp.logs.v1", Partition: 11,
	}
	event = Event{ID: [16]byte{1, 2, 3, 15: 16}, Offset: 1 << 40, Index: 4711}
)

func TestReadingReturnsWhatWasStamped(t *testing.T) {
	for _, o := range []Origin{origin, {Received: time.Unix(0, 0).UTC()}, {Tenant: "t", Received: time.Unix(1, 0).UTC(), Partition: math.MaxInt32}} {
		attrs := pcommon.NewMap()
		attrs.PutStr("service.name", "shop")
		StampResource(attrs, o)
		got, ok := ReadResource(attrs)
		require.True(t, ok)
		require.Equal(t, o, got)
	}
	for _, e := range []Event{event, {Offset: -1}, {Offset: math.MaxInt64, Index: math.MaxInt32}} {
		attrs := pcommon.NewMap()
		attrs.PutStr("k", "v")
		StampEvent(attrs, e)
		got, ok := ReadEvent(attrs)
		require.True(t, ok)
		require.Equal(t, e, got)
		require.Equal(t, 2, attrs.Len(), "an event carries one attribute")
	}
}

func TestWhatIsNotStampedIsNotRead(t *testing.T) {
	attrs := pcommon.NewMap()
	_, ok := ReadResource(attrs)
	require.False(t, ok)
	_, ok = ReadEvent(attrs)
	require.False(t, ok)
	attrs.PutStr(AttrEvent, "text")
	_, ok = ReadEvent(attrs)
	require.False(t, ok)
	attrs.PutEmptyBytes(AttrEvent).FromRaw(make([]byte, eventSize-1))
	_, ok = ReadEvent(attrs)
	require.False(t, ok)
}

// An agent must not pass for another tenant, nor put its events elsewhere.
func TestWhatAnAgentSentUnderThePrefixIsRemoved(t *testing.T) {
	spoof := func() pcommon.Map {
		attrs := pcommon.NewMap()
		attrs.PutStr("before", "x")
		attrs.PutStr(AttrTenant, "victim")
		attrs.PutInt(AttrPartition, 99)
		attrs.PutStr("pulsegrid.unheard_of", "x")
		attrs.PutEmptyBytes(AttrEvent).FromRaw(make([]byte, eventSize))
		attrs.PutStr("pulsegrid", "not reserved")
		attrs.PutStr("after", "x")
		return attrs
	}
	attrs := spoof()
	StampResource(attrs, origin)
	got, _ := ReadResource(attrs)
	require.Equal(t, origin, got)
	require.Equal(t, map[string]any{
		"before": "x", "pulsegrid": "not reserved", "after": "x", AttrTenant: origin.Tenant, AttrSource: origin.Source,
		AttrReceived: origin.Received.UnixNano(), AttrTopic: origin.Topic, AttrPartition: int64(origin.Partition),
	}, attrs.AsRaw())

	attrs = spoof()
	StampEvent(attrs, event)
	stamp, _ := ReadEvent(attrs)
	require.Equal(t, event, stamp)
	require.Equal(t, 4, attrs.Len())
}

func TestStampingAgainReplacesTheStamp(t *testing.T) {
	attrs := pcommon.NewMap()
	StampEvent(attrs, Event{Offset: 1})
	StampEvent(attrs, event)
	got, _ := ReadEvent(attrs)
	require.Equal(t, event, got)
	require.Equal(t, 1, attrs.Len())
}

// Stock processors filter, split, regroup and copy: each event that is left still says where it came from.
func TestStampsSurviveFilteringAndRegrouping(t *testing.T) {
	ld := plog.NewLogs()
	for r := range 3 {
		rl := ld.ResourceLogs().AppendEmpty()
		StampResource(rl.Resource().Attributes(), Origin{Tenant: fmt.Sprint("t", r), Received: time.Unix(1, 0)})
		records := rl.ScopeLogs().AppendEmpty().LogRecords()
		for i := range 10 {
			StampEvent(records.AppendEmpty().Attributes(), Event{Offset: int64(r), Index: int32(i)})
		}
	}
	regrouped := plog.NewLogs()
	ld.ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool {
		rl.ScopeLogs().At(0).LogRecords().RemoveIf(func(lr plog.LogRecord) bool {
			e, _ := ReadEvent(lr.Attributes())
			return e.Index%3 != 0
		})
		out := regrouped.ResourceLogs().AppendEmpty()
		rl.Resource().CopyTo(out.Resource())
		rl.ScopeLogs().At(0).LogRecords().MoveAndAppendTo(out.ScopeLogs().AppendEmpty().LogRecords())
		return true
	})
	for r, rl := range regrouped.ResourceLogs().All() {
		o, ok := ReadResource(rl.Resource().Attributes())
		require.True(t, ok)
		require.Equal(t, fmt.Sprint("t", r), o.Tenant)
		for i, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
			e, ok := ReadEvent(lr.Attributes())
			require.True(t, ok)
			require.Equal(t, Event{Offset: int64(r), Index: int32(3 * i)}, e)
		}
	}
}

func TestStampingIsCheap(t *testing.T) {
	attrs := pcommon.NewMap()
	attrs.EnsureCapacity(25)
	for i := range 24 {
		attrs.PutInt(fmt.Sprintf("attribute.%d", i), int64(i))
	}
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		attrs.Remove(AttrEvent)
		StampEvent(attrs, event)
	}), 3.0, "the value, its bytes")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, ok := ReadEvent(attrs); !ok {
			t.Fatal("no stamp")
		}
	}))
}
