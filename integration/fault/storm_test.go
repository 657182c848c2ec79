package fault

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
)

const (
	tenantStormFor = 2 * time.Minute
	numbersEach    = 1_000_000 // request numbers of a fleet
	obedientRate   = 50        // events a second of those agents of the storm's tenant that obey
)

// Scenario: the gateways' guards at work under load, see docs/guards.md; a guard is no fault, but is judged like one. Tests run in the order of their files' names: this one comes
// behind TestRehearsal, whose short runs take the rig that TestFault has left.
func TestGuard(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			t.Logf("seed %d; again: go test ./integration/fault -run 'TestGuard/%s$' -args -seed %d -scale %v", *seed, g.name, *seed, *scale)
			short := g.short != nil && !*all && !named(g.name)
			if short {
				g.kind = g.short
			}
			r := newRun(t, g.kind, g.name)
			r.short = short
			r.judged(outcome.Run{Fault: g.name, Does: g.does}, func(out *outcome.Run) { g.run(r, out) })
		})
	}
}

// Guarantees: while one tenant sends many times its quota, no request of another is sent back or lost, and none of theirs goes by the
// overflow lane; the storm's own requests are acknowledged and then stored once, by whichever lane, or sent back with the time to come
// again; its agents that obey get everything through.
func (r *run) storm(out *outcome.Run) {
	r.fresh = watchFreshness(r.Rig, r.service)
	defer r.fresh.stop()
	calm, calmOwn := r.twentyTenants(0, agents.Options{Rate: stormQuota, Refused: agents.Obey})
	stormy, own := r.twentyTenants(2*(quietTenants+1), agents.Options{Rate: stormRate, Refused: agents.Drop, Timeout: 10 * time.Second, Senders: 1024})
	r.waitQuiet()
	out.HotLongest = r.fresh.longest().Seconds()

	before, during, stormTally := tallyOf(calm), tallyOf(stormy), tallyOf(own)
	for name, t := range map[string]tally{"without the storm": before, "in the storm": during} {
		if n := t.throttled + t.unavailable + t.resent; n > 0 {
			r.t.Errorf("%s requests of tenants within their quotas were refused: %d times 429, %d times 503; without an answer: %s", name, t.throttled, t.unavailable, some(t.unanswered))
		}
	}
	if stormTally.throttled == 0 {
		r.t.Error("the storm was never sent back: it was none")
	}
	if stormTally.mute > 0 {
		r.t.Errorf("%d of %d refusals of the storm did not say when to come again", stormTally.mute, stormTally.throttled+stormTally.unavailable)
	}
	r.check(slices.Concat(calm, calmOwn, stormy, own), out)
	r.checkOwners(quietTenants + 1)
	overflow := r.checkLanes()
	tellLatency(out, before, during)
	r.tellStorm(out, own, overflow)
}

// tellLatency says what the storm does to the others.
func tellLatency(out *outcome.Run, before, during tally) {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	saw(out, "19 tenants, P50 and P99 to the acknowledgement: %.1f and %.1f ms without the storm, %.1f and %.1f ms in it (x %.2f and x %.2f), %d and %d requests, none refused",
		ms(before.quantile(0.5)), ms(before.quantile(0.99)), ms(during.quantile(0.5)), ms(during.quantile(0.99)),
		ms(during.quantile(0.5))/ms(before.quantile(0.5)), ms(during.quantile(0.99))/ms(before.quantile(0.99)), len(before.took), len(during.took))
}

// tellStorm says what became of the storm's own requests, those of agents that obey too, all of which must be acknowledged.
func (r *run) tellStorm(out *outcome.Run, own []*agents.Request, overflow int) {
	r.t.Helper()
	var pushed, obedient []*agents.Request
	for _, q := range own {
		if q.Number < (2*(quietTenants+1)+quietTenants+1)*numbersEach {
			pushed = append(pushed, q)
			continue
		}
		obedient = append(obedient, q)
		if !q.Acked {
			r.t.Errorf("request %d of an agent that obeys was not acknowledged", q.Number)
		}
	}
	offered := float64(len(pushed)*agents.PerRequest) / sentFor(pushed).Seconds()
	saw(out, "the storm's tenant: %d events at %.0f times its quota, %d acknowledged (%d by the overflow lane), %d refusals, all with RetryInfo",
		len(pushed)*agents.PerRequest, offered/quotaOfBoth, len(tallyOf(own).took)*agents.PerRequest, overflow, tallyOf(own).throttled)
	saw(out, "its agents that obey: %d requests, %d of them sent back at first, all acknowledged", len(obedient), tallyOf(obedient).resent)
}

