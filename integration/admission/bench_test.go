package admission

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// answer takes an answer in memory.
type answer struct {
	header http.Header
	code   int
}

func (a *answer) Header() http.Header             { return a.header }
func (a *answer) WriteHeader(code int)            { a.code = code }
func (a *answer) Write(b []byte) (int, error)     { return len(b), nil }
func (*answer) SetReadDeadline(_ time.Time) error { return nil }

// sender sends requests of n tenants in turn into a gateway's receiver, without the network.
type sender struct {
	handler http.Handler
	keys    []string
	body    []byte
	next    int
}

func newSender(b *testing.B, n, events int) *sender {
	b.Helper()
	g := start(b, consumertest.NewNop())
	var text strings.Builder
	text.WriteString("tenants:\n")
	s := &sender{handler: g.receiver.(http.Handler), body: otlptest.Realistic(signal.Logs, 1, events)}
	for i := range n {
		key, id, hash := tenant.NewKey()
		s.keys = append(s.keys, key)
		fmt.Fprintf(&text, "  - {id: tenant-%d, keys: [{id: %s, hash: \"%s\"}], quotas: {logs: {events_per_second: 1e12, bytes_per_second: 1e12}}}\n", i, id, hash)
	}
	g.write("tenants.yaml", text.String())
	g.keys["last"] = s.keys[n-1]
	require.Eventually(b, func() bool { return g.post("last", "/v1/logs", []byte{}).code == http.StatusOK }, patience, 20*time.Millisecond)
	return s
}

func (s *sender) send(b *testing.B) {
	req, err := http.NewRequest(http.MethodPost, "/v1/logs", bytes.NewReader(s.body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Authorization", "Bearer "+s.keys[s.next%len(s.keys)])
	s.next++
	a := answer{header: http.Header{}}
	s.handler.ServeHTTP(&a, req)
	if a.code != http.StatusOK {
		b.Fatal(a.code)
	}
}

// BenchmarkTenThousandTenants sends as 10 and as 10,000 tenants in turns, in one run: authentication, admission, quota, validation. throughput-ratio
// is that of 10,000 tenants to that of 10; the aim is 0.9.
func BenchmarkTenThousandTenants(b *testing.B) {
	for _, events := range []int{50, 500} {
		b.Run(fmt.Sprint(events, "_events"), func(b *testing.B) {
			few, many := newSender(b, 10, events), newSender(b, 10_000, events)
			var took [2]time.Duration
			const turn = 50
			for b.Loop() {
				for i, s := range []*sender{few, many} {
					began := time.Now()
					for range turn {
						s.send(b)
					}
					took[i] += time.Since(began)
				}
			}
			b.ReportMetric(float64(took[0])/float64(took[1]), "throughput-ratio")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(b.N*turn), "ns/request")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(b.N*turn*events), "ns/event")
		})
	}
}
