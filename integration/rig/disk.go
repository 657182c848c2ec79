package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const ownMountsVariable = "PULSEGRID_RIG_OWN_MOUNTS"

// RunWithOwnMounts is called by the main or TestMain of a program that mounts disks, after chengine.RunChildIfAsked. It runs the program
// once more in a mount namespace of its own and returns that one's exit status, so that no mount outlives it, however it ends; it
// returns false where this is that program, or where the caller is not root and can mount nothing.
func RunWithOwnMounts() (status int, ran bool) {
	if os.Geteuid() != 0 || os.Getenv(ownMountsVariable) != "" {
		return 0, false
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false
	}
	runtime.LockOSThread() // the kernel takes the death of the thread that starts a child for the parent's
	defer runtime.UnlockOSThread()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownMountsVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil { // no such right, as in some containers
		return 0, false
	}
	_ = cmd.Wait() // its status says it
	return cmd.ProcessState.ExitCode(), true
}

// Disk is a small file system, which can be filled: of one part (tmpfs), or as hosts have them (MountDisk). Mounting it needs root.
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

// MountDisk makes a file system as hosts have them (ext4), and mounts it at dir. Unmount must follow.
func MountDisk(dir string, bytes int64) (*Disk, error) {
	image := dir + ".img"
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(image, nil, 0o600), os.Truncate(image, bytes)); err != nil {
		return nil, err
	}
	for _, argv := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%v: %w: %s", argv, err, out)
		}
	}
	return &Disk{Dir: dir}, nil
}

func (d *Disk) ballast() string { return filepath.Join(d.Dir, "ballast") }

// Fill takes every free byte; whoever writes there gets ENOSPC. The last twentieth of the disk takes two seconds: disks do not fill up in an instant, and who
// watches how much is free has the time to see it.
func (d *Disk) Fill() error {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(d.Dir, &disk); err != nil {
		return err
	}
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	slow := disk.Blocks / 20 // of the file system's blocks
	zeros := make([]byte, max(int64(slow)*disk.Bsize/100, 1))
	for len(zeros) > 0 {
		if err := syscall.Statfs(d.Dir, &disk); err != nil {
			return err
		}
		if disk.Bavail < slow {
			time.Sleep(20 * time.Millisecond)
		}
		switch _, err := f.Write(zeros); {
		case errors.Is(err, syscall.ENOSPC):
			zeros = zeros[:len(zeros)/2] // down to the last byte
		case err != nil:
			return err
		}
	}
	return nil
}

// FillTo takes all but a share of the disk, at once. It is for disks of MountDisk: in memory (tmpfs) it would take as much of that.
func (d *Disk) FillTo(left float64) error {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(d.Dir, &disk); err != nil {
		return err
	}
	take := int64(disk.Bavail) - int64(left*float64(disk.Blocks))
	if take <= 0 {
		return fmt.Errorf("%s has less than %v of the disk left already", d.Dir, left)
	}
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	return errors.Join(syscall.Fallocate(int(f.Fd()), 0, 0, take*disk.Bsize), f.Close())
}

// Free gives the space back.
func (d *Disk) Free() error { return os.Remove(d.ballast()) }

// Unmount undoes MountDisk.
func (d *Disk) Unmount() error { return d.close() }

// close unmounts the disk when its last user has gone.
func (d *Disk) close() error { return syscall.Unmount(d.Dir, syscall.MNT_DETACH) }
