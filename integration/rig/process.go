// Package rig runs the parts of a cell as processes of their own, each of which can be killed and started again: for the flow
// tests and the benchmarks.
package rig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
)

// Process is a program that can be killed and started again with the same arguments.
type Process struct {
	argv  []string
	env   []string
	ready []string // addresses that accept connections once it is up
	armed []string // variables of the next start only

	container *Container // nil: it runs as this program does

	cmd  *exec.Cmd
	done chan struct{}
	log  logBuffer
}

// NewProcess describes a program; env is added to this program's environment.
func NewProcess(env map[string]string, ready []string, argv ...string) *Process {
	p := &Process{argv: argv, env: os.Environ(), ready: ready}
	for k, v := range env {
		p.env = append(p.env, k+"="+v)
	}
	return p
}

// Start runs the program, which dies with this one, and returns when its addresses accept connections.
func (p *Process) Start(timeout time.Duration) error { return p.StartAs(p.argv[0], timeout) }

// StartAs is Start with another build of the program, this once.
func (p *Process) StartAs(program string, timeout time.Duration) error {
	for _, a := range p.ready {
		if c, err := net.Dial("tcp", a); err == nil {
			_ = c.Close()
			return fmt.Errorf("start %s: another program listens on %s already", p.argv[0], a)
		}
	}
	cmd := exec.Command(program, p.argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(slices.Clone(p.env), p.armed...), &p.log, &p.log
	p.armed = nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.container != nil {
		p.container.enter(cmd)
	}
	done, started := make(chan struct{}), make(chan error, 1)
	go func() {
		// The kernel takes the death of the thread that started a child for the parent's.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the exit status of a program that was killed or told to stop says nothing
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.argv[0], err)
	}
	p.cmd, p.done = cmd, done
	return p.waitListening(timeout)
}

func (p *Process) waitListening(timeout time.Duration) error {
	deadline := time.After(timeout)
	for _, a := range p.ready {
		for {
			c, err := net.Dial("tcp", a)
			if err == nil {
				_ = c.Close()
				break
			}
			select {
			case <-p.done:
				return fmt.Errorf("%s ended:\n%s", p.argv[0], p.Log())
			case <-deadline:
				return fmt.Errorf("%s does not listen on %s after %v:\n%s", p.argv[0], a, timeout, p.Log())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// Kill sends SIGKILL and returns when the program is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails only for one that has ended
	<-p.done
}

// Stop sends SIGTERM, after the grace time SIGKILL, and tells whether SIGTERM was enough.
func (p *Process) Stop(grace time.Duration) bool {
	if p.cmd == nil {
		return true
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only for one that has ended
	select {
	case <-p.done:
		return true
	case <-time.After(grace):
		p.Kill()
		return false
	}
}

// Arm sets a variable for the next start, and only for that.
func (p *Process) Arm(name, value string) { p.armed = append(p.armed, name+"="+value) }

// Freeze stops the program where it is (SIGSTOP): its connections stay open, and nothing answers. Undo it with Thaw.
func (p *Process) Freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze, or a stop of its own.
func (p *Process) Thaw() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Ended tells whether the program has ended, or was never started.
func (p *Process) Ended() bool {
	if p.cmd == nil {
		return true
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Frozen tells whether the program stands still.
func (p *Process) Frozen() bool {
	if p.Ended() {
		return false
	}
	fields, err := statOf(p.PID())
	return err == nil && fields[0] == "T"
}

// PID of the running program.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the end of what the program has written.
func (p *Process) Log() string { return p.log.String() }

// logBuffer keeps the last MiB written to it.
type logBuffer struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

func (l *logBuffer) Write(b []byte) (int, error) {
	const keep = 1 << 20
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, b...)
	if len(l.buf) > 2*keep {
		l.buf = append(l.buf[:0], l.buf[len(l.buf)-keep:]...)
	}
	return len(b), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf)
}

// Usage is what the kernel has charged to a process.
type Usage struct {
	CPU     time.Duration // user and system time
	PeakRSS int64         // bytes
}

const clockTick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on

// statOf returns the fields of /proc/PID/stat from field 3, the state, on: the name before it may hold spaces.
func statOf(pid int) ([]string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])), nil
}

// UsageOf reads /proc.
func UsageOf(pid int) (Usage, error) {
	var u Usage
	fields, err := statOf(pid)
	if err != nil {
		return u, err
	}
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, err
		}
		u.CPU += time.Duration(n) * clockTick
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kb), " kB"), 10, 64)
			if err != nil {
				return u, err
			}
			u.PeakRSS = n << 10
		}
	}
	return u, nil
}

// Yield has each thread of a process, and so each that these start, run when no other wants the CPU: it stands for a process on another machine.
func Yield(pid int) error { return schedule(pid, unix.SCHED_IDLE, 0) }

// YieldOnOneCPU does so on the last CPU only.
func YieldOnOneCPU(pid int) error { return schedule(pid, unix.SCHED_IDLE, runtime.NumCPU()-1) }

// Contend undoes both.
func Contend(pid int) error { return schedule(pid, unix.SCHED_NORMAL, 0) }

// schedule has a process run by a policy, on the CPUs from one on.
func schedule(pid int, policy uint32, first int) error {
	var cpus unix.CPUSet
	for i := first; i < runtime.NumCPU(); i++ {
		cpus.Set(i)
	}
	return eachThread(pid, func(id int) error {
		if err := unix.SchedSetAttr(id, &unix.SchedAttr{Policy: policy}, 0); err != nil {
			return err
		}
		return unix.SchedSetaffinity(id, &cpus)
	})
}

func eachThread(pid int, do func(thread int) error) error {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := do(id); err != nil && !errors.Is(err, unix.ESRCH) { // a thread may have ended
			return fmt.Errorf("say how thread %d of process %d runs: %w", id, pid, err)
		}
	}
	return nil
}

// FreeAddr is freeport.Addr.
func FreeAddr() string {
	addr, err := freeport.Addr()
	if err != nil {
		panic(err) // such a machine runs no test
	}
	return addr
}

// Tool is the path of a program that `make tools` installs.
func Tool(name string) (string, error) {
	cache := os.Getenv("PULSEGRID_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(base, "pulsegrid")
	}
	found, err := filepath.Glob(filepath.Join(cache, name+"-*", name))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("%s is not installed: run `make tools`", name)
	}
	return found[len(found)-1], nil
}

// Root is the repository's directory.
func Root() string {
	_, self, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(self), "..", "..")
}

// Scrape returns the text that a Prometheus endpoint serves.
func Scrape(addr string) (string, error) {
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return string(b), err
}
