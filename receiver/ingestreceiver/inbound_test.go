package ingestreceiver

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// unfinished calls Export with a message of size bytes of which only the first sent come. The answer's trailer is in the channel, once there is one.
func unfinished(ctx context.Context, r *rig, client *http.Client, size, sent int, who string) <-chan http.Header {
	r.t.Helper()
	body, w := io.Pipe()
	r.t.Cleanup(func() { _ = w.Close() })
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.grpcAddr.String()+"/"+services[signal.Logs]+"/Export", body)
	require.NoError(r.t, err)
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "X-Who": {who}}
	answered := make(chan http.Header, 1)
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			answered <- http.Header{"Grpc-Status": {err.Error()}}
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		for k, v := range resp.Trailer { // an answer without messages has them among its headers
			resp.Header[k] = v
		}
		answered <- resp.Header
	}()
	go func() {
		head := binary.BigEndian.AppendUint32([]byte{0}, uint32(size))
		_, _ = w.Write(append(head, make([]byte, sent)...))
	}()
	return answered
}

// overHTTP2 is a connection of its own.
func overHTTP2(t *testing.T) *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// Scenario: one tenant's calls over 20 connections, each of which sends a large message but for its last byte.
// Guarantees: they hold no more than the tenant's share of the memory for requests in flight; those beyond it are refused as retryable; others are served;
// and when their messages cannot come any more nothing is held.
func TestUnfinishedMessagesOfOneTenantLeaveRoomForOthers(t *testing.T) {
	cfg := guarded(testConfig())
	cfg.Limits.MaxCompressedBytes, cfg.Limits.MaxDecompressedBytes, cfg.Limits.MaxInFlightBytes = mib, mib, 16*mib
	cfg.Limits.ReadTimeout = time.Hour
	r := start(t, cfg, &sink{}, hostWith{gatekeeperID: newGatekeeper(t)})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var answers []<-chan http.Header
	for range 20 {
		answers = append(answers, unfinished(ctx, r, overHTTP2(t), mib, mib-1, "acme"))
	}
	require.Eventually(t, func() bool { return r.budget.used.Load() > 6*mib }, patience, 10*time.Millisecond)
	refused := 0
	require.Eventually(t, func() bool {
		for _, a := range answers {
			select {
			case h := <-a:
				require.Equal(t, []string{"1"}, h["Grpc-Status"], "%v", h) // Canceled: the library answers, and senders come again
				refused++
			default:
			}
		}
		return refused >= 12
	}, patience, 10*time.Millisecond)
	r.budget.mu.Lock()
	held := r.budget.tenants["acme"]
	r.budget.mu.Unlock()
	require.LessOrEqual(t, held, int64(8*mib))
	require.LessOrEqual(t, r.budget.used.Load(), int64(9*mib), "what comes of a message before its call is known to be the tenant's is nobody's")
	for transport, err := range both(r, signal.Logs, "x-who", "logs") {
		require.NoError(t, err, transport)
	}
	leave()
	require.Eventually(t, func() bool { return r.budget.used.Load() == 0 }, patience, 10*time.Millisecond)
}

// Guarantees: what a connection has reserved before its call's tenant is known is of the tenant's share from then on; where that has no room the call is refused, and others are not.
func TestWhatComesBeforeTheTenantIsKnownIsTheTenants(t *testing.T) {
	b := newBudget(4*mib, 2*mib)
	first, second := newInbound(b), newInbound(b)
	taken, refused := &call{cancel: func() {}}, &call{cancel: func() {}}
	first.begin(taken)
	first.read(mib)
	require.Positive(t, b.used.Load())
	require.Empty(t, b.tenants)
	first.owner("acme")
	require.Equal(t, b.used.Load(), b.tenants["acme"])
	second.begin(refused)
	second.read(2 * mib)
	second.owner("acme")
	require.NotNil(t, refused.refused.Load())
	require.Nil(t, taken.refused.Load())
	require.Equal(t, b.used.Load(), b.tenants["acme"])
	first.close()
	second.close()
	require.Zero(t, b.used.Load())
	require.Empty(t, b.tenants)
}

// Scenario: a call whose message does not come to its end, beside healthy ones of its connection.
// Guarantees: it is refused as retryable after limits::read_timeout; the connection goes on.
func TestAMessageMustComeInTime(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.ReadTimeout = 2 * time.Second
	r := start(t, cfg, &sink{}, nil)
	client := overHTTP2(t)
	late := unfinished(t.Context(), r, client, mib, mib-1, "")
	select {
	case h := <-late:
		require.Equal(t, []string{"1"}, h["Grpc-Status"], "%v", h) // Canceled: the library answers, and senders come again
	case <-time.After(patience):
		t.Fatal("the call is still open")
	}
	require.Eventually(t, func() bool { return r.budget.used.Load() == 0 }, patience, time.Millisecond) // the library answers before the call has ended
	r.served()
}

// underWay counts how many messages are decompressed at once, at most.
type underWay struct {
	encoding.Compressor
	now, most atomic.Int64
}

func (c *underWay) Decompress(io.Reader) (io.Reader, error) {
	if now := c.now.Add(1); now > c.most.Load() {
		c.most.Store(now)
	}
	return readerFunc(func([]byte) (int, error) {
		time.Sleep(time.Millisecond)
		c.now.Add(-1)
		return 0, io.EOF
	}), nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// Guarantee: however many messages come at once, no more of them are decompressed at once than there are places.
func TestCompressedMessagesAreDecompressedInTurn(t *testing.T) {
	c := &underWay{}
	turn := &inTurn{c, make(chan struct{}, 2)}
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() { _ = decompress(turn, nil) })
	}
	wg.Wait()
	require.Positive(t, c.most.Load())
	require.LessOrEqual(t, c.most.Load(), int64(2))
	require.Empty(t, turn.places, "each place is given back")
}

// Scenario: more messages than there are places become more than a message may be, so that they are not read to their end.
// Guarantee: their places are given back: compressed messages are taken afterwards.
func TestMessagesThatAreTooLargeGiveTheirPlacesBack(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.MaxDecompressedBytes = mib
	r := start(t, cfg, &sink{}, nil)
	for range 2*runtime.GOMAXPROCS(0) + 1 {
		err := raw(t.Context(), r.dial(), signal.Logs, make([]byte, 2*mib), grpc.UseCompressor(encodingGzip))
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
	}
	require.NoError(t, raw(t.Context(), r.dial(), signal.Logs, otlptest.Logs(1, 1), grpc.UseCompressor(encodingGzip)))
}
