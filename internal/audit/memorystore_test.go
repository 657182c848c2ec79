package audit

import (
	"context"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// memoryStore is a store of Arrow batches, by table.
type memoryStore struct {
	info    certificate.StoreInfo
	batches map[string][]arrow.RecordBatch
	entries []ledger.Entry
}

func newMemoryStore(name, group string) *memoryStore {
	return &memoryStore{info: certificate.StoreInfo{Store: name, Where: "memory", Group: group}, batches: map[string][]arrow.RecordBatch{}}
}

func (m *memoryStore) Info() certificate.StoreInfo { return m.info }
func (m *memoryStore) Close()                      {}

func (m *memoryStore) Read(_ context.Context, q stored.Query, f stored.RowsFunc) error {
	for _, rec := range m.batches[q.Table.Name] {
		r, err := stored.NewReader(q.Table, rec, false)
		if err != nil {
			return err
		}
		tenants := rec.Column(rec.Schema().FieldIndices("tenant_id")[0])
		var rows []int
		for i := range int(rec.NumRows()) {
			p := r.Row(i).Place()
			within := slices.ContainsFunc(q.Ranges, func(rg certificate.Range) bool {
				return rg.Partition == p.Partition && p.Offset >= rg.First && p.Offset <= rg.Last
			})
			within = within || q.Strangers > 0 && p.Partition >= q.Strangers
			tenant, _ := value.Text(tenants, i)
			if within && (q.Tenant == "" || q.Tenant == tenant) && (q.Places == nil || slices.Contains(q.Places, p)) {
				rows = append(rows, i)
			}
		}
		if len(rows) > 0 {
			if err := f(rec, rows); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memoryStore) Sums(ctx context.Context, q stored.Query, b stored.Buckets) (map[stored.Bucket]certificate.Sums, error) {
	out := map[stored.Bucket]certificate.Sums{}
	err := m.Read(ctx, q, func(rec arrow.RecordBatch, rows []int) error {
		r, err := stored.NewReader(q.Table, rec, false)
		if err != nil {
			return err
		}
		for _, i := range rows {
			row := r.Row(i)
			s := out[b.Of(row.Partition, row.Offset)]
			stored.Add(&s, row)
			out[b.Of(row.Partition, row.Offset)] = s
		}
		return nil
	})
	return out, err
}

func (m *memoryStore) Ledger(_ context.Context, topic string, ranges []certificate.Range) (out []ledger.Entry, err error) {
	for _, e := range m.entries {
		if e.Topic == topic && slices.ContainsFunc(ranges, func(r certificate.Range) bool {
			return r.Partition == e.Partition && e.Last >= r.First && e.First <= r.Last
		}) {
			out = append(out, e)
		}
	}
	return out, nil
}
