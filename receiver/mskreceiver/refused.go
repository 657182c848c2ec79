package mskreceiver

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// A store that refuses a block may name the events at fault (block.RefusedError). The block is then delivered without them:
//
//	refused --> stated: the block's intent says which events it is delivered without
//	        --> these events are in quarantine, as a request of their own
//	        --> the rest is delivered under the block's name
//
// The intent comes first, so that whoever redoes the block after a crash delivers the same rows: the store may have them already. It
// puts the events into quarantine again before it delivers, since it does not know whether they are there.

// omission are the events of a record that its block is delivered without.
type omission struct {
	offset int64
	events []int32 // positions in the record, ascending
}

// maxOmitted bounds the events in a partition's omissions, and so the text: at most 27 bytes each.
const maxOmitted = 32

const reasonRedone = "refused by the store; an owner of the partition before this one heard why"

// omit notes which events of f's records the store has named, and says so in f's intent; false: they are too many to be stated.
func (p *partition) omit(f *flight) bool {
	if p.omitted()+len(f.named.Events) > maxOmitted {
		return false
	}
	for _, e := range f.entries {
		var fresh []int32
		for _, ref := range f.named.Events {
			if ref.Offset == e.record.Offset && !slices.Contains(fresh, ref.Index) {
				fresh = append(fresh, ref.Index)
			}
		}
		if len(fresh) > 0 {
			e.omit(p.signal, fresh, f.named.Error())
		}
	}
	f.named = nil
	f.state, f.intent = waiting, p.flights.number+1
	p.flights.changed, p.flights.urgent = true, true
	return true
}

// omitted counts the events that the partition's next statement lists.
func (p *partition) omitted() (n int) {
	for _, o := range p.omissions() {
		n += len(o.events)
	}
	return n
}

// omissions are those of the blocks that are begun and not finished.
func (p *partition) omissions() (out []omission) {
	behind := p.flights.done.next
	for _, f := range p.flights.queue {
		behind = f.last + 1
		for _, e := range f.entries {
			if len(e.omitted) > 0 {
				out = append(out, omission{e.record.Offset, e.omitted})
			}
		}
	}
	for _, o := range p.plan.omissions { // of ranges that are not cut again yet
		if o.offset >= behind {
			out = append(out, o)
		}
	}
	return out
}

// omit leaves events out of e, and prepares the record that goes to quarantine for them. Where all are left out, or the record cannot be
// divided, the whole record is refused.
func (e *entry) omit(sig signal.Signal, events []int32, reason string) {
	e.omitted = append(slices.Clone(e.omitted), events...)
	slices.Sort(e.omitted)
	e.omitted = slices.Compact(e.omitted)
	slices.Sort(events)
	part, err := e.part(sig, events)
	if err != nil || len(e.omitted) >= e.events {
		e.refusal, e.omitted, e.parts = &refusal{codeRefused, reason}, nil, nil
		return
	}
	e.parts = append(e.parts, &entry{record: part, origin: e.origin, events: len(events), refusal: &refusal{codeRefused, reason}})
}

// part is e's record with only these events, and the header that says which events of their request they are.
func (e *entry) part(sig signal.Signal, events []int32) (*kgo.Record, error) {
	r := *e.record
	request, _ := header(e.record, envelope.HeaderRequest)
	division, err := eventid.Divide(sig, r.Value, []byte(request), e.events)
	if err != nil {
		return nil, err
	}
	r.Value, _, err = otlpwire.Split(sig, r.Value, func(i int) bool { return slices.Contains(events, int32(i)) })
	if err != nil {
		return nil, err
	}
	identity := division.Part(func(yield func(int) bool) {
		for _, i := range events {
			if !yield(int(i)) {
				return
			}
		}
	})
	r.Headers = slices.DeleteFunc(slices.Clone(r.Headers), func(h kgo.RecordHeader) bool { return h.Key == envelope.HeaderRequest })
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: envelope.HeaderRequest, Value: identity.Encode()})
	return &r, nil
}

// named are the events of f that the store's refusal names and that are not left out yet; nil: none. What lies in no record of f, or is
// not there, makes the whole refusal one that names none.
func (f *flight) names(err error) *block.RefusedError {
	named, ok := errors.AsType[*block.RefusedError](err)
	if !ok || len(named.Events) == 0 {
		return nil
	}
	for _, ref := range named.Events {
		i := slices.IndexFunc(f.entries, func(e *entry) bool { return e.record.Offset == ref.Offset })
		if i < 0 {
			return nil
		}
		if e := f.entries[i]; e.item || e.refusal != nil || ref.Index < 0 || int(ref.Index) >= e.events || slices.Contains(e.omitted, ref.Index) {
			return nil
		}
	}
	return named
}

