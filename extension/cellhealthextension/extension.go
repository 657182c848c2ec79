package cellhealthextension

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
)

const (
	serverTimeout  = 5 * time.Second // of each step of an answer
	headerBytesMax = 8 << 10
)

// state is what the endpoint says.
type state string

// The states, as metadata.yaml has them.
const (
	serving state = "serving"
	failing state = "failing"
	drained state = "drained"
	stopped state = "stopped"
)

// situation is what a state is made of.
type situation struct {
	running bool // the Collector's pipelines are
	drained bool
	judge   judge
}

func (s *situation) state() state {
	switch {
	case !s.running || !s.judge.looked():
		return stopped
	case s.drained:
		return drained
	case !s.judge.good:
		return failing
	}
	return serving
}

// cellHealth implements cellhealth.Board, and the Collector's PipelineWatcher (Ready, NotReady).
type cellHealth struct {
	cfg         *Config
	log         *zap.Logger
	telemetry   *componentmeta.Telemetry
	transitions componentmeta.Counter
	now         func() time.Time

	serves, drains atomic.Bool // of the situation, for whoever asks

	mu  sync.Mutex
	is  situation // guarded by mu
	was state     // guarded by mu

	checksMu sync.Mutex
	checks   []*watched // guarded by checksMu

	// Of Start and Shutdown, and of the goroutines between them.
	host    component.Host
	source  fileset.Source // nil: the cell cannot be drained
	looks   fileset.Watch
	watch   fileset.Watch
	server  *http.Server
	address net.Addr
	serving sync.WaitGroup
}

var _ cellhealth.Board = (*cellHealth)(nil)

func newCellHealth(set extension.Settings, cfg *Config) (*cellHealth, error) {
	t := metadata.Telemetry(set.ID, set.TelemetrySettings)
	e := &cellHealth{
		cfg: cfg, log: set.Logger, telemetry: t, transitions: t.Counter("cell_health_transitions"), now: time.Now, was: stopped,
		is: situation{judge: judge{badLooks: cfg.BadLooks, goodLooks: cfg.GoodLooks, hold: cfg.Hold}},
	}
	gauge := func(name string, is *atomic.Bool) {
		t.Gauge(name, func(record func(int64, ...attribute.KeyValue)) {
			if is.Load() {
				record(1)
			} else {
				record(0)
			}
		})
	}
	gauge("cell_health_serving", &e.serves)
	gauge("cell_health_drained", &e.drains)
	for _, s := range []state{serving, failing, drained, stopped} { // so that its first time is an increase
		e.transitions.Add(context.Background(), 0, t.With(attribute.String("to", string(s))))
	}
	if err := t.Err(); err != nil {
		t.Shutdown()
		return nil, err
	}
	return e, nil
}

// Drained implements cellhealth.Board.
func (e *cellHealth) Drained() bool { return e.drains.Load() }

// become changes the situation; why is for the log, where that changes the state.
func (e *cellHealth) become(why string, change func(*situation)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.is)
	now := e.is.state()
	e.serves.Store(now == serving)
	e.drains.Store(e.is.drained)
	if now == e.was {
		return
	}
	e.transitions.Add(context.Background(), 1, e.telemetry.With(attribute.String("to", string(now))))
	log := e.log.Info
	if now == failing {
		log = e.log.Error
	}
	log("cell health", zap.String("from", string(e.was)), zap.String("to", string(now)), zap.String("reason", why))
	e.was = now
}

// Ready is called by the Collector when its pipelines have started.
func (e *cellHealth) Ready() error {
	e.become("the gateway has started", func(s *situation) { s.running = true })
	return nil
}

// NotReady is called by the Collector before it stops its receivers.
func (e *cellHealth) NotReady() error {
	e.become("the gateway stops", func(s *situation) { s.running = false })
	return nil
}

// Start listens, and then looks until Shutdown. A state that cannot be read is no error: a gateway that does not start takes nothing, one that is not drained
// takes requests, and loses none. Until it can be read the cell is not drained.
func (e *cellHealth) Start(ctx context.Context, host component.Host) error {
	e.host = host
	if e.cfg.State.Location != "" {
		var err error
		if e.source, err = fileset.OpenNamed(ctx, e.cfg.State.Location, []string{cellhealth.StateFile}); err != nil {
			return fmt.Errorf("state::location: %w", err)
		}
	}
	ln, err := net.Listen("tcp", e.cfg.Endpoint)
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	e.address = ln.Addr()
	e.server = &http.Server{
		Handler: e, ReadHeaderTimeout: serverTimeout, ReadTimeout: serverTimeout, WriteTimeout: serverTimeout, MaxHeaderBytes: headerBytesMax,
		ErrorLog: zap.NewStdLog(zap.NewNop()), // anybody may send anything to it
	}
	e.server.SetKeepAlivesEnabled(false) // no connection lasts
	e.serving.Go(func() {
		if err := e.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(fmt.Errorf("endpoint: %w", err)))
		}
	})
	if e.source != nil {
		e.follow(ctx)
		e.watch.Start(e.cfg.State.ReloadInterval, e.follow)
	}
	e.looks.Start(e.cfg.Interval, e.look)
	return nil
}

// look is made every interval, while the pipelines run: before, no component has said what to look at.
func (e *cellHealth) look(ctx context.Context) {
	if !e.running() {
		return
	}
	err := e.ask(ctx)
	if ctx.Err() != nil {
		return // shutting down
	}
	why := "something can be accepted"
	if err != nil {
		why = err.Error()
	}
	e.become(why, func(s *situation) { s.judge.look(e.now(), err == nil) })
}

func (e *cellHealth) running() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.is.running
}

// Shutdown may be called without Start, and twice.
func (e *cellHealth) Shutdown(ctx context.Context) error {
	e.looks.Stop()
	e.watch.Stop()
	e.telemetry.Shutdown()
	var errs []error
	if e.server != nil {
		if err := e.server.Shutdown(ctx); err != nil {
			errs = append(errs, errors.Join(err, e.server.Close()))
		}
		e.serving.Wait()
		e.server = nil
	}
	if e.source != nil {
		errs = append(errs, e.source.Close())
		e.source = nil
	}
	return errors.Join(errs...)
}

// ServeHTTP says what was found last, and nothing else: it is asked by whoever reaches the port.
func (e *cellHealth) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	code, text := http.StatusServiceUnavailable, "unavailable\n"
	switch {
	case req.URL.Path != "/":
		code, text = http.StatusNotFound, "not found\n"
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		code, text = http.StatusMethodNotAllowed, "method not allowed\n"
	case e.serves.Load():
		code, text = http.StatusOK, "ok\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text) // who asks may have left
}
