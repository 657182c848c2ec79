package outcome

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTableAddsTheRunsOfAFaultAndShowsWhatFailed(t *testing.T) {
	runs, err := Read(strings.NewReader(`{"fault":"a","does":"x","events":10,"acked":9,"duplicates":2,"hot":{"lost":1},"lake":{"doubled":2},"hot_longest_freshness_seconds":3,"passed":false}
{"fault":"b","does":"y","events":5,"acked":5,"verdict":"equal","passed":true}
{"fault":"a","does":"x","events":10,"acked":10,"hot":{"doubled":1},"lake":{"lost":4},"lake_longest_freshness_seconds":7,"passed":true}
`))
	require.NoError(t, err)
	table := strings.Split(Markdown(runs), "\n")
	require.Equal(t, "| `a` | x | 2, **1 failed** | 20 | 19 | 2 | 5 | 3 | 3, 7 | equal in 0 |", table[2])
	require.Equal(t, "| `b` | y | 1 | 5 | 5 | 0 | 0 | 0 | 0, 0 | equal |", table[3])
	require.Equal(t, "| all |  | 3, **1 failed** | 25 | 24 | 2 | 5 | 3 | 3, 7 | equal in 1 |", table[4])
	_, err = Read(strings.NewReader("no json\n"))
	require.ErrorContains(t, err, "line 1")
}

func TestGuardsHaveARowARunAndShowWhatFailed(t *testing.T) {
	table := strings.Split(Guards([]Run{
		{Fault: "storm", Does: "x", Scale: 1, Seed: 7, Events: 10, Acked: 9, Hot: Counts{Lost: 1}, Lake: Counts{Doubled: 2}, Verdict: "equal", Seen: []string{"a", "b"}},
		{Fault: "storm", Does: "x", Scale: 0.1, Seed: 8, Events: 5, Acked: 5, Verdict: "equal", Passed: true},
	}), "\n")
	require.Equal(t, "| `storm`, **failed** | x | 1, 7 | 10 | 9 | 1 | 2 | equal | a; b |", table[2])
	require.Equal(t, "| `storm` | x | 0.1, 8 | 5 | 5 | 0 | 0 | equal |  |", table[3])
}
