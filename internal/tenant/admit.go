package tenant

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Domain of the reasons below, in google.rpc.ErrorInfo.
const Domain = "pulsegrid"

// Reasons of refusals, as google.rpc.ErrorInfo has them.
const (
	ReasonUnavailable  = "REGISTRY_UNAVAILABLE" // the registry could not be read: retry
	ReasonUnknown      = "TENANT_UNKNOWN"
	ReasonSuspended    = "TENANT_SUSPENDED"
	ReasonSignal       = "SIGNAL_NOT_ALLOWED"
	ReasonJurisdiction = "WRONG_JURISDICTION"
	ReasonCell         = "WRONG_CELL" // it may be in others of the same jurisdiction: retry, once DNS leads there
	ReasonSpoofed      = "TENANT_SPOOFED"
	ReasonQuota        = "QUOTA_EXCEEDED"
	ReasonShed         = "CELL_FULL" // its class is shed: retry
)

const (
	// retryUnavailable is when a sender shall come again after the registry could not be read.
	retryUnavailable = 10 * time.Second
	// retryElsewhere is when one shall that came to the wrong cell: it may have been led here by an answer of DNS, which holds for a minute.
	retryElsewhere = 10 * time.Second
	// Somebody sheds for minutes at least. Senders that are sent back at one moment do not come again at one.
	retryShedMin, retryShedMax = 30 * time.Second, 90 * time.Second
)

// Refusal is why a tenant's request is not taken. It is an error that carries the status that the sender is told.
type Refusal struct {
	Reason string
	Code   codes.Code
	Text   string
	After  time.Duration     // when to come again; zero: never
	Info   map[string]string // of google.rpc.ErrorInfo
}

func (r *Refusal) Error() string { return r.Text }

// GRPCStatus is what the sender is told.
func (r *Refusal) GRPCStatus() *status.Status {
	st := status.New(r.Code, r.Text)
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: r.Reason, Domain: Domain, Metadata: r.Info}}
	if r.After > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.After)})
	}
	if with, err := st.WithDetails(details...); err == nil { // never fails: the code is not OK, and the types are known
		return with
	}
	return st
}

// Unavailable is the refusal of everything while the registry is not known.
func Unavailable(why string) *Refusal {
	return &Refusal{Reason: ReasonUnavailable, Code: codes.Unavailable, After: retryUnavailable, Text: "the registry of tenants " + why + ": nothing is accepted until it is; send it again later"}
}

// Denied is a refusal for good.
func Denied(reason string, info map[string]string, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Code: codes.PermissionDenied, Info: info, Text: fmt.Sprintf(format, args...)}
}

// Lookup returns a tenant, or the refusal of one that the registry does not know.
func Lookup(r Registry, id string) (*Tenant, *Refusal) {
	s := r.Snapshot()
	if s == nil {
		return nil, Unavailable("has not been read yet")
	}
	t := s.Tenant(id)
	switch {
	case t != nil:
		return t, nil
	case s.Incomplete():
		return nil, Unavailable("is incomplete and does not hold this tenant")
	}
	return nil, Denied(ReasonUnknown, nil, "tenant %q is unknown", id)
}

// Admit decides whether this cell takes a signal of a tenant: nil, or why not. It does so without looking at what is sent; signal 0: before it is known
// which signals that are.
func Admit(r Registry, t *Tenant, s signal.Signal) *Refusal {
	switch {
	case t.Status != Active:
		return Denied(ReasonSuspended, map[string]string{"tenant": t.ID}, "tenant %q is %s", t.ID, t.Status)
	case t.Jurisdiction != "" && t.Jurisdiction != r.Jurisdiction():
		info, where := elsewhere(r, t)
		info["jurisdiction"], info["cell_jurisdiction"] = t.Jurisdiction, r.Jurisdiction()
		return Denied(ReasonJurisdiction, info, "data of tenant %q must stay in jurisdiction %q, this cell is in %q; nothing was read: %s", t.ID, t.Jurisdiction, r.Jurisdiction(), where)
	case !t.MayBeIn(r.Cell()):
		info, where := elsewhere(r, t)
		return &Refusal{
			Reason: ReasonCell, Code: codes.Unavailable, After: retryElsewhere, Info: info,
			Text: fmt.Sprintf("data of tenant %q may not be in cell %q; nothing was read: %s", t.ID, r.Cell(), where),
		}
	case s != 0 && !t.Takes(s):
		return Denied(ReasonSignal, map[string]string{"tenant": t.ID, "signal": s.String()}, "tenant %q may not send %s", t.ID, s)
	case ShedOf(r, t) == ShedRefuse:
		after := (retryShedMin + rand.N(retryShedMax-retryShedMin)).Round(time.Millisecond)
		return &Refusal{
			Reason: ReasonShed, Code: codes.ResourceExhausted, After: after, Info: map[string]string{"tenant": t.ID, "cell": r.Cell(), "class": t.Class},
			Text: fmt.Sprintf("cell %q cannot take everything now, and takes nothing of tenants of class %q; nothing was read: send it again in %v", r.Cell(), t.Class, after),
		}
	}
	return nil
}

// ShedOf is what this cell does with a tenant's requests; empty: it takes them.
func ShedOf(r Registry, t *Tenant) Shed {
	if s := r.Snapshot(); s != nil {
		return s.Shed(r.Cell(), t.Class)
	}
	return ""
}

// elsewhere says for a program and for a person where a tenant is to send instead.
func elsewhere(r Registry, t *Tenant) (info map[string]string, text string) {
	info = map[string]string{"tenant": t.ID}
	for key, value := range map[string]string{"cell": r.Cell(), "home": t.Home} {
		if value != "" {
			info[key] = value
		}
	}
	if s := r.Snapshot(); s != nil {
		if e := s.EndpointOf(t); e != "" {
			info["endpoint"] = e
			return info, "send to " + e
		}
	}
	return info, "ask your operator for its endpoint"
}
