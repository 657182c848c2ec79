package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/refusals"
)

// Scenario: 147 requests of one agent, and one of another, were refused.
// Guarantees: status shows status, reason, tenant, sender, how many and an example of each kind, out of the gateway's log.
func TestStatusShowsEachKindOfRefusal(t *testing.T) {
	var log bytes.Buffer
	l := refusals.New(zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&log), zapcore.WarnLevel)))
	for range 147 {
		l.Add(refusals.Refusal{Kind: refusals.Kind{Protocol: "http", Status: "429", Reason: "quota", Detail: "QUOTA_EXCEEDED", Tenant: "acme", Sender: "192.0.2.1"}, Text: "over its quota"})
	}
	l.Add(refusals.Refusal{Kind: refusals.Kind{Protocol: "grpc", Status: "OK", Reason: "events_lost", Sender: "192.0.2.2"}, Text: "3 events were refused", Events: 3})
	l.Shutdown()
	path := filepath.Join(t.TempDir(), "gateway.log")
	require.NoError(t, os.WriteFile(path, log.Bytes(), 0o600))
	state := cell.State{Processes: []cell.Process{{Name: "aggregator", Log: "none"}, {Name: "gateway", Log: path}}}
	refused, err := refusedByGateway(state)
	require.NoError(t, err)

	var out bytes.Buffer
	require.NoError(t, printStatus(&out, state, cell.Figures{}, refused, 5))
	require.Regexp(t, `\n[-0-9]{10} [:0-9]{8} +147 +- +http 429 +quota QUOTA_EXCEEDED +acme +192\.0\.2\.1 +over its quota\n`, out.String())
	require.Regexp(t, `\n[-0-9]{10} [:0-9]{8} +1 +3 +grpc OK +events_lost +- +192\.0\.2\.2 +3 events were refused\n`, out.String())

	var many []refusals.Line
	for i := range maxRefused + 3 {
		many = append(many, refusals.Line{Kind: refusals.Kind{Sender: fmt.Sprint(i)}, Last: time.Now()})
	}
	lines := refusedLines(many)
	require.Len(t, lines, maxRefused+3)
	require.Equal(t, "and 3 more kinds", lines[len(lines)-1])
	require.Equal(t, []string{"refused by the gateway: nothing in its log"}, refusedLines(nil))
	require.NotContains(t, strings.Join(refusedLines(refused), "\n"), "more kinds")
}