// sentFor is the time from the first request to the last.
func sentFor(requests []*agents.Request) time.Duration {
	first, last := requests[0].Sent, requests[0].Sent
	for _, q := range requests {
		if q.Sent.Before(first) {
			first = q.Sent
		}
		if q.Sent.After(last) {
			last = q.Sent
		}
	}
	return last.Sub(first)
}

// twentyTenants runs the quiet tenants beside the storm's, which behaves as told, and, where that one drops what is sent back, beside
// further agents of its that obey. Fleets have numbers of their own, from the given fleet on.
func (r *run) twentyTenants(from int, storm agents.Options) (quiet, own []*agents.Request) {
	r.t.Helper()
	var fleets, owns []*agents.Fleet
	for i := range quietTenants {
		fleets = append(fleets, r.fleetOf(agents.Options{Key: apiKeys[quietTenant(i)], First: (from + i) * numbersEach, Rate: quietRate, Duplicates: 0.05}))
	}
	storm.Key, storm.First = apiKeys["storm"], (from+quietTenants)*numbersEach
	owns = append(owns, r.fleetOf(storm))
	length := scaled(tenantStormFor)
	if storm.Refused == agents.Drop {
		owns = append(owns, r.fleetOf(agents.Options{
			Key: apiKeys["storm"], First: (from + quietTenants + 1) * numbersEach, Rate: obedientRate, Refused: agents.Obey,
		}))
	}
	time.Sleep(length)
	if storm.Refused == agents.Drop {
		until(func() bool { return owns[0].SentBack() > 0 }, pointTimeout) // on a busy machine a storm takes longer to be one
	}
	quiet = r.stop(fleets...)
	return quiet, r.stop(owns...)
}

// ownerOf is the tenant of an event's number, in SQL.
func ownerOf(number string) string {
	fleet := fmt.Sprintf("intDiv(%s, %d) %% %d", number, numbersEach*agents.PerRequest, 2*(quietTenants+1))
	return fmt.Sprintf("if(%s < %d, concat('quiet-', leftPad(toString(%s), 2, '0')), 'storm')", fleet, quietTenants, fleet)
}

// checkOwners makes sure that every row is its sender's, and that all tenants have rows: of each table in a long run, of some table in a short one, in which a
// tenant may send a few requests only.
func (r *run) checkOwners(tenants int) {
	r.t.Helper()
	all := map[string]bool{}
	for _, table := range tables {
		text, err := r.Query(fmt.Sprintf("SELECT tenant_id, countIf(tenant_id != %s) FROM %s WHERE service_name = '%s' GROUP BY tenant_id", ownerOf(table.number), table.name, r.service))
		if err != nil {
			r.t.Fatal(err)
		}
		lines := strings.Split(text, "\n")
		for _, line := range lines {
			id, foreign, _ := strings.Cut(line, "\t")
			if all[id] = true; foreign != "0" {
				r.t.Errorf("table %s: %s rows of tenant %s are of another sender", table.name, foreign, id)
			}
		}
		if *scale >= 1 && len(lines) != tenants {
			r.t.Errorf("table %s: %d tenants have rows, want %d", table.name, len(lines), tenants)
		}
	}
	if len(all) != tenants {
		r.t.Errorf("%d tenants have rows, want %d", len(all), tenants)
	}
}

// checkLanes makes sure that nobody but the storm's tenant is in the overflow lane, and counts its events there.
func (r *run) checkLanes() (events int) {
	r.t.Helper()
	for _, table := range tables {
		text, err := r.Query(fmt.Sprintf("SELECT countIf(tenant_id != 'storm'), countIf(tenant_id = 'storm') FROM %s WHERE service_name = '%s' AND kafka_topic LIKE '%%overflow%%'", table.name, r.service))
		if err != nil {
			r.t.Fatal(err)
		}
		var others, own int
		if _, err := fmt.Sscan(text, &others, &own); err != nil {
			r.t.Fatal(err)
		}
		if events += own; others > 0 {
			r.t.Errorf("table %s: %d events of tenants within their quotas came by the overflow lane", table.name, others)
		}
	}
	if events == 0 {
		r.t.Error("nothing of the storm came by the overflow lane")
	}
	return events
}
