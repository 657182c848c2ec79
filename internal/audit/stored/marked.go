package stored

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
)

// Marked asks for the rows of one service of a tenant, by a column that is another one in each of its events.
type Marked struct {
	Table   *columns.Table
	Column  string    // of kind Fixed16 or Int64
	Tenant  string    //
	Service string    // service.name
	Since   time.Time // the events' own time
}

const (
	// MaxMarked bounds the markers of an answer: more are not those of one probe.
	MaxMarked = 100_000
	// markedSkew is how far a gateway's clock may be behind the sender's. It only leaves out partitions, which are days of receipt.
	markedSkew = time.Hour
)

var errManyMarked = fmt.Errorf("has more than %d events of the service: does another program send as it?", MaxMarked)

// received is the least time of receipt of a row of q.
func (q Marked) received() time.Time { return q.Since.Add(-markedSkew) }

// Copies counts the rows of each marker. A marker is written as decimal digits, of a Fixed16 column as hexadecimal ones.
func (c *ClickHouse) Copies(ctx context.Context, q Marked) (map[string]int64, error) {
	marker := "toString(" + q.Column + ")"
	if column, _ := q.Table.Column(q.Column); column.Kind == columns.Fixed16 {
		marker = "lower(hex(" + q.Column + "))"
	}
	sql := fmt.Sprintf("SELECT %s AS marker, count() AS copies FROM %s WHERE tenant_id = {tenant:String} AND service_name = {service:String}"+
		" AND time >= fromUnixTimestamp64Nano(%d) AND ingest_time >= fromUnixTimestamp64Nano(%d) GROUP BY marker LIMIT %d",
		marker, q.Table.Name, q.Since.UnixNano(), q.received().UnixNano(), MaxMarked+1)
	type row struct {
		Marker string `json:"marker"`
		Copies int64  `json:"copies"`
	}
	out := map[string]int64{}
	err := askRows(ctx, c, sql, map[string]string{"tenant": q.Tenant, "service": q.Service}, func(r row) { out[r.Marker] = r.Copies })
	if err == nil && len(out) > MaxMarked {
		err = errManyMarked
	}
	if err != nil {
		return nil, fmt.Errorf("ClickHouse table %s: %w", q.Table.Name, err)
	}
	return out, nil
}

// LakeCopies counts markers in the lake, again and again. Data files never change, so it reads each once; it forgets those that no longer hold rows that are asked for. Since must not
// go back from one question about a table to the next. It is not safe for concurrent use.
type LakeCopies struct {
	*Lake
	files map[string]map[string]map[string]int64 // table, data file with its deletes, marker: rows
}

// NewLakeCopies counts in a lake.
func NewLakeCopies(l *Lake) *LakeCopies {
	return &LakeCopies{Lake: l, files: map[string]map[string]map[string]int64{}}
}

// Copies counts as ClickHouse's does. A table that does not exist has no rows.
func (l *LakeCopies) Copies(ctx context.Context, q Marked) (map[string]int64, error) {
	tbl, err := l.load(ctx, q.Table.Name)
	if errors.Is(err, catalog.ErrNoSuchTable) {
		return map[string]int64{}, nil
	}
	if err != nil {
		return nil, err
	}
	out, err := l.count(ctx, tbl, q)
	if err != nil {
		return nil, fmt.Errorf("lake table %s.%s: %w", l.config.Namespace, q.Table.Name, err)
	}
	return out, nil
}

func (l *LakeCopies) count(ctx context.Context, tbl *table.Table, q Marked) (map[string]int64, error) {
	equal := func(name, value string) iceberg.BooleanExpression {
		return iceberg.EqualTo(iceberg.Reference(name), value)
	}
	from := func(name string, at time.Time) iceberg.BooleanExpression { // whole microseconds in the lake
		return iceberg.GreaterThanEqual(iceberg.Reference(name), iceberg.Timestamp(at.UnixMicro()))
	}
	options := []table.ScanOption{
		table.WithRowFilter(iceberg.NewAnd(equal("tenant_id", q.Tenant), equal("service_name", q.Service), from("time", q.Since), from(receivedColumn, q.received()))),
		table.WithSelectedFields(q.Column), table.WithMaxConcurrency(1), table.WithArrowBatchSize(lakeBatchRows),
	}
	tasks, err := tbl.Scan(options...).PlanFiles(ctx)
	if err != nil {
		return nil, fmt.Errorf("plan the files: %w", err)
	}
	files := l.files[q.Table.Name]
	if files == nil {
		files = map[string]map[string]int64{}
		l.files[q.Table.Name] = files
	}
	planned := make(map[string]table.FileScanTask, len(tasks))
	for _, task := range tasks {
		planned[fileVersion(task)] = task
	}
	maps.DeleteFunc(files, func(name string, _ map[string]int64) bool { _, ok := planned[name]; return !ok })
	out := map[string]int64{}
	for name, task := range planned {
		found, read := files[name]
		if !read {
			if found, err = readMarkers(ctx, tbl.Scan(options...), task, q.Column); err != nil {
				return nil, fmt.Errorf("read %s: %w", task.File.FilePath(), err)
			}
			files[name] = found // also if this look does not come to its end: the next one goes on
		}
		for marker, n := range found {
			if out[marker] += n; len(out) > MaxMarked {
				return nil, errManyMarked
			}
		}
	}
	return out, nil
}

// fileVersion names a data file with what is deleted of it.
func fileVersion(task table.FileScanTask) string {
	name := task.File.FilePath()
	for _, deletes := range [][]iceberg.DataFile{task.DeleteFiles, task.EqualityDeleteFiles, task.DeletionVectorFiles} {
		for _, f := range deletes {
			name += "\n" + f.FilePath()
		}
	}
	return name
}

func readMarkers(ctx context.Context, scan *table.Scan, task table.FileScanTask, name string) (map[string]int64, error) {
	_, batches, err := scan.ReadTasks(ctx, []table.FileScanTask{task})
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for rec, err := range batches {
		if err != nil {
			return nil, err
		}
		err = countMarkers(out, rec, name)
		rec.Release()
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func countMarkers(out map[string]int64, rec arrow.RecordBatch, name string) error {
	a := column(rec, name)
	if a == nil {
		return fmt.Errorf("has no column %s", name)
	}
	for i := range int(rec.NumRows()) {
		switch n, ok := value.Int(a, i); {
		case ok:
			out[strconv.FormatInt(n, 10)]++
		default:
			b, ok := value.Bytes(a, i)
			if !ok {
				return fmt.Errorf("column %s has type %s, which is no marker's", name, a.DataType())
			}
			out[hex.EncodeToString(b)]++
		}
		if len(out) > MaxMarked {
			return errManyMarked
		}
	}
	return nil
}
