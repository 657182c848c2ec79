// Package clickhousetest runs the real ClickHouse engine for the length of a test. It can be killed and started again with its
// data, on its port, which is how tests see a store fail. The test binary hosts the engine: its TestMain begins with
// chengine.RunChildIfAsked().
package clickhousetest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
)

// queryTimeout bounds one query of a test, and a start.
const queryTimeout = 3 * time.Minute

// Server is one running (or killed) engine.
type Server struct {
	URL     string // "http://127.0.0.1:port" of the HTTP interface, the same after a Restart
	TCPAddr string // "127.0.0.1:port" of the native interface, the same after a Restart

	t        testing.TB
	options  chengine.Options
	borrowed bool // the engine is Shared's

	mu     sync.Mutex
	engine *chengine.Engine // nil: not running
}

// Start runs an engine until the test ends. A missing library fails the test. The user is `default`, with no password.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartWith(t, chengine.Options{})
}

// StartWith is Start with options; an empty Dir is a temporary one.
func StartWith(t testing.TB, o chengine.Options) *Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s := newServer(t, o)
	t.Cleanup(s.Kill)
	s.Restart()
	return s
}

func newServer(t testing.TB, o chengine.Options) *Server {
	t.Helper()
	for _, port := range []*int{&o.HTTPPort, &o.TCPPort} {
		if *port == 0 { // one that is free after a Restart, too
			var err error
			if *port, err = freeport.Port(); err != nil {
				t.Fatalf("clickhousetest: %v", err)
			}
		}
	}
	return &Server{t: t, options: o}
}

// lock locks mu for who ends or starts the engine, which one does with an engine of one's own.
func (s *Server) lock() (unlock func()) {
	s.t.Helper()
	if s.borrowed {
		s.t.Fatal("clickhousetest: other tests have this engine, too: want Start")
	}
	s.mu.Lock()
	return s.mu.Unlock
}

// Restart starts a killed or stopped engine again and returns when it answers.
func (s *Server) Restart() {
	s.t.Helper()
	defer s.lock()()
	if s.engine != nil {
		s.t.Fatal("clickhousetest: the engine is running already")
	}
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	e, err := chengine.Start(ctx, s.options)
	if err != nil {
		s.t.Fatalf("clickhousetest: %v", err)
	}
	s.engine = e
	s.URL, s.TCPAddr = "http://"+e.HTTPAddr, e.TCPAddr
}

// Kill ends the engine at once (SIGKILL); open requests break off. Killing a killed engine does nothing.
func (s *Server) Kill() {
	defer s.lock()()
	if s.engine != nil {
		s.engine.Kill()
		s.engine = nil
	}
}

// Stop ends the engine cleanly.
func (s *Server) Stop() {
	s.t.Helper()
	defer s.lock()()
	if s.engine == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	if err := s.engine.Stop(ctx); err != nil {
		s.t.Errorf("clickhousetest: %v", err)
	}
	s.engine = nil
}

// PID of the running engine; 0 where none runs.
func (s *Server) PID() int {
	defer s.lock()()
	if s.engine == nil {
		return 0
	}
	return s.engine.PID()
}

// Try runs a statement and returns its answer as ClickHouse writes it (TSV unless the statement names a format), or the failure.
func (s *Server) Try(sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/?"+url.Values{"wait_end_of_query": {"1"}}.Encode(), strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	req.Close = true // no idle connection for a leak check to find
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", &Error{Status: resp.StatusCode, Text: strings.TrimSpace(string(body))}
	}
	return string(body), nil
}

// Error is a statement's failure.
type Error struct {
	Status int    // of HTTP
	Text   string // "Code: 60. DB::Exception: ..."
}

func (e *Error) Error() string { return e.Text }

// Exec runs a statement; a failure ends the test.
func (s *Server) Exec(sql string) {
	s.t.Helper()
	s.Query(sql)
}

// Query runs a statement and returns its answer without the last newline: TSV unless the statement names a format.
func (s *Server) Query(sql string) string {
	s.t.Helper()
	text, err := s.Try(sql)
	if err != nil {
		s.t.Fatalf("clickhousetest: %s\n%v", sql, err)
	}
	return strings.TrimSuffix(text, "\n")
}

// QueryInt runs a statement that answers with one integer.
func (s *Server) QueryInt(sql string) int64 {
	s.t.Helper()
	n, err := strconv.ParseInt(s.Query(sql), 10, 64)
	if err != nil {
		s.t.Fatalf("clickhousetest: %s\n%v", sql, err)
	}
	return n
}

// QueryRows runs a SELECT and returns one object a row, by column name. Integers of 64 bits are json.Number.
func (s *Server) QueryRows(sql string) []map[string]any {
	s.t.Helper()
	dec := json.NewDecoder(strings.NewReader(s.Query(sql + " FORMAT JSONEachRow")))
	dec.UseNumber()
	var rows []map[string]any
	for dec.More() {
		var row map[string]any
		if err := dec.Decode(&row); err != nil {
			s.t.Fatalf("clickhousetest: %s\n%v", sql, err)
		}
		rows = append(rows, row)
	}
	return rows
}
