// Package freeport finds loopback ports for programs that cannot be handed a listener, or that must come back on the address they had.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// low and high bound the ports. They lie below those that the kernel gives to clients (32768 and up on Linux), so that a program that is
// started again finds its address free.
const low, high = 10000, 32000

// taken holds the lock files of this process's ports: a port is its own until the process ends, however it ends.
var taken struct {
	mu    sync.Mutex
	locks []*os.File // guarded by mu
}

// Addr is Port as an address of the loopback interface.
func Addr() (string, error) {
	port, err := Port()
	return address(port), err
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Port returns a TCP port on which nobody listens on the loopback interface. No other call returns it, in no other process either, before this process ends:
// tests of several packages run at a time, and a port that is merely free now may be somebody else's a moment later.
func Port() (int, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pulsegrid-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("free port: %w", err)
	}
	taken.mu.Lock()
	defer taken.mu.Unlock()
	var last error
	for range 10_000 {
		port := low + rand.IntN(high-low)
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, fmt.Errorf("free port: %w", err)
		}
		if last = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); last == nil {
			var l net.Listener
			if l, last = net.Listen("tcp", address(port)); last == nil {
				taken.locks = append(taken.locks, lock)
				return port, l.Close()
			}
		}
		_ = lock.Close()
	}
	return 0, fmt.Errorf("no free loopback port from %d to %d: %w", low, high, last)
}
