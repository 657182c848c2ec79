package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed lakewatch.py
var lakeWatchScript string

const (
	probeRate    = 500 // events a second of the fleet whose events are looked for
	hotPoll      = 100 * time.Millisecond
	capacityStep = 10 * time.Second
	keepsUp      = 3 * time.Second // the newest row is not older than that: the cell keeps up
	drainTimeout = 3 * time.Minute
)

// cell runs a whole cell as `distributions` configures it, on one Kafka node, for a measurement.
func cell(collector string, measure func(*rig.Rig) error) (err error) {
	dir, err := os.MkdirTemp("", "pulsegrid-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r, err := rig.New(rig.Options{Dir: dir, Collector: collector})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.Start(); err != nil {
		return err
	}
	return measure(r)
}

// capacity is the highest rate, of doubled ones, at which ClickHouse stays fresh, with everything on this machine: agents, gateway,
// Kafka, aggregator and stores.
func capacity(r *rig.Rig) (int, error) {
	best := 0
	for rate := 2500; ; rate *= 2 {
		service := fmt.Sprintf("capacity-%d", rate)
		fleet := agents.Start(agents.Options{Service: service, Seed: uint64(rate), Gateways: []string{r.HTTP}, Rate: rate})
		time.Sleep(capacityStep)
		sent := fleet.Acked()
		age, err := newestAge(r, service)
		if _, stopErr := fleet.Stop(); stopErr != nil {
			return 0, stopErr
		}
		if err != nil {
			return 0, err
		}
		fmt.Printf("capacity: %6d events/s asked for, %6.0f acknowledged, newest row %v old\n", rate, float64(sent)/capacityStep.Seconds(), age.Round(time.Millisecond))
		if age > keepsUp || float64(sent) < 0.9*float64(rate)*capacityStep.Seconds() {
			if best == 0 {
				return 0, fmt.Errorf("this machine does not keep up with %d events/s", rate)
			}
			return best, nil
		}
		best = rate
	}
}

func newestAge(r *rig.Rig, service string) (time.Duration, error) {
	text, err := r.Query(fmt.Sprintf("SELECT toUnixTimestamp64Milli(min(newest)) FROM (SELECT max(time) AS newest FROM logs WHERE service_name = '%s' GROUP BY kafka_partition)", service))
	if err != nil {
		return 0, err
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	return time.Since(time.UnixMilli(ms)), err
}

// benchFreshness prints how long an event takes from its agent's send until it is seen in each store, at half of the capacity.
func benchFreshness(ctx context.Context, s settings) error {
	return cell(s.collector, func(r *rig.Rig) error {
		rate, err := s.steadyRate(r)
		if err != nil {
			return err
		}
		const service = "probe"
		hot, lake := watchHot(ctx, r, service), newSightings()
		stopLake, err := watchLake(ctx, r, service, lake)
		if err != nil {
			return err
		}
		load := agents.Start(agents.Options{Service: "load", Seed: 1, Gateways: []string{r.HTTP}, Rate: max(agents.PerRequest, rate-probeRate)})
		probe := agents.Start(agents.Options{Service: service, Seed: 2, Gateways: []string{r.HTTP}, Rate: probeRate})
		time.Sleep(s.steady)
		sent, err := probe.Stop()
		_, loadErr := load.Stop()
		if err := errors.Join(err, loadErr); err != nil {
			return err
		}
		var want []int64
		for _, q := range sent {
			if q.Signal.String() == "logs" {
				want = append(want, q.Sent.UnixMilli())
			}
		}
		err = errors.Join(hot.wait(want, drainTimeout), lake.wait(want, drainTimeout))
		hot.stop()
		err = errors.Join(err, stopLake())
		fmt.Printf("\nFrom an agent's send to a row's first sight, at %d events/s for %v, everything on this machine (%d requests of %d events)\n", rate, s.steady, len(want), agents.PerRequest)
		fmt.Printf("%-10s | %8s %8s %8s %8s\n", "", "P50 s", "P95 s", "P99 s", "max s")
		for _, v := range []struct {
			name string
			of   *sightings
		}{{"ClickHouse", hot.sightings}, {"lake", lake}} {
			q := v.of.latencies(want)
			fmt.Printf("%-10s | %8.2f %8.2f %8.2f %8.2f\n", v.name, quantile(q, 0.5), quantile(q, 0.95), quantile(q, 0.99), quantile(q, 1))
		}
		return err
	})
}

// steadyRate is -rate, or half of the capacity.
func (s settings) steadyRate(r *rig.Rig) (int, error) {
	if s.rate > 0 {
		return s.rate, nil
	}
	most, err := capacity(r)
	return most / 2, err
}

// quantile of sorted figures.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// sightings are when requests, told by their events' time in milliseconds, were first seen in a store.
type sightings struct {
	seen chan map[int64]int64 // holds the one map: whoever takes it puts it back
}

func newSightings() *sightings {
	s := &sightings{seen: make(chan map[int64]int64, 1)}
	s.seen <- map[int64]int64{}
	return s
}

func (s *sightings) add(at int64, times []int64) {
	m := <-s.seen
	for _, t := range times {
		if _, known := m[t]; !known {
			m[t] = at
		}
	}
	s.seen <- m
}

// latencies in seconds, sorted, of those that were seen.
func (s *sightings) latencies(want []int64) []float64 {
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

func (s *sightings) wait(want []int64, timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(hotPoll) {
		n := len(s.latencies(want))
		if n == len(want) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d requests were not seen within %v", len(want)-n, len(want), timeout)
		}
	}
}

// hotWatch asks ClickHouse for the newest requests of a service, again and again.
type hotWatch struct {
	*sightings
	cancel context.CancelFunc
	done   chan struct{}
}

func (h *hotWatch) stop() {
	h.cancel()
	<-h.done
}

func watchHot(ctx context.Context, r *rig.Rig, service string) *hotWatch {
	ctx, cancel := context.WithCancel(ctx)
	h := &hotWatch{newSightings(), cancel, make(chan struct{})}
	go func() {
		defer close(h.done)
		tick := time.NewTicker(hotPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			text, err := r.Query(fmt.Sprintf("SELECT DISTINCT toUnixTimestamp64Milli(time) FROM logs WHERE service_name = '%s' AND time > now64(9) - INTERVAL 60 SECOND", service))
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
			h.add(at, times)
		}
	}()
	return h
}

// watchLake lets pyiceberg look. The function that it returns ends it.
func watchLake(ctx context.Context, r *rig.Rig, service string, into *sightings) (func() error, error) {
	python, err := pytest.Find()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, python, "-c", lakeWatchScript, r.Catalog(), r.Warehouse(), "pulsegrid.logs", service)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	failed := make(chan error, 1)
	go func() { failed <- readSightings(out, into) }()
	return func() error {
		return errors.Join(in.Close(), <-failed, cmd.Wait())
	}, nil
}

func readSightings(out io.Reader, into *sightings) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var l struct {
			Seen  float64 `json:"seen"`
			Times []int64 `json:"times"`
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("lakewatch.py: %w: %s", err, lines.Text())
		}
		into.add(int64(l.Seen), l.Times)
	}
	return lines.Err()
}
