package aggregate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	// duckAnswerMost bounds an answer of DuckDB in bytes: the Parquet of a partition passes through memory.
	duckAnswerMost = 256 << 20
	duckErrorMost  = 2 << 10 // bytes of what DuckDB writes to standard error that are kept
	// duckStopping bounds how long the pipes of a DuckDB that was ended may stay open.
	duckStopping = 5 * time.Second
	fileScheme   = "file://"
	parquetMark  = "PAR1" // at the begin and the end of a file
)

// DuckDBConfig says how DuckDB is run, over which lake, and how much of the machine it may use.
type DuckDBConfig struct {
	// Program is DuckDB's command line, which reads SQL from standard input. Its extensions avro and iceberg are installed.
	Program   string
	Catalog   catalog.Catalog
	Namespace string // of the tables of events
	Warehouse string // file:///DIRECTORY: DuckDB reads nothing outside of it
	Threads   int
	MemoryMiB int
	// Longest bounds one statement.
	Longest time.Duration
}

// DuckDB implements Engine: it runs queries over the lake's tables of events, each in a process of its own. Their rows are staged, tested, published and recorded in ClickHouse, as
// are those of ClickHouse.
type DuckDB struct {
	*ClickHouse // keeps the tables
	lake        DuckDBConfig
	directory   string // of the warehouse, which ends with a slash
}

// DuckDBError is a statement that DuckDB has refused: the statement's fault, or the data's.
type DuckDBError struct{ Text string }

func (e *DuckDBError) Error() string { return "DuckDB: " + e.Text }

// NewDuckDB starts nothing yet. The target tables are kept by ClickHouse.
func NewDuckDB(c DuckDBConfig, keeps *ClickHouse) (*DuckDB, error) {
	directory, local := strings.CutPrefix(c.Warehouse, fileScheme)
	if !local {
		return nil, fmt.Errorf("the lake is in %s: DuckDB reads one in a directory only (%s/...)", c.Warehouse, fileScheme)
	}
	return &DuckDB{ClickHouse: keeps, lake: c, directory: strings.TrimSuffix(directory, "/") + "/"}, nil
}

// Name implements Engine.
func (*DuckDB) Name() string { return EngineDuckDB }

// Prepare implements Engine.
func (d *DuckDB) Prepare(ctx context.Context, m *Model, create bool) error {
	if err := d.prepareTables(ctx, m, create); err != nil {
		return err
	}
	if err := d.checkSources(ctx, m); err != nil {
		return fmt.Errorf("query: %w", err)
	}
	return nil
}

// checkSources has DuckDB parse the query, and then look up its names in the lake.
func (d *DuckDB) checkSources(ctx context.Context, m *Model) error {
	some := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) // one partition is as good as another
	sql := bindDuckDB(m.Query(EngineDuckDB), some, some.Add(m.Partition.Size.Duration()))
	out, err := d.run(ctx, "SELECT CAST(json_serialize_sql("+duckText(sql)+") AS VARCHAR) AS tree", "json")
	if err != nil {
		return err
	}
	var answer struct{ Tree string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return fmt.Errorf("the answer of DuckDB: %w", err)
	}
	if err := checkTree(m, answer.Tree); err != nil {
		return err
	}
	query, err := d.partition(ctx, m, some)
	if err == nil {
		_, err = d.run(ctx, "SELECT * FROM ("+query+"\n) LIMIT 0", "json")
	}
	return err
}

// Sources implements Engine.
func (d *DuckDB) Sources(ctx context.Context, m *Model, from, to time.Time) (map[time.Time]Seen, error) {
	var buckets [][]bucket
	for _, s := range m.Sources {
		found, err := d.buckets(ctx, s, from, to)
		if err != nil {
			return nil, fmt.Errorf("count the rows of %s in the lake: %w", s.Table, err)
		}
		buckets = append(buckets, found)
	}
	return seen(m, buckets, from, to), nil
}

