package columns_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/columnstest"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(leaktest.Patient(m))
}

// build makes one batch of the signal's samples.
func build(t testing.TB, mem memory.Allocator, s signal.Signal) (want any, rec arrow.RecordBatch) {
	t.Helper()
	table := columns.ForSignal(s)
	b := columns.NewBuilder(mem, table)
	defer b.Release()
	switch s {
	case signal.Logs:
		ld := columnstest.Logs(s.Topic(), 100)
		require.NoError(t, b.AppendLogs(ld))
		want = ld
	case signal.Traces:
		td := columnstest.Traces(s.Topic(), 100)
		require.NoError(t, b.AppendTraces(td))
		want = td
	case signal.Metrics:
		md := columnstest.Metrics(s.Topic(), 100)
		require.NoError(t, b.AppendMetrics(md))
		want = md
	}
	return want, b.NewRecordBatch()
}

func forEachSignal(t *testing.T, f func(t *testing.T, s signal.Signal)) {
	for _, s := range signal.All {
		t.Run(s.String(), func(t *testing.T) { f(t, s) })
	}
}

func checkedMemory(t *testing.T) *memory.CheckedAllocator {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	return mem
}

func requireSame(t *testing.T, want any, rows ...arrow.RecordBatch) {
	t.Helper()
	if diff := columnstest.Diff(want, rows...); len(diff) > 0 {
		t.Fatalf("%d differences:\n%s", len(diff), strings.Join(diff[:min(len(diff), 10)], "\n"))
	}
}

func TestEveryFieldOfEveryEventIsInItsRow(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		want, rec := build(t, checkedMemory(t), s)
		defer rec.Release()
		require.Positive(t, rec.NumRows())
		requireSame(t, want, rec)
	})
}

func TestEveryFieldOfEveryEventIsInItsIcebergRow(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		mem := checkedMemory(t)
		want, rec := build(t, mem, s)
		defer rec.Release()
		table := columns.ForSignal(s)
		view, err := table.IcebergView(table.IcebergSchema())
		require.NoError(t, err)
		out, err := view.Convert(mem, rec)
		require.NoError(t, err)
		defer out.Release()
		requireSame(t, want, out)
	})
}

func TestABuilderIsReusedAndItsBatchesAreIndependent(t *testing.T) {
	mem := checkedMemory(t)
	b := columns.NewBuilder(mem, columns.Logs)
	defer b.Release()
	first, second := columnstest.Logs("a", 0), columnstest.Logs("b", 50)
	require.NoError(t, b.AppendLogs(first))
	require.Equal(t, first.LogRecordCount(), b.Rows())
	one := b.NewRecordBatch()
	defer one.Release()
	require.Zero(t, b.Rows())
	require.NoError(t, b.AppendLogs(second))
	two := b.NewRecordBatch()
	defer two.Release()
	requireSame(t, first, one)
	requireSame(t, second, two)

	require.NoError(t, b.AppendLogs(first))
	require.NoError(t, b.AppendLogs(second))
	both := b.NewRecordBatch()
	defer both.Release()
	require.EqualValues(t, first.LogRecordCount()+second.LogRecordCount(), both.NumRows())

	require.NoError(t, b.AppendLogs(first))
	b.Reset()
	empty := b.NewRecordBatch()
	defer empty.Release()
	require.Zero(t, empty.NumRows())
}

func TestEventsWithoutStampsGetTheDefaultTenantAndTheirOwnID(t *testing.T) {
	received := time.Unix(1795428000, 42)
	ld := plog.NewLogs()
	res := ld.ResourceLogs().AppendEmpty()
	res.Resource().Attributes().PutStr("service.name", "checkout")
	lr := res.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.Body().SetStr("hello")
	b := columns.NewBuilder(checkedMemory(t), columns.Logs, columns.WithDefaultTenant("acme"), columns.WithReceived(func() time.Time { return received }))
	defer b.Release()
	require.NoError(t, b.AppendLogs(ld))
	rec := b.NewRecordBatch()
	defer rec.Release()
	require.Equal(t, "acme", cell(rec, "tenant_id"))
	require.Equal(t, "checkout", cell(rec, "service_name"))
	require.Equal(t, "received", cell(rec, "time_source"))
	require.Equal(t, cell(rec, "ingest_time"), cell(rec, "time"))
	require.Empty(t, cell(rec, "kafka_topic"))
	for _, name := range []string{"kafka_partition", "kafka_offset", "event_index"} {
		require.Equal(t, "-1", cell(rec, name), name)
	}
	request, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	id := eventid.ID(eventid.Digest(request), 0)
	require.Equal(t, base64.StdEncoding.EncodeToString(id[:]), cell(rec, "event_id"))
	requireSame(t, ld, rec)
}

