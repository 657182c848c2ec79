// Package legacy turns the JSON events of the collectors that PulseGrid replaces into OTLP, by a mapping that is a file (docs/formats/legacy.md).
// The gateway's POST /v1/events uses it, and so does whatever reads the files that those collectors wrote.
//
//	body -> Split: events as raw JSON -> Mapping.Convert: pdata of the three signals, and what cannot be mapped with the reason
package legacy
