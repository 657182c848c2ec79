package ingestreceiver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

var oneEvent = equalLines(1)

// equalLines is a request of so many log records that are equal, with the times of a clock of seconds.
func equalLines(n int) []byte {
	ld := plog.NewLogs()
	lines := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for range n {
		line := lines.AppendEmpty()
		line.SetTimestamp(1_790_000_000 * 1e9)
		line.Body().SetStr("connection refused, retrying")
	}
	body, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	if err != nil {
		panic(err)
	}
	return body
}

// startRepeats has a window that a loaded machine does not miss.
func startRepeats(t *testing.T, next *sink) *rig {
	cfg := testConfig()
	cfg.Repeats.Window = maxRepeatWindow
	return start(t, cfg, next, nil)
}

// identities of the requests that came, in order; the empty one is that of the request itself.
func (s *sink) identities() []string {
	var all []string
	for _, e := range s.take() {
		all = append(all, string(e.Request))
	}
	return all
}

// places are the identities of n equal requests.
func places(n int) []string {
	var all []string
	for i := range n {
		all = append(all, string(identityOf(eventid.Digest(oneEvent), i)))
	}
	return all
}

// send posts the event by a connection of its own, which it returns open. The answer is not read.
func (r *rig) send(headers string) net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.httpAddr.String())
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	_, err = fmt.Fprintf(c, "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s", typeProtobuf, len(oneEvent), headers, oneEvent)
	require.NoError(r.t, err)
	return c
}

func (r *rig) postOne(headers ...string) int {
	r.t.Helper()
	return r.post("/v1/logs", bytes.NewReader(oneEvent), append(headers, "Content-Type", typeProtobuf)...).code
}

// held is a sink's script that lets requests wait: each tells that it has come, and goes on when it is let.
type held struct{ come, let chan struct{} }

func newHeld() held { return held{make(chan struct{}, 1000), make(chan struct{})} }

func (h held) script(context.Context) error {
	h.come <- struct{}{}
	<-h.let
	return nil
}

// Guarantees: equal requests that come one after another by one connection are different requests; the first one is handed on as ever.
func TestEqualRequestsOfOneConnectionAreDifferentRequests(t *testing.T) {
	next := &sink{}
	r := startRepeats(t, next)
	for range 60 {
		require.Equal(t, 200, r.postOne())
	}
	got := next.identities()
	require.Equal(t, places(60), got)
	require.Empty(t, got[0])
	seen := map[[16]byte]bool{}
	for _, id := range got {
		of := eventid.OfBody(oneEvent, []byte(id), 1)
		require.True(t, of.Whole)
		seen[of.Digest] = true
	}
	require.Len(t, seen, 60)
}

// Guarantees: so are those that are under way at once, by connections of their own or by one of HTTP/2.
func TestEqualRequestsUnderWayAtOnceAreDifferentRequests(t *testing.T) {
	const n = 20
	for name, send := range map[string]func(*testing.T, *rig) func() error{
		"http": func(_ *testing.T, r *rig) func() error {
			r.http.Transport.(*http.Transport).MaxIdleConnsPerHost = n
			return func() error {
				if code := r.postOne(); code != 200 {
					return fmt.Errorf("status %d", code)
				}
				return nil
			}
		},
		"grpc": func(t *testing.T, r *rig) func() error {
			conn := r.dial()
			return func() error { return raw(t.Context(), conn, signal.Logs, oneEvent) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHeld()
			next := &sink{script: h.script}
			r := startRepeats(t, next)
			one := send(t, r)
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() { assert.NoError(t, one()) })
			}
			for range n {
				<-h.come
			}
			close(h.let)
			wg.Wait()
			require.NoError(t, one(), "after they were answered")
			require.ElementsMatch(t, places(n+1), next.identities())
		})
	}
}

