package cells

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/integration/rig/markers"
	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Markers, in every event that senders of a jurisdiction send. That of the US must be found wherever that of the EU must not: else the search proves nothing.
const (
	markerEU = "marker-of-europe-91be27"
	markerUS = "marker-of-america-5d0c3f"
)

const (
	askTimeout   = 10 * time.Second
	auditTimeout = 15 * time.Minute
	stopGrace    = time.Minute
	startTimeout = 3 * time.Minute
	rest         = 2 * time.Second // after the last commit, for whoever comes late
)

// waitQuiet waits until each cell's stores have all that its Kafka and its spill hold.
func (r *run) waitQuiet() {
	r.t.Helper()
	behind := ""
	defer func() {
		if r.t.Failed() {
			r.t.Log(behind)
		}
	}()
	for _, cell := range r.left("") {
		client, err := kgo.NewClient(kgo.SeedBrokers(cell.Kafka.Brokers()...))
		r.must(err)
		admin := kadm.NewClient(client)
		r.until(cell.Name+" is quiet", func() bool {
			spilled, err := cell.Objects.Spilled()
			r.must(err)
			ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
			defer cancel()
			behind = fmt.Sprintf("cell %s: %d spilled objects; %s", cell.Name, spilled, rig.Behind(ctx, admin))
			return behind == fmt.Sprintf("cell %s: 0 spilled objects; ", cell.Name)
		})
		client.Close()
	}
	time.Sleep(rest)
}

// count holds all cells' stores against what the senders know.
func (r *run) count(requests [][]*agents.Request) {
	r.t.Helper()
	r.search()        // before anybody asks a cell for a service whose name has the marker
	var doubled []int // fleets
	for i, f := range r.fleets {
		for _, q := range requests[i] {
			r.out.Requests++
			if q.Acked {
				r.out.Acked += agents.PerRequest
			}
		}
		inHot := r.stores(f, requests[i])
		r.out.Doubled += inHot
		if inHot > 0 {
			doubled = append(doubled, i)
		}
	}
	if !*all {
		return
	}
	r.audit(nil, r.left("")...)
	for _, i := range doubled {
		r.settle(r.fleets[i], requests[i])
	}
}

// stores counts a fleet's events in both kinds of store of all cells, and returns how many are in more than one cell.
func (r *run) stores(f *fleet, requests []*agents.Request) int {
	r.t.Helper()
	hot, lake := map[string]map[signal.Signal]recount.Contents{}, map[string]map[signal.Signal]recount.Contents{}
	for _, cell := range r.Of(f.jurisdiction) {
		var err error
		hot[cell.Name], err = recount.Hot(cell.Rig, f.service)
		r.must(err)
		lake[cell.Name], _ = recount.Lake(r.t, cell.Rig, f.service)
	}
	inHot, inLake := r.compare(f, "ClickHouse", requests, hot), r.compare(f, "the lake", requests, lake)
	if inHot != inLake {
		r.t.Errorf("of %s %d events are in ClickHouse of more than one cell, %d in the lake", f.tenant, inHot, inLake)
	}
	return inHot
}

