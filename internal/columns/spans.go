package columns

import (
	"strconv"

	"go.opentelemetry.io/collector/pdata/ptrace"
)

type spanCols struct {
	traceID, spanID, parentID          *fixedCol
	traceState, name, kind, status     *dictCol
	end, duration                      *numCol[int64]
	message                            *textCol
	flags, droppedEvents, droppedLinks *numCol[uint32]
	eventTime, eventName               *listCol
	eventAttrs, eventDropped           *listCol
	linkTrace, linkSpan, linkState     *listCol
	linkAttrs, linkDropped, linkFlags  *listCol
}

func (c *spanCols) bind(b *Builder) {
	c.traceID = col[*fixedCol](b, "trace_id")
	c.spanID = col[*fixedCol](b, "span_id")
	c.parentID = col[*fixedCol](b, "parent_span_id")
	c.traceState = col[*dictCol](b, "trace_state")
	c.name = col[*dictCol](b, "name")
	c.kind = col[*dictCol](b, "kind")
	c.end = col[*numCol[int64]](b, "end_time")
	c.duration = col[*numCol[int64]](b, "duration_nano")
	c.status = col[*dictCol](b, "status_code")
	c.message = col[*textCol](b, "status_message")
	c.flags = col[*numCol[uint32]](b, "flags")
	c.eventTime = col[*listCol](b, "events_time")
	c.eventName = col[*listCol](b, "events_name")
	c.eventAttrs = col[*listCol](b, "events_attributes")
	c.eventDropped = col[*listCol](b, "events_dropped_attributes_count")
	c.droppedEvents = col[*numCol[uint32]](b, "dropped_events_count")
	c.linkTrace = col[*listCol](b, "links_trace_id")
	c.linkSpan = col[*listCol](b, "links_span_id")
	c.linkState = col[*listCol](b, "links_trace_state")
	c.linkAttrs = col[*listCol](b, "links_attributes")
	c.linkDropped = col[*listCol](b, "links_dropped_attributes_count")
	c.linkFlags = col[*listCol](b, "links_flags")
	c.droppedLinks = col[*numCol[uint32]](b, "dropped_links_count")
}

func (b *Builder) appendSpan(sp ptrace.Span) {
	b.startEvent(sp.StartTimestamp(), 0, sp.Attributes(), sp.DroppedAttributesCount())
	c := &b.span
	trace, span, parent := sp.TraceID(), sp.SpanID(), sp.ParentSpanID()
	c.traceID.push(trace[:])
	c.spanID.push(span[:])
	c.parentID.push(parent[:])
	c.traceState.push(sp.TraceState().AsRaw())
	c.name.push(sp.Name())
	c.kind.push(enumName(spanKinds[:], int32(sp.Kind())))
	c.end.push(clampTime(sp.EndTimestamp()))
	var duration int64
	if sp.StartTimestamp() != 0 && sp.EndTimestamp() != 0 {
		duration = clampTime(sp.EndTimestamp()) - clampTime(sp.StartTimestamp())
	}
	c.duration.push(duration)
	c.status.push(enumName(statusCodes[:], int32(sp.Status().Code())))
	c.message.push(sp.Status().Message())
	c.flags.push(sp.Flags())
	c.droppedEvents.push(sp.DroppedEventsCount())
	c.droppedLinks.push(sp.DroppedLinksCount())
	b.appendSpanEvents(sp.Events())
	b.appendLinks(sp.Links())
	b.endEvent()
}

func (b *Builder) appendSpanEvents(events ptrace.SpanEventSlice) {
	c := &b.span
	for _, e := range events.All() {
		c.eventTime.elem.(*numCol[int64]).push(clampTime(e.Timestamp()))
		c.eventName.elem.(*dictCol).push(e.Name())
		b.scratch = appendJSONMap(b.scratch[:0], e.Attributes(), 0)
		c.eventAttrs.elem.(*textCol).pushBytes(b.scratch)
		c.eventDropped.elem.(*numCol[uint32]).push(e.DroppedAttributesCount())
	}
	c.eventTime.end()
	c.eventName.end()
	c.eventAttrs.end()
	c.eventDropped.end()
}

func (b *Builder) appendLinks(links ptrace.SpanLinkSlice) {
	c := &b.span
	for _, l := range links.All() {
		trace, span := l.TraceID(), l.SpanID()
		c.linkTrace.elem.(*fixedCol).push(trace[:])
		c.linkSpan.elem.(*fixedCol).push(span[:])
		c.linkState.elem.(*dictCol).push(l.TraceState().AsRaw())
		b.scratch = appendJSONMap(b.scratch[:0], l.Attributes(), 0)
		c.linkAttrs.elem.(*textCol).pushBytes(b.scratch)
		c.linkDropped.elem.(*numCol[uint32]).push(l.DroppedAttributesCount())
		c.linkFlags.elem.(*numCol[uint32]).push(l.Flags())
	}
	c.linkTrace.end()
	c.linkSpan.end()
	c.linkState.end()
	c.linkAttrs.end()
	c.linkDropped.end()
	c.linkFlags.end()
}

// The names of OTLP's enumerations, by number.
var (
	spanKinds     = [...]string{"unspecified", "internal", "server", "client", "producer", "consumer"}
	statusCodes   = [...]string{"unset", "ok", "error"}
	temporalities = [...]string{"unspecified", "delta", "cumulative"}
)

// enumName names an enumeration's number; a number that OTLP does not define is written as digits.
func enumName(names []string, n int32) string {
	if n >= 0 && int(n) < len(names) {
		return names[n]
	}
	return strconv.Itoa(int(n))
}
