package fileset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gocloud.dev/blob"
)

// OpenTree is Open for a location whose subdirectories belong to it: names have slashes. Of links, those to files are followed, and the location itself.
func OpenTree(ctx context.Context, location string) (Source, error) {
	s, err := Open(ctx, location)
	switch s := s.(type) {
	case directory:
		return directoryTree{s}, err
	case *bucket:
		return bucketTree{s}, err
	}
	return s, err
}

type directoryTree struct{ directory }

func (d directoryTree) List(context.Context) ([]Entry, error) {
	root, err := filepath.EvalSymlinks(d.path) // a walk does not follow a link
	if err != nil {
		return nil, err
	}
	var out []Entry
	err = filepath.WalkDir(root, func(path string, f fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if f.IsDir() {
			if path != root && strings.HasPrefix(f.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		if !d.member(f.Name()) {
			return nil
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone since the directory was read, or a link to nowhere
			return nil
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		out = append(out, Entry{filepath.ToSlash(name), strconv.FormatInt(info.Size(), 36) + "/" + strconv.FormatInt(info.ModTime().UnixNano(), 36), info.Size()})
		if len(out) > MaxFiles {
			return fs.SkipAll // Refresh refuses it
		}
		return nil
	})
	return out, err
}

type bucketTree struct{ *bucket }

func (b bucketTree) List(ctx context.Context) ([]Entry, error) {
	var out []Entry
	it := b.Bucket.List(&blob.ListOptions{Prefix: b.prefix})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(o.Key, b.prefix)
		parts := strings.Split(name, "/")
		if o.IsDir || !b.member(parts[len(parts)-1]) || slices.ContainsFunc(parts, func(p string) bool { return p == "" || strings.HasPrefix(p, ".") }) {
			continue
		}
		if len(out) > MaxFiles {
			return out, nil // Refresh refuses it
		}
		out = append(out, Entry{name, fmt.Sprintf("%x/%d/%d", o.MD5, o.Size, o.ModTime.UnixNano()), o.Size})
	}
}
