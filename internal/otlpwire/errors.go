package otlpwire

import (
	"errors"
	"fmt"
)

// What may be wrong with a request. All of them are final: the same bytes fail again.
var (
	// ErrMalformed: the bytes are no OTLP request of the signal. The error is an *Error that says where.
	ErrMalformed = errors.New("malformed OTLP")
	// ErrTooDeep: a value is nested deeper than Limits.MaxDepth. The error is an *Error that says where.
	ErrTooDeep = errors.New("OTLP value is nested too deeply")
	// ErrTooManyEvents: the request holds more than Limits.MaxEvents.
	ErrTooManyEvents = errors.New("OTLP request holds too many events")
	// ErrRepetitive: the request's events, written out with all that they share, are larger than Limits.MaxWritten.
	ErrRepetitive = errors.New("OTLP request's events share too much")
	// ErrAmplified: SplitBySize would repeat large wrappers so often that the parts were many times the request.
	ErrAmplified = errors.New("splitting would repeat the request's resources too often")
)

// Error says where in a request a fault lies. It wraps ErrMalformed or ErrTooDeep.
type Error struct {
	Kind   error  // ErrMalformed or ErrTooDeep
	Offset int    // of the field at fault, in bytes from the request's first
	Path   string // messages and fields that lead to it, such as "resource_logs.scope_logs.log_records.trace_id"
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%v: %s at byte %d: %s", e.Kind, e.Path, e.Offset, e.Reason)
}

func (e *Error) Unwrap() error { return e.Kind }

// in places e, found at an offset within the content of a field, into the message that holds the field.
func (e *Error) in(field string, start int) *Error {
	e.Offset += start
	if e.Path == "" {
		e.Path = field
	} else {
		e.Path = field + "." + e.Path
	}
	return e
}

func malformed(field string, offset, code int) *Error {
	return &Error{Kind: ErrMalformed, Offset: offset, Path: field, Reason: badText[-code]}
}