// Guarantees: a connection with TLS is seen through, over HTTP/2 and gRPC.
func TestEqualRequestsByTLSAreDifferentRequests(t *testing.T) {
	certFile, keyFile, _, pool := authority(t)
	cfg := testConfig()
	cfg.Repeats.Window = maxRepeatWindow
	server := configtls.ServerConfig{Config: configtls.Config{CertFile: certFile, KeyFile: keyFile}}
	cfg.Protocols.HTTP.Get().TLS = configoptional.Some(server)
	cfg.Protocols.GRPC.Get().TLS = configoptional.Some(server)
	next := &sink{}
	r := start(t, cfg, next, nil)
	tlsConfig := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	tr := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	r.http.Transport = tr
	r.url = strings.Replace(r.url, "http:", "https:", 1)
	conn := r.dial(grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)))
	for range 3 {
		require.Equal(t, 200, r.postOne())
		require.NoError(t, raw(t.Context(), conn, signal.Logs, oneEvent))
	}
	require.Equal(t, places(6), next.identities())
	tr.CloseIdleConnections()
	require.Eventually(t, func() bool {
		require.NoError(t, raw(t.Context(), conn, signal.Logs, oneEvent))
		return next.identities()[0] == ""
	}, patience, 10*time.Millisecond, "the place of a closed connection is free")
}

// Scenario: of three equal requests the second one's connection is cut before its answer; its client sends it again by another.
// Guarantees: it has the identity of the second one, and the next one is new.
func TestARequestWhoseConnectionWasCutKeepsItsIdentity(t *testing.T) {
	h := newHeld()
	next := &sink{script: h.script}
	r := startRepeats(t, next)
	var conns []net.Conn
	for range 3 {
		conns = append(conns, r.send(""))
		<-h.come
	}
	require.NoError(t, conns[1].Close())
	r.send("")
	<-h.come
	r.send("")
	<-h.come
	close(h.let)
	p := places(4)
	var got []string
	require.Eventually(t, func() bool { got = append(got, next.identities()...); return len(got) == 5 }, patience, time.Millisecond)
	require.ElementsMatch(t, []string{p[0], p[1], p[2], p[1], p[3]}, got)
}

