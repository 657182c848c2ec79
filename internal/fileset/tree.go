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
	"strings"

	"gocloud.dev/blob"

	"github.com/pulsegrid/pulsegrid/internal/wholefile"
)

// Tree is a source whose subdirectories belong to it: names have slashes.
type Tree interface {
	Source
	// Below is the tree in a directory of this one, which may be hidden. It is closed with this one.
	Below(dir string) Tree
	// Write puts a file where there is another one, or none, in one step: whoever reads it finds the whole content of either.
	Write(ctx context.Context, name string, content []byte) error
}

// OpenTree is Open for a tree. Of links, those to files of the tree are followed, and the location itself.
func OpenTree(ctx context.Context, location string) (Tree, error) {
	s, err := Open(ctx, location)
	if err != nil {
		return nil, err
	}
	if d, is := s.(directory); is {
		return directoryTree{d}, nil
	}
	return bucketTree{s.(*bucket)}, nil
}

type directoryTree struct{ directory }

func (d directoryTree) List(context.Context) ([]Entry, error) {
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // it was only read
	var out []Entry
	err = fs.WalkDir(root.FS(), ".", func(path string, f fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if f.IsDir() {
			if path != "." && strings.HasPrefix(f.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		if out, err = d.add(out, root, path, f); err != nil {
			return err
		}
		if len(out) > MaxFiles {
			return fs.SkipAll // Refresh refuses it
		}
		return nil
	})
	return out, err
}

func (d directoryTree) Below(dir string) Tree {
	return directoryTree{directory{filepath.Join(d.path, filepath.FromSlash(dir)), d.member}}
}

// Write makes the file readable for all: the gateways run as somebody else than the operator.
func (d directoryTree) Write(_ context.Context, name string, content []byte) error {
	path := filepath.Join(d.path, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return wholefile.Write(path, content, 0o644) // what it writes until then is hidden: no member of the set
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

func (b bucketTree) Below(dir string) Tree {
	return bucketTree{&bucket{Bucket: b.Bucket, prefix: b.prefix + dir + "/", name: b.name + dir + "/", member: b.member}}
}

func (b bucketTree) Write(ctx context.Context, name string, content []byte) error {
	return b.WriteAll(ctx, b.prefix+name, content, nil)
}
