// Package load measures a cell under live load: what it takes, and when its events are seen in a store.
package load

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
)

const (
	// KeepsUp is the age of the newest row up to which a cell keeps up: the aim for freshness in docs/slo.md.
	KeepsUp = 5 * time.Second

	leastRate    = 500
	step         = 20 * time.Second
	drainTimeout = 3 * time.Minute
)

// Half is the highest rate, in events a second, that takes half of this machine's CPU at most, with everything on it: agents, gateway, Kafka, aggregator and stores. It is the last of doubled
// rates, or one and a half times that. The cell has caught up when it returns. Agents show an API key, unless it is empty. (What a cell keeps up with for seconds is no measure: Kafka takes it, and merges come later.)
func Half(r *rig.Rig, key string, say func(format string, args ...any)) (int, error) {
	if _, err := halfIdle(r, key, leastRate/2, say); err != nil { // parts that have just started are slow
		return 0, err
	}
	best := 0
	for rate := leastRate; ; rate *= 2 {
		idle, err := halfIdle(r, key, rate, say)
		if err != nil {
			return 0, err
		}
		if !idle {
			break
		}
		best = rate
	}
	if best == 0 {
		return 0, fmt.Errorf("%d events/s take more than half of this machine", leastRate)
	}
	idle, err := halfIdle(r, key, best*3/2, say)
	if idle {
		best = best * 3 / 2
	}
	return best, err
}

// halfIdle tells whether a cell that had nothing to do keeps up with a rate by half of the CPU.
func halfIdle(r *rig.Rig, key string, rate int, say func(format string, args ...any)) (bool, error) {
	service := fmt.Sprintf("capacity-%d", rate)
	worked, all, err := rig.CPUTime()
	if err != nil {
		return false, err
	}
	fleet := agents.Start(agents.Options{Service: service, Seed: uint64(rate), Gateways: []string{r.HTTP}, Key: key, Rate: rate})
	time.Sleep(step)
	sent := fleet.Acked()
	age, ageErr := NewestAge(r, service)
	workedNow, allNow, err := rig.CPUTime()
	if _, stopErr := fleet.Stop(); stopErr != nil {
		return false, stopErr
	}
	if err := errors.Join(ageErr, err); err != nil {
		return false, err
	}
	share := float64(workedNow-worked) / float64(allNow-all)
	say("%6d events/s asked for, %6.0f acknowledged, newest row %v old: %.0f %% of the CPU", rate, float64(sent)/step.Seconds(), age.Round(time.Millisecond), 100*share)
	return share <= 0.5 && age <= KeepsUp && float64(sent) >= 0.9*float64(rate)*step.Seconds(), stored(r, service, fleet.Acked())
}

// stored waits until ClickHouse has the events of a service.
func stored(r *rig.Rig, service string, events int) error {
	sql := "SELECT sum(n) FROM ("
	for i, table := range []string{"logs", "metrics", "spans"} {
		if i > 0 {
			sql += " UNION ALL "
		}
		sql += fmt.Sprintf("SELECT count() AS n FROM %s WHERE service_name = '%s'", table, service)
	}
	for deadline := time.Now().Add(drainTimeout); ; time.Sleep(time.Second) {
		text, err := r.Query(sql + ")")
		if err == nil && text == strconv.Itoa(events) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("ClickHouse has %s of the %d events of %s after %v (%w)", text, events, service, drainTimeout, err)
		}
	}
}

// NewestAge is how old the newest row of the slowest partition of a service's logs is in ClickHouse.
func NewestAge(r *rig.Rig, service string) (time.Duration, error) {
	text, err := r.Query(fmt.Sprintf("SELECT toUnixTimestamp64Milli(min(newest)) FROM (SELECT max(time) AS newest FROM logs WHERE service_name = '%s' GROUP BY kafka_partition)", service))
	if err != nil {
		return 0, err
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	return time.Since(time.UnixMilli(ms)), err
}
