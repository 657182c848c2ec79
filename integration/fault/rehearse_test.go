package fault

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/internal/testkit/runbook"
)

var shortened = flag.Int("shorten", 15, "of rehearsals: durations of the rules are divided by this; 1: the rules as they are")

// Times of a rehearsal. Those with the rules as they are are divided by -shorten.
const (
	rehearsedRate = 250              // events a second: SLOs need some requests, and nothing here is about load
	steadyFor     = 2 * time.Minute  // of health before the fault, with the rules as they are
	steadyLeast   = 10 * time.Second // whatever the rules
	overWithin    = 12 * time.Minute // from the end of the fault to the notification, with the rules as they are: groups of 5 or 10 minutes
	patience      = 5 * time.Minute  // for a command that must succeed once the cell is itself again
)

// reaction is what the fault takes to show and the machine to look, whatever the rules. In `make test` the machine does other work too, and no time is judged.
func reaction() time.Duration {
	if *all {
		return 15 * time.Second
	}
	return patience
}

// excused are pages that say, in `make test`, that the machine is busy: seconds of freshness are not divided.
func excused(page string) bool {
	return !*all && (slices.Contains(late, page) || page == "FreshnessLakeBurn")
}

// rehearsed is a rehearsal that runs.
type rehearsed struct {
	*run
	rehearsal
	shell rig.Shell
	out   *outcome.Rehearsal
	began time.Time // when the fault was there; times count from then
	disk  *rig.Disk // of a rehearsal with one
	undo  func() error
}

func (r *rehearsed) nothing() error { return nil }

// Scenario: under load, a fault of the table; Prometheus and Alertmanager run the rules and routes of observability/. Then the operator who was told follows the runbook.
// Guarantees: nobody is told of anything while the cell is healthy; the expected alert arrives within its stated time, where it should, with a link to its runbook; the runbook's
// commands run as they are written, show the fault, and succeed once it is mended; the alert is resolved; nobody is woken by anything else.
func TestRehearsal(t *testing.T) {
	for _, re := range rehearsals {
		if !re.short && !*all && !named(re.name) {
			continue
		}
		t.Run(re.name, func(t *testing.T) {
			t.Logf("again: go test ./integration/fault -run 'TestRehearsal/%s$' -args -seed %d -shorten %d -scale %v", re.name, *seed, *shortened, *scale)
			if re.kind == nil {
				if re.kind = calm; !*all && re.short {
					re.kind = plain // whose rig other tests have
				}
			}
			r := &rehearsed{run: newRun(t, re.kind, re.name), rehearsal: re}
			r.rehearse()
		})
	}
}

// short is a duration that the rules determine.
func short(full time.Duration) time.Duration { return full / time.Duration(*shortened) }

func (r *rehearsed) rehearse() {
	r.out = &outcome.Rehearsal{Fault: r.name, Does: r.does, Alert: r.alert, Shortened: *shortened, Within: (short(r.within) + reaction()).Seconds(), Seed: *seed}
	whole := false
	defer func() {
		r.out.Seconds = time.Since(r.started).Seconds()
		r.report(r.name, r.out, whole)
	}()
	dir := r.t.TempDir()
	shell, leave, err := r.Operator(dir)
	r.must(err)
	defer leave()
	r.shell = shell
	fleet := r.fleetOf(agents.Options{Rate: rehearsedRate, Duplicates: 0.02})
	further, disks := map[string][]string{}, []string(nil)
	if r.kind.kafkaMetrics {
		further["kafka"] = r.Kafka.MetricsURLs()
	}
	if r.kind.clickHouseDisk > 0 {
		further["clickhouse"] = []string{r.diskMetrics()}
	}
	quiet := func() {} // ends what sends beside the fleet
	if r.probe {
		at, stop := r.runProbe()
		further["probe"], quiet = []string{at}, stop
	}
	if r.needsDisk {
		r.disk, err = rig.MountDisk(filepath.Join(dir, "disk"), hostDisk) // which needs root
		r.must(err)
		defer func() { r.must(r.disk.Unmount()) }()
		disks = append(disks, r.disk.Dir)
	}
	m := r.monitor(dir, *shortened, further, disks...)
	r.must(m.waitUp(startTimeout))
	if !r.rehearsal.short { // an audit reads the whole cell
		r.must(r.auditEqual())
	}
	if r.load != nil {
		quiet = sync.OnceFunc(r.load(r))
		defer quiet()
	}
	time.Sleep(cmp.Or(r.steady, max(short(steadyFor), steadyLeast)))
	if pages := slices.DeleteFunc(m.fired(true), excused); len(pages) > 0 {
		r.t.Fatalf("before the fault: pages %v", pages)
	}

	if r.stays {
		r.showsNothing()
	}
	r.began = time.Now()
	r.must(r.inject(r))
	if r.alert == "" {
		r.must(r.mend(r))
	} else {
		r.answer(m)
	}
	quiet()
	r.stop(fleet)
	r.waitQuiet()
	expected := append([]string{}, r.also...)
	if !r.ticket {
		expected = append(expected, r.alert)
	}
	r.out.Tickets = slices.DeleteFunc(m.fired(false), func(name string) bool { return r.ticket && name == r.alert })
	for _, name := range m.fired(true) {
		switch {
		case !slices.Contains(expected, name) && !excused(name):
			r.out.False = append(r.out.False, name)
		case name != r.alert:
			r.out.Also = append(r.out.Also, name)
		}
	}
	if len(r.out.False) > 0 {
		r.t.Errorf("pages that the fault does not explain: %v", r.out.False)
	}
	whole, r.out.Passed = true, !r.t.Failed()
}

