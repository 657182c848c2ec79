package columns_test

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/xpdata"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/columnstest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// attributeMaps returns a row's attribute maps, and fails if one has a key twice.
func attributeMaps(t *testing.T, rec arrow.RecordBatch, row int) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{}
	for i, f := range rec.Schema().Fields() {
		m, ok := rec.Column(i).(*array.Map)
		if !ok {
			continue
		}
		out[f.Name] = map[string]string{}
		from, to := m.ValueOffsets(row)
		keys := m.Keys().(*array.Dictionary)
		for k := int(from); k < int(to); k++ {
			key := keys.Dictionary().ValueStr(keys.GetValueIndex(k))
			require.NotContains(t, out[f.Name], key, "%s, row %d", f.Name, row)
			out[f.Name][key] = m.Items().ValueStr(k)
		}
	}
	return out
}

// Guarantee: the first value of a key that occurs more than once is where it would be alone, the others are in attributes_other, in order, and no
// map has a key twice: not even of keys that are equal only when what is not UTF-8 is replaced.
func TestNoMapHasAKeyTwice(t *testing.T) {
	ld := plog.NewLogs()
	records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	log := func(fill func(mb *xpdata.MapBuilder)) {
		var mb xpdata.MapBuilder
		fill(&mb)
		mb.UnsafeIntoMap(records.AppendEmpty().Attributes())
	}
	log(func(mb *xpdata.MapBuilder) {
		mb.AppendEmpty("array").SetEmptySlice().AppendEmpty().SetInt(1)
		mb.AppendEmpty("d").SetStr("1")
		mb.AppendEmpty("d").SetStr("2")
		mb.AppendEmpty("d").SetInt(3)
		mb.AppendEmpty("d").SetEmptyMap().PutStr("k", "v")
	})
	log(func(mb *xpdata.MapBuilder) {
		mb.AppendEmpty("http.route").SetStr("/first")
		mb.AppendEmpty("http.route").SetStr("/second")
		mb.AppendEmpty("url.path").SetStr("")
		mb.AppendEmpty("url.path").SetStr("/after the empty one")
	})
	log(func(mb *xpdata.MapBuilder) {
		mb.AppendEmpty("e")
		mb.AppendEmpty("alone")
		mb.AppendEmpty("e").SetBool(true)
		mb.AppendEmpty("k\xff").SetDouble(1)
		mb.AppendEmpty("k\xfe").SetDouble(2)
	})
	log(func(mb *xpdata.MapBuilder) { mb.AppendEmpty("d").SetStr("in the next event it is the first again") })

	b := columns.NewBuilder(checkedMemory(t), columns.Logs)
	defer b.Release()
	require.NoError(t, b.AppendLogs(ld))
	rec := b.NewRecordBatch()
	defer rec.Release()

	m := attributeMaps(t, rec, 0)
	require.Equal(t, map[string]string{"d": "1"}, m["attributes_string"])
	require.Empty(t, m["attributes_int"])
	require.Equal(t, map[string]string{"array": "[1]", "d": `{"$values":["2",3,{"k":"v"}]}`}, m["attributes_other"])
	m = attributeMaps(t, rec, 1)
	require.Equal(t, map[string]string{"url.path": ""}, m["attributes_string"])
	require.Equal(t, map[string]string{"http.route": `{"$values":["/second"]}`, "url.path": `{"$values":["/after the empty one"]}`}, m["attributes_other"])
	m = attributeMaps(t, rec, 2)
	require.Equal(t, map[string]string{"k\uFFFD": "1"}, m["attributes_double"])
	require.Equal(t, map[string]string{"e": `{"$values":[null,true]}`, "alone": "null", "k\uFFFD": `{"$values":[2.0]}`}, m["attributes_other"])
	m = attributeMaps(t, rec, 3)
	require.Equal(t, map[string]string{"d": "in the next event it is the first again"}, m["attributes_string"])
	require.Empty(t, m["attributes_other"])
	require.Empty(t, columnstest.Diff(ld, rec))
}

// Guarantee: the same of every event in which every field is set.
func TestNoMapOfAnySampleHasAKeyTwice(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		_, rec := build(t, checkedMemory(t), s)
		defer rec.Release()
		for row := range int(rec.NumRows()) {
			attributeMaps(t, rec, row)
		}
	})
}
