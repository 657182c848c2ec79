// Package cell runs one whole PulseGrid cell on one machine, out of embedded parts: an in-process Kafka with a data directory,
// the ClickHouse engine as a child process, a directory as the lake's object store with an SQLite catalog, and the gateway and
// the aggregator as two child processes of the built Collector. With Options.Worker also a Temporal server and a worker of jobs.
//
// The files in the order of a run: options.go (what is asked), lock.go (one instance a data directory), ports.go (addresses that
// last), kafka.go, frames.go, clickhouse.go, guard.go (ClickHouse's port), child.go (supervised processes), temporal.go (Temporal and the worker of jobs), ready.go (bounded waits),
// cell.go (start and stop in order), state.go (what other commands read), figures.go and screen.go (what the operator sees).
//
// Everything acknowledged is on disk before it is acknowledged, so stopping, killing and starting again continues where it was.
package cell
