// Package alerting evaluates rules, which are SQL, over what ClickHouse has stored, and tells Alertmanager which alerts fire.
//
// The parts, in the order of the data path: rules.go reads rules from YAML; store.go has ClickHouse check and run their queries, each over one tenant's rows of one window, within
// bounds; evaluator.go decides which buckets are complete, and evaluates each group on them; state.go is the state machine of a rule's alerts; notifier.go delivers alerts to
// Alertmanagers; statefile.go keeps the states over a restart; backtest.go runs rules on the past.
//
// Invariants:
//   - Time in the state machine is the end of a bucket, never the clock. Two evaluators that see the same rows come to the same alerts, with the same startsAt.
//   - A bucket is evaluated only when the store is complete beyond its end. Nothing is resolved because rows are missing: while buckets are not complete, or queries fail, alerts stay
//     as they are, firing ones are sent again, and after a bound `Stale` or `RuleFailed` fires.
//   - A query sees rows of its tenant and its window only. ClickHouse adds the conditions to each table that it reads (additional_table_filters); a query that could avoid them is refused
//     by ClickHouse's own reading of it, before it is run.
package alerting
