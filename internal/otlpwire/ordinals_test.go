package otlpwire

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// counted are the ordinals of events by their requests of one event each.
func counted(t testing.TB, sig signal.Signal, req []byte) (out []int) {
	t.Helper()
	index, n := 0, 0
	require.NoError(t, Walk(sig, req, func(*Event) bool { n++; return true }))
	seen := map[string]int{}
	for ; index < n; index++ {
		one, _, err := Split(sig, req, func(i int) bool { return i == index })
		require.NoError(t, err)
		one = withNewField(one)
		out = append(out, seen[string(one)])
		seen[string(one)]++
	}
	return out
}

// withNewField is req with each scope in the field that scopes have since OTLP 0.15.
func withNewField(req []byte) (out []byte) {
	for f := (fields{b: req}); f.next(); {
		if f.num != 1 || f.wire != wireLen {
			out = append(out, f.raw()...)
			continue
		}
		var resource []byte
		for g := (fields{b: f.content()}); g.next(); {
			if g.num == oldField && g.wire == wireLen {
				resource = appendField(resource, 2, g.content())
			} else {
				resource = append(resource, g.raw()...)
			}
		}
		out = appendField(out, 1, resource)
	}
	return out
}

// Guarantee: two events of a request are equals exactly if their requests of one event each are the same bytes, but for the number of the field that holds
// the scope.
func TestEqualsAreEventsWithTheSameBytesInTheSameSurroundings(t *testing.T) {
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) {
			equals := 0
			for seed := range uint64(40) {
				req := repeated(sig, seed)
				got, err := Ordinals(sig, req)
				require.NoError(t, err)
				require.Equal(t, counted(t, sig, req), got, "seed %d", seed)
				for _, n := range got {
					equals += min(n, 1)
				}
			}
			require.Greater(t, equals, 100)
		})
	}
}

// repeated is a request with several of the same resources, each of them whole or in part, in a random order.
func repeated(sig signal.Signal, seed uint64) (req []byte) {
	rng := rand.New(rand.NewPCG(seed, 5))
	for range 5 {
		part := otlptest.Random(sig, seed+rng.Uint64N(2), 3)
		if rng.IntN(2) == 0 {
			kept, _, err := Split(sig, part, func(int) bool { return rng.IntN(2) == 0 })
			if err == nil {
				part = kept
			}
		}
		req = append(req, part...)
	}
	return req
}

// Guarantee: a part of a request gives its events the ordinals among each other that they have in the request.
func TestContentIsTheSameInEveryPart(t *testing.T) {
	for _, sig := range signal.All {
		for seed := range uint64(20) {
			req := repeated(sig, seed)
			whole, err := Ordinals(sig, req)
			require.NoError(t, err)
			parts, counts, err := SplitBySize(sig, req, max(1, len(req)/4))
			require.NoError(t, err)
			first := 0
			for i, part := range parts {
				got, err := Ordinals(sig, part)
				require.NoError(t, err)
				require.Len(t, got, counts[i])
				for j := range got {
					require.LessOrEqual(t, got[j], whole[first+j])
				}
				if i == 0 {
					require.Equal(t, whole[:counts[0]], got)
				}
				first += counts[i]
			}
			require.Equal(t, len(whole), first)
		}
	}
}

// Events that differ only in what is around them are no equals.
func TestWhatIsAroundAnEventTellsItFromOthers(t *testing.T) {
	record := appendField(nil, 2, appendField(nil, 5, appendField(nil, 1, []byte("line"))))
	scope := func(name, schema string) []byte {
		out := appendField(nil, 1, appendField(nil, 1, []byte(name)))
		return append(append(out, record...), appendField(nil, 3, []byte(schema))...)
	}
	resource := func(name string, scopes ...[]byte) []byte {
		out := appendField(nil, 1, appendField(nil, 1, appendField(appendField(nil, 1, []byte("service.name")), 2, appendField(nil, 1, []byte(name)))))
		for _, s := range scopes {
			out = appendField(out, 2, s)
		}
		return appendField(nil, 1, out)
	}
	req := append(resource("a", scope("x", ""), scope("y", ""), scope("x", "s"), scope("x", "")), append(resource("b", scope("x", "")), resource("a", scope("x", ""))...)...)
	got, err := Ordinals(signal.Logs, req)
	require.NoError(t, err)
	require.Equal(t, []int{0, 0, 0, 1, 0, 2}, got)
}

