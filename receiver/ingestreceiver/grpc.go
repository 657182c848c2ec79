package ingestreceiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/configoptional"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

var services = map[signal.Signal]string{
	signal.Logs:    "opentelemetry.proto.collector.logs.v1.LogsService",
	signal.Metrics: "opentelemetry.proto.collector.metrics.v1.MetricsService",
	signal.Traces:  "opentelemetry.proto.collector.trace.v1.TraceService",
}

const profilesService = "/opentelemetry.proto.collector.profiles." // of any version

const noProfiles = "profiles are not served here; want logs, metrics or traces"

// unknownService answers calls of services and methods that are not served. Their messages are not read.
func unknownService(_ any, stream grpc.ServerStream) error {
	stream.Context().Value(callKey{}).(*call).reason = refusedPath.reason
	method, _ := grpc.MethodFromServerStream(stream)
	if strings.HasPrefix(method, profilesService) {
		return status.Error(codes.Unimplemented, noProfiles)
	}
	return status.Errorf(codes.Unimplemented, "nothing is served at %.100q; want Export of OTLP's LogsService, MetricsService or TraceService", method)
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

// serviceDesc is OTLP's service for a signal, of raw messages. A call of one message and one answer is the same to a client whether the server takes
// it for unary or for a stream; of a stream the handler is called before the message is read.
func (r *ingestReceiver) serviceDesc(s signal.Signal) *grpc.ServiceDesc {
	handler := func(_ any, stream grpc.ServerStream) error { return r.exportGRPC(stream, s) }
	return &grpc.ServiceDesc{ServiceName: services[s], HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{StreamName: "Export", Handler: handler}}}
}

func (r *ingestReceiver) exportGRPC(stream grpc.ServerStream, s signal.Signal) error {
	ctx := stream.Context()
	c := ctx.Value(callKey{}).(*call) // tapCall's
	q := &request{signal: s, transport: r.grpc, start: c.start}
	held := &reservation{of: r.budget}
	defer held.release()
	answered := false
	defer func() { q.arrival.end(answered) }()
	md, _ := grpcmetadata.FromIncomingContext(ctx)
	q.headers = md
	ctx, err := r.admit(ctx, q, r.grpcGate, held, md, md.Get)
	if err == nil {
		f := &frame{}
		defer f.free()
		c.tenant, c.owner = q.tenant, held.tenant
		c.in.owner(held.tenant)
		if err = c.receive(stream, f); err != nil && !errors.As(err, new(*refusal)) {
			c.leave, held.onRelease = held.onRelease, nil
			return err // the library's, which it has answered already: callStats counts it
		}
		if err == nil {
			q.received, q.compressed = time.Now(), c.compressed
			if err = r.takeFrame(ctx, q, f, held); err != nil {
				err = r.keep(ctx, q, err)
			}
		}
	}
	c.handled = true
	if err != nil {
		a := answerTo(held.explain(err), r.cfg.RetryAfter)
		r.countWaste(q, held, &a)
		r.grpc.done(ctx, q, &a)
		stream.SetTrailer(retryTrailer(a.status))
		return a.status.Err()
	}
	r.countWaste(q, held, nil)
	r.grpc.done(ctx, q, nil)
	answer := &frame{}
	if msg := q.outcome.protobuf(); msg != nil {
		answer.data = mem.BufferSlice{mem.SliceBuffer(msg)}
	}
	err = stream.SendMsg(answer)
	answered = err == nil
	return err
}

// retryTrailer is the status's RetryInfo once more, as a trailer of its own: OpenTelemetry's Python SDK (1.45) looks for it there and not among the
// status's details, and comes again when it likes if there is none.
func retryTrailer(s *status.Status) grpcmetadata.MD {
	after := retryDelay(s)
	if after == nil {
		return nil
	}
	info, err := proto.Marshal(&errdetails.RetryInfo{RetryDelay: after})
	if err != nil { // never: it has just come out of a message
		return nil
	}
	return grpcmetadata.Pairs("google.rpc.retryinfo-bin", string(info))
}

