package outcome

import (
	"fmt"
	"strings"
)

// Alerts is the outcome of a run that times alerts on what is stored, from the sending of an event to the webhook behind Alertmanager, beside live load.
type Alerts struct {
	Seed    uint64 `json:"seed"`
	Samples int    `json:"samples"` // events whose alert was timed
	Rules   int    `json:"rules"`   // that were evaluated
	Asked   int    `json:"asked"`   // events a second of the live load
	Done    int    `json:"done"`    // of them, acknowledged

	Took   [4]float64 `json:"took_seconds"`   // P50, P95, P99 and the longest
	Newest float64    `json:"newest_seconds"` // how old the newest row of the slowest partition of the live load was at the end

	// Shares of the machine's CPU.
	Cores      int        `json:"cores"`
	ClickHouse [2]float64 `json:"clickhouse"` // before there were rules, and beside them
	Evaluator  float64    `json:"evaluator"`

	Seconds float64 `json:"seconds"`
	Passed  bool    `json:"passed"`
}

// AlertLatencies is a table with a row for each run.
func AlertLatencies(runs []Alerts) string {
	var b strings.Builder
	b.WriteString("| live load, events/s | rules | events timed | P50 | P95 | P99 | longest | newest row of the load | ClickHouse's share of CPU, without rules and with | evaluator's |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range runs {
		failed := ""
		if !r.Passed {
			failed = ", **failed**"
		}
		fmt.Fprintf(&b, "| %d of %d that were asked for (seed %d)%s | %d | %d | %.1f s | %.1f s | %.1f s | %.1f s | %.1f s | %.0f %%, %.0f %% of %d cores | %.1f %% |\n", r.Done, r.Asked, r.Seed, failed, r.Rules, r.Samples,
			r.Took[0], r.Took[1], r.Took[2], r.Took[3], r.Newest, 100*r.ClickHouse[0], 100*r.ClickHouse[1], r.Cores, 100*r.Evaluator)
	}
	return b.String()
}
