// Package signal names the three OTLP signals and the Kafka topics that carry them.
package signal

import (
	"fmt"
	"strings"
)

// Signal is one of the OTLP signals that PulseGrid carries.
type Signal uint8

// The signals, in the order in which OTLP's specification lists them. The zero value is no signal.
const (
	Traces Signal = iota + 1
	Metrics
	Logs
)

// All lists every signal.
var All = [...]Signal{Traces, Metrics, Logs}

// String returns the signal's name as the OpenTelemetry Collector writes it: "traces", "metrics" or "logs".
func (s Signal) String() string {
	switch s {
	case Traces:
		return "traces"
	case Metrics:
		return "metrics"
	case Logs:
		return "logs"
	}
	return fmt.Sprintf("signal(%d)", uint8(s))
}

// Parse is String's inverse.
func Parse(name string) (Signal, error) {
	for _, s := range All {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown signal %q: want traces, metrics or logs", name)
}

// QuarantineTopic holds what could not be decoded or what a sink refused, of any signal.
const QuarantineTopic = "quarantine.v1"

// RefusedTopic holds the records of QuarantineTopic that a store refuses: nobody reads it but an operator.
const RefusedTopic = "quarantine.refused.v1"

// Topic is the default topic of the signal's fast lane: "otlp.<signal>.v1".
func (s Signal) Topic() string { return "otlp." + s.String() + ".v1" }

// OverflowTopic is the default topic of the signal's overflow lane: "otlp.<signal>.overflow.v1".
func (s Signal) OverflowTopic() string { return "otlp." + s.String() + ".overflow.v1" }

// OfTopic is the signal that a topic's name tells, as those of the gateway do: "otlp.<signal>." and more; 0: none.
func OfTopic(topic string) Signal {
	for _, s := range All {
		if strings.HasPrefix(topic, "otlp."+s.String()+".") {
			return s
		}
	}
	return 0
}

// ClassTopic is the topic of a class of tenants beside a topic: "otlp.logs.v1" -> "otlp.logs.premium.v1", or with the class behind a name that
// has no version.
func ClassTopic(topic, class string) string {
	if at := strings.LastIndex(topic, ".v"); at >= 0 {
		return topic[:at] + "." + class + topic[at:]
	}
	return topic + "." + class
}
