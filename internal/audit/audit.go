package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// Run audits. Its certificate is complete whatever the verdict; an error means that there is none: the configuration is wrong, Kafka cannot
// be read, or ctx ended.
func Run(ctx context.Context, config Config) (*Certificate, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	a := &audit{Config: &config, cert: &Certificate{Format: CertificateFormat, Tool: config.Tool, Cell: config.Cell, Started: time.Now().UTC().Truncate(time.Millisecond)}}
	a.report = newReport(a.cert, config.MaxDifferences)
	defer a.close()
	if err := a.run(ctx); err != nil {
		return nil, err
	}
	a.cert.Finished = time.Now().UTC().Truncate(time.Millisecond)
	a.cert.conclude()
	if config.Certificates != "" {
		if _, err := a.cert.append(config.Certificates); err != nil {
			return nil, err
		}
		return a.cert, nil
	}
	return a.cert, a.cert.seal()
}

// audit is a run. It is used by one goroutine.
type audit struct {
	*Config
	cert         *Certificate
	report       *report
	log          *kafkaLog
	stores       []store // nil: could not be opened
	groups       []string
	quarantine   quarantineIndex
	events, rows int64 // for Progress
}

func (a *audit) close() {
	for _, s := range a.stores {
		if s != nil {
			s.close()
		}
	}
	if a.log != nil {
		a.log.close()
	}
}

func (a *audit) run(ctx context.Context) error {
	var err error
	if a.log, err = openKafka(ctx, a.Config); err != nil {
		return err
	}
	a.open(ctx)
	p := &planner{Config: a.Config, log: a.log, groups: a.groups, cert: a.cert}
	topics, err := p.topics(ctx)
	if err != nil {
		return err
	}
	a.asked(topics)
	var plans []*topicPlan
	for _, t := range topics {
		tp, err := p.topic(ctx, t)
		if err != nil {
			return err
		}
		plans = append(plans, tp)
	}
	if a.quarantine, err = readQuarantine(ctx, a.log, a.QuarantineTopic, plans); err != nil {
		return err
	}
	for _, tp := range plans {
		if err := a.topic(ctx, tp); err != nil {
			return err
		}
	}
	return a.rollups(ctx, plans)
}

// open opens the stores. One that cannot be is a problem, not an error: the other one is audited all the same.
func (a *audit) open(ctx context.Context) {
	if c := a.ClickHouse; c != nil {
		s, err := newClickHouse(*c)
		a.opened(s, err, StoreInfo{Store: Hot, Where: c.URL, Group: c.Group})
	}
	if c := a.Lake; c != nil {
		s, err := openLake(ctx, *c)
		a.opened(s, err, StoreInfo{Store: Lake, Where: c.CatalogURI, Group: c.Group})
	}
}

func (a *audit) opened(s store, err error, info StoreInfo) {
	if err != nil {
		a.cert.problem("%s: %v", info.Store, err)
		s = nil
	} else {
		info = s.info()
	}
	a.stores, a.groups = append(a.stores, s), append(a.groups, info.Group)
	a.cert.Stores = append(a.cert.Stores, info)
}

func (a *audit) asked(topics []Topic) {
	q := Asked{Ranges: a.Ranges, Tenant: a.Tenant, Window: a.Window.String(), Quick: a.Quick, Ledger: !a.SkipLedger}
	if !a.From.IsZero() {
		t := a.From.UTC()
		q.From = &t
	}
	if !a.To.IsZero() {
		t := a.To.UTC()
		q.To = &t
	}
	for _, t := range topics {
		q.Topics = append(q.Topics, t.Name)
	}
	a.cert.Asked = q
}

func (a *audit) tell(p Progress) {
	if a.Progress != nil {
		p.Events, p.Rows = a.events+p.Events, a.rows
		a.Progress(p)
	}
}

// topicAudit is the audit of one topic.
type topicAudit struct {
	*audit
	plan    *topicPlan
	table   *columns.Table
	ok      []bool            // by store: it can be audited
	ledgers [][]ledger.Entry  // by store; nil: not to be compared
	results []PartitionResult // by partition of the plan
}

