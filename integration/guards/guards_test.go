// Package guards tests what the gateway takes and refuses, as programs of others see it that send to it: the built collector with its distribution's
// configs, Apache Kafka, OpenTelemetry's Python SDK and telemetrygen.
package guards

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	os.Exit(m.Run())
}

//go:embed testdata/client.py
var clientScript string

const patience = 5 * time.Minute

// cell is a cell of jurisdiction us.
type cell struct {
	*rig.Rig
	dir     string            // all that it writes
	keys    map[string]string // API key of a tenant
	tenants string            // the registry
}

// registry is the cell's tenants; KEYS is replaced by each one's.
const registry = `
jurisdictions:
  eu: {endpoint: "https://ingest.eu.example.com"}
cells:
  us-1: {jurisdiction: us, endpoint: "https://us-1.ingest.example.com", shed: SHED}
tenants:
  - {id: acme, jurisdiction: us, KEYS, schema: {policy: enforce}}
  - {id: lenient, KEYS, schema: {policy: warn}}
  - {id: unchecked, KEYS, schema: {policy: "off"}}
  - {id: gone, status: suspended, KEYS}
  - {id: metrics-only, signals: [metrics], KEYS}
  - {id: europe, jurisdiction: eu, KEYS}
  - {id: small, KEYS, quotas: {logs: {events_per_second: 50, burst: 2s}}}
  - {id: small-grpc, KEYS, quotas: {logs: {events_per_second: 50, burst: 2s}}}
  - {id: generator, KEYS, quotas: {logs: {events_per_second: 50, burst: 2s}}}
  - {id: trial-co, class: trial, KEYS}
`

const schemas = `
groups:
  - id: event.order
    type: event
    name: order.placed
    attributes:
      - {id: amount, type: int, requirement_level: required}
`

// newCell describes a cell, which is not started yet, but for Kafka and ClickHouse.
func newCell(t *testing.T, env map[string]string) *cell {
	t.Helper()
	c := &cell{dir: t.TempDir(), keys: map[string]string{}}
	var text strings.Builder
	for line := range strings.SplitAfterSeq(registry, "\n") {
		if _, rest, ok := strings.Cut(line, "{id: "); ok {
			key, id, hash := tenant.NewKey()
			c.keys[rest[:strings.IndexByte(rest, ',')]] = key
			line = strings.Replace(line, "KEYS", fmt.Sprintf("keys: [{id: %s, hash: %q}]", id, hash), 1)
		}
		text.WriteString(line)
	}
	c.tenants = text.String()
	c.shed(t, "{trial: refuse}")
	c.write(t, "schemas/orders.yaml", schemas)
	all := map[string]string{
		"PULSEGRID_TENANTS": c.path("tenants"), "PULSEGRID_SCHEMAS": c.path("schemas"), "PULSEGRID_JURISDICTION": "us", "PULSEGRID_CELL": "us-1", "PULSEGRID_SCHEMA_MODE": "enforce",
		"PULSEGRID_SPILL": "file://" + c.path("spill"), "PULSEGRID_GATEWAY_NAME": "gateway0", "PULSEGRID_QUARANTINE_STORE": "file://" + c.path("oversized"),
	}
	for _, dir := range []string{"spill", "oversized", "cell"} {
		require.NoError(t, os.MkdirAll(c.path(dir), 0o755))
	}
	for k, v := range env {
		all[k] = strings.ReplaceAll(v, "DIR", c.dir)
	}
	var err error
	c.Rig, err = rig.New(rig.Options{Dir: c.path("cell"), Env: all, Secured: true, GatewayConfigs: []string{
		filepath.Join("..", "rig", "testdata", "plaintext.yaml"), filepath.Join(rig.Root(), "distributions", "gateway", "overflow.yaml"), filepath.Join("testdata", "gateway.yaml"),
	}})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		if t.Failed() {
			t.Logf("gateway:\n%s", c.Gateway.Log()[max(0, len(c.Gateway.Log())-8<<10):])
		}
	})
	return c
}

