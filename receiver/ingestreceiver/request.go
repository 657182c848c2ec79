package ingestreceiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpjson"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// What a request's events may be, written out with all that they share, as stores write them: so many times its bytes, and always so many bytes. A
// resource of 20 KB around data points of 50 bytes is within. A block of such requests must be written within the lake's commit::timeout: a GiB takes 2 s of CPU.
const (
	writtenRatio = 512
	writtenFloor = 8 << 20
)

// request is one export request on its way.
type request struct {
	signal     signal.Signal
	transport  *transport
	start      time.Time
	received   time.Time // when its last byte had been read
	tenant     string
	source     string
	body       []byte // protobuf
	frames     []byte // zstd, of body; nil: none that can be passed on
	compressed int    // bytes that came over the network
	size       int64  // bytes of a gRPC message, decompressed, which may be refused before any of them is reserved
	events     int
	outcome    outcome
	legacy     bool // it came to /v1/events: its events may be of all signals
	headers    map[string][]string
	remote     string           // address and port of its sender; empty: the context knows the peer
	arrival    *arrival         // its place among equal requests; nil: none
	json       *otlpjson.Result // what the body was made of; nil: it came as protobuf
	original   original         // what is put into quarantine if it cannot be decoded; empty where that is not configured
}

// took is how long the request took since it was there. The time in which its body comes is its sender's: a phone may need longer than the promised answer does.
func (q *request) took() time.Duration {
	if q.received.IsZero() { // it was refused before
		return time.Since(q.start)
	}
	return time.Since(q.received)
}

// identify takes tenant and source from a request's headers. values returns all values of one header.
func (r *ingestReceiver) identify(q *request, values func(string) []string) error {
	var err error
	if q.tenant, err = id(r.cfg.Tenant.Header, values); err != nil {
		return err
	}
	if q.tenant == "" {
		q.tenant = r.cfg.Tenant.Default
	}
	if q.tenant == "" {
		return refusedHeader.because("header %s is missing: it says whose the request is", r.cfg.Tenant.Header)
	}
	q.source, err = id(r.cfg.SourceHeader, values)
	return err
}

func id(header string, values func(string) []string) (string, error) {
	if header == "" {
		return "", nil
	}
	switch v := values(header); {
	case len(v) == 0:
		return "", nil
	case len(v) > 1:
		return "", refusedHeader.because("header %s is there %d times, at most once is allowed", header, len(v))
	case v[0] != "" && !tenant.ValidID(v[0]):
		return "", refusedHeader.because("header %s: %s", header, invalidID(v[0]))
	default:
		return v[0], nil
	}
}

// invalidID says what is wrong with an id, and does not repeat it: it may be a credential in the wrong header.
func invalidID(v string) string {
	if len(v) > tenant.MaxIDBytes {
		return fmt.Sprintf("has %d bytes, at most %d are allowed", len(v), tenant.MaxIDBytes)
	}
	at := 0
	for tenant.ValidID(v[at : at+1]) {
		at++
	}
	return fmt.Sprintf("has %q at byte %d, want letters, digits and %s", v[at:at+1], at, tenant.IDPunctuation)
}

// export validates q's bytes and hands them to the pipeline. It returns when the pipeline has.
func (r *ingestReceiver) export(ctx context.Context, q *request) error {
	limits := r.wire
	limits.MaxWritten = max(writtenFloor, writtenRatio*int64(len(q.body)))
	events, err := otlpwire.Count(q.signal, q.body, limits)
	switch {
	case errors.Is(err, otlpwire.ErrTooDeep):
		return refusedTooDeep.because("%v", err)
	case errors.Is(err, otlpwire.ErrTooManyEvents):
		return refusedTooMany.because("%v", err)
	case errors.Is(err, otlpwire.ErrRepetitive):
		return refusedRepetitive.because("%v", err)
	case err != nil:
		return refusedMalformed.because("%v", err)
	}
	rejected := 0
	if q.json != nil {
		rejected = len(q.json.Rejected)
	}
	q.events = events + rejected
	if events == 0 {
		return r.nothing(q) // to hand on
	}
	if q.source == "" {
		q.source = otlpwire.Source(q.signal, q.body)
	}
	ctx = q.transport.begin(ctx, q.signal)
	ctx, result := envelope.WithResult(ctx)
	if r.cfg.Output == outputPdata {
		err = r.exportPdata(ctx, q)
	} else {
		if q.frames != nil {
			ctx = envelope.WithFrame(ctx, q.body, q.frames)
		}
		ld := plog.NewLogs()
		e := envelope.Envelope{
			Signal: q.signal, Tenant: q.tenant, Source: q.source, Events: events,
			Received: q.received, Lane: envelope.LaneFast, Body: q.body,
		}
		r.place(ctx, q, &e)
		e.Append(ld)
		if rejected > 0 {
			r.rejectJSON(q, ld)
		}
		err = r.next.logs.ConsumeLogs(ctx, ld)
	}
	q.outcome = outcomeOf(result)
	if rejected > 0 {
		q.outcome.addJSON(q.json.Rejected, r.cfg.QuarantineUndecodable)
	}
	q.transport.end(ctx, q.signal, events, err)
	return err
}

// nothing is what becomes of a request without events: it is taken, unless it holds what OTLP does not have. Then it is of another kind, and its sender
// shall know that nothing of it is kept.
func (r *ingestReceiver) nothing(q *request) error {
	unknown := ""
	switch {
	case q.json == nil:
		unknown = otlpwire.Unknown(q.signal, q.body)
	case len(q.json.Rejected) > 0:
		return refusedMalformed.because("no event is OTLP: %v", q.json.Rejected[0])
	default:
		unknown = q.json.Unknown
	}
	if unknown == "" {
		return nil
	}
	return refusedMalformed.because("no request of %s: it has no event, and %s, which OTLP does not have", q.signal, unknown)
}

// exportPdata decodes q and stamps its resources with whose they are, over whatever the sender claimed there.
func (r *ingestReceiver) exportPdata(ctx context.Context, q *request) error {
	origin := lineage.Origin{Tenant: q.tenant, Source: q.source, Received: q.received}
	stamp := func(res pcommon.Resource) { lineage.StampResource(res.Attributes(), origin) }
	switch q.signal {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(q.body); err != nil {
			return refusedMalformed.because("%v", err)
		}
		for _, rl := range req.Logs().ResourceLogs().All() {
			stamp(rl.Resource())
		}
		return r.next.logs.ConsumeLogs(ctx, req.Logs())
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalProto(q.body); err != nil {
			return refusedMalformed.because("%v", err)
		}
		for _, rm := range req.Metrics().ResourceMetrics().All() {
			stamp(rm.Resource())
		}
		return r.next.metrics.ConsumeMetrics(ctx, req.Metrics())
	default:
		req := ptraceotlp.NewExportRequest()
		if err := req.UnmarshalProto(q.body); err != nil {
			return refusedMalformed.because("%v", err)
		}
		for _, rs := range req.Traces().ResourceSpans().All() {
			stamp(rs.Resource())
		}
		return r.next.traces.ConsumeTraces(ctx, req.Traces())
	}
}
