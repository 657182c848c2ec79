package alerting

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	// lookEvery is how often a group looks whether a bucket is complete, and whether something is to be told. Changed states are written as often.
	lookEvery = time.Second
	// catchUpMost bounds how many evaluations a group makes up: after a pause of the store or of the evaluator, and at the first start.
	catchUpMost = 30
	// backoffMost is the longest pause of a rule that costs too much.
	backoffMost = 10 * time.Minute
	// turnMost is how long a query waits for its turn.
	turnMost = 30 * time.Second
	// validFor is how often an alert may be told late before Alertmanager takes it for resolved, in units of the longer of interval and resend. As in Prometheus.
	validFor = 4
)

// Complete returns how far the store is complete: it has every event of the signal that Kafka appended before.
type Complete func(ctx context.Context, s signal.Signal) (time.Time, error)

// Config of an Evaluator.
type Config struct {
	Groups   []*Group
	Store    *Store
	Complete Complete
	// Notify takes alerts that are to be told. It must not block.
	Notify func([]Notice)
	// StateFile keeps the states over a restart; empty: nothing does.
	StateFile string
	// Workers is how many queries run at a time.
	Workers int
	// Resend is how often a firing alert is told again.
	Resend time.Duration
	Log    *zap.Logger
}

// Evaluator evaluates groups of rules, each in its own time.
type Evaluator struct {
	config  Config
	metrics *evaluatorMetrics
	groups  []*runningGroup
	turn    chan struct{} // a place for each query; waiting groups get them in the order in which they came
	saved   []byte        // what the state file holds
	most    int           // bytes of the state file
}

// runningGroup is a group with its states. One goroutine evaluates it; another tells its alerts while queries run.
type runningGroup struct {
	*Group
	e *Evaluator

	begun time.Time // when this evaluator began; by the clock
	// Of the evaluating goroutine.
	slow    bool      // the last evaluation took longer than the interval
	skipped time.Time // end of the newest bucket of those that nobody evaluates

	mu        sync.Mutex // guards the rest and the states of the rules; not held while a query runs
	evaluated time.Time  // end of the newest bucket that was evaluated; zero: none yet
	problem   string     // why the newest buckets were not; empty: nothing is known
	rules     []*runningRule
	stale     *tracker
}

// runningRule is a rule with its states.
type runningRule struct {
	*Rule
	// Of the evaluating goroutine.
	checked bool            // ClickHouse has read it since this evaluator began, and found nothing wrong
	asked   time.Time       // bucket for which ClickHouse read it last
	refusal *RuleError      // what was wrong then; valid when not checked
	signals []signal.Signal // that it reads; valid when checked
	past    *bool           // whether buckets before the first are of use; nil: not asked yet
	pause   time.Duration   // doubled by each failure that was costly
	again   time.Time       // buckets that end before are not evaluated

	// Guarded by the group's mu; written by the evaluating goroutine.
	tracker
	since   time.Time // end of the first bucket of those that it failed on in a row; zero: it does not fail
	failure string
	failed  *tracker
}

// New reads the state file. Nothing runs yet.
func New(c Config) (*Evaluator, error) {
	e := &Evaluator{config: c, turn: make(chan struct{}, c.Workers), most: stateFileMost}
	e.metrics = newEvaluatorMetrics(e)
	for _, g := range c.Groups {
		r := &runningGroup{Group: g, e: e, begun: time.Now(), stale: newTracker()}
		for _, rule := range g.Rules {
			r.rules = append(r.rules, &runningRule{
				Rule: rule, failed: newTracker(),
				tracker: tracker{holds: rule.For, keeps: rule.KeepFiringFor, annotations: rule.Annotations, alerts: map[string]*Alert{}},
			})
		}
		e.groups = append(e.groups, r)
	}
	return e, e.load()
}

func newTracker() *tracker { return &tracker{alerts: map[string]*Alert{}} }

// Run evaluates until ctx is done, and keeps the states.
func (e *Evaluator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, g := range e.groups {
		wg.Go(func() { g.run(ctx) })
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	failing := false
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			for _, g := range e.groups {
				g.tell(time.Now())
			}
			err := e.save()
			if err != nil && !failing {
				e.config.Log.Error("the states of alerts are not kept: after a restart, pending alerts begin anew", zap.Error(err))
			}
			failing = err != nil
		}
	}
	wg.Wait()
	return e.save()
}

func (g *runningGroup) run(ctx context.Context) {
	for {
		g.evaluateDue(ctx, time.Now())
		if sleep.For(ctx, time.Until(time.Now().Truncate(lookEvery).Add(lookEvery))) != nil {
			return
		}
	}
}

