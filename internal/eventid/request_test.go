package eventid_test

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// The digest and the header are read by gateways, aggregators and audits of other versions: these bytes never change.
func TestTheDigestAndTheHeaderAreTheFormats(t *testing.T) {
	digest := eventid.Digest([]byte("request"))
	require.Equal(t, "af1349b9f5f9a1a6a0404dea36dcc949", hexOf(eventid.Digest(nil)), "BLAKE3 of nothing, from its specification")

	whole := eventid.Request{Digest: digest, Whole: true}
	require.Equal(t, "0101"+hexOf(digest), hex.EncodeToString(whole.Encode()))

	part := eventid.Request{Digest: digest, Resent: true}
	for _, e := range [][2]int{{0, 0}, {1, 0}, {2, 1}, {200, 0}, {202, 0}, {203, 300}} {
		part.Add(e[0], e[1])
	}
	require.Equal(t, 6, part.Events())
	require.Equal(t, "0102"+hexOf(digest)+
		"03"+"0003"+"c50101"+"0102"+ // runs: 0-2; 197 behind it one; 1 behind it two
		"02"+"0201"+"05ac02", // ordinals: position 2 is 1, position 5 is 300
		hex.EncodeToString(part.Encode()))
}

func hexOf(digest [16]byte) string { return hex.EncodeToString(digest[:]) }

// event is one event's place in its request.
type event struct{ index, nth int }

func eventsOf(r eventid.Request, n int) (out []event) {
	for position := range n {
		index, nth := r.At(position)
		out = append(out, event{index, nth})
	}
	return out
}

// Guarantee: whatever a part has, its header says; and a part of a part says where its events were in the first request.
func TestAPartOfAPartKeepsDigestIndexesAndOrdinals(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		first := eventid.Request{Digest: eventid.Digest([]byte{byte(seed)})}
		var want []event
		for index := range 200 {
			if rng.IntN(3) == 0 {
				continue
			}
			e := event{index, max(0, rng.IntN(400)-300)}
			want = append(want, e)
			first.Add(e.index, e.nth)
		}
		read, ok := eventid.ParseRequest(first.Encode(), len(want))
		require.True(t, ok, seed)
		require.Equal(t, want, eventsOf(read, len(want)), seed)

		second := eventid.Request{Digest: read.Digest}
		var rest []event
		for position := range want {
			if rng.IntN(2) == 0 {
				second.Add(read.At(position))
				rest = append(rest, want[position])
			}
		}
		read, ok = eventid.ParseRequest(second.Encode(), len(rest))
		require.True(t, ok, seed)
		require.Equal(t, first.Digest, read.Digest)
		require.Equal(t, rest, eventsOf(read, len(rest)), seed)
	}
}

func TestAHeaderThatIsNotAboutTheRecordsEventsIsNotRead(t *testing.T) {
	part := eventid.Request{Digest: eventid.Digest([]byte("request"))}
	part.Add(3, 0)
	part.Add(9, 2)
	header := part.Encode()
	_, ok := eventid.ParseRequest(header, 2)
	require.True(t, ok)
	whole := (&eventid.Request{Whole: true}).Encode()
	_, ok = eventid.ParseRequest(whole, 12345)
	require.True(t, ok, "of a whole request it is about all events")

	lists := func(tail ...byte) []byte { return append(append([]byte{1, 0}, make([]byte, 16)...), tail...) }
	for name, h := range map[string][]byte{
		"empty": nil, "cut short": header[:len(header)-1], "more behind it": append(bytes.Clone(header), 0),
		"another version": append([]byte{2}, header[1:]...), "a flag that is not known": append([]byte{1, 4}, header[2:]...),
		"whole, and more behind it":        append(bytes.Clone(whole), 0),
		"a run without events":             lists(2, 0, 2, 1, 0, 0),
		"more runs than bytes":             lists(0xff, 0xff, 0xff, 0xff, 0x0f, 0, 2, 0),
		"runs of more than 2^64 events":    lists(2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 3, 0),
		"an index beyond 2^31":             lists(1, 0xff, 0xff, 0xff, 0xff, 0x07, 2, 0),
		"an ordinal of no event":           lists(1, 0, 2, 1, 2, 1),
		"an ordinal of 0":                  lists(1, 0, 2, 1, 1, 0),
		"ordinals that are not in order":   lists(1, 0, 2, 2, 1, 1, 0, 1),
		"two ordinals of one event":        lists(1, 0, 2, 2, 1, 1, 1, 2),
		"no list of ordinals":              lists(1, 0, 2),
		"a number of more than ten bytes":  lists(bytes.Repeat([]byte{0xff}, 20)...),
		"fewer events than the record has": lists(1, 0, 1, 0),
	} {
		_, ok := eventid.ParseRequest(h, 2)
		require.False(t, ok, name)
	}
}

func TestADigestAllocatesNothing(t *testing.T) {
	for _, size := range []int{0, 100, 5_000, 200_000} {
		b := make([]byte, size)
		require.Zero(t, testing.AllocsPerRun(100, func() { eventid.Digest(b) }), size)
	}
}

// A header comes from whoever may write to the topic.
func FuzzParseRequest(f *testing.F) {
	part := eventid.Request{Digest: eventid.Digest([]byte("request")), Resent: true}
	for i := range 50 {
		part.Add(3*i, i%7)
	}
	f.Add(part.Encode(), 50)
	f.Add((&eventid.Request{Whole: true}).Encode(), 3)
	f.Add(append(make([]byte, 18), 0xff, 0xff, 0xff, 0xff, 0x0f), 1<<30)
	f.Fuzz(func(t *testing.T, header []byte, events int) {
		r, ok := eventid.ParseRequest(header, events)
		if !ok {
			return
		}
		if r.Whole {
			require.Equal(t, header, r.Encode())
			return
		}
		require.Equal(t, events, r.Events())
		last := -1
		for _, position := range []int{0, events / 3, events / 2, events - 1} {
			if position < 0 || position >= events {
				continue
			}
			index, nth := r.At(position)
			require.GreaterOrEqual(t, index, position)
			require.GreaterOrEqual(t, nth, 0)
			require.GreaterOrEqual(t, index, last)
			last = index
		}
		again, ok := eventid.ParseRequest(r.Encode(), events)
		require.True(t, ok)
		require.Equal(t, r.Digest, again.Digest)
		if events <= 1000 {
			require.Equal(t, eventsOf(r, events), eventsOf(again, events))
		}
	})
}

// A hostile header costs no more than a few times its size.
func TestAHostileHeaderAllocatesLittle(t *testing.T) {
	header := append(append([]byte{1, 0}, make([]byte, 16)...), 0xe8, 0x07) // 1000 runs
	header = append(header, bytes.Repeat([]byte{0, 1}, 1000)...)
	header = append(header, 0)
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := eventid.ParseRequest(header, 1000); !ok {
				b.Fatal("not read")
			}
		}
	})
	require.LessOrEqual(t, got.AllocedBytesPerOp(), int64(5*len(header)))
	huge := append(append([]byte{1, 0}, make([]byte, 16)...), 0xff, 0xff, 0xff, 0xff, 0x0f)
	require.Zero(t, testing.AllocsPerRun(10, func() { eventid.ParseRequest(huge, 1<<30) }))
}

func BenchmarkDigest(b *testing.B) {
	for _, size := range []int{200, 10_000, 1_000_000} {
		b.Run(hex.EncodeToString([]byte{byte(size >> 16), byte(size >> 8), byte(size)}), func(b *testing.B) {
			request := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				eventid.Digest(request)
			}
		})
	}
}
