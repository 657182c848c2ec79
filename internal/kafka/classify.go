package kafka

import (
	"errors"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Class says what a failed call means for whoever made it.
type Class uint8

// The classes. The zero value is no class.
const (
	// Retryable: nothing happened; the same call may succeed later.
	Retryable Class = iota + 1
	// Permanent: nothing happened, and the same call will fail again until a person changes something.
	Permanent
	// Unknown: the call may have been applied. Retry, and let deduplication decide.
	Unknown
)

// String is the class as a metric's attribute names it.
func (c Class) String() string {
	switch c {
	case Retryable:
		return "retryable"
	case Permanent:
		return "permanent"
	case Unknown:
		return "unknown"
	}
	return "none"
}

// perhapsApplied are broker answers after which the data may nevertheless be in the log, or may have been by an earlier try
// whose answer was lost.
var perhapsApplied = []error{
	kerr.UnknownServerError,
	kerr.RequestTimedOut,
	kerr.NetworkException,
	kerr.NotEnoughReplicasAfterAppend,
	kerr.KafkaStorageError,
	kerr.OutOfOrderSequenceNumber,
	kerr.DuplicateSequenceNumber,
	kerr.UnknownProducerID,
	kerr.InvalidProducerEpoch,
	kerr.InvalidProducerIDMapping,
	kerr.ProducerFenced,
}

// Classify sorts an error of the Kafka client or of a broker. Whatever it does not know is Unknown: that is safe, because it
// claims neither that data is lost nor that it is stored. A nil error has class zero.
func Classify(err error) Class {
	if err == nil {
		return 0
	}
	for _, e := range perhapsApplied {
		if errors.Is(err, e) {
			return Unknown
		}
	}
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		if ke.Retriable {
			return Retryable
		}
		return Permanent
	}
	if errors.Is(err, kgo.ErrMaxBuffered) {
		return Retryable
	}
	if oe, ok := errors.AsType[*net.OpError](err); ok && oe.Op == "dial" {
		return Retryable
	}
	return Unknown
}

// IsTooLarge tells whether a record was refused for its size alone.
func IsTooLarge(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge)
}
