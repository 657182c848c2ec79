package recount

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func TestACountThatIsWrongInAnyWayIsFound(t *testing.T) {
	requests := []*agents.Request{{Number: 0, Signal: signal.Logs, Acked: true}, {Number: 1, Signal: signal.Traces, Acked: true}, {Number: 2, Signal: signal.Logs}}
	right := func() map[signal.Signal]Contents {
		out := map[signal.Signal]Contents{signal.Logs: {}, signal.Traces: {}, signal.Metrics: {}}
		for n := range agents.PerRequest {
			out[signal.Logs][n], out[signal.Traces][agents.PerRequest+n] = Copies{1, 1}, Copies{1, 1}
		}
		return out
	}
	for name, c := range map[string]struct {
		spoil func(map[signal.Signal]Contents)
		want  outcome.Counts
	}{
		"all is right":                             {func(map[signal.Signal]Contents) {}, outcome.Counts{}},
		"an event that was not acknowledged":       {func(f map[signal.Signal]Contents) { f[signal.Logs][2*agents.PerRequest] = Copies{1, 1} }, outcome.Counts{}},
		"that one twice":                           {func(f map[signal.Signal]Contents) { f[signal.Logs][2*agents.PerRequest] = Copies{2, 1} }, outcome.Counts{Doubled: 1, Sink: 1}},
		"an acknowledged event is missing":         {func(f map[signal.Signal]Contents) { delete(f[signal.Logs], 7) }, outcome.Counts{Lost: 1}},
		"it is there as an event of another kind":  {func(f map[signal.Signal]Contents) { delete(f[signal.Logs], 7); f[signal.Metrics][7] = Copies{1, 1} }, outcome.Counts{Lost: 1, Unknown: 1}},
		"three rows of one place":                  {func(f map[signal.Signal]Contents) { f[signal.Logs][7] = Copies{3, 1} }, outcome.Counts{Doubled: 2, Sink: 2}},
		"rows of two copies":                       {func(f map[signal.Signal]Contents) { f[signal.Traces][agents.PerRequest] = Copies{2, 2} }, outcome.Counts{Doubled: 1}},
		"an event that nobody sent":                {func(f map[signal.Signal]Contents) { f[signal.Logs][1_000_000] = Copies{1, 1} }, outcome.Counts{Unknown: 1}},
		"nothing is there of what was sent at all": {func(f map[signal.Signal]Contents) { clear(f[signal.Logs]); clear(f[signal.Traces]) }, outcome.Counts{Lost: 2 * agents.PerRequest}},
	} {
		t.Run(name, func(t *testing.T) {
			found := right()
			c.spoil(found)
			got, wrong := Compare(requests, found, nil)
			require.Equal(t, c.want, got)
			require.Equal(t, c.want != outcome.Counts{}, len(wrong) > 0)
		})
	}
}

func TestAnInvalidEventInAStoreIsFound(t *testing.T) {
	requests := []*agents.Request{{Number: 0, Signal: signal.Logs, Acked: true, Poison: map[int]agents.Poisoned{3: {}}}}
	found := map[signal.Signal]Contents{signal.Logs: {}}
	for n := range agents.PerRequest {
		found[signal.Logs][n] = Copies{1, 1}
	}
	got, wrong := Compare(requests, found, nil)
	require.Equal(t, outcome.Counts{Unknown: 1}, got)
	require.Len(t, wrong, 1)
	delete(found[signal.Logs], 3)
	got, wrong = Compare(requests, found, nil)
	require.Zero(t, got)
	require.Empty(t, wrong)
}

func TestOnlyAnEventThatIsExcusedMayBeMissing(t *testing.T) {
	requests := []*agents.Request{{Number: 0, Signal: signal.Logs, Acked: true}}
	found := map[signal.Signal]Contents{signal.Logs: {}}
	for n := range agents.PerRequest - 2 {
		found[signal.Logs][n] = Copies{1, 1}
	}
	found[signal.Logs][0] = Copies{2, 1}
	got, _ := Compare(requests, found, func(_ signal.Signal, number int) bool { return number == 0 || number == agents.PerRequest-1 })
	require.Equal(t, outcome.Counts{Lost: 1, Doubled: 1, Sink: 1}, got)
}