// An event is no other one because its scope lies in the field from before OTLP 0.15.
func TestTheOldFieldOfAScopeTellsNothing(t *testing.T) {
	record := appendField(nil, 2, appendField(nil, 5, appendField(nil, 1, []byte("line"))))
	req := append(appendField(nil, 1, appendField(nil, 2, record)), appendField(nil, 1, appendField(nil, oldField, record))...)
	got, err := Ordinals(signal.Logs, req)
	require.NoError(t, err)
	require.Equal(t, []int{0, 1}, got)
}

func FuzzOrdinals(f *testing.F) {
	for _, sig := range signal.All {
		f.Add(uint8(sig), repeated(sig, 1))
	}
	f.Fuzz(func(t *testing.T, s uint8, req []byte) {
		sig := signal.All[int(s)%len(signal.All)]
		if n, err := Count(sig, req, Limits{}); err != nil || n > 200 {
			return
		}
		got, err := Ordinals(sig, req)
		require.NoError(t, err)
		require.Equal(t, counted(t, sig, req), got)
	})
}

func BenchmarkOrdinals(b *testing.B) {
	req := otlptest.Logs(1, 500)
	b.SetBytes(int64(len(req)))
	for b.Loop() {
		if _, err := Ordinals(signal.Logs, req); err != nil {
			b.Fatal(err)
		}
	}
}

// resources is a request of logs of so many resources, in an order.
func resources(order []int) (req []byte) {
	for _, i := range order {
		r := appendField(nil, 1, appendField(appendField(nil, 1, []byte("service.name")), 2, appendField(nil, 1, fmt.Appendf(nil, "service-%d", i))))
		r = appendField(r, 1, appendField(appendField(nil, 1, []byte("cloud.region")), 2, appendField(nil, 1, []byte("eu-1"))))
		record := appendField(nil, 2, appendField(nil, 5, appendField(nil, 1, []byte("line"))))
		req = appendField(req, 1, appendField(appendField(nil, 1, r), 2, record))
	}
	return req
}

// Guarantee: an agent that gathers its resources in another order is the same agent.
func TestTheOrderOfResourcesDoesNotChangeTheSource(t *testing.T) {
	order := make([]int, 50)
	for i := range order {
		order[i] = i
	}
	want := Source(signal.Logs, resources(order))
	require.Len(t, want, 16)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		require.Equal(t, want, Source(signal.Logs, resources(order)))
	}
	require.NotEqual(t, want, Source(signal.Logs, resources([]int{60, 61})))

	// A resource that says nothing, or not who it is, changes nothing, wherever it lies.
	empty := appendField(nil, 1, appendField(nil, 2, nil))
	anonymous := appendField(nil, 1, appendField(nil, 1, appendField(nil, 1, appendField(appendField(nil, 1, []byte("request.id")), 2, appendField(nil, 1, []byte("7"))))))
	for _, other := range [][]byte{empty, anonymous} {
		require.Equal(t, want, Source(signal.Logs, append(other, resources(order)...)))
		require.Equal(t, want, Source(signal.Logs, append(resources(order), other...)))
	}
	require.Empty(t, Source(signal.Logs, append(empty, empty...)))
}

func TestResourceAttributesAreRemovedByPrefix(t *testing.T) {
	req := resources([]int{1, 2})
	stamped, err := SetResourceAttribute(signal.Logs, req, "pulsegrid.received_unix_nano", "1")
	require.NoError(t, err)
	got, err := RemoveResourceAttributes(signal.Logs, stamped, "pulsegrid.")
	require.NoError(t, err)
	require.Equal(t, req, got)
	same, err := RemoveResourceAttributes(signal.Logs, req, "pulsegrid.")
	require.NoError(t, err)
	require.Same(t, &req[0], &same[0], "nothing to remove: nothing is copied")
}

func BenchmarkSource(b *testing.B) {
	for _, n := range []int{1, 50} {
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		req := resources(order)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Source(signal.Logs, req)
			}
		})
	}
	b.Run("realistic", func(b *testing.B) {
		req := otlptest.Logs(1, 100)
		b.ReportAllocs()
		for b.Loop() {
			Source(signal.Logs, req)
		}
	})
}
