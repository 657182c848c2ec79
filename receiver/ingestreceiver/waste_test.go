package ingestreceiver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Scenario: a tenant sends nothing but requests that cost no quota, of one kind after the other, and does not wait.
// Guarantees: by both transports it is told to come again, by its headers alone, before it has cost more than it may; it may come again when it was told to;
// another tenant is served meanwhile. How many requests that takes shows that what each costs is counted, and not more.
func TestATenantCannotKeepAGatewayBusyForNothing(t *testing.T) {
	const most = 1 << 20 // bytes of a request, and a second
	large := make([]byte, 3*most/2)
	post := func(path, contentType, encoding string, body []byte) func(*rig) *status.Status {
		return func(r *rig) *status.Status {
			headers := []string{"Content-Type", contentType, "X-Who", "acme"}
			if encoding != "" {
				headers = append(headers, "Content-Encoding", encoding)
			}
			got := r.post(path, bytes.NewReader(body), headers...)
			if got.code == http.StatusOK {
				return nil
			}
			return statusOf(t, got)
		}
	}
	call := func(body []byte, opts ...grpc.CallOption) func(*rig) *status.Status {
		return func(r *rig) *status.Status {
			return status.Convert(raw(grpcmetadata.AppendToOutgoingContext(t.Context(), "x-who", "acme"), r.dial(), signal.Logs, body, opts...))
		}
	}
	resources := bytes.Repeat([]byte("\x0a\x00"), most/2) // none of which has events
	whole := compress(t, encodingGzip, resources)
	cut := whole[:len(whole)-4] // shows when all is decompressed
	for name, of := range map[string]struct {
		send func(*rig) *status.Status
		cost int // bytes of one request, about
	}{
		"a bomb":                            {post("/v1/logs", typeProtobuf, encodingGzip, bomb(t, 1<<26)), most},
		"a bomb of zstd":                    {post("/v1/logs", typeProtobuf, encodingZstd, compress(t, encodingZstd, make([]byte, 1<<26))), minWaste},
		"damaged":                           {post("/v1/logs", typeProtobuf, encodingGzip, large[:most]), most},
		"damaged at its end":                {post("/v1/logs", typeProtobuf, encodingGzip, cut), most},
		"no OTLP":                           {post("/v1/logs", typeProtobuf, "", bytes.Repeat([]byte{0xff}, most)), most},
		"no JSON":                           {post("/v1/logs", typeJSON, "", bytes.Repeat([]byte{'['}, most)), most},
		"too deep":                          {post("/v1/logs", typeProtobuf, "", deepProtobuf(1000)), minWaste},
		"too many events":                   {post("/v1/logs", typeProtobuf, "", otlptest.Logs(1, 2000)), minWaste},
		"no events":                         {post("/v1/logs", typeProtobuf, encodingGzip, whole), most},
		"legacy events that are none":       {post("/v1/events", typeJSON, "", bytes.Repeat([]byte{'['}, most)), most},
		"too large":                         {post("/v1/logs", typeProtobuf, "", large), minWaste},
		"small":                             {post("/v1/logs", typeProtobuf, "", []byte{0xff}), minWaste},
		"no OTLP, gRPC":                     {call(bytes.Repeat([]byte{0xff}, most)), most},
		"no events, gRPC":                   {call(resources, grpc.UseCompressor(encodingGzip)), most},
		"too large when decompressed, gRPC": {call(large, grpc.UseCompressor(encodingGzip)), most},
		"too large, gRPC":                   {call(large), minWaste},
		"no OTLP, compressed, gRPC":         {call(make([]byte, most-1), grpc.UseCompressor(encodingGzip)), most},
		"damaged at its end, gRPC":          {func(r *rig) *status.Status { return gzipCall(t, r, cut) }, most},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := guarded(testConfig())
			cfg.LegacyEvents.Enabled = true
			cfg.Limits.MaxCompressedBytes, cfg.Limits.MaxDecompressedBytes, cfg.Limits.MaxEvents, cfg.Limits.MaxRefusedBytesPerSecond = most, most, 1000, most
			r := start(t, cfg, &sink{}, hostWith{gatekeeperID: newGatekeeper(t)})
			now := time.Now()
			r.waste.now = func() time.Time { return now }
			sent := 0
			st := of.send(r)
			for ; st.Code() != codes.ResourceExhausted || retryDelay(st) == nil || strings.Contains(st.Message(), oneAtATime); st = of.send(r) {
				if retryDelay(st) != nil { // the gRPC library answers for a message that it refuses a moment before the call has ended
					continue
				}
				sent++
				require.LessOrEqual(t, sent, wasteBurst*most/of.cost+2, "%v", st)
			}
			require.GreaterOrEqual(t, sent, wasteBurst*most/of.cost/5, "what a request costs is counted many times")
			require.ErrorContains(t, st.Err(), "max_refused_bytes_per_second")
			for transport, err := range both(r, signal.Traces, "x-who", "acme") {
				require.Equal(t, codes.ResourceExhausted, status.Code(err), transport)
			}
			for transport, err := range both(r, signal.Logs, "x-who", "logs") {
				require.NoError(t, err, transport)
			}
			require.Equal(t, http.StatusTooManyRequests, headersOnly(t, r, "acme"))
			require.Eventually(t, func() bool { // a call that the library refused may not have ended
				r.waste.mu.Lock()
				defer r.waste.mu.Unlock()
				return !r.waste.of["acme"].busy
			}, patience, time.Millisecond)
			now = now.Add(retryDelay(st).AsDuration())
			for transport, err := range both(r, signal.Traces, "x-who", "acme") {
				require.NoError(t, err, transport)
			}
			now = now.Add(time.Hour)
			r.waste.add("other", 1)
			require.Len(t, r.waste.of, 1, "forgotten waste takes no memory")
		})
	}
}

