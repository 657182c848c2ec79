package main

import (
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Scenario: ClickHouse is behind TLS with a certificate of an authority that only the aggregators' configuration names, as deploy/ has it.
// Guarantees: every command that looks into a cell, or changes it, reaches it by that configuration; without the authority each says so.
func TestCommandsReachACellBehindTLS(t *testing.T) {
	a := storeAll(t)
	to, err := url.Parse(a.hot.URL)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }})
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // each refused handshake is a line
	server.StartTLS()
	t.Cleanup(server.Close)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	text, err := os.ReadFile(a.configFile(t))
	require.NoError(t, err)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	const endpoint = "pulsegrid_clickhouse: {endpoint: "
	trusted := write("trusted.yaml", strings.Replace(string(text), endpoint+a.hot.URL, endpoint+server.URL+", tls: {ca_file: "+ca+"}", 1))
	untrusted := write("untrusted.yaml", strings.Replace(string(text), endpoint+a.hot.URL, endpoint+server.URL, 1))

	rules := write("rules.yaml", "groups: [{name: g, tenant: acme, rules: [{alert: A, window: 10m, annotations: {summary: s}, sql: 'SELECT service_name AS service, count() AS value FROM logs GROUP BY service_name'}]}]\n")
	for _, args := range [][]string{
		{"query", "SELECT count() FROM logs"},
		{"tenant", "show", "acme"},
		{"cost", "--tenant", "acme", "--window", "24h"},
		{"audit", "--quiet", "--rollups"},
		{"job", "run", "replay", "--quiet", "--dry-run"},
		{"job", "run", "replay", "--quiet", "--source", "lake", "--from", "24h", "--dry-run"},
		{"job", "run", "rollups", "--quiet", "--dry-run"},
		{"job", "run", "erasure", "--tenant", "acme", "--dry-run"},
		{"job", "run", "erasure", "--tenant", "acme", "--attribute", "a=b", "--dry-run"},
		{"job", "run", "aggregate", "--quiet", "--dry-run", "--model", "service_health_1m"},
		{"alerts", "check", rules},
	} {
		out, code, err := run(t, append(args, "--config", trusted)...)
		require.Zero(t, code, "%q: %v\n%s", args, err, out)
		out, code, err = run(t, append(args, "--config", untrusted)...)
		require.NotZero(t, code, "%q", args)
		require.Contains(t, out+err.Error(), "certificate signed by unknown authority", "%q", args)
	}
	for _, args := range [][]string{ // of Kafka alone
		{"tail", "--from", "earliest", "--limit", "1"}, {"quarantine", "stats"}, {"quarantine", "list"},
	} {
		out, code, err := run(t, append(args, "--config", trusted)...)
		require.Zero(t, code, "%q: %v\n%s", args, err, out)
		_, code, err = run(t, append(args, "--config", trusted, "--brokers", a.brokers)...)
		require.Equal(t, 2, code, "%q", args)
		require.ErrorContains(t, err, "give one of them")
	}

	cells := func(tls string) string {
		return write("cells.yaml", "cells:\n  - {name: eu-1, jurisdiction: eu, state: "+dir+", gateways: ['http://127.0.0.1:1/'], kafka: {brokers: ["+a.brokers+"]}, clickhouse: {endpoint: '"+server.URL+"'"+tls+"}}\n")
	}
	tenants := filepath.Dir(write("tenants/tenants.yaml", "tenants:\n  - {id: acme}\n"))
	asked := []string{"cell", "rollups", "logs", "--from", time.Now().UTC().Add(-time.Hour).Format(time.RFC3339), "--in", "eu", "--tenants", tenants, "--cells"}
	out, code, err := run(t, append(asked, cells(", tls: {ca_file: "+ca+"}"))...)
	require.Zero(t, code, "%v\n%s", err, out)
	out, code, err = run(t, append(asked, cells(""))...)
	require.NotZero(t, code)
	require.Contains(t, out+err.Error(), "certificate signed by unknown authority")
}
