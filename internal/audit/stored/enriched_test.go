package stored

import (
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
)

// rowHash is the hash of a log record of these attributes, as a Builder makes it.
func rowHash(t *testing.T, resource, event func(pcommon.Map)) uint64 {
	t.Helper()
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	resource(rl.Resource().Attributes())
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.SetTimestamp(1)
	event(lr.Attributes())
	lineage.StampEvent(lr.Attributes(), lineage.Event{ID: [16]byte{1}}) // else its id comes from all of its request
	b := columns.NewBuilder(memory.DefaultAllocator, columns.Logs, columns.WithReceived(func() time.Time { return time.Unix(1, 0) }))
	defer b.Release()
	require.NoError(t, b.AppendLogs(ld))
	rec := b.NewRecordBatch()
	defer rec.Release()
	r, err := NewReader(columns.Logs, rec, true)
	require.NoError(t, err)
	return r.Row(0).Hash
}

// Guarantees: attributes of enrichment, of whatever type and in whatever place, are no part of what is compared; any other attribute is, one that looks like
// them too.
func TestEnrichmentIsNotCompared(t *testing.T) {
	none := func(pcommon.Map) {}
	plain := func(m pcommon.Map) {
		m.PutStr("a", `,"enriched.x":1`)
		m.PutEmptySlice("b").AppendEmpty().SetStr("]}\\\"")
	}
	before := func(m pcommon.Map) { m.PutStr("enriched.plan", `"},{`); plain(m) }
	after := func(m pcommon.Map) {
		plain(m)
		m.PutInt("enriched.i", 1)
		m.PutDouble("enriched.d", 1)
		m.PutBool("enriched.b", true)
		m.PutEmpty("enriched.e")
		m.PutEmptyMap("enriched.m").PutStr("enriched.n", "]")
		m.PutStr("enriched.s", "")
	}
	only := func(m pcommon.Map) { m.PutStr("enriched.plan", "gold") }
	want, wantNone := rowHash(t, plain, plain), rowHash(t, none, none)
	for _, f := range []func(pcommon.Map){before, after} {
		require.Equal(t, want, rowHash(t, f, plain))
		require.Equal(t, want, rowHash(t, plain, f))
		require.Equal(t, want, rowHash(t, f, f))
	}
	require.Equal(t, wantNone, rowHash(t, only, only))
	for _, f := range []func(pcommon.Map){
		func(m pcommon.Map) { m.PutStr("enriched", "x") },
		func(m pcommon.Map) { m.PutStr("Enriched.x", "x") },
		func(m pcommon.Map) { m.PutStr("x.enriched.x", "x") },
		func(m pcommon.Map) { m.PutEmptyMap("m").PutStr("enriched.x", "x") },
	} {
		require.NotEqual(t, wantNone, rowHash(t, f, none))
		require.NotEqual(t, wantNone, rowHash(t, none, f))
	}
}

// Guarantees: a text that internal/columns does not write is never taken for the one that it writes.
func TestAResourceOfAnotherFormIsItself(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "{}": "{}", `{"a":1}`: `{"a":1}`, `{"enriched.a":1}`: "{}", `{"a":1,"enriched.b":{"c":[1,"},"]},"d":2}`: `{"a":1,"d":2}`,
		`{"enriched.a":"\"","b":"\\"}`: `{"b":"\\"}`,
		`{ "enriched.a":1}`:            `{ "enriched.a":1}`, `["enriched.a"]`: `["enriched.a"]`, `"enriched.a"`: `"enriched.a"`, `{"a":"enriched.a"}`: `{"a":"enriched.a"}`,
	} {
		require.Equal(t, want, withoutEnriched(text), text)
	}
}
