package cell

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

func TestTheTableIsRedrawnInPlaceAndEventsStayAboveIt(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out, true)
	s.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	s.draw([]string{"one", "two"})
	s.event("gateway is back")
	s.draw([]string{"three"})
	s.leave()
	s.event("stopped")
	require.Equal(t, "one\ntwo\n"+"\x1b[2A\r\x1b[J"+"03:04:05  gateway is back\none\ntwo\n"+"\x1b[2A\r\x1b[J"+"three\n"+"03:04:05  stopped\n", out.String())
}

func someFigures() Figures {
	return Figures{
		Hops: []Hop{
			{Name: HopGateway, Events: 1234567, Rate: 1000.4, Lag: -1, Freshness: -1},
			{Name: HopClickHouse, Events: 12, Errors: 3, Kinds: []ErrorKind{{Reason: "NETWORK", Errors: 2}, {Reason: "other", Errors: 1}}, Lag: 40, Freshness: 1200 * time.Millisecond},
		},
		Topics: []Topic{{Name: "otlp.logs.v1", Start: 10, End: 2010, Lag: map[string]int64{groupHot: 0}}},
	}
}

func TestFiguresAreAlignedAndUnknownOnesAreDashes(t *testing.T) {
	require.Equal(t, []string{
		"hop            events  events/s  errors  lag  fresh",
		"gateway     1,234,567     1,000       0    -      -",
		"clickhouse         12         0       3   40   1.2s",
		"clickhouse errors: NETWORK 2, other 1",
	}, trimmed(HopLines(someFigures())))
	require.Equal(t, []string{
		"topic         records  from     to  lag hot  lag lake",
		"otlp.logs.v1    2,000    10  2,010        0         -",
	}, trimmed(TopicLines(someFigures())))
}

// Guarantees: what a healthy cell does not have has a line of its own, and no line in a healthy cell.
func TestWhatIsStuckOrSpilledOrEndsIsTold(t *testing.T) {
	f := someFigures()
	healthy := len(HopLines(f))
	ends := 20*time.Hour + 30*time.Second
	f.Hops[1].Stuck, f.Hops[1].Lost, f.Spill, f.Certificate = 4, 1200, Spill{Partitions: 12, Bytes: 3100000, Age: 9 * time.Minute}, &ends
	f.Hops[1].Kinds[0].Rate = 0.52
	require.Equal(t, []string{
		"clickhouse errors: NETWORK 2 (0.5/s), other 1",
		"clickhouse: 1,200 records are lost: Kafka removed them before they were read",
		"clickhouse: 4 partitions offer the same block again and again",
		"spill: requests for 12 partitions go to the object store; 3,100,000 bytes wait there, the oldest for 9m0s",
		"certificate: the gateway's ends in 20h1m0s",
	}, trimmed(HopLines(f))[healthy-1:])
	ends = 60*24*time.Hour - time.Minute
	require.Contains(t, HopLines(f), "certificate: the gateway's ends in 59 days")
}

func trimmed(lines []string) []string {
	out := make([]string, 0, len(lines))
	for _, l := range lines {
		out = append(out, strings.TrimSpace(l))
	}
	return out
}

func TestTheStatusLineTellsRatesErrorsLagAndProblems(t *testing.T) {
	f := someFigures()
	f.Problems = []string{"kafka: gone"}
	require.Equal(t, "gateway 1,234,567 events 1,000/s | clickhouse 12 events 0/s errors 3 (NETWORK 2, other 1) lag 40 fresh 1.2s | PROBLEM kafka: gone", StatusLine(f))
	require.False(t, f.Healthy())
}

func TestManyKindsOfErrorsAreCutShort(t *testing.T) {
	var many []ErrorKind
	for i := range 9 {
		many = append(many, ErrorKind{Reason: string(rune('a' + i)), Errors: float64(9000 - i)})
	}
	require.Equal(t, "a 9,000, b 8,999, c 8,998, d 8,997, e 8,996, f 8,995, and 3 more kinds", kinds(many))
}

func TestRatesStartAnewWithARestartedProcess(t *testing.T) {
	at := time.Now()
	before := look{at: at, hops: make([]hopLook, len(hops))}
	now := look{at: at.Add(2 * time.Second), hops: make([]hopLook, len(hops))}
	before.hops[0].events, now.hops[0].events = 100, 300
	before.hops[1].events, now.hops[1].events = 100, 50
	f := figures(&before, now)
	require.InDelta(t, 100, f.Hops[0].Rate, 1e-9)
	require.InDelta(t, 25, f.Hops[1].Rate, 1e-9)
	require.Zero(t, figures(nil, now).Hops[0].Rate)
}

