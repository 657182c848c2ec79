package fileset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // s3://
)

// Check tells whether Open would understand a location.
func Check(location string) error {
	_, _, err := parse(location)
	return err
}

// parse splits a location into a directory or a bucket's URL.
func parse(location string) (dir string, bucket *url.URL, err error) {
	if location == "" {
		return "", nil, errors.New("is empty, want a directory or s3://BUCKET/PREFIX?region=REGION")
	}
	u, err := url.Parse(location)
	switch {
	case err == nil && u.Scheme == "s3":
		if u.Host == "" {
			return "", nil, fmt.Errorf("%q names no bucket", location)
		}
		return "", u, nil
	case err == nil && u.Scheme == "file":
		if u.Host != "" || u.Path == "" {
			return "", nil, fmt.Errorf("%q: want file:///DIRECTORY", location)
		}
		return u.Path, nil, nil
	case strings.Contains(location, "://"):
		return "", nil, fmt.Errorf("%q is neither a directory nor s3://BUCKET/PREFIX", location)
	}
	return location, nil, nil
}

// Open opens a location: a directory's path, file:///DIRECTORY, or s3://BUCKET/PREFIX with the query parameters of
// gocloud.dev/blob/s3blob (region, endpoint, use_path_style, ...) and the credentials that AWS's SDK finds. It does not look whether it is there.
func Open(ctx context.Context, location string) (Source, error) {
	return open(ctx, location, isYAML)
}

// OpenNamed is Open for the files of these names, instead of YAML files.
func OpenNamed(ctx context.Context, location string, names []string) (Source, error) {
	set := map[string]bool{}
	for _, n := range names {
		set[n] = true
	}
	return open(ctx, location, func(name string) bool { return set[name] })
}

func open(ctx context.Context, location string, member func(name string) bool) (Source, error) {
	dir, u, err := parse(location)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return directory{dir, member}, nil
	}
	prefix := strings.Trim(u.Path, "/")
	if prefix != "" {
		prefix += "/"
	}
	bare := *u
	bare.Path = ""
	b, err := blob.OpenBucket(ctx, bare.String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", location, err)
	}
	return &bucket{Bucket: b, prefix: prefix, name: "s3://" + u.Host + "/" + prefix, member: member}, nil
}

// directory on this machine. Links that stay in it are followed, as a Kubernetes ConfigMap is a directory of links. Those that lead out of it are not: what is wrong with a
// file is quoted in logs, and whoever may put a link here need not be one who may read what it points to.
type directory struct {
	path   string
	member func(name string) bool
}

func (d directory) List(context.Context) ([]Entry, error) {
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // it was only read
	found, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, f := range found {
		if out, err = d.add(out, root, f.Name(), f); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// add adds the entry of a file below root, if it is a member that can be read, or one of which Read will say why it cannot.
func (d directory) add(to []Entry, root *os.Root, name string, f fs.DirEntry) ([]Entry, error) {
	if !d.member(f.Name()) {
		return to, nil
	}
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist): // gone since the directory was read, or a link to nowhere
		return to, nil
	case err != nil && f.Type()&fs.ModeSymlink != 0:
		return append(to, Entry{Name: filepath.ToSlash(name)}), nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return to, nil
	}
	return append(to, Entry{filepath.ToSlash(name), strconv.FormatInt(info.Size(), 36) + "/" + strconv.FormatInt(info.ModTime().UnixNano(), 36), info.Size()}), nil
}

func (d directory) Read(_ context.Context, name string, most int64) ([]byte, error) {
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // it was only read
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		if info, statErr := root.Lstat(filepath.FromSlash(name)); statErr == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("%w: a link is followed only if it is relative and stays in %s", err, d.path)
		}
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(f, most+1))
}

func (d directory) String() string { return d.path }
func (d directory) Close() error   { return nil }

type bucket struct {
	*blob.Bucket
	prefix, name string
	member       func(name string) bool
}

func (b *bucket) List(ctx context.Context) ([]Entry, error) {
	var out []Entry
	it := b.Bucket.List(&blob.ListOptions{Prefix: b.prefix, Delimiter: "/"})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(o.Key, b.prefix)
		if o.IsDir || !b.member(name) {
			continue
		}
		if len(out) > MaxFiles {
			return out, nil // Refresh refuses it
		}
		out = append(out, Entry{name, fmt.Sprintf("%x/%d/%d", o.MD5, o.Size, o.ModTime.UnixNano()), o.Size})
	}
}

func (b *bucket) Read(ctx context.Context, name string, most int64) ([]byte, error) {
	r, err := b.NewRangeReader(ctx, b.prefix+name, 0, most+1, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // it was only read
	return io.ReadAll(r)
}

func (b *bucket) String() string { return b.name }
