package oracle

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/dedupe"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Guarantees: over random logs of retries, whole, divided anew, resent, with fine and coarse times, uids, equal lines, tenants and record keys, the data
// path's dedupe and the audit, which share no code, find the same copies by the same rules.
func TestDedupeAndAuditFindTheSameCopies(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	found := map[Rule]int{}
	for range 40 {
		g := generator{t: t, rand: rnd}
		for range 12 {
			g.requests = append(g.requests, g.request())
		}
		window := time.Duration(1+rnd.IntN(100)) * time.Second
		ours := NewMemory(window)
		theirs := dedupe.NewMemory(dedupe.Options{Window: window, MaxBytes: 1 << 26})
		theirs.Begin("otlp.logs.v1", 0, 0)
		reader := eventid.NewReader(signal.Logs, true)
		now := time.UnixMilli(1_700_000_000_000)
		for offset := range int64(150) {
			now = now.Add(time.Duration(rnd.IntN(2000)-200) * window / 20_000)
			r := g.record()
			r.Offset, r.Appended = offset, now
			q, err := Read(signal.Logs, r)
			require.NoError(t, err)
			verdicts, _ := ours.Add(q)
			var got []string
			for i, v := range verdicts {
				require.False(t, v.Differs && v.Rule == 0, "no header here says what is not so")
				if v.Rule != 0 {
					got = append(got, fmt.Sprintf("%d %s", i, v.Rule))
					found[v.Rule]++
				}
			}

			rec := eventid.Record{Offset: offset, Appended: now.UnixMilli()}
			require.NoError(t, reader.Read(&rec, r.Value, len(q.Events), eventid.From{Tenant: r.Tenant, Source: r.Key, IDAttribute: r.IDAttribute, Request: r.Header}))
			b := block.Block{Topic: "otlp.logs.v1", First: offset, Last: offset, Oldest: offset, Signal: signal.Logs}
			copies, err := theirs.Decide(t.Context(), b, []eventid.Record{rec})
			require.NoError(t, err)
			theirs.Stored(b)
			var want []string
			for _, c := range copies {
				want = append(want, fmt.Sprintf("%d %s", c.Index, c.Rule))
			}
			require.Equal(t, want, got, "offset %d, header %x", offset, r.Header)
			for i := range q.Events {
				require.Equal(t, rec.ID(i), q.ID(i))
			}
		}
	}
	for _, r := range Rules {
		require.Greater(t, found[r], 100, "copies by rule %s", r)
	}
}

type generator struct {
	t        *testing.T
	rand     *rand.Rand
	requests []plog.Logs
}

// request is one of a few events of a small world, so that equal ones meet.
func (g *generator) request() plog.Logs {
	ld := plog.NewLogs()
	for range 1 + g.rand.IntN(2) {
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("service.name", string(rune('a'+g.rand.IntN(2))))
		for range 1 + g.rand.IntN(2) {
			sl := rl.ScopeLogs().AppendEmpty()
			sl.Scope().SetName(string(rune('s' + g.rand.IntN(2))))
			for range g.rand.IntN(4) {
				lr := sl.LogRecords().AppendEmpty()
				lr.Body().SetStr(string(rune('x' + g.rand.IntN(2))))
				switch g.rand.IntN(4) {
				case 0:
					lr.SetTimestamp(coarse)
				case 1:
					lr.Attributes().PutStr([]string{AttrUID, "event.id"}[g.rand.IntN(2)], string(rune('0'+g.rand.IntN(3))))
				default:
					lr.SetTimestamp(fine)
				}
			}
		}
	}
	return ld
}

// record sends a request, whole or a part of it.
func (g *generator) record() Record {
	ld := plog.NewLogs()
	g.requests[g.rand.IntN(len(g.requests))].CopyTo(ld)
	r := Record{Tenant: []string{"a", "b"}[g.rand.IntN(2)], Key: []byte{byte(g.rand.IntN(2))}, IDAttribute: []string{"", "event.id"}[g.rand.IntN(2)]}
	value, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(g.t, err)
	r.Value = value
	switch g.rand.IntN(5) {
	case 0:
		r.Header = header(Digest(value), 1|byte(2*g.rand.IntN(2)), nil)
		return r
	case 1, 2:
	default:
		return r
	}
	all, err := Events(signal.Logs, value, "")
	require.NoError(g.t, err)
	var indexes []uint32
	var ordinals [][2]uint64
	equals := map[[32]byte]uint64{}
	at := uint32(0)
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			sl.LogRecords().RemoveIf(func(plog.LogRecord) bool {
				i := at
				at++
				nth := equals[all[i].Content]
				equals[all[i].Content]++
				if g.rand.IntN(2) == 0 {
					return true
				}
				if nth > 0 {
					ordinals = append(ordinals, [2]uint64{uint64(len(indexes)), nth})
				}
				indexes = append(indexes, i)
				return false
			})
		}
	}
	r.Header = header(Digest(value), byte(2*g.rand.IntN(2)), indexes, ordinals...)
	r.Value, err = plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(g.t, err)
	return r
}
