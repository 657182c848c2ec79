// Package load measures a cell under live load: what it can take, and when its events are seen in a store.
package load

import (
	"fmt"
	"strconv"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
)

const (
	// KeepsUp is the age of the newest row up to which a cell keeps up.
	KeepsUp = 3 * time.Second

	leastRate    = 2500
	capacityStep = 10 * time.Second
	drainTimeout = 3 * time.Minute
)

// Capacity is the highest rate, in events a second, at which ClickHouse stays fresh, with everything on this machine: agents, gateway, Kafka, aggregator and stores. It is the last of
// doubled rates, or one and a half times that. The cell has caught up when it returns.
func Capacity(r *rig.Rig, say func(format string, args ...any)) (int, error) {
	if _, err := keepsUp(r, leastRate/2, say); err != nil { // parts that have just started are slow
		return 0, err
	}
	best := 0
	for rate := leastRate; ; rate *= 2 {
		kept, err := keepsUp(r, rate, say)
		if err != nil {
			return 0, err
		}
		if !kept {
			break
		}
		best = rate
	}
	if best == 0 {
		return 0, fmt.Errorf("this machine does not keep up with %d events/s", leastRate)
	}
	kept, err := keepsUp(r, best*3/2, say)
	if kept {
		best = best * 3 / 2
	}
	return best, err
}

// keepsUp tells whether a cell that had nothing to do keeps up with a rate.
func keepsUp(r *rig.Rig, rate int, say func(format string, args ...any)) (bool, error) {
	service := fmt.Sprintf("capacity-%d", rate)
	fleet := agents.Start(agents.Options{Service: service, Seed: uint64(rate), Gateways: []string{r.HTTP}, Rate: rate})
	time.Sleep(capacityStep)
	sent := fleet.Acked()
	age, err := NewestAge(r, service)
	if _, stopErr := fleet.Stop(); stopErr != nil {
		return false, stopErr
	}
	if err != nil {
		return false, err
	}
	say("capacity: %6d events/s asked for, %6.0f acknowledged, newest row %v old", rate, float64(sent)/capacityStep.Seconds(), age.Round(time.Millisecond))
	return age <= KeepsUp && float64(sent) >= 0.9*float64(rate)*capacityStep.Seconds(), stored(r, service, fleet.Acked())
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
