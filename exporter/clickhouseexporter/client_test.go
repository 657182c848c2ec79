package clickhouseexporter

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// Scenario: a server whose disk is full answers a query with status 200 and nothing, or with a part of the answer.
// Guarantee: that is an error which is tried again, not an answer without rows, and nothing panics.
func TestAnAnswerThatIsNotWholeIsNoAnswer(t *testing.T) {
	for _, answer := range []string{"", "\n", "{", `{"data": []`, `{"meta": [], "data": []}`, `{"data": [{"n": 1}], "rows": 2}`, `{"data": [], "rows": 0}`} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		base, err := url.Parse(srv.URL)
		require.NoError(t, err)
		c := &client{http: srv.Client(), base: *base}
		type number struct {
			N int `json:"n"`
		}
		_, err = row[number](t.Context(), c, "SELECT 1 AS n", nil)
		var se *storeError
		require.ErrorAs(t, err, &se, answer)
		require.Equal(t, retryable, se.class)
		srv.Close()
	}
}

func TestRowsAreThoseOfTheAnswer(t *testing.T) {
	base, err := url.Parse(clickhousetest.Shared(t).URL)
	require.NoError(t, err)
	c := &client{http: http.DefaultClient, base: *base}
	type number struct {
		N uint64 `json:"n"`
		S string `json:"s"`
	}
	found, err := rows[number](t.Context(), c, "SELECT number + {from:UInt64} AS n, 'a\\n\"' AS s FROM numbers(2)", map[string]string{"from": "18446744073709551614"})
	require.NoError(t, err)
	require.Equal(t, []number{{18446744073709551614, "a\n\""}, {18446744073709551615, "a\n\""}}, found)
	found, err = rows[number](t.Context(), c, "SELECT number AS n, '' AS s FROM numbers(0)", nil)
	require.NoError(t, err)
	require.Empty(t, found)
}
