package envelope

import "go.opentelemetry.io/collector/pdata/pcommon"

// Headers that a record of the quarantine topic has besides those of the record that it was.
const (
	HeaderQuarantineCode   = "quarantine_code"             // short and fixed: what a machine may branch on
	HeaderQuarantineReason = "quarantine_reason"           // for people
	HeaderFindings         = "quarantine_findings"         // every verdict, as JSON (docs/formats/verdicts.md); absent where a store refused the record
	HeaderSource           = "quarantine_source"           // who sent it, where it is known; the record's key may be cut short
	HeaderContentType      = "quarantine_content_type"     // of the value; absent: OTLP protobuf
	HeaderContentEncoding  = "quarantine_content_encoding" // of the value; absent: none
	HeaderPII              = "quarantine_pii"              // "true": the schema of an event in it marks personal data
	HeaderObject           = "quarantine_object"           // where the value is, if it is too large for a record: the URL of an object
	HeaderOriginTopic      = "origin_topic"
	HeaderOriginPartition  = "origin_partition"
	HeaderOriginOffset     = "origin_offset"
	HeaderOriginTimestamp  = "origin_timestamp" // of the record in its topic, Unix nanoseconds
	HeaderOriginGroup      = "origin_group"     // consumer group that could not store it: other stores may have it
)

// QuarantineHeader tells whether a header belongs to the quarantine rather than to the original record.
func QuarantineHeader(key string) bool {
	switch key {
	case HeaderQuarantineCode, HeaderQuarantineReason, HeaderOriginTopic, HeaderOriginPartition, HeaderOriginOffset, HeaderOriginTimestamp, HeaderOriginGroup,
		HeaderFindings, HeaderSource, HeaderContentType, HeaderContentEncoding, HeaderPII, HeaderObject:
		return true
	}
	return false
}

// Attributes of an envelope in LaneQuarantine.
const (
	attrCode            = "pulsegrid.quarantine_code"
	attrReason          = "pulsegrid.quarantine_reason"
	attrContentType     = "pulsegrid.content_type"
	attrContentEncoding = "pulsegrid.content_encoding"
	attrPII             = "pulsegrid.pii"
	attrObject          = "pulsegrid.object"
)

// TypeOTLP is the content type of an OTLP request in protobuf.
const TypeOTLP = "application/x-protobuf"

// Quarantine says why an envelope is in LaneQuarantine, and what its body is.
type Quarantine struct {
	Code            string // of the first verdict
	Reason          string // of the first verdict, for people
	ContentType     string // TypeOTLP: the body is the valid request of just the events at fault
	ContentEncoding string // how the body is compressed; empty: it is not
	PII             bool   // a schema marks personal data in it
	Object          string // URL of the object that has the body, which is empty then
}

func (q *Quarantine) put(a pcommon.Map) {
	a.PutStr(attrCode, q.Code)
	a.PutStr(attrReason, q.Reason)
	a.PutStr(attrContentType, q.ContentType)
	if q.ContentEncoding != "" {
		a.PutStr(attrContentEncoding, q.ContentEncoding)
	}
	if q.Object != "" {
		a.PutStr(attrObject, q.Object)
	}
	if q.PII {
		a.PutBool(attrPII, true)
	}
}

// readQuarantine reads an attribute that only envelopes in LaneQuarantine have; it leaves any other alone.
func (e *Envelope) readQuarantine(key string, v pcommon.Value) (err error) {
	switch key {
	case attrCode, attrReason, attrContentType, attrContentEncoding, attrPII, attrObject:
	default:
		return nil
	}
	if e.Quarantine == nil {
		e.Quarantine = &Quarantine{}
	}
	switch q := e.Quarantine; key {
	case attrCode:
		q.Code, err = text(v)
	case attrReason:
		q.Reason, err = text(v)
	case attrContentType:
		q.ContentType, err = text(v)
	case attrContentEncoding:
		q.ContentEncoding, err = text(v)
	case attrObject:
		q.Object, err = text(v)
	case attrPII:
		q.PII = v.Bool()
	}
	return err
}
