package eventid_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// divided divides a body at random, and the parts again, and adds what becomes of each event, by its index, to out.
func divided(t *testing.T, rng *rand.Rand, sig signal.Signal, body, header []byte, events, depth int, out map[int]event) {
	t.Helper()
	of := eventid.OfBody(body, header, events)
	if depth == 0 || events < 2 {
		nths, err := otlpwire.Ordinals(sig, body)
		require.NoError(t, err)
		for position := range events {
			index, nth := of.At(position)
			if of.Whole {
				nth = nths[position]
			}
			out[index] = event{index, nth}
		}
		return
	}
	d, err := eventid.Divide(sig, body, header, events)
	require.NoError(t, err)
	left := map[int]bool{}
	var positions [2][]int
	for i := range events {
		left[i] = rng.IntN(3) > 0
		side := 1
		if left[i] {
			side = 0
		}
		positions[side] = append(positions[side], i)
	}
	kept, rest, err := otlpwire.Split(sig, body, func(i int) bool { return left[i] })
	require.NoError(t, err)
	for side, part := range [][]byte{kept, rest} {
		if len(positions[side]) == 0 {
			continue
		}
		r := d.Part(slices.Values(positions[side]))
		require.Equal(t, of.Digest, r.Digest)
		divided(t, rng, sig, part, r.Encode(), len(positions[side]), depth-1, out)
	}
}

// Guarantee: whole, divided, and divided otherwise at the retry, each event of a request has one digest, index and ordinal.
func TestHoweverARequestIsDividedItsEventsKeepTheirIdentity(t *testing.T) {
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) {
			for seed := range uint64(20) {
				rng := rand.New(rand.NewPCG(seed, 9))
				body := append(otlptest.Realistic(sig, seed, 7), otlptest.Realistic(sig, seed, 7)...) // each event twice
				events, err := otlpwire.Count(sig, body, otlpwire.Limits{})
				require.NoError(t, err)
				whole, twice, again := map[int]event{}, map[int]event{}, map[int]event{}
				divided(t, rng, sig, body, nil, events, 0, whole)
				divided(t, rng, sig, body, nil, events, 2, twice)
				divided(t, rng, sig, body, nil, events, 3, again)
				require.Len(t, whole, events)
				require.Equal(t, whole, twice, seed)
				require.Equal(t, whole, again, seed)
				require.Equal(t, 1, whole[events-1].nth)
			}
		})
	}
}

func TestAllEventsOfARequestAreTheWholeRequest(t *testing.T) {
	body := otlptest.Logs(1, 3)
	d, err := eventid.Divide(signal.Logs, body, nil, 3)
	require.NoError(t, err)
	r := d.Part(eventid.Range(0, 3))
	require.True(t, r.Whole)
	r = d.Part(eventid.Range(0, 2))
	require.False(t, r.Whole)
	_, err = eventid.Divide(signal.Logs, body, nil, 4)
	require.ErrorContains(t, err, "a body of 4 events has 3")
}
