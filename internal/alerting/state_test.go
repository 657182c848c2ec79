package alerting

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var begin = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// at is the end of a bucket, n intervals of 10 s after begin.
func at(n int) time.Time { return begin.Add(time.Duration(n) * Tick) }

func active(service string, value float64) Sample {
	return Sample{Labels: map[string]string{"alertname": "A", "service": service}, Value: value}
}

func newTestTracker(holds, keeps time.Duration) *tracker {
	t := newTracker()
	t.holds, t.keeps = holds, keeps
	return t
}

func (t *tracker) only() *Alert {
	for _, a := range t.alerts {
		return a
	}
	return nil
}

// Scenario: a rule with `for: 30s` is active, and stops to be.
// Guarantees: it is pending until it has been active for 30 s without a gap, and begins, for Alertmanager, when it has; it is resolved at the first bucket without it. A gap while it is
// pending begins it anew.
func TestAnAlertIsPendingThenFiresThenIsResolved(t *testing.T) {
	tr := newTestTracker(30*time.Second, 0)
	tr.eval(at(0), []Sample{active("a", 1)})
	tr.eval(at(1), nil)
	require.Empty(t, tr.alerts, "a gap")
	for n := 2; n < 5; n++ {
		tr.eval(at(n), []Sample{active("a", float64(n))})
		require.Equal(t, Pending, tr.only().State, n)
		require.Empty(t, tr.due(at(n), time.Minute, time.Minute))
	}
	tr.eval(at(5), []Sample{active("a", 5)})
	a := tr.only()
	require.Equal(t, Firing, a.State)
	require.Equal(t, at(2), a.ActiveAt)
	require.Equal(t, at(5), a.FiredAt)
	require.Equal(t, number(5), a.Value)
	tr.eval(at(6), nil)
	require.Equal(t, Resolved, a.State)
	require.Equal(t, at(6), a.ResolvedAt)
	tr.eval(at(7), []Sample{active("a", 7)})
	require.Equal(t, Pending, tr.only().State, "it begins anew")
	require.Equal(t, at(7), tr.only().ActiveAt)
}

// Scenario: evaluations between the begin and the end of `for` did not happen.
// Guarantees: the alert begins when it would have with them: two evaluators say the same.
func TestWhenAnAlertFiresDoesNotDependOnWhoEvaluatesHowOften(t *testing.T) {
	often, seldom := newTestTracker(30*time.Second, 0), newTestTracker(30*time.Second, 0)
	for n := range 8 {
		often.eval(at(n), []Sample{active("a", 1)})
		if n%5 == 0 {
			seldom.eval(at(n), []Sample{active("a", 1)})
		}
	}
	require.Equal(t, often.only().FiredAt, seldom.only().FiredAt)
}

// Scenario: an alert with `keep_firing_for: 20s` flaps.
// Guarantees: it fires on through gaps shorter than 20 s, and is resolved 20 s after it was last active.
func TestAnAlertIsKeptFiring(t *testing.T) {
	tr := newTestTracker(0, 20*time.Second)
	tr.eval(at(0), []Sample{active("a", 1)})
	require.Equal(t, Firing, tr.only().State)
	tr.eval(at(1), nil)
	tr.eval(at(2), []Sample{active("a", 1)})
	tr.eval(at(3), nil)
	tr.eval(at(4), nil)
	require.Equal(t, Firing, tr.only().State)
	require.Equal(t, at(0), tr.only().FiredAt)
	tr.eval(at(5), nil)
	require.Equal(t, Resolved, tr.only().State)
	require.Equal(t, at(5), tr.only().ResolvedAt)
}