func (r *ingestReceiver) takeFrame(ctx context.Context, q *request, f *frame, held *reservation) error {
	n := f.data.Len()
	q.size = int64(n)
	if n == 0 {
		return nil
	}
	if n != q.compressed { // it was compressed
		if q.compressed > r.cfg.Limits.MaxCompressedBytes {
			return tooLarge("compressed message", int64(q.compressed), r.cfg.Limits.MaxCompressedBytes, keyCompressed)
		}
		if allowed, _ := r.cfg.Limits.allowed(q.compressed); n > allowed {
			return r.cfg.Limits.overAllowed(q.compressed)
		}
	}
	if n > r.cfg.Limits.MaxDecompressedBytes {
		return tooLarge("message", int64(n), r.cfg.Limits.MaxDecompressedBytes, keyDecompressed)
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

// callStats sees each call to its end: its compressed size, and those that were refused on their way to the receiver (message size, compression) and would
// be counted nowhere else.
type callStats struct {
	r           *ingestReceiver
	connections *connections
}

func (callStats) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (h callStats) HandleRPC(ctx context.Context, s stats.RPCStats) {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return
	}
	switch s := s.(type) {
	case *stats.InPayload:
		c.compressed = s.CompressedLength
	case *stats.End:
		c.end()
		if c.leave != nil {
			defer c.leave()
		}
		if c.handled || s.Error == nil {
			return
		}
		a := answer{status: readable(status.Convert(s.Error)), reason: cmp.Or(c.reason, reasonTransport)}
		h.r.countCall(c, a.status)
		h.r.grpc.done(ctx, &request{signal: c.signal, start: c.start, tenant: c.tenant}, &a)
	}
}

func (h callStats) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	return h.connections.tag(ctx, info)
}

func (callStats) HandleConn(context.Context, stats.ConnStats) {}

func (r *ingestReceiver) startGRPC(ctx context.Context) error {
	cfg := *r.cfg.Protocols.GRPC.Get()
	if auth := cfg.Auth.Get(); auth != nil {
		a, err := auth.GetServerAuthenticator(ctx, r.host.GetExtensions())
		if err != nil {
			return err
		}
		r.grpcGate = gateOf(a, nil)
		cfg.Auth = configoptional.None[configauth.Config]()
	}
	if cfg.MaxRecvMsgSizeMiB == 0 {
		cfg.MaxRecvMsgSizeMiB = (r.cfg.Limits.MaxDecompressedBytes + mib - 1) / mib
	}
	r.maxMessage = cfg.MaxRecvMsgSizeMiB * mib
	if err := r.watchCertificate(ctx, transportGRPC, cfg.TLS.Get()); err != nil {
		return err
	}
	ln := &connections{budget: r.budget}
	srv, err := cfg.ToServer(ctx, r.host.GetExtensions(), r.set.TelemetrySettings,
		configgrpc.WithGrpcServerOption(grpc.ForceServerCodecV2(rawCodec{})),
		configgrpc.WithGrpcServerOption(grpc.MaxHeaderListSize(maxHeaderBytes)),
		configgrpc.WithGrpcServerOption(grpc.InTapHandle(r.tapCall)),
		configgrpc.WithGrpcServerOption(grpc.UnknownServiceHandler(unknownService)),
		configgrpc.WithGrpcServerOption(grpc.StatsHandler(callStats{r, ln})))
	if err != nil {
		return err
	}
	for _, s := range signal.All {
		if r.next.takes(s, r.cfg.Output) {
			srv.RegisterService(r.serviceDesc(s), r)
		}
	}
	if ln.Listener, err = cfg.NetAddr.Listen(ctx); err != nil {
		return err
	}
	r.grpcServer, r.grpcAddr = srv, ln.Addr()
	r.warnOfStrangers("grpc", r.grpcAddr, cfg.TLS.HasValue(), r.cfg.Protocols.GRPC.Get().Auth.HasValue())
	r.serve("grpc", ln, srv.Serve, grpc.ErrServerStopped)
	return nil
}