func (a *audit) topic(ctx context.Context, tp *topicPlan) error {
	t := &topicAudit{audit: a, plan: tp, table: columns.ForSignal(tp.Signal), ledgers: make([][]ledger.Entry, len(a.stores))}
	for _, s := range a.stores {
		t.ok = append(t.ok, s != nil)
	}
	for i := range t.stores {
		t.attempt(ctx, i, "ledger", t.readLedger)
	}
	for _, pl := range tp.partitions {
		t.results = append(t.results, t.begin(pl))
	}
	var err error
	if a.Quick {
		err = t.quick(ctx)
	} else {
		err = t.exact(ctx, tp.partitions, true, t.results)
	}
	if err != nil {
		return err
	}
	for i := range t.stores {
		t.attempt(ctx, i, "rows beyond Kafka's retention", t.beyondRetention)
		if len(a.Ranges) == 0 {
			t.attempt(ctx, i, "rows beyond the log", t.strangers)
		}
		t.attempt(ctx, i, "rows that differ", t.nameColumns)
	}
	t.report.altered = nil
	t.cert.Partitions = append(t.cert.Partitions, t.results...)
	return ctx.Err()
}

// attempt does something with store i unless it has failed; a failure is a problem, and the end of that store for this topic.
func (t *topicAudit) attempt(ctx context.Context, i int, what string, do func(context.Context, int) error) {
	if !t.ok[i] || ctx.Err() != nil {
		return
	}
	t.tell(Progress{Step: "reading " + t.cert.Stores[i].Store + ": " + what, Topic: t.plan.Name})
	if err := do(ctx, i); err != nil {
		t.ok[i] = false
		t.cert.problem("%s, topic %s, %s: %v", t.cert.Stores[i].Store, t.plan.Name, what, err)
	}
}

// begin makes a partition's result with those of the stores.
func (t *topicAudit) begin(pl *plan) PartitionResult {
	r := PartitionResult{
		Topic: pl.Topic, Partition: pl.Partition, First: pl.First, Last: pl.Last, LogStart: pl.start, LogEnd: pl.end, WindowFrom: pl.windowFrom, Stores: []StoreResult{},
	}
	for i := range t.stores {
		s := StoreResult{Store: t.cert.Stores[i].Store, First: pl.First, Last: pl.lasts[i]}
		if t.ledgers[i] != nil {
			s.Ledger = &LedgerResult{}
		}
		r.Stores = append(r.Stores, s)
	}
	return r
}

func (t *topicAudit) readLedger(ctx context.Context, i int) error {
	if t.SkipLedger {
		return nil
	}
	var ranges []Range
	for _, pl := range t.plan.partitions {
		r := Range{pl.Topic, pl.Partition, pl.First, pl.lasts[i]}
		if pl.gone.Last >= pl.gone.First {
			r.First, r.Last = pl.gone.First, max(r.Last, pl.gone.Last)
		}
		if r.Last >= r.First {
			ranges = append(ranges, r)
		}
	}
	entries, err := t.stores[i].ledger(ctx, t.plan.Name, ranges)
	if errors.Is(err, errNoLedger) {
		t.cert.problem("%s: %v: audit without it (--no-ledger), or see why the exporter has not made it", t.cert.Stores[i].Store, err)
		return nil
	}
	if err != nil {
		return err
	}
	t.ledgers[i] = orEmpty(entries)
	return nil
}

// rangesOf store i, without those where there is nothing to compare.
func rangesOf(plans []*plan, i int) []Range {
	var out []Range
	for _, pl := range plans {
		if pl.lasts[i] >= pl.First {
			out = append(out, Range{pl.Topic, pl.Partition, pl.First, pl.lasts[i]})
		}
	}
	return out
}

// load reads rows of store i into a sorter.
func (t *topicAudit) load(ctx context.Context, i int, q query, into *sorter) error {
	told := time.Now()
	return t.stores[i].read(ctx, q, func(rec arrow.RecordBatch, rows []int) error {
		r, err := newTableReader(q.table, rec, q.content)
		if err != nil {
			return err
		}
		for _, n := range rows {
			if err := into.add(r.row(n)); err != nil {
				return err
			}
		}
		t.rows += int64(len(rows))
		if time.Since(told) > time.Second {
			told = time.Now()
			t.tell(Progress{Step: "reading " + t.cert.Stores[i].Store + ": rows", Topic: q.topic})
		}
		return nil
	})
}