// Scenario: several requests of a tenant that has wasted half of what it may at once come in at the same moment.
// Guarantees: one is in at a time, whatever its transport, so that they cannot waste a multiple; the others are told by their headers to come again in a moment, and
// are taken then. Where the one that is in ends in a refusal, the next may come all the same. Another tenant is not held up.
func TestATenantThatWastesHasOneRequestAtATime(t *testing.T) {
	const who = "x-who"
	for first := range transports {
		t.Run(first, func(t *testing.T) {
			in, out := make(chan struct{}), make(chan error)
			defer close(out) // also where the test fails: the server waits for the request that is in
			gated := true    // of the request that is in
			cfg := guarded(testConfig())
			r := start(t, cfg, &sink{script: func(context.Context) error {
				if !gated {
					return nil
				}
				gated = false
				in <- struct{}{}
				return <-out
			}}, hostWith{gatekeeperID: newGatekeeper(t)})
			now := time.Now()
			r.waste.now = func() time.Time { return now }
			r.waste.add("acme", int64(wasteBurst/2*cfg.Limits.MaxRefusedBytesPerSecond)+1)
			for _, end := range []error{nil, &tenant.Refusal{Reason: tenant.ReasonQuota, Code: codes.ResourceExhausted, After: time.Minute, Text: "over its quota"}, errors.New("Kafka is away")} {
				gated = true
				done := make(chan error, 1)
				go func() { done <- transports[first](r, signal.Logs, who, "acme") }()
				<-in
				for transport, err := range both(r, signal.Logs, who, "acme") {
					require.Equal(t, codes.ResourceExhausted, status.Code(err), transport)
					require.ErrorContains(t, err, oneAtATime)
					require.Equal(t, minWasteWait, retryDelay(status.Convert(err)).AsDuration())
				}
				require.Equal(t, http.StatusTooManyRequests, headersOnly(t, r, "acme"))
				for transport, err := range both(r, signal.Logs, who, "logs") {
					require.NoError(t, err, transport)
				}
				out <- end
				require.Equal(t, end == nil, <-done == nil)
				for transport, err := range both(r, signal.Logs, who, "acme") {
					require.NoError(t, err, transport)
				}
			}
			now = now.Add(time.Hour)
			r.waste.add("other", 1)
			require.Len(t, r.waste.of, 1)
		})
	}
}

