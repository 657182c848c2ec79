package chengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 2 * time.Minute // a start takes 0.2 s; a cold disk and a busy machine take longer
	pollInterval = 10 * time.Millisecond
	tailBytes    = 4 << 10 // of the child's output, for error messages
)

// Options say how to run an engine.
type Options struct {
	Library     string    // path of libchdb.so; empty: FindLibrary
	Dir         string    // where data and configuration lie; created if missing. One engine a directory
	HTTPPort    int       // on 127.0.0.1; 0: a free one
	TCPPort     int       // native protocol, on 127.0.0.1; 0: a free one. With Users it is not served: see handlers
	ConfigFile  string    // a ClickHouse configuration in place of the written one; empty: the written one
	MemoryBytes int64     // of the engine; 0: 2 GiB. Queries beyond it fail, the engine stays
	Users       []User    // empty: `default` without a password, who may do everything; else nobody but these
	Output      io.Writer // the child's output; nil: only its end is kept, for errors
}

// Engine is a running child process. Its methods may be called by any goroutine.
type Engine struct {
	HTTPAddr string // "127.0.0.1:port"
	TCPAddr  string // "127.0.0.1:port", native protocol; empty with Options.Users

	stdin   io.Closer
	process *os.Process
	tail    *tailWriter
	done    chan struct{} // closed when the process has ended
	exitErr error         // valid after done
	once    sync.Once     // closes stdin
}

