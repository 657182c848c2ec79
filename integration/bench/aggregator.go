package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
)

const (
	eventsPerRecord = 500
	storeTimeout    = 5 * time.Minute
	quiet           = 3 * time.Second // without a running merge: the table is at rest
)

// aggregatorSide is an aggregator to measure, with the table that it fills.
type aggregatorSide struct {
	name  string
	table string
	run   func(brokers, topic string, ch *chengine.Engine) *rig.Process
}

type aggregatorFigure struct {
	aggregator, clickhouse float64 // microseconds of CPU an event
	bytes                  float64 // on disk an event
	peakRSS                int64   // of the aggregator
	doubled                int64   // rows more than events
}

// benchAggregators fills a topic once and lets each side move it into a ClickHouse of its own, merges included.
func benchAggregators(ctx context.Context, kafka *kafkatest.Cluster, s settings) (err error) {
	topic, err := newTopic(ctx, kafka)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, deleteTopic(ctx, kafka, topic)) }()
	if err := fill(ctx, kafka, topic, s.events); err != nil {
		return err
	}
	sides := []aggregatorSide{
		{"PulseGrid", "pulsegrid.logs", s.ourAggregator(s.collector)},
		{"contrib", "otel.otel_logs", func(brokers, topic string, ch *chengine.Engine) *rig.Process {
			return rig.NewProcess(map[string]string{"BROKERS": brokers, "TOPIC": topic, "GROUP": newGroup(), "CLICKHOUSE": "tcp://" + ch.TCPAddr},
				nil, filepath.Join(s.peers, "peer-aggregator"), "--config", filepath.Join(s.peerConfigs, "aggregator-config.yaml"))
		}},
	}
	figures, err := measureSides(ctx, kafka, s, sides, topic)
	if err != nil {
		return err
	}
	fmt.Printf("\nAggregator and its ClickHouse: CPU microseconds per log event, merges included (%d events, median of %d rounds)\n", s.events, s.rounds)
	together := printAggregators(sides, figures)
	fmt.Printf("contrib needs %.2fx the CPU of PulseGrid\n", together[1]/together[0])
	return nil
}

// benchExactness prints what exactness costs an aggregator and its ClickHouse: with everything; without dedupe; with neither dedupe nor blocks, so without
// their intents, deduplication tokens, lineage and ledger; and, where -baseline names one, another build without dedupe.
func benchExactness(ctx context.Context, kafka *kafkatest.Cluster, s settings) (err error) {
	topic, err := newTopic(ctx, kafka)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, deleteTopic(ctx, kafka, topic)) }()
	if err := fill(ctx, kafka, topic, s.events); err != nil {
		return err
	}
	plain := filepath.Join(s.peerConfigs, "pulsegrid-aggregator-without-dedupe.yaml")
	inexact := filepath.Join(s.peerConfigs, "pulsegrid-aggregator-inexact.yaml")
	sides := []aggregatorSide{
		{"exact", "pulsegrid.logs", s.ourAggregator(s.collector)},
		{"no dedupe", "pulsegrid.logs", s.ourAggregator(s.collector, plain)},
		{"inexact", "pulsegrid.logs", s.ourAggregator(s.collector, inexact)},
	}
	if s.baseline != "" {
		sides = append(sides, aggregatorSide{"baseline", "pulsegrid.logs", s.ourAggregator(s.baseline, plain)})
	}
	figures, err := measureSides(ctx, kafka, s, sides, topic)
	if err != nil {
		return err
	}
	fmt.Printf("\nWhat exactness costs: CPU microseconds per log event, merges included (%d events, median of %d rounds)\n", s.events, s.rounds)
	together := printAggregators(sides, figures)
	for i, sd := range sides[1:] {
		fmt.Printf("exact needs %.2fx the CPU of %s\n", together[0]/together[i+1], sd.name)
	}
	return nil
}

var lastGroup int

// newGroup is a consumer group of its own for each run.
func newGroup() string {
	lastGroup++
	return fmt.Sprintf("bench-%d", lastGroup)
}

// ourAggregator runs a build of PulseGrid's collector; further configs are merged over the one that reads logs into ClickHouse.
func (s settings) ourAggregator(collector string, overlays ...string) func(string, string, *chengine.Engine) *rig.Process {
	return func(brokers, topic string, ch *chengine.Engine) *rig.Process {
		_, metricsPort, _ := net.SplitHostPort(rig.FreeAddr())
		health := rig.FreeAddr()
		argv := []string{collector, "--config", filepath.Join(s.peerConfigs, "pulsegrid-aggregator-config.yaml")}
		for _, o := range overlays {
			argv = append(argv, "--config", o)
		}
		return rig.NewProcess(map[string]string{
			"PULSEGRID_KAFKA_BROKERS": brokers, "PULSEGRID_TOPIC_LOGS": topic, "PULSEGRID_GROUP": newGroup(), "PULSEGRID_CLICKHOUSE_HTTP": ch.HTTPAddr,
			"PULSEGRID_HEALTH_ENDPOINT": health, "PULSEGRID_METRICS_HOST": "127.0.0.1", "PULSEGRID_METRICS_PORT": metricsPort,
		}, []string{health}, argv...)
	}
}

