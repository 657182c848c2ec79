package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
)

// benchRestart prints how long an aggregator that is killed under load takes until ClickHouse is fresh again, when everything that
// was sent lies within the dedupe window and must be remembered first.
func benchRestart(_ context.Context, s settings) error {
	return cell(s.collector, func(r *rig.Rig) error {
		rate, err := s.steadyRate(r)
		if err != nil {
			return err
		}
		const service = "restart"
		fleet := agents.Start(agents.Options{Service: service, Seed: 1, Gateways: []string{r.HTTP}, Rate: rate})
		time.Sleep(s.steady)
		r.Aggregator.Kill()
		window := fleet.Acked()
		began := time.Now()
		if err := r.Aggregator.Start(time.Minute); err != nil {
			return err
		}
		for age := keepsUp + 1; age > keepsUp; {
			if time.Since(began) > drainTimeout {
				return fmt.Errorf("ClickHouse is not fresh %v after the restart:\n%s", drainTimeout, r.Aggregator.Log())
			}
			time.Sleep(hotPoll)
			if age, err = newestAge(r, service); err != nil {
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
		fmt.Printf("\nAggregator killed and started again at %d events/s with %d events in the dedupe window: fresh (newest row at most %v old) after %.1f s, which took it %.1f s of CPU\n",
			rate, window, keepsUp, took.Seconds(), usage.CPU.Seconds())
		return nil
	})
}
