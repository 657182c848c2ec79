package schema

import (
	"cmp"
	"slices"
	"strings"
	"sync"
)

// InForce is what holds at a moment. It never changes; what holds then is another one.
type InForce struct {
	Registry *Registry
	Trial    *Trial // nil: no rollout is being tried
}

// Bounds of what a Trial counts.
const (
	trialTenantsMax = 10_000 // that are kept apart
	trialTenantsOut = 1_000  // that Tenants returns
	// trialOthers stands for the tenants beyond. No tenant's id has parentheses.
	trialOthers = "(others)"
)

// Trial counts, in the stages warn and enforce of a rollout, the events that the proposed version refuses and the current one does not.
type Trial struct {
	Rollout Rollout
	// Beside is the version of the two that is not in force.
	Beside *Registry

	mu      sync.Mutex
	tenants map[string]*trialTally // guarded by mu
}

type trialTally struct {
	events, refused int64
	codes           map[Code]int64 // of refused events, by their first verdict
}

// TenantTrial is what was counted of a tenant.
type TenantTrial struct {
	Tenant  string
	Events  int64 // that were checked
	Refused int64 // of these, that violate the proposed version and not the current one
	Code    Code  // of most of these; empty: there are none
}

// Asks tells whether a request of which the version in force has found so much is to be checked by the other version too: an enforced version is compared only where it has found something.
func (t *Trial) Asks(found Result) bool {
	return t.Rollout.Stage == StageWarn || len(found.Findings) > 0
}

// Count counts a request of a tenant by what the version in force has found of it, and the one beside; nothing where it was not asked.
func (t *Trial) Count(tenant string, found, beside Result) {
	current, proposed := found.Findings, beside.Findings
	if t.Rollout.Stage == StageEnforce {
		current, proposed = proposed, current
	}
	newly := proposed.without(current)
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.tally(tenant)
	c.events += int64(found.Events)
	c.refused += int64(len(newly))
	for _, f := range newly {
		c.codes[f.Verdicts[0].Code]++
	}
}

// tally is called with mu held.
func (t *Trial) tally(tenant string) *trialTally {
	c := t.tenants[tenant]
	if c == nil && len(t.tenants) >= trialTenantsMax {
		tenant = trialOthers
		c = t.tenants[tenant]
	}
	if c == nil {
		c = &trialTally{codes: map[Code]int64{}}
		if t.tenants == nil {
			t.tenants = map[string]*trialTally{}
		}
		t.tenants[strings.Clone(tenant)] = c
	}
	return c
}

// without returns the findings on events of which others has none.
func (f Findings) without(others Findings) (out Findings) {
	for _, x := range f {
		for len(others) > 0 && others[0].Event < x.Event {
			others = others[1:]
		}
		if len(others) == 0 || others[0].Event != x.Event {
			out = append(out, x)
		}
	}
	return out
}

// Tenants are the counts, those of most refused events first. Beyond trialTenantsOut tenants the last one stands for the others.
func (t *Trial) Tenants() []TenantTrial {
	t.mu.Lock()
	out := make([]TenantTrial, 0, len(t.tenants))
	for tenant, c := range t.tenants {
		one := TenantTrial{Tenant: tenant, Events: c.events, Refused: c.refused}
		for code, n := range c.codes {
			if most := c.codes[one.Code]; n > most || n == most && code < one.Code {
				one.Code = code
			}
		}
		out = append(out, one)
	}
	t.mu.Unlock()
	slices.SortFunc(out, func(a, b TenantTrial) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), cmp.Compare(b.Events, a.Events), strings.Compare(a.Tenant, b.Tenant))
	})
	if len(out) <= trialTenantsOut {
		return out
	}
	others := TenantTrial{Tenant: trialOthers}
	kept := out[:0:0]
	for _, one := range out {
		if len(kept) < trialTenantsOut-1 && one.Tenant != trialOthers {
			kept = append(kept, one)
			continue
		}
		others.Events, others.Refused, others.Code = others.Events+one.Events, others.Refused+one.Refused, cmp.Or(others.Code, one.Code)
	}
	return append(kept, others)
}
