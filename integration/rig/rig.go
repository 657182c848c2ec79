package rig

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

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
)

const (
	startTimeout = 60 * time.Second
	stopGrace    = 30 * time.Second
)

// Options of a rig.
type Options struct {
	KafkaNodes     int               // 0: 1
	Dir            string            // where everything lies; it stays
	Collector      string            // empty: _build/collector/pulsegrid-collector
	Env            map[string]string // further variables of the configs, see distributions/*/config.yaml
	GatewayConfigs []string          // files merged over distributions/gateway/config.yaml, in this order
}

// Rig is a cell of real parts: Apache Kafka, the ClickHouse engine, a directory with a SQLite catalog as the lake, and the gateway
// and the aggregator as users run them: the ocb-built collector with the configs of distributions/.
type Rig struct {
	opts       Options
	Kafka      *kafkatest.Cluster
	ClickHouse *chengine.Engine
	Gateway    *Process
	Aggregator *Process
	GRPC, HTTP string // the gateway's OTLP addresses
	chHTTP     string // stays the same when the engine is started again
	metrics    map[string]string
}

// New starts the stores and Kafka and describes gateway and aggregator, which the caller starts. The calling program's main or
// TestMain begins with chengine.RunChildIfAsked.
func New(o Options) (r *Rig, err error) {
	if o.Collector == "" {
		o.Collector = filepath.Join(Root(), "_build", "collector", "pulsegrid-collector")
	}
	if _, err := os.Stat(o.Collector); err != nil {
		return nil, fmt.Errorf("the collector is not built (run `make build`): %w", err)
	}
	r = &Rig{opts: o, GRPC: FreeAddr(), HTTP: FreeAddr(), chHTTP: FreeAddr(), metrics: map[string]string{"gateway": FreeAddr(), "aggregator": FreeAddr()}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	for _, d := range []string{r.Warehouse(), filepath.Join(o.Dir, "clickhouse"), filepath.Join(o.Dir, "kafka")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return r, err
		}
	}
	if r.Kafka, err = kafkatest.New(kafkatest.Options{Nodes: o.KafkaNodes, Dir: filepath.Join(o.Dir, "kafka")}); err != nil {
		return r, err
	}
	if err := r.StartClickHouse(); err != nil {
		return r, err
	}
	r.Gateway = r.collector("gateway", []string{r.GRPC, r.HTTP}, o.GatewayConfigs...)
	r.Aggregator = r.collector("aggregator", nil)
	return r, nil
}

// StartClickHouse starts the engine, again where it was before.
func (r *Rig) StartClickHouse() error {
	_, port, err := net.SplitHostPort(r.chHTTP)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	r.ClickHouse, err = chengine.Start(context.Background(), chengine.Options{Dir: filepath.Join(r.opts.Dir, "clickhouse"), HTTPPort: n})
	return err
}

func (r *Rig) collector(tier string, ready []string, overlays ...string) *Process {
	health := FreeAddr()
	_, metricsPort, err := net.SplitHostPort(r.metrics[tier])
	if err != nil {
		panic(err) // FreeAddr's answer has a port
	}
	env := map[string]string{
		"PULSEGRID_GRPC_ENDPOINT":      r.GRPC,
		"PULSEGRID_HTTP_ENDPOINT":      r.HTTP,
		"PULSEGRID_KAFKA_BROKERS":      strings.Join(r.Kafka.Brokers(), ","),
		"PULSEGRID_REPLICATION_FACTOR": strconv.Itoa(min(3, max(1, r.opts.KafkaNodes))),
		"PULSEGRID_MIN_INSYNC":         strconv.Itoa(min(2, max(1, r.opts.KafkaNodes))),
		"PULSEGRID_PARTITIONS":         "4",
		"PULSEGRID_HEALTH_ENDPOINT":    health,
		"PULSEGRID_METRICS_HOST":       "127.0.0.1",
		"PULSEGRID_METRICS_PORT":       metricsPort,
		"PULSEGRID_CLICKHOUSE_HTTP":    r.chHTTP,
		"PULSEGRID_LAKE_WAREHOUSE":     "file://" + r.Warehouse(),
		"PULSEGRID_LAKE_CATALOG":       r.catalogFile(),
	}
	for k, v := range r.opts.Env {
		env[k] = v
	}
	argv := []string{r.opts.Collector, "--config", filepath.Join(Root(), "distributions", tier, "config.yaml")}
	for _, c := range overlays {
		argv = append(argv, "--config", c)
	}
	return NewProcess(env, append(ready, health), argv...)
}

// Start starts gateway and aggregator.
func (r *Rig) Start() error {
	return errors.Join(r.Gateway.Start(startTimeout), r.Aggregator.Start(startTimeout))
}

// Close stops everything that runs.
func (r *Rig) Close() error {
	var errs []error
	for _, p := range []*Process{r.Gateway, r.Aggregator} {
		if p != nil && !p.Stop(stopGrace) {
			errs = append(errs, fmt.Errorf("%v did not stop within %v:\n%s", p.argv, stopGrace, p.Log()))
		}
	}
	if r.ClickHouse != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		errs = append(errs, r.ClickHouse.Stop(ctx))
	}
	if r.Kafka != nil {
		errs = append(errs, r.Kafka.Close())
	}
	return errors.Join(errs...)
}

// Warehouse is the lake's directory.
func (r *Rig) Warehouse() string { return filepath.Join(r.opts.Dir, "lake", "warehouse") }

func (r *Rig) catalogFile() string { return filepath.Join(r.opts.Dir, "lake", "catalog.db") }

// Catalog is the lake's catalog as pyiceberg's SqlCatalog takes it.
func (r *Rig) Catalog() string { return "sqlite:///" + r.catalogFile() }

// Metrics scrapes a tier ("gateway", "aggregator").
func (r *Rig) Metrics(tier string) (string, error) { return Scrape(r.metrics[tier]) }

// Query asks ClickHouse and returns its answer as it came, in TSV unless the query says otherwise.
func (r *Rig) Query(sql string) (string, error) {
	resp, err := http.Post("http://"+r.chHTTP+"/?database=pulsegrid", "text/plain", strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", sql, b)
	}
	return strings.TrimSpace(string(b)), nil
}
