package mskexporter

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pulsegrid/pulsegrid/internal/kafka"
)

// How long a client is asked to wait before it sends a refused request again.
const (
	retryAfterFull   = time.Second     // the buffer was full: it drains in milliseconds once Kafka keeps up
	retryAfterOutage = 5 * time.Second // Kafka is down, or leaders are moving
)

// Reasons of failures, as the metric names them.
const (
	reasonUnready       = "unready"
	reasonBufferFull    = "buffer_full"
	reasonCancelled     = "cancelled"
	reasonEventTooLarge = "event_too_large"
	reasonInvalid       = "invalid"
	reasonKafka         = "kafka"
	reasonSpill         = "spill"
	reasonComposition   = "composition"
)

// failure is a request that was not acknowledged as a whole.
type failure struct {
	class  kafka.Class
	reason string
	after  time.Duration // when to retry; zero: never
	err    error
}

func (f *failure) Error() string {
	if f.class == kafka.Unknown {
		return "outcome unknown, retry: " + f.err.Error()
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// GRPCStatus is what a gRPC client is told: Unavailable with the time to wait, or, not to be retried, InvalidArgument.
func (f *failure) GRPCStatus() *status.Status {
	if f.class == kafka.Permanent {
		return status.New(codes.InvalidArgument, f.Error())
	}
	st := status.New(codes.Unavailable, f.Error())
	if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(f.after)}); err == nil {
		return with
	}
	return st
}

// asConsumerError marks a permanent failure as pipelines expect it.
func (f *failure) asConsumerError() error {
	if f.class == kafka.Permanent {
		return consumererror.NewPermanent(f)
	}
	return f
}

func retryable(reason string, after time.Duration, format string, args ...any) *failure {
	return &failure{class: kafka.Retryable, reason: reason, after: after, err: fmt.Errorf(format, args...)}
}

func permanent(reason, format string, args ...any) *failure {
	return &failure{class: kafka.Permanent, reason: reason, err: fmt.Errorf(format, args...)}
}

func asFailure(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	return permanent(reasonInvalid, "%w", err)
}
