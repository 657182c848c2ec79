// Package distributions embeds the Collector configurations that other programs run as they are.
package distributions

import _ "embed" // of the files below

// LocalGateway and LocalAggregator are the two Collectors of `pulsegrid local`.
var (
	//go:embed local/gateway.yaml
	LocalGateway []byte
	//go:embed local/aggregator.yaml
	LocalAggregator []byte
)
