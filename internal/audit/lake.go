package audit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	_ "github.com/apache/iceberg-go/catalog/glue"
	_ "github.com/apache/iceberg-go/catalog/rest"
	sqlcat "github.com/apache/iceberg-go/catalog/sql"
	_ "github.com/apache/iceberg-go/io/gocloud/s3"
	"github.com/apache/iceberg-go/table"
	"github.com/uptrace/bun/driver/sqliteshim"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// lakeBatchRows bounds the rows of one Arrow batch of a data file.
const lakeBatchRows = 8192

// lake asks the Iceberg tables.
type lake struct {
	config  LakeConfig
	catalog catalog.Catalog
}

func openLake(ctx context.Context, c LakeConfig) (*lake, error) {
	p := iceberg.Properties{}
	for k, v := range c.Properties {
		p[k] = v
	}
	p["type"], p["uri"] = c.CatalogType, c.CatalogURI
	if c.Warehouse != "" {
		p["warehouse"] = c.Warehouse
	}
	if c.CatalogType == "sql" {
		p["uri"] = sqliteURI(c.CatalogURI)
		p[sqlcat.DriverKey] = sqliteshim.ShimName
		p[sqlcat.DialectKey] = string(sqlcat.SQLite)
	}
	cat, err := catalog.Load(ctx, c.CatalogName, p)
	if err != nil {
		return nil, fmt.Errorf("lake catalog %s (%s) at %s: %w", c.CatalogName, c.CatalogType, c.CatalogURI, err)
	}
	return &lake{config: c, catalog: cat}, nil
}

// sqliteURI lets the file be read while others write to it.
func sqliteURI(uri string) string {
	if strings.Contains(uri, "_pragma") {
		return uri
	}
	separator := "?"
	if strings.Contains(uri, "?") {
		separator = "&"
	}
	return uri + separator + url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)"}}.Encode()
}

func (l *lake) info() StoreInfo {
	return StoreInfo{Store: Lake, Where: l.config.CatalogType + " catalog " + l.config.CatalogURI + " namespace " + l.config.Namespace, Group: l.config.Group}
}

func (l *lake) close() {
	if c, ok := l.catalog.(catalog.Closer); ok {
		_ = c.Close() // it was only read
	}
}

func (l *lake) load(ctx context.Context, name string) (*table.Table, error) {
	tbl, err := l.catalog.LoadTable(ctx, table.Identifier{l.config.Namespace, name})
	if err != nil {
		return nil, fmt.Errorf("lake table %s.%s: %w", l.config.Namespace, name, err)
	}
	return tbl, nil
}

func (l *lake) read(ctx context.Context, q query, f rowsFunc) error {
	if q.empty() {
		return nil
	}
	tbl, err := l.load(ctx, q.table.Name)
	if err != nil {
		return err
	}
	var names []string
	for _, n := range q.columnNames() {
		names = append(names, n)
		if c, ok := q.table.Column(n); ok && c.Kind == columns.Time {
			names = append(names, n+columns.NanosSuffix)
		}
	}
	names = append(names, "kafka_topic", "tenant_id")
	slices.Sort(names)
	err = scan(ctx, tbl, slices.Compact(names), filter(q), func(rec arrow.RecordBatch) error {
		rows, err := selected(rec, q)
		if err != nil || len(rows) == 0 {
			return err
		}
		return f(rec, rows)
	})
	if err != nil {
		return fmt.Errorf("lake table %s.%s: %w", l.config.Namespace, q.table.Name, err)
	}
	return nil
}