// measureSides lets the sides take turns.
func measureSides(ctx context.Context, kafka *kafkatest.Cluster, s settings, sides []aggregatorSide, topic string) ([][]aggregatorFigure, error) {
	figures := make([][]aggregatorFigure, len(sides))
	for range s.rounds {
		for i, sd := range sides {
			f, err := measureAggregator(ctx, kafka, s, sd, topic)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", sd.name, err)
			}
			figures[i] = append(figures[i], f)
		}
	}
	return figures, nil
}

// printAggregators prints a row for each side and returns what aggregator and ClickHouse need together.
func printAggregators(sides []aggregatorSide, figures [][]aggregatorFigure) []float64 {
	fmt.Printf("%-10s | %10s %10s %10s | %12s | %12s | %8s | %8s\n", "", "aggregator", "clickhouse", "together", "events/core-s", "bytes/event", "peak MB", "doubled")
	together := make([]float64, len(sides))
	for i, sd := range sides {
		a := medianOf(figures[i], func(f aggregatorFigure) float64 { return f.aggregator })
		c := medianOf(figures[i], func(f aggregatorFigure) float64 { return f.clickhouse })
		together[i] = medianOf(figures[i], func(f aggregatorFigure) float64 { return f.aggregator + f.clickhouse })
		b := medianOf(figures[i], func(f aggregatorFigure) float64 { return f.bytes })
		peak := medianOf(figures[i], func(f aggregatorFigure) float64 { return float64(f.peakRSS >> 20) })
		doubled := medianOf(figures[i], func(f aggregatorFigure) float64 { return float64(f.doubled) })
		fmt.Printf("%-10s | %10.1f %10.1f %10.1f | %12.0f | %12.0f | %8.0f | %8.0f\n", sd.name, a, c, together[i], 1e6/a, b, peak, doubled)
	}
	return together
}

func medianOf(fs []aggregatorFigure, get func(aggregatorFigure) float64) float64 {
	var v []float64
	for _, f := range fs {
		v = append(v, get(f))
	}
	return median(v)
}

// fill produces events as the gateway would: a request a record.
func fill(ctx context.Context, kafka *kafkatest.Cluster, topic string, events int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(kafka.Brokers()...), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchMaxBytes(8<<20),
		kgo.ProducerBatchCompression(kgo.ZstdCompression().WithLevel(1)), kgo.MaxBufferedBytes(256<<20))
	if err != nil {
		return err
	}
	defer cl.Close()
	failed := make(chan error, 1)
	for i := range events / eventsPerRecord {
		cl.Produce(ctx, &kgo.Record{Key: fmt.Appendf(nil, "source-%d", i%64), Value: otlptest.Logs(uint64(i+1), eventsPerRecord)}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func measureAggregator(ctx context.Context, kafka *kafkatest.Cluster, s settings, sd aggregatorSide, topic string) (f aggregatorFigure, err error) {
	dir, err := os.MkdirTemp("", "pulsegrid-bench-")
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ch, err := chengine.Start(ctx, chengine.Options{Dir: dir, MemoryBytes: 8 << 30})
	if err != nil {
		return f, err
	}
	defer ch.Kill() // its data are thrown away
	p := sd.run(kafka.Brokers()[0], topic, ch)
	defer p.Stop(10 * time.Second)
	chBefore, err := rig.UsageOf(ch.PID())
	if err != nil {
		return f, err
	}
	if err := p.Start(30 * time.Second); err != nil {
		return f, err
	}
	if f.doubled, err = stored(ctx, ch, sd.table, s.events); err != nil {
		return f, fmt.Errorf("%w\n%s", err, p.Log())
	}
	agg, err := rig.UsageOf(p.PID()) // of its whole life: what a start costs is in it, for both sides
	if err != nil {
		return f, err
	}
	if err := atRest(ctx, ch); err != nil {
		return f, err
	}
	chAfter, err := rig.UsageOf(ch.PID())
	if err != nil {
		return f, err
	}
	disk, err := ask(ctx, ch, fmt.Sprintf("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database || '.' || table = '%s'", sd.table))
	if err != nil {
		return f, err
	}
	n := float64(s.events)
	f.aggregator = float64(agg.CPU.Microseconds()) / n
	f.clickhouse = float64((chAfter.CPU - chBefore.CPU).Microseconds()) / n
	f.bytes, f.peakRSS = float64(disk)/n, agg.PeakRSS
	return f, nil
}

// stored waits until the table holds all events and says how many rows it holds more: a side that stores events twice is
// measured by the events all the same.
func stored(ctx context.Context, ch *chengine.Engine, table string, events int) (doubled int64, err error) {
	deadline := time.Now().Add(storeTimeout)
	for {
		n, err := ask(ctx, ch, "SELECT count() FROM "+table)
		switch {
		case err == nil && n >= int64(events):
			return n - int64(events), nil
		case time.Now().After(deadline):
			return 0, fmt.Errorf("%s holds %d of %d rows after %v: %w", table, n, events, storeTimeout, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// atRest waits until no merge has run for a while, at most two minutes.
func atRest(ctx context.Context, ch *chengine.Engine) error {
	deadline, since := time.Now().Add(2*time.Minute), time.Now()
	for time.Since(since) < quiet && time.Now().Before(deadline) {
		n, err := ask(ctx, ch, "SELECT count() FROM system.merges")
		if err != nil {
			return err
		}
		if n > 0 {
			since = time.Now()
		}
		time.Sleep(200 * time.Millisecond)
	}
	return nil
}

func ask(ctx context.Context, ch *chengine.Engine, sql string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+ch.HTTPAddr, strings.NewReader(sql))
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", sql, b)
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}
