package cell

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// guarded is ClickHouse as clients of a cell see it.
type guarded struct {
	*clickhouse
	t testing.TB
}

func startGuarded(t *testing.T) guarded {
	t.Helper()
	c, err := startClickHouse(t.Context(), newLayout(t), 0, func(string) {})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return guarded{c, t}
}

// ask sends a statement, or a body where it is in the query already.
func (c guarded) ask(query string, body io.Reader, headers ...string) (int, string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, "http://"+c.guard.address+"/"+query, body)
	if !assert.NoError(c.t, err) {
		return 0, ""
	}
	req.Close = true
	user := c.options.Users[0]
	req.SetBasicAuth(user.Name, user.Password)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if !assert.NoError(c.t, err) {
		return 0, ""
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	assert.NoError(c.t, err)
	return resp.StatusCode, strings.TrimSpace(string(text))
}

func (c guarded) query(sql string) string {
	c.t.Helper()
	status, text := c.ask("", strings.NewReader(sql))
	require.Equal(c.t, http.StatusOK, status, text)
	return text
}

// leave sends bytes, waits, and ends the connection: by a reset, or by saying that nothing more comes.
func leave(t *testing.T, addr, send string, after time.Duration, byReset bool) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	_, err = io.WriteString(conn, send)
	require.NoError(t, err)
	time.Sleep(after)
	if byReset {
		require.NoError(t, conn.(*net.TCPConn).SetLinger(0))
	}
	require.NoError(t, conn.Close())
}

// Scenario: clients leave at every stage of a request, by resets too, or send what is no request, while a query runs.
// Guarantees: the engine is the same process afterwards, and the query ends with its answer.
func TestNoConnectionEndsTheEngineOrAQueryInFlight(t *testing.T) {
	c := startGuarded(t)
	c.query("CREATE DATABASE " + Database)
	c.query("CREATE TABLE " + Database + ".t (l String) ENGINE = MergeTree ORDER BY l")
	pid := c.state().PID
	answered := make(chan string, 1)
	go func() {
		_, text := c.ask("", strings.NewReader("SELECT sum(sleepEachRow(0.5)) + 7 FROM numbers(12) SETTINGS max_block_size = 1"))
		answered <- text
	}()
	require.Eventually(t, func() bool {
		return c.query("SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow%' AND query NOT LIKE '%processes%'") == "1"
	}, time.Minute, 10*time.Millisecond)
	auth := "X-ClickHouse-User: pulsegrid\r\nX-ClickHouse-Key: " + c.options.Users[0].Password + "\r\n"
	insert := "POST /?query=INSERT+INTO+" + Database + ".t+FORMAT+LineAsString HTTP/1.1\r\nHost: 127.0.0.1\r\n" + auth
	for _, sent := range []string{
		"", "POST /?query=SEL", "POST /?query=SELECT+1 HTTP/1.1\r\nHo", insert, // incomplete headers
		insert + "Content-Length: 100\r\n\r\nabc", insert + "Transfer-Encoding: chunked\r\n\r\n20\r\nabc", insert + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
		"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /pi",
		"GET /?query=SELECT+*+FROM+numbers(100000000) HTTP/1.1\r\nHost: 127.0.0.1\r\n" + auth + "\r\n",
		"POST /?query=SELECT+1 HTTP/1.1\r\nHost: 127.0.0.1\r\n" + auth + "Content-Length: zz\r\n\r\n",
		"GET /?query=SELECT+1&x=" + strings.Repeat("x", 2*guardHeaderBytes) + " HTTP/1.1\r\nHost: 127.0.0.1\r\n" + auth + "\r\n",
	} {
		for _, byReset := range []bool{true, false} {
			leave(t, c.guard.address, sent, 0, byReset)
			leave(t, c.guard.address, sent, 50*time.Millisecond, byReset)
			time.Sleep(20 * time.Millisecond) // an engine that dies does it now
			require.Equal(t, pid, c.state().PID, "%q, by reset %v", sent, byReset)
			require.Zero(t, c.state().Restarts, "%q, by reset %v", sent, byReset)
		}
	}
	require.Equal(t, "7", <-answered)
	require.Equal(t, pid, c.state().PID)
}

// Guarantees: what clients send and get passes the guard unchanged: parameters, compressed and chunked bodies, statuses and errors of ClickHouse.
func TestClickHouseIsItselfBehindTheGuard(t *testing.T) {
	c := startGuarded(t)
	c.query("CREATE DATABASE " + Database)
	c.query("CREATE TABLE " + Database + ".t (l String) ENGINE = MergeTree ORDER BY l")
	require.Equal(t, "a;b", c.query("SELECT 'a;b'"))
	status, text := c.ask("?param_x=a;b%26c&query=SELECT+{x:String}", http.NoBody)
	require.Equal(t, http.StatusOK, status, text)
	require.Equal(t, "a;b&c", text, "a semicolon separates nothing in ClickHouse")

	var lines, packed bytes.Buffer
	for range 300_000 {
		lines.WriteString("a line of thirty-two characters\n")
	}
	z := gzip.NewWriter(&packed)
	_, err := z.Write(lines.Bytes())
	require.NoError(t, err)
	require.NoError(t, z.Close())
	into := "?query=INSERT+INTO+" + Database + ".t+FORMAT+LineAsString"
	status, text = c.ask(into, &packed, "Content-Encoding", "gzip")
	require.Equal(t, http.StatusOK, status, text)
	status, text = c.ask(into, io.MultiReader(&lines)) // of unknown length: in chunks
	require.Equal(t, http.StatusOK, status, text)
	require.Equal(t, "600000", c.query("SELECT count() FROM "+Database+".t"))
	require.Len(t, strings.Split(c.query("SELECT l FROM "+Database+".t"), "\n"), 600_000)

	status, text = c.ask("", strings.NewReader("SELECT no_such_column"))
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, text, "no_such_column")
}

// Guarantees: a web page in a browser on this machine does not reach ClickHouse, not even with the password.
func TestWebPagesDoNotReachClickHouse(t *testing.T) {
	c := startGuarded(t)
	for _, headers := range [][]string{
		{"Host", "rebound.example:8123"}, {"Origin", "https://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"},
	} {
		status, text := c.ask("?query=SELECT+1&add_http_cors_header=1", http.NoBody, headers...)
		require.Equal(t, http.StatusForbidden, status, "%v", headers)
		require.Contains(t, text, headers[1])
	}
	require.Equal(t, "1", c.query("SELECT 1"))
}

// Guarantees: while the engine is started again clients hear that nothing was done, and when to come again; then it is there, at the same address.
func TestAnEngineThatDiedIsBackAtTheSameAddress(t *testing.T) {
	c := startGuarded(t)
	require.Equal(t, "1", c.query("SELECT 1"))
	require.NoError(t, syscall.Kill(c.state().PID, syscall.SIGKILL))
	require.Eventually(t, func() bool {
		status, text := c.ask("", strings.NewReader("SELECT 1"))
		return status == http.StatusServiceUnavailable && strings.Contains(text, "nothing was sent")
	}, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool {
		status, _ := c.ask("", strings.NewReader("SELECT 1"))
		return status == http.StatusOK
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, 1, c.state().Restarts)
}
