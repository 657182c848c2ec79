package ingestreceiver

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// maxPartialBytes bounds what a sender is told of its events; SDKs log it.
const maxPartialBytes = 1 << 10

// outcome is what the pipeline said of a request that it took: OTLP's partial success.
type outcome struct {
	rejected int // events that are kept in quarantine; the sender must not send them again
	flagged  int // events that went on although something is wrong with them
	reasons  []string
}

// message is what the sender is told; empty: nothing, all is well.
func (o *outcome) message() string {
	var parts []string
	if o.rejected > 0 {
		parts = append(parts, fmt.Sprintf("%d events were put into quarantine, sending them again does not help", o.rejected))
	}
	if o.flagged > 0 {
		parts = append(parts, fmt.Sprintf("%d events violate their schema and were taken all the same", o.flagged))
	}
	if len(parts) == 0 {
		return ""
	}
	msg := strings.Join(parts, "; ")
	if len(o.reasons) > 0 {
		msg += ": " + strings.Join(o.reasons, "; ")
	}
	if len(msg) > maxPartialBytes {
		msg = msg[:maxPartialBytes]
	}
	if !utf8.ValidString(msg) {
		msg = strings.ToValidUTF8(msg, "")
	}
	return msg
}

// protobuf is the Export*ServiceResponse, which has the same fields for every signal; nil where there is nothing to say.
func (o *outcome) protobuf() []byte {
	msg := o.message()
	if msg == "" {
		return nil
	}
	var partial []byte
	if o.rejected > 0 {
		partial = protowire.AppendVarint(protowire.AppendTag(partial, 1, protowire.VarintType), uint64(o.rejected))
	}
	partial = protowire.AppendString(protowire.AppendTag(partial, 2, protowire.BytesType), msg)
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial)
}

// json is the response in OTLP/JSON, in which a 64-bit number is text.
func (o *outcome) json(s signal.Signal) []byte {
	msg := o.message()
	if msg == "" {
		return emptyJSON
	}
	partial := map[string]string{"errorMessage": msg}
	if o.rejected > 0 {
		name := map[signal.Signal]string{signal.Logs: "rejectedLogRecords", signal.Metrics: "rejectedDataPoints", signal.Traces: "rejectedSpans"}[s]
		partial[name] = strconv.Itoa(o.rejected)
	}
	b, err := json.Marshal(map[string]any{"partialSuccess": partial})
	if err != nil { // never: text
		return emptyJSON
	}
	return b
}