// Guarantees: a firing alert is told at once, again each resend, and ends by itself `valid` after it was told last; a resolved one is told at once, with its end in the past, and for 15 minutes
// again; then it is forgotten.
func TestAlertsAreToldAgain(t *testing.T) {
	const resend, valid = time.Minute, 4 * time.Minute
	tr := newTestTracker(0, 0)
	tr.eval(at(0), []Sample{active("a", 1)})
	now := at(0).Add(7 * time.Second)
	told := tr.due(now, resend, valid)
	require.Len(t, told, 1)
	require.Equal(t, at(0), told[0].StartsAt)
	require.Equal(t, now.Add(valid), told[0].EndsAt)
	require.Empty(t, tr.due(now.Add(59*time.Second), resend, valid))
	require.Len(t, tr.due(now.Add(60*time.Second), resend, valid), 1)
	tr.eval(at(7), nil)
	told = tr.due(now.Add(61*time.Second), resend, valid)
	require.Len(t, told, 1)
	require.Equal(t, at(7), told[0].EndsAt)
	require.Equal(t, at(0), told[0].StartsAt)
	require.Empty(t, tr.due(now.Add(62*time.Second), resend, valid))
	require.Len(t, tr.due(now.Add(122*time.Second), resend, valid), 1)
	tr.eval(at(7).Add(resolvedFor), nil)
	require.NotEmpty(t, tr.alerts)
	tr.eval(at(8).Add(resolvedFor), nil)
	require.Empty(t, tr.alerts)
}

// Guarantees: each label set is an alert of its own.
func TestAlertsOfARuleAreApart(t *testing.T) {
	tr := newTestTracker(0, 0)
	tr.eval(at(0), []Sample{active("a", 1), active("b", 2)})
	tr.eval(at(1), []Sample{active("b", 3)})
	require.Equal(t, Resolved, tr.alerts[fingerprint(active("a", 0).Labels)].State)
	require.Equal(t, Firing, tr.alerts[fingerprint(active("b", 0).Labels)].State)
	require.NotEqual(t, fingerprint(map[string]string{"a": "b", "c": "d"}), fingerprint(map[string]string{"a": "bcd"}))
}

// Scenario: a rule's rows have other labels in each bucket.
// Guarantees: resolved alerts that were told are forgotten where they are many; those that nobody has been told of are not.
func TestResolvedAlertsAreBounded(t *testing.T) {
	tr := newTestTracker(0, 0)
	samplesOf := func(bucket int) (out []Sample) {
		for n := range limitMost {
			out = append(out, active(fmt.Sprint(bucket, n), 1))
		}
		return out
	}
	for bucket := range 5 {
		tr.eval(at(bucket), samplesOf(bucket))
		if bucket > 0 {
			tr.due(at(bucket), time.Minute, time.Minute)
		}
		require.LessOrEqual(t, len(tr.alerts), trackedMost, bucket)
	}
	untold := newTestTracker(0, 0)
	for bucket := range trackedMost/limitMost + 1 {
		untold.eval(at(bucket), samplesOf(bucket))
	}
	require.Equal(t, trackedMost+limitMost, len(untold.alerts))
}

// Guarantees: annotations name labels and the value, and are bounded.
func TestAnnotationsAreFilled(t *testing.T) {
	long := make([]byte, 3<<10)
	for i := range long {
		long[i] = 'x'
	}
	out := expand(map[string]string{"summary": "{{ $labels.service }}{{$labels.gone}} at {{ $value }}", "long": "{{ $labels.long }}{{ $labels.long }}"},
		Sample{Labels: map[string]string{"service": "a{{ $value }}", "long": string(long)}, Value: 0.123456})
	require.Equal(t, "a{{ $value }} at 0.1235", out["summary"], "what is filled in is not filled again")
	require.Len(t, out["long"], textMost+3)
	require.Equal(t, "12345678", readable(12345678))
}

// Guarantees: a value that JSON has not comes back from the state file.
func TestValuesSurviveJSON(t *testing.T) {
	for _, v := range []float64{0.1, -1e300, math.Inf(1), math.Inf(-1), math.NaN()} {
		text, err := json.Marshal(number(v))
		require.NoError(t, err)
		var back number
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, math.IsNaN(v), math.IsNaN(float64(back)))
		require.True(t, math.IsNaN(v) || float64(back) == v)
	}
}