// leaveOut removes the omitted events of entries from b.
func (b *batch) leaveOut(entries []*entry) {
	omitted := map[lineage.Event]bool{}
	for _, e := range entries {
		for _, i := range e.omitted {
			omitted[lineage.Event{Offset: e.record.Offset, Index: i}] = true
		}
	}
	if len(omitted) == 0 {
		return
	}
	drop := func(attrs pcommon.Map) bool {
		ev, ok := lineage.ReadEvent(attrs)
		ev.ID = [16]byte{}
		if !ok || !omitted[ev] {
			return false
		}
		b.events--
		return true
	}
	switch b.signal {
	case signal.Logs:
		b.logs.ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool {
			rl.ScopeLogs().RemoveIf(func(sl plog.ScopeLogs) bool {
				return removed(sl.LogRecords(), func(lr plog.LogRecord) bool { return drop(lr.Attributes()) })
			})
			return rl.ScopeLogs().Len() == 0
		})
	case signal.Traces:
		b.traces.ResourceSpans().RemoveIf(func(rs ptrace.ResourceSpans) bool {
			rs.ScopeSpans().RemoveIf(func(ss ptrace.ScopeSpans) bool {
				return removed(ss.Spans(), func(s ptrace.Span) bool { return drop(s.Attributes()) })
			})
			return rs.ScopeSpans().Len() == 0
		})
	case signal.Metrics:
		b.metrics.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
			rm.ScopeMetrics().RemoveIf(func(sm pmetric.ScopeMetrics) bool {
				return removed(sm.Metrics(), func(m pmetric.Metric) bool { return removedPoints(m, drop) })
			})
			return rm.ScopeMetrics().Len() == 0
		})
	}
}

// removed tells whether nothing is left.
func removed[T any](of interface {
	RemoveIf(func(T) bool)
	Len() int
}, drop func(T) bool) bool {
	of.RemoveIf(drop)
	return of.Len() == 0
}

func removedPoints(m pmetric.Metric, drop func(pcommon.Map) bool) bool {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return removed(m.Gauge().DataPoints(), func(p pmetric.NumberDataPoint) bool { return drop(p.Attributes()) })
	case pmetric.MetricTypeSum:
		return removed(m.Sum().DataPoints(), func(p pmetric.NumberDataPoint) bool { return drop(p.Attributes()) })
	case pmetric.MetricTypeHistogram:
		return removed(m.Histogram().DataPoints(), func(p pmetric.HistogramDataPoint) bool { return drop(p.Attributes()) })
	case pmetric.MetricTypeExponentialHistogram:
		return removed(m.ExponentialHistogram().DataPoints(), func(p pmetric.ExponentialHistogramDataPoint) bool { return drop(p.Attributes()) })
	case pmetric.MetricTypeSummary:
		return removed(m.Summary().DataPoints(), func(p pmetric.SummaryDataPoint) bool { return drop(p.Attributes()) })
	}
	return false
}

// appendOmissions appends, for example, "120:3+7,130:0": the offset of a record and the positions of events.
func appendOmissions(b []byte, omissions []omission) []byte {
	for i, o := range omissions {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, o.offset, 10)
		for j, event := range o.events {
			b = append(b, ":+"[min(j, 1)])
			b = strconv.AppendInt(b, int64(event), 10)
		}
	}
	return b
}

func parseOmissions(text string) ([]omission, error) {
	var out []omission
	n, last := 0, int64(-1)
	for item := range strings.SplitSeq(text, ",") {
		o, events, _ := strings.Cut(item, ":")
		offset, err := strconv.ParseInt(o, 10, 64)
		if err != nil || offset <= last {
			return nil, fmt.Errorf("%q is no record behind %d", o, last)
		}
		next := omission{offset: offset}
		before := int64(-1)
		for event := range strings.SplitSeq(events, "+") {
			i, err := strconv.ParseInt(event, 10, 32)
			if n++; err != nil || i <= before || n > maxOmitted {
				return nil, fmt.Errorf("%q is no event behind %d", event, before)
			}
			before = i
			next.events = append(next.events, int32(i))
		}
		out, last = append(out, next), offset
	}
	return out, nil
}
