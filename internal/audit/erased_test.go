package audit

import (
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/columns"
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
