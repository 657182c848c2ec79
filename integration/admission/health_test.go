package admission

import (
	"bytes"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
)

// told waits until DNS is told by this status.
func (g *gateway) told(code int) {
	g.t.Helper()
	require.Eventually(g.t, func() bool {
		resp, err := http.Get(g.health)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == code
	}, patience, 20*time.Millisecond)
}

// send posts as acme and tells the status, and whether the connection ends.
func (g *gateway) send() (code int, closes bool) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, g.http+"/v1/logs", bytes.NewReader(otlptest.Logs(1, 1)))
	require.NoError(g.t, err)
	req.Header = http.Header{"Content-Type": {"application/x-protobuf"}, "X-Api-Key": {g.keys["acme"]}}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(g.t, err)
	require.NoError(g.t, resp.Body.Close())
	return resp.StatusCode, resp.Close
}

// Scenario: a gateway starts without a registry, gets one, its cell is drained and back, and then Kafka is away.
// Guarantees: DNS is told to send senders exactly while something can be accepted and nobody has drained the cell; a drained cell takes requests and ends connections.
func TestDNSIsToldWhatTheCellCanAccept(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	g := start(t, nil)
	g.told(http.StatusServiceUnavailable)
	g.ready()
	g.told(http.StatusOK)
	code, closes := g.send()
	require.Equal(t, http.StatusOK, code)
	require.False(t, closes)

	state := cellhealth.State{Cell: "us-1", Drained: true, Since: time.Now()}
	collectortest.WriteFile(t, filepath.Join(g.state, cellhealth.StateFile), string(state.Marshal()))
	g.told(http.StatusServiceUnavailable)
	code, closes = g.send()
	require.Equal(t, http.StatusOK, code)
	require.True(t, closes)
	state.Drained = false
	collectortest.WriteFile(t, filepath.Join(g.state, cellhealth.StateFile), string(state.Marshal()))
	g.told(http.StatusOK)
	require.Equal(t, map[string]int{"acme": 2}, g.records("otlp.logs.v1"))

	g.kafka.Close()
	g.told(http.StatusServiceUnavailable)
	code, _ = g.send()
	require.Equal(t, http.StatusServiceUnavailable, code)
}
