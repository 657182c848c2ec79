package fault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// guard is one row of the table in docs/guards.md.
type guard struct {
	name string
	does string
	kind *kind
	run  func(*run, *outcome.Run)

	short *kind // of a run in `make test`, where a rig of its own would take too long; nil: kind
}

var guards = []guard{
	{name: "outage", does: "all Kafka nodes are dead for 10 minutes; later, for 2 minutes, Kafka and the object store", kind: bounded, run: (*run).outage},
	{name: "storm", does: "20 tenants with quotas; for 2 minutes one of them sends 50 times its quota, after as long a run in which it does not", kind: guarded, run: (*run).storm},
	{name: "poison", does: "a million events, 1 % of which are invalid in one of many ways", kind: guarded, run: (*run).poison},
	{name: "hostile", does: "20 tenants with quotas; for 5 minutes one of them sends hostile requests, at its full quota and beyond it", kind: walled, run: (*run).hostile, short: guarded},
}

const (
	distributions = "distributions/"
	plaintext     = "integration/rig/testdata/plaintext.yaml"
)

// guarded has tenants with quotas, the overflow lane, and schemas that are enforced.
var guarded = &kind{
	name:        "guarded",
	secured:     true,
	gateway:     []string{plaintext, distributions + "gateway/overflow.yaml", testdata + "gateway.yaml", testdata + "guards-gateway.yaml"},
	aggregators: []string{distributions + "aggregator/overflow.yaml", testdata + "aggregator.yaml", testdata + "guards-aggregator.yaml"},
	env: func(dir string) (map[string]string, error) {
		quota := quietQuota
		if !*all { // in `make test` the machine does other work too, and a tenant's requests come in bunches
			quota *= 5
		}
		env, err := writeTenants(dir, quota)
		if err != nil {
			return nil, err
		}
		env["GOMEMLIMIT"] = goMemory // as hostile bounds them
		return env, nil
	},
	lanes: []lane{fastLane, overflowLane},
}

// bounded has gateways of little memory.
var bounded = &kind{
	name: "bounded", gateway: []string{testdata + "gateway.yaml", testdata + "outage-gateway.yaml"}, aggregators: plain.aggregators, lanes: plain.lanes,
}

// The tenants. A quota is of one gateway and signal, in events a second; half of a fleet's requests are logs.
const (
	quietTenants = 19
	quietQuota   = 200 // of logs; half of it of spans and of data points
	plainTenants = 10
	stormQuota   = 10
	quietRate    = 40 // events a second of a tenant, over all gateways
	stormTimes   = 50
)

// Of all signals together: what both gateways take of the storm's tenant within its quota, and what it sends.
const (
	quotaOfBoth = 2 * 2 * stormQuota
	stormRate   = stormTimes * quotaOfBoth
)

var apiKeys = map[string]string{} // of tenants, by id

func quietTenant(i int) string { return fmt.Sprintf("quiet-%02d", i) }

// plainTenant is one without quotas, of a fault with many tenants: a copy that goes to the overflow lane, because its tenant came to its quota after
// the answer to the first was lost, is a further event by design.
func plainTenant(i int) string { return fmt.Sprintf("plain-%02d", i) }

// writeTenants makes the registry, in which a quiet tenant has the quota of a gateway, and says where gateways find it, and that schemas are enforced.
func writeTenants(dir string, quiet int) (map[string]string, error) {
	var b strings.Builder
	add := func(id string, quota, bytes int) { // of logs, a second; 0: no limit
		key, keyID, hash := tenant.NewKey()
		apiKeys[id] = key
		fmt.Fprintf(&b, "  - id: %s\n    keys: [{id: %s, hash: %q}]\n", id, keyID, hash)
		if quota > 0 {
			of := func(n int) string {
				return fmt.Sprintf("{events_per_second: %d, bytes_per_second: %d}", quota/n, bytes/n)
			}
			fmt.Fprintf(&b, "    quotas: {logs: %s, traces: %s, metrics: %s}\n", of(1), of(2), of(2))
		}
	}
	b.WriteString("tenants:\n")
	for i := range quietTenants {
		add(quietTenant(i), quiet, 0)
	}
	for i := range plainTenants {
		add(plainTenant(i), 0, 0)
	}
	add("storm", stormQuota, 0)
	add("hostile", attackQuota, attackBytes)
	add("poison", 0, 0)
	tenants := filepath.Join(dir, "tenants")
	if err := os.MkdirAll(tenants, 0o755); err != nil {
		return nil, err
	}
	return map[string]string{
		"PULSEGRID_TENANTS":     tenants,
		"PULSEGRID_SCHEMA_MODE": "enforce",
	}, os.WriteFile(filepath.Join(tenants, "tenants.yaml"), []byte(b.String()), 0o600)
}

// fleet are agents of the run; what it does not say is as agents are that nothing bad happens to.
func (r *run) fleetOf(o agents.Options) *agents.Fleet {
	o.Service, o.Seed = r.service, *seed
	for _, g := range r.Gateways {
		o.Gateways = append(o.Gateways, g.HTTP)
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute // a copy that nobody needs would blur the counts
	}
	return agents.Start(o)
}

// stop ends fleets at once and returns their requests.
func (r *run) stop(fleets ...*agents.Fleet) (out []*agents.Request) {
	r.t.Helper()
	requests, errs := make([][]*agents.Request, len(fleets)), make([]error, len(fleets))
	var wg sync.WaitGroup
	for i, f := range fleets {
		wg.Go(func() { requests[i], errs[i] = f.Stop() })
	}
	wg.Wait()
	r.must(errors.Join(errs...))
	return slices.Concat(requests...)
}

// tally is what agents heard.
type tally struct {
	throttled, unavailable, mute, resent int
	unanswered                           []string        // why attempts got no answer
	took                                 []time.Duration // of acknowledged requests, sorted
}

func tallyOf(requests []*agents.Request) (t tally) {
	for _, q := range requests {
		t.throttled, t.unavailable, t.mute = t.throttled+q.Throttled, t.unavailable+q.Unavailable, t.mute+q.Mute
		if q.Attempts > 1 {
			t.resent++
		}
		if q.Unanswered != "" {
			t.unanswered = append(t.unanswered, fmt.Sprintf("request %d: %s", q.Number, q.Unanswered))
		}
		if q.Acked {
			t.took = append(t.took, q.Took)
		}
	}
	slices.Sort(t.took)
	return t
}

// quantile of the times to the acknowledgement.
func (t tally) quantile(q float64) time.Duration {
	if len(t.took) == 0 {
		return 0
	}
	return t.took[min(len(t.took)-1, int(q*float64(len(t.took))))]
}

// saw adds what the outcome shows besides counts.
func saw(out *outcome.Run, format string, args ...any) {
	out.Seen = append(out.Seen, fmt.Sprintf(format, args...))
}
