package otlpwire

import (
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Unknown names a field around the events of a request that OTLP does not have; empty: there is none. A request of another kind, which protobuf cannot tell
// from one without events, has such fields.
func Unknown(sig signal.Signal, req []byte) string { return unknownIn(requestOf(sig), req) }

func unknownIn(m *message, b []byte) string {
	f := fields{b: b}
	for f.next() {
		switch of := m.field(f.num); of.kind {
		case unknown:
			return fmt.Sprintf("field %d", f.num)
		case kMessage, kWrapped, kWrappedOneof:
			if found := unknownIn(of.of, f.content()); found != "" {
				return of.name + "." + found
			}
		}
	}
	return ""
}
