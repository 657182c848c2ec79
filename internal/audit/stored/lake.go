package stored

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

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// lakeBatchRows bounds the rows of one Arrow batch of a data file.
const lakeBatchRows = 8192

// Lake asks the Iceberg tables.
type Lake struct {
	config  LakeConfig
	catalog catalog.Catalog
	open    func(ctx context.Context, name string) (*table.Table, error) // instead of the catalog; nil: the catalog
}

// OpenLake opens the catalog. Close it.
func OpenLake(ctx context.Context, c LakeConfig) (*Lake, error) {
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
	return &Lake{config: c, catalog: cat}, nil
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

func (l *Lake) Info() certificate.StoreInfo {
	return certificate.StoreInfo{Store: certificate.Lake, Where: l.config.CatalogType + " catalog " + l.config.CatalogURI + " namespace " + l.config.Namespace, Group: l.config.Group}
}

func (l *Lake) Close() {
	if c, ok := l.catalog.(catalog.Closer); ok {
		_ = c.Close() // it was only read
	}
}

func (l *Lake) load(ctx context.Context, name string) (*table.Table, error) {
	if l.open != nil {
		return l.open(ctx, name)
	}
	tbl, err := l.catalog.LoadTable(ctx, table.Identifier{l.config.Namespace, name})
	if err != nil {
		return nil, fmt.Errorf("lake table %s.%s: %w", l.config.Namespace, name, err)
	}
	return tbl, nil
}

func (l *Lake) Read(ctx context.Context, q Query, f RowsFunc) error {
	if q.Empty() {
		return nil
	}
	tbl, err := l.load(ctx, q.Table.Name)
	if err != nil {
		return err
	}
	var names []string
	for _, n := range q.columnNames() {
		names = append(names, n)
		if c, ok := q.Table.Column(n); ok && c.Kind == columns.Time {
			names = append(names, n+columns.NanosSuffix)
		}
	}
	names = append(names, "kafka_topic", "tenant_id")
	slices.Sort(names)
	err = scan(ctx, tbl, slices.Compact(names), filter(q), nil, func(rec arrow.RecordBatch) error {
		rows, err := selected(rec, q)
		if err != nil || len(rows) == 0 {
			return err
		}
		return f(rec, rows)
	})
	if err != nil {
		return fmt.Errorf("lake table %s.%s: %w", l.config.Namespace, q.Table.Name, err)
	}
	return nil
}

// scan reads the files that may hold rows of the filter, whole: rows are chosen by the caller, since filtering maps and lists costs more than
// reading them. planned, if not nil, is told how many rows the files have.
func scan(ctx context.Context, tbl *table.Table, names []string, filter iceberg.BooleanExpression, planned func(rows int64), f func(arrow.RecordBatch) error) error {
	tasks, err := tbl.Scan(table.WithRowFilter(filter), table.WithSelectedFields(names...)).PlanFiles(ctx)
	if err != nil {
		return fmt.Errorf("plan the files: %w", err)
	}
	rows := int64(0)
	for i := range tasks {
		tasks[i].Residual = nil // it would filter
		rows += tasks[i].File.Count()
	}
	if planned != nil {
		planned(rows)
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
func filter(q Query) iceberg.BooleanExpression {
	var any iceberg.BooleanExpression = iceberg.AlwaysFalse{}
	for _, r := range q.Ranges {
		one := iceberg.NewAnd(iceberg.EqualTo(iceberg.Reference("kafka_partition"), r.Partition), iceberg.GreaterThanEqual(iceberg.Reference("kafka_offset"), r.First))
		if r.Last != Beyond {
			one = iceberg.NewAnd(one, iceberg.LessThanEqual(iceberg.Reference("kafka_offset"), r.Last))
		}
		any = iceberg.NewOr(any, one)
	}
	if q.Strangers > 0 {
		any = iceberg.NewOr(any, iceberg.GreaterThanEqual(iceberg.Reference("kafka_partition"), q.Strangers))
		any = iceberg.NewOr(any, iceberg.LessThan(iceberg.Reference("kafka_partition"), int32(0)))
	}
	all := iceberg.NewAnd(iceberg.EqualTo(iceberg.Reference("kafka_topic"), q.Topic), any)
	if q.Tenant != "" {
		all = iceberg.NewAnd(all, iceberg.EqualTo(iceberg.Reference("tenant_id"), q.Tenant))
	}
	return all
}

// selected are the rows of rec that q asks for.
func selected(rec arrow.RecordBatch, q Query) ([]int, error) {
	r, err := NewReader(q.Table, rec, false)
	if err != nil {
		return nil, err
	}
	topics, tenants := column(rec, "kafka_topic"), column(rec, "tenant_id")
	byPartition := map[int32][]certificate.Range{}
	for _, rg := range q.Ranges {
		byPartition[rg.Partition] = append(byPartition[rg.Partition], rg)
	}
	rows := make([]int, 0, rec.NumRows())
	for i := range int(rec.NumRows()) {
		if topic, _ := value.Text(topics, i); topic != q.Topic {
			continue
		}
		if tenant, _ := value.Text(tenants, i); q.Tenant != "" && tenant != q.Tenant {
			continue
		}
		p := r.Row(i).Place()
		within := slices.ContainsFunc(byPartition[p.Partition], func(rg certificate.Range) bool { return p.Offset >= rg.First && p.Offset <= rg.Last })
		within = within || q.Strangers > 0 && (p.Partition >= q.Strangers || p.Partition < 0)
		if within && (q.Places == nil || slices.Contains(q.Places, p)) {
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

func (l *Lake) Sums(ctx context.Context, q Query, b Buckets) (map[Bucket]certificate.Sums, error) {
	out := map[Bucket]certificate.Sums{}
	err := l.Read(ctx, q, func(rec arrow.RecordBatch, rows []int) error {
		r, err := NewReader(q.Table, rec, false)
		if err != nil {
			return err
		}
		for _, i := range rows {
			one := r.Row(i)
			key := b.Of(one.Partition, one.Offset)
			s := out[key]
			Add(&s, one)
			out[key] = s
		}
		return nil
	})
	return out, err
}

func (l *Lake) Ledger(ctx context.Context, topic string, ranges []certificate.Range) ([]ledger.Entry, error) {
	tbl, err := l.load(ctx, ledger.Name)
	if errors.Is(err, catalog.ErrNoSuchTable) {
		return nil, ErrNoLedger
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0)
	for _, f := range ledger.IcebergSchema().Fields() {
		if _, ok := tbl.Schema().FindFieldByName(f.Name); ok { // an older ledger gets new columns from its first writer
			names = append(names, f.Name)
		}
	}
	type name struct {
		certificate.Range
		topicID block.TopicID
	}
	latest := map[name]ledger.Entry{} // a block that is written twice is one entry
	err = scan(ctx, tbl, names, iceberg.EqualTo(iceberg.Reference("kafka_topic"), topic), nil, func(rec arrow.RecordBatch) error {
		for i := range int(rec.NumRows()) {
			e, err := ledgerEntry(rec, i)
			if err != nil {
				return err
			}
			rg := name{certificate.Range{Topic: e.Topic, Partition: e.Partition, First: e.First, Last: e.Last}, e.TopicID}
			overlaps := func(o certificate.Range) bool {
				return o.Partition == e.Partition && e.Last >= o.First && e.First <= o.Last
			}
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
	if len(rec.Schema().FieldIndices("topic_id")) > 0 {
		id, _ := value.Text(column(rec, "topic_id"), i) // null in entries of an older version
		e.TopicID, _ = block.ParseTopicID(id)           // zero: not known
	}
	if _, ok := column(rec, "written_time").(*array.Timestamp); !ok {
		return e, errors.New("ledger column written_time is not a timestamp")
	}
	ns, _ := value.Time(column(rec, "written_time"), i)
	e.Written = time.Unix(0, ns).UTC()
	return e, failed
}
