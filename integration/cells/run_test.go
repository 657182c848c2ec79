package cells

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/load"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
)

var (
	all     = flag.Bool("all", false, "run every drill, with all cells and audits, not only the short one")
	seed    = flag.Uint64("seed", 0, "of every drill's random choices; 0: a new one")
	scale   = flag.Float64("scale", 0.02, "how long that lasts which lasts minutes, and how long gateways and DNS take: 1 is as in production")
	rate    = flag.Int("rate", 300, "events a second, of all senders together; 0: half of what the machine can do, which is measured first")
	results = flag.String("results", "", "file to which each drill adds a line of JSON")
	logsOf  = flag.String("logs", "", "directory to which a drill that failed writes what gateways and aggregators logged")
)

const (
	fresh    = 8 * time.Second // a sender whose newest row is that old is up to date
	calm     = 30 * time.Second
	away     = 2 * time.Minute
	patience = 10 * time.Minute // a bound on what takes seconds on a machine of one's own, beside the times of DNS
	look     = 500 * time.Millisecond
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	code := m.Run()
	if err := closeShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// scaled is how long something lasts.
func scaled(full time.Duration) time.Duration {
	return max(time.Duration(float64(full)**scale), 3*time.Second)
}

// shared are the cells that drills use one after another. A drill that broke off leaves none behind.
var shared *Cells

func cellsFor(t *testing.T, names []string) *Cells {
	t.Helper()
	if shared != nil {
		return shared
	}
	dir, err := os.MkdirTemp("", "pulsegrid-cells-")
	if err != nil {
		t.Fatal(err)
	}
	shared, err = New(Options{Dir: dir, Names: names, Times: Production.Scaled(*scale)})
	if err == nil {
		err = shared.Start()
	}
	if err != nil {
		for _, cell := range shared.All {
			if cell.Rig != nil {
				t.Logf("cell %s:\n%s", cell.Name, cell.Warnings())
			}
		}
		t.Fatal(errors.Join(err, closeShared()))
	}
	return shared
}

func closeShared() error {
	if shared == nil {
		return nil
	}
	err := errors.Join(shared.Close(), os.RemoveAll(shared.Dir))
	shared = nil
	return err
}

// fleet are senders of one tenant in one place.
type fleet struct {
	*agents.Fleet
	tenant, jurisdiction string // whose name they ask DNS for; empty: any cell's
	place                netip.Prefix
	service              string
	share                int    // of the rate, in tenths
	home                 string // cell to which DNS leads them when all is well
}

// run is one drill.
type run struct {
	*Cells
	t      *testing.T
	out    *outcome.Drill
	fleets []*fleet
	struck []*Cell // that something is done to
	rate   int

	started     time.Time
	watch       *watch
	replication *replication // of a drill whose cell never comes back
}

func (r *run) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// until waits for a condition, which must come to hold.
func (r *run) until(what string, holds func() bool) {
	r.t.Helper()
	limit := patience + 2*(r.times.Hold+r.times.Connection+r.times.TTL+time.Duration(r.times.Threshold)*r.times.Check)
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(look) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within %v", what, limit)
		}
	}
}

// startFleets begins the load. The EU's senders name a marker in every event, and so do those of the US, whose marker is the control of the search.
func (r *run) startFleets() {
	r.t.Helper()
	r.fleets = []*fleet{{tenant: Europe, jurisdiction: "eu", place: InFrankfurt, service: markerEU, share: 5}}
	if *all {
		r.fleets = append(r.fleets, &fleet{tenant: Anywhere, place: InFrankfurt, service: "anywhere", share: 3}, &fleet{tenant: America, jurisdiction: "us", place: InVirginia, service: markerUS, share: 2})
	}
	for _, f := range r.fleets {
		f.service = fmt.Sprintf("%s-%s-%d", f.service, r.out.Drill, r.started.UnixNano())
		to, ok := r.DNS.Choose(Host(f.jurisdiction), f.place.Addr())
		if !ok {
			r.t.Fatalf("DNS does not know %s", Host(f.jurisdiction))
		}
		f.home = to.Set
		f.Fleet = agents.Start(agents.Options{
			Service: f.service, Seed: *seed, Gateways: []string{r.Address(f.jurisdiction)}, Dial: r.Resolver(f.place).DialContext, Key: r.Keys[f.tenant],
			Rate: max(agents.PerRequest, r.rate*f.share/10), Events: 1, Refused: agents.Obey, Duplicates: 0.02,
		})
	}
	r.watch = startWatch(r)
	r.until("each sender has rows", func() bool { return r.watch.all(func(s seen) bool { return s.age < fresh }) })
}

