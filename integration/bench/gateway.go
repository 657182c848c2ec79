package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
)

// gatewayCase is one row of the table.
type gatewayCase struct {
	transport transport
	events    int // in a request
}

var gatewayCases = []gatewayCase{{httpZstd, 500}, {httpZstd, 50}, {grpcGzip, 500}, {grpcGzip, 50}}

// side is a gateway to measure: how to run it with a topic of its own.
type side struct {
	name string
	keys []string // that its senders show in turn; none: it asks for none
	run  func(brokers, topic, httpAddr, grpcAddr string) *rig.Process

	profileAddr string // where it tells what takes its time, while it runs; empty: it does not
}

// guarded is PulseGrid's gateway with all that it offers: API keys, quotas (which nobody here exceeds), schemas enforced, quarantine. One of the schemas is
// that of the events.
func guarded(s settings, name, dir string, tenants, schemas int) (side, error) {
	sd := side{name: name, profileAddr: rig.FreeAddr()}
	var list strings.Builder
	list.WriteString("tenants:\n")
	for i := range tenants {
		key, id, hash := tenant.NewKey()
		sd.keys = append(sd.keys, key)
		fmt.Fprintf(&list, "  - {id: bench-%d, keys: [{id: %s, hash: %q}], quotas: {logs: {events_per_second: 1e9, bytes_per_second: 1e12}}, schema: {policy: enforce}}\n", i, id, hash)
	}
	files := map[string]string{filepath.Join("tenants", "bench.yaml"): list.String()}
	for i := range schemas {
		text := otlptest.HandledSchema
		if i > 0 {
			text = strings.ReplaceAll(text, "request.handled", fmt.Sprintf("request.handled.%d", i))
			text = strings.ReplaceAll(text, "{id: ", fmt.Sprintf("{id: a%d.", i)) // an attribute is defined once in a registry
		}
		files[filepath.Join("schemas", fmt.Sprintf("%d.yaml", i))] = text
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			return sd, err
		}
	}
	sd.run = func(brokers, topic, httpAddr, grpcAddr string) *rig.Process {
		return ours(s, brokers, topic, httpAddr, grpcAddr, map[string]string{"PULSEGRID_TENANTS": filepath.Join(dir, "tenants"), "PULSEGRID_SCHEMAS": filepath.Join(dir, "schemas")},
			"--config", filepath.Join(rig.Root(), "integration", "rig", "testdata", "plaintext.yaml"), "--config", filepath.Join(s.configs, "gateway", "overflow.yaml"),
			"--set", "service.extensions=[schema_registry, tenant_auth, pprof]", "--set", "extensions.pprof.endpoint="+sd.profileAddr)
	}
	return sd, nil
}

// bare is the same gateway without any of it.
func bare(s settings) side {
	return side{name: "unguarded", run: func(brokers, topic, httpAddr, grpcAddr string) *rig.Process {
		return ours(s, brokers, topic, httpAddr, grpcAddr, map[string]string{}, "--config", filepath.Join(s.configs, "gateway", "insecure.yaml"),
			"--set", "service.pipelines.logs/ingest.processors=[memory_limiter]", "--set", "service.extensions=[health_check]")
	}}
}

func ours(s settings, brokers, topic, httpAddr, grpcAddr string, env map[string]string, args ...string) *rig.Process {
	_, metricsPort, _ := net.SplitHostPort(rig.FreeAddr())
	maps.Copy(env, map[string]string{
		"PULSEGRID_KAFKA_BROKERS": brokers, "PULSEGRID_TOPIC_LOGS": topic, "PULSEGRID_REPLICATION_FACTOR": "1", "PULSEGRID_MIN_INSYNC": "1", "PULSEGRID_PARTITIONS": "4",
		"PULSEGRID_HTTP_ENDPOINT": httpAddr, "PULSEGRID_GRPC_ENDPOINT": grpcAddr,
		"PULSEGRID_HEALTH_ENDPOINT": rig.FreeAddr(), "PULSEGRID_CELL_HEALTH_ENDPOINT": rig.FreeAddr(), "PULSEGRID_METRICS_HOST": "127.0.0.1", "PULSEGRID_METRICS_PORT": metricsPort,
		"PULSEGRID_EVENT_AGE_MAX": "0", // the events are of one day
	})
	return rig.NewProcess(env, []string{httpAddr, grpcAddr}, append([]string{s.collector, "--config", filepath.Join(s.configs, "gateway", "config.yaml")}, args...)...)
}

func contrib(s settings) side {
	return side{name: "contrib", run: func(brokers, topic, httpAddr, grpcAddr string) *rig.Process {
		return rig.NewProcess(map[string]string{"BROKERS": brokers, "TOPIC": topic, "HTTP_ENDPOINT": httpAddr, "GRPC_ENDPOINT": grpcAddr},
			[]string{httpAddr, grpcAddr}, filepath.Join(s.peers, "peer-gateway"), "--config", filepath.Join(s.peerConfigs, "gateway-config.yaml"))
	}}
}

type gatewayFigure struct {
	perCoreSecond float64
	peakRSS       int64
}

const distinctRequests = 32 // bodies in turn, so that no cache on the way sees the same bytes again and again

// What -profiles told of zstd requests of 500 events with all guards on: decompression 24 % of the CPU, schemas 21, garbage collection 18 (two thirds of
// what is allocated are bodies, compressed and not), the count of the events 8, Kafka's client 9. Of gzip over gRPC: inflating 27, compressing for Kafka 37.
func benchGateways(ctx context.Context, kafka *kafkatest.Cluster, s settings) error {
	dir, err := os.MkdirTemp("", "bench-gateway")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // only litter in a temporary directory
	all, err := guarded(s, "PulseGrid", dir, 1, 1)
	if err != nil {
		return err
	}
	sides := []side{all, bare(s), contrib(s)}
	if s.baseline != "" {
		other := s
		other.collector = s.baseline
		before, err := guarded(other, "baseline", filepath.Join(dir, "baseline"), 1, 1)
		if err != nil {
			return err
		}
		sides = append(sides, before)
	}
	fmt.Println("\nGateway with keys, quotas, schemas and quarantine; without any of them; and the stock Collector's")
	return compareGateways(ctx, kafka, s, sides, gatewayCases)
}

