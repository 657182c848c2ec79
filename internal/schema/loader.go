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

// Loader keeps what is in force in step with a set of files. A file that is bad stays as it was last good, or stays out; the changes of the others are
// taken, unless they need what is bad.
//
// Where the files have a RolloutFile, that alone says what is in force: versions, each of which is taken whole or not at all.
//
// One goroutine calls Reload; the others may be called by any.
type Loader struct {
	set     *fileset.Set
	tree    fileset.Tree
	now     map[string][]byte // content of the files as they are there
	good    map[string][]byte // content of the files that a registry without a rollout is made of
	refused map[string]error  // why what is there now is not in force
	rollout []byte            // content of the RolloutFile; nil: there is none
	unknown error             // the RolloutFile cannot be read, so what is in force cannot be told
	unused  error             // Report.Unused
	again   bool              // a version could not be loaded, and may be there next time
	read    bool
	current atomic.Pointer[InForce]
	follows atomic.Pointer[Rollout] // that current is of; nil: none
}

// NewLoader returns a loader that has read nothing; its registry is empty.
func NewLoader(tree fileset.Tree) *Loader {
	l := &Loader{set: fileset.New(tree), tree: tree, now: map[string][]byte{}, good: map[string][]byte{}, refused: map[string]error{}}
	l.current.Store(&InForce{Registry: Empty()})
	return l
}

// InForce is the newest that was good.
func (l *Loader) InForce() *InForce { return l.current.Load() }

// Registry is that of InForce.
func (l *Loader) Registry() *Registry { return l.InForce().Registry }

// Rollout is the one that InForce is of; false: the location has none.
func (l *Loader) Rollout() (Rollout, bool) {
	if r := l.follows.Load(); r != nil {
		return *r, true
	}
	return Rollout{}, false
}

// Report is what a Reload has done.
type Report struct {
	Changed  bool    // InForce is another one
	Files    int     // that the registry is made of
	Refused  []error // FileErrors, by file
	Unused   error   // the location's own files are a version that the rollout does not name; nil: they are not
	Duration time.Duration
}

// Reload reads what has changed. After an error nothing has: the files could not be listed.
func (l *Loader) Reload(ctx context.Context) (Report, error) {
	began := time.Now()
	change, err := l.set.Refresh(ctx)
	if err != nil {
		return Report{}, err
	}
	changed := !l.read || l.again || !change.Empty()
	l.read = true
	if changed {
		l.take(change)
		switch {
		case l.unknown != nil:
			l.refused, changed = map[string]error{RolloutFile: &FileError{RolloutFile, l.unknown}}, false
		case l.rollout != nil:
			changed = l.follow(ctx)
		default:
			changed = l.build(change.Failed)
		}
		l.unused = l.findUnused()
	}
	r := Report{Changed: changed, Files: len(l.Registry().Files()), Unused: l.unused, Duration: time.Since(began)}
	for _, name := range slices.Sorted(maps.Keys(l.refused)) {
		r.Refused = append(r.Refused, l.refused[name])
	}
	return r, nil
}

// take notes what is there now.
func (l *Loader) take(change *fileset.Change) {
	l.again, l.unknown = false, change.Failed[RolloutFile]
	for _, f := range change.Files {
		if f.Name == RolloutFile {
			l.rollout = f.Content
		} else {
			l.now[f.Name] = f.Content
		}
	}
	for _, name := range change.Removed {
		if name == RolloutFile {
			l.rollout = nil
		}
		delete(l.now, name)
	}
}

// follow puts in force what the RolloutFile says, and returns whether that is something else than before.
func (l *Loader) follow(ctx context.Context) bool {
	next, r, err := l.followed(ctx)
	l.again = err != nil
	l.refused = map[string]error{}
	if err != nil {
		l.refused[RolloutFile] = &FileError{RolloutFile, err}
		return false
	}
	if next == nil {
		return false
	}
	l.current.Store(next)
	l.follows.Store(&r)
	return true
}

// followed loads what the RolloutFile says; nil: it is in force.
func (l *Loader) followed(ctx context.Context) (*InForce, Rollout, error) {
	r, err := ParseRollout(l.rollout)
	if err != nil {
		return nil, r, err
	}
	if was := l.follows.Load(); was != nil && *was == r {
		return nil, r, nil
	}
	next := &InForce{}
	if next.Registry, err = l.version(ctx, r.InForce()); err != nil {
		return nil, r, err
	}
	if r.Stage != StageWarn && r.Stage != StageEnforce {
		return next, r, nil
	}
	next.Trial = &Trial{Rollout: r}
	beside := r.Proposed
	if r.Stage == StageEnforce {
		beside = r.Current
	}
	next.Trial.Beside, err = l.version(ctx, beside)
	return next, r, err
}

// version loads a version that is not loaded yet. What is wrong with its files is told only once they are known to be that version's.
func (l *Loader) version(ctx context.Context, id string) (*Registry, error) {
	now := l.InForce()
	if now.Registry.Version() == id {
		return now.Registry, nil
	}
	if now.Trial != nil && now.Trial.Beside.Version() == id {
		return now.Trial.Beside, nil
	}
	files, err := readVersion(ctx, l.tree, id)
	if err != nil {
		return nil, err
	}
	return Load(files)
}

func readVersion(ctx context.Context, tree fileset.Tree, id string) ([]File, error) {
	change, err := fileset.New(tree.Below(VersionsDir + "/" + id)).Refresh(ctx)
	if err != nil {
		return nil, fmt.Errorf("version %s: %w", id, err)
	}
	for name, err := range change.Failed {
		return nil, fmt.Errorf("version %s: %s: %w", id, name, err)
	}
	files := make([]File, 0, len(change.Files))
	for _, f := range change.Files {
		files = append(files, File(f))
	}
	if is := versionOf(files); is != id {
		return nil, fmt.Errorf("version %s: the %d files in %s/%s are version %s", id, len(files), VersionsDir, id, is)
	}
	return files, nil
}

// WriteVersion puts a registry's files where a RolloutFile finds them, unless they are there.
func WriteVersion(ctx context.Context, tree fileset.Tree, r *Registry) error {
	if _, err := readVersion(ctx, tree, r.Version()); err == nil {
		return nil
	}
	below := tree.Below(VersionsDir + "/" + r.Version())
	for _, f := range r.Files() {
		if err := below.Write(ctx, f.Name, f.Content); err != nil {
			return fmt.Errorf("write version %s: %s: %w", r.Version(), f.Name, err)
		}
	}
	_, err := readVersion(ctx, tree, r.Version())
	return err
}

// findUnused tells of files that somebody has put into the location, as one does without a rollout, and that have no effect.
func (l *Loader) findUnused() error {
	r, follows := l.Rollout()
	if !follows || l.rollout == nil || len(l.now) == 0 {
		return nil
	}
	if is := versionOf(files(l.now)); is != r.Current && is != r.Proposed {
		return &FileError{RolloutFile, fmt.Errorf("puts version %s in force; the location's own files are version %s and have no effect: roll them out", r.InForce(), is)}
	}
	return nil
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
			l.refused, l.good = refused, try
			l.follows.Store(nil)
			if next.version == l.Registry().version && l.InForce().Trial == nil {
				return false
			}
			l.current.Store(&InForce{Registry: next})
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

// files are those of a map in order of their names.
func files(from map[string][]byte) []File {
	out := make([]File, 0, len(from))
	for _, name := range slices.Sorted(maps.Keys(from)) {
		out = append(out, File{name, from[name]})
	}
	return out
}
