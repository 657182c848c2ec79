package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/load"
)

// benchRestart prints how long an aggregator that is killed under load takes until ClickHouse is fresh again: when the group has given
// its partitions away, everything that was sent lies within the dedupe window and must be remembered first.
func benchRestart(_ context.Context, s settings) error {
	return cell(s.collector, func(r *rig.Rig) error {
		rate, err := s.steadyRate(r)
		if err != nil {
			return err
		}
		window := s.window
		if window == 0 {
			window = rate * int(dedupeWindow/time.Second)
		}
		if err := fillWindow(r, window, 2*rate); err != nil {
			return err
		}
		const service = "restart"
		fleet := agents.Start(agents.Options{Service: service, Seed: 1, Gateways: []string{r.HTTP}, Rate: rate})
		time.Sleep(s.steady)
		r.Aggregator.Kill()
		window += fleet.Acked()
		began := time.Now()
		if err := r.Aggregator.Start(time.Minute); err != nil {
			return err
		}
		// A row from before the kill is fresh for a while and proves nothing.
		for age := load.KeepsUp; age >= min(load.KeepsUp, time.Since(began)); {
			if time.Since(began) > drainTimeout {
				return fmt.Errorf("ClickHouse is not fresh %v after the restart:\n%s", drainTimeout, r.Aggregator.Log())
			}
			time.Sleep(load.HotPoll)
			if age, err = load.NewestAge(r, service); err != nil {
				return err
			}
		}
		took := time.Since(began)
		usage, err := rig.UsageOf(r.Aggregator.PID())
		if err != nil {
			return err
		}
		if _, err := fleet.Stop(); err != nil {
			return err
		}
		fmt.Printf("\nAggregator killed and started again at %d events/s with %d events in the dedupe window: ClickHouse fresh (a row of after the restart in each partition, at most %v old) after %.1f s, which took the aggregator %.1f s of CPU\n",
			rate, window, load.KeepsUp, took.Seconds(), usage.CPU.Seconds())
		return nil
	})
}

// dedupeWindow is the one of distributions/aggregator.
const dedupeWindow = 15 * time.Minute

// fillWindow sends events until the window has so many, and waits for ClickHouse.
func fillWindow(r *rig.Rig, events, rate int) error {
	const service = "window"
	fleet := agents.Start(agents.Options{Service: service, Seed: 2, Gateways: []string{r.HTTP}, Rate: rate})
	for fleet.Acked() < events {
		time.Sleep(load.HotPoll)
	}
	requests, err := fleet.Stop()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(drainTimeout); ; time.Sleep(load.HotPoll) {
		stored, err := r.Query(fmt.Sprintf("SELECT (SELECT count() FROM logs WHERE service_name = '%[1]s') + (SELECT count() FROM spans WHERE service_name = '%[1]s') + (SELECT count() FROM metrics WHERE service_name = '%[1]s')", service))
		if err != nil {
			return err
		}
		if stored == strconv.Itoa(len(requests)*agents.PerRequest) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("ClickHouse has %s of %d events %v after the last was sent", stored, len(requests)*agents.PerRequest, drainTimeout)
		}
	}
}
