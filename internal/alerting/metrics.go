package alerting

import (
	"context"
	_ "embed"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

//go:embed metadata.yaml
var metadataFile []byte

var meta = componentmeta.MustParse(metadataFile)

// Values of attributes, as metadata.yaml explains them.
const (
	resultOK         = "ok"
	resultRefused    = "refused"
	resultCostly     = "costly"
	resultUnanswered = "unanswered"

	outcomeTaken   = "taken"
	outcomeRefused = "refused"
	outcomeDropped = "dropped"

	reasonUnreachable = "unreachable"
	reasonStatus      = "status"
)

// evaluatorMetrics are those of an Evaluator.
type evaluatorMetrics struct {
	registry    *componentmeta.Registry
	evaluations *prometheus.CounterVec
	took, late  prometheus.Observer
}

func newEvaluatorMetrics(e *Evaluator) *evaluatorMetrics {
	r := meta.Registry()
	m := &evaluatorMetrics{
		registry: r, evaluations: counter(r, "alerts_evaluations_total", "result"),
		took: r.Histogram("alerts_evaluation_seconds").WithLabelValues(), late: r.Histogram("alerts_lateness_seconds").WithLabelValues(),
	}
	r.Observe("alerts_rules", func() float64 { return e.sum(func(g *runningGroup) int { return len(g.rules) }) })
	r.Observe("alerts_failing_rules", func() float64 { return e.sum((*runningGroup).failing) })
	r.Observe("alerts_stale_groups", func() float64 { return e.sum((*runningGroup).isStale) })
	return m
}

// counter begins at zero for each value of its attribute, so that Prometheus sees its first step.
func counter(r *componentmeta.Registry, name, attribute string) *prometheus.CounterVec {
	c := r.Counter(name)
	for _, value := range meta.Attributes()[attribute].Enum {
		c.WithLabelValues(value)
	}
	return c
}

// evaluated counts an evaluation; failure may be nil.
func (m *evaluatorMetrics) evaluated(failure *RuleError) {
	result := resultOK
	switch {
	case failure == nil:
	case failure.Costly:
		result = resultCostly
	default:
		result = resultRefused
	}
	m.evaluations.WithLabelValues(result).Inc()
}

// Gather returns the metrics of the evaluation.
func (e *Evaluator) Gather(context.Context) []*dto.MetricFamily {
	return gathered(e.metrics.registry, e.config.Log)
}

// gathered leaves out what cannot be had.
func gathered(r *componentmeta.Registry, log *zap.Logger) []*dto.MetricFamily {
	families, err := r.Gather()
	if err != nil {
		log.Error("not all metrics are served", zap.Error(err))
	}
	return families
}

// sum adds up a number of each group.
func (e *Evaluator) sum(of func(*runningGroup) int) float64 {
	n := 0
	for _, g := range e.groups {
		g.mu.Lock()
		n += of(g)
		g.mu.Unlock()
	}
	return float64(n)
}

// failing is how many rules fail. g.mu is held.
func (g *runningGroup) failing() (n int) {
	for _, r := range g.rules {
		if !r.since.IsZero() {
			n++
		}
	}
	return n
}

// isStale is 1 while Stale fires for the group. g.mu is held.
func (g *runningGroup) isStale() int {
	for _, a := range g.stale.alerts {
		if a.State == Firing {
			return 1
		}
	}
	return 0
}

// notifierMetrics are those of a Notifier.
type notifierMetrics struct {
	registry       *componentmeta.Registry
	sent, failures *prometheus.CounterVec
}

func newNotifierMetrics(n *Notifier) *notifierMetrics {
	r := meta.Registry()
	m := &notifierMetrics{registry: r, sent: counter(r, "alerts_sent_total", "outcome"), failures: counter(r, "alerts_send_failures_total", "reason")}
	r.Observe("alerts_waiting", func() float64 {
		waiting := 0
		for _, t := range n.targets {
			t.mu.Lock()
			waiting += len(t.pending)
			t.mu.Unlock()
		}
		return float64(waiting)
	})
	return m
}

// Gather returns the metrics of the delivery.
func (n *Notifier) Gather(context.Context) []*dto.MetricFamily {
	return gathered(n.metrics.registry, n.log)
}
