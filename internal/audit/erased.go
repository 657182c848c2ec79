package audit

import (
	"slices"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// erasures explain rows that are missing because somebody declared that they were erased, and count them in the certificate.
type erasures struct {
	declared []erasure.Erasure
	cert     *certificate.Certificate
}

func newErasures(c *certificate.Certificate, declared []erasure.Erasure) *erasures {
	for _, e := range declared {
		events := map[string]int64{}
		for _, s := range e.Stores {
			events[s] = 0
		}
		c.Erasures = append(c.Erasures, certificate.ErasureResult{ID: e.ID, By: e.By, At: e.At, Reason: e.Reason, Tenant: e.Tenant, Attribute: e.Attribute, Events: events})
	}
	return &erasures{declared, c}
}

// explain tells whether an erasure covers an event that a store lacks, and counts it there.
func (x *erasures) explain(store string, e *counted) bool {
	for i := range x.declared {
		if x.declared[i].Covers(erasure.Event{
			Store: store, Tenant: e.record.origin.Tenant, Signal: e.record.data.signal, Topic: e.record.origin.Topic,
			Partition: e.Partition, Offset: e.Offset, ID: ledger.IDSum(e.ID[:]), Time: e.time, Appended: e.record.origin.Appended,
		}) {
			x.cert.Erasures[i].Events[store]++
			return true
		}
	}
	return false
}

// might tells whether an erasure may cover rows of a block whose events Kafka no longer has.
func (x *erasures) might(store string, e ledger.Entry) bool {
	for i := range x.declared {
		if x.declared[i].Might(store, e.Signal, nameOf(e), e.Written) {
			return true
		}
	}
	return false
}

// within tells whether a range holds another.
func within(of, r certificate.Range) bool {
	return r.Topic == of.Topic && r.Partition == of.Partition && r.First >= of.First && r.Last <= of.Last
}

// namedEvent is one of a partition that a declaration names.
type namedEvent struct {
	offset int64
	id     uint64
}

// named are the events of a range that declarations name, of a store, with the number of one of these declarations.
func (x *erasures) named(store string, rg certificate.Range) map[namedEvent]int {
	out := map[namedEvent]int{}
	for i := range x.declared {
		d := &x.declared[i]
		if !slices.Contains(d.Stores, store) {
			continue
		}
		for r, ids := range d.Named[store] {
			at := certificate.Range{Topic: r.Topic, Partition: r.Partition, First: r.Offset, Last: r.Offset}
			if !within(rg, at) || len(d.Ranges) > 0 && !slices.ContainsFunc(d.Ranges, func(g certificate.Range) bool { return within(g, at) }) {
				continue
			}
			for _, id := range ids {
				out[namedEvent{r.Offset, id}] = i
			}
		}
	}
	return out
}
