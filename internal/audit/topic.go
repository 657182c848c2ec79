package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// topicAudit is the audit of one topic.
type topicAudit struct {
	*audit
	plan    *topicPlan
	table   *columns.Table
	ok      []bool                        // by store: it can be audited
	ledgers [][]ledger.Entry              // by store; nil: not to be compared
	results []certificate.PartitionResult // by partition of the plan
	copies  *certificate.SignalCopies     // of the topic's signal; nil: they are counted already
}

func (a *audit) topic(ctx context.Context, tp *topicPlan) error {
	t := &topicAudit{audit: a, plan: tp, table: columns.ForSignal(tp.Signal), ledgers: make([][]ledger.Entry, len(a.stores)), copies: a.copiesOf(tp.Signal)}
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
	t.formerNotes()
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
		t.cert.Problem("%s, topic %s, %s: %v", t.cert.Stores[i].Store, t.plan.Name, what, err)
	}
}

// begin makes a partition's result with those of the stores.
func (t *topicAudit) begin(pl *plan) certificate.PartitionResult {
	r := certificate.PartitionResult{
		Topic: pl.Topic, Partition: pl.Partition, First: pl.First, Last: pl.Last, LogStart: pl.start, LogEnd: pl.end, WindowFrom: pl.windowFrom, Stores: []certificate.StoreResult{},
	}
	for i := range t.stores {
		s := certificate.StoreResult{Store: t.cert.Stores[i].Store, First: pl.First, Last: pl.lasts[i]}
		if t.ledgers[i] != nil {
			s.Ledger = &certificate.LedgerResult{}
		}
		r.Stores = append(r.Stores, s)
	}
	return r
}

func (t *topicAudit) readLedger(ctx context.Context, i int) error {
	if t.SkipLedger {
		return nil
	}
	var ranges []certificate.Range
	for _, pl := range t.plan.partitions {
		r := certificate.Range{Topic: pl.Topic, Partition: pl.Partition, First: pl.First, Last: pl.lasts[i]}
		if pl.gone.Last >= pl.gone.First {
			r.First, r.Last = pl.gone.First, max(r.Last, pl.gone.Last)
		}
		if r.Last >= r.First {
			ranges = append(ranges, r)
		}
	}
	entries, err := t.stores[i].Ledger(ctx, t.plan.Name, ranges)
	if errors.Is(err, stored.ErrNoLedger) {
		t.cert.Problem("%s: %v: audit without it (--no-ledger), or see why the exporter has not made it", t.cert.Stores[i].Store, err)
		return nil
	}
	if err != nil {
		return err
	}
	// Entries of a topic that had the name before speak of other records.
	former := func(e ledger.Entry) bool {
		return e.TopicID != (block.TopicID{}) && t.plan.id != (block.TopicID{}) && e.TopicID != t.plan.id
	}
	t.ledgers[i] = slices.DeleteFunc(append([]ledger.Entry{}, entries...), former) // not nil: there is a ledger
	return nil
}

// rangesOf store i, without those where there is nothing to compare.
func rangesOf(plans []*plan, i int) []certificate.Range {
	var out []certificate.Range
	for _, pl := range plans {
		if pl.lasts[i] >= pl.First {
			out = append(out, certificate.Range{Topic: pl.Topic, Partition: pl.Partition, First: pl.First, Last: pl.lasts[i]})
		}
	}
	return out
}

// load reads rows of store i into a sorter.
func (t *topicAudit) load(ctx context.Context, i int, q stored.Query, into *stored.Sorter) error {
	told := time.Now()
	return t.stores[i].Read(ctx, q, func(rec arrow.RecordBatch, rows []int) error {
		r, err := stored.NewReader(q.Table, rec, q.Content)
		if err != nil {
			return err
		}
		for _, n := range rows {
			if err := into.Add(r.Row(n)); err != nil {
				return err
			}
		}
		t.rows += int64(len(rows))
		if time.Since(told) > time.Second {
			told = time.Now()
			t.tell(Progress{Step: "reading " + t.cert.Stores[i].Store + ": rows", Topic: q.Topic})
		}
		return nil
	})
}

