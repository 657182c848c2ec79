package metricserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func counter(name string, value float64) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{{Counter: &dto.Counter{Value: &value}}}}
}

// served asks a server and returns the status and the body.
func served(t *testing.T, method, url, host string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	if host != "" {
		req.Host = host
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body), resp.Header
}

// Guarantees: a scrape gets what is gathered then, in Prometheus' text format, without families that have no metrics; nothing else is served, and nobody else is: a name that the server was not
// given may be that of a web page.
func TestAScrapeGetsWhatIsGathered(t *testing.T) {
	var scrapes atomic.Int64
	empty := "pulsegrid_none"
	s, err := Serve("127.0.0.1:0", []string{"alerts.internal"}, func(context.Context) []*dto.MetricFamily {
		return []*dto.MetricFamily{counter("pulsegrid_scrapes_total", float64(scrapes.Add(1))), {Name: &empty, Type: dto.MetricType_GAUGE.Enum()}}
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	for n, host := range []string{"", "localhost", "alerts.internal"} {
		status, body, header := served(t, http.MethodGet, s.URL(), host)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, fmt.Sprintf("# TYPE pulsegrid_scrapes_total counter\npulsegrid_scrapes_total %d\n", n+1), body)
		require.True(t, strings.HasPrefix(header.Get("Content-Type"), "text/plain; version=0.0.4"), header.Get("Content-Type"))
	}
	status, _, _ := served(t, http.MethodGet, s.URL(), "evil.example")
	require.Equal(t, http.StatusForbidden, status)
	status, _, _ = served(t, http.MethodPost, s.URL(), "")
	require.Equal(t, http.StatusNotFound, status)
	status, _, _ = served(t, http.MethodGet, strings.TrimSuffix(s.URL(), "metrics"), "")
	require.Equal(t, http.StatusNotFound, status)
	require.EqualValues(t, 3, scrapes.Load(), "what is refused gathers nothing")
}

// Guarantees: an address that is taken is an error; after Close it is free again, and a scrape that hangs does not hold Close up for longer than its bound.
func TestCloseGivesTheAddressBack(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s, err := Serve("127.0.0.1:0", nil, func(context.Context) []*dto.MetricFamily {
		close(entered)
		<-release
		return nil
	})
	require.NoError(t, err)
	_, err = Serve(s.address, nil, nil)
	require.Error(t, err)
	conn, err := net.Dial("tcp", s.address)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	<-entered
	begun := time.Now()
	err = s.Close()
	close(release)
	require.ErrorIs(t, err, context.DeadlineExceeded, "a scrape was cut off")
	require.Less(t, time.Since(begun), 2*stopping)
	again, err := Serve(s.address, nil, nil)
	require.NoError(t, err)
	require.NoError(t, again.Close())
}
