package tenant

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/yamlfield"
)

// Loader keeps a Snapshot in step with a set of files. Each file stands for itself: one that is bad, or that says what another file
// says already, stays as it was read last, and the changes of the others are taken. Where two files that have both changed say the same, the one
// whose name comes later is refused. A cell that tenants name is not taken out, not even with its file.
//
// One goroutine calls Reload; Snapshot may be called by any.
type Loader struct {
	set     *fileset.Set
	files   map[string]*fileState
	current atomic.Pointer[Snapshot]
}

// fileState is what is known of one file of the set.
type fileState struct {
	good    *file // in the snapshot; nil: nothing of it was ever taken
	changed *file // well-formed, and not in the snapshot yet
	removed bool  // it is gone, and good is in the snapshot still
	err     error // why what is there now is not in the snapshot
}

// trying tells whether the next snapshot is made with what is there now, and not with what is in force.
func (st *fileState) trying() bool { return (st.changed != nil || st.removed) && st.err == nil }

// NewLoader returns a loader that has read nothing.
func NewLoader(source fileset.Source) *Loader {
	return &Loader{set: fileset.New(source), files: map[string]*fileState{}}
}

// Snapshot is nil until the first Reload that could list the files.
func (l *Loader) Snapshot() *Snapshot { return l.current.Load() }

// Report is what a Reload has done.
type Report struct {
	Changed  bool    // there is a new snapshot
	Refused  []error // of each file that is not in it as it is now: FieldErrors, or why it could not be read; by file
	Duration time.Duration
}

// Reload reads what has changed. After an error nothing has.
func (l *Loader) Reload(ctx context.Context) (Report, error) {
	began := time.Now()
	change, err := l.set.Refresh(ctx)
	if err != nil {
		return Report{}, err
	}
	first := l.current.Load() == nil
	if first || !change.Empty() {
		l.apply(change)
		l.swap()
	}
	report := Report{Changed: first || len(change.Files)+len(change.Removed) > 0, Duration: time.Since(began)}
	for _, name := range slices.Sorted(maps.Keys(l.files)) {
		if st := l.files[name]; st.err != nil {
			report.Refused = append(report.Refused, st.err)
		}
	}
	return report, nil
}

func (l *Loader) apply(change *fileset.Change) {
	state := func(name string) *fileState {
		st := l.files[name]
		if st == nil {
			st = &fileState{}
			l.files[name] = st
		}
		return st
	}
	for _, f := range change.Files {
		st := state(f.Name)
		st.changed, st.err = parse(f.Name, f.Content)
		st.removed = false
	}
	for name, err := range change.Failed {
		st := state(name)
		st.changed, st.removed, st.err = nil, false, err
	}
	for _, name := range change.Removed {
		if st := l.files[name]; st != nil && st.good != nil {
			st.changed, st.removed, st.err = nil, true, nil
		} else {
			delete(l.files, name)
		}
	}
}

// swap makes the next snapshot: with all files that have changed, then without those that clash with others, until none does. It ends,
// because the files as they were last clash with none.
func (l *Loader) swap() {
	names := slices.Sorted(maps.Keys(l.files))
	for _, st := range l.files {
		if st.changed != nil || st.removed {
			st.err = nil // clashed with a file that may have changed since
		}
	}
	for {
		c, incomplete := l.next(names)
		next, conflicts := compile(c)
		if len(conflicts) == 0 {
			l.take(next, incomplete)
			return
		}
		refused := map[*file][]error{}
		for _, c := range conflicts {
			if c.with != c.file && refused[c.with] != nil {
				continue // with a file that is out: the next round tells whether there is another
			}
			if errs := refused[c.file]; len(errs) < yamlfield.ErrorsMost {
				refused[c.file] = append(errs, c.err)
			}
		}
		for f, errs := range refused {
			if st := l.files[f.name]; st.changed == f || st.removed && st.good == f {
				st.err = errors.Join(errs...)
			}
		}
	}
}

// next is what is to be tried. What is in force comes first, so that it is the newcomer that clashes.
func (l *Loader) next(names []string) (c change, incomplete bool) {
	c.dropped = map[string]*file{}
	for _, name := range names {
		switch st := l.files[name]; {
		case !st.trying() && st.good != nil:
			c.files = append(c.files, st.good)
		case !st.trying():
			incomplete = true
		}
	}
	c.inForce = len(c.files)
	for _, name := range names {
		st := l.files[name]
		if !st.trying() {
			continue
		}
		by := st.good
		if st.changed != nil {
			by = st.changed
			c.files = append(c.files, st.changed)
		}
		if st.good != nil {
			for _, cell := range st.good.cells {
				c.dropped[cell.value.Name] = by // or it is defined still, which comes first
			}
		}
	}
	return c, incomplete
}

// take puts a snapshot in force, and with it what was tried.
func (l *Loader) take(next *Snapshot, incomplete bool) {
	for name, st := range l.files {
		switch {
		case !st.trying():
		case st.removed:
			delete(l.files, name)
		default:
			st.good, st.changed = st.changed, nil
		}
	}
	next.incomplete = incomplete
	l.current.Store(next)
}
