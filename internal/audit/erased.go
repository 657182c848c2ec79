package audit

import (
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
		c.Erasures = append(c.Erasures, certificate.ErasureResult{ID: e.ID, By: e.By, At: e.At, Reason: e.Reason, Tenant: e.Tenant, Events: events})
	}
	return &erasures{declared, c}
}

// explain tells whether an erasure covers an event that a store lacks, and counts it there.
func (x *erasures) explain(store string, e *counted) bool {
	for i := range x.declared {
		if x.declared[i].Covers(erasure.Event{
			Store: store, Tenant: e.record.origin.Tenant, Signal: e.record.data.signal, Topic: e.record.origin.Topic,
			Partition: e.Partition, Offset: e.Offset, Time: e.time, Appended: e.record.origin.Appended,
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
