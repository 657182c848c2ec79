package audit

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// refuse produces what the receiver does with events that a store names.
func (r *rig) refuse(rec *kgo.Record, value []byte, p partOf, group string) {
	r.produce(signal.QuarantineTopic, 0, value, envelope.HeaderRequest, p.header(),
		envelope.HeaderQuarantineCode, "refused", envelope.HeaderOriginTopic, rec.Topic, envelope.HeaderOriginGroup, group,
		envelope.HeaderOriginPartition, strconv.Itoa(int(rec.Partition)), envelope.HeaderOriginOffset, strconv.FormatInt(rec.Offset, 10))
}

// Scenario: a store refuses two events of a record; the receiver puts just these into quarantine. Another record of the quarantine says that it holds an
// event, and holds another one.
// Guarantees: the events are expected in the other store only; a record that does not hold what it says explains nothing.
func TestEventsThatAStoreRefusedAreExpectedInQuarantineOnly(t *testing.T) {
	r := newRig(t, nil)
	rec := r.produce(logsTopic, 0, logsOf(t, body("0"), body("1"), body("2"), body("3")))
	d, ok := r.read(signal.Logs, rec)
	require.True(t, ok)
	r.refuse(rec, logsOf(t, body("1"), body("3")), partOf{digest: d.events[0].digest, indexes: []int{1, 3}}, DefaultHotGroup)
	r.produce(logsTopic, 0, logsOf(t, body("1"))) // a copy: the refused event has occurred
	r.store(quarantinedRecord{rec: rec, group: DefaultHotGroup, events: []int{1, 3}})
	c := r.audit()
	require.Equal(t, certificate.Equal, c.Verdict, shown(c))
	p := c.Partitions[0]
	require.Equal(t, []int64{1, 1}, []int64{p.Quarantined, p.Duplicates})
	require.Equal(t, []int64{0, 2}, []int64{p.Stores[0].QuarantinedRecords, p.Stores[0].QuarantinedEvents})
	require.Equal(t, []int64{2, 4}, []int64{p.Stores[0].Expected.Rows, p.Stores[1].Expected.Rows})

	// A store lacks an event, and what quarantine has of it is another event.
	for _, value := range [][]byte{logsOf(t, body("other")), logsOf(t, body("0"))} {
		r.refuse(rec, value, partOf{digest: [16]byte{1}, indexes: []int{0}}, DefaultHotGroup)
		r.refuse(rec, value, partOf{digest: d.events[0].digest, indexes: []int{2}}, DefaultHotGroup)
	}
	r.memoryHot.batches["logs"] = nil
	c = r.audit()
	require.Equal(t, certificate.Faults{Lost: 2}, totals(c, certificate.Hot).Faults)
}
