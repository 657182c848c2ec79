package ingestreceiver

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpjson"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// maxPartialBytes bounds what a sender is told of its events; SDKs log it.
const maxPartialBytes = 1 << 10

// maxJSONReasons are told of events that are no OTLP.
const maxJSONReasons = 3

// outcome is what the pipeline said of a request that it took: OTLP's partial success.
type outcome struct {
	rejected int // events that did not go where the sender meant them to go; it must not send them again
	lost     int // of these, events that are not in quarantine either
	flagged  int // events that went on although something is wrong with them
	reasons  []string
}

func outcomeOf(r *envelope.Result) outcome {
	var o outcome
	o.rejected, o.flagged, o.reasons = r.Read()
	o.lost = r.Lost()
	return o
}

// addJSON adds events that were no OTLP.
func (o *outcome) addJSON(events []otlpjson.Rejected, kept bool) {
	o.rejected += len(events)
	if !kept {
		o.lost += len(events)
	}
	for _, event := range events[:min(len(events), maxJSONReasons)] {
		o.reasons = append(o.reasons, encodableText(event.String()))
	}
}

// message is what the sender is told; empty: nothing, all is well.
func (o *outcome) message() string {
	var parts []string
	if kept := o.rejected - o.lost; kept > 0 {
		parts = append(parts, fmt.Sprintf("%d events were put into quarantine, sending them again does not help", kept))
	}
	if o.lost > 0 {
		parts = append(parts, fmt.Sprintf("%d events were refused and are kept nowhere, sending them again does not help", o.lost))
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

// legacyJSON is the answer to POST /v1/events: how many events were taken, how many are in quarantine, and why the first of them.
func (o *outcome) legacyJSON(accepted int) []byte {
	answer := map[string]any{"accepted": accepted - o.rejected, "rejected": o.rejected}
	if msg := o.message(); msg != "" {
		answer["message"] = msg
	}
	b, err := json.Marshal(answer)
	if err != nil { // never: numbers and text
		return emptyJSON
	}
	return b
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