// answer is what the operator does: hear, read, act, and hear that it is over.
func (r *rehearsed) answer(m *monitoring) {
	r.t.Helper()
	r.out.Severity = map[bool]string{true: "ticket", false: "page"}[r.ticket]
	n, err := m.wait(r.alert, !r.ticket, true, r.began, short(r.within)+reaction())
	r.must(err)
	r.out.Fired = n.at.Sub(r.began).Seconds()
	during, afterwards := r.read(n)
	shows := regexp.MustCompile(r.shows)
	if r.told && !shows.MatchString(n.text) {
		r.t.Errorf("the notification does not say %q: %s", r.shows, n.text)
	}
	until(func() bool { return len(m.windows(r.alert, !r.ticket)) >= len(r.trips) }, short(r.within)-time.Since(r.began)) // they tell one after the other
	looked := time.Now()
	for said := r.follow(during); !r.told && !shows.MatchString(said); said = r.follow(during) {
		if time.Since(looked) < r.looks {
			continue
		}
		r.t.Errorf("no command of %s shows %q", r.out.Runbook, r.shows)
		break
	}
	r.out.Commands += len(during)

	r.must(r.mend(r))
	mended := time.Now()
	n, err = m.wait(r.alert, !r.ticket, false, r.began, short(cmp.Or(r.over, overWithin))+reaction())
	r.must(err)
	r.out.Recovered = max(n.at.Sub(mended), 0).Seconds()
	if r.out.Trips = m.windows(r.alert, !r.ticket); len(r.trips) > 0 && !slices.Equal(r.out.Trips, slices.Sorted(slices.Values(r.trips))) {
		r.t.Errorf("the windows %v of %s told, want %v", r.out.Trips, r.alert, r.trips)
	}
	if !r.stays && !until(func() bool { return !shows.MatchString(r.follow(during)) }, patience) {
		r.t.Errorf("the commands of %s show %q of a cell that is itself again", r.out.Runbook, r.shows)
	}
	for _, command := range afterwards {
		out := ""
		if !until(func() bool { out, err = r.shell.Run(command); return err == nil }, patience) {
			r.must(fmt.Errorf("%s: %w\n%s", command, err, out))
		}
		r.t.Logf("%s\n%s", command, out)
		r.out.Commands++
	}
}

// read follows a notification's link, and returns the commands of that section: for as long as the fault is there, and for afterwards.
func (r *rehearsed) read(n notice) (during, afterwards []string) {
	r.t.Helper()
	i := slices.IndexFunc(n.firing, func(a alerted) bool { return a.Labels["alertname"] == r.alert })
	r.out.Runbook = n.firing[i].Annotations["runbook_url"]
	if n.page && !strings.Contains(n.runbooks, r.out.Runbook) || n.firing[i].Labels["cell"] != monitored {
		r.t.Errorf("the notification does not say of which cell it is, or where its runbook is: %s", n.text)
	}
	return r.commands(r.out.Runbook)
}

// commands are those of a runbook's section, by its link: for as long as the fault is there, and for afterwards.
func (r *rehearsed) commands(link string) (during, afterwards []string) {
	r.t.Helper()
	name, anchor, _ := strings.Cut(strings.TrimPrefix(link, "docs/runbooks/"), "#")
	page, err := rig.Runbook(name)
	r.must(err)
	before, after, _ := strings.Cut(runbook.Section(page, anchor), "**It is over when.**")
	if during = runbook.Commands(before); len(during) == 0 {
		r.t.Fatalf("%s: there is no such section, or it has no command", link)
	}
	return during, runbook.Commands(after)
}

// showsNothing follows the alert's runbook before the fault: of a rehearsal whose commands show it afterwards, too.
func (r *rehearsed) showsNothing() {
	r.t.Helper()
	for _, a := range alertRules(r.t) {
		if a.Alert != r.alert {
			continue
		}
		during, _ := r.commands(a.Annotations["runbook_url"])
		if said := r.follow(during); regexp.MustCompile(r.shows).MatchString(said) {
			r.t.Errorf("the commands show %q of a healthy cell", r.shows)
		}
		return
	}
	r.t.Fatalf("observability/ has no alert %s", r.alert)
}

// follow runs commands, whatever they find, and returns what they print.
func (r *rehearsed) follow(commands []string) (said string) {
	r.t.Helper()
	for _, command := range commands {
		out, err := r.shell.Run(command)
		r.t.Logf("%s (%v)\n%s", command, err, out)
		if !answered(command, err) {
			r.t.Errorf("%s: %v\n%s", command, err, out)
		}
		said += out
	}
	return said
}

// answered tells that a command has done its work, whatever it found: 1 says that something is not as it should be, and audit's 2 that it could not look at everything.
func answered(command string, err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err == nil
	}
	return exit.ExitCode() == 1 || exit.ExitCode() == 2 && strings.HasPrefix(command, "pulsegrid audit ")
}
