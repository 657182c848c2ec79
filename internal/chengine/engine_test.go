package chengine_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(leaktest.Patient(m))
}

func start(t *testing.T, o chengine.Options) *chengine.Engine {
	t.Helper()
	e, err := chengine.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(e.Kill)
	return e
}

func stop(t *testing.T, e *chengine.Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, e.Stop(ctx))
}

func query(t *testing.T, e *chengine.Engine, sql string) string {
	t.Helper()
	status, text := ask(t, e, sql, "", "")
	require.Equal(t, http.StatusOK, status, text)
	return strings.TrimSpace(text)
}

func ask(t *testing.T, e *chengine.Engine, sql, user, password string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.HTTPAddr+"/", strings.NewReader(sql))
	require.NoError(t, err)
	req.Close = true
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func TestRowsSurviveAStopAndAKill(t *testing.T) {
	dir := t.TempDir()
	e := start(t, chengine.Options{Dir: dir})
	query(t, e, "CREATE DATABASE d")
	query(t, e, "CREATE TABLE d.t (x UInt64) ENGINE = MergeTree ORDER BY x")
	query(t, e, "INSERT INTO d.t SELECT number FROM numbers(1000)")
	stop(t, e)
	require.NoError(t, e.Err(), "a clean stop is no failure")

	e = start(t, chengine.Options{Dir: dir})
	require.Equal(t, "1000", query(t, e, "SELECT count() FROM d.t"))
	query(t, e, "INSERT INTO d.t SELECT number FROM numbers(1000)")
	e.Kill()
	require.Error(t, e.Err())

	e = start(t, chengine.Options{Dir: dir})
	require.Equal(t, "2000", query(t, e, "SELECT count() FROM d.t"))
	stop(t, e)
}

func TestPortsAreTheOnesAskedFor(t *testing.T) {
	http, err := freeport.Port()
	require.NoError(t, err)
	tcp, err := freeport.Port()
	require.NoError(t, err)
	e := start(t, chengine.Options{Dir: t.TempDir(), HTTPPort: http, TCPPort: tcp})
	require.Equal(t, "127.0.0.1:"+strconv.Itoa(http), e.HTTPAddr)
	require.Equal(t, "127.0.0.1:"+strconv.Itoa(tcp), e.TCPAddr)
	stop(t, e)
}

func port(t *testing.T, addr string) int {
	t.Helper()
	_, text, _ := strings.Cut(addr, ":")
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

func TestSettingsAreAServers(t *testing.T) {
	e := start(t, chengine.Options{Dir: t.TempDir(), MemoryBytes: 1 << 30})
	require.Equal(t, "0", query(t, e, "SELECT value FROM system.settings WHERE name = 'implicit_select'"))
	require.Equal(t, strconv.Itoa(1<<30), query(t, e, "SELECT value FROM system.server_settings WHERE name = 'max_server_memory_usage'"))
	require.Equal(t, "2", query(t, e, "SELECT value FROM system.server_settings WHERE name = 'background_pool_size'"))
	require.NotEmpty(t, query(t, e, "SELECT name FROM system.databases LIMIT 1"))
	stop(t, e)
}

func TestSomeOfTheDiskIsLeftFree(t *testing.T) {
	e := start(t, chengine.Options{Dir: t.TempDir()})
	require.Equal(t, "1", query(t, e, "SELECT abs(keep_free_space / total_space - 0.02) < 0.001 FROM system.disks WHERE name = 'default'"))
}

func TestUsersNeedTheirPasswordAndDoWhatIsGranted(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "clickhouse", "data", "user_files", "secret")
	e := start(t, chengine.Options{Dir: filepath.Join(dir, "clickhouse"), Users: []chengine.User{
		{Name: "writer", Password: "s3<cret", Grants: []string{"ALL ON d.*", "SELECT ON system.*", "TABLE ENGINE ON MergeTree"}}, {Name: "reader", Password: "look", Grants: []string{"SELECT ON d.*"}},
	}})
	require.NoError(t, os.MkdirAll(filepath.Dir(secret), 0o700))
	require.NoError(t, os.WriteFile(secret, []byte("secret\n"), 0o600))
	for _, sql := range []string{
		"SELECT * FROM file('" + secret + "', 'LineAsString')", "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "INSERT INTO FUNCTION file('" + secret + ".2', 'LineAsString') SELECT 'x'",
		"SELECT * FROM s3('http://127.0.0.1:1/bucket/k', 'LineAsString')", "SELECT * FROM remote('127.0.0.2:1', system.one)",
		"CREATE DATABASE other", "CREATE USER u", "SYSTEM SHUTDOWN", "CREATE TABLE d.f (l String) ENGINE = File(LineAsString, '" + secret + "')", "CREATE FUNCTION f AS (x) -> x",
		"SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
	} {
		status, text := ask(t, e, sql, "writer", "s3<cret")
		require.NotEqual(t, http.StatusOK, status, sql)
		require.Contains(t, text, "Not enough privileges", sql)
	}
	require.Empty(t, e.TCPAddr)
	for password, want := range map[string]int{"s3<cret": http.StatusOK, "wrong": http.StatusNotFound} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.HTTPAddr+"/?query=SELECT+1", http.NoBody)
		require.NoError(t, err)
		req.Header.Set("X-ClickHouse-User", "writer")
		req.Header.Set("X-ClickHouse-Key", password)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, resp.StatusCode)
	}
	for _, who := range []string{"", "default"} {
		status, text := ask(t, e, "SELECT 1", who, "")
		require.NotEqual(t, http.StatusOK, status, "the child's own user is nobody else's: %s", text)
	}
	status, text := ask(t, e, "CREATE DATABASE d", "writer", "s3<cret")
	require.Equal(t, http.StatusOK, status, text)
	status, text = ask(t, e, "CREATE TABLE d.t (n Int64) ORDER BY n", "writer", "s3<cret")
	require.Equal(t, http.StatusOK, status, text)
	status, text = ask(t, e, "INSERT INTO d.t VALUES (1)", "reader", "look")
	require.NotEqual(t, http.StatusOK, status)
	require.Contains(t, text, "Not enough privileges")
	status, text = ask(t, e, "SELECT count() FROM d.t", "reader", "look")
	require.Equal(t, http.StatusOK, status, text)
	status, text = ask(t, e, "SELECT 1", "writer", "s3<cret")
	require.Equal(t, http.StatusOK, status, text)
	status, _ = ask(t, e, "SELECT 1", "writer", "wrong")
	require.NotEqual(t, http.StatusOK, status)
	stop(t, e)
}

