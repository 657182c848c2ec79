package ingestreceiver

import (
	"cmp"
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc/codes"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/refusals"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Transports.
const (
	transportHTTP = "http"
	transportGRPC = "grpc"
)

// instruments are shared by the transports.
type instruments struct {
	requests, events, rejected, lost, repeats, compressed, uncompressed, refused, denied componentmeta.Counter
	duration                                                                             componentmeta.Histogram
	with                                                                                 func(...attribute.KeyValue) componentmeta.Attributes
	told                                                                                 *refusals.Log
	last                                                                                 atomic.Int64 // Unix nanoseconds of when the last request was answered, or of the start
}

func newInstruments(t *componentmeta.Telemetry, told *refusals.Log, used func() int64) *instruments {
	t.Gauge("ingest_in_flight_bytes", func(record func(int64, ...attribute.KeyValue)) { record(used()) })
	in := &instruments{
		requests:     t.Counter("ingest_requests"),
		events:       t.Counter("ingest_events"),
		rejected:     t.Counter("ingest_rejected_events"),
		lost:         t.Counter("ingest_lost_events"),
		repeats:      t.Counter("ingest_repeats"),
		compressed:   t.Counter("ingest_compressed_bytes"),
		uncompressed: t.Counter("ingest_uncompressed_bytes"),
		refused:      t.Counter("ingest_refused"),
		denied:       t.Counter("ingest_denied"),
		duration:     t.Histogram("ingest_request_duration"),
		with:         t.With,
		told:         told,
	}
	in.last.Store(time.Now().UnixNano())
	t.Gauge("ingest_idle", func(record func(int64, ...attribute.KeyValue)) {
		record(int64(time.Since(time.Unix(0, in.last.Load())).Seconds()))
	})
	return in
}

// watchCertificate measures when the certificate that a transport serves ends. It loads the server's own settings once more, so that it finds a renewed
// certificate when the server does.
func (r *ingestReceiver) watchCertificate(ctx context.Context, transport string, server *configtls.ServerConfig) error {
	if server == nil {
		return nil
	}
	own := configtls.ServerConfig{Config: server.Config}
	loaded, err := own.LoadTLSConfig(ctx)
	if err != nil || loaded.GetCertificate == nil {
		return err
	}
	r.telemetry.Gauge("ingest_certificate_expiry", func(record func(int64, ...attribute.KeyValue)) {
		served, err := loaded.GetCertificate(nil)
		if err != nil {
			return // the server cannot read it either, and its handshakes fail
		}
		if leaf, err := x509.ParseCertificate(served.Certificate[0]); err == nil {
			record(int64(time.Until(leaf.NotAfter).Seconds()), attribute.String("transport", transport))
		}
	})
	return r.telemetry.Err()
}

// Outcomes of a request.
const (
	outcomeAccepted = iota
	outcomeEmpty
	outcomeRefused
	outcomeRetry
	outcomes
)

var outcomeNames = [outcomes]string{"accepted", "empty", "refused", "retry"}

const signals = 4 // the three, and 0 for unknown

// transport is what requests of one transport are counted with. Attribute sets are made once: they cost more than a count.
type transport struct {
	name      string
	in        *instruments
	obs       *receiverhelper.ObsReport
	bySignal  [signals]componentmeta.Attributes
	byOutcome [signals][outcomes]componentmeta.Attributes
}

func newTransport(name string, set receiver.Settings, in *instruments) (*transport, error) {
	obs, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{ReceiverID: set.ID, Transport: name, ReceiverCreateSettings: set})
	if err != nil {
		return nil, err
	}
	t := &transport{name: name, in: in, obs: obs}
	for s := range t.bySignal {
		common := []attribute.KeyValue{attribute.String("signal", signalName(signal.Signal(s))), attribute.String("transport", name)}
		t.bySignal[s] = in.with(common...)
		for _, reason := range []string{refusedMemory.reason, reasonNotAsked, reasonDownstreamRetry} { // what the cell is to blame for, so that its first time is an increase
			in.refused.Add(context.Background(), 0, in.with(append(common[:2:2], attribute.String("reason", reason))...))
		}
		for o, outcome := range outcomeNames {
			t.byOutcome[s][o] = in.with(append(common[:2:2], attribute.String("outcome", outcome))...)
		}
	}
	return t, nil
}

func signalName(s signal.Signal) string {
	if s == 0 {
		return "unknown"
	}
	return s.String()
}

