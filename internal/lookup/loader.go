package lookup

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
)

// Spec is a table that is wanted: the file TABLE.csv or TABLE.jsonl.
type Spec struct {
	Table string
	Key   string // column that holds the key
}

// Files are the names that the tables' files may have.
func Files(specs []Spec) []string {
	var out []string
	for _, s := range specs {
		out = append(out, s.Table+csvSuffix, s.Table+jsonSuffix)
	}
	return out
}

// Loaded is a table in force.
type Loaded struct {
	*Table           // nil: its file was never good
	Since  time.Time // when its file was read
}

// Loader keeps tables in step with their files. A file that is bad, or gone, leaves its table as it was last good; the changes of the others are
// taken.
//
// One goroutine calls Reload; Tables may be called by any.
type Loader struct {
	specs   []Spec
	set     *fileset.Set
	files   map[string]*read // those that are there
	refused map[string]error // by table
	current atomic.Pointer[[]Loaded]
}

// read is a file as it is there.
type read struct {
	table *Table // nil: bad
	err   error
}

// NewLoader returns a loader that has read nothing. The source has the files that Files names.
func NewLoader(source fileset.Source, specs []Spec) *Loader {
	l := &Loader{specs: specs, set: fileset.New(source), files: map[string]*read{}, refused: map[string]error{}}
	none := make([]Loaded, len(specs))
	l.current.Store(&none)
	return l
}

// Tables in force, in the order of the specs. The caller does not write to them.
func (l *Loader) Tables() []Loaded { return *l.current.Load() }

// Report is what a Reload has done.
type Report struct {
	Changed []string // tables that have other rows than before
	Refused []error  // of each table whose file is not in force as it is there now, by table
}

// Reload reads what has changed. After an error nothing has: the files could not be listed.
func (l *Loader) Reload(ctx context.Context, now time.Time) (Report, error) {
	change, err := l.set.Refresh(ctx)
	if err != nil {
		return Report{}, err
	}
	touched := map[string]bool{}
	for _, f := range change.Files {
		spec := l.spec(f.Name)
		r := &read{}
		r.table, r.err = parse(spec, f.Name, f.Content)
		l.files[f.Name], touched[spec.Table] = r, true
	}
	for name, err := range change.Failed {
		l.files[name], touched[l.spec(name).Table] = &read{err: err}, true
	}
	for _, name := range change.Removed {
		delete(l.files, name)
		touched[l.spec(name).Table] = true
	}
	return l.swap(touched, now), nil
}

func (l *Loader) spec(file string) Spec {
	table := strings.TrimSuffix(strings.TrimSuffix(file, csvSuffix), jsonSuffix)
	i := slices.IndexFunc(l.specs, func(s Spec) bool { return s.Table == table })
	return l.specs[i] // the source has no other files
}

// swap makes the next tables.
func (l *Loader) swap(touched map[string]bool, now time.Time) Report {
	var report Report
	next := slices.Clone(l.Tables())
	for i, s := range l.specs {
		table, err := l.table(s)
		if err != nil {
			l.refused[s.Table] = err
			continue
		}
		delete(l.refused, s.Table)
		if touched[s.Table] {
			next[i] = Loaded{table, now}
			report.Changed = append(report.Changed, s.Table)
		}
	}
	if len(report.Changed) > 0 {
		l.current.Store(&next)
	}
	for _, name := range slices.Sorted(maps.Keys(l.refused)) {
		report.Refused = append(report.Refused, l.refused[name])
	}
	return report
}

// table as its file is there now.
func (l *Loader) table(s Spec) (*Table, error) {
	c, j := l.files[s.Table+csvSuffix], l.files[s.Table+jsonSuffix]
	switch {
	case c != nil && j != nil:
		return nil, fmt.Errorf("table %s: is in %s and in %s: take one of them out", s.Table, s.Table+csvSuffix, s.Table+jsonSuffix)
	case c != nil:
		return c.table, c.err
	case j != nil:
		return j.table, j.err
	}
	return nil, fmt.Errorf("table %s: there is neither %s nor %s", s.Table, s.Table+csvSuffix, s.Table+jsonSuffix)
}
