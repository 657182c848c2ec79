package availability

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the generated part of docs/availability.md")

// simple is a model in which one cause hits each cell by itself, as often a year and for as many minutes as is said, and DNS, checks and retries take as many seconds.
func simple(rate, minutes, ttl, interval, retry float64) *Model {
	m := &Model{Years: 1000, SensitivityYears: 1, Seed: 1, Hosts: []Host{{"x", 1}}, Causes: []Cause{{Name: "c", Title: "c", Rate: "rate", Minutes: "minutes"}}}
	for name, value := range map[string]float64{
		"rate": rate, "minutes": minutes, "ttl": ttl, "check_interval": interval, "check_threshold": 1, "health_delay": 0, "hold": 0, "stale": 0, "peak_capacity": 1, "peak_hours": 0, "retry": retry / 60, "retry_gap": 0,
	} {
		m.Inputs = append(m.Inputs, Input{Name: name, Title: name, Value: value, Unit: "1", High: math.Inf(1), Kind: "assumed", Source: "a test"})
	}
	return m
}

// near wants a simulated loss to be a computed one, within three times the error that it says of itself and a share for what the closed form leaves out.
func near(t *testing.T, want, got, off, share float64) {
	t.Helper()
	require.InDelta(t, want, got, 1.5*off+share*want)
	require.Greater(t, got, want/2) // or the error says nothing
}

// Scenario: cells that fail independently of each other, with exponential times, seen by senders that change cells at once.
// Guarantees: one cell loses its unavailability q = d / (1/rate + d), two lose q squared, three q cubed; what the ways between cells take is a term of its own.
func TestIndependentOutagesLoseTheProductOfUnavailabilities(t *testing.T) {
	const rate, minutes, ttl = 1000.0, 60.0, 30.0
	d := minutes * 60
	q := d / (year/rate + d)
	m := simple(rate, minutes, ttl, 0.001, 0)
	m.Years = 6
	for cells := 1; cells <= 3; cells++ {
		r := m.Simulate(Host{"x", cells})
		n := float64(cells)
		all := math.Pow(q, n)
		lost := all * year
		// Each way to another cell takes half a TTL: when the sender's cell fails and another is up, and when all were down and one comes back that is not the sender's.
		lost += ttl / 2 * (rate*(1-all)*(1-math.Pow(q, n-1)) + (n-1)*all*year/d)
		near(t, lost, r.Mean().First, r.Error().First, 0.02)
		require.Equal(t, r.Mean().First, r.Mean().Retried, "nobody tries again")
	}
}

// Scenario: rare outages of one of three cells; DNS takes its checks and its TTL.
// Guarantees: a sender loses min(outage, checks + what is left of the TTL): integrated over both, which spread evenly, and an exponential outage.
func TestAFailoverLosesItsChecksAndItsTTL(t *testing.T) {
	const rate, minutes, ttl, interval = 6.0, 5.0, 60.0, 30.0
	m := simple(rate, minutes, ttl, interval, 0)
	r := m.Simulate(Host{"x", 3})
	d, mean, n := minutes*60, 0.0, 400.0
	for i := 0.5; i < n; i++ {
		for j := 0.5; j < n; j++ {
			mean += d * (1 - math.Exp(-(interval*i/n+ttl*j/n)/d)) / n / n
		}
	}
	near(t, rate*mean, r.Mean().First, r.Error().First, 0.01)
}

// Scenario: one cell, and senders that try again for a time.
// Guarantees: of an exponential outage what is longer than that time is lost; senders that never ask DNS again lose the outages of their cell as if there were no other.
func TestRetriesLoseWhatIsLongerThanTheyTry(t *testing.T) {
	const rate, minutes, retry = 12.0, 10.0, 300.0
	m := simple(rate, minutes, 60, 10, retry)
	m.Years = 6000
	r := m.Simulate(Host{"x", 1})
	d := minutes * 60
	near(t, rate*d, r.Mean().First, r.Error().First, 0.01)
	near(t, rate*d*math.Exp(-retry/d), r.Mean().Retried, r.Error().Retried, 0.01)

	m.Years = 1000
	stale := m.With("stale", 1).Simulate(Host{"x", 3})
	near(t, rate*d, stale.Mean().First, stale.Error().First, 0.01)
}

// Guarantees: what hits all cells at once is lost whatever their number; a share of a cell's requests is lost as that share, and not when tried again; a drain alone loses nothing; what the others cannot take at the
// peak is lost as long as a cell is away.
func TestCausesLoseWhatTheyHit(t *testing.T) {
	const rate, minutes = 6.0, 20.0
	m := simple(rate, minutes, 60, 10, 300)
	m.Causes[0].Everywhere = true
	r := m.Simulate(Host{"x", 3})
	near(t, rate*minutes*60, r.Mean().First, r.Error().First, 0.01)

	m = simple(rate, 1, 60, 10, 3600)
	m.Causes[0].Share = 0.25
	r = m.Simulate(Host{"x", 3})
	near(t, rate*60*0.25, r.Mean().First, r.Error().First, 0.01)
	require.Less(t, r.Mean().Retried, r.Mean().First/1000)

	m = simple(rate, minutes, 60, 10, 0)
	m.Causes[0].Planned = true
	require.Zero(t, m.Simulate(Host{"x", 2}).Mean())
	m = m.With("peak_capacity", 0.9).With("peak_hours", 12)
	m.Years = 1000
	r = m.Simulate(Host{"x", 2})
	near(t, 2*rate*minutes*60*0.1/2, r.Mean().First, r.Error().First, 0.05) // two cells are drained; half of the day is the peak
	require.Equal(t, r.Mean(), Loss{r.Causes[1].First, r.Causes[1].Retried})
}

func TestAModelThatIsWrongIsRefused(t *testing.T) {
	for want, change := range map[string][2]string{
		"ttl is missing":                  {"name: ttl,", "name: tttl,"},
		`kind "guessed"`:                  {"kind: assumed", "kind: guessed"},
		"want 0 <= low <= value <= high":  {"low: 10, high: 300", "low: 70, high: 300"},
		`minutes "x" must be inputs`:      {"minutes: zone_minutes", "minutes: x"},
		"field frequency not found":       {"rate: zone_rate", "frequency: zone_rate"},
		"is there twice":                  {"name: hold,", "name: ttl,"},
		"hosts: ingest.example.com: cell": {"cells: 3", "cells: 0"},
	} {
		require.Contains(t, string(inputsYAML), change[0])
		_, err := Read([]byte(strings.Replace(string(inputsYAML), change[0], change[1], 1)))
		require.ErrorContains(t, err, want)
	}
}

// Guarantee: the document says what the simulation says.
func TestDocs(t *testing.T) {
	const begin, end = "<!-- generated by `make availability` -->\n", "<!-- end of the generated part -->\n"
	m, err := Default()
	require.NoError(t, err)
	path := filepath.Join("..", "..", "docs", "availability.md")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(text), begin)
	require.True(t, found)
	_, after, found := strings.Cut(rest, end)
	require.True(t, found)
	want := before + begin + "\n" + m.Report() + "\n" + end + after
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(text), "run `make availability`")
}
