package probe

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

// gateway reads requests as pdata does, and answers as it is told.
type gateway struct {
	http, grpc string // URLs

	code     int        // of HTTP; 0: 200
	status   codes.Code // of gRPC
	rejected int64      // events of each request
	warning  string
	hangs    chan struct{} // not nil: answers wait for its end

	mu    sync.Mutex
	taken []string // signal, protocol, compression, tenant, marker
}

func (g *gateway) take(sig, protocol, encoding, tenant, marker string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.taken = append(g.taken, strings.Join([]string{sig, protocol, encoding, tenant, marker}, " "))
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	g.http = server.URL
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g.grpc = "http://" + ln.Addr().String()
	s := grpc.NewServer(grpc.StatsHandler(compression{}))
	plogotlp.RegisterGRPCServer(s, &logServer{g: g})
	pmetricotlp.RegisterGRPCServer(s, &metricServer{g: g})
	ptraceotlp.RegisterGRPCServer(s, &traceServer{g: g})
	served := make(chan error)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		require.NoError(t, <-served)
	})
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.hangs != nil {
		<-g.hangs
		return
	}
	var body io.Reader = r.Body
	encoding := plain
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		body, encoding = z, compressed
	}
	text, err := io.ReadAll(body)
	protocol := map[string]string{"application/json": httpJSON, "application/x-protobuf": httpProtobuf}[r.Header.Get("Content-Type")]
	read := func(proto, json func([]byte) error) {
		if err == nil && protocol == httpJSON {
			err = json(text)
		} else if err == nil {
			err = proto(text)
		}
	}
	var answer exportRequest // a response can do the same
	marker := ""
	switch r.URL.Path {
	case "/v1/logs":
		req, resp := plogotlp.NewExportRequest(), plogotlp.NewExportResponse()
		read(req.UnmarshalProto, req.UnmarshalJSON)
		marker = req.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).TraceID().String()
		resp.PartialSuccess().SetRejectedLogRecords(g.rejected)
		resp.PartialSuccess().SetErrorMessage(g.warning)
		answer = resp
	case "/v1/metrics":
		req, resp := pmetricotlp.NewExportRequest(), pmetricotlp.NewExportResponse()
		read(req.UnmarshalProto, req.UnmarshalJSON)
		marker = fmt.Sprint(req.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0).IntValue())
		resp.PartialSuccess().SetRejectedDataPoints(g.rejected)
		resp.PartialSuccess().SetErrorMessage(g.warning)
		answer = resp
	case "/v1/traces":
		req, resp := ptraceotlp.NewExportRequest(), ptraceotlp.NewExportResponse()
		read(req.UnmarshalProto, req.UnmarshalJSON)
		marker = req.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID().String()
		resp.PartialSuccess().SetRejectedSpans(g.rejected)
		resp.PartialSuccess().SetErrorMessage(g.warning)
		answer = resp
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	g.take(strings.TrimPrefix(r.URL.Path, "/v1/"), protocol, encoding, r.Header.Get("X-Pulsegrid-Tenant"), marker)
	if g.code != 0 {
		w.WriteHeader(g.code)
		_, _ = io.WriteString(w, "because\x1b[31m\n")
		return
	}
	marshal := answer.MarshalProto
	if protocol == httpJSON {
		marshal = answer.MarshalJSON
	}
	if text, err = marshal(); err == nil {
		_, _ = w.Write(text)
	}
}

// called answers a call of gRPC.
func (g *gateway) called(ctx context.Context, sig, marker string) error {
	if g.hangs != nil {
		<-g.hangs
	}
	md, _ := metadata.FromIncomingContext(ctx)
	g.take(sig, overGRPC, cmp.Or(*ctx.Value(compression{}).(*string), plain), strings.Join(md.Get("x-pulsegrid-tenant"), ","), marker)
	return status.Error(g.status, "because")
}

// compression keeps a call's, which grpc-go hides from its server, in the call's context.
type compression struct{}

func (compression) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, compression{}, new(string))
}

func (compression) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if h, ok := s.(*stats.InHeader); ok {
		*ctx.Value(compression{}).(*string) = h.Compression
	}
}

func (compression) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (compression) HandleConn(context.Context, stats.ConnStats)                       {}

type (
	logServer struct {
		plogotlp.UnimplementedGRPCServer
		g *gateway
	}
	metricServer struct {
		pmetricotlp.UnimplementedGRPCServer
		g *gateway
	}
	traceServer struct {
		ptraceotlp.UnimplementedGRPCServer
		g *gateway
	}
)