// done counts a request; a is what its sender was told, nil for OK.
func (t *transport) done(ctx context.Context, q *request, a *answer) {
	t.in.last.Store(time.Now().UnixNano())
	outcome := outcomeAccepted
	switch {
	case a == nil && q.events == 0:
		outcome = outcomeEmpty
	case a == nil:
		t.in.events.Add(ctx, int64(q.events), t.bySignal[q.signal])
		if n := q.outcome.rejected; n > 0 {
			t.in.rejected.Add(ctx, int64(n), t.bySignal[q.signal])
			t.tell(ctx, q, nil)
		}
		if n := q.outcome.lost; n > 0 {
			t.in.lost.Add(ctx, int64(n), t.bySignal[q.signal])
		}
		t.in.compressed.Add(ctx, int64(q.compressed), t.bySignal[q.signal])
		t.in.uncompressed.Add(ctx, int64(len(q.body)), t.bySignal[q.signal])
	default:
		if outcome = outcomeRefused; retryable(a.status) {
			outcome = outcomeRetry
		}
		t.in.refused.Add(ctx, 1, t.in.with(
			attribute.String("signal", signalName(q.signal)), attribute.String("transport", t.name), attribute.String("reason", a.reason)))
		t.tell(ctx, q, a)
	}
	t.in.requests.Add(ctx, 1, t.byOutcome[q.signal][outcome])
	t.in.duration.Record(ctx, q.took().Seconds(), t.byOutcome[q.signal][outcome])
}

// Reasons of refusals of events, whose requests were taken otherwise, in the log.
const (
	reasonEventsLost        = "events_lost"        // some are kept nowhere
	reasonEventsQuarantined = "events_quarantined" // all are kept
)

// tell has the log know of a request that was refused, or, where a is nil, of which events were.
func (t *transport) tell(ctx context.Context, q *request, a *answer) {
	r := refusals.Refusal{Kind: refusals.Kind{Protocol: t.name, Tenant: q.tenant}}
	r.Sender, r.UserAgent = q.sender(ctx)
	code := codes.OK
	if a == nil {
		r.Status, r.Reason = strconv.Itoa(http.StatusOK), reasonEventsQuarantined
		if q.outcome.lost > 0 {
			r.Reason = reasonEventsLost
		}
		r.Events, r.Text, r.Quotes = q.outcome.rejected, q.outcome.message(), true
	} else {
		code = a.status.Code()
		r.Status, r.Reason, r.Text, r.Quotes = strconv.Itoa(a.http), a.reason, a.status.Message(), quotes[a.reason]
		r.Detail = errorReason(a.status)
	}
	if t.name == transportGRPC {
		r.Status = code.String()
	}
	if r.Detail == tenant.ReasonJurisdiction {
		r.Sender, r.UserAgent = "", "" // a log is kept here too, and what a sender is and says may not be
	}
	t.in.told.Add(r)
}

// quotes are the reasons whose texts may quote a body.
var quotes = map[string]bool{
	refusedMalformed.reason: true, refusedTooDeep.reason: true, refusedCompression.reason: true, reasonDownstreamPermanent: true, reasonDownstreamRetry: true, reasonQuota: true,
}

// sender is the address, without its port, that a request came from, which may be a proxy's, and what the program calls itself.
func (q *request) sender(ctx context.Context) (address, userAgent string) {
	if q.remote == "" {
		if p, ok := peer.FromContext(ctx); ok {
			q.remote = p.Addr.String()
		}
	}
	if q.headers == nil {
		q.headers, _ = grpcmetadata.FromIncomingContext(ctx)
	}
	address = q.remote
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	for _, name := range []string{"User-Agent", "user-agent"} { // as net/http and gRPC write it
		if v := q.headers[name]; len(v) > 0 {
			userAgent = v[0]
		}
	}
	return cmp.Or(address, userAgent), userAgent
}

// begin and end are the Collector's own accounting of receivers.
func (t *transport) begin(ctx context.Context, s signal.Signal) context.Context {
	switch s {
	case signal.Logs:
		return t.obs.StartLogsOp(ctx)
	case signal.Metrics:
		return t.obs.StartMetricsOp(ctx)
	default:
		return t.obs.StartTracesOp(ctx)
	}
}

func (t *transport) end(ctx context.Context, s signal.Signal, events int, err error) {
	const format = "protobuf"
	switch s {
	case signal.Logs:
		t.obs.EndLogsOp(ctx, format, events, err)
	case signal.Metrics:
		t.obs.EndMetricsOp(ctx, format, events, err)
	default:
		t.obs.EndTracesOp(ctx, format, events, err)
	}
}
