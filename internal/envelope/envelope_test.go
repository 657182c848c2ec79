package envelope

import (
	"bytes"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func sample(body string) Envelope {
	return Envelope{
		Signal: signal.Metrics, Tenant: "acme", Source: "agent-7", Events: 42, Received: time.Unix(1_780_000_000, 123_456_789).UTC(),
		Lane: LaneFast, SchemaVersion: "2026-11-24.1", Jurisdiction: "eu", TopicClass: "premium", Body: []byte(body),
		IDAttribute: "event.id", Request: []byte{1, 1, 2},
	}
}

// withCopies runs fn as it is and as it would be with a pdata whose ByteSlice can only be copied.
func withCopies(t *testing.T, fn func(t *testing.T)) {
	require.True(t, byReference, "this pdata's ByteSlice has another layout: bodies are copied, which costs what the gateway saves")
	t.Run("by reference", fn)
	t.Run("by copy", func(t *testing.T) {
		byReference = false
		defer func() { byReference = true }()
		fn(t)
	})
}

func TestAllReturnsWhatWasAppended(t *testing.T) {
	withCopies(t, func(t *testing.T) {
		for _, sig := range signal.All {
			want := sample("body of " + sig.String())
			want.Signal = sig
			ld := plog.NewLogs()
			want.Append(ld)
			require.True(t, Is(ld))
			got, err := All(ld)
			require.NoError(t, err)
			require.Equal(t, []Envelope{want}, got)
		}
	})
}

func TestEmptyFieldsAreKept(t *testing.T) {
	withCopies(t, func(t *testing.T) {
		want := Envelope{Signal: signal.Logs}
		ld := plog.NewLogs()
		want.Append(ld)
		got, err := All(ld)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.True(t, got[0].Received.IsZero(), "%v", got[0].Received)
		require.Empty(t, got[0].Body)
		require.Zero(t, got[0].Events)
	})
}

func TestSeveralEnvelopesKeepTheirOrderInOneScope(t *testing.T) {
	withCopies(t, func(t *testing.T) {
		ld := plog.NewLogs()
		var want []Envelope
		for _, body := range []string{"one", "two", "three"} {
			want = append(want, sample(body))
			want[len(want)-1].Append(ld)
		}
		require.Equal(t, 1, ld.ResourceLogs().Len())
		require.Equal(t, 1, ld.ResourceLogs().At(0).ScopeLogs().Len())
		got, err := All(ld)
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func TestABodyIsNotCopied(t *testing.T) {
	e := sample("a body passed by reference")
	ld := plog.NewLogs()
	e.Append(ld)
	got, err := All(ld)
	require.NoError(t, err)
	require.Same(t, unsafe.SliceData(e.Body), unsafe.SliceData(got[0].Body))
}

// A processor may hand on a deep copy. Its bodies are still the original's bytes, as the package says.
func TestACopyOfTheLogsHoldsTheSameEnvelopes(t *testing.T) {
	withCopies(t, func(t *testing.T) {
		ld, copied := plog.NewLogs(), plog.NewLogs()
		sample("the body").Append(ld)
		ld.CopyTo(copied)
		got, err := All(copied)
		require.NoError(t, err)
		require.Equal(t, []Envelope{sample("the body")}, got)
		sample("another").Append(copied)
		require.Equal(t, 1, ld.LogRecordCount(), "what is added to the copy is not in the original")
	})
}

func TestEnvelopesSurviveMovingAndFiltering(t *testing.T) {
	withCopies(t, func(t *testing.T) {
		ld, moved := plog.NewLogs(), plog.NewLogs()
		sample("one").Append(ld)
		sample("two").Append(ld)
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().RemoveIf(func(lr plog.LogRecord) bool {
			return bytes.Equal(lr.Body().Bytes().AsRaw(), []byte("one"))
		})
		ld.ResourceLogs().MoveAndAppendTo(moved.ResourceLogs())
		got, err := All(moved)
		require.NoError(t, err)
		require.Equal(t, []Envelope{sample("two")}, got)
	})
}

func TestEnvelopesSurviveTheWire(t *testing.T) {
	withCopies(t, func(t *testing.T) {
		ld := plog.NewLogs()
		sample("one").Append(ld)
		sample("two").Append(ld)
		b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
		require.NoError(t, err)
		r := plogotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(b))
		require.True(t, Is(r.Logs()))
		got, err := All(r.Logs())
		require.NoError(t, err)
		require.Equal(t, []Envelope{sample("one"), sample("two")}, got)
	})
}

func TestABodyOfReadOnlyLogsCanBeRead(t *testing.T) {
	withCopies(t, func(t *testing.T) {
		ld := plog.NewLogs()
		sample("shared").Append(ld)
		ld.MarkReadOnly()
		got, err := All(ld)
		require.NoError(t, err)
		require.Equal(t, []Envelope{sample("shared")}, got)
		require.Panics(t, func() { sample("more").Append(ld) }, "pdata forbids to change shared data, by reference too")
	})
}

func TestAnEnvelopeIsAppendedBesideOrdinaryRecordsInAScopeOfItsOwn(t *testing.T) {
	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("ordinary")
	sample("x").Append(ld)
	require.Equal(t, 2, ld.ResourceLogs().Len())
	require.False(t, Is(ld))
	_, err := All(ld)
	require.ErrorIs(t, err, ErrNotEnvelope)
}

func TestWhatIsNoEnvelopeIsRefused(t *testing.T) {
	require.False(t, Is(plog.NewLogs()))
	got, err := All(plog.NewLogs())
	require.NoError(t, err)
	require.Empty(t, got)

	for name, spoil := range map[string]func(plog.LogRecord){
		"body":                             func(lr plog.LogRecord) { lr.Body().SetStr("text") },
		`unknown signal "profiles"`:        func(lr plog.LogRecord) { lr.Attributes().PutStr(attrSignal, "profiles") },
		attrSignal + " is missing":         func(lr plog.LogRecord) { lr.Attributes().Remove(attrSignal) },
		attrTenant + " is missing":         func(lr plog.LogRecord) { lr.Attributes().Remove(attrTenant) },
		attrTenant + ": want a string":     func(lr plog.LogRecord) { lr.Attributes().PutInt(attrTenant, 42) },
		attrEvents + ": want a count, got": func(lr plog.LogRecord) { lr.Attributes().PutStr(attrEvents, "42") },
		"got Int -1":                       func(lr plog.LogRecord) { lr.Attributes().PutInt(attrEvents, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			ld := plog.NewLogs()
			sample("good").Append(ld)
			sample("bad").Append(ld)
			spoil(ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(1))
			_, err := All(ld)
			require.ErrorIs(t, err, ErrNotEnvelope)
			require.ErrorContains(t, err, name)
		})
	}
}