func TestAStartThatFailsSaysWhy(t *testing.T) {
	e := start(t, chengine.Options{Dir: t.TempDir()})
	_, err := chengine.Start(t.Context(), chengine.Options{Dir: t.TempDir(), HTTPPort: port(t, e.HTTPAddr)})
	require.ErrorContains(t, err, "does not start")
	require.ErrorContains(t, err, "in use")
	stop(t, e)

	_, err = chengine.Start(t.Context(), chengine.Options{Dir: t.TempDir(), Library: filepath.Join(t.TempDir(), "no.so")})
	require.ErrorContains(t, err, "no.so")
	_, err = chengine.Start(t.Context(), chengine.Options{})
	require.ErrorContains(t, err, "Dir")
	_, err = chengine.Start(t.Context(), chengine.Options{Dir: t.TempDir(), Users: []chengine.User{{Name: "a b"}}})
	require.ErrorContains(t, err, `"a b"`)
}

func TestAnEngineThatDiesTellsItsOwner(t *testing.T) {
	var output bytes.Buffer // read only after the process has ended
	e := start(t, chengine.Options{Dir: t.TempDir(), Output: &output})
	require.NoError(t, e.Err())
	require.NoError(t, syscall.Kill(e.PID(), syscall.SIGKILL))
	select {
	case <-e.Done():
	case <-time.After(time.Minute):
		t.Fatal("Done was not closed")
	}
	require.ErrorContains(t, e.Err(), "killed")
	stop(t, e) // of an ended engine: nothing
	e.Kill()
}

func TestTheLogTellsErrorsAndNotEveryStep(t *testing.T) {
	var output bytes.Buffer // read only after the process has ended
	e := start(t, chengine.Options{Dir: t.TempDir(), Output: &output})
	require.Equal(t, "1", query(t, e, "SELECT 1"))
	status, _ := ask(t, e, "SELECT no_such_column", "", "")
	require.NotEqual(t, http.StatusOK, status)
	stop(t, e)
	require.Contains(t, output.String(), "<Error> executeQuery")
	require.NotRegexp(t, "<(Information|Debug|Trace)>", output.String())
}

func TestMissingLibraryNamesTheMakeTarget(t *testing.T) {
	t.Setenv(chengine.LibraryEnv, "")
	t.Setenv("PULSEGRID_CACHE", t.TempDir())
	_, err := chengine.FindLibrary()
	require.ErrorContains(t, err, "make tools")
	t.Setenv(chengine.LibraryEnv, filepath.Join(t.TempDir(), "gone.so"))
	_, err = chengine.FindLibrary()
	require.ErrorContains(t, err, "gone.so")
}

func TestLibraryVersionIsTheInstalledOne(t *testing.T) {
	env, err := os.ReadFile("../../tools/versions.env")
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(env), "CHDB_VERSION=")
	want, _, _ := strings.Cut(after, "\n")
	t.Setenv(chengine.LibraryEnv, "")
	path, err := chengine.FindLibrary()
	require.NoError(t, err)
	require.Equal(t, "clickhouse-"+want, filepath.Base(filepath.Dir(path)))
}
