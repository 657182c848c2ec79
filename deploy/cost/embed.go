// Package costdata holds what the cost model (internal/cost, `pulsegrid cost`) reads: prices with their sources, what the benchmarks measured, and workloads with assumptions.
package costdata

import _ "embed" // the files

// The files, as they lie beside this one.
var (
	//go:embed prices.json
	Prices []byte
	//go:embed measured.json
	Measured []byte
	//go:embed scenarios.yaml
	Scenarios []byte
)