// Scenario: the answer was sent, but its client closed the connection; perhaps it has not read it.
func TestARequestWhoseConnectionIsClosedAfterTheAnswerKeepsItsIdentity(t *testing.T) {
	next := &sink{}
	r := startRepeats(t, next)
	for range 3 {
		c := r.send("")
		_, err := io.ReadAtLeast(c, make([]byte, 100), 1)
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	require.Equal(t, []string{"", "", ""}, next.identities())
}

// Scenario: a client gives a request up while it is handled, and sends it again.
func TestARequestThatTimedOutKeepsItsIdentity(t *testing.T) {
	for name, send := range map[string]func(*testing.T, *rig) func(context.Context) error{
		"http": func(t *testing.T, r *rig) func(context.Context) error {
			return func(ctx context.Context) error {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/logs", bytes.NewReader(oneEvent))
				require.NoError(t, err)
				req.Header.Set("Content-Type", typeProtobuf)
				resp, err := r.http.Do(req)
				if err == nil {
					_ = resp.Body.Close()
				}
				return err
			}
		},
		"grpc": func(_ *testing.T, r *rig) func(context.Context) error {
			conn := r.dial()
			return func(ctx context.Context) error { return raw(ctx, conn, signal.Logs, oneEvent) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHeld()
			next := &sink{script: h.script}
			r := startRepeats(t, next)
			one := send(t, r)
			ctx, cancel := context.WithCancel(t.Context())
			first := make(chan error, 1)
			go func() { first <- one(ctx) }()
			<-h.come
			cancel()
			require.Error(t, <-first)
			second := make(chan error, 1)
			go func() { second <- one(t.Context()) }()
			<-h.come
			close(h.let)
			require.NoError(t, <-second)
			var got []string
			require.Eventually(t, func() bool { got = append(got, next.identities()...); return len(got) == 2 }, patience, time.Millisecond)
			require.Equal(t, []string{"", ""}, got)
		})
	}
}

// Scenario: of three equal requests the last is refused for now, and sent again until it is taken, after the window too.
// Guarantees: it keeps its place, and within the window the next one is new.
func TestRefusedRequestsKeepTheirIdentity(t *testing.T) {
	for _, after := range []time.Duration{0, maxRepeatWindow + time.Second} {
		refuse := false
		next := &sink{script: func(context.Context) error {
			if refuse {
				return status.Error(codes.Unavailable, "not now")
			}
			return nil
		}}
		r := startRepeats(t, next)
		now := time.Now()
		r.repeats.now = func() time.Time { return now }
		conn := r.dial()
		sendGRPC := func() codes.Code { return status.Code(raw(t.Context(), conn, signal.Logs, oneEvent)) }
		require.Equal(t, 200, r.postOne())
		require.Equal(t, codes.OK, sendGRPC())
		refuse = true
		require.Equal(t, 503, r.postOne())
		require.Equal(t, codes.Unavailable, sendGRPC())
		refuse = false
		now = now.Add(after)
		require.Equal(t, 200, r.postOne())
		got := next.identities()
		require.Equal(t, places(3), got)
		if after == 0 {
			require.Equal(t, codes.OK, sendGRPC())
			require.Equal(t, places(4)[3:], next.identities())
		}
	}
}

// Guarantees: after the window an equal request is a copy of the first one; a client may have waited for that long and sent it again.
func TestAnEqualRequestAfterTheWindowKeepsItsIdentity(t *testing.T) {
	for _, before := range []int{1, 3} {
		next := &sink{}
		r := startRepeats(t, next)
		now := time.Now()
		r.repeats.now = func() time.Time { return now }
		for range before {
			require.Equal(t, 200, r.postOne())
		}
		require.Equal(t, places(before), next.identities())
		now = now.Add(maxRepeatWindow)
		require.Equal(t, 200, r.postOne())
		require.Equal(t, []string{""}, next.identities())
	}
}

// Guarantees: behind a proxy that says so, and where a client's library repeats calls, an equal request is a copy, since failures do not show.
func TestRelayedRequestsKeepTheirIdentity(t *testing.T) {
	next := &sink{}
	r := startRepeats(t, next)
	for _, header := range []string{"Via", "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Envoy-Attempt-Count"} {
		require.Equal(t, 200, r.postOne())
		require.Equal(t, 200, r.postOne(header, "1"))
		require.Empty(t, next.identities()[1], header)
	}
	conn := r.dial()
	for range 2 {
		ctx := grpcmetadata.AppendToOutgoingContext(t.Context(), "grpc-previous-rpc-attempts", "1")
		require.NoError(t, raw(ctx, conn, signal.Logs, oneEvent))
		require.Equal(t, []string{""}, next.identities())
	}
}

// Scenario: a batch processor cuts equal lines of one second into batches that are equal byte for byte.
// Guarantees: equal requests of many events are different requests too, whatever their size, and each has all its events.
func TestEqualBatchesAreDifferentRequests(t *testing.T) {
	next := &sink{}
	r := startRepeats(t, next)
	for _, events := range []int{2, 512, 20_000} {
		body := equalLines(events)
		for range 3 {
			require.Equal(t, 200, r.post("/v1/logs", bytes.NewReader(body), "Content-Type", typeProtobuf).code)
		}
		seen := map[[16]byte]bool{}
		for _, e := range next.take() {
			require.Equal(t, events, e.Events)
			of := eventid.OfBody(body, e.Request, events)
			require.True(t, of.Whole)
			seen[of.Digest] = true
		}
		require.Len(t, seen, 3)
	}
}

// Guarantees: a request with times finer than a millisecond, one of another tenant, source or signal, and every one where repeats are switched off, is handed on as ever.
func TestOnlyEqualRequestsOfOneSenderHavePlaces(t *testing.T) {
	next := &sink{}
	r := startRepeats(t, next)
	for range 2 {
		require.Equal(t, 200, r.post("/v1/logs", bytes.NewReader(otlptest.Logs(1, 2)), "Content-Type", typeProtobuf).code)
	}
	for i := range 3 {
		require.Equal(t, 200, r.postOne("x-pulsegrid-agent", fmt.Sprint(i)))
		require.Equal(t, 200, r.postOne("x-pulsegrid-tenant", fmt.Sprint(i)))
	}
	require.Equal(t, make([]string, 8), next.identities())

	cfg := testConfig()
	cfg.Repeats.Window = 0
	off := start(t, cfg, next, nil)
	for range 2 {
		require.Equal(t, 200, off.postOne())
	}
	require.Equal(t, make([]string, 2), next.identities())
}

// fakeSocket is one that a test closes.
type fakeSocket struct {
	syscall.RawConn
	closed bool
}

func (s *fakeSocket) Control(f func(uintptr)) error {
	if s.closed {
		return net.ErrClosed
	}
	return s.RawConn.Control(f)
}

// standing returns the socket of a connection that stands until the test ends.
func standing(t *testing.T) syscall.RawConn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = c.Close(), l.Close() })
	return connectionOf(c).socket
}

