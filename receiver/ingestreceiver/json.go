package ingestreceiver

import (
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/jsonshape"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// What decoding JSON may cost. pdata's decoder recurses, and makes a struct of a few hundred bytes of two braces.
const (
	jsonDepthPerValue = 3   // {"arrayValue": {"values": [ ... ]}}
	jsonDepthAround   = 20  // of resourceLogs, scopeLogs, ... an attribute
	jsonObjectBytes   = 192 // of pdata, for an object: between a KeyValue's and a Span's
)

// fromJSON returns the OTLP/JSON request as protobuf. Fields that this version of OTLP does not know are lost in that.
func (r *ingestReceiver) fromJSON(sig signal.Signal, body []byte, held *reservation) ([]byte, error) {
	s := jsonshape.Of(body)
	if limit := jsonDepthPerValue*r.cfg.Limits.depth() + jsonDepthAround; s.Depth > limit {
		return nil, refusedTooDeep.because("JSON is nested %d deep, at most %d is allowed", s.Depth, limit)
	}
	cost := s.Objects*jsonObjectBytes + 2*len(body) // its strings, and what it becomes
	if int64(cost) > r.budget.limit {
		return nil, refusedTooLarge.because("JSON of %d objects in %d bytes is too large; send less at a time, or protobuf", s.Objects, len(body))
	}
	if !held.grow(cost) {
		return nil, refusedMemory
	}
	out, err := transcode(sig, body)
	if err != nil {
		return nil, refusedMalformed.because("malformed OTLP/JSON: %v", err)
	}
	return out, nil
}

func transcode(sig signal.Signal, body []byte) ([]byte, error) {
	switch sig {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalJSON(body); err != nil {
			return nil, err
		}
		return req.MarshalProto()
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalJSON(body); err != nil {
			return nil, err
		}
		return req.MarshalProto()
	default:
		req := ptraceotlp.NewExportRequest()
		if err := req.UnmarshalJSON(body); err != nil {
			return nil, err
		}
		return req.MarshalProto()
	}
}
