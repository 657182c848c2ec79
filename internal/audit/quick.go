package audit

import (
	"context"
	"slices"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// A quick audit compares sums over parts of each partition: counts, ids, and ids bound to places. ClickHouse makes them itself. Parts whose
// sums differ are then audited event by event, without their content.

const (
	bucketOffsets = 1000 // least offsets of a part
	bucketsMax    = 4096 // parts of a partition
)

func (t *topicAudit) quick(ctx context.Context) error {
	b := stored.Buckets{First: map[int32]int64{}, Width: bucketOffsets}
	for _, pl := range t.plan.partitions {
		b.First[pl.Partition] = pl.First
		b.Width = max(b.Width, (pl.Last-pl.First)/bucketsMax+1)
	}
	got := make([]map[stored.Bucket]certificate.Sums, len(t.stores))
	for i := range t.stores {
		t.attempt(ctx, i, "sums", func(ctx context.Context, i int) (err error) {
			got[i], err = t.stores[i].Sums(ctx, stored.Query{Table: t.table, Topic: t.plan.Name, Tenant: t.Tenant, Ranges: rangesOf(t.plan.partitions, i)}, b)
			return err
		})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var suspects []*plan
	for n, pl := range t.plan.partitions {
		var sinks quickSink
		for i := range t.stores {
			if t.ok[i] {
				sinks = append(sinks, &quickSum{expectation: t.expectation(i, &t.results[n], pl), buckets: b, want: map[stored.Bucket]certificate.Sums{}})
			}
		}
		if err := t.recount(ctx, pl, false, &t.results[n], sinks); err != nil {
			return err
		}
		suspect := plan{}
		for _, s := range sinks {
			if s.ledger != nil {
				s.ledger.finish()
			}
			first, last := s.compare(pl, got[s.store])
			if last < first {
				continue
			}
			if suspect.lasts == nil {
				suspect = *pl
				suspect.First, suspect.Last, suspect.lasts = first, last, make([]int64, len(t.stores))
			}
			suspect.First, suspect.Last = min(suspect.First, first), max(suspect.Last, last)
		}
		if suspect.lasts != nil {
			for i := range suspect.lasts {
				suspect.lasts[i] = min(suspect.Last, pl.lasts[i])
			}
			suspects = append(suspects, &suspect)
		}
	}
	return t.suspects(ctx, suspects)
}

// suspects audits parts event by event. Only faults are taken from that: sums and ledgers are those of the whole ranges.
func (t *topicAudit) suspects(ctx context.Context, plans []*plan) error {
	if len(plans) == 0 {
		return nil
	}
	ledgers, events, copies := t.ledgers, t.events, t.copies
	t.ledgers, t.copies = make([][]ledger.Entry, len(t.stores)), nil
	results := make([]certificate.PartitionResult, len(plans))
	for n, pl := range plans {
		p := &planner{Config: t.Config, log: t.log, groups: t.groups, cert: &certificate.Certificate{}}
		if err := p.rewind(ctx, pl); err != nil {
			return err
		}
		results[n] = t.begin(pl)
	}
	err := t.exact(ctx, plans, false, results)
	t.ledgers, t.events, t.copies = ledgers, events, copies
	if err != nil {
		return err
	}
	for n, pl := range plans {
		whole := slices.IndexFunc(t.results, func(r certificate.PartitionResult) bool { return r.Partition == pl.Partition })
		for i := range t.stores {
			t.results[whole].Stores[i].Add(results[n].Stores[i].Faults)
		}
	}
	return nil
}

// quickSum adds up what one store must have.
type quickSum struct {
	expectation
	buckets    stored.Buckets
	want       map[stored.Bucket]certificate.Sums
	unreadable []int64 // offsets that must be in quarantine and are not
}

// compare sets the totals and returns the range of the parts that differ.
func (s *quickSum) compare(pl *plan, got map[stored.Bucket]certificate.Sums) (first, last int64) {
	first, last = pl.Last+1, pl.First-1
	suspect := func(bucket int64) {
		from := pl.First + bucket*s.buckets.Width
		first, last = min(first, from), max(last, min(from+s.buckets.Width-1, pl.Last))
	}
	for key, g := range got {
		if key.Partition != pl.Partition {
			continue
		}
		s.result.Got.Rows += g.Rows
		s.result.Got.IDs += g.IDs
		s.result.Got.Places += g.Places
		if s.want[key] != g {
			suspect(key.Number)
		}
	}
	for key := range s.want {
		if _, ok := got[key]; !ok {
			suspect(key.Number)
		}
	}
	for _, offset := range s.unreadable {
		suspect(s.buckets.Of(pl.Partition, offset).Number)
	}
	return first, last
}

type quickSink []*quickSum

func (s quickSink) record(d *decoded) error {
	for _, q := range s {
		q.record(d)
		if !d.readable && q.within(d.offset) && !d.away[q.store].whole {
			q.unreadable = append(q.unreadable, d.offset)
		}
	}
	return nil
}

func (quickSink) chunk([]*decoded) error { return nil }

func (s quickSink) event(e *counted) error {
	for _, q := range s {
		if q.within(e.Offset) && q.expects(e) {
			key := q.buckets.Of(e.Partition, e.Offset)
			sums := q.want[key]
			stored.Add(&sums, e.Row)
			q.want[key] = sums
		}
	}
	return nil
}