// gzipCall sends bytes as a gRPC message that is gzip, which they may not be.
func gzipCall(t *testing.T, r *rig, message []byte) *status.Status {
	t.Helper()
	body := append(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(message))), message...)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.grpcAddr.String()+"/"+services[signal.Logs]+"/Export", bytes.NewReader(body))
	require.NoError(t, err)
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Grpc-Encoding": {encodingGzip}, "X-Who": {"acme"}}
	resp, err := overHTTP2(t).Do(req)
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	said := resp.Trailer
	if said.Get("Grpc-Status") == "" {
		said = resp.Header // of an answer without messages
	}
	if details, err := base64.RawStdEncoding.DecodeString(said.Get("Grpc-Status-Details-Bin")); err == nil && len(details) > 0 {
		s := &spb.Status{}
		require.NoError(t, proto.Unmarshal(details, s))
		return status.FromProto(s)
	}
	code, err := strconv.Atoi(said.Get("Grpc-Status"))
	require.NoError(t, err)
	return status.New(codes.Code(code), said.Get("Grpc-Message"))
}

// headersOnly is the status of the answer to a request of a large body, which never comes.
func headersOnly(t *testing.T, r *rig, who string) int {
	t.Helper()
	conn, err := net.Dial("tcp", r.httpAddr.String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = fmt.Fprintf(conn, "POST /v1/logs HTTP/1.1\r\nHost: x\r\nX-Who: %s\r\nContent-Type: %s\r\nContent-Length: 1000000\r\n\r\n", who, typeProtobuf)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode
}

// Guarantees: what the gateway or the next hop is at fault for is not counted, nor what is sent in the name of a tenant without its credentials: anybody could
// have a tenant refused. Requests that the tenant's quota does not allow are counted.
func TestWhatATenantHasNoPartInIsNotCounted(t *testing.T) {
	fails := error(nil)
	r := start(t, guarded(testConfig()), &sink{script: func(context.Context) error { return fails }}, hostWith{gatekeeperID: newGatekeeper(t)})
	for _, fails = range []error{nil, errors.New("Kafka is away"), status.Error(codes.ResourceExhausted, "a full disk"), consumererror.NewPermanent(errors.New("no"))} {
		both(r, signal.Logs, "x-who", "acme")
	}
	require.Empty(t, r.waste.of)
	fails = &tenant.Refusal{Reason: tenant.ReasonQuota, Code: codes.ResourceExhausted, After: time.Minute, Text: "over its quota"}
	for transport, err := range both(r, signal.Logs, "x-who", "acme") {
		require.Equal(t, codes.ResourceExhausted, status.Code(err), transport)
	}
	require.InDelta(t, 2*minWaste, r.waste.of["acme"].bytes, minWaste)

	open := start(t, testConfig(), &sink{}, nil)
	require.Equal(t, http.StatusBadRequest, open.post("/v1/logs", strings.NewReader("\xff"), "Content-Type", typeProtobuf, "x-pulsegrid-tenant", "acme").code)
	require.Error(t, raw(t.Context(), open.dial(), signal.Logs, []byte{0xff}))
	require.Error(t, raw(t.Context(), open.dial(), signal.Logs, make([]byte, 65*mib), grpc.UseCompressor(encodingGzip)))
	require.Empty(t, open.waste.of)
}

// Scenario: agents of a tenant send a large request that is at fault, and a small one ten times a second, beside good ones.
// Guarantees: the good ones are taken; of the large one all is counted that was decompressed.
func TestAnAgentWithAFaultDoesNotHurtItsTenant(t *testing.T) {
	r := start(t, guarded(testConfig()), &sink{}, hostWith{gatekeeperID: newGatekeeper(t)})
	now := time.Now()
	r.waste.now = func() time.Time { return now }
	ctx := grpcmetadata.AppendToOutgoingContext(t.Context(), "x-who", "acme")
	require.Equal(t, codes.InvalidArgument, status.Code(raw(ctx, r.dial(), signal.Logs, make([]byte, ratioFloor+mib), grpc.UseCompressor(encodingGzip))), "its ratio")
	require.InDelta(t, ratioFloor+mib, r.waste.of["acme"].bytes, 1)
	bad := bytes.Repeat([]byte{0xff}, 100<<10)
	for range 2000 {
		require.Equal(t, http.StatusBadRequest, r.post("/v1/logs", bytes.NewReader(bad), "Content-Type", typeProtobuf, "x-who", "acme").code)
		now = now.Add(100 * time.Millisecond)
	}
	for transport, err := range both(r, signal.Logs, "x-who", "acme") {
		require.NoError(t, err, transport)
	}
}
