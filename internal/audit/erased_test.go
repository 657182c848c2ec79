package audit

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Scenario: somebody erased a tenant's first ten records from both stores, as the law wants it, and the eleventh by mistake.
// Guarantees: what was declared is counted as erased, by declaration and store, and shown; the rest is lost. Nothing else that lacks is excused.
func TestDeclaredErasuresExplainRowsThatLack(t *testing.T) {
	r := newRig(t, nil)
	for seed := range uint64(15) {
		r.produce(logsTopic, 0, otlptest.Logs(seed, 3))
	}
	r.produce(logsTopic, 0, otlptest.Logs(50, 3), "tenant", "globex")
	r.store()
	table := columns.ForSignal(signal.Logs).Name
	for _, m := range []*memoryStore{r.memoryHot, r.memoryLake} {
		var kept []arrow.RecordBatch
		for _, b := range m.batches[table] {
			at := b.Column(b.Schema().FieldIndices("kafka_offset")[0])
			for i := range b.NumRows() {
				if n := at.ValueStr(int(i)); len(n) == 2 && n != "10" {
					kept = append(kept, b.NewSlice(i, i+1))
				}
			}
		}
		m.batches[table] = kept
	}
	lawful := erasure.Erasure{
		ID: "1", By: "dpo", At: r.now, Reason: "Art. 17", Stores: []string{certificate.Hot, certificate.Lake}, Tenant: "acme", Signals: []signal.Signal{signal.Logs},
		Ranges: []certificate.Range{{Topic: logsTopic, First: 0, Last: 9}},
	}
	for name, test := range map[string]struct {
		declare func(*erasure.Erasure)
		hot     certificate.Faults
	}{
		"declared":  {func(*erasure.Erasure) {}, certificate.Faults{Lost: 3, Erased: 30}},
		"all of it": {func(e *erasure.Erasure) { e.Ranges = nil }, certificate.Faults{Erased: 33}},
		"by time": {func(e *erasure.Erasure) {
			e.Ranges, e.From, e.To = nil, time.Unix(0, otlptest.Start), time.Unix(0, otlptest.Start).Add(time.Hour)
		}, certificate.Faults{Erased: 33}},
		"before the time":        {func(e *erasure.Erasure) { e.Ranges, e.From = nil, time.Unix(0, otlptest.Start).Add(time.Hour) }, certificate.Faults{Lost: 33}},
		"after the time":         {func(e *erasure.Erasure) { e.Ranges, e.To = nil, time.Unix(0, otlptest.Start) }, certificate.Faults{Lost: 33}},
		"another tenant":         {func(e *erasure.Erasure) { e.Tenant = "globex" }, certificate.Faults{Lost: 33}},
		"another signal":         {func(e *erasure.Erasure) { e.Signals = []signal.Signal{signal.Traces} }, certificate.Faults{Lost: 33}},
		"the other store":        {func(e *erasure.Erasure) { e.Stores = []string{certificate.Lake} }, certificate.Faults{Lost: 33}},
		"before the events came": {func(e *erasure.Erasure) { e.At = r.now.Add(-11 * time.Second) }, certificate.Faults{Lost: 18, Erased: 15}},
	} {
		t.Run(name, func(t *testing.T) {
			e := lawful
			test.declare(&e)
			for _, quick := range []bool{false, true} {
				c := r.audit(func(c *Config) { c.Quick, c.Erased = quick, []erasure.Erasure{e} })
				require.Equal(t, test.hot, totals(c, certificate.Hot).Faults)
				require.Len(t, c.Erasures, 1)
				require.Equal(t, test.hot.Erased, c.Erasures[0].Events[certificate.Hot])
				require.Equal(t, "Art. 17", c.Erasures[0].Reason)
				want := certificate.Equal
				if test.hot.Lost > 0 {
					want = certificate.Different
				}
				require.Equal(t, want, c.Verdict)
				require.Empty(t, c.LedgerFaults, "the ledgers tell what was stored, and stay")
			}
		})
	}
}

