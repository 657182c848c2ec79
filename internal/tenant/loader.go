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
// whose name comes later is refused.
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
	err     error // why what is there now is not in the snapshot
}

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
	}
	for name, err := range change.Failed {
		st := state(name)
		st.changed, st.err = nil, err
	}
	for _, name := range change.Removed {
		delete(l.files, name)
	}
}

// swap makes the next snapshot: with all files that have changed, then without those that clash with others, until none does. It ends,
// because the files as they were last clash with none.
func (l *Loader) swap() {
	names := slices.Sorted(maps.Keys(l.files))
	for _, st := range l.files {
		if st.changed != nil {
			st.err = nil // clashed with a file that may have changed since
		}
	}
	for {
		var files []*file
		incomplete := false
		// What is in force first, so that it is the newcomer that clashes.
		for _, inForce := range []bool{true, false} {
			for _, name := range names {
				st := l.files[name]
				trying := st.changed != nil && st.err == nil
				switch {
				case trying && !inForce:
					files = append(files, st.changed)
				case !trying && inForce && st.good != nil:
					files = append(files, st.good)
				case !trying && st.good == nil:
					incomplete = true
				}
			}
		}
		next, conflicts := compile(files)
		if len(conflicts) == 0 {
			for _, st := range l.files {
				if st.changed != nil && st.err == nil {
					st.good, st.changed = st.changed, nil
				}
			}
			next.incomplete = incomplete
			l.current.Store(next)
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
			if st := l.files[f.name]; st.changed == f {
				st.err = errors.Join(errs...)
			}
		}
	}
}
