// Command bench measures PulseGrid's gateway and aggregator against the stock Collector's, side by side in one run, and prints ratios.
//
//	make bench [ARGS="-only gateway|registries|aggregator|exactness|freshness|restart|hops -rounds N -duration D -window N"]
//
// gateway also has PulseGrid's own gateway without keys, quotas, schemas and quarantine: what these cost. registries is what
// many tenants and schemas cost. exactness is what intents, tokens, the ledger and
// dedupe cost. freshness and restart are of PulseGrid alone too, a whole cell on one machine: how long an event takes from its agent to each store, and how
// long an aggregator that was killed takes until it is fresh again. hops is what one event of each signal takes at each hop, for the cost model (`make bench-hops`); it runs only when it is named.
//
// All gateways write to one real Kafka with acks=all; all aggregators read one topic into one real ClickHouse. What counts is events
// per core-second: acknowledged events (gateway) or stored rows (aggregator) by CPU seconds of the process under test, as the
// kernel charged them. The sides take turns within a round, so that a drift of the machine's speed meets both alike.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
)

// settings of a run.
type settings struct {
	collector   string        // PulseGrid's ocb-built collector
	baseline    string        // another build of it, for gateway and exactness; empty: none
	peers       string        // directory of the stock Collectors
	configs     string        // directory of distributions/
	peerConfigs string        // directory of the peers' configs
	measured    string        // file of the cost model that hops writes its figures to; empty: none
	profiles    string        // directory for profiles of PulseGrid's gateway; empty: none
	rounds      int           // times that each side is measured in each case
	duration    time.Duration // of load on a gateway, after the warm-up
	senders     int           // requests in flight
	events      int           // in the topic that the aggregators read
	rate        int           // events a second of freshness and restart; 0: what takes half of this machine's CPU
	window      int           // events in the dedupe window at restart's kill; 0: what 15 minutes of rate are
	steady      time.Duration // of load in freshness, and before the kill in restart
}

func main() {
	chengine.RunChildIfAsked()
	var s settings
	var only string
	flag.StringVar(&only, "only", "", "gateway, registries, aggregator, exactness, freshness, restart or hops; empty: all but hops")
	flag.StringVar(&s.collector, "collector", "_build/collector/pulsegrid-collector", "PulseGrid's collector")
	flag.StringVar(&s.baseline, "baseline", "", "another build of PulseGrid's collector, which takes the same configs, to compare with in gateway and exactness")
	flag.StringVar(&s.peers, "peers", "", "directory of the stock Collectors, peer-gateway and peer-aggregator (make bench builds them)")
	flag.StringVar(&s.configs, "configs", "distributions", "directory of PulseGrid's configs")
	flag.StringVar(&s.peerConfigs, "peer-configs", "integration/bench/peers", "directory of the peers' configs")
	flag.StringVar(&s.measured, "measured", "", "file of the cost model (deploy/cost/measured.json) that hops writes its figures to")
	flag.StringVar(&s.profiles, "profiles", "", "directory to write profiles (CPU, heap) of PulseGrid's gateway to, one of each case")
	flag.IntVar(&s.rounds, "rounds", 3, "rounds; each measures every side once")
	flag.DurationVar(&s.duration, "duration", 8*time.Second, "of load on a gateway")
	flag.IntVar(&s.senders, "senders", 8, "requests in flight")
	flag.IntVar(&s.events, "events", 400_000, "events that the aggregators store")
	flag.IntVar(&s.rate, "rate", 0, "events a second of freshness and restart; 0: what takes half of this machine's CPU")
	flag.IntVar(&s.window, "window", 0, "events in the dedupe window before restart kills; 0: as many as 15 minutes of -rate bring")
	flag.DurationVar(&s.steady, "steady", time.Minute, "of load in freshness, and before the kill in restart")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, only, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, s settings) error {
	type part struct {
		name string
		run  func() error
	}
	for _, p := range []part{
		{"gateway", func() error { return withKafka(func(k *kafkatest.Cluster) error { return benchGateways(ctx, k, s) }) }},
		{"registries", func() error {
			return withKafka(func(k *kafkatest.Cluster) error { return benchRegistries(ctx, k, s) })
		}},
		{"aggregator", func() error {
			return withKafka(func(k *kafkatest.Cluster) error { return benchAggregators(ctx, k, s) })
		}},
		{"exactness", func() error { return withKafka(func(k *kafkatest.Cluster) error { return benchExactness(ctx, k, s) }) }},
		{"freshness", func() error { return benchFreshness(ctx, s) }},
		{"restart", func() error { return benchRestart(ctx, s) }},
		{"hops", func() error { return benchHops(ctx, s) }},
	} {
		if only == "" && p.name != "hops" || only == p.name {
			if err := p.run(); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return nil
}

func withKafka(measure func(*kafkatest.Cluster) error) (err error) {
	kafka, err := kafkatest.New(kafkatest.Options{Nodes: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kafka.Close()) }()
	return measure(kafka)
}

// median of an odd or even number of figures.
func median(v []float64) float64 {
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