// evaluateDue evaluates the buckets that have become complete.
func (g *runningGroup) evaluateDue(ctx context.Context, now time.Time) {
	due := now.UTC().Add(-g.Freshness).Truncate(g.Interval)
	if !due.After(g.evaluated) {
		return
	}
	begun := time.Now()
	err := g.advance(ctx, func() time.Time { return now.Add(time.Since(begun)) }, due)
	if ctx.Err() != nil {
		return // the error is that of being stopped
	}
	g.slow = time.Since(begun) > g.Interval
	g.mu.Lock()
	defer g.mu.Unlock()
	g.problem = ""
	if err != nil {
		g.problem = err.Error()
	}
}

// advance evaluates the buckets up to due, as far as they are complete.
func (g *runningGroup) advance(ctx context.Context, clock func() time.Time, due time.Time) error {
	signals, err := g.check(ctx, due)
	if err != nil {
		return err
	}
	through, behind := due, error(nil)
	for _, s := range signals {
		t, err := g.e.config.Complete(ctx, s)
		if err != nil {
			return fmt.Errorf("how far ClickHouse has %s is not known: %w", s, err)
		}
		// Kafka appends events that agents keep back up to freshness after their bucket's end: these must be stored, too.
		if whole := t.Add(-g.Freshness).Truncate(g.Interval); whole.Before(through) {
			through, behind = whole, fmt.Errorf("ClickHouse has %s only until %s", s, t.UTC().Format(time.RFC3339))
		}
	}
	cold := g.evaluated.Before(g.begun.Add(-forMost))
	buckets := g.buckets(through)
	if len(buckets) > 0 {
		g.skip(buckets[0])
	}
	for _, ts := range buckets {
		for _, r := range g.rules {
			// At the first start the past matters only to rules that are active now, or keep an alert firing.
			if cold && !ts.Equal(through) {
				wanted, err := r.wantsPast(ctx, g, through)
				if err != nil {
					return err
				}
				if !wanted {
					continue
				}
			}
			if err := g.evaluate(ctx, r, clock, ts, through); err != nil {
				return err
			}
		}
		g.mu.Lock()
		g.evaluated = ts
		g.mu.Unlock()
		if !cold || ts.Equal(through) {
			g.e.metrics.late.Observe(clock().Sub(ts).Seconds())
		}
	}
	return behind
}

