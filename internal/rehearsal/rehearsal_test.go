package rehearsal

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

var received = time.Date(2026, 11, 3, 10, 0, 0, 0, time.UTC)

// memoryLake is a table of logs; the others are empty.
type memoryLake struct {
	batches []arrow.RecordBatch
	err     error
}

func (m *memoryLake) ReadReceived(_ context.Context, q stored.Received, planned func(int64), f stored.RowsFunc) error {
	if q.Table != columns.Logs {
		return nil
	}
	planned(int64(len(m.batches)))
	for _, rec := range m.batches {
		rows := make([]int, rec.NumRows())
		for i := range rows {
			rows[i] = i
		}
		if err := f(rec, rows); err != nil {
			return err
		}
	}
	return m.err
}

// add adds a batch of log records.
func (m *memoryLake) add(t *testing.T, tenant, topic string, at time.Time, records ...func(plog.LogRecord)) arrow.RecordBatch {
	t.Helper()
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "s")
	lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: tenant, Received: at, Topic: topic})
	for i, change := range records {
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		lr.SetEventName("e")
		lr.SetTimestamp(pcommon.NewTimestampFromTime(at))
		lineage.StampEvent(lr.Attributes(), lineage.Event{ID: [16]byte{1}, Offset: int64(i)})
		change(lr)
	}
	b := columns.NewBuilder(memory.DefaultAllocator, columns.Logs)
	defer b.Release()
	require.NoError(t, b.AppendLogs(ld))
	rec := b.NewRecordBatch()
	t.Cleanup(rec.Release)
	m.batches = append(m.batches, rec)
	return rec
}

func checkerOf(t *testing.T, text string) *schema.Checker {
	t.Helper()
	r, err := schema.Load([]schema.File{{Name: "a.yaml", Content: []byte(text)}})
	require.NoError(t, err)
	return schema.NewChecker(r, schema.DefaultLimits())
}

func rehearse(t *testing.T, m *memoryLake) (Report, error) {
	t.Helper()
	return Run(t.Context(), Config{
		Lake: m, Current: checkerOf(t, "groups: []"), Proposed: checkerOf(t, "groups: [{id: e, type: event, name: e, annotations: {pulsegrid: {unknown_attributes: strict}}, attributes: [{id: a, type: int}]}]"),
		Policy: func(string) schema.Policy { return schema.Policy{Mode: schema.Warn, Unknown: schema.Open} }, From: received, To: received.Add(time.Hour),
	})
}

// Guarantees: rows of jobs are no traffic; an event's age is that at its own reception; rows that no event can be made of are counted and told, and the rest goes on.
func TestWhatIsNoTrafficIsLeftOut(t *testing.T) {
	m := &memoryLake{}
	text := func(lr plog.LogRecord) { lr.Attributes().PutStr("a", "x") }
	m.add(t, "acme", "otlp.logs.v1", received, text, func(plog.LogRecord) {})
	m.add(t, "acme", "backfill.0123456789ab", received, text)
	late := func(by time.Duration) func(plog.LogRecord) {
		return func(lr plog.LogRecord) { lr.SetTimestamp(pcommon.NewTimestampFromTime(received.Add(-by))) }
	}
	m.add(t, "acme", "otlp.logs.v1", received.Add(time.Minute), late(30*24*time.Hour-2*time.Minute), late(30*24*time.Hour))
	broken := m.add(t, "acme", "otlp.logs.v1", received, func(plog.LogRecord) {}, func(plog.LogRecord) {})
	m.batches[len(m.batches)-1] = withResource(t, broken, `{"service.name":`)
	r, err := rehearse(t, m)
	require.NoError(t, err)
	require.Equal(t, []int64{4, 1, 2}, []int64{r.Events, r.JobRows, r.Unreadable})
	require.Contains(t, r.UnreadableExample, "resource")
	require.Len(t, r.Tenants, 1)
	require.Equal(t, []int64{1, 2, 1}, []int64{r.Tenants[0].Current.Violating, r.Tenants[0].Proposed.Violating, r.Tenants[0].Newly})
	require.Len(t, r.Above(49), 1)
	require.Empty(t, r.Above(50))

	m.err = errors.New("the store is away")
	_, err = rehearse(t, m)
	require.ErrorIs(t, err, m.err)
}

// withResource puts a text in the place of a batch's resources.
func withResource(t *testing.T, rec arrow.RecordBatch, text string) arrow.RecordBatch {
	t.Helper()
	b := array.NewStringBuilder(memory.DefaultAllocator)
	defer b.Release()
	for range rec.NumRows() {
		b.Append(text)
	}
	a := b.NewArray()
	defer a.Release()
	fields, arrays := rec.Schema().Fields(), rec.Columns()
	at := rec.Schema().FieldIndices("resource")[0]
	fields[at] = arrow.Field{Name: "resource", Type: arrow.BinaryTypes.String}
	arrays = append(append(append([]arrow.Array{}, arrays[:at]...), a), arrays[at+1:]...)
	out := array.NewRecordBatch(arrow.NewSchema(fields, nil), arrays, rec.NumRows())
	t.Cleanup(out.Release)
	return out
}

// Guarantee: senders that put ids into keys do not make the report larger than its bound, and no event is missing in it.
func TestSourcesAreBounded(t *testing.T) {
	m := &memoryLake{}
	const events = sourcesMax + 500
	for first := 0; first < events; first += 500 {
		var records []func(plog.LogRecord)
		for i := range 500 {
			records = append(records, func(lr plog.LogRecord) { lr.Attributes().PutInt(fmt.Sprint("id", first+i), 1) })
		}
		m.add(t, "acme", "otlp.logs.v1", received, records...)
	}
	r, err := rehearse(t, m)
	require.NoError(t, err)
	require.True(t, r.SourcesLeftOut)
	require.Len(t, r.Tenants[0].Sources, sourcesMax+1)
	require.Equal(t, Source{Signal: "logs", Code: schema.AttributeUnknown, Path: "(others)", Proposed: 500}, r.Tenants[0].Sources[0])
	require.EqualValues(t, events, r.Tenants[0].Proposed.Violating)
}
