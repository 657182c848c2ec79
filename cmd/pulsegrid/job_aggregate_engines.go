package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/apache/iceberg-go/catalog"

	"github.com/pulsegrid/pulsegrid/internal/aggregate"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

const (
	// duckDBVariable names the program of DuckDB's command line. It is no flag: a job that comes by Temporal may not say what a worker runs.
	duckDBVariable = "PULSEGRID_DUCKDB"
	duckDBProgram  = "duckdb" // of PATH
	// duckDBMemoryMiB is the memory that DuckDB takes for a partition, at most.
	duckDBMemoryMiB = 4 << 10
)

// cellEngine is an engine, with how far its store is complete and how long that keeps events; 0: for ever.
type cellEngine struct {
	aggregate.Engine
	watermark aggregate.Watermark
	retention time.Duration
}

// cellEngines are the engines of a cell.
type cellEngines struct {
	pipes   *pipelines
	hot     *hot
	catalog catalog.Catalog // of the lake; nil: there is none
	threads int
	through time.Time // every store is taken for complete through it; zero: Kafka tells

	clickHouse *aggregate.ClickHouse
	made       map[string]cellEngine
	lacks      map[string]error // why the cell has not an engine
	groups     []*liveGroup
}

// newCellEngines speaks to ClickHouse as the exporter does.
func newCellEngines(ctx context.Context, p *pipelines, h *hot, threads int, through time.Time) (*cellEngines, error) {
	client, err := clickHouseClient(ctx, &h.exporter)
	if err != nil {
		return nil, err
	}
	c := &cellEngines{pipes: p, hot: h, threads: threads, through: through, made: map[string]cellEngine{}, lacks: map[string]error{}}
	c.clickHouse, err = aggregate.NewClickHouse(aggregate.ClickHouseConfig{
		HTTP: client, Endpoint: h.exporter.ClientConfig.Endpoint, Username: h.exporter.Username, Password: string(h.exporter.Password), Database: h.exporter.Database, Engine: h.exporter.Engine,
		Threads: threads, Longest: aggregateLongest,
	})
	return c, err
}

func (c *cellEngines) close() {
	for _, g := range c.groups {
		g.admin.Close()
	}
}

// build builds a model by an engine; empty: the first of the model's that the cell has.
func (c *cellEngines) build(ctx context.Context, m *aggregate.Model, engine string, o aggregate.Options) (aggregate.Report, error) {
	e, err := c.choose(ctx, m, engine)
	if err != nil {
		err = fmt.Errorf("model %s: %w", m.Name, err)
		return aggregate.Report{Model: m.Name, Engine: engine, Owner: m.Owner, Target: m.Target.Table, Error: err.Error()}, err
	}
	o.Watermark, o.SourceRetention = e.watermark, e.retention
	return aggregate.Build(ctx, e, m, o)
}

func (c *cellEngines) choose(ctx context.Context, m *aggregate.Model, engine string) (cellEngine, error) {
	names := m.Engines
	if engine != "" {
		names = []string{engine}
	}
	var lacks []error
	for _, name := range names {
		e, known := c.made[name]
		if known {
			return e, nil
		}
		err := c.lacks[name]
		if err == nil {
			if e, err = c.open(ctx, name); err == nil {
				c.made[name] = e
				return e, nil
			}
			c.lacks[name] = err
		}
		lacks = append(lacks, fmt.Errorf("this cell has no %s: %w", name, err))
	}
	return cellEngine{}, fmt.Errorf("engines: %w", errors.Join(lacks...))
}

func (c *cellEngines) open(ctx context.Context, name string) (e cellEngine, err error) {
	var receiver *mskreceiver.Config
	switch name {
	case aggregate.EngineClickHouse:
		e.Engine, receiver, e.retention = c.clickHouse, c.hot.receiver, time.Duration(c.hot.exporter.RetentionDays)*24*time.Hour
	case aggregate.EngineDuckDB:
		if e.Engine, err = c.duckDB(); err != nil {
			return e, err
		}
		if receiver, err = c.pipes.lakeReceiver(); err != nil && c.through.IsZero() {
			return e, err
		}
	default:
		return e, errors.New("this version does not build by it")
	}
	if !c.through.IsZero() {
		e.watermark = func(context.Context, signal.Signal) (time.Time, error) { return c.through, nil }
		return e, nil
	}
	group, err := c.pipes.newGroup(ctx, receiver)
	if err != nil {
		return e, err
	}
	c.groups = append(c.groups, group)
	e.watermark = group.watermarks(receiver)
	return e, nil
}

func (c *cellEngines) duckDB() (*aggregate.DuckDB, error) {
	program := os.Getenv(duckDBVariable)
	if program == "" {
		program = duckDBProgram
	}
	path, err := exec.LookPath(program)
	switch {
	case err != nil:
		return nil, fmt.Errorf("its command line is missing: install it, or name the program in %s: %w", duckDBVariable, err)
	case c.catalog == nil:
		return nil, errors.New("the configuration has no lake")
	}
	lake := c.pipes.lake
	return aggregate.NewDuckDB(aggregate.DuckDBConfig{
		Program: path, Catalog: c.catalog, Namespace: lake.Namespace, Warehouse: lake.Catalog.Warehouse, Threads: c.threads, MemoryMiB: duckDBMemoryMiB, Longest: aggregateLongest,
	}, c.clickHouse)
}
