package clickhouseexporter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// class says what a failure means for the caller.
type class string

const (
	retryable class = "retryable" // nothing was stored; the same call may succeed later
	unknown   class = "unknown"   // perhaps stored. To be sent again: the token keeps it from being stored twice
	permanent class = "permanent" // the data is refused; fewer or other rows may be taken
	badSchema class = "schema"    // the table is not as it should be: look again, then send again
)

// Values of the metric attribute `code` besides ClickHouse's names.
const (
	codeHTTP    = "http"
	codeNetwork = "network"
	codeBuild   = "build"
	codeWindow  = "window"
	codeOther   = "other"
)

// storeError is a failed request to ClickHouse.
type storeError struct {
	class class
	code  string // value of the metric attribute
	hint  string // what an operator can do; may be empty
	cause error
}

func (e *storeError) Error() string {
	text := e.cause.Error()
	if e.hint != "" {
		text += " (" + e.hint + ")"
	}
	return text
}

func (e *storeError) Unwrap() error { return e.cause }

const hintLogin = "check username, password and the user's rights; it goes on by itself once they are mended"

// exceptions are the exceptions that the exporter knows. Whatever it does not know is `unknown`, which claims neither that rows are
// stored nor that they never will be. Numbers and names: ClickHouse, src/Common/ErrorCodes.cpp.
var exceptions = map[int]struct {
	name  string
	class class
	hint  string
}{
	6:   {"CANNOT_PARSE_TEXT", permanent, ""},
	7:   {"INCORRECT_NUMBER_OF_COLUMNS", permanent, ""},
	27:  {"CANNOT_PARSE_INPUT_ASSERTION_FAILED", permanent, ""},
	33:  {"CANNOT_READ_ALL_DATA", permanent, ""},
	38:  {"CANNOT_PARSE_DATE", permanent, ""},
	41:  {"CANNOT_PARSE_DATETIME", permanent, ""},
	69:  {"ARGUMENT_OUT_OF_BOUND", permanent, ""},
	70:  {"CANNOT_CONVERT_TYPE", permanent, ""},
	72:  {"CANNOT_PARSE_NUMBER", permanent, ""},
	117: {"INCORRECT_DATA", permanent, ""},
	128: {"TOO_LARGE_ARRAY_SIZE", permanent, ""},
	131: {"TOO_LARGE_STRING_SIZE", permanent, ""},
	190: {"SIZES_OF_ARRAYS_DONT_MATCH", permanent, ""},
	321: {"VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE", permanent, ""},
	349: {"CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN", permanent, ""},
	407: {"DECIMAL_OVERFLOW", permanent, ""},
	469: {"VIOLATED_CONSTRAINT", permanent, ""},

	8:  {"THERE_IS_NO_COLUMN", badSchema, ""},
	16: {"NO_SUCH_COLUMN_IN_TABLE", badSchema, ""},
	47: {"UNKNOWN_IDENTIFIER", badSchema, ""},
	53: {"TYPE_MISMATCH", badSchema, ""},
	60: {"UNKNOWN_TABLE", badSchema, ""},
	81: {"UNKNOWN_DATABASE", badSchema, ""},

	159: {"TIMEOUT_EXCEEDED", unknown, ""},
	209: {"SOCKET_TIMEOUT", unknown, ""},
	210: {"NETWORK_ERROR", unknown, ""},
	319: {"UNKNOWN_STATUS_OF_INSERT", unknown, ""},
	394: {"QUERY_WAS_CANCELLED", unknown, ""},
	999: {"KEEPER_EXCEPTION", unknown, ""},

	164: {"READONLY", retryable, hintLogin},
	192: {"UNKNOWN_USER", retryable, hintLogin},
	193: {"WRONG_PASSWORD", retryable, hintLogin},
	194: {"REQUIRED_PASSWORD", retryable, hintLogin},
	195: {"IP_ADDRESS_NOT_ALLOWED", retryable, hintLogin},
	497: {"ACCESS_DENIED", retryable, hintLogin},
	516: {"AUTHENTICATION_FAILED", retryable, hintLogin},
	115: {"UNKNOWN_SETTING", retryable, "the server is too old for this exporter"},
	201: {"QUOTA_EXCEEDED", retryable, "raise the user's quota in ClickHouse"},
	202: {"TOO_MANY_SIMULTANEOUS_QUERIES", retryable, "lower max_concurrent_inserts or raise max_concurrent_queries"},
	241: {"MEMORY_LIMIT_EXCEEDED", retryable, "give ClickHouse more memory, or make blocks smaller"},
	242: {"TABLE_IS_READ_ONLY", retryable, ""},
	243: {"NOT_ENOUGH_SPACE", retryable, "the disk is full"},
	252: {"TOO_MANY_PARTS", retryable, "merges do not keep up: make blocks larger, or give ClickHouse more CPU"},
	285: {"TOO_FEW_LIVE_REPLICAS", retryable, ""},
	286: {"UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE", retryable, ""},
	452: {"SETTING_CONSTRAINT_VIOLATION", retryable, "the user's profile forbids a setting of the insert"},
}

// fromException sorts an exception that ClickHouse reported.
func fromException(code int, text string) *storeError {
	e := &storeError{class: unknown, code: codeOther, cause: errors.New(text)}
	if known, ok := exceptions[code]; ok {
		e.class, e.code, e.hint = known.class, known.name, known.hint
	}
	// A view that somebody attached to the table fails: no fault of the data, and every block would be refused.
	if e.class == permanent && strings.Contains(text, "pushing to view") {
		e.class, e.hint = retryable, "a materialized view of the table fails: mend or drop it"
	}
	return e
}

// fromStatus sorts an HTTP answer that carries no exception: something between here and ClickHouse wrote it.
func fromStatus(status int, text string) *storeError {
	e := &storeError{class: unknown, code: codeHTTP, cause: fmt.Errorf("HTTP status %d: %s", status, text)}
	switch {
	case status == http.StatusRequestEntityTooLarge:
		e.class, e.hint = permanent, "something before ClickHouse limits the size of requests: raise it, or make blocks smaller"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.class, e.hint = retryable, hintLogin
	case status == http.StatusNotFound, status/100 == 3:
		e.class, e.hint = retryable, "check endpoint: this does not look like ClickHouse's HTTP interface"
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		e.class = retryable
	}
	return e
}

// fromTransport sorts a request without a whole answer.
func fromTransport(err error) *storeError {
	e := &storeError{class: unknown, code: codeNetwork, cause: err}
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.Canceled):
		// The caller gave up; whether before or after sending is not known.
	case errors.As(err, &op) && op.Op == "dial", errors.As(err, &cert):
		e.class = retryable
	}
	return e
}
