package stored

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
)

// Received asks for the rows of a table whose requests the gateways read in a time, From included and To not, whatever topic they came by.
type Received struct {
	Table    *columns.Table
	Tenant   string // empty: all
	From, To time.Time
}

// ReadReceived calls f for batches of the files that may hold rows of q, all columns of the table's definition, and with the numbers of those that q asks
// for, which may be none. planned is told before how many rows the files have. A table that does not exist has no rows.
func (l *Lake) ReadReceived(ctx context.Context, q Received, planned func(rows int64), f RowsFunc) error {
	tbl, err := l.load(ctx, q.Table.Name)
	if errors.Is(err, catalog.ErrNoSuchTable) {
		return nil
	}
	if err != nil {
		return err
	}
	var names []string
	for _, c := range q.Table.Columns {
		names = append(names, c.Name)
		if c.Kind == columns.Time {
			names = append(names, c.Name+columns.NanosSuffix)
		}
	}
	// A bound is whole microseconds in the lake; rows are chosen to the nanosecond.
	at := iceberg.Reference(receivedColumn)
	within := iceberg.NewAnd(iceberg.GreaterThanEqual(at, iceberg.Timestamp(q.From.UnixMicro())), iceberg.LessThanEqual(at, iceberg.Timestamp(q.To.UnixMicro())))
	if q.Tenant != "" {
		within = iceberg.NewAnd(within, iceberg.EqualTo(iceberg.Reference("tenant_id"), q.Tenant))
	}
	err = scan(ctx, tbl, names, within, planned, func(rec arrow.RecordBatch) error {
		rows, err := q.selected(rec)
		if err != nil {
			return err
		}
		return f(rec, rows)
	})
	if err != nil {
		return fmt.Errorf("lake table %s.%s: %w", l.config.Namespace, q.Table.Name, err)
	}
	return nil
}

// selected are the rows of rec that q asks for.
func (q *Received) selected(rec arrow.RecordBatch) ([]int, error) {
	times, nanos, tenants := column(rec, receivedColumn), column(rec, receivedColumn+columns.NanosSuffix), column(rec, "tenant_id")
	if times == nil || nanos == nil || tenants == nil {
		return nil, fmt.Errorf("has no column %s, %s%s or tenant_id", receivedColumn, receivedColumn, columns.NanosSuffix)
	}
	from, to := q.From.UnixNano(), q.To.UnixNano()
	rows := make([]int, 0, rec.NumRows())
	for i := range int(rec.NumRows()) {
		at, ok := value.Time(times, i)
		rest, okNanos := value.Int(nanos, i)
		tenant, okTenant := value.Text(tenants, i)
		if !ok || !okNanos || !okTenant {
			return nil, fmt.Errorf("%s and tenant_id have types %s, %s, %s, which cannot be read", receivedColumn, times.DataType(), nanos.DataType(), tenants.DataType())
		}
		if at += rest; at >= from && at < to && (q.Tenant == "" || tenant == q.Tenant) {
			rows = append(rows, i)
		}
	}
	return rows, nil
}
