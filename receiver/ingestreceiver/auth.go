package ingestreceiver

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/collector/extension/extensionauth"
	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// gate is who may come in by one protocol. The receiver asks the authenticator itself, and not confighttp and configgrpc: those answer whatever it
// says with 401, and configgrpc asks only when the message has been read.
type gate struct {
	authenticator extensionauth.Server // nil: nobody is asked who they are
	registry      tenant.Registry      // the authenticator, if it knows tenants; else nil
	parameters    []string             // of the query, that are handed to the authenticator like headers
}

func gateOf(a extensionauth.Server, parameters []string) gate {
	g := gate{authenticator: a, parameters: parameters}
	g.registry, _ = a.(tenant.Registry)
	return g
}

// denied is a request that was refused by its headers, for who sent it.
type denied struct {
	status *status.Status
	reason string // of metadata.yaml
	unread bool   // not a byte of what the sender has sent may be read any more
}

func (d *denied) Error() string { return d.status.Message() }

// admit decides by a request's headers whether it may come in. It sets the request's tenant and source, and whose share of the budget is taken. Nothing of
// the body has been read. sources are the headers for the authenticator, values returns all of one.
func (r *ingestReceiver) admit(ctx context.Context, q *request, g gate, held *reservation, sources map[string][]string, values func(string) []string) (context.Context, error) {
	if g.authenticator != nil {
		var err error
		if ctx, err = g.authenticator.Authenticate(ctx, sources); err != nil {
			return ctx, deniedBy(err)
		}
	}
	identity, known := tenant.FromContext(ctx)
	if g.registry == nil || !known {
		if g.registry != nil { // never: it returns an error or an identity
			return ctx, deniedBy(errors.New("the request has no tenant"))
		}
		return ctx, r.identify(q, values)
	}
	q.tenant = identity.Tenant.ID
	claimed, err := id(r.cfg.Tenant.Header, values)
	if err != nil {
		return ctx, err
	}
	if q.source, err = id(r.cfg.SourceHeader, values); err != nil {
		return ctx, err
	}
	refusal := tenant.Admit(g.registry, identity.Tenant, q.signal)
	if claimed != "" && claimed != q.tenant {
		refusal = tenant.Denied(tenant.ReasonSpoofed, map[string]string{"tenant": q.tenant},
			"header %s names another tenant than the credentials, which are of %q: leave it out", r.cfg.Tenant.Header, q.tenant)
	}
	if refusal == nil {
		held.tenant = q.tenant
		return ctx, r.waste.admit(q.tenant, held)
	}
	q.transport.in.denied.Add(ctx, 1, q.transport.in.with(
		attribute.String("class", identity.Tenant.Class), attribute.String("decision", strings.ToLower(refusal.Reason))))
	return ctx, deniedFor(refusal)
}

// deniedFor is what a refusal of the registry's means to the sender.
func deniedFor(r *tenant.Refusal) *denied {
	d := &denied{status: r.GRPCStatus(), reason: reasonForbidden}
	switch r.Reason {
	case tenant.ReasonJurisdiction:
		d.unread = true
	case tenant.ReasonCell: // and over HTTP the sender comes again by another connection, for which it asks DNS
		d.reason, d.unread = reasonElsewhere, true
	case tenant.ReasonShed:
		d.reason = reasonShed
	}
	return d
}

// deniedBy is what an authenticator's error means to the sender: the status that it carries, else 401.
func deniedBy(err error) *denied {
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.OK {
		s = status.New(codes.Unauthenticated, err.Error())
	}
	d := &denied{status: readable(s), reason: reasonUnauthenticated}
	switch {
	case s.Code() == codes.PermissionDenied:
		d.reason = reasonForbidden
	case s.Code() == codes.ResourceExhausted && retryable(s):
		d.reason = reasonGuesses
	case retryable(withRetryInfo(s, time.Second)):
		d.reason = reasonNotAsked
	}
	return d
}

// sources are an HTTP request's headers, with those parameters of its query that the configuration names.
func (g *gate) sources(req *http.Request) map[string][]string {
	if len(g.parameters) == 0 {
		return req.Header
	}
	all := maps.Clone(map[string][]string(req.Header))
	query := req.URL.Query()
	for _, name := range g.parameters {
		if v, ok := query[name]; ok {
			all[name] = v
		}
	}
	return all
}

// withPeer tells the authenticator of an HTTP request's client certificate where gRPC has it too.
func withPeer(req *http.Request) context.Context {
	if req.TLS == nil {
		return req.Context()
	}
	return peer.NewContext(req.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: *req.TLS}})
}

// leaveUnread keeps net/http from reading the rest of a body, which it does to use the connection again: nothing more is read from the network.
func leaveUnread(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // HTTP/2 reads nothing on, and may know no deadline
	// As after a body that is too large the connection is shut down in two steps, so that the answer arrives before it is reset.
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("..")), 1).Read(make([]byte, 2))
}
