package cell

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// ErrRunning is returned when another process runs a cell in the same data directory.
var ErrRunning = errors.New("a cell is running there already")

// lockDir takes the data directory for this process. The kernel drops the lock when the process ends, however it ends.
func lockDir(l layout) (release func(), err error) {
	f, err := os.OpenFile(l.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	// A command that asks whether a cell runs (locked, below) holds the lock for an instant: ask more than once.
	for try := 0; ; try++ {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil || try == 4 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		holder, _ := os.ReadFile(l.lock()) // only names the holder in the message
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s: %w (process %s): stop it, or choose another with --data", l, ErrRunning, strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// locked tells whether a cell holds the data directory.
func locked(l layout) bool {
	f, err := os.Open(l.lock())
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return true
	}
	return false
}
