package rehearsal

import (
	"regexp"
	"slices"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// sourcesMax bounds the sources of a report: senders that put ids into keys exist.
const sourcesMax = 10_000

// tally is a tenant's counts.
type tally struct {
	Tenant
	sources map[source]*Source
}

type source struct {
	signal       signal.Signal
	service      string
	schema       string
	code         schema.Code
	path         string
	withoutPlace bool // stands for those that there is no room for
}

// tenant is the tally of a tenant; id may be memory of a batch.
func (r *run) tenant(id string) *tally {
	if t := r.tenants[id]; t != nil {
		return t
	}
	id = strings.Clone(id)
	p := r.Policy(id)
	t := &tally{Tenant: Tenant{Tenant: id, Mode: p.Mode, Unknown: p.Unknown, Quarantine: Quarantine{NotChecked: map[string]int64{}}}, sources: map[source]*Source{}}
	r.tenants[id] = t
	return t
}

// checked counts an event of the lake and what the two registries say of it.
func (r *run) checked(t *tally, sig signal.Signal, service string, bytes int, current, proposed schema.Result) {
	t.Events++
	t.Bytes += int64(bytes)
	for i, res := range [...]schema.Result{current, proposed} {
		o := &t.Current
		if i == 1 {
			o = &t.Proposed
		}
		o.WithoutSchema += int64(res.Events - res.Matched)
		if len(res.Findings) == 0 {
			continue
		}
		o.Violating++
		o.Bytes += int64(bytes)
		r.violations(t, sig, service, res.Findings[0].Verdicts, i == 1)
	}
	switch was, is := len(current.Findings) > 0, len(proposed.Findings) > 0; {
	case is && !was:
		t.Newly++
	case was && !is:
		t.NoLonger++
	}
}

// violations counts an event once for each thing that it violates.
func (r *run) violations(t *tally, sig signal.Signal, service string, verdicts []schema.Verdict, proposed bool) {
	var seen []*Source
	for _, v := range verdicts {
		s := r.source(t, source{signal: sig, service: service, schema: v.Schema, code: v.Code, path: anyItem(v.Path)})
		if slices.Contains(seen, s) {
			continue
		}
		seen = append(seen, s)
		if proposed {
			s.Proposed++
		} else {
			s.Current++
		}
	}
}

func (r *run) source(t *tally, key source) *Source {
	if s := t.sources[key]; s != nil {
		return s
	}
	if r.sources >= sourcesMax {
		r.report.SourcesLeftOut = true
		key = source{signal: key.signal, code: key.code, withoutPlace: true}
		if s := t.sources[key]; s != nil {
			return s
		}
	}
	r.sources++
	key.service = strings.Clone(key.service) // it may be memory of a batch
	s := &Source{Signal: key.signal.String(), Service: key.service, Schema: key.schema, Code: key.code, Path: key.path}
	if key.withoutPlace {
		s.Path = "(others)"
	}
	t.sources[key] = s
	return s
}

var itemPattern = regexp.MustCompile(`\[[0-9]+\]`)

// anyItem makes one path of those of an array's items.
func anyItem(path string) string { return itemPattern.ReplaceAllString(path, "[*]") }
