package tenant

import (
	"cmp"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxClasses bounds what metrics of tenants are counted by.
const MaxClasses = 32

// Snapshot is the registry at one time. It is immutable; its methods may be called by any number of goroutines.
type Snapshot struct {
	tenants       map[string]owned[*Tenant]
	keys          map[string]owned[storedKey]
	claims        map[claim]owned[*Tenant]
	subjects      map[string]owned[*Tenant]
	jurisdictions map[string]owned[string] // endpoint
	cells         map[string]owned[Cell]
	classes       map[string]bool
	keyless       []time.Time // ascending: when the last API key of a tenant expires, for each whose keys all do
	share         owned[float64]
	incomplete    bool
}

// owned is what a file has brought in. No two files may bring in the same.
type owned[T any] struct {
	value T
	by    *file
	line  int
}

type storedKey struct {
	hash    KeyHash
	expires time.Time
	of      *Tenant
}

// Len is the number of tenants.
func (s *Snapshot) Len() int { return len(s.tenants) }

// WithRetention counts the tenants that have a retention of their own.
func (s *Snapshot) WithRetention() (n int) {
	for _, t := range s.tenants {
		if t.value.RetentionDays > 0 {
			n++
		}
	}
	return n
}

// Keys is the number of API keys.
func (s *Snapshot) Keys() int { return len(s.keys) }

// NextWithoutKey is when, after now, the first tenant is left without an API key, of those that have one; false: no time is known.
func (s *Snapshot) NextWithoutKey(now time.Time) (time.Time, bool) {
	i, _ := slices.BinarySearchFunc(s.keyless, now, time.Time.Compare)
	if i == len(s.keyless) {
		return time.Time{}, false
	}
	return s.keyless[i], true
}

// Incomplete tells that a file has not been read even once, so that who is unknown may just not be known yet.
func (s *Snapshot) Incomplete() bool { return s.incomplete }

// Tenant returns a tenant by its id, or nil.
func (s *Snapshot) Tenant(id string) *Tenant { return s.tenants[id].value }

// Unpinned are the ids of the tenants whose data may be in any jurisdiction, in order.
func (s *Snapshot) Unpinned() []string {
	var out []string
	for id, t := range s.tenants {
		if t.value.Jurisdiction == "" {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Endpoint is where the data of a jurisdiction is to be sent; empty where the registry does not say.
func (s *Snapshot) Endpoint(jurisdiction string) string { return s.jurisdictions[jurisdiction].value }

// Cell returns a cell by its name; false: the registry has none of this name.
func (s *Snapshot) Cell(name string) (Cell, bool) {
	c, ok := s.cells[name]
	return c.value, ok
}

// Shed is what a cell does with the requests of a class of tenants; empty: it takes them.
func (s *Snapshot) Shed(cell, class string) Shed { return s.cells[cell].value.Shed[class] }

// Shedding says of each cell that sheds which classes it sheds, and how, in order; a class that no tenant has is named as such.
func (s *Snapshot) Shedding() (out []string) {
	for name, c := range s.cells {
		for class, how := range c.value.Shed {
			text := fmt.Sprintf("cell %s sheds class %s: %s", name, class, how)
			if !s.classes[class] {
				text += "; no tenant has this class"
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

// Cells is the number of cells.
func (s *Snapshot) Cells() int { return len(s.cells) }

// EndpointOf is where a tenant's senders are to send; empty where the registry does not say. A jurisdiction's endpoint leads to any of its cells, so it is
// wrong for a tenant that may be in some of them only.
func (s *Snapshot) EndpointOf(t *Tenant) string {
	home := s.cells[t.Home].value.Endpoint
	if t.Cells != nil {
		return home
	}
	return cmp.Or(s.Endpoint(t.Jurisdiction), home)
}

// What may be wrong with a credential.
var (
	ErrKeyForm    = errors.New("is no API key")
	ErrKeyUnknown = errors.New("API key is unknown")
	ErrKeyWrong   = errors.New("API key has the id of a known one, and another secret")
	ErrKeyExpired = errors.New("API key has expired")
)

// nobody's hash is compared where there is no other, so that the time taken does not tell which ids exist.
var nobody = func() KeyHash { _, _, h := NewKey(); return h }()

// ByKey returns whose an API key is. Its errors are those above; they do not hold the key. id is the key's id, where it has one.
func (s *Snapshot) ByKey(key string, now time.Time) (t *Tenant, id string, err error) {
	id, ok := SplitKey(key)
	if !ok {
		return nil, "", ErrKeyForm
	}
	k, known := s.keys[id]
	if !known {
		nobody.Matches(key)
		return nil, id, ErrKeyUnknown
	}
	switch {
	case !k.value.hash.Matches(key):
		return nil, id, ErrKeyWrong
	case !k.value.expires.IsZero() && !now.Before(k.value.expires):
		return nil, id, ErrKeyExpired
	}
	return k.value.of, id, nil
}

// ByClaim returns whom an OIDC issuer names by the value of its tenant claim, or nil.
func (s *Snapshot) ByClaim(issuer, value string) *Tenant { return s.claims[claim{issuer, value}].value }

// ByCertificate returns whose a client certificate is, or nil. That the certificate was verified is the caller's business.
func (s *Snapshot) ByCertificate(c *x509.Certificate) *Tenant {
	if name, ok := subjectOf(c); ok {
		if t := s.subjects[subjectPrefix+name].value; t != nil {
			return t
		}
	}
	for _, u := range c.URIs {
		if t := s.subjects[uriPrefix+u.String()].value; t != nil {
			return t
		}
	}
	for _, name := range c.DNSNames {
		if t := s.subjects[dnsPrefix+name].value; t != nil {
			return t
		}
	}
	return nil
}

// subjectOf is the certificate's distinguished name as RFC 2253 writes it: whole and in its order. Certificate.Subject keeps neither, and of names that are
// there twice only the last: whoever may choose a part of a name could make another's of it.
func subjectOf(c *x509.Certificate) (string, bool) {
	var name pkix.RDNSequence
	rest, err := asn1.Unmarshal(c.RawSubject, &name)
	return name.String(), err == nil && len(rest) == 0
}

// conflict is between a file and one that was added before it.
type conflict struct {
	file, with *file
	err        error
}

// change is what is tried: files that are in force, then those that have changed, and which cells are not defined any more where they were.
type change struct {
	files   []*file
	inForce int              // how many of the files are
	dropped map[string]*file // cell -> the changed file without it, or the file that is gone
}

// compile makes a snapshot of files, in their order. Of two that say the same the second is left out in part, which the conflicts
// tell: a snapshot with conflicts is not to be used.
func compile(c change) (*Snapshot, []conflict) {
	n, files := 0, c.files
	for _, f := range files {
		n += len(f.tenants)
	}
	s := &Snapshot{
		tenants: make(map[string]owned[*Tenant], n), keys: make(map[string]owned[storedKey], n), claims: map[claim]owned[*Tenant]{},
		subjects: map[string]owned[*Tenant]{}, jurisdictions: map[string]owned[string]{}, cells: map[string]owned[Cell]{}, classes: map[string]bool{},
	}
	var conflicts []conflict
	clash := func(f *file, line int, field, value string, with *file, withLine int) {
		conflicts = append(conflicts, conflict{f, with, &FieldError{File: f.name, Line: line, Field: field, Value: value, Reason: fmt.Sprintf("is in %s:%d too", with.name, withLine)}})
	}
	for _, f := range files {
		if f.share.line == 0 {
			continue
		}
		if s.share.by != nil {
			clash(f, f.share.line, "fleet", "", s.share.by, s.share.line)
			continue
		}
		s.share = owned[float64]{f.share.value, f, f.share.line}
	}
	var overClasses *file // only the first file that has too many is told: without it the others may have room
	for _, f := range files {
		for _, j := range f.jurisdictions {
			put(s.jurisdictions, j.name, j.endpoint, f, j.line, "jurisdictions", j.name, clash)
		}
		for _, c := range f.cells {
			put(s.cells, c.value.Name, c.value, f, c.line, "cells", c.value.Name, clash)
		}
	}
	for _, f := range files {
		for i := range f.tenants {
			d := &f.tenants[i]
			t := d.compiled(s)
			if !s.classes[t.Class] {
				if len(s.classes) == MaxClasses {
					if overClasses != nil && overClasses != f {
						continue
					}
					overClasses = f
					conflicts = append(conflicts, conflict{f, f, &FieldError{File: f.name, Line: d.line, Field: "class", Value: t.Class, Reason: fmt.Sprintf("would be more than %d classes", MaxClasses)}})
					continue
				}
				s.classes[t.Class] = true
			}
			put(s.tenants, t.ID, t, f, d.line, "id", t.ID, clash)
			if at, ends := d.keyless(); ends {
				s.keyless = append(s.keyless, at)
			}
			for _, k := range d.keys {
				put(s.keys, k.id, storedKey{k.hash, k.expires, t}, f, k.line, "keys.id", k.id, clash)
			}
			for _, c := range d.claims {
				put(s.claims, c.value, t, f, c.line, "oidc.claim", c.value.value, clash)
			}
			for _, subject := range d.subjects {
				put(s.subjects, subject.value, t, f, subject.line, "mtls", subject.value, clash)
			}
		}
	}
	slices.SortFunc(s.keyless, time.Time.Compare)
	return s, append(conflicts, s.misplaced(c)...)
}

// misplaced are the tenants whose cells are unknown, or of another jurisdiction than theirs. Of the tenant's file and the cell's, the one that has changed
// last is at fault: what is in force stays so.
func (s *Snapshot) misplaced(c change) (conflicts []conflict) {
	order := make(map[*file]int, len(c.files))
	for i, f := range c.files {
		order[f] = i
	}
	for i, f := range c.files {
		for j := range f.tenants {
			d := &f.tenants[j]
			for _, named := range d.cells {
				at, known := s.cells[named.value]
				by := c.dropped[named.value]
				e, with := &FieldError{File: f.name, Line: named.line, Field: "cells", Value: named.value}, f
				switch {
				case known && (d.Jurisdiction == "" || d.Jurisdiction == at.value.Jurisdiction):
					continue
				case known && order[at.by] > i:
					e.File, e.Line = at.by.name, at.line
					e.Reason = fmt.Sprintf("is in jurisdiction %q, and tenant %q, which may be in it (%s:%d), must stay in %q", at.value.Jurisdiction, d.ID, f.name, named.line, d.Jurisdiction)
					conflicts = append(conflicts, conflict{at.by, with, e})
				case known:
					with = at.by
					e.Reason = fmt.Sprintf("is in jurisdiction %q (%s:%d), and tenant %q must stay in %q", at.value.Jurisdiction, with.name, at.line, d.ID, d.Jurisdiction)
					conflicts = append(conflicts, conflict{f, with, e})
				case i < c.inForce && by != nil:
					e.File, e.Line = by.name, 0
					e.Reason = fmt.Sprintf("is taken out, and tenant %q may be in it (%s:%d)", d.ID, f.name, named.line)
					conflicts = append(conflicts, conflict{by, with, e})
				default:
					e.Reason = "is no cell of the registry"
					conflicts = append(conflicts, conflict{f, with, e})
				}
			}
		}
	}
	return conflicts
}

func put[K comparable, V any](m map[K]owned[V], key K, value V, f *file, line int, field, name string, clash func(f *file, line int, field, value string, with *file, withLine int)) {
	if other, taken := m[key]; taken {
		clash(f, line, field, name, other.by, other.line)
		return
	}
	m[key] = owned[V]{value, f, line}
}

// keyless is when the last of the tenant's API keys expires; false: it has none, or one that does not.
func (d *definition) keyless() (last time.Time, ends bool) {
	for _, k := range d.keys {
		if k.expires.IsZero() {
			return time.Time{}, false
		}
		if k.expires.After(last) {
			last = k.expires
		}
	}
	return last, len(d.keys) > 0
}

// compiled resolves what a gateway takes of the fleet's quotas. The snapshot has all cells, and the registry's share.
func (d *definition) compiled(s *Snapshot) *Tenant {
	t := d.Tenant
	for i, fleet := range d.fleet {
		if !fleet.set {
			continue
		}
		part := cmp.Or(fleet.share, s.shareOf(&t), s.share.value, 1) // 1: the fleet is this gateway
		t.quotas[i].EventsPerSecond, t.quotas[i].BytesPerSecond = fleet.eventsPerSecond*part, fleet.bytesPerSecond*part
	}
	return &t
}

// shareOf is one gateway's share of a tenant's fleet quotas: of all gateways in the cells that may have the tenant and are not away, or, where all of them are, in any. Zero: not each
// of these cells says how many it has.
func (s *Snapshot) shareOf(t *Tenant) float64 {
	there, away := 0, 0
	for name, c := range s.cells {
		if !t.MayBeIn(name) || t.Jurisdiction != "" && t.Jurisdiction != c.value.Jurisdiction {
			continue
		}
		switch {
		case c.value.Gateways == 0 && !c.value.Away:
			return 0
		case c.value.Away:
			away += c.value.Gateways
		default:
			there += c.value.Gateways
		}
	}
	if n := cmp.Or(there, away); n > 0 {
		return 1 / float64(n)
	}
	return 0
}