var userName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`) // it becomes an XML element

// errNoEngine is for programs that are built with the tag noengine, as releases are.
var errNoEngine = errors.New("chengine: this program is built without the ClickHouse engine, to run without a C library; take the one that `make build` builds")

func (o *Options) complete() error {
	if !hasEngine {
		return errNoEngine
	}
	var err error
	if o.Library == "" {
		if o.Library, err = FindLibrary(); err != nil {
			return err
		}
	}
	if o.Dir == "" {
		return errors.New("chengine: Options.Dir is empty")
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	if o.ConfigFile != "" {
		if o.ConfigFile, err = filepath.Abs(o.ConfigFile); err != nil {
			return err
		}
	}
	for _, u := range o.Users {
		if !userName.MatchString(u.Name) || u.Name == "default" {
			return fmt.Errorf("chengine: user name %q: want small letters, digits and underscores, and not default", u.Name)
		}
	}
	return os.MkdirAll(dataPath(o.Dir), 0o755)
}

// Start starts an engine and returns when it answers; ctx bounds only the start, as do two minutes. The calling program must begin
// with RunChildIfAsked.
func Start(ctx context.Context, o Options) (*Engine, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if o.ConfigFile == "" {
		if err := writeConfig(o); err != nil {
			return nil, fmt.Errorf("chengine: %w", err)
		}
		o.ConfigFile = configPath(o.Dir)
	}
	if err := os.Remove(portsPath(o.Dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("chengine: %w", err)
	}
	e := &Engine{tail: &tailWriter{next: o.Output}, done: make(chan struct{})}
	if err := e.spawn(o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := e.waitReady(ctx, o); err != nil {
		e.Kill()
		return nil, fmt.Errorf("chengine: the engine does not start: %w%s", err, e.tail.suffix())
	}
	return e, nil
}

// arguments of the child. The last query ends when standard input does: until then the servers serve.
func arguments(o Options) []string {
	query, tcp := "SYSTEM START LISTEN HTTP; ", "0"
	if len(o.Users) == 0 {
		query, tcp = query+"SYSTEM START LISTEN TCP; ", "getServerPort('tcp_port')"
	}
	query += "SELECT getServerPort('http_port'), " + tcp + " INTO OUTFILE '" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(portsPath(o.Dir)) + "' TRUNCATE FORMAT TSV; " +
		"SELECT count() FROM file('-', 'LineAsString', 'l String') FORMAT Null"
	return []string{
		childArg, o.Library,
		"--config-file", o.ConfigFile,
		"--log-level=warning", // clickhouse-local does not heed the level in its configuration
		"--path", dataPath(o.Dir),
		"--http_port=" + strconv.Itoa(o.HTTPPort),
		"--tcp_port=" + strconv.Itoa(o.TCPPort),
		"--listen_host=127.0.0.1", // never another: `default` has no password
		"--query", query,
	}
}

// spawn starts the process. It gets its own process group, so that a terminal's Ctrl-C reaches only the parent, and is killed by
// the kernel should the parent die. The kernel takes the death of the thread that started it for the parent's, so the goroutine
// that waits for the process keeps its thread.
func (e *Engine) spawn(o Options) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("chengine: %w", err)
	}
	cmd := exec.Command(self, arguments(o)...)
	cmd.Dir = o.Dir
	cmd.Stdout, cmd.Stderr = e.tail, e.tail
	cmd.WaitDelay = time.Second // for the last of its output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if e.stdin, err = cmd.StdinPipe(); err != nil {
		return fmt.Errorf("chengine: %w", err)
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			e.exitErr = cmd.Wait()
			close(e.done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("chengine: %w", err)
	}
	e.process = cmd.Process
	return nil
}

func (e *Engine) waitReady(ctx context.Context, o Options) error {
	var err error
	for {
		if err = e.ready(ctx, o); err == nil {
			return nil
		}
		select {
		case <-e.done:
			return fmt.Errorf("it ended: %w", e.Err())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pollInterval):
		}
	}
}

// ready asks once.
func (e *Engine) ready(ctx context.Context, o Options) error {
	text, err := os.ReadFile(portsPath(o.Dir))
	if err != nil {
		return err
	}
	if !strings.HasSuffix(string(text), "\n") {
		return errors.New("the engine has not told its ports yet")
	}
	ports := strings.Fields(string(text))
	if len(ports) != 2 {
		return fmt.Errorf("the engine told ports %q, want two", text)
	}
	e.HTTPAddr = net.JoinHostPort("127.0.0.1", ports[0])
	if len(o.Users) == 0 {
		e.TCPAddr = net.JoinHostPort("127.0.0.1", ports[1])
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.HTTPAddr+"/ping", http.NoBody)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/ping answered %s", resp.Status)
	}
	return nil
}

// PID of the child.
func (e *Engine) PID() int { return e.process.Pid }

// Done is closed when the process has ended, however that came.
func (e *Engine) Done() <-chan struct{} { return e.done }

// Err says how the process ended, with the end of its output; nil while it runs and after a clean stop.
func (e *Engine) Err() error {
	select {
	case <-e.done:
	default:
		return nil
	}
	if e.exitErr == nil {
		return nil
	}
	return fmt.Errorf("the ClickHouse engine: %w%s", e.exitErr, e.tail.suffix())
}

// Stop ends the engine cleanly: running queries end, then the process. When ctx is done first, the process is killed; the error
// then says so. Stopping an engine that has ended does nothing.
func (e *Engine) Stop(ctx context.Context) error {
	e.once.Do(func() { _ = e.stdin.Close() })
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		e.Kill()
		return fmt.Errorf("the ClickHouse engine did not stop in time and was killed (what it had acknowledged is stored): %w", ctx.Err())
	}
}

// Kill ends the process at once (SIGKILL) and returns when it is gone.
func (e *Engine) Kill() {
	_ = e.process.Kill() // it may have ended
	<-e.done
	e.once.Do(func() { _ = e.stdin.Close() })
}

// tailWriter passes output on and keeps its end.
type tailWriter struct {
	mu   sync.Mutex // guards end
	end  []byte
	next io.Writer // nil: nowhere
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.end = append(w.end, p...)
	if len(w.end) > tailBytes {
		w.end = append(w.end[:0], w.end[len(w.end)-tailBytes:]...)
	}
	w.mu.Unlock()
	if w.next != nil {
		_, _ = w.next.Write(p) // a full disk of logs must not end the engine
	}
	return len(p), nil
}

func (w *tailWriter) suffix() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.TrimSpace(string(w.end))
	if text == "" {
		return ""
	}
	return "; its output ends:\n" + text
}