// check has ClickHouse read the rules that it has not let through yet, once for a bucket, and returns the signals of all that it has.
func (g *runningGroup) check(ctx context.Context, due time.Time) ([]signal.Signal, error) {
	all := map[signal.Signal]bool{}
	for _, r := range g.rules {
		if !r.checked && due.After(r.asked) && !due.Before(r.again) {
			err := g.asking(ctx, func() (err error) {
				r.signals, err = g.e.config.Store.Check(ctx, g.Group, r.Rule)
				return err
			})
			refusal, wrong := errors.AsType[*RuleError](err)
			if err != nil && !wrong {
				return nil, err
			}
			r.checked, r.asked, r.refusal = err == nil, due, refusal
		}
		for _, s := range r.signals {
			all[s] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// asking waits for a place among the queries.
func (g *runningGroup) asking(ctx context.Context, query func() error) error {
	select {
	case g.e.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(turnMost):
		return fmt.Errorf("no place among the queries for %v: there are more rules than ClickHouse can do", turnMost)
	}
	defer func() { <-g.e.turn }()
	return query()
}

// buckets are the ends of those that are to be evaluated, in their order: after a pause also those that were missed, unless evaluating is what takes so long.
func (g *runningGroup) buckets(through time.Time) []time.Time {
	if !through.After(g.evaluated) {
		return nil
	}
	first := through.Add(-(catchUpMost - 1) * g.Interval)
	if next := g.evaluated.Truncate(g.Interval).Add(g.Interval); next.After(first) {
		first = next
	}
	if g.slow {
		first = through
	}
	var out []time.Time
	for ts := first; !ts.After(through); ts = ts.Add(g.Interval) {
		out = append(out, ts)
	}
	return out
}

// skip takes the buckets that nobody evaluates, those before first, out of the time for which alerts have been pending, as Prometheus does after a restart. Where evaluating takes longer than the
// interval they count: else no alert would ever fire.
func (g *runningGroup) skip(first time.Time) {
	newest := g.evaluated.Truncate(g.Interval)
	if g.skipped.After(newest) {
		newest = g.skipped
	}
	last := first.Add(-g.Interval)
	if g.evaluated.IsZero() || g.slow || !last.After(newest) {
		return
	}
	g.skipped = last
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.rules {
		r.postpone(last.Sub(newest), last)
	}
}

// evaluate brings a rule to the bucket that ends at ts. Its error says that ClickHouse has not answered.
func (g *runningGroup) evaluate(ctx context.Context, r *runningRule, clock func() time.Time, ts, newest time.Time) error {
	if ts.Before(r.again) {
		return nil
	}
	failure := r.refusal
	var samples []Sample
	if r.checked {
		err := g.asking(ctx, func() (err error) {
			begun := time.Now()
			samples, err = g.e.config.Store.Evaluate(ctx, g.Group, r.Rule, ts)
			g.e.metrics.took.Observe(time.Since(begun).Seconds())
			return err
		})
		var failed bool
		if failure, failed = errors.AsType[*RuleError](err); err != nil && !failed {
			if ctx.Err() == nil {
				g.e.metrics.evaluations.WithLabelValues(resultUnanswered).Inc()
			}
			return err
		}
	}
	g.e.metrics.evaluated(failure)
	g.mu.Lock()
	defer g.mu.Unlock()
	if failure != nil {
		r.fail(g, ts, failure)
		return nil
	}
	if !r.since.IsZero() {
		g.e.config.Log.Info("rule is well again", zap.String("group", g.key()), zap.String("rule", r.Alert))
	}
	r.since, r.failure, r.pause, r.again = time.Time{}, "", 0, time.Time{}
	r.eval(ts, samples)
	if ts.Equal(newest) { // of a large group the first rules need not wait for the last
		g.notify(r.due(clock(), g.e.config.Resend, g.valid()))
	}
	return nil
}

// wantsPast tells whether a rule is active in the newest bucket, or might keep an alert firing. A rule that was refused is not run for that. Its error says that ClickHouse has not answered.
func (r *runningRule) wantsPast(ctx context.Context, g *runningGroup, newest time.Time) (bool, error) {
	if !r.checked {
		return false, nil
	}
	if r.past == nil {
		active := r.keeps > 0
		if !active {
			err := g.asking(ctx, func() error {
				samples, err := g.e.config.Store.Evaluate(ctx, g.Group, r.Rule, newest)
				active = len(samples) > 0
				return err
			})
			if _, failed := errors.AsType[*RuleError](err); err != nil && !failed { // the rule's own failure is found again by the evaluation
				return false, err
			}
		}
		r.past = &active
	}
	return *r.past, nil
}

// fail leaves the rule's alerts as they are.
func (r *runningRule) fail(g *runningGroup, ts time.Time, e *RuleError) {
	if r.since.IsZero() {
		r.since = ts
		g.e.config.Log.Warn("rule cannot be evaluated", zap.String("group", g.key()), zap.String("rule", r.Alert), zap.Error(e))
	}
	r.failure = e.Error()
	if e.Costly {
		r.pause = min(max(2*r.pause, g.Interval), backoffMost)
		r.again = ts.Add(r.pause + g.Interval)
	}
}

// watch has Stale and RuleFailed follow what the group has evaluated.
func (g *runningGroup) watch(now time.Time) {
	newest := g.evaluated
	if newest.IsZero() {
		newest = g.begun.Truncate(Tick)
	}
	labels := maps.Clone(g.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if g.Tenant != AllTenants {
		labels[tenantLabel] = g.Tenant
	}
	labels["group"] = g.Name
	mark := func(t *tracker, alert, rule string, since time.Time, summary string) {
		if since.IsZero() || now.Sub(since) <= g.StaleAfter {
			t.eval(now.UTC().Truncate(time.Second), nil)
			return
		}
		s := Sample{Labels: maps.Clone(labels), Value: now.Sub(since).Seconds()}
		s.Labels[nameLabel] = alert
		if rule != "" {
			s.Labels["rule"] = rule
		}
		t.annotations = map[string]string{"summary": summary}
		// From the bucket on, not from when this evaluator noticed: another one says the same.
		t.eval(since.Add(g.StaleAfter).UTC(), []Sample{s})
	}
	problem := g.problem
	if problem == "" {
		problem = "its rules take too long"
	}
	mark(g.stale, StaleAlert, "", newest, fmt.Sprintf("group %s has been evaluated only until %s: %s", g.Name, newest.UTC().Format(time.RFC3339), cut(problem)))
	for _, r := range g.rules {
		mark(r.failed, FailedAlert, r.Alert, r.since, fmt.Sprintf("rule %s has failed since %s: %s", r.Alert, r.since.UTC().Format(time.RFC3339), cut(r.failure)))
	}
}

func cut(text string) string {
	if len(text) > labelMost {
		return text[:labelMost] + "..."
	}
	return text
}

func (g *runningGroup) valid() time.Duration { return validFor * max(g.Interval, g.e.config.Resend) }

// tell hands over what is to be told. It does not wait for anybody.
func (g *runningGroup) tell(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch(now)
	resend, valid := g.e.config.Resend, g.valid()
	out := g.stale.due(now, resend, valid)
	for _, r := range g.rules {
		out = append(out, r.due(now, resend, valid)...)
		out = append(out, r.failed.due(now, resend, valid)...)
	}
	g.notify(out)
}

func (g *runningGroup) notify(n []Notice) {
	if len(n) > 0 {
		g.e.config.Notify(n)
	}
}
