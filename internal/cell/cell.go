package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// How long each part may take to stop. The aggregator may be in the middle of a lake commit.
const (
	stopGatewayWithin    = 20 * time.Second
	stopAggregatorWithin = 60 * time.Second
	stopClickHouseWithin = 20 * time.Second
	stopWorkerWithin     = 60 * time.Second // it may be in the middle of a lake commit, too
	stopTemporalWithin   = 10 * time.Second
)

// ErrForced is returned when the second signal came before everything had stopped.
var ErrForced = errors.New("stopped by force: what was not committed is read again at the next start")

// catalogScheme and a path are the lake's catalog as pyiceberg's SqlCatalog takes it.
const catalogScheme = "sqlite:///"

// Cell is a running cell.
type Cell struct {
	options Options
	layout  layout
	state   State // without Processes, which are read from the children
	screen  *screen

	// The parts, in the order of their start. nil: not started.
	kafka      *kfake.Cluster
	clickhouse *clickhouse
	aggregator *child
	gateway    *child
	temporal   *child
	worker     *child
}

// Run runs a cell until ctx is done, then stops it in order: the worker of jobs and Temporal, the gateway (nothing new comes in), the aggregator (which commits
// what it holds), ClickHouse, Kafka. When force is done whatever still runs is killed.
func Run(ctx, force context.Context, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	l := layout(o.DataDir)
	if err := l.create(); err != nil {
		return err
	}
	release, err := lockDir(l)
	if err != nil {
		return err
	}
	defer release()
	c := &Cell{options: o, layout: l, screen: newScreen(o.Output, o.Terminal)}
	err = c.start(ctx)
	if err == nil {
		c.watch(ctx)
	}
	if errors.Is(err, context.Canceled) {
		err = nil // asked to stop while starting
	}
	return errors.Join(err, c.stop(force), removeIfThere(l.state()))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (c *Cell) start(ctx context.Context) error {
	p, err := c.chooseAddresses()
	if err != nil {
		return err
	}
	c.screen.event("starting Kafka, ClickHouse, aggregator and gateway in " + c.options.DataDir)
	if c.kafka, err = startKafka(c.layout, p.Kafka); err != nil {
		return err
	}
	if c.clickhouse, err = startClickHouse(ctx, c.layout, p.ClickHouse, c.screen.event); err != nil {
		return err
	}
	c.state.Endpoints.ClickHouseHTTP = c.clickhouse.guard.address
	user := c.clickhouse.options.Users[0]
	c.state.Endpoints.ClickHouseUser, c.state.Endpoints.ClickHousePassword = user.Name, user.Password
	if c.aggregator, err = c.startCollector("aggregator", c.options.AggregatorConfig, c.state.Endpoints.AggregatorHealth, c.state.Endpoints.AggregatorMetrics); err != nil {
		return err
	}
	if c.options.Worker != nil {
		if err := c.startTemporal(&p); err != nil {
			return err
		}
	}
	if c.gateway, err = c.startCollector("gateway", c.options.GatewayConfig, c.state.Endpoints.GatewayHealth, c.state.Endpoints.GatewayMetrics); err != nil {
		return err
	}
	if err := c.saveState(); err != nil {
		return err
	}
	if err := errors.Join(p.save(c.layout),
		waitReady(ctx, c.gateway, c.state.Endpoints.GatewayHealth),
		waitReady(ctx, c.aggregator, c.state.Endpoints.AggregatorHealth)); err != nil {
		return err
	}
	if c.options.Worker != nil {
		if err := waitReady(ctx, c.temporal, c.state.Endpoints.TemporalUI+"/healthz"); err != nil {
			return err
		}
		if err := c.startWorker(); err != nil {
			return err
		}
	}
	c.state.Ready = true
	c.screen.event("ready")
	return c.saveState()
}

// chooseAddresses fills the endpoints. The Collectors' own ports are only for this run; the others last.
func (c *Cell) chooseAddresses() (ports, error) {
	e := &c.state.Endpoints
	p := loadPorts(c.layout)
	var err error
	if e.GRPC, err = freeAddress(c.options.GRPC); err != nil {
		return p, fmt.Errorf("--grpc: %w", err)
	}
	if e.HTTP, err = freeAddress(c.options.HTTP); err != nil {
		return p, fmt.Errorf("--http: %w", err)
	}
	if err := errors.Join(checkFree("--grpc", e.GRPC), checkFree("--http", e.HTTP)); err != nil {
		return p, err
	}
	if p.Kafka, err = choosePort("--kafka-port", c.options.KafkaPort, p.Kafka); err != nil {
		return p, err
	}
	if p.ClickHouse, err = choosePort("--clickhouse-port", c.options.ClickHousePort, p.ClickHouse); err != nil {
		return p, err
	}
	e.Kafka = kafkaAddress(p.Kafka)
	for _, u := range []struct {
		url  *string
		path string
	}{{&e.GatewayHealth, "/"}, {&e.GatewayMetrics, "/metrics"}, {&e.AggregatorHealth, "/"}, {&e.AggregatorMetrics, "/metrics"}} {
		addr, err := freeAddress("127.0.0.1:0")
		if err != nil {
			return p, err
		}
		*u.url = "http://" + addr + u.path
	}
	e.Warehouse = "file://" + c.layout.warehouse()
	e.Catalog = catalogScheme + c.layout.catalog()
	c.state.Version, c.state.PID, c.state.Started, c.state.DataDir = c.options.Version, os.Getpid(), time.Now().UTC(), c.options.DataDir
	return p, nil
}

// startCollector writes the config to where the operator can read it and starts the Collector on it.
func (c *Cell) startCollector(name string, config []byte, health, metrics string) (*child, error) {
	path := c.layout.config(name)
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return nil, fmt.Errorf("config of the %s: %w", name, err)
	}
	log, err := openLog(c.layout.log(name))
	if err != nil {
		return nil, err
	}
	ch := newChild(name, []string{c.options.Collector, "--config=file:" + path}, c.environment(health, metrics), log, c.screen.event)
	ch.start()
	return ch, nil
}

// stop stops what runs, last started first, and reports what did not stop by itself.
func (c *Cell) stop(force context.Context) error {
	var errs []error
	step := func(name string, within time.Duration, stop func(context.Context) error) {
		c.screen.event("stopping " + name)
		ctx, cancel := context.WithTimeout(force, within)
		defer cancel()
		errs = append(errs, stop(ctx))
	}
	if c.worker != nil {
		step("the worker", stopWorkerWithin, c.worker.stop)
	}
	if c.temporal != nil {
		step("Temporal", stopTemporalWithin, c.temporal.stop)
	}
	if c.gateway != nil {
		step("the gateway", stopGatewayWithin, c.gateway.stop)
	}
	if c.aggregator != nil {
		step("the aggregator", stopAggregatorWithin, c.aggregator.stop)
	}
	if c.clickhouse != nil {
		step("ClickHouse", stopClickHouseWithin, c.clickhouse.stop)
	}
	if c.kafka != nil {
		c.screen.event("stopping Kafka")
		c.kafka.Close()
	}
	if force.Err() != nil {
		return ErrForced
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.screen.event("stopped; the next start goes on from here")
	return nil
}

func (c *Cell) processes() []Process {
	var out []Process
	for _, ch := range []*child{c.gateway, c.aggregator, c.temporal, c.worker} {
		if ch != nil {
			out = append(out, ch.state())
		}
	}
	if c.clickhouse != nil {
		out = append(out, c.clickhouse.state())
	}
	return out
}

func (c *Cell) saveState() error {
	s := c.state
	s.Processes = c.processes()
	return writeJSON(c.layout.state(), s)
}
