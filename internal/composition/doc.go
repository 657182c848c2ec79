// Package composition says which components a pipeline must have, and in which order, so that it keeps what PulseGrid promises. Components
// are right one by one and wrong together: schema_validation only says which events are invalid, quarantine takes them out, and the msk
// exporter writes what is left.
//
//	Check    a configuration -> what is wrong with its pipelines, and how to mend it  (pulsegrid validate)
//	Walk     a call through a running pipeline, by which its first component learns the others  (at start)
//
// Both hold the same rules (rules.go). Check sees all components, by their types; Walk sees those that know it, but as they are connected.
package composition
