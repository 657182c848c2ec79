package ingestreceiver

import (
	"bytes"
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
)

// board is a health check of which a test says whether its cell is drained.
type board struct {
	component.StartFunc
	component.ShutdownFunc
	drained atomic.Bool
}

func (*board) Watch(string, func(context.Context) error) (forget func()) { return func() {} }
func (b *board) Drained() bool                                           { return b.drained.Load() }

// Scenario: a cell is drained while senders send, and then no more.
// Guarantees: all that comes is taken; each answer over HTTP closes its connection, which it does at no other time.
func TestADrainedCellTakesRequestsAndSendsConnectionsAway(t *testing.T) {
	b, s := &board{}, &sink{}
	r := start(t, testConfig(), s, hostWith{component.MustNewID("cell_health"): b})
	post := func(contentType string) (code int, closes bool) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/logs", bytes.NewReader(otlptest.Logs(1, 1)))
		require.NoError(t, err)
		req.Header.Set("Content-Type", contentType)
		resp, err := r.http.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode, resp.Close
	}
	for _, drained := range []bool{false, true, false} {
		b.drained.Store(drained)
		code, closes := post(typeProtobuf)
		require.Equal(t, http.StatusOK, code)
		require.Equal(t, drained, closes)
		code, closes = post("text/plain")
		require.Equal(t, http.StatusUnsupportedMediaType, code)
		require.Equal(t, drained, closes, "a refusal, too")
		require.NoError(t, raw(t.Context(), r.dial(), signal.Logs, otlptest.Logs(1, 1)))
	}
	require.Len(t, s.take(), 6)
}

// Guarantees: an answer over HTTP closes a connection that is old enough, and no other; the sender comes again by a new one.
func TestAnHTTPConnectionEndsByItsAge(t *testing.T) {
	for age, most := range map[time.Duration]time.Duration{0: 2 * time.Second, time.Second: time.Minute} {
		cfg, s := testConfig(), &sink{}
		cfg.HTTPConnectionAge = age
		r := start(t, cfg, s, componenttest.NewNopHost())
		began, closed, sent := time.Now(), 0, 0
		for closed < 2 && time.Since(began) < most {
			resp, err := r.http.Post(r.url+"/v1/logs", typeProtobuf, bytes.NewReader(otlptest.Logs(1, 1)))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusOK, resp.StatusCode)
			if sent++; resp.Close {
				closed++
				require.GreaterOrEqual(t, time.Since(began), time.Duration(closed)*age*9/10)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if age == 0 {
			require.Zero(t, closed)
		} else {
			require.Equal(t, 2, closed)
		}
		require.Len(t, s.take(), sent)
	}
}

func TestTwoHealthChecksAreRefusedAtStart(t *testing.T) {
	rec, err := NewFactory().CreateLogs(t.Context(), receivertest.NewNopSettings(metadata.Type()), testConfig(), &sink{})
	require.NoError(t, err)
	host := hostWith{component.MustNewID("cell_health"): &board{}, component.MustNewIDWithName("cell_health", "2"): &board{}}
	require.ErrorContains(t, rec.Start(t.Context(), host), "cell_health, cell_health/2")
	require.NoError(t, rec.Shutdown(t.Context()))
}

// Guarantees: the time since the last request counts from the start, and whatever became of the request.
func TestIdleIsTheTimeSinceAnyRequest(t *testing.T) {
	r, telemetry := startMeasured(t, testConfig(), &sink{}, nil)
	idle := func() int64 { return collectortest.Sum(t, telemetry.Reader, "ingest_idle") }
	long := func() { r.grpc.in.last.Store(time.Now().Add(-100 * time.Second).UnixNano()) }
	require.Less(t, idle(), int64(60))
	for name, send := range map[string]func(){
		"taken over HTTP":   func() { r.post("/v1/logs", bytes.NewReader(otlptest.Logs(1, 1)), "Content-Type", typeProtobuf) },
		"refused over HTTP": func() { r.post("/nothing", bytes.NewReader(nil)) },
		"taken over gRPC":   func() { require.NoError(t, raw(t.Context(), r.dial(), signal.Logs, otlptest.Logs(1, 1))) },
		"refused over gRPC": func() { require.Error(t, raw(t.Context(), r.dial(), signal.Logs, []byte("no"))) },
	} {
		long()
		require.GreaterOrEqual(t, idle(), int64(100), name)
		send()
		require.Eventually(t, func() bool { return idle() < 60 }, patience, time.Millisecond, name)
	}
}