// exact compares event by event.
func (t *topicAudit) exact(ctx context.Context, plans []*plan, content bool, results []certificate.PartitionResult) error {
	cursors := make([]*stored.Cursor, len(t.stores))
	for i := range t.stores {
		s := stored.NewSorter(t.TempDir)
		defer s.Close()
		t.attempt(ctx, i, "rows", func(ctx context.Context, i int) error {
			q := stored.Query{Table: t.table, Topic: t.plan.Name, Tenant: t.Tenant, Content: content, Ranges: rangesOf(plans, i)}
			if err := t.load(ctx, i, q, s); err != nil {
				return err
			}
			var err error
			cursors[i], err = s.Rows()
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
				j := newJoin(t.expectation(i, &results[n], pl), pl.Topic, cursors[i], t.report)
				if t.Missing != nil && content && j.name == certificate.Hot {
					j.lost, j.missing = map[*decoded]map[int32]bool{}, t.Missing
				}
				joins = append(joins, j)
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
func (t *topicAudit) expectation(i int, result *certificate.PartitionResult, pl *plan) expectation {
	sr := &result.Stores[i]
	x := expectation{store: i, name: sr.Store, result: sr, former: t.plan.former, erased: t.erased}
	if t.ledgers[i] != nil && sr.Ledger != nil && sr.Last >= sr.First {
		rg := certificate.Range{Topic: pl.Topic, Partition: pl.Partition, First: sr.First, Last: sr.Last}
		x.ledger = newLedgerCheck(sr.Store, rg, t.ledgers[i], t.Tenant != "", sr.Ledger, t.report)
		x.ledger.finished = sr.Last == pl.finished[i]
	}
	return x
}

func (t *topicAudit) recount(ctx context.Context, pl *plan, content bool, result *certificate.PartitionResult, s sink) error {
	if pl.Last < pl.First {
		return nil
	}
	before := result.Events
	r := &recount{
		Config: t.Config, plan: pl, quarantine: t.quarantine, groups: t.groups, sink: s, content: content, result: result, copies: t.copies,
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

func (s joinSink) record(d *decoded) error {
	for _, j := range s {
		j.record(d)
		if !d.readable {
			if err := j.until(stored.Place{Partition: d.origin.Partition, Offset: d.offset, Index: 0}); err != nil {
				return err
			}
			j.unreadable(d)
		}
	}
	return nil
}

func (s joinSink) chunk(records []*decoded) error {
	for _, j := range s {
		if err := j.chunk(records); err != nil {
			return err
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
	var ranges []certificate.Range
	gone := map[int32]certificate.Range{}
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
			t.cert.Problem("%s, %s: Kafka's retention has removed it, and there is no ledger to compare the rows with", t.cert.Stores[i].Store, pl.gone)
			continue
		}
		t.cert.Problem("%s, %s: Kafka's retention has removed it; the rows were compared with the ledger only", t.cert.Stores[i].Store, g)
		if g.Last >= g.First {
			ranges = append(ranges, g)
			gone[g.Partition] = g
		}
	}
	if len(ranges) == 0 {
		return nil
	}
	s := stored.NewSorter(t.TempDir)
	defer s.Close()
	if err := t.load(ctx, i, stored.Query{Table: t.table, Topic: t.plan.Name, Ranges: ranges}, s); err != nil {
		return err
	}
	cursor, err := s.Rows()
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
	q := stored.Query{Table: t.table, Topic: t.plan.Name, Tenant: t.Tenant, Strangers: t.plan.count}
	for _, pl := range t.plan.partitions {
		q.Ranges = append(q.Ranges, certificate.Range{Topic: pl.Topic, Partition: pl.Partition, First: pl.end, Last: stored.Beyond})
	}
	s := stored.NewSorter(t.TempDir)
	defer s.Close()
	if err := t.load(ctx, i, q, s); err != nil {
		return err
	}
	cursor, err := s.Rows()
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
	x := expectation{store: i, name: t.cert.Stores[i].Store, former: t.plan.former}
	j := newJoin(x, t.plan.Name, cursor, t.report)
	for {
		r, ok := cursor.Peek()
		if !ok {
			j.ends()
			return nil
		}
		if err := cursor.Next(); err != nil {
			return err
		}
		if end, known := ends.Lookup(t.plan.Name, r.Partition); known && r.Offset < end.Offset {
			continue
		}
		j.result = t.resultOf(i, r.Partition)
		if j.former.has(r) {
			j.result.Former++
			continue
		}
		j.differs(certificate.Foreign, r, nil, "Kafka's log has no such place")
	}
}

// resultOf a partition, also one that Kafka does not have.
func (t *topicAudit) resultOf(i int, partition int32) *certificate.StoreResult {
	n := slices.IndexFunc(t.results, func(r certificate.PartitionResult) bool { return r.Partition == partition })
	if n < 0 {
		n = len(t.results)
		pl := &plan{Range: certificate.Range{Topic: t.plan.Name, Partition: partition, First: 0, Last: -1}, lasts: make([]int64, len(t.stores)), finished: make([]int64, len(t.stores))}
		for s := range pl.lasts {
			pl.lasts[s] = -1
		}
		t.results = append(t.results, t.begin(pl))
	}
	return &t.results[n].Stores[i]
}

// nameColumns finds which columns of altered rows differ.
func (t *topicAudit) nameColumns(ctx context.Context, i int) error {
	q := stored.Query{Table: t.table, Topic: t.plan.Name, Content: true}
	byPlace := map[stored.Place]alteredRow{}
	for _, r := range t.report.altered {
		if r.store != i {
			continue
		}
		d := t.cert.Differences[r.difference]
		p := stored.Place{Partition: d.Partition, Offset: d.Offset, Index: d.Index}
		byPlace[p] = r
		q.Places = append(q.Places, p)
		q.Ranges = append(q.Ranges, certificate.Range{Topic: d.Topic, Partition: d.Partition, First: d.Offset, Last: d.Offset})
	}
	if len(q.Places) == 0 {
		return nil
	}
	return t.stores[i].Read(ctx, q, func(rec arrow.RecordBatch, rows []int) error {
		r, err := stored.NewReader(q.Table, rec, true)
		if err != nil {
			return err
		}
		for _, n := range rows {
			a := byPlace[r.Row(n).Place()]
			d := &t.cert.Differences[a.difference]
			for c, cell := range r.Cells(n) {
				if name := q.Table.Columns[c].Name; !slices.Equal(cell, a.cells[c]) && !slices.Contains(d.Columns, name) {
					d.Columns = append(d.Columns, name)
				}
			}
		}
		return nil
	})
}
