package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

func TestEachKindOfJobHasACommandAndItsFlags(t *testing.T) {
	require.Equal(t, orchestration.CommandKinds(), slices.Sorted(maps.Keys(commandKinds)))
	for kind, k := range commandKinds {
		require.NotPanics(t, func() { k.flagSet() }, kind)
		found, _, err := newRoot().Find(k.path)
		require.NoError(t, err)
		require.Equal(t, k.make().Short, found.Short)
		require.NoError(t, k.make().ParseFlags(slices.Concat(k.always, (&jobRunner{
			stores: storesOptions{config: []string{"a"}, data: "d"}, gateway: []string{"g"}, certificates: "c", reports: "r",
		}).flags(k, orchestration.Command{Approved: []string{"s"}}))), kind)
	}
	require.NoError(t, checkFlags("upkeep", []string{"--keep=48h", "--table=logs", "--table=spans"}))
	_, err := readStanding("")
	require.NoError(t, err, "the standing jobs that come with PulseGrid")
}

// Guarantees: whoever reaches Temporal can have no job ask other stores than the worker's, write elsewhere, or be something else than a job.
func TestAJobMayNotHaveFlagsThatAreTheWorkers(t *testing.T) {
	w := &jobRunner{stores: storesOptions{data: t.TempDir()}}
	for want, c := range map[string]orchestration.Command{
		"unknown flag: --brokers":                  {Kind: "audit", Flags: []string{"--brokers=evil.example:9092"}},
		"unknown flag: --clickhouse":               {Kind: "audit", Flags: []string{"--clickhouse=http://evil.example"}},
		"unknown flag: --certificates":             {Kind: "audit", Flags: []string{"--certificates=/etc"}},
		"unknown flag: --config":                   {Kind: "upkeep", Flags: []string{"--config=/etc/passwd"}},
		"unknown flag: --dry-run":                  {Kind: "erasure", Flags: []string{"--dry-run=false"}},
		"unknown flag: --gateway":                  {Kind: "spill-check", Flags: []string{"--gateway=/etc/passwd"}},
		"unknown flag: --reports":                  {Kind: "rehearsal", Flags: []string{"--reports=/etc"}},
		"unknown flag: --yes":                      {Kind: "rollout", Flags: []string{"--plan=p.yaml", "--yes"}},
		"unknown flag: --ask-to-enforce":           {Kind: "rollout", Flags: []string{"--plan=p.yaml", "--ask-to-enforce=false"}},
		"unknown flag: --approved":                 {Kind: "rollout", Flags: []string{"--plan=p.yaml", "--approved=warn in cell two"}},
		"--plan: a job of kind rollout needs it":   {Kind: "rollout"},
		`"verify" is no flag`:                      {Kind: "audit", Flags: []string{"verify", "/etc"}},
		`no kind of job "backfill"`:                {Kind: "backfill"},
		"--reason: a job of kind erasure needs it": {Kind: "erasure", Flags: []string{"--tenant=acme", "--id=1", "--by=me", "--declare=x.yaml"}},
		"Temporal would keep the value":            {Kind: "erasure", Flags: []string{"--tenant=acme", "--id=1", "--by=me", "--reason=asked", "--declare=x.yaml", "--attribute=user.id=4711"}},
	} {
		_, err := w.Run(t.Context(), c, false, func(string) {})
		require.ErrorContains(t, err, want)
		require.ErrorAs(t, err, new(backfill.RequestError))
	}
}

// Guarantees: `job start` has the flags of `job run`, refuses those that the worker has, and says what lacks before anything is started.
func TestWrongJobsAreNotStarted(t *testing.T) {
	for want, args := range map[string][]string{
		"unknown flag: --config":               {"upkeep", "--config", "x"},
		`invalid argument "x"`:                 {"upkeep", "--retain-last", "x"},
		"--id: a job of kind erasure needs it": {"erasure", "--tenant", "acme"},
		"takes no argument":                    {"replay", "x"},
		"Temporal would keep the value":        {"erasure", "--tenant", "acme", "--id", "1", "--by", "me", "--reason", "asked", "--declare", "x", "--attribute", "user.id=4711"},
		`kind: "erasure"`:                      nil,
	} {
		if args == nil {
			path := filepath.Join(t.TempDir(), "standing.yaml")
			require.NoError(t, os.WriteFile(path, []byte("format: 1\njobs: [{name: x, kind: erasure, every: 1h, late_after: 2h, owner: me}]"), 0o600))
			_, code, err := run(t, "job", "schedule", "apply", "--file", path)
			require.Equal(t, exitUsage, code)
			require.ErrorContains(t, err, want)
			continue
		}
		_, code, err := run(t, append([]string{"job", "start"}, args...)...)
		require.ErrorContains(t, err, want)
		require.Equal(t, exitUsage, code)
	}
}

// Guarantees: a job's progress and report are bounded, whatever its command writes.
func TestWhatACommandPrintsIsBounded(t *testing.T) {
	b := &bounded{most: 10}
	for range 3 {
		n, err := b.Write([]byte("123456"))
		require.NoError(t, err)
		require.Equal(t, 6, n)
	}
	require.Equal(t, "1234561234\n(cut here: `job run` prints all)\n", b.text())
	var said []string
	l := &lines{said: func(line string) { said = append(said, line) }}
	for _, p := range []string{"one\ntw", "o\n", strings.Repeat("x", 3*lineMost), strings.Repeat("x", lineMost), "\nlast\n"} {
		_, err := fmt.Fprint(l, p)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"one", "two", strings.Repeat("x", lineMost), "last"}, said)
}

// Guarantees: a standing job that is late, and one whose last run failed, are seen, and make the command fail.
func TestStandingJobsThatAreLateOrHaveFailedAreSeen(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	job := func(name string, success time.Time, state string) orchestration.StandingState {
		return orchestration.StandingState{
			Standing:    orchestration.Standing{Name: name, Kind: "audit", Every: orchestration.Duration(time.Hour), LateAfter: orchestration.Duration(3 * time.Hour), Owner: "platform"},
			LastSuccess: success, LastRun: &orchestration.Summary{ID: "standing." + name, State: state},
		}
	}
	well := job("well", now.Add(-time.Hour), orchestration.StateDone)
	var out strings.Builder
	require.NoError(t, tellStanding(&out, []orchestration.StandingState{well}, now, false))
	require.Regexp(t, `(?m)^well +audit +every 1h0m0s +well +2026-11-30T11:00:00Z +3h0m0s +standing.well: done +- +platform$`, out.String())
	out.Reset()
	late := job("behind", now.Add(-4*time.Hour), orchestration.StateDone)
	late.Paused, late.Note = true, "paused by anna"
	err := tellStanding(&out, []orchestration.StandingState{well, late, job("broken", now.Add(-time.Hour), orchestration.StateDiffers)}, now, false)
	require.ErrorContains(t, err, "2 of 3 standing jobs are late or have failed")
	require.Regexp(t, `(?m)^behind .* LATE by 1h0m0s, paused by anna `, out.String())
	require.Regexp(t, `(?m)^broken .* FAILED .* standing.broken: differs `, out.String())
	out.Reset()
	require.Error(t, tellStanding(&out, []orchestration.StandingState{late}, now, true))
	require.Contains(t, out.String(), `"late": true`)
}
