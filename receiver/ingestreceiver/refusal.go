package ingestreceiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// refusal is why a request was not taken, and what its sender is told: the rows of the README's table.
//
// A sender retries, by OTLP's specification, on HTTP 429, 502, 503 and 504 and on the gRPC codes Canceled, DeadlineExceeded,
// Aborted, OutOfRange, Unavailable, DataLoss, and ResourceExhausted with RetryInfo. What is wrong with the request itself must
// be none of them.
type refusal struct {
	reason string // of metadata.yaml
	http   int
	code   codes.Code
	msg    string // empty: set by because
}

func (r *refusal) Error() string { return r.msg }

// Is: refusals for one reason are one, whatever else they say.
func (r *refusal) Is(other error) bool {
	o, ok := other.(*refusal)
	return ok && o.reason == r.reason
}

// because says more about a refusal.
func (r *refusal) because(format string, args ...any) *refusal {
	with := *r
	with.msg = fmt.Sprintf(format, args...)
	return &with
}

var (
	refusedWebPage     = &refusal{"web_page", http.StatusForbidden, codes.PermissionDenied, ""}
	refusedMethod      = &refusal{"method", http.StatusMethodNotAllowed, codes.Unimplemented, ""}
	refusedPath        = &refusal{"path", http.StatusNotFound, codes.Unimplemented, "unknown path"}
	refusedContentType = &refusal{"content_type", http.StatusUnsupportedMediaType, codes.InvalidArgument, ""}
	refusedEncoding    = &refusal{"content_encoding", http.StatusUnsupportedMediaType, codes.InvalidArgument, ""}
	refusedCompression = &refusal{"compression", http.StatusBadRequest, codes.InvalidArgument, ""}
	refusedTooLarge    = &refusal{"too_large", http.StatusRequestEntityTooLarge, codes.InvalidArgument, ""}
	refusedRatio       = &refusal{"ratio", http.StatusRequestEntityTooLarge, codes.InvalidArgument, ""}
	refusedMalformed   = &refusal{"malformed", http.StatusBadRequest, codes.InvalidArgument, ""}
	refusedTooDeep     = &refusal{"too_deep", http.StatusBadRequest, codes.InvalidArgument, ""}
	refusedTooMany     = &refusal{"too_many_events", http.StatusRequestEntityTooLarge, codes.InvalidArgument, ""}
	refusedRepetitive  = &refusal{"repetitive", http.StatusRequestEntityTooLarge, codes.InvalidArgument, ""}
	refusedHeader      = &refusal{"header", http.StatusBadRequest, codes.InvalidArgument, ""}
	refusedMemory      = &refusal{"memory", http.StatusServiceUnavailable, codes.Unavailable, ""} // reservation.noRoom says more
	refusedSlow        = &refusal{"slow", http.StatusServiceUnavailable, codes.Unavailable, ""}   // not 408: OTLP senders drop the data then
	refusedGone        = &refusal{"disconnected", http.StatusBadRequest, codes.Canceled, ""}
)

const (
	reasonUnauthenticated     = "unauthenticated"
	reasonForbidden           = "forbidden"
	reasonElsewhere           = "elsewhere"         // the tenant may be in other cells only
	reasonShed                = "shed"              // the cell cannot take everything, and the tenant's class least of all
	reasonNotAsked            = "not_authenticated" // not now: the authenticator cannot tell
	reasonGuesses             = "guesses"           // too many wrong credentials came before it
	reasonWaste               = "waste"             // the tenant's requests before it
	reasonTransport           = "transport"         // refused by the gRPC library before it reached the receiver
	reasonDownstreamPermanent = "downstream_permanent"
	reasonDownstreamRetry     = "downstream_retry"
	reasonQuota               = "quota" // of the tenant; the pipeline says so by ErrorInfo
)

// answer is what a sender is told about a request that was not taken.
type answer struct {
	status *status.Status
	http   int
	reason string
}

// answerTo makes the answer of an error: a refusal, or what the pipeline returned.
func answerTo(err error, retryAfter time.Duration) answer {
	var r *refusal
	if errors.As(err, &r) {
		return answer{withRetryInfo(readable(status.New(r.code, r.msg)), retryAfter), r.http, r.reason}
	}
	var d *denied
	if errors.As(err, &d) {
		s := withRetryInfo(d.status, retryAfter)
		return answer{s, httpStatus(s.Code()), d.reason}
	}
	s := readable(downstream(err))
	a := answer{status: withRetryInfo(s, retryAfter), http: httpStatus(s.Code()), reason: reasonDownstreamPermanent}
	switch {
	case retryable(a.status) && errorReason(a.status) == tenant.ReasonQuota:
		a.reason = reasonQuota
	case errorReason(a.status) == tenant.ReasonCell:
		a.reason = reasonElsewhere
	case errorReason(a.status) == tenant.ReasonShed:
		a.reason = reasonShed
	case retryable(a.status):
		a.reason = reasonDownstreamRetry
	}
	return a
}

// downstream is the status of an error that the pipeline returned. One that it carries is kept, code, message and details.
func downstream(err error) *status.Status {
	var coded *consumererror.Error
	if errors.As(err, &coded) {
		if s := consumererror.ToGRPCStatus(err); s.Code() != codes.OK {
			return s
		}
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK {
		return s
	}
	switch {
	case consumererror.IsPermanent(err):
		return status.New(codes.InvalidArgument, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, err.Error())
	}
	return status.New(codes.Unavailable, err.Error())
}

// libraryMarks are what libraries put before the texts of their errors. To a sender they say nothing, or what the code says.
var libraryMarks = regexp.MustCompile(`(^|[\s(])(?:(?:Permanent error|grpc|http|otlpwire): |rpc error: code = \w+ desc = )+`)

// readable makes the text one for senders: without libraryMarks, not empty, and UTF-8, which protobuf insists on: errors quote what senders sent.
func readable(s *status.Status) *status.Status {
	text := cmp.Or(libraryMarks.ReplaceAllString(encodableText(s.Message()), "$1"), s.Code().String())
	if text == s.Message() {
		return s
	}
	p := s.Proto()
	p.Message = text
	return status.FromProto(p)
}

func encodableText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// withRetryInfo says when to come again, for Unavailable without a word about it. It does not for ResourceExhausted: there
// OTLP gives the lack of RetryInfo a meaning, do not retry.
func withRetryInfo(s *status.Status, after time.Duration) *status.Status {
	if s.Code() != codes.Unavailable || retryDelay(s) != nil {
		return s
	}
	with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil { // never: the code is not OK, and RetryInfo is a known type
		return s
	}
	return with
}

func retryDelay(s *status.Status) *durationpb.Duration {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay()
		}
	}
	return nil
}

func retryable(s *status.Status) bool {
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return true
	case codes.ResourceExhausted:
		return retryDelay(s) != nil
	}
	return false
}

// httpStatus maps as the Collector's otlp receiver does: a code that gRPC senders retry is one that HTTP senders retry.
func httpStatus(c codes.Code) int {
	switch c {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return http.StatusServiceUnavailable
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unimplemented:
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

// errorReason is the reason of a status's google.rpc.ErrorInfo; empty: it has none.
func errorReason(s *status.Status) (reason string) {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	return reason
}