func (d *DuckDB) buckets(ctx context.Context, s Source, from, to time.Time) (out []bucket, err error) {
	scan, err := d.scan(ctx, s.Table)
	if err != nil {
		return nil, err
	}
	var id []string // the first eight bytes of an event's id are a number, the lowest first, as ledger.IDSum adds them up
	for i := 7; i >= 0; i-- {
		id = append(id, fmt.Sprintf("substr(hex(event_id), %d, 2)", 2*i+1))
	}
	answer, err := d.run(ctx, fmt.Sprintf(`SELECT epoch_us(time) // 3600000000 * 3600 AS hour, epoch_us(ingest_time) // 3600000000 * 3600 AS arrived, count(*) AS rows,
    CAST(sum(CAST('0x' || %s AS UBIGINT)) %% 18446744073709551616 AS UBIGINT) AS ids, epoch_us(min(ingest_time)) // 1000000 AS oldest
FROM %s WHERE %s GROUP BY hour, arrived`, strings.Join(id, " || "), scan, duckWithin("time", from.Add(-s.Lookback), to)), "json")
	if err != nil {
		return nil, err
	}
	for dec := json.NewDecoder(bytes.NewReader(answer)); ; {
		var b bucket
		if err := dec.Decode(&b); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("the answer of DuckDB: %w", err)
		}
		out = append(out, b)
	}
}

// Stage implements Engine.
func (d *DuckDB) Stage(ctx context.Context, m *Model, at time.Time) (Count, error) {
	query, err := d.partition(ctx, m, at)
	if err != nil {
		return Count{}, err
	}
	rows, err := d.run(ctx, query, "parquet")
	if err != nil {
		return Count{}, err
	}
	if !bytes.HasPrefix(rows, []byte(parquetMark)) || !bytes.HasSuffix(rows, []byte(parquetMark)) {
		return Count{}, fmt.Errorf("the answer of DuckDB is not whole: %d bytes", len(rows))
	}
	return d.stage(ctx, m, "FORMAT Parquet\n"+string(rows), d.settings("async_insert", "0", "input_format_null_as_default", "0", "input_format_parquet_allow_missing_columns", "0"))
}

// partition is the model's query over its sources as far as the partition sees them, in the types of the target and in one order.
func (d *DuckDB) partition(ctx context.Context, m *Model, at time.Time) (string, error) {
	end := at.Add(m.Partition.Size.Duration())
	var with, given []string
	for _, s := range m.Sources {
		scan, err := d.scan(ctx, s.Table)
		if err != nil {
			return "", err
		}
		cond := duckWithin("time", at.Add(-s.Lookback), end)
		if s.Cutoff == CutoffPartitionEnd {
			cond += " AND ingest_time < " + duckTime(end)
		}
		with = append(with, fmt.Sprintf("%s AS (SELECT * FROM %s WHERE %s)", duckName(s.Table), scan, cond))
	}
	types, err := m.duckTypes()
	if err != nil {
		return "", err
	}
	for i, c := range m.Target.Columns {
		name := duckName(c.Name) // a NULL is a mistake of the query
		given = append(given, fmt.Sprintf("CASE WHEN %s IS NULL THEN error(%s) ELSE CAST(%s AS %s) END AS %s", name, duckText("column "+c.Name+": the query gives NULL"), name, types[i], name))
	}
	return fmt.Sprintf("SELECT %s FROM (WITH %s SELECT * FROM (\n%s\n)) ORDER BY ALL", strings.Join(given, ", "), strings.Join(with, ", "), bindDuckDB(m.Query(EngineDuckDB), at, end)), nil
}

// scan is the newest snapshot of one of the lake's tables, as DuckDB reads it.
func (d *DuckDB) scan(ctx context.Context, name string) (string, error) {
	tbl, err := d.lake.Catalog.LoadTable(ctx, table.Identifier{d.lake.Namespace, name})
	if err != nil {
		return "", fmt.Errorf("load table %s.%s of the lake: %w", d.lake.Namespace, name, err)
	}
	path, local := strings.CutPrefix(tbl.MetadataLocation(), fileScheme)
	if !local {
		return "", fmt.Errorf("table %s.%s of the lake is at %s: DuckDB reads files only", d.lake.Namespace, name, tbl.MetadataLocation())
	}
	return "iceberg_scan(" + duckText(path) + ")", nil
}

