// Package otlptest generates OTLP requests for tests and benchmarks. What it generates depends on its arguments alone. It
// encodes with opentelemetry-proto's own Go messages, not with pdata, so that tests against pdata compare two implementations.
package otlptest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// request returns an empty Export*ServiceRequest of the signal.
func request(sig signal.Signal) proto.Message {
	switch sig {
	case signal.Logs:
		return &collectorlogs.ExportLogsServiceRequest{}
	case signal.Metrics:
		return &collectormetrics.ExportMetricsServiceRequest{}
	case signal.Traces:
		return &collectortrace.ExportTraceServiceRequest{}
	}
	panic("otlptest: " + sig.String())
}

func encode(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("otlptest: generated what cannot be encoded: %v", err))
	}
	return b
}

// Full returns a request in which every field of every message that OTLP defines for the signal is set, with all five types of
// metric and all types of value, nested ones too. Values are extreme as often as ordinary: empty and long and non-ASCII
// strings, NaN and infinities, smallest and largest integers. Attribute keys are unique within their map.
func Full(sig signal.Signal, seed uint64) []byte {
	return generate(sig, seed, 1, 3)
}

// Random returns a request in which each field is set with a probability of its own seed's, lists have up to maxItems elements,
// and messages may be empty at any level.
func Random(sig signal.Signal, seed uint64, maxItems int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	return generate(sig, seed, 0.3+0.7*r.Float64(), maxItems)
}

func generate(sig signal.Signal, seed uint64, set float64, maxItems int) []byte {
	g := generator{rand: rand.New(rand.NewPCG(seed, uint64(sig))), set: set, maxItems: max(1, maxItems),
		oneofs: map[protoreflect.FullName]int{}}
	m := request(sig)
	g.fill(m.ProtoReflect(), 0)
	return encode(m)
}

type generator struct {
	rand     *rand.Rand
	set      float64 // probability that a field is set; 1: all are
	maxItems int
	oneofs   map[protoreflect.FullName]int // counts through the alternatives of a oneof, so that all come up
}

// maxDepth of nested values.
const maxDepth = 5

func (g *generator) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if o.Fields().Get(0) == f && g.rand.Float64() < g.set {
				g.fillOneof(m, o, depth)
			}
			continue
		}
		// Indexes into a profile's string table have no meaning in the three signals.
		if strings.HasSuffix(string(f.Name()), "_strindex") || g.rand.Float64() >= g.set {
			continue
		}
		if !f.IsList() {
			g.fillField(m, f, depth)
			continue
		}
		n := 1 + g.rand.IntN(g.maxItems)
		if f.Name() == "metrics" && g.set == 1 {
			n = max(n, 5) // one of each type
		}
		list := m.Mutable(f).List()
		for range n {
			if f.Message() == nil {
				list.Append(g.scalar(f))
				continue
			}
			e := list.NewElement()
			g.fill(e.Message(), depth)
			list.Append(e)
		}
		uniqueKeys(list, f)
	}
	if p, ok := m.Interface().(*metrics.HistogramDataPoint); ok {
		g.buckets(p)
	}
}

func (g *generator) fillField(m protoreflect.Message, f protoreflect.FieldDescriptor, depth int) {
	if f.Message() != nil {
		g.fill(m.Mutable(f).Message(), depth)
		return
	}
	m.Set(f, g.scalar(f))
}

func (g *generator) fillOneof(m protoreflect.Message, o protoreflect.OneofDescriptor, depth int) {
	var choices []protoreflect.FieldDescriptor
	for i := range o.Fields().Len() {
		f := o.Fields().Get(i)
		nests := f.Message() != nil && m.Descriptor().Name() == "AnyValue"
		if strings.HasSuffix(string(f.Name()), "_strindex") || nests && depth >= maxDepth {
			continue
		}
		choices = append(choices, f)
	}
	if m.Descriptor().Name() == "AnyValue" {
		depth++
		if g.rand.IntN(16) == 0 {
			return // a value of no type
		}
	}
	f := choices[g.oneofs[o.FullName()]%len(choices)]
	g.oneofs[o.FullName()]++
	g.fillField(m, f, depth)
}

