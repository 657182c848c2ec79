package ingestreceiver

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
)

// slowBody ends only after a while.
type slowBody struct {
	first, rest io.Reader
	wait        time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.first.Read(p)
	if err != io.EOF {
		return n, err
	}
	time.Sleep(b.wait)
	b.wait = 0
	return b.rest.Read(p)
}

// Scenario: senders whose network is slow: the body of a request comes for a second, over HTTP and over gRPC.
// Guarantees: the SLO's histogram has the time of the cell, and not of the sender's network: a fleet of phones must wake nobody.
func TestASlowBodyIsNotTheCellsTime(t *testing.T) {
	const wait = time.Second
	r, telemetry := startMeasured(t, testConfig(), &sink{}, nil)
	message := otlptest.Logs(1, 1)
	send := func(client *http.Client, url, contentType string, body []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, &slowBody{bytes.NewReader(body[:10]), bytes.NewReader(body[10:]), wait})
		require.NoError(t, err)
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Te", "trailers")
		answer, err := client.Do(req)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, http.StatusOK, answer.StatusCode)
	}
	send(r.http, r.url+"/v1/logs", typeProtobuf, message)
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &h2}
	defer tr.CloseIdleConnections()
	framed := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	send(&http.Client{Transport: tr}, "http://"+r.grpcAddr.String()+"/opentelemetry.proto.collector.logs.v1.LogsService/Export", "application/grpc", framed)

	m, err := telemetry.GetMetric("otelcol_ingest_request_duration")
	require.NoError(t, err)
	points := m.Data.(metricdata.Histogram[float64]).DataPoints
	require.Len(t, points, 2, "a transport each")
	for _, p := range points {
		require.EqualValues(t, 1, p.Count)
		outcome, _ := p.Attributes.Value("outcome")
		require.Equal(t, "accepted", outcome.AsString())
		require.Less(t, p.Sum, wait.Seconds())
	}
}
