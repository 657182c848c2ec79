package ingestreceiver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// served asserts that a healthy sender is served beside what a test does.
func (r *rig) served() {
	r.t.Helper()
	require.Equal(r.t, http.StatusOK, r.post("/v1/logs", bytes.NewReader(otlptest.Logs(1, 1)), "Content-Type", typeProtobuf).code)
	require.NoError(r.t, raw(r.t.Context(), r.dial(), signal.Logs, otlptest.Logs(1, 1)))
}

// ended reads until the other side ends a connection.
func ended(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.Copy(io.Discard, conn)
	var failed net.Error
	require.False(t, errors.As(err, &failed) && failed.Timeout(), "the connection is still open")
}

// Scenario: connections that send their headers a byte at a time, or nothing at all, over HTTP; over gRPC calls whose message never comes.
// Guarantees: each is ended after a bounded time, by default too, while healthy senders are served.
func TestSlowHeadersAndCallsWithoutAMessageAreEnded(t *testing.T) {
	defaults := createDefaultConfig().(*Config)
	assert.Positive(t, defaults.Protocols.HTTP.GetOrInsertDefault().ReadHeaderTimeout)
	assert.Positive(t, defaults.Protocols.HTTP.Get().IdleTimeout) //nolint:staticcheck // it is where the library's default still is
	assert.Positive(t, defaults.Protocols.GRPC.GetOrInsertDefault().Keepalive.Get().ServerParameters.Get().MaxConnectionAge)
	assert.Positive(t, defaults.Protocols.GRPC.Get().Keepalive.Get().ServerParameters.Get().MaxConnectionAgeGrace)

	cfg := testConfig()
	cfg.Protocols.HTTP.Get().ReadHeaderTimeout = 3 * time.Second
	parameters := cfg.Protocols.GRPC.Get().Keepalive.Get().ServerParameters.Get()
	parameters.MaxConnectionAge, parameters.MaxConnectionAgeGrace = 3*time.Second, 3*time.Second
	r := start(t, cfg, &sink{}, nil)

	var conns []net.Conn
	for range 20 {
		conn, err := net.Dial("tcp", r.httpAddr.String())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		conns = append(conns, conn)
		go func() {
			for _, c := range "POST /v1/logs HTTP/1.1\r\nX-Slow: " + strings.Repeat("x", 1000) {
				if _, err := conn.Write([]byte(string(c))); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	calls := make(chan error, 20)
	for range cap(calls) {
		stream, err := r.dial().NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, "/"+services[signal.Logs]+"/Export", grpc.ForceCodecV2(clientCodec{}))
		require.NoError(t, err)
		go func() { calls <- stream.RecvMsg(&frame{}) }()
	}
	r.served()
	for _, conn := range conns {
		ended(t, conn)
	}
	for range cap(calls) {
		select {
		case err := <-calls:
			require.Error(t, err)
		case <-time.After(patience):
			t.Fatal("a call without a message is still open")
		}
	}
	r.served()
}

// Scenario: requests that are refused by their headers, and whose bodies, small ones, never come.
// Guarantee: they are answered, and no longer waited for than any body.
func TestABodyThatNeverComesHoldsUpNoRefusal(t *testing.T) {
	cfg := guarded(testConfig())
	cfg.Limits.ReadTimeout = 300 * time.Millisecond
	r := start(t, cfg, &sink{}, hostWith{gatekeeperID: newGatekeeper(t)})
	for want, headers := range map[int]string{
		http.StatusNotFound:             "POST /v1/nothing HTTP/1.1\r\n",
		http.StatusUnsupportedMediaType: "POST /v1/logs HTTP/1.1\r\nContent-Type: text/html\r\n",
		http.StatusUnauthorized:         "POST /v1/logs HTTP/1.1\r\nContent-Type: application/json\r\n",
	} {
		conn, err := net.Dial("tcp", r.httpAddr.String())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = conn.Write([]byte(headers + "Host: x\r\nContent-Length: 1000\r\n\r\n"))
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, want)
		require.Equal(t, want, resp.StatusCode)
		_ = resp.Body.Close()
	}
}

// Scenario: headers without end, many and large, over HTTP and gRPC.
// Guarantees: the connection or call is refused before it costs more than its bound, and healthy senders are served.
func TestAFloodOfHeadersIsCutOff(t *testing.T) {
	r := start(t, testConfig(), &sink{}, nil)
	conn, err := net.Dial("tcp", r.httpAddr.String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	go func() {
		w := bufio.NewWriter(conn)
		_, _ = w.WriteString("POST /v1/logs HTTP/1.1\r\nHost: x\r\n")
		for i := range 1_000_000 {
			if _, err := fmt.Fprintf(w, "X-H-%d: %s\r\n", i, strings.Repeat("v", 100)); err != nil {
				return
			}
		}
		_ = w.Flush() // fails where the server has hung up
	}()
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil { // else it was reset before its answer was read
		assert.Equal(t, http.StatusRequestHeaderFieldsTooLarge, answer.StatusCode)
		_ = answer.Body.Close()
	}
	pairs := make([]string, 0, 2000)
	for i := range 1000 {
		pairs = append(pairs, fmt.Sprintf("x-h-%d", i), strings.Repeat("v", 100))
	}
	err = raw(grpcmetadata.AppendToOutgoingContext(t.Context(), pairs...), r.dial(), signal.Logs, otlptest.Logs(1, 1))
	assert.NotEqual(t, codes.OK, status.Code(err), "%v", err)
	r.served()
}

// manyKeys is a request of log records whose attribute keys occur nowhere else.
func manyKeys(t testing.TB, seed, records, attributes int) []byte {
	t.Helper()
	req := plogotlp.NewExportRequest()
	logs := req.Logs().ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for i := range records {
		attrs := logs.AppendEmpty().Attributes()
		attrs.EnsureCapacity(attributes)
		for j := range attributes {
			attrs.PutInt(fmt.Sprintf("key-%d-%d-%d", seed, i, j), int64(j))
		}
	}
	b, err := req.MarshalProto()
	require.NoError(t, err)
	return b
}

// Scenario: a million distinct attribute keys, in requests of a thousand records.
// Guarantees: they are taken like any other, and nothing of them stays behind: no table, no metric grows with them.
func TestAMillionDistinctAttributeKeysLeaveNothingBehind(t *testing.T) {
	r := start(t, testConfig(), consumertest.NewNop(), nil)
	conn := r.dial()
	send := func(from, to int) {
		for seed := from; seed < to; seed++ {
			require.NoError(t, raw(t.Context(), conn, signal.Logs, manyKeys(t, seed, 1000, 10)))
		}
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	send(0, 5)
	before := heap()
	send(5, 105)
	assert.Less(t, heap()-before, int64(8<<20))
}
