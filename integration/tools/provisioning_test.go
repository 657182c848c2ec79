package tools

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

const provisioning = "../../dashboards/provisioning/"

type tableOfSource struct {
	DefaultDatabase string   `yaml:"defaultDatabase"`
	DefaultTable    string   `yaml:"defaultTable"`
	Suffix          string   `yaml:"traceTimestampTableSuffix"`
	ContextColumns  []string `yaml:"contextColumns"`
}

type grafanaConfig struct {
	DefaultDatabase string `yaml:"defaultDatabase"`
	Logs, Traces    tableOfSource
	CustomSettings  []struct{ Setting, Value string } `yaml:"customSettings"` // of each query
}

// dataSource is what the file for Grafana says of the data source.
func dataSource(t *testing.T) grafanaConfig {
	t.Helper()
	text, err := os.ReadFile(provisioning + "grafana/datasources/pulsegrid.yaml")
	require.NoError(t, err)
	var file struct {
		Datasources []struct {
			JSON grafanaConfig `yaml:"jsonData"`
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	require.Len(t, file.Datasources, 1)
	return file.Datasources[0].JSON
}

// Guarantees: the files for Grafana and ClickStack name views that exist, and each expression in them is one that ClickHouse computes of these.
func (s store) provisioned(t *testing.T) {
	d := dataSource(t)
	require.Equal(t, "pulsegrid", d.DefaultDatabase)
	require.NotEmpty(t, s.ask(t, "SELECT "+strings.Join(d.Logs.ContextColumns, ", ")+" FROM "+d.Logs.DefaultDatabase+"."+d.Logs.DefaultTable+" LIMIT 1"))
	require.NotEmpty(t, s.ask(t, "SELECT TraceId, Start, End FROM "+d.Traces.DefaultDatabase+"."+d.Traces.DefaultTable+d.Traces.Suffix+" LIMIT 1"))

	var sources []map[string]any
	text, err := os.ReadFile(provisioning + "clickstack/sources.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &sources))
	var connections []struct{ Name string }
	text, err = os.ReadFile(provisioning + "clickstack/connections.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &connections))
	names := map[any]bool{}
	for _, source := range sources {
		names[source["name"]] = true
	}
	kinds := map[any]int{}
	for _, source := range sources {
		require.Equal(t, connections[0].Name, source["connection"])
		from := source["from"].(map[string]any)
		tables := []string{from["tableName"].(string)}
		if more, ok := source["metricTables"].(map[string]any); ok {
			tables = nil
			for _, table := range more {
				tables = append(tables, table.(string))
			}
		}
		for _, table := range tables {
			for key, expression := range source {
				switch {
				case key == "orderByExpression":
					s.ask(t, "SELECT 1 FROM "+from["databaseName"].(string)+"."+table+" ORDER BY "+expression.(string)+" LIMIT 1")
				case strings.HasSuffix(key, "Expression"):
					require.NotEmpty(t, s.ask(t, "SELECT "+expression.(string)+" FROM "+from["databaseName"].(string)+"."+table+" LIMIT 1"), "%s of %s", key, table)
				case strings.HasSuffix(key, "SourceId"):
					require.True(t, names[expression], "%s names no source: %v", key, expression)
				}
			}
		}
		kinds[source["kind"]] += len(tables)
	}
	require.Equal(t, map[any]int{"log": 1, "trace": 1, "metric": 5}, kinds)
}
