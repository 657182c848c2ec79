package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
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
	run  func(brokers, topic, httpAddr, grpcAddr string) *rig.Process
}

type gatewayFigure struct {
	perCoreSecond float64
	peakRSS       int64
}

const distinctRequests = 32 // bodies in turn, so that no cache on the way sees the same bytes again and again

func benchGateways(ctx context.Context, kafka *kafkatest.Cluster, s settings) error {
	sides := []side{
		{"PulseGrid", func(brokers, topic, httpAddr, grpcAddr string) *rig.Process {
			_, metricsPort, _ := net.SplitHostPort(rig.FreeAddr())
			return rig.NewProcess(map[string]string{
				"PULSEGRID_KAFKA_BROKERS": brokers, "PULSEGRID_TOPIC_LOGS": topic, "PULSEGRID_REPLICATION_FACTOR": "1", "PULSEGRID_MIN_INSYNC": "1", "PULSEGRID_PARTITIONS": "4",
				"PULSEGRID_HTTP_ENDPOINT": httpAddr, "PULSEGRID_GRPC_ENDPOINT": grpcAddr,
				"PULSEGRID_HEALTH_ENDPOINT": rig.FreeAddr(), "PULSEGRID_METRICS_HOST": "127.0.0.1", "PULSEGRID_METRICS_PORT": metricsPort,
				"PULSEGRID_SCHEMAS": filepath.Join(s.configs, "gateway", "schemas"), "PULSEGRID_EVENT_AGE_MAX": "0", // the events are of one day
			}, []string{httpAddr, grpcAddr}, s.collector, "--config", filepath.Join(s.configs, "gateway", "config.yaml"))
		}},
		{"contrib", func(brokers, topic, httpAddr, grpcAddr string) *rig.Process {
			return rig.NewProcess(map[string]string{"BROKERS": brokers, "TOPIC": topic, "HTTP_ENDPOINT": httpAddr, "GRPC_ENDPOINT": grpcAddr},
				[]string{httpAddr, grpcAddr}, filepath.Join(s.peers, "peer-gateway"), "--config", filepath.Join(s.peerConfigs, "gateway-config.yaml"))
		}},
	}
	fmt.Printf("\nGateway: events acknowledged per core-second (thousands, median of %d rounds of %v), peak memory\n", s.rounds, s.duration)
	fmt.Printf("%-15s %7s | %10s %7s | %10s %7s | %s\n", "transport", "events", sides[0].name, "MB", sides[1].name, "MB", "ratio")
	for _, c := range gatewayCases {
		var requests [][]byte
		for i := range distinctRequests {
			requests = append(requests, otlptest.Logs(uint64(i+1), c.events))
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
		ours, theirs := median(rates[0]), median(rates[1])
		fmt.Printf("%-15s %7d | %10.0f %7d | %10.0f %7d | %.2fx\n", c.transport, c.events, ours/1e3, peaks[0]>>20, theirs/1e3, peaks[1]>>20, ours/theirs)
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
	send, closeSender, err := newSender(c.transport, httpAddr, grpcAddr)
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
	acked, err := drive(ctx, send, bodies, s.senders, s.duration)
	if err != nil {
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
