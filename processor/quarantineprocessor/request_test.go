package quarantineprocessor

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

type identity struct {
	digest     [16]byte
	index, nth int
}

// identities are those of the events of envelopes, by the events' indexes.
func identities(t *testing.T, es ...envelope.Envelope) map[int]identity {
	t.Helper()
	out := map[int]identity{}
	for _, e := range es {
		r := eventid.OfBody(e.Body, e.Request, e.Events)
		nths := make([]int, e.Events)
		if len(e.Body) > 0 {
			var err error
			nths, err = otlpwire.Ordinals(e.Signal, e.Body)
			require.NoError(t, err)
		}
		for position := range e.Events {
			index, nth := r.At(position)
			if r.Whole {
				nth = nths[position]
			}
			require.NotContains(t, out, index, "an event is in one envelope")
			out[index] = identity{r.Digest, index, nth}
		}
	}
	return out
}

// Scenario: an agent sends a request again after a schema has changed, so that another part of it is at fault. Its events come in pairs of equals.
// Guarantees: each event has the digest, index and ordinal that it has in the request, whether the request passes whole, is divided, is divided otherwise, or is
// quarantined as a whole.
func TestEventsKeepTheirIdentityHoweverTheirRequestIsDivided(t *testing.T) {
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) {
			send := func(change func(*Config), atFault ...int) []envelope.Envelope {
				r := start(t, change)
				e := request(sig, 10)
				if atFault != nil {
					e = request(sig, 20, atFault...)
				}
				e.Events, e.Body = 20, append(request(sig, 10).Body, request(sig, 10).Body...)
				require.NoError(t, r.ConsumeLogs(t.Context(), logsOf(e)))
				return r.next.got
			}
			whole := identities(t, send(nil)...)
			require.Len(t, whole, 20)
			require.Equal(t, 1, whole[19].nth)
			all := make([]int, 20)
			for i := range all {
				all[i] = i
			}
			for _, atFault := range [][]int{{0}, {3, 4, 17}, {19}, all} {
				require.Equal(t, whole, identities(t, send(nil, atFault...)...), atFault)
			}
			small := func(c *Config) { c.MaxRecordBytes = minMaxRecordBytes }
			parts := send(small, all...)
			require.Greater(t, len(parts), 1)
			require.Equal(t, whole, identities(t, parts...))
		})
	}
}

// Guarantee: of a part that another component made, a further part keeps the first request's digest and indexes.
func TestAPartThatIsDividedKeepsItsPlaceInTheFirstRequest(t *testing.T) {
	r := start(t, nil)
	e := request(signal.Logs, 4, 1)
	first := eventid.Request{Digest: eventid.Digest([]byte("another body"))}
	for _, index := range []int{5, 6, 9, 12} {
		first.Add(index, index%3)
	}
	e.Request = first.Encode()
	require.NoError(t, r.ConsumeLogs(t.Context(), logsOf(e)))
	got := identities(t, r.next.got...)
	require.Equal(t, map[int]identity{5: {first.Digest, 5, 2}, 6: {first.Digest, 6, 0}, 9: {first.Digest, 9, 0}, 12: {first.Digest, 12, 0}}, got)
}

// Guarantee: what goes to the object store keeps its identity beside it, in the record that points to it.
func TestAnOversizedPartKeepsItsIdentity(t *testing.T) {
	r := start(t, func(c *Config) {
		c.MaxRecordBytes = minMaxRecordBytes
		c.Oversized.URL = "file://" + t.TempDir()
	})
	e := request(signal.Logs, 2, 1)
	large := make([]schema.Verdict, 16)
	for i := range large {
		large[i] = schema.Verdict{Code: schema.AttributeType, Path: "attributes[\"a long name of an attribute\"]", Schema: "s", Expected: "something", Got: "something else"}
	}
	e.Findings = schema.Findings{{Event: 1, Verdicts: large}}.Append(nil)
	require.NoError(t, r.ConsumeLogs(t.Context(), logsOf(e)))
	require.Len(t, r.next.got, 2)
	require.NotEmpty(t, r.next.got[1].Quarantine.Object)
	require.Equal(t, identities(t, request(signal.Logs, 2)), identities(t, r.next.got...))
}
