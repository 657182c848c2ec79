// Package wholefile replaces files at once.
package wholefile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write gives a file new content: whoever reads it finds the old content or the new, after a crash too. Until then the new one is beside it, under a hidden name.
func Write(path string, content []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".writing-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error that is told is the first one
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close()) // or the machine's end may undo the replacement
}
