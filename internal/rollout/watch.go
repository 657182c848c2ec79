package rollout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	// window is judged by itself, so that a long good time does not hide a bad minute.
	window = time.Minute
	// settle is how long a gateway, or the registry, may be silent, and how long a gateway may take to follow a change.
	settle = time.Minute
	// minRequests are enough for their mean latency to say something.
	minRequests = 100
	// Between two looks.
	minEvery = 500 * time.Millisecond
	maxEvery = 10 * time.Second
)

// overBudget is a reason to roll back.
type overBudget struct{ text string }

func (o overBudget) Error() string { return o.text }

// paused is a reason to stop where it is: what happens is not known, so it neither passes nor goes back.
type paused struct{ text string }

func (p paused) Error() string { return p.text }

func pause(format string, args ...any) error { return paused{fmt.Sprintf(format, args...)} }

// watch is one stage of a cell.
type watch struct {
	plan     *Plan
	cell     Cell
	registry *registry
	scrape   Scrape

	heard map[string]time.Time // when each gateway, and the registry (""), was last as it must be
	now   map[string]gateway   // what each told last
	base  map[string]gateway   // and at the beginning of the window
	start map[string]gateway   // and when it was first heard
}

// run watches until the stage has lasted its time, and returns what it has seen.
func (w *watch) run(ctx context.Context) (figures, error) {
	state := w.registry.state
	lasts := w.plan.WarnFor
	if state.Stage == schema.StageEnforce {
		lasts = w.plan.EnforceFor
	}
	began := time.Now()
	end := began.Add(min(lasts, window)) // also where the time was over before this program began: nobody has looked
	if over := state.Since.Add(lasts); over.After(end) {
		end = over
	}
	w.heard, w.now, w.base, w.start = map[string]time.Time{"": began}, map[string]gateway{}, map[string]gateway{}, map[string]gateway{}
	for _, url := range w.cell.Gateways {
		w.heard[url] = began
	}
	every, turn := min(max(lasts/20, minEvery), maxEvery), began.Add(window)
	for {
		if err := sleep.For(ctx, every); err != nil {
			return figures{}, err
		}
		all, err := w.look(ctx)
		if err != nil {
			return figures{}, err
		}
		now := time.Now()
		ends := all && !now.Before(end)
		total, err := w.judge(ends)
		if err != nil || ends {
			return total, err
		}
		if now.After(turn) {
			w.base, turn = maps.Clone(w.now), now.Add(window)
		}
	}
}

// look asks the registry and all gateways, and returns whether all of them are as they must be.
func (w *watch) look(ctx context.Context) (all bool, err error) {
	wrong := map[string]error{}
	if err := w.registry.unchanged(ctx); errors.Is(err, errChanged) {
		return false, err
	} else if err != nil {
		wrong[""] = err
	}
	for _, url := range w.cell.Gateways {
		m, err := w.scrape(ctx, url)
		if err != nil {
			wrong[url] = err
			continue
		}
		g := readGateway(m, w.registry.state)
		if !g.follows {
			wrong[url] = fmt.Errorf("%s does not have stage %s of version %s", url, w.registry.state.Stage, w.registry.state.Proposed)
			continue
		}
		if _, known := w.start[url]; !known {
			w.start[url] = gateway{requests: g.requests, seconds: g.seconds} // its events are all of this stage, its requests are not
			w.base[url] = w.start[url]
		}
		w.now[url] = g
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	now := time.Now()
	for _, url := range slices.Sorted(maps.Keys(w.heard)) {
		if wrong[url] == nil {
			w.heard[url] = now
		} else if silent := now.Sub(w.heard[url]); silent > settle {
			return false, pause("for %v: %v", silent.Round(time.Second), wrong[url])
		}
	}
	return len(wrong) == 0, nil
}

// judge holds the stage as a whole, and the window, against the budgets. Before the stage ends, few events of a tenant, and few requests, say nothing yet.
func (w *watch) judge(ends bool) (figures, error) {
	recent, watched := map[string]gateway{}, map[string]gateway{}
	for url, g := range w.now {
		recent[url], watched[url] = g.since(w.base[url]), g.since(w.start[url])
	}
	total, last := together(w.now), together(recent)
	total.requests, total.latency = together(watched).requests, together(watched).latency
	enough := float64(w.plan.MinEvents)
	if ends {
		enough = 1
	}
	for _, f := range []figures{total, last} {
		for _, t := range f.tenants {
			if t.refused > w.plan.refusePercent/100*max(t.events, enough) {
				return total, overBudget{fmt.Sprintf("version %s refuses %s, more than %s", w.registry.state.Proposed, t, w.plan.RefuseAbove)}
			}
		}
	}
	before := w.registry.state.LatencyBefore
	if (last.requests >= minRequests || ends && last.requests > 0) && last.latency > before+w.plan.LatencyGrowth {
		return total, overBudget{fmt.Sprintf("a request takes %v on average (%.0f requests) and took %v before, more than %v longer",
			last.latency.Round(10*time.Microsecond), last.requests, before.Round(10*time.Microsecond), w.plan.LatencyGrowth)}
	}
	if ends && (total.events < float64(w.plan.MinEvents) || total.requests == 0) {
		return total, pause("the gateways have checked %.0f events in this stage, and answered %.0f requests while it was watched: want %d events or more (min_events)",
			total.events, total.requests, w.plan.MinEvents)
	}
	return total, nil
}
