package otlpwire

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func FuzzLogs(f *testing.F)    { fuzz(f, signal.Logs) }
func FuzzMetrics(f *testing.F) { fuzz(f, signal.Metrics) }
func FuzzTraces(f *testing.F)  { fuzz(f, signal.Traces) }

func fuzz(f *testing.F, sig signal.Signal) {
	for _, req := range seeds(sig, 20) {
		if len(req) < 4096 { // small seeds are mutated faster
			f.Add(req)
		}
	}
	f.Fuzz(func(t *testing.T, req []byte) {
		if len(req) > 1<<16 {
			return
		}
		agree(t, sig, req)
	})
}

// seeds are requests of every shape, whole, cut short, with bits flipped, and odd ones made by hand.
func seeds(sig signal.Signal, n int) (out [][]byte) {
	for seed := range uint64(n) {
		r := rand.New(rand.NewPCG(seed, 77))
		for _, req := range [][]byte{
			otlptest.Full(sig, seed), otlptest.Random(sig, seed, 3), otlptest.Random(sig, seed+1000, 1),
			otlptest.Realistic(sig, seed, 12),
		} {
			out = append(out, req)
			for range 3 {
				if len(req) == 0 {
					continue
				}
				out = append(out, req[:r.IntN(len(req))])
				flipped := append([]byte(nil), req...)
				for range 1 + r.IntN(3) {
					flipped[r.IntN(len(flipped))] ^= 1 << r.IntN(8)
				}
				out = append(out, flipped)
			}
		}
	}
	return append(out, odd(sig)...)
}

// wrap puts content into length-delimited fields, the innermost last.
func wrap(content []byte, nums ...protowire.Number) []byte {
	for i := len(nums) - 1; i >= 0; i-- {
		content = protowire.AppendBytes(protowire.AppendTag(nil, nums[i], protowire.BytesType), content)
	}
	return content
}

func cat(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// odd requests: what protobuf allows, or what pdata does, and encoders do not write.
func odd(sig signal.Signal) [][]byte {
	attr := func(key, value string) []byte {
		return cat(wrap([]byte(key), 1), wrap([]byte(value), 2, 1))
	}
	event := wrap(attr("k", "v"), map[signal.Signal]protowire.Number{signal.Logs: 6, signal.Metrics: 7, signal.Traces: 9}[sig])
	path := []protowire.Number{2}
	if sig == signal.Metrics {
		path = []protowire.Number{2, 5, 1}
	}
	events := cat(wrap(event, path...), wrap(event, path...))
	overlong := []byte{0x8a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00} // tag of field 1, length-delimited, in ten bytes
	out := [][]byte{
		nil,
		wrap(nil, 1), wrap(nil, 1, 2), wrap(events, 1, 2),
		// Deprecated scopes, alone, before and after those that count.
		wrap(wrap(events, 1000), 1),
		wrap(cat(wrap(events, 1000), wrap(events, 2)), 1),
		wrap(cat(wrap(events, 2), wrap(events, 1000)), 1),
		wrap(cat(wrap(nil, 2), wrap(events, 1000)), 1),
		// A resource and a scope in pieces, behind what they belong to; the same attribute twice.
		wrap(cat(wrap(attr("a", "1"), 1, 1), wrap(cat(wrap([]byte("s"), 1, 1), events, wrap(attr("b", "2"), 1, 3)), 2),
			wrap(attr("service.name", "old"), 1, 1), wrap(attr("service.name", "older"), 1, 1)), 1),
		// A key and a value in pieces.
		wrap(wrap(cat(wrap([]byte("x"), 1), wrap([]byte("v"), 2, 1), wrap([]byte("service.name"), 1), wrap(nil, 2)), 1, 1), 1),
		// Unknown fields everywhere, of every wire type.
		cat([]byte{0x78, 1}, wrap(cat([]byte{0x79, 1, 2, 3, 4, 5, 6, 7, 8}, wrap(cat([]byte{0x7d, 1, 2, 3, 4}, events), 2)), 1), wrap([]byte("?"), 15)),
		// Groups: empty, with a field, ended without a begin, never ended.
		cat([]byte{0x7b, 0x7c}, wrap(events, 1, 2)), {0x7b, 0x78, 1, 0x7c}, {0x7c}, {0x7b}, {0x7b, 0x7b, 0x7c, 0x7c}, {0x7b, 0x7b},
		// Varints: ten bytes, eleven, cut short; a length of 2^63, one beyond the end; field numbers 0 and 2^32+1; wire types 6, 7.
		cat(overlong, []byte{0}), cat([]byte{0x8a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00}, []byte{0}), {0x8a},
		{0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, {0x0a, 5}, {0x02, 0},
		cat(protowire.AppendVarint(nil, (1<<32+1)<<3|2), []byte{0}), {0x0e}, {0x0f}, {0x08, 1},
		// Invalid UTF-8.
		wrap(wrap(attr("\xff\xfe", "\xc3"), 1, 1), 1),
		// Values nested to just what is allowed, and beyond.
		wrap(wrap(cat(wrap([]byte("k"), 1), wrap(nested(DefaultMaxDepth), 2)), 1, 1), 1),
		wrap(wrap(cat(wrap([]byte("k"), 1), wrap(nested(DefaultMaxDepth+1), 2)), 1, 1), 1),
	}
	if sig == signal.Metrics {
		// A metric with data twice: the last one counts, of whichever type.
		gauge, sum := wrap(cat(event, event), 5, 1), wrap(event, 7, 1)
		out = append(out, wrap(cat(gauge, sum), 1, 2, 2), wrap(cat(sum, gauge, wrap(nil, 5)), 1, 2, 2),
			wrap(cat(sum, wrap([]byte("name"), 1), gauge, wrap([]byte("ms"), 3)), 1, 2, 2),
			// Packed and unpacked buckets, of good and bad lengths.
			wrap(wrap(cat(wrap(make([]byte, 16), 6), []byte{0x31, 1, 2, 3, 4, 5, 6, 7, 8}), 9, 1), 1, 2, 2),
			wrap(wrap(wrap(make([]byte, 15), 6), 9, 1), 1, 2, 2),
			wrap(wrap(cat(wrap([]byte{1, 0x80, 1}, 2), []byte{0x10, 1}), 10, 1, 8), 1, 2, 2),
			wrap(wrap(wrap([]byte{1, 0x80}, 2), 10, 1, 8), 1, 2, 2))
	}
	return out
}

// nested returns an AnyValue of so many levels.
func nested(levels int) []byte {
	v := wrap([]byte("leaf"), 1)
	for i := 1; i < levels; i++ {
		if i%2 == 0 {
			v = wrap(v, 5, 1)
		} else {
			v = wrap(cat(wrap([]byte("k"), 1), wrap(v, 2)), 6, 1)
		}
	}
	return v
}