// scan reads the files that may hold rows of the filter, whole: rows are chosen by the caller, since filtering maps and lists costs more than
// reading them.
func scan(ctx context.Context, tbl *table.Table, names []string, filter iceberg.BooleanExpression, f func(arrow.RecordBatch) error) error {
	tasks, err := tbl.Scan(table.WithRowFilter(filter), table.WithSelectedFields(names...)).PlanFiles(ctx)
	if err != nil {
		return fmt.Errorf("plan the files: %w", err)
	}
	for i := range tasks {
		tasks[i].Residual = nil // it would filter
	}
	_, batches, err := tbl.Scan(table.WithSelectedFields(names...), table.WithMaxConcurrency(1), table.WithArrowBatchSize(lakeBatchRows)).ReadTasks(ctx, tasks)
	if err != nil {
		return fmt.Errorf("read %d files: %w", len(tasks), err)
	}
	for rec, err := range batches {
		if err != nil {
			return fmt.Errorf("read %d files: %w", len(tasks), err)
		}
		err = f(rec)
		rec.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// filter is what lets files be left out.
func filter(q query) iceberg.BooleanExpression {
	var any iceberg.BooleanExpression = iceberg.AlwaysFalse{}
	for _, r := range q.ranges {
		one := iceberg.NewAnd(iceberg.EqualTo(iceberg.Reference("kafka_partition"), r.Partition), iceberg.GreaterThanEqual(iceberg.Reference("kafka_offset"), r.First))
		if r.Last != beyond {
			one = iceberg.NewAnd(one, iceberg.LessThanEqual(iceberg.Reference("kafka_offset"), r.Last))
		}
		any = iceberg.NewOr(any, one)
	}
	if q.strangers > 0 {
		any = iceberg.NewOr(any, iceberg.GreaterThanEqual(iceberg.Reference("kafka_partition"), q.strangers))
		any = iceberg.NewOr(any, iceberg.LessThan(iceberg.Reference("kafka_partition"), int32(0)))
	}
	all := iceberg.NewAnd(iceberg.EqualTo(iceberg.Reference("kafka_topic"), q.topic), any)
	if q.tenant != "" {
		all = iceberg.NewAnd(all, iceberg.EqualTo(iceberg.Reference("tenant_id"), q.tenant))
	}
	return all
}

// selected are the rows of rec that q asks for.
func selected(rec arrow.RecordBatch, q query) ([]int, error) {
	r, err := newTableReader(q.table, rec, false)
	if err != nil {
		return nil, err
	}
	topics, tenants := column(rec, "kafka_topic"), column(rec, "tenant_id")
	byPartition := map[int32][]Range{}
	for _, rg := range q.ranges {
		byPartition[rg.Partition] = append(byPartition[rg.Partition], rg)
	}
	rows := make([]int, 0, rec.NumRows())
	for i := range int(rec.NumRows()) {
		if topic, _ := value.Text(topics, i); topic != q.topic {
			continue
		}
		if tenant, _ := value.Text(tenants, i); q.tenant != "" && tenant != q.tenant {
			continue
		}
		p := r.row(i).place()
		within := slices.ContainsFunc(byPartition[p.partition], func(rg Range) bool { return p.offset >= rg.First && p.offset <= rg.Last })
		within = within || q.strangers > 0 && (p.partition >= q.strangers || p.partition < 0)
		if within && (q.places == nil || slices.Contains(q.places, p)) {
			rows = append(rows, i)
		}
	}
	return rows, nil
}

func column(rec arrow.RecordBatch, name string) arrow.Array {
	for _, i := range rec.Schema().FieldIndices(name) {
		return rec.Column(i)
	}
	return nil
}

func (l *lake) sums(ctx context.Context, q query, b buckets) (map[bucketKey]Sums, error) {
	out := map[bucketKey]Sums{}
	err := l.read(ctx, q, func(rec arrow.RecordBatch, rows []int) error {
		r, err := newTableReader(q.table, rec, false)
		if err != nil {
			return err
		}
		for _, i := range rows {
			one := r.row(i)
			key := b.of(one.partition, one.offset)
			s := out[key]
			s.add(one)
			out[key] = s
		}
		return nil
	})
	return out, err
}

func (l *lake) ledger(ctx context.Context, topic string, ranges []Range) ([]ledger.Entry, error) {
	tbl, err := l.load(ctx, ledger.Name)
	if errors.Is(err, catalog.ErrNoSuchTable) {
		return nil, errNoLedger
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0)
	for _, f := range ledger.IcebergSchema().Fields() {
		names = append(names, f.Name)
	}
	latest := map[Range]ledger.Entry{} // a block that is written twice is one entry
	err = scan(ctx, tbl, names, iceberg.EqualTo(iceberg.Reference("kafka_topic"), topic), func(rec arrow.RecordBatch) error {
		for i := range int(rec.NumRows()) {
			e, err := ledgerEntry(rec, i)
			if err != nil {
				return err
			}
			rg := Range{e.Topic, e.Partition, e.First, e.Last}
			overlaps := func(o Range) bool { return o.Partition == e.Partition && e.Last >= o.First && e.First <= o.Last }
			if e.Topic != topic || !slices.ContainsFunc(ranges, overlaps) {
				continue
			}
			if old, ok := latest[rg]; !ok || old.Written.Before(e.Written) {
				latest[rg] = e
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("lake table %s.%s: %w", l.config.Namespace, ledger.Name, err)
	}
	out := make([]ledger.Entry, 0, len(latest))
	for _, e := range latest {
		out = append(out, e)
	}
	return out, nil
}

func ledgerEntry(rec arrow.RecordBatch, i int) (ledger.Entry, error) {
	var failed error
	number := func(name string) int64 {
		a := column(rec, name)
		n, ok := value.Int(a, i)
		if !ok {
			failed = fmt.Errorf("ledger column %s is not an integer", name)
		}
		return n
	}
	text := func(name string) string {
		s, ok := value.Text(column(rec, name), i)
		if !ok {
			failed = fmt.Errorf("ledger column %s is not text", name)
		}
		return strings.Clone(s)
	}
	e := ledger.Entry{
		Topic: text("kafka_topic"), Partition: int32(number("kafka_partition")), First: number("first_offset"), Last: number("last_offset"),
		Events: number("events"), Duplicates: number("duplicates"), Quarantined: number("quarantined"), Rows: number("rows"), IDSum: uint64(number("id_sum")),
	}
	e.Signal, _ = signal.Parse(text("signal")) // 0 does not compare equal with any
	if _, ok := column(rec, "written_time").(*array.Timestamp); !ok {
		return e, errors.New("ledger column written_time is not a timestamp")
	}
	ns, _ := value.Time(column(rec, "written_time"), i)
	e.Written = time.Unix(0, ns).UTC()
	return e, failed
}
