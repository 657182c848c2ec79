package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// How a crashed child comes back: at once, then ever later; a child that stood for restartReset begins anew.
const (
	restartFirst = 500 * time.Millisecond
	restartMax   = 30 * time.Second
	restartReset = time.Minute
)

// child is one supervised process. It is restarted whenever it ends, until stop.
type child struct {
	name    string
	command []string // program and arguments
	env     []string
	log     *logFile
	report  func(message string) // what the operator must see; any goroutine

	stopping chan struct{} // closed by stop
	done     chan struct{} // closed when the last process has ended and none follows
	once     sync.Once

	mu        sync.Mutex // guards the rest
	process   *os.Process
	restarts  int
	lastError string
}

func newChild(name string, command, env []string, log *logFile, report func(string)) *child {
	return &child{name: name, command: command, env: env, log: log, report: report, stopping: make(chan struct{}), done: make(chan struct{})}
}

// start begins supervision.
func (c *child) start() { go c.supervise() }

func (c *child) supervise() {
	defer close(c.done)
	delay := restartFirst
	for {
		begun := time.Now()
		err := c.runOnce()
		select {
		case <-c.stopping:
			return
		default:
		}
		if time.Since(begun) > restartReset {
			delay = restartFirst
		}
		c.mu.Lock()
		c.restarts++
		c.lastError = err.Error()
		c.mu.Unlock()
		c.report(fmt.Sprintf("%s %v; starting it again in %v; its log is %s", c.name, err, delay, c.log.path))
		select {
		case <-c.stopping:
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, restartMax)
	}
}

// runOnce runs the process until it ends; its error says how. The child gets its own process group, so that a terminal's Ctrl-C
// reaches only the parent, which stops the children in order, and is killed by the kernel should the parent die. The kernel takes
// the death of the thread that started it for the parent's, so this goroutine keeps its thread until the child has ended.
func (c *child) runOnce() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(c.command[0], c.command[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	cmd.WaitDelay = time.Second // for the last of its output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.mu.Lock()
	select {
	case <-c.stopping: // stop came first and has nothing to signal
		c.mu.Unlock()
		return errors.New("was stopped")
	default:
	}
	err := cmd.Start()
	c.process = cmd.Process
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cannot be started: %w", err)
	}
	err = cmd.Wait()
	c.mu.Lock()
	c.process = nil
	c.mu.Unlock()
	if err == nil {
		return errors.New("ended by itself")
	}
	return fmt.Errorf("ended: %w", err)
}

// stop asks the process to end (SIGTERM) and waits; when ctx is done it is killed.
func (c *child) stop(ctx context.Context) error {
	c.once.Do(func() { close(c.stopping) })
	c.signal(syscall.SIGTERM)
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	c.signal(syscall.SIGKILL)
	<-c.done
	return fmt.Errorf("%s did not stop in time and was killed: what it had not committed is read again at the next start", c.name)
}

func (c *child) signal(s syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process != nil {
		_ = c.process.Signal(s) // it may have ended just now
	}
}

func (c *child) state() Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := Process{Name: c.name, Restarts: c.restarts, LastError: c.lastError, Log: c.log.path}
	if c.process != nil {
		p.PID = c.process.Pid
	}
	return p
}
