package clickhouseexporter

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"

	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
)

// fake is a store that answers every statement with handler.
func fake(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv.URL
}

// toInserts answers INSERTs of rows with handler, and questions like a server that has nothing.
func toInserts(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("insert_deduplication_token") {
			handler(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"data": [{"server": "one", "start": 1, "entries": 0, "next": 0, "holes": 0, "hole": 0, "strange": 0}], "rows": 1}`)
	}
}

// inserting passes everything on to a real engine, but INSERTs of rows to handler, which may call next.
func inserting(t *testing.T, ch *clickhousetest.Server, handler func(w http.ResponseWriter, r *http.Request, next http.Handler)) string {
	return passing(t, ch, func(r *http.Request) bool { return r.URL.Query().Has("insert_deduplication_token") }, handler)
}

// passing passes everything on to a real engine, but what it should catch to handler.
func passing(t *testing.T, ch *clickhousetest.Server, catch func(*http.Request) bool, handler func(w http.ResponseWriter, r *http.Request, next http.Handler)) string {
	t.Helper()
	target, err := url.Parse(ch.URL)
	require.NoError(t, err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport}
	return fake(t, func(w http.ResponseWriter, r *http.Request) {
		if catch(r) {
			handler(w, r, proxy)
			return
		}
		proxy.ServeHTTP(w, r)
	})
}

// cut ends a request's connection without an answer.
func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.(*net.TCPConn).SetLinger(0) // a reset
		_ = conn.Close()
	}
}

func TestStatementsAreNotInTheURLThatTracesAndProxiesKeep(t *testing.T) {
	ch := clickhousetest.Shared(t)
	endpoint := inserting(t, ch, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		require.Less(t, len(r.URL.String()), 512)
		require.NotContains(t, r.URL.RawQuery, "INSERT")
		next.ServeHTTP(w, r)
	})
	ld, _ := someLogs(10, 0)
	for _, compression := range []string{"none", "lz4", "zstd", "gzip"} {
		r := start(t, signal.Logs, config(endpoint, func(c *Config) { require.NoError(t, c.ClientConfig.Compression.UnmarshalText([]byte(compression))) }))
		require.NoError(t, r.ConsumeLogs(t.Context(), ld))
	}
	require.EqualValues(t, 4*10, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
}

func TestAConnectionResetAfterTheWorkStoresOnce(t *testing.T) {
	ch := clickhousetest.Shared(t)
	var resets atomic.Int32
	endpoint := inserting(t, ch, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if resets.Add(1) <= 2 {
			next.ServeHTTP(httptest.NewRecorder(), r) // ClickHouse has the rows
			cut(w)                                    // and the exporter does not hear of it
			return
		}
		next.ServeHTTP(w, r)
	})
	r := start(t, signal.Logs, config(endpoint))
	for range 2 {
		err := r.consumeLogs(t, 100, 0)
		require.ErrorContains(t, err, "outcome unknown, send it again")
		require.False(t, consumererror.IsPermanent(err))
	}
	require.NoError(t, r.consumeLogs(t, 100, 0))
	require.EqualValues(t, 100, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.EqualValues(t, 2, r.sum(t, "clickhouse_inserts", "outcome=unknown"))
}

func TestAHangEndsAtTheTimeout(t *testing.T) {
	ch := clickhousetest.Shared(t)
	release := make(chan struct{})
	endpoint := inserting(t, ch, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-release
	})
	t.Cleanup(func() { close(release) })  // before the server's Close waits
	start(t, signal.Logs, config(ch.URL)) // makes the tables, in whatever time that takes
	r := start(t, signal.Logs, config(endpoint, func(c *Config) { c.ClientConfig.Timeout = 5 * time.Second }))
	err := r.consumeLogs(t, 10, 0)
	require.ErrorContains(t, err, "outcome unknown")
	require.ErrorContains(t, err, "no answer in time")
	require.NotContains(t, err.Error(), "INSERT", "the statement is long and says nothing")
}

func TestACallThatIsGivenUpReturnsAtOnce(t *testing.T) {
	ch := clickhousetest.Shared(t)
	release, entered := make(chan struct{}), make(chan struct{}, 8)
	endpoint := inserting(t, ch, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		entered <- struct{}{}
		<-release
	})
	t.Cleanup(func() { close(release) })
	r := start(t, signal.Logs, config(endpoint, func(c *Config) { c.MaxConcurrentInserts = 1 }))
	ld, _ := someLogs(10, 0)
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- r.ConsumeLogs(t.Context(), ld) }()
	<-entered
	go func() { second <- r.ConsumeLogs(ctx, ld) }() // waits for the one place
	cancel()
	err := <-second
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "max_concurrent_inserts 1")

	require.NoError(t, r.Shutdown(t.Context()), "Shutdown breaks the running insert off")
	require.ErrorContains(t, <-first, "the exporter is not running")
	require.ErrorContains(t, r.ConsumeLogs(t.Context(), ld), "the exporter is not running")
}

func TestAnswersAreSortedByWhatTheCallerShouldDo(t *testing.T) {
	exception := func(status, code int, name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("X-ClickHouse-Exception-Code", strconv.Itoa(code))
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "Code: "+strconv.Itoa(code)+". DB::Exception: it failed. ("+name+") (version 26.7.2.1)\n")
		}
	}
	plain := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	for name, tc := range map[string]struct {
		answer    http.HandlerFunc
		permanent bool
		want      string
		code      string
	}{
		"too many parts":         {exception(500, 252, "TOO_MANY_PARTS"), false, "not stored, send it again", "TOO_MANY_PARTS"},
		"memory":                 {exception(500, 241, "MEMORY_LIMIT_EXCEEDED"), false, "not stored, send it again", "MEMORY_LIMIT_EXCEEDED"},
		"read-only":              {exception(500, 242, "TABLE_IS_READ_ONLY"), false, "not stored", "TABLE_IS_READ_ONLY"},
		"disk full":              {exception(500, 243, "NOT_ENOUGH_SPACE"), false, "the disk is full", "NOT_ENOUGH_SPACE"},
		"unknown status":         {exception(500, 319, "UNKNOWN_STATUS_OF_INSERT"), false, "outcome unknown", "UNKNOWN_STATUS_OF_INSERT"},
		"never heard of":         {exception(500, 4711, "NEW"), false, "outcome unknown", "other"},
		"unknown table, no look": {exception(404, 60, "UNKNOWN_TABLE"), false, "not stored", "UNKNOWN_TABLE"},
		"bad data":               {exception(400, 117, "INCORRECT_DATA"), true, "refused: ClickHouse exception 117", "INCORRECT_DATA"},
		"exception in a 200":     {plain(200, "\r\n__exception__\r\nCode: 241. DB::Exception: memory (MEMORY_LIMIT_EXCEEDED)"), false, "exception 241", "MEMORY_LIMIT_EXCEEDED"},
		"something in a 200":     {plain(200, "<html>welcome</html>"), false, "outcome unknown", "other"},
		"gateway timeout":        {plain(504, "upstream"), false, "outcome unknown", "http"},
		"unavailable":            {plain(503, "later"), false, "not stored", "http"},
		"proxy's size limit":     {plain(413, "too large"), true, "make blocks smaller", "http"},
		"proxy's login":          {plain(401, "who"), false, "check username", "http"},
		"another server":         {plain(404, "not found"), false, "check endpoint", "http"},
		"redirect":               {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) }, false, "check endpoint", "http"},
		"500 that breaks off": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "Code: 2")
		}, false, "outcome unknown", "http"},
		"200 that breaks off": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusOK)
		}, false, "outcome unknown", "network"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, signal.Logs, config(fake(t, toInserts(tc.answer)), mode(SchemaOff)))
			err := r.consumeLogs(t, 10, 7)
			require.ErrorContains(t, err, tc.want)
			require.ErrorContains(t, err, "otlp.logs.v1/3/7-7")
			require.Equal(t, tc.permanent, consumererror.IsPermanent(err), "%v", err)
			require.EqualValues(t, 1, r.sum(t, "clickhouse_errors", "code="+tc.code))
			require.Zero(t, r.sum(t, "clickhouse_rows"))
		})
	}
}

func TestLongExceptionsAreBounded(t *testing.T) {
	r := start(t, signal.Logs, config(fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write(append([]byte("Code: 117. DB::Exception: "), bytes.Repeat([]byte("\xffx\n"), 1<<20)...))
	}), mode(SchemaOff)))
	err := r.consumeLogs(t, 10, 0)
	require.ErrorContains(t, err, "exception 117")
	require.Less(t, len(err.Error()), 4096)
}

func TestTLSIsTheCollectorsOwn(t *testing.T) {
	ch := clickhousetest.Shared(t)
	target, err := url.Parse(ch.URL)
	require.NoError(t, err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport})
	t.Cleanup(proxy.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw}), 0o600))

	r := start(t, signal.Logs, config(proxy.URL, func(c *Config) { c.ClientConfig.TLS.CAFile = ca }))
	require.NoError(t, r.consumeLogs(t, 10, 0))
	require.EqualValues(t, 10, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))

	stranger := start(t, signal.Logs, config(proxy.URL))
	err = stranger.consumeLogs(t, 10, 10)
	require.ErrorContains(t, err, "not stored")
	require.ErrorContains(t, err, "certificate")
}

func TestShutdownReturnsWhateverCameBefore(t *testing.T) {
	set := exporter.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	never, err := newExporter(set, config("http://127.0.0.1:1"), signal.Logs)
	require.NoError(t, err)
	require.NoError(t, never.Shutdown(t.Context()))
	require.NoError(t, never.Shutdown(t.Context()))

	failed, err := newExporter(set, config("http://127.0.0.1:1", func(c *Config) { c.ClientConfig.TLS.CAFile = "/nonexistent" }), signal.Logs)
	require.NoError(t, err)
	require.Error(t, failed.Start(t.Context(), &collectortest.Host{}))
	require.NoError(t, failed.Shutdown(t.Context()))
}