// uniqueKeys makes the keys of a list of KeyValue unique.
func uniqueKeys(list protoreflect.List, f protoreflect.FieldDescriptor) {
	if f.Message() == nil || f.Message().Name() != "KeyValue" {
		return
	}
	key := f.Message().Fields().ByName("key")
	seen := map[string]bool{}
	for i := range list.Len() {
		kv := list.Get(i).Message()
		k := kv.Get(key).String()
		if seen[k] {
			k = fmt.Sprintf("%s.%d", k, i)
			kv.Set(key, protoreflect.ValueOfString(k))
		}
		seen[k] = true
	}
}

// buckets makes a histogram's bounds rise and its counts one more than the bounds.
func (g *generator) buckets(p *metrics.HistogramDataPoint) {
	for i := range p.ExplicitBounds {
		p.ExplicitBounds[i] = float64(i*10) + g.rand.Float64()
	}
	if len(p.ExplicitBounds) > 0 {
		p.BucketCounts = make([]uint64, len(p.ExplicitBounds)+1)
		for i := range p.BucketCounts {
			p.BucketCounts[i] = g.rand.Uint64N(1000)
		}
	}
}

func pick[T any](g *generator, from ...T) T { return from[g.rand.IntN(len(from))] }

func (g *generator) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(g.set == 1 && f.Name() != "bool_value" || g.rand.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(g.rand.IntN(f.Enum().Values().Len()-1) + 1).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind:
		return protoreflect.ValueOfInt32(pick(g, 1, -1, math.MaxInt32, math.MinInt32, int32(g.rand.Uint32())))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(pick(g, 1, 300, math.MaxUint32, g.rand.Uint32()))
	case protoreflect.Int64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(pick(g, 1, -1, math.MaxInt64, math.MinInt64, int64(g.rand.Uint64())))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		if strings.HasSuffix(string(f.Name()), "time_unix_nano") {
			return protoreflect.ValueOfUint64(g.time())
		}
		return protoreflect.ValueOfUint64(pick(g, 1, 127, 128, math.MaxUint64, g.rand.Uint64()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(g.double())
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(g.text(string(f.Name())))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(g.bytes(string(f.Name())))
	}
	panic("otlptest: no value for " + string(f.FullName()))
}

// time is mostly of 2026, and at times what a broken clock gives.
func (g *generator) time() uint64 {
	if g.rand.IntN(10) == 0 {
		return pick(g, uint64(1), math.MaxInt64, math.MaxUint64)
	}
	return Start + g.rand.Uint64N(90*24*3600*1e9)
}

func (g *generator) double() float64 {
	return pick(g, g.rand.NormFloat64(), math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), math.MaxFloat64,
		math.SmallestNonzeroFloat64, float64(g.rand.IntN(1000)))
}

func (g *generator) text(field string) string {
	if field == "key" {
		return pick(g, "service.name", "host.name", "http.request.method", "http.response.status_code", "user.id", "k", "ключ",
			"with space", `quote"d`, strings.Repeat("long.key.", 30), fmt.Sprintf("attr.%d", g.rand.IntN(100)))
	}
	word := fmt.Sprintf("%s-%x", field, g.rand.Uint32())
	if g.set == 1 && field != "string_value" {
		return word // a set field is never empty in Full
	}
	return pick(g, word, word, "", "a", "naïve 世界 🜁", "line\nbreak\ttab \"quotes\" \\ and \x00 zero",
		strings.Repeat("long text ", 1+g.rand.IntN(200)))
}

func (g *generator) bytes(field string) []byte {
	n := 0
	switch {
	case field == "trace_id":
		n = 16
	case strings.HasSuffix(field, "span_id"):
		n = 8
	default:
		n = pick(g, 0, 1, 127, 128, g.rand.IntN(2000))
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.rand.Uint32())
	}
	return b
}