// settle has what two cells have both removed from the one that is not the tenant's home, as the runbook does it. Then no event may be in two cells, none may be lost, and the audit of the other cell must be
// equal with what was declared.
func (r *run) settle(f *fleet, requests []*agents.Request) {
	r.t.Helper()
	for _, guest := range r.Of(f.jurisdiction) {
		if guest.Name == f.home {
			continue
		}
		declared := filepath.Join(r.Dir, guest.Name+"-erased.yaml")
		command := fmt.Sprintf("pulsegrid cell settle --home %s --guest %s --tenant %s --from %s --to %s --tenants %s --jurisdiction %s --id %s --by drill --reason drill --declare %s --quiet",
			f.home, guest.Name, f.tenant, r.started.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339), guest.Registry, r.Cell(f.home).Jurisdiction,
			fmt.Sprintf("%s-%s-%d", f.tenant, guest.Name, r.started.Unix()%1_000_000), declared)
		for _, a := range guest.Aggregators { // they insert into the rollups of today, which are to be built anew
			a.Stop(stopGrace)
		}
		r.must(r.operator(command))
		for _, a := range guest.Aggregators {
			r.must(a.Start(startTimeout))
		}
		erased, err := erasure.ReadFile(declared)
		if errors.Is(err, fs.ErrNotExist) { // nothing of this guest was removed, in no drill yet
			err = nil
		}
		r.must(err)
		r.audit(erased, guest)
	}
	r.out.Settled = true
	if left := r.stores(f, requests); left > 0 {
		r.out.Unsettled += left
		r.t.Errorf("after the settling %d events of %s are in two cells", left, f.tenant)
	}
}

// left are the cells of a jurisdiction that there are; empty: all.
func (r *run) left(jurisdiction string) (out []*Cell) {
	for _, cell := range r.Of(jurisdiction) {
		if r.replication == nil || !r.isStruck(cell.Name) {
			out = append(out, cell)
		}
	}
	return out
}

// lostWithin bounds how old an event may be that goes with a cell: one that was acknowledged waits for the lake's commit, and the commit's objects for their copies.
const lostWithin = ReplicaDelay + 15*time.Second

// countWhatIsLeft holds the hot stores of the cells that are left against what the senders know, when a cell never comes back. What it had acknowledged last is lost: how much, and how old the oldest was.
func (r *run) countWhatIsLeft(requests [][]*agents.Request, fault time.Time) {
	r.t.Helper()
	r.search()
	for i, f := range r.fleets {
		found := map[string]map[signal.Signal]recount.Contents{}
		for _, cell := range r.left(f.jurisdiction) {
			var err error
			found[cell.Name], err = recount.Hot(cell.Rig, f.service)
			r.must(err)
		}
		there, across := r.together(f, "ClickHouse", requests[i], found)
		r.out.Doubled += across
		c, _ := recount.Compare(requests[i], there, nil) // what is lost is told below
		r.out.Unknown += c.Unknown
		for _, q := range requests[i] {
			r.out.Requests++
			if !q.Acked {
				continue
			}
			r.out.Acked += agents.PerRequest
			for n := q.First(); n < q.First()+agents.PerRequest; n++ {
				if _, ok := there[q.Signal][n]; ok {
					continue
				}
				r.out.Lost++
				old := fault.Sub(q.Sent)
				if r.out.RPO = max(r.out.RPO, old.Seconds()); old > lostWithin || !r.isStruck(f.home) {
					r.t.Errorf("of %s event %d is lost, which was sent %v before the cell was", f.tenant, n, old)
				}
			}
		}
	}
	if r.out.Lost == 0 {
		r.t.Error("nothing is lost: the cell had nothing that was not replicated")
	}
	r.audit(nil, r.left("")...)
}

// together are the events of one kind of store of several cells, and how many are in more than one of them. Within a cell none may be twice.
func (r *run) together(f *fleet, store string, requests []*agents.Request, found map[string]map[signal.Signal]recount.Contents) (together map[signal.Signal]recount.Contents, across int) {
	r.t.Helper()
	together = map[signal.Signal]recount.Contents{}
	for name, of := range found {
		within, _ := recount.Compare(requests, of, nil) // what it lacks others may have
		if within.Doubled > 0 {
			r.t.Errorf("%s of %s has %d rows of %s too many", store, name, within.Doubled, f.tenant)
		}
		r.out.Within += within.Doubled
		for sig, events := range of {
			if together[sig] == nil {
				together[sig] = recount.Contents{}
			}
			for n, is := range events {
				if _, ok := together[sig][n]; ok {
					across++
				}
				together[sig][n] = recount.Copies{Rows: 1, Places: is.Places}
			}
		}
	}
	return together, across
}