func (s logServer) Export(ctx context.Context, req plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	resp := plogotlp.NewExportResponse()
	resp.PartialSuccess().SetRejectedLogRecords(s.g.rejected)
	resp.PartialSuccess().SetErrorMessage(s.g.warning)
	return resp, s.g.called(ctx, "logs", req.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).TraceID().String())
}

func (s metricServer) Export(ctx context.Context, req pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	resp := pmetricotlp.NewExportResponse()
	resp.PartialSuccess().SetRejectedDataPoints(s.g.rejected)
	resp.PartialSuccess().SetErrorMessage(s.g.warning)
	return resp, s.g.called(ctx, "metrics", fmt.Sprint(req.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0).IntValue()))
}

func (s traceServer) Export(ctx context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	resp := ptraceotlp.NewExportResponse()
	resp.PartialSuccess().SetRejectedSpans(s.g.rejected)
	resp.PartialSuccess().SetErrorMessage(s.g.warning)
	return resp, s.g.called(ctx, "traces", req.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID().String())
}

// shelf is a store whose rows a test lays down.
type shelf struct {
	rows  map[string]int64
	away  error
	asked []stored.Marked
}

func (s *shelf) Copies(_ context.Context, q stored.Marked) (map[string]int64, error) {
	s.asked = append(s.asked, q)
	return s.rows, s.away
}

// told keeps the lines of a probe.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (l *told) report(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *told) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

func newProbe(t *testing.T, g *gateway, stores ...Store) (*Probe, *told) {
	t.Helper()
	l := &told{}
	p, err := New(Config{
		HTTP: g.http, GRPC: g.grpc, Headers: map[string]string{"x-pulsegrid-tenant": "probe"}, Agent: "test", Tenant: "probe", Stores: stores,
		Interval: time.Second, Timeout: 30 * time.Second, Deadline: time.Minute, Report: l.report,
	})
	require.NoError(t, err)
	return p, l
}

// value of a series; labels are values, in the order of metadata.yaml or not.
func value(t *testing.T, p *Probe, name string, labels ...string) float64 {
	t.Helper()
	total, found := 0.0, false
	for _, f := range p.Gather(t.Context()) {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := func(want string) bool {
				return slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == want })
			}
			if !slices.ContainsFunc(labels, func(want string) bool { return !has(want) }) {
				found = true
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	require.True(t, found, "%s%v", name, labels)
	return total
}

// Guarantees: a round is one request of each signal in each protocol and compression, with credentials, each with an event that has a marker of its own; all are counted.
func TestARoundSendsEachSignalInEachWay(t *testing.T) {
	g := newGateway(t)
	p, said := newProbe(t, g)
	p.round(t.Context())
	p.round(t.Context())
	kinds, markers := map[string]int{}, map[string]bool{}
	for _, taken := range g.taken {
		at := strings.LastIndex(taken, " ")
		kinds[taken[:at]]++
		markers[taken[at+1:]] = true
	}
	require.Len(t, markers, 36)
	require.Len(t, kinds, 18)
	for _, s := range signal.All {
		for _, w := range ways {
			require.Equal(t, 2, kinds[fmt.Sprintf("%s %s %s probe", s, w.Protocol, w.Compression)], "%v", kinds)
			require.InDelta(t, 2, value(t, p, "pulsegrid_probe_requests_total", s.String(), w.Protocol, w.Compression, outcomeOK), 0)
		}
	}
	require.Empty(t, said.all())
	require.Empty(t, p.events, "without stores there is nothing to wait for")
	require.InDelta(t, time.Now().Unix(), value(t, p, "pulsegrid_probe_last_success_timestamp_seconds", stageRequests), 60)
}

// Guarantees: metadata.yaml is what is served, and nothing else.
func TestEachDeclaredMetricIsServed(t *testing.T) {
	p, _ := newProbe(t, newGateway(t), Store{Name: "lake", Counter: &shelf{}})
	var served []string
	for _, f := range p.Gather(t.Context()) {
		served = append(served, strings.TrimPrefix(f.GetName(), meta.Prefix()))
	}
	for name := range meta.Metrics() {
		require.Contains(t, served, name)
	}
	require.Len(t, served, len(meta.Metrics()))
}