// stopFleets ends the load, and returns each fleet's requests.
func (r *run) stopFleets() [][]*agents.Request {
	r.t.Helper()
	requests, errs := make([][]*agents.Request, len(r.fleets)), make([]error, len(r.fleets))
	var stopping sync.WaitGroup
	for i, f := range r.fleets {
		stopping.Go(func() { requests[i], errs[i] = f.Stop() })
	}
	stopping.Wait()
	r.watch.stop()
	r.must(errors.Join(errs...))
	return requests
}

// felt tells what senders felt of requests that were first sent from a time on, and before another.
func felt(requests [][]*agents.Request, from, to time.Time) (out outcome.Felt) {
	var first, last time.Time
	for _, fleet := range requests {
		for _, q := range fleet {
			if q.Sent.Before(from) || !q.Sent.Before(to) || q.Attempts < 2 {
				continue
			}
			out.Failed++
			out.Longest = max(out.Longest, q.Took.Seconds())
			if first.IsZero() || q.Sent.Before(first) {
				first = q.Sent
			}
			if at := q.Sent.Add(q.Took); at.After(last) {
				last = at
			}
		}
	}
	out.Seconds = last.Sub(first).Seconds()
	return out
}

// run does a drill, judges it and reports it.
func (d *drill) run(t *testing.T) {
	t.Logf("seed %d; again: make drill-cells DRILL='%s$' SEED=%d SCALE=%v RATE=%d", *seed, d.name, *seed, *scale, *rate)
	names := d.cells
	if *all {
		names = nil
	}
	r := &run{Cells: cellsFor(t, names), t: t, started: time.Now(), rate: *rate, out: &outcome.Drill{Drill: d.name, Does: d.does, Seed: *seed, Scale: *scale}}
	whole := false
	defer func() { r.report(whole) }()
	if r.rate == 0 {
		r.rate = halfOfCapacity(t, r.All[0], r.Keys[Anywhere])
		r.started = time.Now()
	}
	for _, name := range d.strikes {
		r.struck = append(r.struck, r.Cell(name))
	}
	r.out.Rate, r.out.TTL, r.out.Detects = r.rate, r.times.TTL.Seconds(), (time.Duration(r.times.Threshold) * r.times.Check).Seconds()
	if d.gone {
		r.replication = r.struck[0].replicate(rand.New(rand.NewPCG(*seed, 1)))
		defer func() { _ = r.replication.stop() }() // lost tells of an error
	}
	r.startFleets()
	defer r.watch.stop()
	time.Sleep(scaled(calm))
	if d.gone {
		time.Sleep(2 * ReplicaDelay) // replication is older than the loss
	}
	fault := time.Now()
	r.must(d.strike(r))
	if d.moves {
		r.until("senders have moved", func() bool {
			return r.watch.all(func(s seen) bool { return !r.moves(s.fleet) || s.age < fresh && !r.isStruck(s.in) })
		})
	}
	time.Sleep(scaled(away))
	if d.maintain != nil {
		r.must(d.maintain(r, fault))
	}
	back := time.Now()
	r.must(d.mend(r))
	if d.gone {
		back = time.Now() // nothing comes back: all that senders feel is of the time without the cell
	} else {
		r.until("senders are home and up to date", func() bool {
			return r.watch.all(func(s seen) bool { return s.age < fresh && s.in == s.fleet.home && s.others > fresh })
		})
	}
	stale := r.watch.lastStale()
	requests := r.stopFleets()
	r.out.Fresh = max(0, stale.Sub(fault).Seconds())
	var hit, others [][]*agents.Request
	for i, f := range r.fleets {
		if !r.isStruck(f.home) {
			others = append(others, requests[i])
			continue
		}
		hit = append(hit, requests[i])
		if last := r.watch.lastElsewhere(f); !d.gone && last.After(back) {
			r.out.Home = max(r.out.Home, last.Sub(back).Seconds())
		}
	}
	before := fault.Add(-agents.DefaultTimeout) // such requests may have been under way
	r.out.Away, r.out.Back = felt(hit, before, back), felt(hit, back, time.Now())
	r.out.Bystander = felt(others, before, time.Now()).Failed
	r.waitQuiet()
	if d.gone {
		r.countWhatIsLeft(requests, fault)
	} else {
		r.count(requests)
	}
	whole = true
}

