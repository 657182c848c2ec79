// Package enrichmentprocessor gives resources and events attributes that their senders do not know or must not say: the tenant's plan, jurisdiction and
// cell, how late an event came, and values of lookup tables. All of them begin with `enriched.` (internal/enriched); what agents sent under that
// prefix is removed.
//
// Reading order: processor.go (the way of a batch), enrich.go (a resource, an event), shared.go (tables and metrics that the pipelines of a component
// have in common). The tables are internal/lookup's, the tenants internal/tenant's.
package enrichmentprocessor
