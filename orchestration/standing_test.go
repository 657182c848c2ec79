package orchestration

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
)

func anyFlags(string, []string) error { return nil }

const oneJob = `
format: 1
jobs:
  - name: audit
    kind: audit
    flags: {from: 4h, topic: [a, b], max-differences: 1000000, quick: true}
    every: 1h
    late_after: 3h
    owner: platform
`

func TestAFileOfStandingJobsIsRead(t *testing.T) {
	jobs, err := ParseStanding([]byte(oneJob), func(kind string, flags []string) error {
		require.Equal(t, "audit", kind)
		require.Equal(t, []string{"--from=4h", "--max-differences=1000000", "--quick=true", "--topic=a", "--topic=b"}, flags)
		return nil
	})
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	text, err := json.Marshal(jobs[0]) // as Temporal keeps it
	require.NoError(t, err)
	var kept Standing
	require.NoError(t, json.Unmarshal(text, &kept))
	require.True(t, jobs[0].equal(&kept), "%s", text)
	kept.Owner = "other"
	require.False(t, jobs[0].equal(&kept))

	shipped, err := ParseStanding(DefaultStanding(), anyFlags)
	require.NoError(t, err)
	require.NotEmpty(t, shipped)
}

// Guarantees: each mistake in a file is told, with the job and the key.
func TestAFileOfStandingJobsThatIsWrongSaysWhere(t *testing.T) {
	for want, change := range map[string][2]string{
		"format: 2":                    {"format: 1", "format: 2"},
		"field colour":                 {"owner: platform", "owner: platform\n    colour: red"},
		`jobs: 1 (Audit): name`:        {"name: audit", "name: Audit"},
		`kind: "erasure"`:              {"kind: audit", "kind: erasure"}, // it destroys
		`kind: "replay"`:               {"kind: audit", "kind: replay"},
		`kind: "rollout"`:              {"kind: audit", "kind: rollout"},
		`kind: "backfill"`:             {"kind: audit", "kind: backfill"},
		`owner: ""`:                    {"owner: platform", "owner: ''"},
		"every, cron: want one":        {"every: 1h", "every: 1h\n    cron: 0 * * * *"},
		"want one of them":             {"every: 1h", ""},
		"every: 1s":                    {"every: 1h", "every: 1s"},
		"late_after: 1h0m0s":           {"late_after: 3h", "late_after: 1h"},
		`"soon"`:                       {"late_after: 3h", "late_after: soon"},
		"flags: topic: map[a:b]: want": {"topic: [a, b]", "topic: [{a: b}]"},
	} {
		text := strings.Replace(oneJob, change[0], change[1], 1)
		require.NotEqual(t, oneJob, text)
		_, err := ParseStanding([]byte(text), anyFlags)
		require.ErrorContains(t, err, want)
	}
	_, err := ParseStanding([]byte(oneJob), func(string, []string) error { return errors.New("unknown flag: --from") })
	require.ErrorContains(t, err, "jobs: 1 (audit): unknown flag: --from")
	_, rest, _ := strings.Cut(oneJob, "jobs:\n")
	_, err = ParseStanding([]byte(oneJob+rest), anyFlags)
	require.ErrorContains(t, err, "another job has it")
	_, err = ParseStanding([]byte(oneJob+strings.Repeat(rest, maxStanding)), anyFlags)
	require.ErrorContains(t, err, "at most 50")
}

// Guarantees: a job is late when its last success is too old; without one, when it has been scheduled for too long. Only a run that ended as done is a success.
func TestWhenAStandingJobIsLate(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	s := StandingState{Standing: Standing{LateAfter: Duration(3 * time.Hour)}, Made: now.Add(-2 * time.Hour)}
	require.False(t, s.Late(now))
	require.True(t, s.Late(now.Add(time.Hour+time.Second)), "it never succeeded")
	s.LastSuccess = now
	require.False(t, s.Late(now.Add(3*time.Hour)))
	require.True(t, s.Late(now.Add(3*time.Hour+time.Second)))
	require.False(t, s.Failed(), "it has not run yet")
	for state, failed := range map[string]bool{StateDone: false, StateDiffers: true, StateIncomplete: true, StateFailed: true, StateCancelled: true, StateTerminated: true} {
		s.LastRun = &Summary{State: state}
		require.Equal(t, failed, s.Failed(), state)
	}
}

func scrape(t *testing.T, m *Metrics, host string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.URL(), http.NoBody)
	require.NoError(t, err)
	req.Host = host
	answer, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(body)
}

// Scenario: Prometheus asks a worker, a page of another name does, and Temporal stops answering.
// Guarantees: each standing job's age, bound and owner are there, and what attempts came to; a page gets nothing; ages go on growing without Temporal, and that it is away is told.
func TestMetricsTellHowLateStandingJobsAre(t *testing.T) {
	asked, away := 0, false
	m, err := ServeMetrics("127.0.0.1:0", []string{"worker-1"}, func(context.Context) ([]StandingState, error) {
		asked++
		if away {
			return nil, errors.New("unavailable")
		}
		return []StandingState{{Standing: Standing{Name: "audit", Kind: "audit", Owner: "platform", LateAfter: Duration(3 * time.Hour)}, LastSuccess: time.Now().Add(-time.Hour - 30*time.Second), Paused: true}}, nil
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	m.counts.add(KindAudit, StateDiffers, nil)
	m.counts.add(KindUpkeep, "", errors.New("x"))
	m.counts.add("rm", "", errors.New("x"))
	m.counts.add(KindUpkeep, "", errWorkerStops)
	m.counts.add(KindUpkeep, "", temporal.NewNonRetryableApplicationError("x", errorRequest, nil))

	status, text := scrape(t, m, "")
	require.Equal(t, http.StatusOK, status, text)
	for _, want := range []string{
		`pulsegrid_standing_job_last_success_age_seconds{job="audit",kind="audit",owner="platform"} 36`,
		`pulsegrid_standing_job_late_after_seconds{job="audit",kind="audit",owner="platform"} 10800`,
		`pulsegrid_standing_job_paused{job="audit",kind="audit",owner="platform"} 1`,
		`pulsegrid_standing_jobs_up 1`,
		`pulsegrid_job_attempts_total{kind="audit",result="differs"} 1`,
		`pulsegrid_job_attempts_total{kind="upkeep",result="failed"} 1`,
		`pulsegrid_job_attempts_total{kind="upkeep",result="stopped"} 1`,
		`pulsegrid_job_attempts_total{kind="unknown",result="failed"} 1`,
		`pulsegrid_job_attempts_total{kind="upkeep",result="refused"} 1`,
	} {
		require.Contains(t, text, want)
	}
	status, _ = scrape(t, m, "worker-1:80")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, 1, asked, "two scrapes within a moment are one question")
	status, text = scrape(t, m, "rebound.example")
	require.Equal(t, http.StatusForbidden, status)
	require.NotContains(t, text, "audit")

	away = true
	families := m.families(t.Context(), time.Now().Add(time.Hour))
	require.Equal(t, 2, asked)
	require.InDelta(t, 7200, families[0].GetMetric()[0].GetGauge().GetValue(), 60)
	require.Zero(t, families[3].GetMetric()[0].GetGauge().GetValue())
}
