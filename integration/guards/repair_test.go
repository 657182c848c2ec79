package guards

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

const repairRules = `
version: 1
rules:
  - name: amounts are numbers
    when: {tenant: acme, code: attribute_type, path: 'attributes["amount"]'}
    steps: [{cast: {path: 'attributes["amount"]', to: int}}]
`

// Scenario: the Python SDK sends orders whose amounts are texts, and others that no rule can mend. An operator repairs: a dry run, an apply, an apply again.
// Guarantees: the dry run changes nothing; after the first apply what could be mended is in both stores once, after the second still once.
func TestWhatIsRepairedIsInBothStoresOnceHoweverOftenItIsApplied(t *testing.T) {
	c := newCell(t, nil)
	c.startGateway(t)
	require.NoError(t, c.Aggregator.Start(patience))
	c.write(t, "rules.yaml", repairRules)
	var orders []event
	for i := range 20 {
		amount := any(fmt.Sprint(100 + i))
		if i >= 15 {
			amount = "many"
		}
		orders = append(orders, event{Body: fmt.Sprintf("order %d", i), Event: "order.placed", Attributes: map[string]any{"amount": amount}})
	}
	got := c.export(t, "http", "acme", sdkTimeout, orders)
	require.Equal(t, 20, got.Answers[0].Rejected)
	c.arrives(t, "acme", 20, "quarantine.v1")

	repair := func(args ...string) (report struct {
		Valid   int            `json:"events_repaired"`
		Done    int            `json:"events_done"`
		Invalid map[string]int `json:"events_invalid"`
		Records int            `json:"records_sent"`
	}) {
		t.Helper()
		args = append([]string{"quarantine", "repair", c.path("rules.yaml"), "--schemas", c.path("schemas"), "--brokers", strings.Join(c.Kafka.Brokers(), ","), "--json"}, args...)
		out, err := exec.Command(filepath.Join(rig.Root(), "_build", "pulsegrid"), args...).Output()
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(out, &report))
		return report
	}
	dry := repair()
	require.Equal(t, 15, dry.Valid)
	require.Equal(t, map[string]int{"attribute_type": 5}, dry.Invalid)
	require.Zero(t, count(t, c.records(t, "otlp.logs.v1"), "acme"))

	applied := repair("--apply")
	require.Equal(t, 15, applied.Valid)
	require.Equal(t, 1, applied.Records)
	stored := func() int {
		n, err := c.Query("SELECT count() FROM logs WHERE event_name = 'order.placed' AND attributes_int['amount'] >= 100")
		if err != nil {
			return 0 // the table comes with its first rows
		}
		rows, err := strconv.Atoi(n)
		require.NoError(t, err)
		return rows
	}
	require.Eventually(t, func() bool { return stored() >= 15 }, patience, 500*time.Millisecond)

	c.testTenantShow(t)

	again := repair("--apply")
	require.Zero(t, again.Records)
	require.Equal(t, 15, again.Done)
	require.Equal(t, []string{"SUCCESS"}, c.export(t, "http", "acme", sdkTimeout, []event{{Body: "order", Event: "order.placed", Attributes: map[string]any{"amount": 1}}}).Results)
	require.Eventually(t, func() bool {
		n, err := c.Query("SELECT count() FROM logs WHERE attributes_int['amount'] = 1")
		return err == nil && n == "1"
	}, patience, 500*time.Millisecond)
	require.Equal(t, 15, stored())
	const logs = "**/logs/**/*.parquet"
	require.Eventually(t, func() bool { return c.lake(t, logs, "order.placed") >= 16 }, patience, time.Second)
	require.Equal(t, 16, c.lake(t, logs, "order.placed"))
}

// testTenantShow: what the operator is shown of the tenant by now.
func (c *cell) testTenantShow(t *testing.T) {
	t.Helper()
	var shown struct {
		Status  string
		Policy  string `json:"schema_policy"`
		Signals []struct {
			Signal string
			Rate   float64  `json:"events_per_second"`
			Newest *float64 `json:"newest_event_age_seconds"`
		}
		Quarantine []struct {
			Events                     int
			Signal, Code, Path, Schema string
		} `json:"quarantine_24h"`
		Requests map[string]int `json:"class_requests"`
	}
	show := func(id string, args ...string) ([]byte, error) {
		args = append([]string{"tenant", "show", id, "--tenants", c.path("tenants"), "--clickhouse", c.ClickHouseHTTP(), "--gateway-metrics", c.Gateways[0].MetricsURL()}, args...)
		return exec.Command(filepath.Join(rig.Root(), "_build", "pulsegrid"), args...).Output()
	}
	require.Eventually(t, func() bool {
		out, err := show("acme", "--json")
		return err == nil && json.Unmarshal(out, &shown) == nil && len(shown.Quarantine) > 0
	}, patience, time.Second)
	require.Equal(t, "active", shown.Status)
	require.Equal(t, "enforce", shown.Policy)
	require.Equal(t, "logs", shown.Signals[2].Signal)
	require.Positive(t, shown.Signals[2].Rate)
	require.NotNil(t, shown.Signals[2].Newest)
	require.Nil(t, shown.Signals[0].Newest, "it sends no others")
	require.Equal(t, 20, shown.Quarantine[0].Events)
	require.Equal(t, []string{"logs", "attribute_type", `attributes["amount"]`, "event.order"},
		[]string{shown.Quarantine[0].Signal, shown.Quarantine[0].Code, shown.Quarantine[0].Path, shown.Quarantine[0].Schema})
	require.Positive(t, shown.Requests["fast"])
	out, err := show("acme")
	require.NoError(t, err)
	require.Contains(t, string(out), "tenant acme: active")
	_, err = show("nobody")
	require.Error(t, err)
}