// Scenario: a person's three events are erased from both stores and named; then also events that nobody named lack. Later Kafka's retention removes their records.
// Guarantees: exactly the named events count as erased; each other one that lacks is lost. Beyond retention rows and id_sum of a block must be those of the ledger without the named
// events, to the last one.
func TestErasedEventsAreExplainedByName(t *testing.T) {
	r := newRig(t, nil)
	for seed := range uint64(15) {
		r.produce(logsTopic, 0, otlptest.Logs(seed, 3))
	}
	r.store()
	table := columns.ForSignal(signal.Logs).Name
	named := erasure.Names{}
	// at looks at the rows of these places, offset and index, in both stores: it takes them out, or names their events, or both.
	at := func(erase, name bool, places ...string) {
		for _, m := range []*memoryStore{r.memoryHot, r.memoryLake} {
			var kept []arrow.RecordBatch
			for _, b := range m.batches[table] {
				text := func(column string, i int64) string {
					return b.Column(b.Schema().FieldIndices(column)[0]).ValueStr(int(i))
				}
				for i := range b.NumRows() {
					here := slices.Contains(places, text("kafka_offset", i)+"#"+text("event_index", i))
					if !here || !erase {
						kept = append(kept, b.NewSlice(i, i+1))
					}
					if here && name {
						offset, err := strconv.ParseInt(text("kafka_offset", i), 10, 64)
						require.NoError(t, err)
						id := b.Column(b.Schema().FieldIndices("event_id")[0]).(*array.FixedSizeBinary).Value(int(i))
						named.Add(erasure.Record{Topic: logsTopic, Offset: offset}, ledger.IDSum(id))
					}
				}
			}
			m.batches[table] = kept
		}
	}
	e := erasure.Erasure{
		ID: "1", By: "dpo", At: r.now, Reason: "Art. 17", Stores: []string{certificate.Hot, certificate.Lake}, Tenant: "acme", Signals: signal.All[:], Attribute: "user.id",
		Named: map[string]erasure.Names{certificate.Hot: named, certificate.Lake: named},
	}
	check := func(want certificate.Faults, ledgerFaults int, more ...func(*Config)) *certificate.Certificate {
		t.Helper()
		var c *certificate.Certificate
		for _, quick := range []bool{false, true} {
			c = r.audit(append(more, func(c *Config) { c.Quick, c.Erased = quick, []erasure.Erasure{e} })...)
			for _, store := range []string{certificate.Hot, certificate.Lake} {
				require.Equal(t, want, totals(c, store).Faults, shown(c))
			}
			require.Len(t, c.LedgerFaults, ledgerFaults, shown(c))
			require.Equal(t, want.Erased, c.Erasures[0].Events[certificate.Hot])
			require.Equal(t, "user.id", c.Erasures[0].Attribute)
		}
		return c
	}
	at(true, true, "4#1", "4#2", "9#0")
	require.Equal(t, 3, named.Events())
	require.Equal(t, certificate.Equal, check(certificate.Faults{Erased: 3}, 0).Verdict)

	id := named[erasure.Record{Topic: logsTopic, Offset: 9}][0]
	named[erasure.Record{Topic: logsTopic, Offset: 9}][0] ^= 1 << 40
	check(certificate.Faults{Erased: 2, Lost: 1}, 0)
	named[erasure.Record{Topic: logsTopic, Offset: 9}][0] = id
	named.Add(erasure.Record{Topic: logsTopic, Offset: 12}, 7) // never was
	check(certificate.Faults{Erased: 3}, 0)
	delete(named, erasure.Record{Topic: logsTopic, Offset: 12})
	e.Tenant = "globex"
	check(certificate.Faults{Lost: 3}, 0)
	e.Tenant = "acme"

	offsets := kadm.Offsets{}
	offsets.AddOffset(logsTopic, 0, 10, -1)
	_, err := r.admin.DeleteRecords(t.Context(), offsets)
	require.NoError(t, err)
	all := func(c *Config) { c.Ranges = []certificate.Range{{Topic: logsTopic, Last: 14}} }
	at(false, true, "3#0") // it is named, and was brought back
	require.Equal(t, certificate.Incomplete, check(certificate.Faults{Erased: 3}, 0, all).Verdict, "it was compared with the ledger only")
	named[erasure.Record{Topic: logsTopic, Offset: 9}][0] ^= 1 << 40
	check(certificate.Faults{Erased: 3}, 2, all) // one in each store
	named[erasure.Record{Topic: logsTopic, Offset: 9}][0] ^= 1 << 40
	at(true, false, "4#0")
	check(certificate.Faults{Erased: 3}, 2, all)
}
