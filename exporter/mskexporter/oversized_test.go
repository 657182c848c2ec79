package mskexporter

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// oversized is a request of n log records, of which these are larger than a record of 10,000 bytes.
func oversized(t *testing.T, n int, large ...int) envelope.Envelope {
	t.Helper()
	req := plogotlp.NewExportRequest()
	rl := req.Logs().ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "s")
	lrs := rl.ScopeLogs().AppendEmpty().LogRecords()
	for i := range n {
		size := 100
		if slices.Contains(large, i) {
			size = 20_000
		}
		lr := lrs.AppendEmpty()
		lr.SetTimestamp(1)
		lr.Body().SetStr(strings.Repeat("x", size))
		lr.Attributes().PutInt("i", int64(i))
	}
	body, err := req.MarshalProto()
	require.NoError(t, err)
	return envelope.Envelope{Signal: signal.Logs, Tenant: "acme", Source: "agent", Events: n, Lane: envelope.LaneFast, Body: body}
}

func smallRecords(c *Config) { c.MaxRecordBytes = 10_000 }

// Scenario: of 20 events two are larger than a record; nothing keeps such events.
// Guarantees: the others are stored, each under its identity in the request; the caller hears how many are lost, and why the first of them.
func TestAnEventTooLargeForARecordIsRejectedAlone(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), smallRecords)
	e := oversized(t, 20, 3, 13)
	ctx, result := envelope.WithResult(t.Context())
	ctx = envelope.WithFrame(ctx, e.Body, []byte("frames of the whole, which is not written"))
	require.NoError(t, r.sendCtx(ctx, e))

	rejected, _, reasons := result.Read()
	require.Equal(t, 2, rejected)
	require.Equal(t, 2, result.Lost())
	require.Len(t, reasons, 2)
	require.Contains(t, reasons[1], "event 13: event_too_large at event: expected at most 9")
	require.EqualValues(t, 2, r.value("msk_exporter_oversized_events", "signal=logs", "fate=lost"))
	require.EqualValues(t, 18, r.value("msk_exporter_events", "signal=logs"))

	division, err := eventid.Divide(e.Signal, e.Body, nil, e.Events)
	require.NoError(t, err)
	seen := map[int64]bool{}
	for _, m := range readAll(t, k.ListenAddrs(), "otlp.logs.v1") {
		var indexes []int64
		require.NoError(t, otlpwire.Walk(signal.Logs, m.Value, func(ev *otlpwire.Event) bool {
			v, ok := ev.Attr("i")
			require.True(t, ok)
			indexes = append(indexes, v.Int())
			seen[v.Int()] = true
			return true
		}))
		request := division.Part(eventid.Range(int(indexes[0]), int(indexes[len(indexes)-1])+1))
		require.Equal(t, string(request.Encode()), headersOf(m)[envelope.HeaderRequest])
	}
	require.Len(t, seen, 18)
	require.False(t, seen[3] || seen[13])
}

// Guarantees: a request of nothing but such events is refused for good and by name, and nothing of it is stored.
func TestARequestOfNothingButTooLargeEventsIsRefusedByName(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), smallRecords)
	err := r.send(oversized(t, 2, 0, 1))
	requirePermanent(t, err)
	require.ErrorContains(t, err, "event 0 is 20")
	require.ErrorContains(t, err, "max_record_bytes 10000")
	require.Zero(t, stored(k, "otlp.logs.v1"))
	require.EqualValues(t, 1, r.value("msk_exporter_failures", "class=permanent", "reason=event_too_large"))
	require.Zero(t, r.value("msk_exporter_oversized_events"))
}

// Scenario: the quarantine before the exporter has a store for what is larger than a record.
// Guarantees: the event is an object there before the request's records are written, and a record of the quarantine topic points to it; where the store fails,
// nothing is written, and the sender shall come again.
func TestAnEventTooLargeForARecordIsKeptWhereThereIsAStore(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), smallRecords)
	e := oversized(t, 20, 13)
	var kept []envelope.Envelope
	ctx, result := envelope.WithResult(t.Context())
	ctx = envelope.WithKeeper(ctx, func(_ context.Context, q *envelope.Envelope) error {
		require.Zero(t, stored(k, "otlp.logs.v1"))
		kept = append(kept, *q)
		q.Body, q.Quarantine.Object = nil, "s3://b/key"
		return nil
	})
	require.NoError(t, r.sendCtx(ctx, e))
	rejected, _, reasons := result.Read()
	require.Equal(t, 1, rejected)
	require.Zero(t, result.Lost())
	require.Contains(t, reasons[0], "event 13")
	require.Len(t, kept, 1)
	events, err := otlpwire.Count(signal.Logs, kept[0].Body, otlpwire.Limits{})
	require.NoError(t, err)
	require.Equal(t, 1, events)
	require.EqualValues(t, 1, r.value("msk_exporter_oversized_events", "fate=quarantined"))

	q := readAll(t, k.ListenAddrs(), signal.QuarantineTopic)
	require.Len(t, q, 1)
	h := headersOf(q[0])
	require.Empty(t, q[0].Value)
	require.Equal(t, "agent", string(q[0].Key))
	require.Equal(t, "s3://b/key", h[envelope.HeaderObject])
	require.Equal(t, string(schema.EventTooLarge), h[envelope.HeaderQuarantineCode])
	require.Equal(t, envelope.LaneQuarantine, h[envelope.HeaderLane])
	require.Equal(t, "1", h[envelope.HeaderEvents])
	require.Equal(t, "true", h[envelope.HeaderPII])
	division, err := eventid.Divide(e.Signal, e.Body, nil, e.Events)
	require.NoError(t, err)
	part := division.Part(eventid.Range(13, 14))
	require.Equal(t, string(part.Encode()), h[envelope.HeaderRequest])

	before := stored(k, "otlp.logs.v1")
	failing := envelope.WithKeeper(t.Context(), func(context.Context, *envelope.Envelope) error { return errors.New("the store is away") })
	f := requireRetryable(t, r.sendCtx(failing, e))
	require.ErrorContains(t, f, "the store is away")
	require.Equal(t, before, stored(k, "otlp.logs.v1"))
}

// Scenario: events that were quarantined are larger than a record, and nothing keeps them.
// Guarantees: they do not cost the request's healthy events; alone they are refused.
func TestQuarantinedEventsThatAreTooLargeDoNotCostTheOthers(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), smallRecords)
	bad := oversized(t, 1, 0)
	bad.Lane, bad.Quarantine = envelope.LaneQuarantine, &envelope.Quarantine{Code: "value_too_long", ContentType: envelope.TypeOTLP}
	ctx, result := envelope.WithResult(t.Context())
	require.NoError(t, r.sendCtx(ctx, oversized(t, 5), bad))
	rejected, _, _ := result.Read()
	require.Zero(t, rejected, "whoever quarantined it has counted it")
	require.Equal(t, 1, result.Lost())
	require.Equal(t, 5, eventsOf(t, readAll(t, k.ListenAddrs(), "otlp.logs.v1")))
	require.EqualValues(t, 1, r.value("msk_exporter_oversized_events", "fate=lost"))
	requirePermanent(t, r.send(bad))
}
