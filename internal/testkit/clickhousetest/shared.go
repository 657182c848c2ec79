package clickhousetest

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
)

// shared is the engine of Shared. Nil: none runs.
var shared struct {
	mu      sync.Mutex
	server  *Server
	dir     string
	builtIn []string // its databases at its start
	lent    bool     // to a test that has not ended
}

// Shared is Start for a test that does not end the engine, nor measure it: one engine serves all of these tests of a package, one after another, and has no database but its own when
// a test begins. TestMain needs Sharing.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.lent {
		t.Fatal("clickhousetest: another test has the shared engine: want Start")
	}
	if shared.server == nil {
		dir, err := os.MkdirTemp("", "clickhousetest-")
		if err != nil {
			t.Fatalf("clickhousetest: %v", err)
		}
		server := newServer(t, chengine.Options{Dir: dir})
		server.Restart()
		shared.server, shared.dir, shared.builtIn = server, dir, strings.Fields(server.Query(databases))
	}
	shared.lent = true
	s := &Server{URL: shared.server.URL, TCPAddr: shared.server.TCPAddr, t: t, borrowed: true}
	t.Cleanup(s.giveBack) // after the cleanups of what the test will start
	return s
}

const databases = "SELECT name FROM system.databases"

// giveBack drops what the test has made. An engine that cannot do that is not used again.
func (s *Server) giveBack() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.lent = false
	names, err := s.Try(databases)
	for name := range strings.FieldsSeq(names) {
		if err == nil && !slices.Contains(shared.builtIn, name) {
			_, err = s.Try("DROP DATABASE `" + name + "` SYNC")
		}
	}
	if err != nil {
		s.t.Errorf("clickhousetest: the shared engine: %v", err)
		end()
	}
}

// end ends the shared engine.
func end() {
	if shared.server != nil {
		shared.server.Kill()
		_ = os.RemoveAll(shared.dir) // a temporary directory
		shared.server = nil
	}
}

// Sharing is m for TestMain, which ends the engine of Shared when the tests have run.
func Sharing(m goleak.TestingM) goleak.TestingM { return sharing{m} }

type sharing struct{ tests goleak.TestingM }

func (s sharing) Run() int {
	code := s.tests.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	end()
	return code
}
