package fault

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	attackQuota   = 1000             // events of logs a second; half of it of spans and of data points
	attackBytes   = 512 << 10        // likewise
	attackWarmUp  = 20 * time.Second // in which everything has just started
	attackCalm    = 5 * time.Minute
	attackFor     = 5 * time.Minute
	attackShorter = 30  // times shorter in `make test`
	attackWorse   = 1.3 // times the others' P99 without the attack
	sightEvery    = 200 * time.Millisecond
	sightBack     = 2 * time.Minute // events of that age are still looked for
)

// Of a gateway and of an aggregator, as where they run in a container of 3 GiB.
const (
	processMemory = 3 << 30
	goMemory      = "2700MiB" // GOMEMLIMIT
	dedupeMemory  = 128 << 20 // of each of its pipelines
)

// walled has one of each part, with bounded memory and with the tenants of guarded.
var walled = &kind{
	name: "walled", alone: true, secured: true, lanes: guarded.lanes,
	gateway:     []string{plaintext, distributions + "gateway/overflow.yaml", testdata + "walled-gateway.yaml"},
	aggregators: []string{distributions + "aggregator/overflow.yaml"},
	env: func(dir string) (map[string]string, error) {
		env, err := writeTenants(dir, 2*quietQuota) // there is one gateway, not two
		if err != nil {
			return nil, err
		}
		env["GOMEMLIMIT"], env["PULSEGRID_DEDUPE_MEMORY_BYTES"] = goMemory, strconv.Itoa(dedupeMemory)
		return env, nil
	},
}

// Guarantees: whatever one tenant sends, at its full quota and beyond it, no process ends, and the others' requests are neither refused nor lost nor doubled, nor
// acknowledged much more slowly than without it. What is taken of the attacker's is stored once.
func (r *run) hostile(out *outcome.Run) {
	processes := r.processes()
	r.must(r.bound())
	if !r.short { // then nothing is measured
		r.must(r.separate())
	}
	seen := watchSights(r.Rig, r.service)
	defer seen.stop()
	var fleets []*agents.Fleet
	for i := range quietTenants {
		fleets = append(fleets, r.fleetOf(agents.Options{Key: apiKeys[quietTenant(i)], First: i * numbersEach, Rate: quietRate, Duplicates: 0.05}))
	}
	lasts := scaled
	if r.short {
		lasts = func(d time.Duration) time.Duration { return d / attackShorter }
	}
	a, err := assail(target{HTTP: r.Gateways[0].HTTP, GRPC: r.Gateways[0].GRPC, Key: apiKeys["hostile"], Seed: *seed, DeafAfter: lasts(attackFor / 2)})
	r.must(err)
	defer func() { _ = a.input.Close() }() // ends it, where this breaks off
	time.Sleep(lasts(attackWarmUp))
	r.must(a.ready())
	if !r.short {
		r.must(rig.Yield(a.cmd.Process.Pid)) // in production its machine is another one: the CPU that it takes to make and send requests is not the gateway's
	}
	calm, cpuCalm := time.Now(), r.cpu(processes)
	time.Sleep(lasts(attackCalm))
	begun, cpuAttack := time.Now(), r.cpu(processes)
	r.must(a.begin())
	time.Sleep(lasts(attackFor))
	attack, err := a.end()
	r.must(err)
	out.FaultSeconds = time.Since(begun).Seconds()
	saw(out, "cores in use, without the attack and in it: %s", cores(cpuCalm, cpuAttack, r.cpu(processes), begun.Sub(calm), time.Since(begun)))
	requests := r.stop(fleets...)
	lanes := r.lanes
	r.lanes = append(slices.Clone(lanes), quarantineLane, quarantinePIILane)
	r.waitQuiet()
	sights := seen.stop() // all of them by now
	r.lanes = lanes       // the audit does not cover quarantines
	r.t.Log(attack.tell())

	r.alive(processes, out)
	heard := tallyOf(requests)
	if n := heard.throttled + heard.unavailable + heard.resent; n > 0 {
		r.t.Errorf("requests of the others were refused: %d times 429, %d times 503; without an answer: %s", heard.throttled, heard.unavailable, recount.Some(heard.unanswered))
	}
	told := attack.count("429") + attack.count("gRPC 8")
	if attack.count("200")+attack.count("gRPC 0") == 0 || told == 0 && !r.short {
		r.t.Error("nothing of the attacker was taken, or it was never told to come again: it was not at its quota")
	}
	r.compareTimes(out, requests, sights, calm, begun, begun.Add(lasts(attackFor/2)))
	r.check(requests, out)
	r.checkOwners(quietTenants)
	r.checkFast()
	saw(out, "the attacker (%.2f cores): %s", attack.CPU.Seconds()/out.FaultSeconds, strings.SplitN(attack.tell(), "\n", 2)[0])
}

