package columns

import (
	"unicode/utf8"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

type logCols struct {
	observed                          *numCol[int64]
	severity                          *numCol[int32]
	severityText, bodyType, eventName *dictCol
	body                              *textCol
	traceID, spanID                   *fixedCol
	flags                             *numCol[uint32]
}

func (c *logCols) bind(b *Builder) {
	c.observed = col[*numCol[int64]](b, "observed_time")
	c.severity = col[*numCol[int32]](b, "severity_number")
	c.severityText = col[*dictCol](b, "severity_text")
	c.body = col[*textCol](b, "body")
	c.bodyType = col[*dictCol](b, "body_type")
	c.eventName = col[*dictCol](b, "event_name")
	c.traceID = col[*fixedCol](b, "trace_id")
	c.spanID = col[*fixedCol](b, "span_id")
	c.flags = col[*numCol[uint32]](b, "flags")
}

func (b *Builder) appendLog(lr plog.LogRecord) {
	b.startEvent(lr.Timestamp(), lr.ObservedTimestamp(), lr.Attributes(), lr.DroppedAttributesCount())
	c := &b.log
	c.observed.push(clampTime(lr.ObservedTimestamp()))
	c.severity.push(int32(lr.SeverityNumber()))
	c.severityText.push(lr.SeverityText())
	b.appendBody(lr.Body())
	c.eventName.push(lr.EventName())
	trace, span := lr.TraceID(), lr.SpanID()
	c.traceID.push(trace[:])
	c.spanID.push(span[:])
	c.flags.push(uint32(lr.Flags()))
	b.endEvent()
}

// Values of body_type, and of the types of other values.
const (
	typeString        = "string"
	typeInvalidString = "invalid_string"
	typeInt           = "int"
	typeDouble        = "double"
	typeBool          = "bool"
	typeBytes         = "bytes"
	typeArray         = "array"
	typeKvlist        = "kvlist"
	typeEmpty         = "empty"
)

func (b *Builder) appendBody(v pcommon.Value) {
	c, typ := &b.log, typeEmpty
	switch v.Type() {
	case pcommon.ValueTypeEmpty:
		c.body.pushValid("")
		c.bodyType.push(typ)
		return
	case pcommon.ValueTypeStr:
		if s := v.Str(); utf8.ValidString(s) {
			c.body.pushValid(s)
			c.bodyType.push(typeString)
			return
		}
		typ = typeInvalidString
	case pcommon.ValueTypeInt:
		typ = typeInt
	case pcommon.ValueTypeDouble:
		typ = typeDouble
	case pcommon.ValueTypeBool:
		typ = typeBool
	case pcommon.ValueTypeBytes:
		typ = typeBytes
	case pcommon.ValueTypeSlice:
		typ = typeArray
	case pcommon.ValueTypeMap:
		typ = typeKvlist
	}
	b.scratch = appendJSONValue(b.scratch[:0], v, 0)
	c.body.pushBytes(b.scratch)
	c.bodyType.push(typ)
}