// compare counts what is wrong in one kind of store of all cells, and returns how many events are in more than one of them.
func (r *run) compare(f *fleet, store string, requests []*agents.Request, found map[string]map[signal.Signal]recount.Contents) (across int) {
	r.t.Helper()
	together, across := r.together(f, store, requests, found)
	c, wrong := recount.Compare(requests, together, nil)
	for _, w := range wrong {
		r.t.Errorf("%s of all cells, %s: %s", store, f.tenant, w)
	}
	r.out.Lost += c.Lost
	r.out.Unknown += c.Unknown
	return across
}

// search looks for the EU's marker in all that cells elsewhere have written: files, topics, tables, Parquet files, what processes say.
func (r *run) search() {
	r.t.Helper()
	for _, cell := range r.All {
		if cell.Jurisdiction == "eu" {
			continue
		}
		r.out.Searched = true
		r.must(cell.WriteLogs(filepath.Join(cell.Dir, "logs")))
		for _, tier := range []string{"gateway", "aggregator"} {
			text, err := cell.Metrics(tier)
			r.must(errors.Join(err, os.WriteFile(filepath.Join(cell.Dir, "logs", tier+".metrics"), []byte(text), 0o600)))
		}
		parquet := markers.Parquet(r.t, cell.Objects.Dir, "**/*.parquet", markerEU, markerUS)
		for _, marker := range []string{markerEU, markerUS} {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			files, err := markers.Files(cell.Dir, marker)
			r.must(err)
			records, err := markers.Records(ctx, cell.Kafka.Brokers(), marker)
			cancel()
			r.must(err)
			rows, err := markers.Rows(cell.Rig, marker)
			r.must(err)
			if marker == markerUS {
				r.out.Control += len(files) + total(records) + total(rows) + parquet[marker]
				if len(files) == 0 || total(records) == 0 || total(rows) == 0 || parquet[marker] == 0 {
					r.t.Errorf("control: of its own marker %s has %d files, %d records, %d rows and %d Parquet rows: none must be 0", cell.Name, len(files), total(records), total(rows), parquet[marker])
				}
				continue
			}
			r.out.Markers += len(files) + total(records) + total(rows) + parquet[marker]
			if len(files)+total(records)+total(rows)+parquet[marker] > 0 {
				r.t.Errorf("%s has the marker of the EU: files %s, records %v, rows %v, Parquet rows %d", cell.Name, recount.Some(files), records, rows, parquet[marker])
			}
		}
	}
}

func total(of map[string]int) (n int) {
	for _, m := range of {
		n += m
	}
	return n
}

// audit lets PulseGrid's own audit judge cells' events since the drill began, but for lawful deletions. Rollups of today do not have what was restored.
func (r *run) audit(erased []erasure.Erasure, cells ...*Cell) {
	r.t.Helper()
	r.out.Verdict = cmp.Or(r.out.Verdict, string(certificate.Equal))
	for _, cell := range cells {
		c := audit.DefaultConfig()
		c.Tool, c.Cell = "drill", cell.Name
		c.Kafka.Brokers, c.Topics = cell.Kafka.Brokers(), nil
		for _, s := range signal.All {
			c.Topics = append(c.Topics, audit.Topic{Name: s.Topic(), Signal: s})
		}
		c.From, c.Rollups, c.Erased, c.TempDir = r.started, r.replication == nil, erased, r.t.TempDir()
		c.ClickHouse, c.Lake = recount.Stores(cell.Rig, audit.DefaultHotGroup, audit.DefaultLakeGroup)
		ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
		cert, err := audit.Run(ctx, c)
		cancel()
		r.must(err)
		if cert.Verdict != certificate.Equal {
			r.out.Verdict = fmt.Sprintf("%s in %s", cert.Verdict, cell.Name)
			r.t.Errorf("the audit of %s says %s: %v", cell.Name, cert.Verdict, cert.Problems)
		}
	}
}
