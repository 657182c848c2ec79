package observability_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// secured is a gateway as distributions/gateway has it, beside the one of `pulsegrid local`: with TLS, tenants, schemas and a spill, so that their metrics are there.
type secured struct {
	metrics string // host:port
	logs    string // URL of OTLP/HTTP, without the signal
	client  *http.Client
	keys    map[string]string // by tenant
}

const orders = `
groups:
  - id: event.order
    type: event
    name: order.placed
    attributes:
      - {id: amount, type: int, requirement_level: required}
`

// startGateway starts it in front of a cell's Kafka.
func startGateway(t *testing.T, kafka string) secured {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	// A certificate for 127.0.0.1, and a client that trusts it.
	web := httptest.NewTLSServer(nil)
	web.Close()
	certificate := web.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	require.NoError(t, err)
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}

	g := secured{metrics: rig.FreeAddr(), client: web.Client(), keys: map[string]string{}}
	registry := "tenants:\n"
	for _, of := range [][2]string{{"acme", "class: premium, schema: {policy: enforce}"}, {"small", "quotas: {logs: {events_per_second: 1, burst: 2s}}"}} {
		apiKey, id, hash := tenant.NewKey()
		g.keys[of[0]] = apiKey
		registry += fmt.Sprintf("  - {id: %s, %s, keys: [{id: %s, hash: %q, expires: 2099-01-01T00:00:00Z}]}\n", of[0], of[1], id, hash)
	}
	write("tenants/tenants.yaml", registry)
	write("schemas/orders.yaml", orders)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "spill"), 0o755))
	_, port, err := net.SplitHostPort(g.metrics)
	require.NoError(t, err)
	grpc, web4318, health := rig.FreeAddr(), rig.FreeAddr(), rig.FreeAddr()
	g.logs = "https://" + web4318 + "/v1/"
	process := rig.NewProcess(map[string]string{
		"PULSEGRID_KAFKA_BROKERS": kafka, "PULSEGRID_REPLICATION_FACTOR": "1", "PULSEGRID_MIN_INSYNC": "1", "PULSEGRID_PARTITIONS": "3",
		"PULSEGRID_GRPC_ENDPOINT": grpc, "PULSEGRID_HTTP_ENDPOINT": web4318, "PULSEGRID_HEALTH_ENDPOINT": health,
		"PULSEGRID_CELL_HEALTH_ENDPOINT": rig.FreeAddr(), "PULSEGRID_METRICS_HOST": "127.0.0.1", "PULSEGRID_METRICS_PORT": port,
		"PULSEGRID_TLS_CERT": write("tls.crt", encode("CERTIFICATE", certificate.Certificate[0])), "PULSEGRID_TLS_KEY": write("tls.key", encode("PRIVATE KEY", key)),
		"PULSEGRID_TENANTS": filepath.Join(dir, "tenants"), "PULSEGRID_SCHEMAS": filepath.Join(dir, "schemas"), "PULSEGRID_SCHEMA_MODE": "enforce",
		"PULSEGRID_SPILL": "file://" + filepath.Join(dir, "spill"), "PULSEGRID_GATEWAY_NAME": "secured",
	}, []string{grpc, web4318, health}, filepath.Join(rig.Root(), "_build", "collector", "pulsegrid-collector"), "--config", filepath.Join(rig.Root(), "distributions", "gateway", "config.yaml"))
	require.NoError(t, process.Start(starts))
	stopAfter(t, process)
	return g
}

// post sends an OTLP/JSON request and tells its status; 0: there was no answer.
func (g secured) post(signal, key, body string) int {
	req, err := http.NewRequest(http.MethodPost, g.logs+signal, strings.NewReader(body))
	if err != nil {
		return 0
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Api-Key", key)
	resp, err := g.client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
	return resp.StatusCode
}

const resource = `"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]}`

// send sends of each kind one: valid and invalid events of all signals, a copy, a body that is no OTLP, wrong credentials, and what is over a quota. It tells the status of the valid one.
func (g secured) send(i int) int {
	now := time.Now().UnixNano()
	logs := func(attributes string) string {
		return fmt.Sprintf(`{"resourceLogs":[{%s,"scopeLogs":[{"logRecords":[{"timeUnixNano":"%d","severityNumber":17,"eventName":"order.placed","body":{"stringValue":"order %d"}%s}]}]}]}`, resource, now, i, attributes)
	}
	valid := logs(`,"attributes":[{"key":"amount","value":{"intValue":"3"}}]`)
	status := g.post("logs", g.keys["acme"], valid)
	g.post("logs", g.keys["acme"], valid)
	g.post("logs", g.keys["acme"], logs(""))
	g.post("logs", g.keys["acme"], fmt.Sprintf("this is not OTLP %d", i))
	g.post("logs", "nobody's key", valid)
	for range 3 {
		g.post("logs", g.keys["small"], logs(`,"attributes":[{"key":"amount","value":{"intValue":"1"}}]`))
	}
	g.post("metrics", g.keys["acme"], fmt.Sprintf(`{"resourceMetrics":[{%s,"scopeMetrics":[{"metrics":[{"name":"orders","unit":"{order}","sum":{"aggregationTemporality":1,"isMonotonic":true,
		"dataPoints":[{"timeUnixNano":"%d","asInt":"%d"}]}}]}]}]}`, resource, now, i))
	g.post("traces", g.keys["acme"], fmt.Sprintf(`{"resourceSpans":[{%s,"scopeSpans":[{"spans":[{"traceId":"%032x","spanId":"%016x","name":"checkout","kind":2,
		"startTimeUnixNano":"%d","endTimeUnixNano":"%d","status":{"code":2}}]}]}]}`, resource, now, i+1, now-5_000_000, now))
	return status
}

// sendAllTheTime sends until the test ends.
func (g secured) sendAllTheTime(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return g.send(0) == http.StatusOK }, patience, 200*time.Millisecond, "the gateway takes no valid request")
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			g.send(i)
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// startPrometheus starts the real server with observability's rules over targets by job, all of cell local, and returns its URL. Rules are evaluated, and alerts fire, at once.
func startPrometheus(t *testing.T, targets map[string][]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, pattern := range []string{"rules/*.yaml", "alerts/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(rig.Root(), "observability", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			text = regexp.MustCompile(`(?m)^( +(?:interval|for)): .*$`).ReplaceAll(text, []byte("$1: 1s"))
			require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o600))
		}
	}
	config := "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [\"*.yaml\"]\nscrape_configs:\n"
	for job := range maps.Keys(targets) {
		config += fmt.Sprintf("  - {job_name: %s, static_configs: [{targets: [\"%s\"], labels: {cell: local}}]}\n", job, strings.Join(targets[job], `", "`))
	}
	file := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	server, err := rig.StartPrometheus(file, filepath.Join(dir, "data"))
	require.NoError(t, err)
	stopAfter(t, server.Process)
	return server.URL
}

// stopAfter stops a program when the test ends, and shows the end of its log where the test has failed.
func stopAfter(t *testing.T, p *rig.Process) {
	t.Cleanup(func() {
		p.Stop(stopping)
		if t.Failed() {
			t.Log(p.Log()[max(0, len(p.Log())-8<<10):])
		}
	})
}

func host(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u.Host
}