// exact compares event by event.
func (t *topicAudit) exact(ctx context.Context, plans []*plan, content bool, results []PartitionResult) error {
	cursors := make([]*rowCursor, len(t.stores))
	for i := range t.stores {
		s := newSorter(t.TempDir)
		defer s.close()
		t.attempt(ctx, i, "rows", func(ctx context.Context, i int) error {
			q := query{table: t.table, topic: t.plan.Name, tenant: t.Tenant, content: content, ranges: rangesOf(plans, i)}
			if err := t.load(ctx, i, q, s); err != nil {
				return err
			}
			var err error
			cursors[i], err = s.rows()
			return err
		})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for n, pl := range plans {
		var joins joinSink
		for i := range t.stores {
			if t.ok[i] {
				joins = append(joins, newJoin(t.expectation(i, &results[n], pl), pl.Topic, cursors[i], t.report))
			}
		}
		if err := t.recount(ctx, pl, content, &results[n], joins); err != nil {
			return err
		}
		for _, j := range joins {
			if err := j.finish(pl.Partition); err != nil {
				return err
			}
			if j.ledger != nil {
				j.ledger.finish()
			}
		}
	}
	return nil
}

// expectation of store i, with its ledger's check.
func (t *topicAudit) expectation(i int, result *PartitionResult, pl *plan) expectation {
	sr := &result.Stores[i]
	x := expectation{store: i, name: sr.Store, result: sr}
	if t.ledgers[i] != nil && sr.Ledger != nil && sr.Last >= sr.First {
		rg := Range{pl.Topic, pl.Partition, sr.First, sr.Last}
		x.ledger = newLedgerCheck(sr.Store, rg, t.ledgers[i], t.Tenant != "", sr.Ledger, t.report)
	}
	return x
}

func (t *topicAudit) recount(ctx context.Context, pl *plan, content bool, result *PartitionResult, s sink) error {
	if pl.Last < pl.First {
		return nil
	}
	before := result.Events
	r := &recount{
		Config: t.Config, plan: pl, quarantine: t.quarantine, groups: t.groups, sink: s, content: content, result: result,
		progress: func(offset, events int64) {
			t.tell(Progress{Step: "counting Kafka", Topic: pl.Topic, Partition: pl.Partition, Offset: offset, Last: pl.Last, Events: events - before})
		},
	}
	if err := r.run(ctx, t.log); err != nil {
		return err
	}
	t.events += result.Events - before
	return nil
}

// joinSink hands what a recount finds to the joins.
type joinSink []*join

func (s joinSink) record(partition int32, offset, events int64, readable bool, away []bool) error {
	for _, j := range s {
		j.record(offset, events, readable, away)
		if !readable {
			if err := j.until(place{partition, offset, 0}); err != nil {
				return err
			}
			j.unreadable(partition, offset, away)
		}
	}
	return nil
}

func (s joinSink) event(e *counted) error {
	for _, j := range s {
		if err := j.event(e); err != nil {
			return err
		}
	}
	return nil
}

// beyondRetention compares, where Kafka has no records any more, the rows of a store with its ledger.
func (t *topicAudit) beyondRetention(ctx context.Context, i int) error {
	var ranges []Range
	gone := map[int32]Range{}
	for _, pl := range t.plan.partitions {
		if pl.gone.Last < pl.gone.First {
			continue
		}
		g := pl.gone
		if !pl.goneSince.IsZero() {
			g.First = pl.start
			for _, e := range t.ledgers[i] {
				if e.Partition == g.Partition && !e.Written.Before(pl.goneSince) {
					g.First = min(g.First, e.First)
				}
			}
		}
		if t.ledgers[i] == nil || t.Tenant != "" {
			t.cert.problem("%s, %s: Kafka's retention has removed it, and there is no ledger to compare the rows with", t.cert.Stores[i].Store, pl.gone)
			continue
		}
		t.cert.problem("%s, %s: Kafka's retention has removed it; the rows were compared with the ledger only", t.cert.Stores[i].Store, g)
		if g.Last >= g.First {
			ranges = append(ranges, g)
			gone[g.Partition] = g
		}
	}
	if len(ranges) == 0 {
		return nil
	}
	s := newSorter(t.TempDir)
	defer s.close()
	if err := t.load(ctx, i, query{table: t.table, topic: t.plan.Name, ranges: ranges}, s); err != nil {
		return err
	}
	cursor, err := s.rows()
	if err != nil {
		return err
	}
	for n, pl := range t.plan.partitions {
		if g, ok := gone[pl.Partition]; ok {
			if err := t.rowsAgainstLedger(i, g, cursor, &t.results[n].Stores[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// strangers finds rows that lie where Kafka has nothing: beyond the end of a partition, or in a partition that there is not.
func (t *topicAudit) strangers(ctx context.Context, i int) error {
	q := query{table: t.table, topic: t.plan.Name, tenant: t.Tenant, strangers: t.plan.count}
	for _, pl := range t.plan.partitions {
		q.ranges = append(q.ranges, Range{pl.Topic, pl.Partition, pl.end, beyond})
	}
	s := newSorter(t.TempDir)
	defer s.close()
	if err := t.load(ctx, i, q, s); err != nil {
		return err
	}
	cursor, err := s.rows()
	if err != nil {
		return err
	}
	ends, err := t.log.admin.ListEndOffsets(ctx, t.plan.Name) // after the rows were read: what came meanwhile is no stranger
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("end of the log: %w", err)
	}
	x := expectation{store: i, name: t.cert.Stores[i].Store}
	j := newJoin(x, t.plan.Name, cursor, t.report)
	for {
		r, ok := cursor.peek()
		if !ok {
			j.ends()
			return nil
		}
		if err := cursor.next(); err != nil {
			return err
		}
		if end, known := ends.Lookup(t.plan.Name, r.partition); known && r.offset < end.Offset {
			continue
		}
		j.result = t.resultOf(i, r.partition)
		j.differs(Foreign, r, nil, "Kafka's log has no such place")
	}
}

// resultOf a partition, also one that Kafka does not have.
func (t *topicAudit) resultOf(i int, partition int32) *StoreResult {
	n := slices.IndexFunc(t.results, func(r PartitionResult) bool { return r.Partition == partition })
	if n < 0 {
		n = len(t.results)
		pl := &plan{Range: Range{t.plan.Name, partition, 0, -1}, lasts: make([]int64, len(t.stores))}
		for s := range pl.lasts {
			pl.lasts[s] = -1
		}
		t.results = append(t.results, t.begin(pl))
	}
	return &t.results[n].Stores[i]
}

// nameColumns finds which columns of altered rows differ.
func (t *topicAudit) nameColumns(ctx context.Context, i int) error {
	q := query{table: t.table, topic: t.plan.Name, content: true}
	byPlace := map[place]alteredRow{}
	for _, r := range t.report.altered {
		if r.store != i {
			continue
		}
		d := t.cert.Differences[r.difference]
		p := place{d.Partition, d.Offset, d.Index}
		byPlace[p] = r
		q.places = append(q.places, p)
		q.ranges = append(q.ranges, Range{d.Topic, d.Partition, d.Offset, d.Offset})
	}
	if len(q.places) == 0 {
		return nil
	}
	return t.stores[i].read(ctx, q, func(rec arrow.RecordBatch, rows []int) error {
		r, err := newTableReader(q.table, rec, true)
		if err != nil {
			return err
		}
		for _, n := range rows {
			a := byPlace[r.row(n).place()]
			d := &t.cert.Differences[a.difference]
			for c, cell := range r.cells(n) {
				if name := q.table.Columns[c].Name; !slices.Equal(cell, a.cells[c]) && !slices.Contains(d.Columns, name) {
					d.Columns = append(d.Columns, name)
				}
			}
		}
		return nil
	})
}
