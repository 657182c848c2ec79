// Package enriched names the attributes that processor enrichment gives to resources and events. All of them begin with Prefix, which is
// reserved: what an agent sent under it is removed by the processor, and the audit compares nothing under it, since values may come from
// tables that have changed since (docs/decisions/0028).
package enriched

import (
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// Prefix of every attribute of enrichment.
const Prefix = "enriched."

// Attributes. Cell, Jurisdiction and Plan are of resources; Delay is of log records and spans.
const (
	Cell         = Prefix + "cell"
	Jurisdiction = Prefix + "jurisdiction"
	Plan         = Prefix + "plan"
	Delay        = Prefix + "ingest_delay_ms"
)

// OfTable is the attribute of a lookup table's column.
func OfTable(table, column string) string { return Prefix + table + "." + column }

// Is tells whether an attribute key is one of enrichment.
func Is(key string) bool { return strings.HasPrefix(key, Prefix) }

// Remove removes the attributes of enrichment, and returns how many there were. Look for one first: RemoveIf calls a function for each attribute.
func Remove(attrs pcommon.Map) int {
	before := attrs.Len()
	attrs.RemoveIf(func(k string, _ pcommon.Value) bool { return Is(k) })
	return before - attrs.Len()
}
