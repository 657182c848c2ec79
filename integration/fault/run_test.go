package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	eventsMin    = 4000
	settled      = 8 * time.Second // as fresh as that, the cell is itself again
	freshTimeout = 10 * time.Minute
	quietTimeout = 15 * time.Minute // a million events are behind by minutes on a machine that does other work too
	rest         = 4 * time.Second  // after the last commit, for whoever comes late
)

// lane is what two consumer groups, one a store, read of Kafka.
type lane struct {
	hot, lake string
	topics    []audit.Topic
}

var (
	fastLane     = lane{audit.DefaultHotGroup, audit.DefaultLakeGroup, topics("v1")}
	overflowLane = lane{"pulsegrid-hot-overflow", "pulsegrid-lake-overflow", topics("overflow.v1")}

	quarantineTopics  = []audit.Topic{{Name: signal.QuarantineTopic}}
	quarantineLane    = lane{"pulsegrid-quarantine-hot", "pulsegrid-quarantine-lake", quarantineTopics}
	quarantinePIILane = lane{"pulsegrid-quarantine-pii-hot", "pulsegrid-quarantine-pii-lake", quarantineTopics}
)

func topics(suffix string) (out []audit.Topic) {
	for _, s := range signal.All {
		out = append(out, audit.Topic{Name: fmt.Sprintf("otlp.%s.%s", s, suffix), Signal: s})
	}
	return out
}

// names of its topics.
func (l lane) names() (out []string) {
	for _, t := range l.topics {
		out = append(out, t.Name)
	}
	return out
}

// groups of the aggregators' two sinks.
var groups = []string{fastLane.hot, fastLane.lake}

// run is one fault, or one guard, in one rig.
type run struct {
	*rig.Rig
	t       *testing.T
	lanes   []lane
	client  *kgo.Client // on the brokers' own listener, which no proxy hurts
	fault   fault
	rng     *rand.Rand
	service string
	started time.Time
	short   bool         // of a guard that has a kind of its own for `make test`
	admin   *kadm.Client // client's
	fresh   *freshness
	fleets  []*agents.Fleet // of underLoad

	// A fault may know better what the stores must have, once they are quiet.
	settle  func() error
	excused map[string]recount.Excuse // by consumer group
	ranges  [][]certificate.Range     // an audit each; nil: one, of all since the run began
}