func cell(rec arrow.RecordBatch, name string) string {
	return rec.Column(rec.Schema().FieldIndices(name)[0]).ValueStr(0)
}

func TestABuilderRefusesOtherSignals(t *testing.T) {
	b := columns.NewBuilder(memory.DefaultAllocator, columns.Logs)
	defer b.Release()
	require.ErrorContains(t, b.AppendTraces(ptrace.NewTraces()), "table logs")
	require.ErrorContains(t, b.AppendMetrics(pmetric.NewMetrics()), "table logs")
	require.NoError(t, b.AppendLogs(plog.NewLogs()))
}

func TestARegistryMayPromoteOtherAttributes(t *testing.T) {
	tab := columns.NewTable(signal.Logs, []columns.Promotion{{Key: "double", Kind: columns.Double}, {Key: "int", Kind: columns.Int64}, {Key: "twice", Kind: columns.Text}})
	b := columns.NewBuilder(checkedMemory(t), tab)
	defer b.Release()
	ld := columnstest.Logs("t", 0)
	require.NoError(t, b.AppendLogs(ld))
	rec := b.NewRecordBatch()
	defer rec.Release()
	require.Empty(t, columnstest.DiffTable(tab, ld, rec))
	require.Panics(t, func() {
		columns.NewTable(signal.Logs, []columns.Promotion{{Key: "a.b", Kind: columns.Dict}, {Key: "a_b", Kind: columns.Dict}})
	}, "two keys of one column name")
	require.Panics(t, func() { columns.NewTable(signal.Logs, []columns.Promotion{{Key: "a", Kind: columns.Bool}}) })
}

func TestADifferenceIsReported(t *testing.T) {
	b := columns.NewBuilder(checkedMemory(t), columns.Logs)
	defer b.Release()
	ld := columnstest.Logs("t", 0)
	require.NoError(t, b.AppendLogs(ld))
	rec := b.NewRecordBatch()
	defer rec.Release()
	lr := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(1)
	lr.SetEventName("changed")
	require.Len(t, columnstest.Diff(ld, rec), 1)
	require.Contains(t, columnstest.Diff(ld, rec)[0], "eventName")
	part := rec.NewSlice(0, rec.NumRows()-1)
	defer part.Release()
	require.Contains(t, columnstest.Diff(ld, part)[1], "not stored")
	require.NotEmpty(t, columnstest.Diff(ld, rec, part))
}

// FuzzRows: whatever pdata decodes becomes rows that decode to the same.
func FuzzRows(f *testing.F) {
	logs, err := (&plog.ProtoMarshaler{}).MarshalLogs(columnstest.Logs("t", 0))
	require.NoError(f, err)
	traces, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(columnstest.Traces("t", 0))
	require.NoError(f, err)
	metrics, err := (&pmetric.ProtoMarshaler{}).MarshalMetrics(columnstest.Metrics("t", 0))
	require.NoError(f, err)
	for i, data := range [][]byte{logs, traces, metrics} {
		f.Add(uint8(i), bytes.ReplaceAll(data, []byte(lineage.Prefix), []byte("pulsegrid_")))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		if bytes.Contains(data, []byte(lineage.Prefix)) {
			return // stamps that no receiver writes
		}
		var want any
		mem := checkedMemory(t)
		tab := []*columns.Table{columns.Logs, columns.Spans, columns.Metrics}[which%3]
		b := columns.NewBuilder(mem, tab)
		defer b.Release()
		switch which % 3 {
		case 0:
			ld, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(data)
			if err != nil {
				return
			}
			want, err = ld, b.AppendLogs(ld)
			require.NoError(t, err)
		case 1:
			td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(data)
			if err != nil {
				return
			}
			want, err = td, b.AppendTraces(td)
			require.NoError(t, err)
		case 2:
			md, err := (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics(data)
			if err != nil {
				return
			}
			want, err = md, b.AppendMetrics(md)
			require.NoError(t, err)
		}
		rec := b.NewRecordBatch()
		defer rec.Release()
		requireSame(t, want, rec)
	})
}
