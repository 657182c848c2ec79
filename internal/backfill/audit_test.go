package backfill

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
)

// heldStore answers an audit with sums by topic and object.
type heldStore struct {
	stored.Store
	name string
	sums map[string]map[int64]certificate.Sums
}

func (s *heldStore) Info() certificate.StoreInfo {
	return certificate.StoreInfo{Store: s.name, Where: s.name}
}

func (s *heldStore) Sums(_ context.Context, q stored.Query, b stored.Buckets) (map[stored.Bucket]certificate.Sums, error) {
	if s.sums == nil {
		return nil, errors.New("it is down")
	}
	out := map[stored.Bucket]certificate.Sums{}
	for object, sum := range s.sums[q.Topic] {
		out[b.Of(0, offsetOf(int(object), 1))] = sum
	}
	return out, nil
}

// Guarantee: the audit of a job fails, and names the object, where a store has a row less or more, other ids, other places, nothing in quarantine, more than was put
// there, or rows of an object that the plan does not have.
func TestTheAuditOfAJobSeesEachDifference(t *testing.T) {
	b := newBench(t)
	b.put("one", packed(t, logLines(0, 3)...))
	b.put("two", packed(t, logLines(3, 6)...))
	p := b.plan()
	logs, quarantined := p.topic(Logs), p.topic(Quarantine)
	j := b.open(p)
	_, err := j.Audit(t.Context(), nil)
	require.ErrorContains(t, err, "not finished")
	j.progress = Progress{Done: true, Outcomes: []Outcome{
		{State: StateLoaded, Tally: Tally{Lines: 3, Logs: 3}}, {State: StateLoaded, Tally: Tally{Lines: 4, Logs: 3, Duplicates: 1, Quarantined: 1}},
	}}
	stores := func() (hot, lake *heldStore) {
		fresh := func(name string) *heldStore {
			return &heldStore{name: name, sums: map[string]map[int64]certificate.Sums{
				logs:        {0: {Rows: 3, IDs: 7, Places: 8}, 1: {Rows: 2, IDs: 5, Places: 6}},
				quarantined: {1: {Rows: 1, IDs: 1, Places: 1}},
			}}
		}
		return fresh(certificate.Hot), fresh(certificate.Lake)
	}
	hot, lake := stores()
	a, err := j.Audit(t.Context(), []stored.Store{hot, lake})
	require.NoError(t, err)
	require.Equal(t, Audit{Rows: 5, Quarantined: 1}, a)

	for want, spoil := range map[string]func(hot, lake *heldStore){
		"mem://one: clickhouse has 2 rows of events, want 3":                          func(h, _ *heldStore) { h.sums[logs][0] = certificate.Sums{Rows: 2} },
		"mem://two: lake has 3 rows of events, want 2":                                func(_, l *heldStore) { l.sums[logs][1] = certificate.Sums{Rows: 3} },
		"mem://two: lake has 0 rows of events, want 2":                                func(_, l *heldStore) { delete(l.sums[logs], 1) },
		"mem://one: the rows of logs are others in lake than in clickhouse":           func(_, l *heldStore) { l.sums[logs][0] = certificate.Sums{Rows: 3, IDs: 9, Places: 8} },
		"mem://two: the rows of logs are others in lake than in clickhouse":           func(h, _ *heldStore) { h.sums[logs][1] = certificate.Sums{Rows: 2, IDs: 5, Places: 9} },
		"mem://two: clickhouse has 0 rows in quarantine, where 1 lines or events are": func(h, _ *heldStore) { delete(h.sums, quarantined) },
		"mem://two: lake has 2 rows in quarantine, where 1 lines or events are":       func(_, l *heldStore) { l.sums[quarantined][1] = certificate.Sums{Rows: 2} },
		"object 2: lake has rows of it, and the plan has no such object":              func(_, l *heldStore) { l.sums[logs][2] = certificate.Sums{Rows: 1} },
		"mem://one: clickhouse has 1 rows in quarantine, where 0 lines or events are": func(h, _ *heldStore) { h.sums[quarantined][0] = certificate.Sums{Rows: 1} },
	} {
		hot, lake := stores()
		spoil(hot, lake)
		a, err := j.Audit(t.Context(), []stored.Store{hot, lake})
		require.NoError(t, err)
		require.Equal(t, 1, a.Different, want)
		require.Contains(t, a.Findings, want)
	}
	lake.sums = nil
	_, err = j.Audit(t.Context(), []stored.Store{hot, lake})
	require.ErrorContains(t, err, "audit of lake: it is down")
}