func newRun(t *testing.T, k *kind, name string) *run {
	r := &run{Rig: rigFor(t, k), t: t, lanes: k.lanes, rng: random(name), started: time.Now()}
	r.service = fmt.Sprintf("%s-%d", name, r.started.UnixNano())
	var err error
	if r.client, err = kgo.NewClient(kgo.SeedBrokers(r.Kafka.Brokers()...), kgo.MetadataMinAge(250*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	r.admin = kadm.NewClient(r.client)
	return r
}

func inject(t *testing.T, f fault) {
	t.Logf("seed %d; again: go test ./integration/fault -run 'TestFault/%s$' -args -seed %d -scale %v", *seed, f.name, *seed, *scale)
	k := f.kind
	if k == nil {
		k = plain
	}
	if f.ready != nil {
		if err := f.ready(); err != nil {
			t.Fatal(err)
		}
	}
	r := newRun(t, k, f.name)
	r.fault = f
	r.judged(outcome.Run{Fault: f.name, Does: f.does}, func(out *outcome.Run) {
		var p *prober
		if *probed && !f.unprobed {
			p = r.startProbe()
		}
		requests, err := r.underLoad(out)
		if err != nil {
			t.Fatal(err)
		}
		if p != nil {
			p.compareRequests(out)
		}
		r.waitQuiet()
		if p != nil {
			p.compareRows(out)
		}
		if r.settle != nil {
			r.must(r.settle())
		}
		r.check(requests, out)
	})
}

// judged does the run and reports its outcome, also of one that breaks off, whose rig is not used again.
func (r *run) judged(out outcome.Run, do func(*outcome.Run)) {
	out.Seed, out.Scale = *seed, *scale
	whole := false
	defer func() {
		out.Seconds = time.Since(r.started).Seconds()
		r.report(out.Fault, &out, whole)
	}()
	do(&out)
	whole, out.Passed = true, !r.t.Failed()
}

// report adds the outcome to the results. Of a run that failed it shows what the parts logged, and the rig of one that broke off is not used again.
func (r *run) report(name string, out any, whole bool) {
	if r.t.Failed() {
		r.t.Log(r.Warnings())
		if *logsOf != "" {
			if err := r.WriteLogs(filepath.Join(*logsOf, name)); err != nil {
				r.t.Error(err)
			}
		}
	}
	if !whole {
		closeShared()
	}
	text, err := json.Marshal(out)
	if err == nil && *results != "" {
		err = outcome.Append(*results, text)
	}
	if err != nil {
		r.t.Error(err)
	}
	r.t.Logf("%s", text)
}

// underLoad sends events, injects the fault in the midst of them, and goes on until the hot store is fresh again.
func (r *run) underLoad(out *outcome.Run) ([]*agents.Request, error) {
	o := agents.Options{
		Service: r.service, Seed: *seed, Rate: *rate, Events: *events, Impatient: 0.02, Duplicates: 0.05, Deserters: 0.01,
	}
	if o.Events == 0 {
		o.Events = max(eventsMin, int(float64(r.fault.events)**scale))
	}
	for _, g := range r.Gateways {
		o.Gateways = append(o.Gateways, g.HTTP)
	}
	if r.fault.agents != nil {
		r.fault.agents(&o)
	}
	for i := range max(1, r.fault.many) {
		one := o
		if r.fault.many > 0 {
			one.Key, one.First = apiKeys[plainTenant(i)], i*numbersEach
			one.Rate, one.Events = o.Rate/r.fault.many, o.Events/r.fault.many
		}
		r.fleets = append(r.fleets, agents.Start(one))
	}
	r.fresh = watchFreshness(r.Rig, r.service)
	defer r.fresh.stop()
	if err := r.fresh.begins(freshTimeout); err != nil { // a fault of a cell that does nothing yet is none
		return r.stop(r.fleets...), err
	}
	// A random time, so that faults meet blocks and commits at every stage.
	time.Sleep(2*time.Second + time.Duration(r.rng.IntN(3000))*time.Millisecond)
	began := time.Now()
	faultErr := r.fault.inject(r)
	out.FaultSeconds = time.Since(began).Seconds()
	if r.Links != nil {
		faultErr = errors.Join(faultErr, r.Links.Heal())
	}
	if faultErr == nil {
		faultErr = r.fresh.wait(settled, freshTimeout)
	}
	if faultErr != nil {
		faultErr = fmt.Errorf("%w; lag: %s", faultErr, r.lag())
	}
	requests := r.stop(r.fleets...)
	out.HotLongest = r.fresh.longest().Seconds()
	return requests, faultErr
}

// pause lets the fleets begin no further request until resume is called, and returns when each is answered and nothing is spilled.
func (r *run) pause() (resume func(), err error) {
	for _, f := range r.fleets {
		f.Pause()
	}
	resume = sync.OnceFunc(func() {
		for _, f := range r.fleets {
			f.Resume()
		}
	})
	return resume, r.waitDrained()
}

// waitQuiet waits until both groups have committed everything that is in Kafka, and then a little for whoever comes late.
func (r *run) waitQuiet() {
	r.t.Helper()
	deadline := time.Now().Add(quietTimeout)
	for lag := "unknown"; lag != ""; {
		if time.Now().After(deadline) {
			r.t.Fatalf("the stores are not quiet after %v: %s", quietTimeout, lag)
		}
		time.Sleep(500 * time.Millisecond)
		lag = r.lag()
	}
	time.Sleep(rest)
}

// lag says what is not in Kafka, or what a group has not committed yet; empty: nothing.
func (r *run) lag() string {
	if r.Objects != nil {
		if n, err := r.Objects.Spilled(); err != nil || n > 0 {
			return fmt.Sprintf("%d spilled objects wait for Kafka (%v)", n, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, l := range r.lanes {
		ends, err := r.admin.ListEndOffsets(ctx, l.names()...)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return err.Error()
		}
		for _, group := range []string{l.hot, l.lake} {
			done, err := r.admin.FetchOffsets(ctx, group)
			if err != nil {
				return err.Error()
			}
			for _, e := range ends.Offsets().Sorted() {
				if o, ok := done.Lookup(e.Topic, e.Partition); e.At > 0 && (!ok || o.At != e.At) { // what lies beyond the end is of a former topic
					return fmt.Sprintf("group %s has committed %d of topic %s, partition %d, which ends at %d", group, o.At, e.Topic, e.Partition, e.At)
				}
			}
		}
	}
	return ""
}

// freshness watches how old the newest row of the slowest partition of logs is in ClickHouse.
type freshness struct {
	rig     *rig.Rig
	sql     string
	quit    chan struct{}
	done    chan struct{}
	samples chan time.Duration // the newest one, for wait
	begun   chan struct{}      // closed: there are rows
	most    time.Duration      // valid after done
}

func watchFreshness(r *rig.Rig, service string) *freshness {
	f := &freshness{rig: r, quit: make(chan struct{}), done: make(chan struct{}), samples: make(chan time.Duration, 1), begun: make(chan struct{})}
	f.sql = fmt.Sprintf("SELECT toUnixTimestamp64Milli(min(newest)) FROM (SELECT max(time) AS newest FROM logs WHERE service_name = '%s' GROUP BY kafka_partition)", service)
	go f.watch()
	return f
}

func (f *freshness) watch() {
	defer close(f.done)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	newest := time.Now() // before the first row: nothing is late yet
	begin := sync.OnceFunc(func() { close(f.begun) })
	for {
		select {
		case <-f.quit:
			return
		case <-tick.C:
		}
		if text, err := f.rig.Query(f.sql); err == nil {
			if ms, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil && ms > 0 {
				newest = time.UnixMilli(ms)
				begin()
			}
		}
		age := time.Since(newest)
		f.most = max(f.most, age)
		select {
		case <-f.samples:
		default:
		}
		f.samples <- age
	}
}

// begins returns when the store has the first rows.
func (f *freshness) begins(timeout time.Duration) error {
	select {
	case <-f.begun:
		return nil
	case <-time.After(timeout):
		return fmt.Errorf("ClickHouse has no row %v after the first request", timeout)
	}
}

// wait returns when the store is that fresh.
func (f *freshness) wait(want, timeout time.Duration) error {
	deadline := time.After(timeout)
	for {
		select {
		case age := <-f.samples:
			if age <= want {
				return nil
			}
		case <-deadline:
			return fmt.Errorf("ClickHouse is not fresh %v after the fault", timeout)
		}
	}
}

func (f *freshness) stop() {
	select {
	case <-f.quit:
	default:
		close(f.quit)
	}
	<-f.done
}

func (f *freshness) longest() time.Duration {
	f.stop()
	return f.most
}
