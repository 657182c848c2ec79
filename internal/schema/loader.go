package schema

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
)

// maxRounds bounds how often a registry is compiled to find the files that are at fault. Files that are left out or turned back may take with
// them what others refer to, so there may be several rounds.
const maxRounds = 8

// Loader keeps a Registry in step with a set of files. A file that is bad stays as it was last good, or stays out; the changes of the others are
// taken, unless they need what is bad.
//
// One goroutine calls Reload; Registry may be called by any.
type Loader struct {
	set     *fileset.Set
	now     map[string][]byte // content of the files as they are there
	good    map[string][]byte // content of the files that Registry is made of
	refused map[string]error  // why what is there now is not in Registry
	read    bool
	current atomic.Pointer[Registry]
}

// NewLoader returns a loader that has read nothing; its registry is empty.
func NewLoader(source fileset.Source) *Loader {
	l := &Loader{set: fileset.New(source), now: map[string][]byte{}, good: map[string][]byte{}, refused: map[string]error{}}
	l.current.Store(Empty())
	return l
}

// Registry is the newest one that was good.
func (l *Loader) Registry() *Registry { return l.current.Load() }

// Report is what a Reload has done.
type Report struct {
	Changed  bool    // there is a new registry
	Files    int     // that it is made of
	Refused  []error // FileErrors, by file
	Duration time.Duration
}

// Reload reads what has changed. After an error nothing has: the files could not be listed.
func (l *Loader) Reload(ctx context.Context) (Report, error) {
	began := time.Now()
	change, err := l.set.Refresh(ctx)
	if err != nil {
		return Report{}, err
	}
	changed := !l.read || !change.Empty()
	l.read = true
	if changed {
		for _, f := range change.Files {
			l.now[f.Name] = f.Content
		}
		for _, name := range change.Removed {
			delete(l.now, name)
		}
		changed = l.build(change.Failed)
	}
	r := Report{Changed: changed, Files: len(l.good), Duration: time.Since(began)}
	for _, name := range slices.Sorted(maps.Keys(l.refused)) {
		r.Refused = append(r.Refused, l.refused[name])
	}
	return r, nil
}

// build compiles the files as they are now, with those at fault as they were; it returns whether there is a new registry.
func (l *Loader) build(failed map[string]error) bool {
	try := maps.Clone(l.now)
	refused := map[string]error{}
	back := func(name string, err error) {
		if refused[name] == nil {
			refused[name] = err
		}
		if was, ok := l.good[name]; ok && string(was) != string(try[name]) {
			try[name] = was
		} else {
			delete(try, name)
		}
	}
	for name, err := range failed { // what is there now is not known
		refused[name] = &FileError{name, err}
		if was, ok := l.good[name]; ok {
			try[name] = was
		} else {
			delete(try, name)
		}
	}
	for range maxRounds {
		next, err := Load(files(try))
		if err == nil {
			l.refused = refused
			if next.version == l.current.Load().version {
				return false
			}
			l.good = try
			l.current.Store(next)
			return true
		}
		bad := errorsByFile(err)
		if len(bad) == 0 {
			refused[""] = err
			break
		}
		if victim := l.unchanged(bad, try); victim != "" {
			l.revert(try, refused, victim, bad[victim])
			continue
		}
		for name, err := range bad {
			back(name, err)
		}
	}
	l.refused = refused // too entangled: everything stays as it was
	return false
}

// unchanged returns a file that is at fault as it was good before: it is the change of another one that breaks it.
func (l *Loader) unchanged(bad map[string]error, try map[string][]byte) string {
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		if was, ok := l.good[name]; ok && string(was) == string(try[name]) {
			return name
		}
	}
	return ""
}

// revert turns all changes back: which of them broke the victim is for people to find out.
func (l *Loader) revert(try map[string][]byte, refused map[string]error, victim string, err error) {
	for name, content := range try {
		if was, ok := l.good[name]; !ok || string(was) != string(content) {
			delete(try, name)
			if refused[name] == nil {
				refused[name] = &FileError{name, fmt.Errorf("with this change, or one made with it, another file is bad: %w", err)}
			}
		}
	}
	for name, was := range l.good {
		if _, ok := l.now[name]; !ok {
			refused[name] = &FileError{name, fmt.Errorf("is gone, and %s was good with it: %w", victim, err)}
		}
		try[name] = was
	}
}

func files(from map[string][]byte) []File {
	out := make([]File, 0, len(from))
	for name, content := range from {
		out = append(out, File{name, content})
	}
	return out
}
