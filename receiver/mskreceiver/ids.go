package mskreceiver

import (
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	items "github.com/pulsegrid/pulsegrid/internal/quarantine"
)

// idReader reads what a record's events are compared by, and makes nothing else of it. It is not safe for concurrent use.
type idReader struct {
	inspector
	reader *eventid.Reader
	record eventid.Record // the last one
}

func newIDReader(i inspector) *idReader {
	return &idReader{inspector: i, reader: eventid.NewReader(i.signal, false)}
}

// read returns what batch.append would give for e's record, but for the digest where nothing needs it; without events where that would refuse the record.
// It is valid until the next call.
func (r *idReader) read(e *entry) *eventid.Record {
	r.inspect(e)
	rec := recordOf(e)
	rec.Rules, rec.Keys = r.record.Rules[:0], r.record.Keys[:0]
	switch {
	case e.refusal != nil:
	case e.item:
		r.reader.Item(&rec, e.origin.Tenant, items.FromRecord(e.record).ID())
	case r.reader.Read(&rec, e.record.Value, e.events, e.from()) != nil:
		rec.Rules, rec.Keys = rec.Rules[:0], rec.Keys[:0] // append refuses it too
	}
	r.record = rec
	return &r.record
}
