package ingestreceiver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/configgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

var services = map[signal.Signal]string{
	signal.Logs:    "opentelemetry.proto.collector.logs.v1.LogsService",
	signal.Metrics: "opentelemetry.proto.collector.metrics.v1.MetricsService",
	signal.Traces:  "opentelemetry.proto.collector.trace.v1.TraceService",
}

// frame is a message as gRPC received it, decompressed. A frame without data is an Export*ServiceResponse that says nothing.
type frame struct{ data mem.BufferSlice }

// take copies the message out of gRPC's pooled buffers, which go back to their pool.
func (f *frame) take() []byte {
	b := f.data.Materialize()
	f.free()
	return b
}

func (f *frame) free() {
	f.data.Free()
	f.data = nil
}

// rawCodec hands messages over without decoding them.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("message is a %T, not a frame", v)
	}
	data.Ref()
	f.data = data
	return nil
}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("message is a %T, not a frame", v)
	}
	return f.data, nil
}

// serviceDesc is OTLP's service for a signal, of raw messages.
func (r *ingestReceiver) serviceDesc(s signal.Signal) *grpc.ServiceDesc {
	method := "/" + services[s] + "/Export"
	export := func(ctx context.Context, msg any) (any, error) { return r.exportGRPC(ctx, s, msg.(*frame)) }
	handler := func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		f := &frame{}
		if err := decode(f); err != nil {
			return nil, err
		}
		defer f.free() // for those that an interceptor refuses
		if interceptor == nil {
			return export(ctx, f)
		}
		return interceptor(ctx, f, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, export)
	}
	return &grpc.ServiceDesc{ServiceName: services[s], HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: handler}}}
}

func (r *ingestReceiver) exportGRPC(ctx context.Context, s signal.Signal, f *frame) (any, error) {
	q := &request{signal: s, transport: r.grpc, start: time.Now(), received: time.Now()}
	q.compressed = f.data.Len()
	if call, ok := ctx.Value(callKey{}).(*call); ok {
		call.handled, q.start = true, call.start
		q.compressed = call.compressed
	}
	held := &reservation{of: &r.budget}
	defer held.release()
	err := r.takeFrame(ctx, q, f, held)
	if err != nil {
		err = r.keep(ctx, q, err)
	}
	if err != nil {
		a := answerTo(err, r.cfg.RetryAfter)
		r.grpc.done(ctx, q, &a)
		return nil, a.status.Err()
	}
	r.grpc.done(ctx, q, nil)
	if msg := q.outcome.protobuf(); msg != nil {
		return &frame{mem.BufferSlice{mem.SliceBuffer(msg)}}, nil
	}
	return &frame{}, nil
}

func (r *ingestReceiver) takeFrame(ctx context.Context, q *request, f *frame, held *reservation) error {
	md, _ := grpcmetadata.FromIncomingContext(ctx)
	if err := r.identify(q, md.Get); err != nil {
		return err
	}
	n := f.data.Len()
	if n == 0 {
		return nil
	}
	if n != q.compressed {
		if q.compressed > r.cfg.Limits.MaxCompressedBytes {
			return refusedTooLarge.because("compressed message is larger than %d bytes", r.cfg.Limits.MaxCompressedBytes)
		}
		if allowed, _ := r.cfg.Limits.allowed(q.compressed); n > allowed {
			return r.cfg.Limits.overAllowed(q.compressed)
		}
	}
	if n > r.cfg.Limits.MaxDecompressedBytes {
		return refusedTooLarge.because("message is larger than %d bytes", r.cfg.Limits.MaxDecompressedBytes)
	}
	if !held.grow(n) {
		return refusedMemory
	}
	q.body = f.take()
	if r.cfg.QuarantineUndecodable {
		q.original = original{q.body, typeProtobuf, encodingNone}
	}
	return r.export(ctx, q)
}

// call is what the gRPC library tells of a call besides its message. One goroutine serves a call.
type call struct {
	signal     signal.Signal
	start      time.Time
	compressed int
	handled    bool // the receiver has counted it
}

type callKey struct{}

// callStats sees each call from its headers to its end: its compressed size, and those that were refused on their way to the
// receiver (credentials, message size, compression) and would be counted nowhere else.
type callStats struct{ r *ingestReceiver }

func (callStats) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	c := &call{start: time.Now()}
	for s, name := range services {
		if strings.HasPrefix(info.FullMethodName, "/"+name+"/") {
			c.signal = s
		}
	}
	return context.WithValue(ctx, callKey{}, c)
}

func (h callStats) HandleRPC(ctx context.Context, s stats.RPCStats) {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return
	}
	switch s := s.(type) {
	case *stats.InPayload:
		c.compressed = s.CompressedLength
	case *stats.End:
		if c.handled || s.Error == nil {
			return
		}
		a := answer{status: status.Convert(s.Error), reason: reasonTransport}
		if code := a.status.Code(); code == codes.Unauthenticated || code == codes.PermissionDenied {
			a.reason = reasonUnauthenticated
		}
		h.r.grpc.done(ctx, &request{signal: c.signal, start: c.start}, &a)
	}
}

func (callStats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (callStats) HandleConn(context.Context, stats.ConnStats)                       {}

func (r *ingestReceiver) startGRPC(ctx context.Context) error {
	cfg := *r.cfg.Protocols.GRPC.Get()
	if cfg.MaxRecvMsgSizeMiB == 0 {
		cfg.MaxRecvMsgSizeMiB = (r.cfg.Limits.MaxDecompressedBytes + mib - 1) / mib
	}
	srv, err := cfg.ToServer(ctx, r.host.GetExtensions(), r.set.TelemetrySettings,
		configgrpc.WithGrpcServerOption(grpc.ForceServerCodecV2(rawCodec{})),
		configgrpc.WithGrpcServerOption(grpc.StatsHandler(callStats{r})))
	if err != nil {
		return err
	}
	for _, s := range signal.All {
		if r.next.takes(s, r.cfg.Output) {
			srv.RegisterService(r.serviceDesc(s), r)
		}
	}
	ln, err := cfg.NetAddr.Listen(ctx)
	if err != nil {
		return err
	}
	r.grpcServer, r.grpcAddr = srv, ln.Addr()
	r.serve("grpc", ln, srv.Serve, grpc.ErrServerStopped)
	return nil
}
