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
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/load"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed lakewatch.py
var lakeWatchScript string

const (
	probeRate    = 500 // events a second of the fleet whose events are looked for
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

// benchFreshness prints how long an event takes from its agent's send until it is seen in each store, at half of the capacity.
func benchFreshness(ctx context.Context, s settings) error {
	return cell(s.collector, func(r *rig.Rig) error {
		rate, err := s.steadyRate(r)
		if err != nil {
			return err
		}
		const service = "probe"
		hot, lake := load.WatchHot(ctx, r, service, time.Minute), load.NewSightings()
		stopLake, err := watchLake(ctx, r, service, lake)
		if err != nil {
			return err
		}
		others := agents.Start(agents.Options{Service: "load", Seed: 1, Gateways: []string{r.HTTP}, Rate: max(agents.PerRequest, rate-probeRate)})
		probe := agents.Start(agents.Options{Service: service, Seed: 2, Gateways: []string{r.HTTP}, Rate: probeRate})
		time.Sleep(s.steady)
		sent, err := probe.Stop()
		_, othersErr := others.Stop()
		if err := errors.Join(err, othersErr); err != nil {
			return err
		}
		want := load.Times(sent)
		err = errors.Join(hot.Wait(want, drainTimeout), lake.Wait(want, drainTimeout))
		hot.Stop()
		err = errors.Join(err, stopLake())
		fmt.Printf("\nFrom an agent's send to a row's first sight, at %d events/s for %v, everything on this machine (%d requests of %d events)\n", rate, s.steady, len(want), agents.PerRequest)
		fmt.Printf("%-10s | %8s %8s %8s %8s\n", "", "P50 s", "P95 s", "P99 s", "max s")
		for _, v := range []struct {
			name string
			of   *load.Sightings
		}{{"ClickHouse", hot.Sightings}, {"lake", lake}} {
			q := v.of.Latencies(want)
			fmt.Printf("%-10s | %8.2f %8.2f %8.2f %8.2f\n", v.name, load.Quantile(q, 0.5), load.Quantile(q, 0.95), load.Quantile(q, 0.99), load.Quantile(q, 1))
		}
		return err
	})
}

// steadyRate is -rate, or what takes half of the machine.
func (s settings) steadyRate(r *rig.Rig) (int, error) {
	if s.rate > 0 {
		return s.rate, nil
	}
	return load.Half(r, "", func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
}

// watchLake lets pyiceberg look. The function that it returns ends it.
func watchLake(ctx context.Context, r *rig.Rig, service string, into *load.Sightings) (func() error, error) {
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

func readSightings(out io.Reader, into *load.Sightings) error {
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
		into.Add(int64(l.Seen), l.Times)
	}
	return lines.Err()
}
