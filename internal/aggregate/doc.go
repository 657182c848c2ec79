// Package aggregate builds tables out of the tables of events: a model is a query (SQL) and a definition (YAML), and its table is built a partition (an hour or a day of event
// time) at a time, beside the published table, tested there, and published in one step.
//
// A build is a function of the rows of its sources: it may be killed anywhere and run again, by anybody, and gives the same bytes. Which partitions have to be built is decided
// from the tables alone: a record of each build says which source rows it saw and which rows it published, and both are counted again at each run. So late events, replays,
// erasures and partitions that somebody has dropped are all found in the same way (docs/decisions/0041-aggregates-by-partition.md). The query is run by ClickHouse over its own
// tables, or by DuckDB over the lake's; the table is kept by ClickHouse (docs/decisions/0057-duckdb-computes-clickhouse-keeps.md).
package aggregate
