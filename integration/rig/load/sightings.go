package load

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// HotPoll is the time between two looks at ClickHouse.
const HotPoll = 100 * time.Millisecond

// Quantile of sorted figures.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// Sightings are when requests, told by their events' time in milliseconds, were first seen in a store.
type Sightings struct {
	seen chan map[int64]int64 // holds the one map: whoever takes it puts it back
}

// NewSightings has none.
func NewSightings() *Sightings {
	s := &Sightings{seen: make(chan map[int64]int64, 1)}
	s.seen <- map[int64]int64{}
	return s
}

// Add notes the times of requests that are seen at a time.
func (s *Sightings) Add(at int64, times []int64) {
	m := <-s.seen
	for _, t := range times {
		if _, known := m[t]; !known {
			m[t] = at
		}
	}
	s.seen <- m
}

// Latencies in seconds, sorted, of those that were seen.
func (s *Sightings) Latencies(want []int64) []float64 {
	m := <-s.seen
	defer func() { s.seen <- m }()
	var out []float64
	for _, t := range want {
		if at, ok := m[t]; ok {
			out = append(out, float64(at-t)/1000)
		}
	}
	slices.Sort(out)
	return out
}

// Wait returns when all are seen.
func (s *Sightings) Wait(want []int64, timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(HotPoll) {
		n := len(s.Latencies(want))
		if n == len(want) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d requests were not seen within %v", len(want)-n, len(want), timeout)
		}
	}
}

// Times are those by which the requests of logs among these are seen.
func Times(requests []*agents.Request) (out []int64) {
	for _, q := range requests {
		if q.Signal == signal.Logs {
			out = append(out, q.Sent.UnixMilli())
		}
	}
	return out
}

// HotWatch asks ClickHouse for the newest requests of a service, again and again.
type HotWatch struct {
	*Sightings
	cancel context.CancelFunc
	done   chan struct{}
}

// Stop ends it.
func (h *HotWatch) Stop() {
	h.cancel()
	<-h.done
}

// WatchHot begins to look. What is later than longest is not seen. A service of few events costs ClickHouse little.
func WatchHot(ctx context.Context, r *rig.Rig, service string, longest time.Duration) *HotWatch {
	ctx, cancel := context.WithCancel(ctx)
	h := &HotWatch{NewSightings(), cancel, make(chan struct{})}
	sql := fmt.Sprintf("SELECT DISTINCT toUnixTimestamp64Milli(time) FROM logs WHERE service_name = '%s' AND time > now64(9) - INTERVAL %d SECOND", service, int(longest.Seconds()))
	go func() {
		defer close(h.done)
		tick := time.NewTicker(HotPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			text, err := r.Query(sql)
			if err != nil {
				continue // the next one tells
			}
			at := time.Now().UnixMilli()
			var times []int64
			for _, f := range strings.Fields(text) {
				if t, err := strconv.ParseInt(f, 10, 64); err == nil {
					times = append(times, t)
				}
			}
			h.Add(at, times)
		}
	}()
	return h
}