// PublishWatermark implements Engine. How far the lake has the events of a signal says nothing of ClickHouse, of which the watermark of a signal speaks.
func (d *DuckDB) PublishWatermark(ctx context.Context, name string, through time.Time) error {
	if _, err := signal.Parse(name); err == nil {
		return nil
	}
	return d.ClickHouse.PublishWatermark(ctx, name, through)
}

// run returns the answer to one SELECT in a format of DuckDB's COPY. The error is a *DuckDBError where DuckDB refused it.
func (d *DuckDB) run(ctx context.Context, query, format string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.lake.Longest, fmt.Errorf("it took longer than %v", d.lake.Longest))
	defer cancel()
	// The query gets no way to the network, and none to files but the lake's.
	script := strings.Join([]string{
		"SET autoinstall_known_extensions = false", "SET autoload_known_extensions = false", "LOAD avro", "LOAD iceberg",
		"SET TimeZone = 'UTC'", "SET threads = " + strconv.Itoa(d.lake.Threads), fmt.Sprintf("SET memory_limit = '%dMiB'", d.lake.MemoryMiB), "SET temp_directory = ''",
		"SET allowed_directories = [" + duckText(d.directory) + ", " + duckText(fileScheme+d.directory) + "]", "SET allowed_paths = ['/dev/stdout']",
		"SET enable_external_access = false", "SET lock_configuration = true",
		fmt.Sprintf("COPY (%s\n) TO '/dev/stdout' (FORMAT %s)", query, format), "",
	}, ";\n")
	cmd := exec.CommandContext(ctx, d.lake.Program, "-no-init", "-batch", "-bail", ":memory:")
	cmd.Env = []string{"HOME=" + os.Getenv("HOME")} // its extensions are there
	cmd.Stdin = strings.NewReader(script)
	cmd.WaitDelay = duckStopping
	answer, said := &capped{most: duckAnswerMost}, &capped{most: duckErrorMost}
	cmd.Stdout, cmd.Stderr = answer, said
	err := cmd.Run()
	text := strings.Join(strings.Fields(strings.ToValidUTF8(said.kept.String(), "?")), " ")
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("DuckDB: %w", context.Cause(ctx))
	case ended && exit.ExitCode() > 0 && text != "":
		return nil, &DuckDBError{text}
	case err != nil:
		return nil, fmt.Errorf("run %s: %w: %s", d.lake.Program, err, text)
	case answer.more:
		return nil, &DuckDBError{fmt.Sprintf("the answer is longer than %d bytes", duckAnswerMost)}
	}
	return answer.kept.Bytes(), nil
}

// capped keeps the first bytes, and forgets more than so many.
type capped struct {
	kept bytes.Buffer
	most int
	more bool
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.most-c.kept.Len())
	c.more = c.more || n < len(p)
	c.kept.Write(p[:n])
	return len(p), nil
}

// duckTypes are the types in which DuckDB gives the target's columns, in order.
func (m *Model) duckTypes() ([]string, error) {
	out := make([]string, len(m.Target.Columns))
	for i, c := range m.Target.Columns {
		typ := plainType(c)
		known, ok := lakeTypes[typ]
		fine := fineTime.FindStringSubmatch(typ)
		switch {
		case ok:
			out[i] = known.duck
		case fine == nil:
			return nil, fmt.Errorf("%s: %s cannot give the type %s: want %s", c.Name, EngineDuckDB, c.Type, plainTypes)
		default:
			out[i] = "TIMESTAMPTZ" // microseconds
			if digits, _ := strconv.Atoi(fine[1]); digits > microseconds {
				out[i] = "TIMESTAMP_NS"
			}
		}
	}
	return out, nil
}
