package columns

import (
	"math"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

func TestABatchThatArrowCannotAddressIsAnErrorAndLeavesTheBuilderEmpty(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	b := NewBuilder(mem, Logs)
	defer b.Release()
	b.arena.limit = 1 << 16
	ld := plog.NewLogs()
	records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for range 3 {
		records.AppendEmpty().Body().SetStr(strings.Repeat("x", 30_000))
	}
	require.ErrorIs(t, b.AppendLogs(ld), ErrTooLarge)
	require.Zero(t, b.Rows())

	small := plog.NewLogs()
	small.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("fits")
	require.NoError(t, b.AppendLogs(small))
	rec := b.NewRecordBatch()
	defer rec.Release()
	require.EqualValues(t, 1, rec.NumRows())
}

func TestJSONTextIsAsDocumented(t *testing.T) {
	value := func(set func(pcommon.Value)) pcommon.Value {
		v := pcommon.NewValueEmpty()
		set(v)
		return v
	}
	for want, v := range map[string]pcommon.Value{
		`null`:                    pcommon.NewValueEmpty(),
		`true`:                    pcommon.NewValueBool(true),
		`"a\"\\\n\u0001é"`:        pcommon.NewValueStr("a\"\\\n\x01é"),
		`{"$string":"/w=="}`:      pcommon.NewValueStr("\xff"),
		`9223372036854775807`:     pcommon.NewValueInt(math.MaxInt64),
		`42.0`:                    pcommon.NewValueDouble(42),
		`1e+21`:                   pcommon.NewValueDouble(1e21),
		`-0.0`:                    pcommon.NewValueDouble(math.Copysign(0, -1)),
		`{"$double":"NaN"}`:       pcommon.NewValueDouble(math.NaN()),
		`{"$double":"-Infinity"}`: pcommon.NewValueDouble(math.Inf(-1)),
		`{"$bytes":"AP8="}`:       value(func(v pcommon.Value) { v.SetEmptyBytes().FromRaw([]byte{0, 255}) }),
		`[1,2.0]`:                 value(func(v pcommon.Value) { _ = v.SetEmptySlice().FromRaw([]any{1, 2.0}) }),
		`{"$$bytes":"x"}`:         value(func(v pcommon.Value) { v.SetEmptyMap().PutStr("$bytes", "x") }),
		`{}`:                      value(func(v pcommon.Value) { v.SetEmptyMap() }),
	} {
		require.Equal(t, want, string(appendJSONValue(nil, v, 0)))
	}
}

func TestValuesNestedTooDeepEndInNull(t *testing.T) {
	v := pcommon.NewValueEmpty()
	inner := v
	for range 100_000 {
		inner = inner.SetEmptySlice().AppendEmpty()
	}
	text := string(appendJSONValue(nil, v, 0))
	require.Equal(t, strings.Repeat("[", jsonDepthMax+1)+"null"+strings.Repeat("]", jsonDepthMax+1), text)
}
