package columnstest_test

import (
	"math"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/columnstest"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: a request with every field set becomes rows; then one field of the request is changed, or the last element of a list taken away. This is
// done for every field that OTLP defines, at every place where a message may occur.
// Guarantees: Diff reports each. A comparison that finds no difference has compared all there is.
func TestDiffReportsAChangeOfAnyField(t *testing.T) {
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) {
			c := changes{places: map[string]bool{}, fields: map[protoreflect.FullName]bool{}}
			for seed := range uint64(8) {
				body := otlptest.Full(sig, seed)
				rec := rowsOf(t, sig, body)
				c.missed = func(m proto.Message) bool {
					changed, err := proto.Marshal(m)
					require.NoError(t, err)
					return len(columnstest.Diff(decode(t, sig, changed), rec)) == 0
				}
				c.request = requestOf(sig)
				require.NoError(t, proto.Unmarshal(body, c.request))
				require.Empty(t, columnstest.Diff(decode(t, sig, body), rec))
				c.each(t, c.request.ProtoReflect(), "")
				rec.Release()
			}
			for name := range fieldsOf(c.request.ProtoReflect().Descriptor(), map[protoreflect.FullName]bool{}) {
				require.True(t, c.fields[name], "%s was not changed anywhere", name)
			}
			t.Logf("%d fields, changed in %d places", len(c.fields), len(c.places))
		})
	}
}

func requestOf(sig signal.Signal) proto.Message {
	switch sig {
	case signal.Logs:
		return &collectorlogs.ExportLogsServiceRequest{}
	case signal.Metrics:
		return &collectormetrics.ExportMetricsServiceRequest{}
	default:
		return &collectortrace.ExportTraceServiceRequest{}
	}
}

func decode(t *testing.T, sig signal.Signal, body []byte) (data any) {
	t.Helper()
	var err error
	switch sig {
	case signal.Logs:
		data, err = (&plog.ProtoUnmarshaler{}).UnmarshalLogs(body)
	case signal.Metrics:
		data, err = (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics(body)
	default:
		data, err = (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(body)
	}
	require.NoError(t, err)
	return data
}

func rowsOf(t *testing.T, sig signal.Signal, body []byte) arrow.RecordBatch {
	t.Helper()
	b := columns.NewBuilder(memory.DefaultAllocator, columns.ForSignal(sig))
	defer b.Release()
	switch data := decode(t, sig, body).(type) {
	case plog.Logs:
		require.NoError(t, b.AppendLogs(data))
	case pmetric.Metrics:
		require.NoError(t, b.AppendMetrics(data))
	case ptrace.Traces:
		require.NoError(t, b.AppendTraces(data))
	}
	return b.NewRecordBatch()
}

// changes changes a request in one place at a time.
type changes struct {
	request proto.Message
	missed  func(proto.Message) bool
	places  map[string]bool                // a field at a place where it was changed
	fields  map[protoreflect.FullName]bool // that were changed, or hold a field that was
}

// each changes every field below m, unless the same was done at such a place. Values nested in values are at the place of the outermost.
func (c *changes) each(t *testing.T, m protoreflect.Message, place string) {
	t.Helper()
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		below := place
		if f.ParentFile().Package() != "opentelemetry.proto.common.v1" || f.Parent().Name() == "InstrumentationScope" {
			below += "." + string(f.Name())
		}
		switch {
		case f.IsList():
			l := v.List()
			for i := range l.Len() {
				if f.Message() != nil {
					c.each(t, l.Get(i).Message(), below)
					continue
				}
				old := l.Get(i)
				l.Set(i, other(f, old))
				c.check(t, f, place)
				l.Set(i, old)
			}
			last := l.Get(l.Len() - 1)
			l.Truncate(l.Len() - 1)
			c.check(t, f, place+" last of")
			l.Append(last)
		case f.Message() != nil:
			c.fields[f.FullName()] = true
			c.each(t, v.Message(), below)
		default:
			m.Set(f, other(f, v))
			c.check(t, f, place)
			m.Set(f, v)
		}
		return true
	})
}

func (c *changes) check(t *testing.T, f protoreflect.FieldDescriptor, place string) {
	t.Helper()
	where := place + " " + string(f.FullName())
	if c.places[where] {
		return
	}
	c.places[where], c.fields[f.FullName()] = true, true
	if c.missed(c.request) {
		t.Errorf("not reported: %s", strings.TrimSpace(where))
	}
}

// other is a value that every store can tell from v.
func other(f protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(!v.Bool())
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(v.Enum() - 1)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind:
		return protoreflect.ValueOfInt32(int32(v.Int()) ^ 1)
	case protoreflect.Int64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(v.Int() ^ 1)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(v.Uint()) ^ 1)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(min(v.Uint(), math.MaxInt64) ^ 1) // times beyond that are one instant
	case protoreflect.DoubleKind:
		if v.Float() == 1.5 {
			return protoreflect.ValueOfFloat64(2.5)
		}
		return protoreflect.ValueOfFloat64(1.5)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(v.String() + "!")
	case protoreflect.BytesKind:
		b := append([]byte{}, v.Bytes()...)
		if len(b) == 0 {
			return protoreflect.ValueOfBytes([]byte{1})
		}
		b[0] ^= 1
		return protoreflect.ValueOfBytes(b)
	}
	panic("no other value for " + string(f.FullName()))
}

// fieldsOf adds the fields of a message, and of those in it, to all. Indexes into a profile's string table have no meaning in the three signals.
func fieldsOf(d protoreflect.MessageDescriptor, all map[protoreflect.FullName]bool) map[protoreflect.FullName]bool {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		if all[f.FullName()] || strings.HasSuffix(string(f.Name()), "_strindex") {
			continue
		}
		all[f.FullName()] = true
		if f.Message() != nil {
			fieldsOf(f.Message(), all)
		}
	}
	return all
}