// running are the gateways and aggregators, without spares.
func (r *run) running() (out []*rig.Tier) {
	for _, t := range slices.Concat(r.Gateways, r.Aggregators) {
		if !t.Ended() {
			out = append(out, t)
		}
	}
	return out
}

// processes are those that must not end, by name.
func (r *run) processes() map[string]int {
	out := map[string]int{"ClickHouse": r.ClickHouse.PID()}
	for i := range r.Kafka.Brokers() {
		out[fmt.Sprintf("Kafka%d", i)] = r.Kafka.PID(i)
	}
	for _, t := range r.running() {
		out[t.Name] = t.PID()
	}
	return out
}

// In a map of processes: agents are this very one, others are the attacker and what runs beside the guard.
const (
	fleet  = "agents"
	others = "the attacker and the rest of the machine"
)

// cpu is what processes have used, this one, and all others.
func (r *run) cpu(processes map[string]int) map[string]time.Duration {
	r.t.Helper()
	out := map[string]time.Duration{}
	for name, pid := range processes {
		u, err := rig.UsageOf(pid)
		r.must(err)
		out[name] = u.CPU
	}
	u, err := rig.UsageOf(os.Getpid())
	r.must(err)
	out[fleet] = u.CPU
	busy, err := busyTime()
	r.must(err)
	for _, used := range out {
		busy -= used
	}
	out[others] = busy
	return out
}

// busyTime is what all processes have used since the machine started.
func busyTime() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	var user, nice, system int64
	_, err = fmt.Sscanf(string(stat), "cpu %d %d %d", &user, &nice, &system)
	return time.Duration(user+nice+system) * 10 * time.Millisecond, err // USER_HZ is 100
}

// cores tells how many cores each process has used on average in two spans of time, between three looks.
func cores(first, second, third map[string]time.Duration, before, during time.Duration) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(first)) {
		out = append(out, fmt.Sprintf("%s %.2f and %.2f", name, (second[name]-first[name]).Seconds()/before.Seconds(), (third[name]-second[name]).Seconds()/during.Seconds()))
	}
	return strings.Join(out, ", ")
}

// bound gives gateways and aggregators no more memory than they would have in production: what is beyond ends them.
func (r *run) bound() error {
	for _, t := range r.running() {
		if err := unix.Prlimit(t.PID(), unix.RLIMIT_DATA, &unix.Rlimit{Cur: processMemory, Max: processMemory}, nil); err != nil {
			return fmt.Errorf("bound the memory of %s: %w", t.Name, err)
		}
	}
	return nil
}

// separate has ClickHouse and the aggregators yield the CPU to gateways and Kafka. In production they have machines of their own; here they share two cores, and a
// request would wait for ClickHouse's threads, whoever sent what they store.
func (r *run) separate() error {
	for _, pid := range append(tierPIDs(r.Aggregators), r.ClickHouse.PID()) {
		if err := rig.Yield(pid); err != nil {
			return err
		}
	}
	return nil
}

func tierPIDs(tiers []*rig.Tier) (out []int) {
	for _, t := range tiers {
		out = append(out, t.PID())
	}
	return out
}

// alive makes sure that all processes are those that there were, and says what memory they took.
func (r *run) alive(before map[string]int, out *outcome.Run) {
	r.t.Helper()
	var took []string
	now := r.processes()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if now[name] != before[name] {
			r.t.Errorf("%s has ended", name)
			continue
		}
		u, err := rig.UsageOf(before[name])
		if err != nil {
			r.t.Errorf("%s: %v", name, err)
			continue
		}
		took = append(took, fmt.Sprintf("%s %d MiB and %.0f s of CPU", name, u.PeakRSS>>20, u.CPU.Seconds()))
	}
	saw(out, "no process has ended; memory and CPU at most: %s; limit %d MiB for gateway and aggregator", strings.Join(took, ", "), processMemory>>20)
}

