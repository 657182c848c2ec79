package orchestration

import (
	"context"
	"errors"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.temporal.io/sdk/temporal"

	"github.com/pulsegrid/pulsegrid/internal/metricserver"
)

const (
	// standingKnownFor is how long what Temporal has said of the standing jobs is good for a scrape: each asks it three things of each job.
	standingKnownFor = 15 * time.Second
	// standingAnswers bounds how long Temporal may take to say it.
	standingAnswers = 8 * time.Second
)

// Results of an attempt, beside the states of an Outcome.
const (
	resultFailed  = "failed"  // a retry may mend it
	resultRefused = "refused" // no retry mends it
	resultStopped = "stopped" // cancelled, or the worker was stopped
)

// counts are the attempts of a worker, by kind and result: both are of a fixed set.
type counts struct {
	mu sync.Mutex
	by map[[2]string]float64
}

func (c *counts) add(kind, state string, err error) {
	result := state
	var app *temporal.ApplicationError
	switch {
	case err == nil:
	case errors.Is(err, errWorkerStops), errors.Is(err, context.Canceled), temporal.IsCanceledError(err):
		result = resultStopped
	case errors.As(err, &app) && app.NonRetryable():
		result = resultRefused
	default:
		result = resultFailed
	}
	if _, known := commandKinds[kind]; !known && kind != KindBackfill { // whoever reaches Temporal may name any
		kind = "unknown"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[[2]string]float64{}
	}
	c.by[[2]string{kind, result}]++
}

// Metrics serves how late standing jobs are, and what became of this worker's attempts.
type Metrics struct {
	*metricserver.Server
	counts counts
	read   func(context.Context) ([]StandingState, error)

	mu       sync.Mutex
	known    []StandingState
	asked    time.Time
	answered bool
}

// ServeMetrics listens on an address. names are those of this machine by which it may be asked, beside localhost and IP addresses. read returns the standing jobs.
func ServeMetrics(address string, names []string, read func(context.Context) ([]StandingState, error)) (m *Metrics, err error) {
	m = &Metrics{read: read}
	m.Server, err = metricserver.Serve(address, names, func(ctx context.Context) []*dto.MetricFamily { return m.families(ctx, time.Now()) })
	return m, err
}

// standing asks Temporal, unless it has just been asked. Where it does not answer, what it said last counts, and the jobs go on getting late.
func (m *Metrics) standing(ctx context.Context, now time.Time) (jobs []StandingState, answered bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked.IsZero() || now.Sub(m.asked) >= standingKnownFor {
		ctx, cancel := context.WithTimeout(ctx, standingAnswers)
		defer cancel()
		jobs, err := m.read(ctx)
		if m.asked, m.answered = now, err == nil; m.answered {
			m.known = jobs
		}
	}
	return m.known, m.answered
}

func (m *Metrics) families(ctx context.Context, now time.Time) []*dto.MetricFamily {
	jobs, answered := m.standing(ctx, now)
	age := family("pulsegrid_standing_job_last_success_age_seconds", "Seconds since the standing job came to its end well; since it was scheduled, where Temporal knows of no such end.", dto.MetricType_GAUGE)
	allowed := family("pulsegrid_standing_job_late_after_seconds", "How old the last success may become before the standing job is late.", dto.MetricType_GAUGE)
	paused := family("pulsegrid_standing_job_paused", "1: somebody has paused the standing job.", dto.MetricType_GAUGE)
	for i := range jobs {
		s := &jobs[i]
		labels := []string{"job", s.Name, "kind", s.Kind, "owner", s.Owner}
		add(age, now.Sub(s.Since()).Seconds(), labels...)
		add(allowed, time.Duration(s.LateAfter).Seconds(), labels...)
		add(paused, number(s.Paused), labels...)
	}
	up := family("pulsegrid_standing_jobs_up", "1: Temporal has said what it knows of the standing jobs when it was asked last.", dto.MetricType_GAUGE)
	add(up, number(answered))
	attempts := family("pulsegrid_job_attempts_total", "Attempts of jobs that this worker ended, by result.", dto.MetricType_COUNTER)
	m.counts.mu.Lock()
	defer m.counts.mu.Unlock()
	for by, n := range m.counts.by {
		add(attempts, n, "kind", by[0], "result", by[1])
	}
	return []*dto.MetricFamily{age, allowed, paused, up, attempts}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func family(name, help string, kind dto.MetricType) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Help: &help, Type: &kind}
}

// add adds a sample. labels are names and values, in turn.
func add(f *dto.MetricFamily, value float64, labels ...string) {
	m := &dto.Metric{}
	for i := 0; i < len(labels); i += 2 {
		m.Label = append(m.Label, &dto.LabelPair{Name: &labels[i], Value: &labels[i+1]})
	}
	if f.GetType() == dto.MetricType_COUNTER {
		m.Counter = &dto.Counter{Value: &value}
	} else {
		m.Gauge = &dto.Gauge{Value: &value}
	}
	f.Metric = append(f.Metric, m)
}