// Guarantees: after the window no group grows; and neither many different requests nor many equal ones take more than the bounds.
func TestRepeatsAreBounded(t *testing.T) {
	socket := standing(t)
	r := newRepeats(time.Second)
	now := time.Now()
	r.now = func() time.Time { return now }
	arrive := func(n int) (*arrival, int) {
		return r.arrive(t.Context(), &connection{socket}, repeatKey{hash: uint64(n)})
	}
	for n := range 3 * maxGroups {
		a, _ := arrive(n)
		a.end(true)
	}
	require.Len(t, r.groups, maxGroups)
	require.Len(t, r.young, maxGroups)
	now = now.Add(time.Second)
	_, place := arrive(3*maxGroups - 1)
	require.Zero(t, place)
	require.Len(t, r.groups, 1, "groups of one place are forgotten after the window")

	one := &connection{socket}
	for i := range maxGroupPlaces + 10 {
		a, place := r.arrive(t.Context(), one, repeatKey{tenant: "a"})
		if i >= maxGroupPlaces {
			require.Nil(t, a)
			require.Zero(t, place)
			continue
		}
		require.Equal(t, i, place)
		a.end(true)
	}
	require.Equal(t, maxGroupPlaces-1, r.places)
	now = now.Add(time.Second)
	a, place := r.arrive(t.Context(), one, repeatKey{tenant: "a"})
	require.Nil(t, a)
	require.Zero(t, place)

	r.places = maxPlaces
	arrive(0)
	_, place = arrive(0)
	require.Zero(t, place)
	r.places = maxGroupPlaces - 1
	now = now.Add(keepGroup)
	arrive(1)
	require.Zero(t, r.places)
	require.Len(t, r.groups, 1)
}

// attempt is a request in a model of clients.
type attempt struct {
	*arrival
	socket *fakeSocket
	cancel context.CancelFunc
	place  int
}

// Scenario: clients send equal events, each under way at once or one after another. Requests are answered, refused, recorded although they are refused,
// cut before they are recorded or after, or get lost on the way; each is sent again, to any of the gateways, until it is answered.
// Guarantees: there are never more identities than events, whatever happens. There are as many if one gateway saw them all at once, however late
// they are sent again, and if it saw each within the window.
func TestNoEventIsStoredTwiceAndNoneIsLostThatOneGatewaySaw(t *testing.T) {
	socket := standing(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, seed))
	for range 3000 {
		now := time.Now()
		window, atOnce, gateways := time.Second, random.IntN(2) == 0, make([]*repeats, 1+random.IntN(3))
		alone := len(gateways) == 1
		if alone && !atOnce {
			window = time.Hour
		}
		for i := range gateways {
			gateways[i] = newRepeats(window)
			gateways[i].now = func() time.Time { return now }
		}
		stored := map[int]bool{}
		emitted := 1 + random.IntN(20)
		arrive := func() *attempt {
			a := &attempt{socket: &fakeSocket{RawConn: socket}}
			var ctx context.Context
			ctx, a.cancel = context.WithCancel(t.Context())
			a.arrival, a.place = gateways[random.IntN(len(gateways))].arrive(ctx, &connection{a.socket}, repeatKey{})
			return a
		}
		// end tells whether the client sends it again.
		end := func(a *attempt) bool {
			defer a.cancel()
			if random.IntN(4) > 0 {
				stored[a.place] = true
			}
			switch random.IntN(4) {
			case 0:
				a.end(false)
			case 1:
				a.socket.closed = true
				a.end(true)
			case 2:
				a.cancel() // its handler goes on
			default:
				stored[a.place] = true
				a.end(true)
				return false
			}
			return true
		}
		var underWay []*attempt
		waiting := emitted
		if atOnce {
			for ; waiting > 0; waiting-- {
				underWay = append(underWay, arrive())
			}
			for _, a := range underWay {
				if end(a) {
					waiting++
				}
			}
		}
		for waiting > 0 {
			now = now.Add(time.Duration(random.IntN(100)) * time.Millisecond)
			if !alone && random.IntN(10) == 0 {
				continue // it does not arrive, and is sent again
			}
			if !end(arrive()) {
				waiting--
			}
		}
		require.LessOrEqual(t, len(stored), emitted)
		if alone {
			require.Len(t, stored, emitted)
		}
	}
}
