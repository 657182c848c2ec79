package cell

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// Database that the ClickHouse exporter writes.
const Database = "pulsegrid"

// clickhouse is the supervised engine: it is started again whenever it ends, until stop. Clients reach it at the guard's address, which stays.
type clickhouse struct {
	options chengine.Options
	log     *logFile
	report  func(message string)
	guard   *guard

	ctx    context.Context // of the restarts; done when stop is called
	cancel context.CancelFunc
	done   chan struct{} // closed when supervision has ended

	mu        sync.Mutex // guards the rest
	engine    *chengine.Engine
	restarts  int
	lastError string
}

func startClickHouse(ctx context.Context, l layout, httpPort int, report func(string)) (*clickhouse, error) {
	log, err := openLog(l.log("clickhouse"))
	if err != nil {
		return nil, err
	}
	// Whoever may read the data directory may use the engine: the password is in state.json, and is another at each start.
	own := chengine.User{Name: "pulsegrid", Password: rand.Text(), Grants: []string{
		"ALL ON " + Database + ".*", "SELECT ON system.*", "TABLE ENGINE ON MergeTree", "TABLE ENGINE ON ReplacingMergeTree", "TABLE ENGINE ON AggregatingMergeTree",
	}}
	c := &clickhouse{
		options: chengine.Options{Dir: l.clickhouse(), Users: []chengine.User{own}, Output: log},
		log:     log, report: report, done: make(chan struct{}),
	}
	if c.guard, err = startGuard(httpPort, log); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if c.engine, err = chengine.Start(ctx, c.options); err != nil {
		return nil, errors.Join(err, c.guard.close(), log.Close())
	}
	c.guard.forward(c.engine.HTTPAddr)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	go c.supervise(c.engine)
	return c, nil
}

func (c *clickhouse) supervise(engine *chengine.Engine) {
	defer close(c.done)
	delay := restartFirst
	begun := time.Now()
	for {
		var err error
		if engine != nil {
			select {
			case <-c.ctx.Done():
				return
			case <-engine.Done():
			}
			if err = engine.Err(); err == nil {
				err = errors.New("ended by itself")
			}
			if time.Since(begun) > restartReset {
				delay = restartFirst
			}
		}
		c.set(nil, err)
		c.report(fmt.Sprintf("clickhouse is down; starting it again in %v; its log is %s", delay, c.log.path))
		if sleep.For(c.ctx, delay) != nil {
			return
		}
		delay = min(2*delay, restartMax)
		begun = time.Now()
		engine, err = chengine.Start(c.ctx, c.options)
		c.set(engine, err)
	}
}

func (c *clickhouse) set(engine *chengine.Engine, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.engine = engine
	if engine != nil {
		c.restarts++
		c.guard.forward(engine.HTTPAddr)
	} else {
		c.guard.forward("")
	}
	if err != nil {
		c.lastError = err.Error()
	}
}

func (c *clickhouse) stop(ctx context.Context) error {
	c.cancel()
	<-c.done // a start that was under way has ended, one way or the other
	c.mu.Lock()
	engine := c.engine
	c.mu.Unlock()
	err := c.guard.close()
	if engine != nil {
		err = errors.Join(err, engine.Stop(ctx))
	}
	return errors.Join(err, c.log.Close())
}

func (c *clickhouse) state() Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := Process{Name: "clickhouse", Restarts: c.restarts, LastError: c.lastError, Log: c.log.path}
	if c.engine != nil {
		p.PID = c.engine.PID()
	}
	return p
}
