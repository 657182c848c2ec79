// Package dedupeprocessor removes events that occurred before: copies that agents, gateways or Kafka producers made when they sent
// again. What a duplicate is, and what is remembered to tell, is internal/dedupe's; the ids are internal/eventid's.
//
// Reading order: processor.go (the way of a batch), events.go (walks through logs, metrics and traces).
package dedupeprocessor
