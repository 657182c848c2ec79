package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Scenario: the events that an aggregator has stored, with spans of two hours that are over among them.
// Guarantees: the command builds what Kafka says is complete, and no more; what it reports is what the table holds; a second run finds nothing to do; a partition that fails
// ends it with 1, and the text says why.
func TestAggregateBuildsWhatIsComplete(t *testing.T) {
	a := storeAll(t)
	hour := time.Now().UTC().Truncate(time.Hour).Add(-5 * time.Hour)
	a.hot.Exec("INSERT INTO pulsegrid.spans (tenant_id, service_name, time, ingest_time, event_id) SELECT 'acme', 's', t, t, unhex(hex(MD5(toString(number)))) FROM (SELECT number, toDateTime64('" +
		hour.Format(time.DateTime) + "', 9, 'UTC') + toIntervalMinute(number) AS t FROM numbers(120))")
	model := "service_health_1m"
	aggregate := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, append([]string{"job", "run", "aggregate", "--config", a.configFile(t), "--model", model}, more...)...)
	}
	require.Contains(t, aggregate(0, "--dry-run"), "would be built: it is new")
	require.NotContains(t, a.hot.Query("SHOW TABLES FROM pulsegrid"), "service_health_1m")
	out := aggregate(0)
	require.Contains(t, out, "partition 2 of 2\n")
	require.Regexp(t, `(?m)^service_health_1m +\S+ +2 +0 +0 +0 +0 +-$`, out)
	require.EqualValues(t, 120, a.hot.QueryInt("SELECT sum(spans) FROM pulsegrid.service_health_1m"))
	require.Regexp(t, `(?m)^service_health_1m +\S+ +0 +2 +0 +0 +0 +-$`, aggregate(0, "--quiet"))
	require.Regexp(t, `(?m)^service_health_1m +\S+ +0 +0 +0 +0 +3 +-$`, aggregate(0, "--from", hour.Add(-3*time.Hour).Format(time.RFC3339), "--to", hour.Format(time.RFC3339),
		"--complete-through", hour.Add(-3*time.Hour).Format(time.RFC3339)))

	// With the lake in the configuration the features of the same hours are there, too.
	a.hot.Exec("INSERT INTO pulsegrid.logs (tenant_id, service_name, time, ingest_time, event_id, attributes_string) SELECT 'acme', 's', t, t, unhex(hex(MD5(toString(number)))), map('device.id', 'd') FROM (SELECT number, toDateTime64('" +
		hour.Format(time.DateTime) + "', 9, 'UTC') + toIntervalMinute(number) AS t FROM numbers(120))")
	lake := filepath.Join(t.TempDir(), "lake.yaml")
	require.NoError(t, os.WriteFile(lake, []byte("exporters: {iceberg: {catalog: {type: sql, uri: 'file:"+a.catalog+"', warehouse: 'file://"+a.warehouse+"'}}}"), 0o600))
	model = "device_features_1h"
	features := []string{"--config", lake, "--from", hour.Format(time.RFC3339), "--to", hour.Add(2 * time.Hour).Format(time.RFC3339), "--quiet"}
	require.Regexp(t, `(?m)^device_features_1h +\S+ +2 +0 +0 +0 +0 +2$`, aggregate(0, append(features, "--dry-run")...))
	require.Regexp(t, `(?m)^device_features_1h +\S+ +2 +0 +0 +0 +0 +2$`, aggregate(0, features...))
	for _, command := range [][]string{{"upkeep", "--dry-run"}, {"erasure", "--dry-run", "--tenant", "acme"}} {
		out, _, err := run(t, append(append([]string{"job", "run"}, command...), "--config", a.configFile(t), "--config", lake)...)
		require.NoError(t, err, out)
		require.Regexp(t, `(?m)^(lake +)?device_features_1h +2 +`, out, "two files, two rows")
	}

	model = "service_health_1m"
	dir := t.TempDir()
	for _, file := range []string{"service_health_1m.yaml", "service_health_1m.sql"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "internal", "aggregate", "models", file))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), bytes.Replace(text, []byte("errors <= spans"), []byte("errors > spans"), 1), 0o600))
	}
	out = aggregate(1, "--models", dir, "--again")
	require.Contains(t, out, " FAILED (owner: platform)\n  holds: rows for which this is not true: errors > spans: 60 of 60; the first is ('acme','s','"+hour.Format(time.DateTime)+"')")
	require.Contains(t, out, "2 partitions failed: the tables have what they had before")
	require.EqualValues(t, 120, a.hot.QueryInt("SELECT sum(spans) FROM pulsegrid.service_health_1m"))
}

func TestAggregateListsItsModelsAndRefusesWhatItDoesNotKnow(t *testing.T) {
	out, code, err := run(t, "job", "run", "aggregate", "--list")
	require.NoError(t, err)
	require.Zero(t, code)
	for _, model := range []string{"service_health_1m", "error_budget_1h", "sessions_1d", "device_features_1h"} {
		require.Contains(t, out, "\n"+model+" ")
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "m.sql"), []byte("SELECT 1"), 0o600))
	for want, args := range map[string][]string{
		`--model: there is no model "sales": --list names them`: {"--model", "sales"},
		"--models: m.sql: m.yaml is missing":                    {"--models", dir},
		`--from: "yesterday": want 2026-10-01, RFC 3339`:        {"--from", "yesterday"},
		"--to: 2026-10-01 is not after --from":                  {"--from", "2026-10-01", "--to", "2026-10-01"},
		"--threads: 0: want 1 to 64":                            {"--threads", "0"},
		`--engine: "oracle": want clickhouse, duckdb or athena`: {"--engine", "oracle"},
		"--engine: model service_health_1m allows clickhouse":   {"--engine", "duckdb", "--model", "service_health_1m"},
		"--engine: no model allows athena":                      {"--engine", "athena"},
		"--complete-through: 2999-01-01 is not yet":             {"--complete-through", "2999-01-01"},
	} {
		_, code, err := run(t, append([]string{"job", "run", "aggregate"}, args...)...)
		require.ErrorContains(t, err, want)
		require.Equal(t, exitUsage, code)
	}
}
