package otlpwire

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// agreeHead holds Head, Parts, SchemaURL and Cursor against pdata, and against the accessors that read one field each.
func agreeHead(t *testing.T, e *Event, w wanted) {
	t.Helper()
	var h Head
	e.Head(&h)
	if h.Time != e.Time() || h.ObservedTime != e.ObservedTime() || h.EndTime != e.EndTime() || string(h.Name) != string(e.Name()) {
		t.Fatalf("event %d: head %+v is not what the accessors say", e.Index, h)
	}
	agreeParted(t, e, &h)
	if w.body != nil {
		sameValue(t, h.Body, *w.body)
	}
	if got := headText(e, &h); got != w.head {
		t.Fatalf("event %d: got  %s\nwant %s", e.Index, got, w.head)
	}
	var want []string
	for k, v := range e.Attributes().All() {
		want = append(want, fmt.Sprintf("%q %v %v %x", k, v.typ, v.num, v.raw))
	}
	var got []string
	for c := h.Attributes(); c.Next(); {
		got = append(got, fmt.Sprintf("%q %v %v %x", c.Key, c.Value.typ, c.Value.num, c.Value.raw))
	}
	n := 0
	raws := h.Attributes()
	for {
		key, raw, plain, ok := raws.NextRaw()
		if !ok {
			break
		}
		v := raw.Value()
		if one := fmt.Sprintf("%q %v %v %x", key, v.typ, v.num, v.raw); n >= len(want) || one != want[n] {
			t.Fatalf("event %d: raw attribute %d is %s, want %v", e.Index, n, one, want)
		}
		if plain != TypeEmpty && (plain != v.typ || plain == TypeString && string(raw.Text()) != string(v.raw)) {
			t.Fatalf("event %d: attribute %d is a plain %v, want %v %q", e.Index, n, plain, v.typ, v.raw)
		}
		n++
	}
	if n != len(want) {
		t.Fatalf("event %d: %d raw attributes, want %d", e.Index, n, len(want))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("event %d: the cursor gives %v\nwant %v", e.Index, got, want)
	}
}

// agreeParted holds a head that is read to its attributes, and from one of them on, against one that is read at once.
func agreeParted(t *testing.T, e *Event, whole *Head) {
	t.Helper()
	all := 0
	for c := whole.Attributes(); c.Next(); all++ {
	}
	for most := range all + 2 {
		var h Head
		var c Cursor
		e.HeadToAttributes(&h, &c)
		at := whole.Attributes()
		n := 0
		for n < most {
			key, raw, plain, ok := c.NextRaw()
			if !ok {
				break
			}
			n++
			wantKey, wantRaw, wantPlain, _ := at.NextRaw()
			if string(key) != string(wantKey) || string(raw) != string(wantRaw) || plain != wantPlain {
				t.Fatalf("event %d: attribute %d is %q %x, want %q %x", e.Index, n, key, raw, wantKey, wantRaw)
			}
		}
		passed := e.HeadFrom(&h, &c)
		if passed != (n == all) {
			t.Fatalf("event %d: %d of %d attributes passed, said to be all: %t", e.Index, n, all, passed)
		}
		h.pos = whole.pos
		if !reflect.DeepEqual(h, *whole) {
			t.Fatalf("event %d: after %d attributes the head is %+v\nwant %+v", e.Index, n, h, *whole)
		}
	}
}

func headText(e *Event, h *Head) string {
	var parts []string
	e.Parts(func(p Part) bool {
		n := 0
		for c := p.Attributes.Cursor(); c.Next(); n++ {
		}
		parts = append(parts, fmt.Sprintf("%s[%d] %q %d", p.Kind, p.Index, p.Text, n))
		return true
	})
	if len(parts) != h.Parts {
		return fmt.Sprintf("%d parts are not %v", h.Parts, parts)
	}
	slices.Sort(parts)
	switch e.Signal {
	case signal.Logs:
		return fmt.Sprintf("%q", []string{string(h.SeverityText), string(e.SchemaURL())})
	case signal.Traces:
		return fmt.Sprintf("%q %d %q", []string{string(h.TraceState), string(h.StatusMessage), string(e.SchemaURL())}, h.Kind, parts)
	}
	return fmt.Sprintf("%v %d %d %q", h.Number.Type(), h.Number.Int(), math.Float64bits(h.Number.Double()), parts) + string(e.SchemaURL())
}

func schemaURL(scope, resource string) string {
	if scope != "" {
		return scope
	}
	return resource
}

func spanHead(sp ptrace.Span, url string) string {
	var parts []string
	for i, e := range sp.Events().All() {
		parts = append(parts, fmt.Sprintf("events[%d] %q %d", i, e.Name(), e.Attributes().Len()))
	}
	for i, l := range sp.Links().All() {
		parts = append(parts, fmt.Sprintf("links[%d] %q %d", i, l.TraceState().AsRaw(), l.Attributes().Len()))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%q %d %q", []string{sp.TraceState().AsRaw(), sp.Status().Message(), url}, int32(sp.Kind()), parts)
}

func numberOf(p pmetric.NumberDataPoint) string {
	switch p.ValueType() {
	case pmetric.NumberDataPointValueTypeInt:
		return fmt.Sprintf("int %d 0", p.IntValue())
	case pmetric.NumberDataPointValueTypeDouble:
		return fmt.Sprintf("double 0 %d", math.Float64bits(p.DoubleValue()))
	}
	return "empty 0 0"
}

func pointHead(number string, exemplars pmetric.ExemplarSlice) string {
	var parts []string
	for i, x := range exemplars.All() {
		parts = append(parts, fmt.Sprintf("exemplars[%d] %q %d", i, "", x.FilteredAttributes().Len()))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%s %q", number, parts)
}
