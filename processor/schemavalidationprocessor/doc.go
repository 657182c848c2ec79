// Package schemavalidationprocessor is the processor `schema_validation`: it holds each event against the schema registry and says of the
// envelope which of its events violate what. See README.md; the checks themselves are internal/schema's.
//
//	validation.go  policies, the checker of the newest registry, counting
//	envelope.go    envelopes: on the bytes of the request
//	pdata.go       decoded logs, metrics and traces of any other component
package schemavalidationprocessor
