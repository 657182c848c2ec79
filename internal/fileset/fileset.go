// Package fileset reads a set of small files, YAML unless their names are given, out of a directory or an object-store prefix, again and again,
// and says what has changed since it looked last. It is how registries are pushed to a running gateway, and tables to an aggregator.
//
// A file is known by its name and its version (of a directory: size and time of change; of an object: its hash or time). Only files of
// another version are read. A version is noted before its content is read, so a file that changes meanwhile is read again next time.
package fileset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds of a set: beyond them it is something else that was pointed to.
const (
	MaxFiles     = 20_000
	MaxFileBytes = 16 << 20
)

// Entry is a file as a listing shows it.
type Entry struct {
	Name    string // without the directory or prefix
	Version string // another content has another version
	Size    int64
}

// Source is a directory or an object-store prefix.
type Source interface {
	// List returns the entries of the set, in any order: those named *.yaml and *.yml, or as OpenNamed says. Hidden files and subdirectories are no
	// part of it.
	List(ctx context.Context) ([]Entry, error)
	// Read returns at most max+1 bytes of a file's content.
	Read(ctx context.Context, name string, max int64) ([]byte, error)
	// String names the source in errors, without credentials.
	String() string
	Close() error
}

// File is a file's content.
type File struct {
	Name    string
	Content []byte
}

// Change is what is different from the last Refresh.
type Change struct {
	Files   []File           // new or changed, by name
	Removed []string         // by name; perhaps one that could never be read
	Failed  map[string]error // files that are there and could not be read; they are tried again by the next Refresh
}

// Empty tells whether nothing has changed and everything could be read.
func (c *Change) Empty() bool { return len(c.Files) == 0 && len(c.Removed) == 0 && len(c.Failed) == 0 }

// failed is no version of a file: it was there, and is tried again.
const failed = "\x00"

// Set remembers the versions of what has been read. It is used by one goroutine at a time.
type Set struct {
	source   Source
	versions map[string]string
}

// New returns a set of which nothing has been read yet. Closing the source stays its opener's business.
func New(source Source) *Set { return &Set{source: source, versions: map[string]string{}} }

// ErrEmpty is returned for a set without a file where there was one before, and for one that has none at first: a registry
// that is empty is one that is not there.
var ErrEmpty = errors.New("no file of the set is there: it has those named *.yaml and *.yml, or as the configuration names them")

// Refresh looks for changes. An error means that nothing is known, and that everything stays as it was read last.
func (s *Set) Refresh(ctx context.Context) (*Change, error) {
	entries, err := s.source.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.source, err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("list %s: %w", s.source, ErrEmpty)
	}
	if len(entries) > MaxFiles {
		return nil, fmt.Errorf("list %s: %d files are more than %d", s.source, len(entries), MaxFiles)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	change := &Change{Failed: map[string]error{}}
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		seen[e.Name] = true
		if v, known := s.versions[e.Name]; known && v == e.Version {
			continue
		}
		content, err := s.read(ctx, e)
		if err != nil {
			change.Failed[e.Name] = err
			s.versions[e.Name] = failed
			continue
		}
		s.versions[e.Name] = e.Version
		change.Files = append(change.Files, File{e.Name, content})
	}
	for name := range s.versions {
		if !seen[name] {
			change.Removed = append(change.Removed, name)
			delete(s.versions, name)
		}
	}
	slices.Sort(change.Removed)
	return change, nil
}

func (s *Set) read(ctx context.Context, e Entry) ([]byte, error) {
	if e.Size > MaxFileBytes {
		return nil, fmt.Errorf("%s: %d bytes are more than %d", e.Name, e.Size, MaxFileBytes)
	}
	b, err := s.source.Read(ctx, e.Name, MaxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", e.Name, err)
	}
	if len(b) > MaxFileBytes {
		return nil, fmt.Errorf("%s: more than %d bytes", e.Name, MaxFileBytes)
	}
	return b, nil
}

// isYAML is what belongs to a set of which nothing else is said.
func isYAML(name string) bool {
	return (strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")) && !strings.HasPrefix(name, ".")
}