// benchRegistries tells what large registries cost.
func benchRegistries(ctx context.Context, kafka *kafkatest.Cluster, s settings) error {
	dir, err := os.MkdirTemp("", "bench-registries")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // as above
	many, err := guarded(s, "10000/1000", filepath.Join(dir, "many"), 10_000, 1_000)
	if err != nil {
		return err
	}
	few, err := guarded(s, "10/10", filepath.Join(dir, "few"), 10, 10)
	if err != nil {
		return err
	}
	fmt.Println("\nGateway with 10,000 tenants and 1,000 schemas, and with 10 of each")
	return compareGateways(ctx, kafka, s, []side{many, few}, gatewayCases[:2])
}

// compareGateways prints a line a case: events acknowledged per core-second and peak memory of each side, and how the first compares with the others.
func compareGateways(ctx context.Context, kafka *kafkatest.Cluster, s settings, sides []side, cases []gatewayCase) error {
	fmt.Printf("thousands of events acknowledged per core-second (median of %d rounds of %v), peak memory, ratio of the first to the others\n%-15s %7s", s.rounds, s.duration, "transport", "events")
	for _, sd := range sides {
		fmt.Printf(" | %10s %5s", sd.name, "MB")
	}
	fmt.Println(" | ratio")
	for _, c := range cases {
		var requests [][]byte
		for i := range distinctRequests {
			requests = append(requests, otlptest.Handled(uint64(i+1), c.events))
		}
		bodies, err := compressAll(c.transport, requests)
		if err != nil {
			return err
		}
		rates, peaks := make([][]float64, len(sides)), make([]int64, len(sides))
		for range s.rounds {
			for i, sd := range sides {
				f, err := measureGateway(ctx, kafka, s, c, sd, bodies)
				if err != nil {
					return fmt.Errorf("%s, %s, %d events: %w", sd.name, c.transport, c.events, err)
				}
				rates[i], peaks[i] = append(rates[i], f.perCoreSecond), max(peaks[i], f.peakRSS)
			}
		}
		fmt.Printf("%-15s %7d", c.transport, c.events)
		for i := range sides {
			fmt.Printf(" | %10.0f %5d", median(rates[i])/1e3, peaks[i]>>20)
		}
		fmt.Print(" |")
		for i := range sides[1:] {
			fmt.Printf(" %.2fx", median(rates[0])/median(rates[i+1]))
		}
		fmt.Println()
	}
	return nil
}

func measureGateway(ctx context.Context, kafka *kafkatest.Cluster, s settings, c gatewayCase, sd side, bodies [][]byte) (f gatewayFigure, err error) {
	httpAddr, grpcAddr := rig.FreeAddr(), rig.FreeAddr()
	topic, err := newTopic(ctx, kafka)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, deleteTopic(ctx, kafka, topic)) }()
	p := sd.run(kafka.Brokers()[0], topic, httpAddr, grpcAddr)
	defer p.Stop(10 * time.Second)
	if err := p.Start(30 * time.Second); err != nil {
		return f, err
	}
	send, closeSender, err := newSender(c.transport, httpAddr, grpcAddr, sd.keys)
	if err != nil {
		return f, err
	}
	defer closeSender()
	if err := firstAccepted(ctx, send, bodies[0]); err != nil {
		return f, fmt.Errorf("%w\n%s", err, p.Log())
	}
	if _, err := drive(ctx, send, bodies, s.senders, s.duration/4); err != nil { // warm-up
		return f, fmt.Errorf("%w\n%s", err, p.Log())
	}
	before, err := rig.UsageOf(p.PID())
	if err != nil {
		return f, err
	}
	profiled := make(chan error, 1)
	go func() { profiled <- profile(ctx, s, c, sd) }()
	acked, err := drive(ctx, send, bodies, s.senders, s.duration)
	if err = errors.Join(err, <-profiled); err != nil {
		return f, fmt.Errorf("%w\n%s", err, p.Log())
	}
	after, err := rig.UsageOf(p.PID())
	if err != nil {
		return f, err
	}
	f.perCoreSecond = float64(acked*int64(c.events)) / (after.CPU - before.CPU).Seconds()
	f.peakRSS = after.PeakRSS
	return f, nil
}

// profile writes what the CPU does during the load, and what then lies in memory, to the directory of profiles, if there is one.
func profile(ctx context.Context, s settings, c gatewayCase, sd side) error {
	if s.profiles == "" || sd.profileAddr == "" {
		return nil
	}
	name := fmt.Sprintf("%s-%d", strings.NewReplacer("/", "-", " ", "-").Replace(strings.ToLower(string(c.transport))), c.events)
	for _, p := range []struct{ file, query string }{
		{name + "-cpu.pprof", fmt.Sprintf("profile?seconds=%d", max(1, int(s.duration.Seconds()-1)))},
		{name + "-heap.pprof", "heap"},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+sd.profileAddr+"/debug/pprof/"+p.query, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		content, err := io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close(), os.MkdirAll(s.profiles, 0o755))
		if err = errors.Join(err, os.WriteFile(filepath.Join(s.profiles, p.file), content, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// firstAccepted waits until a gateway that has just started takes a request.
func firstAccepted(ctx context.Context, send sender, body []byte) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := send(ctx, body)
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
