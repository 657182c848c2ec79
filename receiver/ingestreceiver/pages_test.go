package ingestreceiver

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
)

// Scenario: a receiver on somebody's own machine, who visits web pages.
// Guarantees: what SDKs and allowed pages send is taken; what other pages send is refused, also where their domain resolves to this machine.
func TestWebPagesDoNotReachALocalReceiver(t *testing.T) {
	const allowed = "http://localhost:3000"
	s := &sink{}
	cfg := testConfig()
	cfg.LegacyEvents.Enabled = true
	cfg.LocalHosts = []string{"localhost", "laptop"}
	cfg.Protocols.HTTP.Get().CORS = configoptional.Some(confighttp.CORSConfig{AllowedOrigins: []string{allowed, "https://*.example.org"}})
	r := start(t, cfg, s, nil)
	_, port, _ := strings.Cut(r.httpAddr.String(), ":")
	for name, c := range map[string]struct {
		host, origin string
		refused      string
	}{
		"an SDK":                        {host: "127.0.0.1:" + port},
		"an SDK, by name":               {host: "localhost:" + port},
		"an SDK, by this machine's":     {host: "Laptop:" + port},
		"an SDK in a container":         {host: "172.17.0.1:" + port},
		"an allowed page":               {host: "localhost:" + port, origin: allowed},
		"a page of an allowed domain":   {host: "localhost:" + port, origin: "https://shop.example.org"},
		"another page":                  {host: "localhost:" + port, origin: "https://evil.example", refused: `"https://evil.example"`},
		"a sandboxed page":              {host: "localhost:" + port, origin: "null", refused: `"null"`},
		"a page of another local port":  {host: "localhost:" + port, origin: "http://localhost:3001", refused: `"http://localhost:3001"`},
		"a rebound page":                {host: "evil.example:" + port, refused: `"evil.example:`},
		"a rebound page with an origin": {host: "evil.example:" + port, origin: "http://evil.example:" + port, refused: `"evil.example:`},
		"an allowed page, rebound":      {host: "evil.example:" + port, origin: allowed, refused: `"evil.example:`},
	} {
		for path, body := range map[string][]byte{"/v1/logs": otlptest.Logs(1, 1), "/v1/events": []byte(`{"type":"log"}`)} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+path, bytes.NewReader(body))
			require.NoError(t, err)
			req.Host = c.host
			req.Header.Set("Content-Type", map[string]string{"/v1/logs": typeProtobuf, "/v1/events": typeJSON}[path])
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			got := r.do(req)
			if c.refused == "" {
				require.Equal(t, http.StatusOK, got.code, "%s: %s", name, got.body)
				require.Len(t, s.take(), 1)
				continue
			}
			require.Equal(t, http.StatusForbidden, got.code, "%s: %s", name, got.body)
			require.Contains(t, string(got.body), strings.ReplaceAll(c.refused, `"`, map[string]string{"/v1/logs": `"`, "/v1/events": `\"`}[path]), name)
			require.Empty(t, s.take())
		}
	}
}

// Scenario: a gateway behind a load balancer, whose names it does not know; a page of its own origin sends through a proxy.
// Guarantees: without local_hosts nobody is refused for the host or the origin.
func TestWithoutLocalHostsAnyNameIsServed(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/logs", bytes.NewReader(otlptest.Logs(1, 1)))
	require.NoError(t, err)
	req.Host = "otlp.example"
	req.Header.Set("Origin", "https://otlp.example")
	req.Header.Set("Content-Type", typeProtobuf)
	require.Equal(t, http.StatusOK, r.do(req).code)
	require.Len(t, s.take(), 1)
}

func TestLocalHostsAreNames(t *testing.T) {
	for _, name := range []string{"", "localhost:4318", "http://localhost", "[::1]", "a b"} {
		cfg := testConfig()
		cfg.LocalHosts = []string{"localhost", name}
		require.ErrorContains(t, cfg.Validate(), "local_hosts: ", name)
	}
}