// Guarantees: each answer, and each way of getting none, is counted as what it is, and told once for each request.
func TestWhatBecomesOfARequest(t *testing.T) {
	for name, c := range map[string]struct {
		gateway    func(*gateway)
		http, grpc string // outcomes
		says       string
	}{
		"throttled":           {func(g *gateway) { g.code, g.status = 429, codes.ResourceExhausted }, outcomeThrottled, outcomeThrottled, "because"},
		"unavailable":         {func(g *gateway) { g.code, g.status = 503, codes.Unavailable }, outcomeUnavailable, outcomeUnavailable, "status 503: because [31m"},
		"refused":             {func(g *gateway) { g.code, g.status = 401, codes.Unauthenticated }, outcomeRefused, outcomeRefused, "Unauthenticated: because"},
		"failed":              {func(g *gateway) { g.code, g.status = 500, codes.Internal }, outcomeRefused, outcomeRefused, "Internal: because"},
		"a redirect":          {func(g *gateway) { g.code, g.status = 302, codes.Unknown }, outcomeRefused, outcomeRefused, "status 302"},
		"rejected":            {func(g *gateway) { g.rejected, g.warning = 1, "bad event" }, outcomePartial, outcomePartial, "rejected 1 events: bad event"},
		"accepted, a warning": {func(g *gateway) { g.warning = "beware" }, outcomeOK, outcomeOK, ""},
		"nobody listens":      {func(g *gateway) { g.http, g.grpc = "http://127.0.0.1:1", "http://127.0.0.1:1" }, outcomeUnavailable, outcomeUnavailable, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			c.gateway(g)
			p, said := newProbe(t, g)
			p.round(t.Context())
			require.InDelta(t, 12, value(t, p, "pulsegrid_probe_requests_total", httpJSON, c.http)+value(t, p, "pulsegrid_probe_requests_total", httpProtobuf, c.http), 0, said.all())
			require.InDelta(t, 6, value(t, p, "pulsegrid_probe_requests_total", overGRPC, c.grpc), 0, said.all())
			require.Contains(t, said.all(), c.says)
			if c.http != outcomeOK {
				require.Len(t, said.lines, 18)
				require.Zero(t, value(t, p, "pulsegrid_probe_request_duration_seconds"))
			}
		})
	}
}

// Scenario: a gateway that takes requests and does not answer, at first for a whole round, then while the probe is stopped.
// Guarantees: a request ends with its timeout; one that the probe's end cuts off is not counted.
func TestAGatewayThatDoesNotAnswer(t *testing.T) {
	g := newGateway(t)
	g.hangs = make(chan struct{})
	t.Cleanup(func() { close(g.hangs) })
	p, _ := newProbe(t, g)
	p.config.Timeout = 200 * time.Millisecond
	p.round(t.Context())
	require.InDelta(t, 18, value(t, p, "pulsegrid_probe_requests_total", outcomeTimeout), 0)

	p.config.Timeout = 5 * time.Second
	ctx, stop := context.WithCancel(t.Context()) // as a signal does; a deadline would go to the gateway, whose answer may come before the end is seen here
	time.AfterFunc(200*time.Millisecond, stop)
	p.Run(ctx)
	require.InDelta(t, 18, value(t, p, "pulsegrid_probe_requests_total"), 0)
	require.Empty(t, p.events)
}

// Scenario: events of every kind, looked for before their deadline and after it.
// Guarantees: nothing is judged before its deadline but what is doubled; then each is what it is, counted and told once, and forgotten. One that was not acknowledged may be there or
// not, but not twice. Freshness is measured once, of acknowledged events.
func TestEachEventIsJudgedAtItsDeadline(t *testing.T) {
	s := &shelf{rows: map[string]int64{}}
	p, said := newProbe(t, newGateway(t), Store{Name: "lake", Counter: s})
	events := p.begin(time.Now())
	exact, missing, doubled, gone, late := events[0], events[1], events[2], events[3], events[4]
	refused, stored, twice, underWay := events[5], events[6], events[7], events[8]
	for _, e := range []*event{exact, missing, doubled, gone, late} {
		p.answered(e, nil, time.Millisecond)
	}
	for _, e := range []*event{refused, stored, twice} {
		p.answered(e, failure{outcomeTimeout, "no answer"}, 0)
	}
	for _, e := range events[9:] {
		p.forget(e)
	}
	for _, e := range []*event{exact, gone, stored, underWay} {
		s.rows[e.marker()] = 1
	}
	s.rows[doubled.marker()], s.rows[twice.marker()] = 2, 3
	result := func(r string) float64 { return value(t, p, "pulsegrid_probe_rows_total", r) }

	require.True(t, p.look(t.Context(), 0, false))
	require.InDelta(t, 2, result(resultDoubled), 0)
	require.Zero(t, result(resultExact)+result(resultMissing))
	require.InDelta(t, 3, value(t, p, "pulsegrid_probe_freshness_seconds"), 0)
	require.InDelta(t, 2, value(t, p, "pulsegrid_probe_waiting_events"), 0)
	require.Equal(t, "probe", s.asked[0].Tenant)
	require.Equal(t, exact.sent, s.asked[0].Since)

	delete(s.rows, gone.marker())
	s.rows[late.marker()] = 1
	for _, e := range events {
		e.sent = e.sent.Add(-p.config.Deadline)
	}
	require.True(t, p.look(t.Context(), 0, false))
	require.InDelta(t, 2, result(resultExact), 0)
	require.InDelta(t, 2, result(resultMissing), 0)
	require.InDelta(t, 2, result(resultDoubled), 0)
	require.Zero(t, value(t, p, "pulsegrid_probe_waiting_events"))
	require.InDelta(t, 4, value(t, p, "pulsegrid_probe_freshness_seconds"), 0)
	require.Equal(t, []*event{underWay}, p.events)
	for _, want := range []string{missing.marker() + " lake missing: no row 1m0s after", gone.marker() + " lake missing: no row 1m0s after it was sent, and there was one", doubled.marker() + " lake doubled: 2 rows", twice.marker() + " lake doubled: 3 rows"} {
		require.Equal(t, 1, strings.Count(said.all(), want), "%s\n%s", want, said.all())
	}
	require.Len(t, said.lines, 3+2+2) // the requests that failed too

	p.answered(underWay, nil, time.Millisecond)
	require.True(t, p.look(t.Context(), 0, false))
	require.InDelta(t, 3, result(resultExact), 0)
	require.Empty(t, p.events)
}