// compareTimes holds the others' times in the attack, which has two halves, against those before it.
func (r *run) compareTimes(out *outcome.Run, requests []*agents.Request, sights map[int]time.Time, calm, attacked, deafFrom time.Time) {
	r.t.Helper()
	var acked, stored times
	for _, q := range requests {
		if q.Sent.Before(calm) || !q.Acked {
			continue
		}
		phases := []int{0}
		switch {
		case q.Sent.After(deafFrom):
			phases = []int{1, 3}
		case q.Sent.After(attacked):
			phases = []int{1, 2}
		}
		acked.add(q.Took, phases)
		if q.Signal != signal.Logs {
			continue
		}
		at, ok := sights[q.Number]
		if !ok {
			at = q.Sent.Add(sightBack)
		}
		stored.add(at.Sub(q.Sent), phases)
	}
	if ratio := acked.tell(out, "acknowledgement"); *scale >= 1 && ratio > attackWorse {
		r.t.Errorf("the others' P99 to the acknowledgement is %.2f times what it was, want %.1f at most", ratio, attackWorse)
	}
	stored.tell(out, "row in ClickHouse")
	out.HotLongest = stored[1].quantile(1).Seconds()
}

// times are of requests before the attack, in it, in its first half, and in its second.
type times [4]tally

func (t *times) add(took time.Duration, phases []int) {
	for _, p := range phases {
		t[p].took = append(t[p].took, took)
	}
}

// tell says how long it took to something, and returns how many times the P99 before the attack that in it was.
func (t *times) tell(out *outcome.Run, what string) float64 {
	for i := range t {
		slices.Sort(t[i].took)
	}
	ratio := func(i int) float64 { return t[i].quantile(0.99).Seconds() / t[0].quantile(0.99).Seconds() }
	saw(out, "19 tenants, to the %s: P50 %d, P99 %d ms of %d requests without the attack, P50 %d, P99 %d ms of %d in it: x %.2f (x %.2f in its first half, x %.2f in its second)", what,
		t[0].quantile(0.5).Milliseconds(), t[0].quantile(0.99).Milliseconds(), len(t[0].took),
		t[1].quantile(0.5).Milliseconds(), t[1].quantile(0.99).Milliseconds(), len(t[1].took), ratio(1), ratio(2), ratio(3))
	return ratio(1)
}

// checkFast makes sure that nothing of the others is in the overflow lane.
func (r *run) checkFast() {
	r.t.Helper()
	for _, table := range recount.Tables {
		text, err := r.Query(fmt.Sprintf("SELECT count() FROM %s WHERE service_name = '%s' AND kafka_topic LIKE '%%overflow%%'", table.Name, r.service))
		r.must(err)
		if text != "0" {
			r.t.Errorf("table %s: %s events of tenants within their quotas came by the overflow lane", table.Name, text)
		}
	}
}

// sights are when requests of logs were first seen in ClickHouse.
type sights struct {
	quit chan struct{}
	done chan struct{}
	seen map[int]time.Time // by number; valid after done
}

func watchSights(r *rig.Rig, service string) *sights {
	s := &sights{quit: make(chan struct{}), done: make(chan struct{}), seen: map[int]time.Time{}}
	sql := fmt.Sprintf("SELECT DISTINCT intDiv(%s, %d) FROM logs WHERE tenant_id LIKE 'quiet-%%' AND service_name = '%s' AND time > now64() - %d",
		recount.Tables[signal.Logs].Number, agents.PerRequest, service, int(sightBack.Seconds()))
	go func() {
		defer close(s.done)
		tick := time.NewTicker(sightEvery)
		defer tick.Stop()
		for {
			text, err := r.Query(sql)
			at := time.Now()
			for line := range strings.Lines(text) {
				n, bad := strconv.Atoi(strings.TrimSpace(line))
				if _, known := s.seen[n]; err == nil && bad == nil && !known {
					s.seen[n] = at
				}
			}
			select {
			case <-tick.C:
			case <-s.quit:
				return
			}
		}
	}()
	return s
}

func (s *sights) stop() map[int]time.Time {
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
	<-s.done
	return s.seen
}
