package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Disk is a small file system (tmpfs) of one part, which can be filled. Mounting it needs root.
type Disk struct {
	Dir string
}

func newDisk(dir string, bytes int64) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		return nil, fmt.Errorf("a small disk at %s needs the right to mount (run the fault tests as root): %w", dir, err)
	}
	return &Disk{Dir: dir}, nil
}

func (d *Disk) ballast() string { return filepath.Join(d.Dir, "ballast") }

// Fill takes every free byte; whoever writes there gets ENOSPC.
func (d *Disk) Fill() error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	const step = 1 << 20
	zeros := make([]byte, step)
	for len(zeros) > 0 {
		switch _, err := f.Write(zeros); {
		case errors.Is(err, syscall.ENOSPC):
			zeros = zeros[:len(zeros)/2] // down to the last byte
		case err != nil:
			return err
		}
	}
	return nil
}

// Free gives the space back.
func (d *Disk) Free() error { return os.Remove(d.ballast()) }

// close unmounts the disk when its last user has gone.
func (d *Disk) close() error { return syscall.Unmount(d.Dir, syscall.MNT_DETACH) }