// Scenario: a store that cannot be read for longer than twice the deadline, and one that can be again before.
// Guarantees: what could not be looked for is neither missing nor waited for for ever; that the store is away is told once, and that it is back.
func TestAStoreThatCannotBeRead(t *testing.T) {
	s := &shelf{rows: map[string]int64{}, away: errors.New("connection refused")}
	p, said := newProbe(t, newGateway(t), Store{Name: "lake", Counter: s})
	events := p.begin(time.Now().Add(-p.config.Deadline * 3 / 2))
	for _, e := range events {
		p.answered(e, nil, time.Millisecond)
		s.rows[e.marker()] = 1
	}
	require.False(t, p.look(t.Context(), 0, false))
	require.False(t, p.look(t.Context(), 0, false))
	require.Len(t, p.events, 18)
	require.Equal(t, 1, strings.Count(said.all(), "lake cannot be read: connection refused"))
	for _, e := range events[:3] {
		e.sent = e.sent.Add(-p.config.Deadline)
	}
	require.False(t, p.look(t.Context(), 0, false))
	require.Len(t, p.events, 15)
	require.InDelta(t, 3, value(t, p, "pulsegrid_probe_rows_total", resultUnjudged), 0)
	s.away = nil
	require.True(t, p.look(t.Context(), 0, false))
	require.InDelta(t, 15, value(t, p, "pulsegrid_probe_rows_total", resultExact), 0)
	require.Zero(t, value(t, p, "pulsegrid_probe_rows_total", resultMissing))
	require.Contains(t, said.all(), "lake can be read again")
	require.InDelta(t, 3, value(t, p, "pulsegrid_probe_looks_total", "no"), 0)
}

func TestABadConfigurationIsRefused(t *testing.T) {
	good := Config{HTTP: "http://127.0.0.1:4318", GRPC: "https://otlp.example.com:4317", Interval: 10 * time.Second, Timeout: 10 * time.Second, Deadline: 10 * time.Minute}
	require.NoError(t, good.Validate())
	for says, change := range map[string]func(*Config){
		`http: "127.0.0.1:4318": want http`:      func(c *Config) { c.HTTP = "127.0.0.1:4318" },
		`grpc: ""`:                               func(c *Config) { c.GRPC = "" },
		`"ftp://a"`:                              func(c *Config) { c.GRPC = "ftp://a" },
		"interval: 10ms is less than 100ms":      func(c *Config) { c.Interval = 10 * time.Millisecond },
		"timeout: 0s":                            func(c *Config) { c.Timeout = 0 },
		"timeout: 2m0s":                          func(c *Config) { c.Timeout = 2 * time.Minute },
		"more than 100 intervals of 100ms":       func(c *Config) { c.Interval, c.Timeout, c.Deadline = 100*time.Millisecond, 11*time.Second, time.Minute },
		"deadline: 5s is less than the timeout":  func(c *Config) { c.Deadline = 5 * time.Second },
		"deadline: 3h0m0s is more than 1000 int": func(c *Config) { c.Deadline = 3 * time.Hour },
	} {
		c := good
		change(&c)
		require.ErrorContains(t, c.Validate(), says)
	}
}
