package ingestreceiver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/legacy"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/refusals"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// drainTimeout bounds Shutdown where its context does not: requests in flight are answered within it, or cut off unanswered,
// and then their senders send them again.
const drainTimeout = 20 * time.Second

// sinks are the pipelines that the receiver feeds; with envelopes only logs.
type sinks struct {
	logs    consumer.Logs
	metrics consumer.Metrics
	traces  consumer.Traces
}

// takes tells whether a signal has somewhere to go.
func (s *sinks) takes(sig signal.Signal, output string) bool {
	switch {
	case sig == 0:
		return false
	case sig == signal.Logs || output == outputEnvelope:
		return s.logs != nil
	case sig == signal.Metrics:
		return s.metrics != nil
	}
	return s.traces != nil
}

// ingestReceiver is one pair of listeners, shared by the pipelines that name it.
type ingestReceiver struct {
	cfg        *Config
	set        receiver.Settings
	wire       otlpwire.Limits
	budget     *budget
	waste      *waste
	reader     *reader
	repeats    *repeats // nil: equal requests have one identity
	telemetry  *componentmeta.Telemetry
	told       *refusals.Log
	http, grpc *transport
	legacy     *legacy.Mapping // of /v1/events; nil: it is not served. Set by Start.
	pages      *pages          // nil: whoever sends may. Set by Start.
	onShutdown func()

	next sinks // complete before Start

	mu       sync.Mutex // guards what follows; the Collector starts and stops the receiver once per pipeline
	started  bool
	stopped  bool
	startErr error

	host               component.Host
	health             cellhealth.Board // nil: the cell cannot be drained
	httpGate, grpcGate gate

	httpServer *http.Server
	grpcServer *grpc.Server
	httpAddr   net.Addr
	grpcAddr   net.Addr
	maxMessage int // bytes of a gRPC message, decompressed
	serving    sync.WaitGroup
}

func newReceiver(set receiver.Settings, cfg *Config) (*ingestReceiver, error) {
	r := &ingestReceiver{cfg: cfg, set: set, wire: cfg.Limits.wire(), reader: newReader(&cfg.Limits, cfg.Output == outputEnvelope), telemetry: metadata.Telemetry(set.ID, set.TelemetrySettings)}
	r.budget = newBudget(int64(cfg.Limits.MaxInFlightBytes), cfg.Limits.tenantBytes())
	r.waste = newWaste(cfg.Limits.MaxRefusedBytesPerSecond)
	r.reader.keepUndecompressed = cfg.QuarantineUndecodable
	if cfg.Repeats.Window > 0 {
		r.repeats = newRepeats(cfg.Repeats.Window)
	}
	r.told = refusals.New(set.Logger)
	in := newInstruments(r.telemetry, r.told, r.budget.used.Load)
	var errHTTP, errGRPC error
	r.http, errHTTP = newTransport(transportHTTP, set, in)
	r.grpc, errGRPC = newTransport(transportGRPC, set, in)
	if err := errors.Join(r.telemetry.Err(), errHTTP, errGRPC); err != nil {
		r.telemetry.Shutdown()
		return nil, err
	}
	return r, nil
}

// Start listens. Only the first call does anything; the others return what it returned.
func (r *ingestReceiver) Start(ctx context.Context, host component.Host) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || r.stopped {
		return r.startErr
	}
	r.started, r.host = true, host
	if r.startErr = r.compose(ctx); r.startErr != nil {
		return r.startErr
	}
	if r.health, r.startErr = cellhealth.Find(host); r.startErr != nil {
		return r.startErr
	}
	if r.cfg.Protocols.GRPC.HasValue() {
		if err := r.startGRPC(ctx); err != nil {
			r.startErr = fmt.Errorf("protocols::grpc: %w", withAdvice(err))
		}
	}
	if r.startErr == nil && r.cfg.Protocols.HTTP.HasValue() {
		if err := r.startHTTP(ctx); err != nil {
			r.startErr = fmt.Errorf("protocols::http: %w", withAdvice(err))
		}
	}
	if r.startErr != nil {
		r.startErr = errors.Join(r.startErr, r.drain(ctx))
	}
	return r.startErr
}

// withAdvice says what to do about a certificate that is not there: nothing else that is opened at a start is a file.
func withAdvice(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w: `tls` wants a certificate and its key (cert_file, key_file; the gateway of distributions/ takes them from PULSEGRID_TLS_CERT and PULSEGRID_TLS_KEY). "+
		"To serve without TLS and without credentials, merge distributions/gateway/insecure.yaml over the config", err)
}

// warnOfStrangers tells what others on the network can do where an endpoint is left open to them.
func (r *ingestReceiver) warnOfStrangers(protocol string, addr net.Addr, encrypted, authenticated bool) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() || encrypted && authenticated {
		return
	}
	r.set.Logger.Warn("INSECURE: an endpoint is open to the network. Without tls, what is sent there can be read, credentials too; without auth, whoever reaches it sends as any tenant",
		zap.String("protocol", protocol), zap.Stringer("endpoint", addr), zap.Bool("tls", encrypted), zap.Bool("auth", authenticated))
}

// serve runs a server until it is stopped.
func (r *ingestReceiver) serve(protocol string, ln net.Listener, run func(net.Listener) error, stopped error) {
	r.set.Logger.Info("listening", zap.String("protocol", protocol), zap.Stringer("endpoint", ln.Addr()))
	r.serving.Go(func() {
		if err := run(ln); err != nil && !errors.Is(err, stopped) {
			componentstatus.ReportStatus(r.host, componentstatus.NewFatalErrorEvent(fmt.Errorf("protocols::%s: %w", protocol, err)))
		}
	})
}

// Shutdown stops listening, waits for the answers to requests in flight, and cuts off what is left when ctx or drainTimeout ends.
func (r *ingestReceiver) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return nil
	}
	r.stopped = true
	r.onShutdown()
	defer r.telemetry.Shutdown()
	defer r.told.Shutdown()
	return r.drain(ctx)
}

func (r *ingestReceiver) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	var wg sync.WaitGroup
	var errHTTP, errGRPC error
	if srv := r.httpServer; srv != nil {
		wg.Go(func() {
			if err := srv.Shutdown(ctx); err != nil {
				errHTTP = fmt.Errorf("protocols::http: requests were cut off unanswered: %w", errors.Join(err, srv.Close()))
			}
		})
	}
	if srv := r.grpcServer; srv != nil {
		wg.Go(func() { errGRPC = stopGRPC(ctx, srv) })
	}
	wg.Wait()
	r.serving.Wait()
	r.httpServer, r.grpcServer = nil, nil
	return errors.Join(errHTTP, errGRPC)
}

func stopGRPC(ctx context.Context, srv *grpc.Server) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		srv.Stop() // cancels the calls, and lets GracefulStop return once their handlers have
		<-done
		return fmt.Errorf("protocols::grpc: requests were cut off unanswered: %w", ctx.Err())
	}
}
