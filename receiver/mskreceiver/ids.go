package mskreceiver

import (
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	items "github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// idReader reads the ids of a record's events, and makes nothing else of it. It is not safe for concurrent use.
type idReader struct {
	inspector
	decoder *otlpdecode.Decoder
	ids     [][16]byte // of the last record
}

// read returns a record's tenant and ids, in the order of its events and as batch.append would stamp them; none where that would
// refuse the record. They are valid until the next call.
func (r *idReader) read(e *entry) (tenant string, ids [][16]byte) {
	r.inspect(e)
	r.ids = r.ids[:0]
	if e.refusal != nil {
		return e.origin.Tenant, nil
	}
	if e.item {
		r.ids = append(r.ids, items.FromRecord(e.record).ID())
		return e.origin.Tenant, r.ids
	}
	var ok bool
	if r.ids, ok = eventid.Wire(r.signal, e.record.Value, e.origin.Source, r.ids); ok {
		return e.origin.Tenant, r.ids
	}
	r.ids = r.ids[:0]
	s := stamperOf(e)
	s.ids = &r.ids
	switch r.signal {
	case signal.Logs:
		if ld, err := r.decoder.Logs(e.record.Value); err == nil {
			s.logs(ld)
		}
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalProto(e.record.Value); err == nil {
			s.metrics(req.Metrics())
		}
	case signal.Traces:
		if td, err := r.decoder.Traces(e.record.Value); err == nil {
			s.traces(td)
		}
	}
	return e.origin.Tenant, r.ids
}