// moves tells whether a fleet has somewhere to go.
func (r *run) moves(f *fleet) bool {
	for _, cell := range r.Of(f.jurisdiction) {
		if !r.isStruck(cell.Name) {
			return true
		}
	}
	return false
}

func (r *run) isStruck(name string) bool {
	for _, cell := range r.struck {
		if cell.Name == name {
			return true
		}
	}
	return false
}

// report adds the outcome to the results. Of a drill that failed it shows what the parts logged; the cells of one that broke off are not used again.
func (r *run) report(whole bool) {
	r.out.Seconds, r.out.Passed = time.Since(r.started).Seconds(), whole && !r.t.Failed()
	var errs []error
	if r.t.Failed() {
		for _, cell := range r.All {
			r.t.Logf("cell %s:\n%s", cell.Name, cell.Warnings())
			if *logsOf != "" {
				errs = append(errs, cell.WriteLogs(filepath.Join(*logsOf, r.out.Drill, cell.Name)))
			}
		}
	}
	text, err := json.Marshal(r.out)
	if errs = append(errs, err); *results != "" {
		errs = append(errs, outcome.Append(*results, text))
	}
	if !whole {
		errs = append(errs, closeShared())
	}
	if err := errors.Join(errs...); err != nil {
		r.t.Error(err)
	}
	r.t.Logf("%s", text)
}

var capacity struct {
	once sync.Once
	half int
	err  error
}

// halfOfCapacity is the rate at which one cell takes half of the machine's CPU while the others idle on it.
func halfOfCapacity(t *testing.T, c *Cell, key string) int {
	t.Helper()
	capacity.once.Do(func() {
		capacity.half, capacity.err = load.Half(c.Rig, key, t.Logf)
	})
	if capacity.err != nil {
		t.Fatal(capacity.err)
	}
	return capacity.half
}

// watch looks every half second how old each fleet's newest row is, and in which cell.
type watch struct {
	r    *run
	quit chan struct{}
	done chan struct{}
	once sync.Once

	mu    sync.Mutex
	seen  []seen    // guarded by mu: by fleet
	stale time.Time // guarded by mu until done: when a fleet was last not up to date
}

// seen is what was last seen of a fleet.
type seen struct {
	fleet  *fleet
	in     string               // the cell that has its newest row; empty: none has any
	age    time.Duration        // of that row
	others time.Duration        // age of the newest row that another cell has
	newest map[string]time.Time // by cell
}

func startWatch(r *run) *watch {
	w := &watch{r: r, quit: make(chan struct{}), done: make(chan struct{})}
	for _, f := range r.fleets {
		w.seen = append(w.seen, seen{fleet: f, age: patience, others: patience, newest: map[string]time.Time{}})
	}
	go w.loop()
	return w
}

func (w *watch) loop() {
	defer close(w.done)
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-tick.C:
		}
		for i := range w.seen {
			w.ask(&w.seen[i])
		}
	}
}

// ask asks the cells that may have a fleet's rows. Nobody asks others: the question itself would be a marker in their logs.
func (w *watch) ask(s *seen) {
	found := map[string]time.Time{}
	for _, cell := range w.r.Of(s.fleet.jurisdiction) {
		text, err := cell.Query(fmt.Sprintf("SELECT toUnixTimestamp64Milli(max(time)) FROM logs WHERE service_name = '%s' AND time > now() - INTERVAL 1 HOUR", s.fleet.service))
		if err != nil {
			continue // it is away
		}
		if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms > 0 {
			found[cell.Name] = time.UnixMilli(ms)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, at := range found {
		s.newest[name] = at
	}
	s.in = ""
	for name, at := range s.newest {
		if s.in == "" || at.After(s.newest[s.in]) {
			s.in = name
		}
	}
	s.age, s.others = time.Since(s.newest[s.in]), patience
	for name, at := range s.newest {
		if name != s.in {
			s.others = min(s.others, time.Since(at))
		}
	}
	if s.age > fresh {
		w.stale = time.Now()
	}
}

// all tells whether something holds of each fleet.
func (w *watch) all(holds func(seen) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen {
		if !holds(s) {
			return false
		}
	}
	return true
}

// lastElsewhere is the time of the newest row that a fleet has in another cell than its home.
func (w *watch) lastElsewhere(f *fleet) (last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen {
		for name, at := range s.newest {
			if s.fleet == f && name != f.home && at.After(last) {
				last = at
			}
		}
	}
	return last
}

// lastStale is when a fleet's newest row was last older than fresh.
func (w *watch) lastStale() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stale
}

func (w *watch) stop() {
	w.once.Do(func() { close(w.quit) })
	<-w.done
}