// Guarantees: a kind of errors that goes on has a rate, one that is over has none.
func TestKindsOfErrorsHaveRates(t *testing.T) {
	at := time.Now()
	before := look{at: at, hops: make([]hopLook, len(hops))}
	now := look{at: at.Add(2 * time.Second), hops: make([]hopLook, len(hops))}
	before.hops[0].kinds = []ErrorKind{{Reason: "over", Errors: 7}, {Reason: "goes on", Errors: 1}}
	now.hops[0].kinds = []ErrorKind{{Reason: "over", Errors: 7}, {Reason: "goes on", Errors: 6}, {Reason: "new", Errors: 3}}
	require.Equal(t, []ErrorKind{{Reason: "over", Errors: 7}, {Reason: "goes on", Errors: 6, Rate: 2.5}, {Reason: "new", Errors: 3, Rate: 1.5}}, figures(&before, now).Hops[0].Kinds)
	require.Zero(t, now.hops[0].kinds[1].Rate, "a look is not changed")
}

func TestAStoreThatTakesNothingWhileRecordsWaitGrowsStale(t *testing.T) {
	const lake = 3
	var o Observer
	at := time.Now()
	first := look{at: at, hops: make([]hopLook, len(hops))}
	first.hops[lake] = hopLook{count: 2, sum: 10}
	hop := Hop{Lag: 0}
	o.setFreshness(lake, nil, first, &hop)
	require.Equal(t, 5*time.Second, hop.Freshness)

	later := first
	later.at = at.Add(time.Minute)
	o.setFreshness(lake, &first, later, &hop)
	require.Equal(t, 5*time.Second, hop.Freshness, "nothing waits: it is as fresh as it was")
	hop.Lag = 1
	o.setFreshness(lake, &first, later, &hop)
	require.Equal(t, 65*time.Second, hop.Freshness)
}

func TestScrapedSeriesAreAddedUpAndUntouchedOnesAreZero(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("# TYPE rows counter\nrows{table=\"a\"} 2\nrows{table=\"b\"} 3\nrows{table=\"p.quarantine\"} 7\nrows{table=\"p.quarantine_pii\"} 11\n" +
			"# TYPE refused counter\nrefused{reason=\"malformed\"} 5\nrefused{reason=\"too_large\",transport=\"http\"} 140\nrefused{reason=\"too_large\",transport=\"grpc\"} 7\nrefused{reason=\"never\"} 0\n" +
			"# TYPE errors counter\nerrors{code=\"OTHER\"} 5\nerrors 1\n# TYPE fresh histogram\nfresh_bucket{le=\"+Inf\"} 4\nfresh_sum 8\nfresh_count 4\nfresh_sum{table=\"p.quarantine\"} 8\nfresh_count{table=\"p.quarantine\"} 4\n"))
	}))
	defer server.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	families, err := Scrape(context.Background(), server.URL)
	require.NoError(t, err)
	m := metrics(families)
	require.InDelta(t, 23, m.sum("rows"), 0)
	require.InDelta(t, 5, m.sumOf("rows", ofEvents), 0, "items of the quarantine are no events")
	require.InDelta(t, 0, m.sum("none"), 0)
	require.Equal(t, []ErrorKind{{Reason: "too_large", Errors: 147}, {Reason: "OTHER", Errors: 5}, {Reason: "malformed", Errors: 5}, {Reason: "other", Errors: 1}}, m.errorKinds([]string{"none", "refused", "errors"}))
	count, sum := m.histogram("fresh")
	require.InDelta(t, 4, count, 0)
	require.InDelta(t, 8, sum, 0)
	require.Zero(t, spillOf(m))
	require.Nil(t, certificateOf(m))
}

// Guarantees: what a gateway says of its spill and of its certificates is read, of several certificates the one that ends first.
func TestTheGatewaysSpillAndCertificateAreRead(t *testing.T) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	m, err := parser.TextToMetricFamilies(strings.NewReader(`# TYPE otelcol_msk_exporter_spilling_partitions gauge
otelcol_msk_exporter_spilling_partitions 12
# TYPE otelcol_msk_exporter_spill_backlog_bytes gauge
otelcol_msk_exporter_spill_backlog_bytes 3.1e+06
# TYPE otelcol_msk_exporter_spill_backlog_age gauge
otelcol_msk_exporter_spill_backlog_age 540
# TYPE otelcol_ingest_certificate_expiry gauge
otelcol_ingest_certificate_expiry{transport="grpc"} 72000
otelcol_ingest_certificate_expiry{transport="http"} 5.184e+06
`))
	require.NoError(t, err)
	require.Equal(t, Spill{Partitions: 12, Bytes: 3100000, Age: 9 * time.Minute}, spillOf(m))
	require.Equal(t, 20*time.Hour, *certificateOf(m))
}
