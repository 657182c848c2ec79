package spill

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"

	"github.com/pulsegrid/pulsegrid/internal/bucket"
)

// Scenario: two gateways have spilled, one of which has drained a part; objects of both formats, a lease, what a health check wrote, what was set aside, and a file of somebody else lie in the store.
// Guarantees: what waits is told by gateway, with the time of its oldest object and who gave back last; what was set aside and what is foreign are told apart from it; nothing is changed.
func TestASurveyTellsWhatWaitsAndWhatWasSetAside(t *testing.T) {
	url := dir(t)
	b, err := bucket.Open(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	s, err := Look(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, Survey{Gateways: []Waiting{}, Aside: []string{}, Foreign: []string{}}, s)

	began := time.Now().Add(-time.Second)
	spool := open(t, testConfig(url, "gw-a"))
	require.NoError(t, spool.Put(t.Context(), []Record{rec(1)}))
	require.NoError(t, spool.Writable(t.Context()))
	old := time.UnixMilli(1_700_000_000_000)
	objects := map[string]string{
		position("gw-b", old.Add(time.Hour), 7) + "-many": "22", "gw-b/1700000000000-1": "333", "gw-b/lease": "gw-a",
		"bad/gw-b/v2-1-1-many": "", "README": "x", "gw-b/sub/x": "x", "repaired/" + strings.TrimPrefix(position("x", old, 1), "x/") + "-many": "4444",
	}
	for key, content := range objects {
		require.NoError(t, b.WriteAll(t.Context(), key, []byte(content), nil))
	}
	s, err = Look(t.Context(), b)
	require.NoError(t, err)
	require.Len(t, s.Gateways, 3)
	own := s.Gateways[0]
	require.Equal(t, []any{"gw-a", 1}, []any{own.Gateway, own.Objects})
	require.Positive(t, own.Bytes)
	require.WithinRange(t, own.Oldest, began, time.Now())
	other := s.Gateways[1]
	require.WithinRange(t, other.Renewed, began, time.Now().Add(time.Second))
	other.Renewed = time.Time{}
	require.Equal(t, Waiting{Gateway: "gw-b", Objects: 2, Bytes: 5, Oldest: old, Holder: "gw-a"}, other)
	require.Equal(t, Waiting{Gateway: "repaired", Objects: 1, Bytes: 4, Oldest: old}, s.Gateways[2])
	require.Equal(t, []any{[]string{"bad/gw-b/v2-1-1-many"}, 1, []string{"README", "gw-b/sub/x"}, 2}, []any{s.Aside, s.Asides, s.Foreign, s.Foreigns})
	again, err := Look(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, s, again)
}

// Guarantees: each record that lies in the store is told, of objects that were set aside too; of a damaged object those before the damage, and the object; what is none of a gateway's is told apart; names that
// hold no records are passed over; nothing is changed.
func TestTheRecordsOfAStoreAreTold(t *testing.T) {
	url := dir(t)
	spool := open(t, testConfig(url, "gw-a"))
	b := spool.bucket
	require.NoError(t, spool.Put(t.Context(), []Record{rec(1), rec(2)}))
	require.NoError(t, spool.Writable(t.Context()))
	at := time.UnixMilli(1_700_000_000_000)
	whole := encoded(t, rec(3))
	for key, content := range map[string][]byte{
		badPrefix + position("gw-b", at, 7) + "-many": whole, position("gw-b", at, 8) + "-many": []byte("damaged"), "README": []byte("x"),
	} {
		require.NoError(t, b.WriteAll(t.Context(), key, content, nil))
	}
	before, err := Look(t.Context(), b)
	require.NoError(t, err)
	var told, others []string
	require.NoError(t, Records(t.Context(), b, func(o *blob.ListObject, r Record) error {
		told = append(told, string(r.Value))
		require.NotEmpty(t, o.Key)
		return nil
	}, func(o *blob.ListObject) error {
		others = append(others, o.Key)
		return nil
	}))
	require.ElementsMatch(t, []string{string(rec(1).Value), string(rec(2).Value), string(rec(3).Value)}, told)
	require.Equal(t, []string{"README", position("gw-b", at, 8) + "-many"}, others)
	after, err := Look(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// Guarantee: a survey's lists are bounded, and what is beyond them is counted.
func TestASurveyIsBounded(t *testing.T) {
	b, err := bucket.Open(t.Context(), dir(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	for i := range surveyedNames + 5 {
		for _, key := range []string{fmt.Sprintf("bad/x/%03d", i), fmt.Sprintf("foreign/%03d", i)} {
			require.NoError(t, b.WriteAll(t.Context(), key, nil, nil))
		}
	}
	for i := range surveyedGateways + 3 {
		require.NoError(t, b.WriteAll(t.Context(), position(fmt.Sprintf("gw-%04d", i), time.UnixMilli(1), 1)+"-many", nil, nil))
	}
	s, err := Look(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, []int{surveyedGateways, 3, surveyedNames, surveyedNames + 5, surveyedNames, surveyedNames + 5},
		[]int{len(s.Gateways), s.More, len(s.Aside), s.Asides, len(s.Foreign), s.Foreigns})
}
