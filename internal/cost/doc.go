// Package cost is a model of what PulseGrid costs on AWS: from a workload, the bytes and CPU an event that the benchmarks measured, and list prices, it makes instance counts and a
// monthly bill by region, component and item. It also says what a tenant, its services and its attributes cost, out of what ClickHouse holds of them.
//
// The model's three inputs are data in deploy/cost. Nothing that a benchmark of this repository measures is typed in anywhere else.
//
// AWS' "GB" are GiB here; a month has 730 hours.
package cost

//go:generate go test -run Docs -update .
