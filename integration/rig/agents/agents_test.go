package agents

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/klauspost/compress/zstd"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// gateway takes requests and counts the copies of each event that it acknowledged, and of each that it saw.
type gateway struct {
	*httptest.Server
	answer func(n int) int // status of the n-th request

	mu          sync.Mutex
	n           int
	acked, seen map[string]int // by signal and number
}

func newGateway(t *testing.T, answer func(int) int) *gateway {
	t.Helper()
	g := &gateway{answer: answer, acked: map[string]int{}, seen: map[string]int{}}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the agent gave up
		}
		if r.Header.Get("Content-Encoding") == "zstd" {
			d, _ := zstd.NewReader(nil)
			defer d.Close()
			if body, err = d.DecodeAll(body, nil); err != nil {
				t.Error(err)
			}
		}
		numbers := decode(t, r.URL.Path, body)
		g.mu.Lock()
		defer g.mu.Unlock()
		status := g.answer(g.n)
		g.n++
		for _, n := range numbers {
			g.seen[n]++
			if status == http.StatusOK {
				g.acked[n]++
			}
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(g.Close)
	return g
}

// decode names the events of a request as stores find them again.
func decode(t *testing.T, path string, body []byte) (out []string) {
	switch path {
	case paths[signal.Logs]:
		r := plogotlp.NewExportRequest()
		if err := r.UnmarshalProto(body); err != nil {
			t.Error(err)
		}
		for _, lr := range r.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			out = append(out, "logs "+strings.TrimPrefix(lr.Body().Str(), NumberPrefix))
		}
	case paths[signal.Traces]:
		r := ptraceotlp.NewExportRequest()
		if err := r.UnmarshalProto(body); err != nil {
			t.Error(err)
		}
		for _, s := range r.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
			id := s.SpanID()
			n := uint64(0)
			for _, b := range id {
				n = n<<8 | uint64(b)
			}
			out = append(out, fmt.Sprintf("traces %d", n-1))
		}
	default:
		r := pmetricotlp.NewExportRequest()
		if err := r.UnmarshalProto(body); err != nil {
			t.Error(err)
		}
		for _, p := range r.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().All() {
			out = append(out, fmt.Sprintf("metrics %d", p.IntValue()))
		}
	}
	return out
}

func run(t *testing.T, o Options, gateways ...*gateway) []*Request {
	t.Helper()
	for _, g := range gateways {
		o.Gateways = append(o.Gateways, strings.TrimPrefix(g.URL, "http://"))
	}
	o.Service, o.Rate, o.Seed = "test", 20_000, 3
	requests, err := Start(o).Stop()
	require.NoError(t, err)
	return requests
}

// Guarantees: what the fleet says of each event is what the gateways saw.
func TestFleetKnowsWhatWasAcknowledged(t *testing.T) {
	good := newGateway(t, func(int) int { return http.StatusOK })
	bad := newGateway(t, func(n int) int {
		if n%3 == 0 {
			return http.StatusOK
		}
		return http.StatusServiceUnavailable
	})
	requests := run(t, Options{Events: 6000, Duplicates: 0.3, LateAfter: time.Millisecond, Deserters: 0.2}, good, bad)
	require.GreaterOrEqual(t, len(requests), 6000/PerRequest)
	for _, g := range []*gateway{good, bad} { // which may still take what its agent has given up
		g.mu.Lock()
		defer g.mu.Unlock()
	}
	deserted, copies, resent := 0, 0, 0
	for i, r := range requests {
		require.Equal(t, i, r.Number)
		copies += r.Duplicates
		if r.Attempts > 1 {
			resent++
		}
		if !r.Acked {
			deserted++
		}
		for n := r.First(); n < r.First()+PerRequest; n++ {
			name := fmt.Sprintf("%v %d", r.Signal, n)
			acked := good.acked[name] + bad.acked[name]
			if r.Acked {
				require.GreaterOrEqual(t, acked, 1+r.Duplicates, name)
			}
			if r.Attempts > 0 && r.Acked {
				require.Positive(t, good.seen[name]+bad.seen[name], name)
			}
		}
	}
	require.Positive(t, deserted)
	require.Positive(t, copies)
	require.Positive(t, resent)
}

// Guarantee: while a fleet pauses nothing is sent, not even a duplicate, and every request is answered.
func TestAFleetThatPausesSendsNothing(t *testing.T) {
	g := newGateway(t, func(int) int { return http.StatusOK })
	f := Start(Options{
		Service: "test", Rate: 5000, Seed: 3, Events: 2000, Duplicates: 0.5, LateAfter: 300 * time.Millisecond, Gateways: []string{strings.TrimPrefix(g.URL, "http://")},
	})
	requests := func() (begun, answered int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, r := range f.requests {
			if r.Acked {
				answered++
			}
		}
		return len(f.requests), answered
	}
	require.Eventually(t, func() bool { n, _ := requests(); return n > 5 }, 10*time.Second, time.Millisecond)
	f.Pause()
	begun, answered := requests()
	require.Equal(t, begun, answered)
	g.mu.Lock()
	before := g.n
	g.mu.Unlock()
	time.Sleep(500 * time.Millisecond)
	g.mu.Lock()
	require.Equal(t, before, g.n)
	g.mu.Unlock()
	f.Resume()
	all, err := f.Stop()
	require.NoError(t, err)
	require.Greater(t, len(all), begun)
}

func TestFleetSaysWhenItsGoodEventsAreRefused(t *testing.T) {
	g := newGateway(t, func(int) int { return http.StatusBadRequest })
	_, err := Start(Options{Service: "test", Rate: 1000, Events: PerRequest, Gateways: []string{strings.TrimPrefix(g.URL, "http://")}}).Stop()
	require.ErrorContains(t, err, "refused for good: status 400")
}

func TestFleetsOfOneSeedSendTheSame(t *testing.T) {
	g := newGateway(t, func(int) int { return http.StatusOK })
	a, b := run(t, Options{Events: 3000}, g), run(t, Options{Events: 3000}, g)
	for i := range 3000 / PerRequest {
		require.Equal(t, a[i].Signal, b[i].Signal)
	}
}
