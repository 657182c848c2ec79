package outcome

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTableAddsTheRunsOfAFaultAndShowsWhatFailed(t *testing.T) {
	runs, err := Read[Run](strings.NewReader(`{"fault":"a","does":"x","events":10,"acked":9,"duplicates":2,"hot":{"lost":1},"lake":{"doubled":2},"hot_longest_freshness_seconds":3,"passed":false}
{"fault":"b","does":"y","events":5,"acked":5,"verdict":"equal","passed":true}
{"fault":"a","does":"x","events":10,"acked":10,"hot":{"doubled":1},"lake":{"lost":4},"lake_longest_freshness_seconds":7,"passed":true}
`))
	require.NoError(t, err)
	table := strings.Split(Markdown(runs), "\n")
	require.Equal(t, "| `a` | x | 2, **1 failed** | 20 | 19 | 2 | 5 | 3 | 3, 7 | equal in 0 |", table[2])
	require.Equal(t, "| `b` | y | 1 | 5 | 5 | 0 | 0 | 0 | 0, 0 | equal |", table[3])
	require.Equal(t, "| all |  | 3, **1 failed** | 25 | 24 | 2 | 5 | 3 | 3, 7 | equal in 1 |", table[4])
	require.Len(t, table, 6)
	runs[1].Seen, runs[1].Seed = []string{"x", "y"}, 7
	require.True(t, strings.HasSuffix(Markdown(runs), " equal in 1 |\n\n| fault, seed | seen by the probe |\n|---|---|\n| `b`, 7 | x; y |\n"))
	_, err = Read[Run](strings.NewReader("no json\n"))
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

func TestARehearsalShowsWhatFiredWhenAndWhatMustNotHave(t *testing.T) {
	table := strings.Split(Rehearsals([]Rehearsal{
		{Fault: "down", Does: "x", Alert: "Down", Severity: "page", Runbook: "docs/runbooks/a.md#it-is-down", Shortened: 1, Within: 600, Fired: 571.4, Recovered: 62, Commands: 2, Also: []string{"Late"}, Seconds: 800, Passed: true},
		{Fault: "quiet", Does: "y", Shortened: 20, Tickets: []string{"Slow"}, False: []string{"Late", "Lost"}, Seconds: 60},
		{Fault: "mute", Does: "z", Alert: "Mute", Trips: []string{"1d", "3d"}, Severity: "ticket", Shortened: 1, Within: 60},
	}), "\n")
	require.Equal(t, "| `down` | x | `Down` | page | 9m31s (10m0s) | [it is down](runbooks/a.md#it-is-down) | 2 | 1m2s | `Late` | - | - |", table[2])
	require.Equal(t, "| `quiet`, rules 20 times as fast, **failed** | y, for 1m0s | none | - | - | - | - | - | - | `Slow` | `Late`, `Lost` |", table[3])
	require.Equal(t, "| `mute`, **failed** | z | `Mute` of 1d, 3d | ticket | never (1m0s) | - | 0 | never | - | - | - |", table[4])
	require.Equal(t, "| all | 3 runs, 14m20s |  |  | median 95 %, worst 95 % of the stated |  | 2 |  |  |  | 2 |", table[5])
}

func TestABackfillIsAColumn(t *testing.T) {
	runs := []Backfill{
		{
			Seed: 7, JSON: 5e9, Gzip: 8e8, Objects: 400, Lines: 1000, Rows: 900, Copies: 20, Malformed: 10, LiveRate: 4500, LiveCPU: 0.48, Live: 5, Killed: map[string]int{"worker": 2, "server": 1},
			Before: Latency{Acked: [2]float64{1, 9}, Seen: [2]float64{90, 900}}, After: Latency{Acked: [2]float64{1, 11}, Seen: [2]float64{105, 1050}},
			Calm: Latency{Acked: [2]float64{1, 10}, Seen: [2]float64{100, 1000}}, Beside: Latency{Acked: [2]float64{2, 12}, Seen: [2]float64{110, 1500}}, JobRate: 60,
			Seconds: 10, WorkerCPU: 0.3, ClickHouseCPU: 0.1, WorkerMemory: 3 << 20, DuckDB: DuckDB{Rows: 920, CPU: 0.1}, Audit: "equal", Passed: true,
		},
		{Seed: 8},
	}
	table := strings.Split(Backfills(runs[:1]), "\n")
	require.Equal(t, "| objects | 400: 5.00 GB of JSON, 0.80 GB gzipped |", table[3])
	require.Equal(t, "| live load | 4500 events/s, 48 % of the machine's CPU; 5 in all |", table[5])
	require.Equal(t, "| backfill took | 10 s: 100 lines/s, of 120 at most; worker's memory 3 MiB at most |", table[7])
	require.Equal(t, "| live, to the acknowledgement: P50, P99 | 1.0, 9.0 ms before; 1.0, 11.0 after; 1.0, 10.0 of both; 2.0, 12.0 beside: P99 x 1.20 |", table[8])
	require.Equal(t, "| live, to the row in ClickHouse: P50, P99 | 90.0, 900.0 ms before; 105.0, 1050.0 after; 100.0, 1000.0 of both; 110.0, 1500.0 beside: P99 x 1.50 |", table[9])
	require.Equal(t, "| events a core-second, of the worker | 3.0 K |", table[11])
	require.Equal(t, "| with ClickHouse's part | 2.2 K |", table[12])
	require.Equal(t, "| DuckDB | 9.2 K: 3.07 times the worker's |", table[13])
	require.Equal(t, "| seed | 7 | 8, **failed** |", strings.Split(Backfills(runs), "\n")[2])
}

func TestAlertLatenciesHaveARowARun(t *testing.T) {
	table := strings.Split(AlertLatencies([]Alerts{
		{Seed: 7, Samples: 200, Rules: 12, Asked: 10000, Done: 9990, Took: [4]float64{11.04, 16, 19.96, 21}, Newest: 1.5, Cores: 2, ClickHouse: [2]float64{0.3, 0.34}, Evaluator: 0.012, Passed: true},
		{Seed: 8},
	}), "\n")
	require.Equal(t, "| 9990 of 10000 that were asked for (seed 7) | 12 | 200 | 11.0 s | 16.0 s | 20.0 s | 21.0 s | 1.5 s | 30 %, 34 % of 2 cores | 1.2 % |", table[2])
	require.Contains(t, table[3], "(seed 8), **failed** |")
}

func TestADrillIsARow(t *testing.T) {
	table := strings.Split(Drills([]Drill{
		{
			Drill: "kill", Does: "SIGKILL", Seed: 7, Scale: 0.1, Rate: 900, TTL: 6, Detects: 3, Acked: 5000, Away: Felt{Failed: 40, Seconds: 11.6, Longest: 9.7}, Doubled: 50, Settled: true, Searched: true, Control: 9,
			Fresh: 14.2, Home: 20, Safe: 75, Verdict: "equal", Passed: true,
		},
		{Drill: "kafka"},
		{Drill: "loss", Does: "x", Lost: 450, RPO: 9.4, Restored: 31, Passed: true},
	}), "\n")
	require.Equal(t, "| `kill` | SIGKILL; safe to take away after 75 s | 0.1, 7 | 3, 6 | 900, 5000 | 40 in 12 s, one for 10 s | 0 | 0 | 50; 0 after settling | 0 (of 9 of its own) | 14 | 20 | equal |", table[2])
	require.Contains(t, table[3], "| `kafka`, **failed** |")
	require.Contains(t, table[3], "| not searched |")
	require.Contains(t, table[4], "| `loss` | x; restored within 31 s |")
	require.Contains(t, table[4], "| 450, of the last 9 s |")
}
