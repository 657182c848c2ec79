package rows

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// AttributeColumns are the columns of a table of events that attributes are in, wherever the sender has put them: those that Attributes reads.
func AttributeColumns(t *columns.Table) []string {
	names := []string{"resource", "scope_attributes", "attributes_string", "attributes_int", "attributes_double", "attributes_bool", "attributes_other"}
	for _, c := range t.Columns {
		if c.Promote != "" {
			names = append(names, c.Name)
		}
	}
	return append(names, nestedAttributes(t.Signal)...)
}

// nestedAttributes are the columns of lists whose elements have attributes of their own.
func nestedAttributes(s signal.Signal) []string {
	switch s {
	case signal.Traces:
		return []string{"events_attributes", "links_attributes"}
	case signal.Metrics:
		return []string{"exemplars_attributes"}
	}
	return nil
}

// Attributes makes row i the row at hand, and returns all attributes of its event: its own, those of resource and scope, of span events and links, or of exemplars.
// The error says what of the row could not be read, and may quote it.
func (r *Reader) Attributes(i int) ([]pcommon.Map, error) {
	r.Seek(i)
	text := func(name, object string) pcommon.Map {
		m := pcommon.NewMap()
		r.keep(name, readMap(object, m))
		return m
	}
	resource, own := pcommon.NewMap(), pcommon.NewMap()
	r.resourceAttributes(resource)
	r.attributes(own)
	out := []pcommon.Map{own, resource, text("scope_attributes", r.Text("scope_attributes"))}
	for _, name := range nestedAttributes(r.table.Signal) {
		for _, object := range listOf(r, name, value.Text) {
			out = append(out, text(name, object))
		}
	}
	return out, r.Err()
}
