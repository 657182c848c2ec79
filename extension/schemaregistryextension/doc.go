// Package schemaregistryextension is the extension `schema_registry`: it reads schemas from a directory or an object store, again and again, and
// hands the newest good registry to whoever asks for a schema.Source among the host's extensions. See README.md; the format and how files at fault
// are left out are internal/schema's.
package schemaregistryextension