// shed says which classes the cell sheds, as the registry's format has it.
func (c *cell) shed(t *testing.T, classes string) {
	t.Helper()
	c.write(t, "tenants/tenants.yaml", strings.Replace(c.tenants, "SHED", classes, 1))
}

func (c *cell) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cell) write(t *testing.T, name, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(c.path(name)), 0o755))
	require.NoError(t, os.WriteFile(c.path(name), []byte(content), 0o644))
}

// startGateway starts it and waits until it takes the registry's tenants.
func (c *cell) startGateway(t *testing.T) {
	t.Helper()
	require.NoError(t, c.Gateway.Start(patience))
	require.Eventually(t, func() bool {
		return ask(t, map[string]any{"protocol": "raw", "method": "POST", "endpoint": "http://" + c.HTTP + "/v1/logs", "headers": c.as("acme", protobuf), "body": ""}).Answers[0].Code == "200"
	}, patience, 200*time.Millisecond)
}

var protobuf = map[string]string{"Content-Type": "application/x-protobuf"}

// as are a tenant's credentials, and further headers. gRPC wants their names in small letters.
func (c *cell) as(id string, more map[string]string) map[string]string {
	h := map[string]string{}
	if key := c.keys[id]; key != "" {
		h["x-api-key"] = key
	}
	for k, v := range more {
		h[k] = v
	}
	return h
}

// told is what a client was told, and what it made of that: testdata/client.py.
type told struct {
	Results []string // of each export
	Said    []string // what the exporter logged
	Answers []answer // one an attempt
}

type answer struct {
	At         float64 // seconds
	Code       text    // HTTP status, or gRPC code
	Message    string
	Reason     string
	Metadata   map[string]string
	RetryAfter float64 `json:"retry_after"` // seconds; 0: it was not told when to come again
	Rejected   int
	Warning    string
}

// text is a JSON string, or a number as text.
type text string

func (x *text) UnmarshalJSON(b []byte) error {
	*x = text(strings.Trim(string(b), `"`))
	return nil
}

// ask has the client send, and tells what came of it.
func ask(t *testing.T, what map[string]any) told {
	t.Helper()
	arg, err := json.Marshal(what)
	require.NoError(t, err)
	var out told
	pytest.RunJSON(t, &out, clientScript, string(arg))
	return out
}

// event is what the SDK is to send.
type event struct {
	Body       string         `json:"body"`
	Event      string         `json:"event,omitempty"`
	Attributes map[string]any `json:"attributes,omitempty"`
}

func events(n int) []event {
	out := make([]event, n)
	for i := range out {
		out[i] = event{Body: fmt.Sprintf("message %d", i)}
	}
	return out
}

// export has the Python SDK send over "http" or "grpc".
func (c *cell) export(t *testing.T, protocol, id string, timeout time.Duration, exports ...[]event) told {
	t.Helper()
	endpoint := c.GRPC
	if protocol == "http" {
		endpoint = "http://" + c.HTTP
	}
	return ask(t, map[string]any{"protocol": protocol, "endpoint": endpoint, "headers": c.as(id, nil), "timeout": timeout.Seconds(), "exports": exports})
}

// records are those of topics, from their beginning.
func (c *cell) records(t *testing.T, topics ...string) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Kafka.Brokers()...), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer cl.Close()
	var ends kadm.ListedOffsets
	require.Eventually(t, func() bool {
		ends, err = kadm.NewClient(cl).ListEndOffsets(ctx, topics...)
		return err == nil && ends.Error() == nil
	}, patience, 100*time.Millisecond, "topics, which the gateway makes when it starts")
	want := int64(0)
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	var out []*kgo.Record
	for int64(len(out)) < want {
		fetched := cl.PollFetches(ctx)
		require.NoError(t, fetched.Err0())
		out = append(out, fetched.Records()...)
	}
	return out
}
