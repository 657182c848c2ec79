// Package availability computes how available ingestion is to its senders over a year: cells that fail, DNS that leads senders elsewhere after its checks and its TTL, senders that try
// again. Years are simulated by random numbers of a seed, out of inputs.yaml, where each value has its source. docs/availability.md is made of it.
package availability
