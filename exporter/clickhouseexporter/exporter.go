package clickhouseexporter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configcompression"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	// payloadKeepMax is the largest encoding buffer that a place keeps for its next call.
	payloadKeepMax = 64 << 20
	// payloadFraming is room for what Arrow's stream adds to the columns' buffers: the schema, the batch's descriptions, paddings.
	payloadFraming = 64 << 10
	// startCheckTimeout bounds how long Start looks for ClickHouse: a store that is down must not hold up the Collector.
	startCheckTimeout = 3 * time.Second
)

var errNotRunning = errors.New("the exporter is not running")

// chExporter stores one signal. A call: take a place, build a batch, leave out what is stored already, INSERT, write into the ledger,
// sort the outcome.
type chExporter struct {
	cfg    *Config
	set    exporter.Settings
	table  *columns.Table
	mem    memory.Allocator
	host   component.Host
	client *client
	schema *schema
	ledger *ledgerWriter
	tel    *telemetry

	insert, ledgerInsert string // statements

	// places are the max_concurrent_inserts builders; a call owns the one it took. Start fills the channel, Shutdown empties it.
	places  chan *place
	started bool
	check   time.Duration   // bounds how long Start looks for ClickHouse
	life    context.Context // ends with Shutdown
	end     context.CancelFunc
	once    sync.Once // Shutdown

	unhealthy atomic.Bool // the last status reported is an error

	views   views
	trouble atomic.Uint64 // counts failures after which ClickHouse may be another, or restored
	count   counted
	servers servers
}

// place is what one insert at a time needs, reused.
type place struct {
	builder *columns.Builder
	payload sliceWriter   // the rows; with zstd the whole body, compressed
	zstd    *zstd.Encoder // nil: another compression, which the HTTP client does
}

// newPlace compresses by zstd itself: the HTTP client would do it from a whole uncompressed body into a buffer that it grows anew
// for each call, which took as much memory as the rows (BenchmarkSend: 890 bytes a row of 640).
func (e *chExporter) newPlace() (*place, error) {
	p := &place{builder: columns.NewBuilder(e.mem, e.table)}
	if e.cfg.ClientConfig.Compression != configcompression.TypeZstd {
		return p, nil
	}
	level := zstd.EncoderLevelFromZstd(int(e.cfg.ClientConfig.CompressionParams.Level))
	var err error
	p.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level))
	return p, err
}

// batch is one INSERT's rows, encoded.
type batch struct {
	rows     int64
	bytes    int       // of the columns, before compression
	received time.Time // oldest
	payload  []byte    // encoded as place.payload
}

func newExporter(set exporter.Settings, cfg *Config, s signal.Signal) (*chExporter, error) {
	table, err := columns.ForRows(cfg.Rows, s)
	if err != nil {
		return nil, err
	}
	e := &chExporter{
		cfg: cfg, set: set, table: table, mem: memory.DefaultAllocator,
		places: make(chan *place, cfg.MaxConcurrentInserts), check: startCheckTimeout,
	}
	e.life, e.end = context.WithCancel(context.Background())
	e.insert = insertInto(cfg.Database, e.table.Name, e.table.ArrowSchema())
	e.ledgerInsert = insertInto(cfg.Database, cfg.ledgerName(), ledger.ArrowSchema())
	return e, nil
}

func insertInto(database, table string, sc *arrow.Schema) string {
	names := make([]string, sc.NumFields())
	for i, f := range sc.Fields() {
		names[i] = ident(f.Name)
	}
	return "INSERT INTO " + ident(database) + "." + ident(table) + " (" + strings.Join(names, ", ") + ") FORMAT ArrowStream"
}

// Capabilities: the data is only read.
func (e *chExporter) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// Start does not need ClickHouse: where it cannot be reached, or its table is not right, calls fail as retryable until it is.
func (e *chExporter) Start(ctx context.Context, host component.Host) error {
	var err error
	e.host = host
	if e.client, err = newClient(ctx, e.cfg, host, e.set.TelemetrySettings); err != nil {
		return fmt.Errorf("ClickHouse client: %w", err)
	}
	name := e.cfg.Database + "." + e.table.Name
	if e.tel, err = newTelemetry(e.set.ID, e.set.TelemetrySettings, name, func() int { return cap(e.places) - len(e.places) }); err != nil {
		return err
	}
	e.schema = newSchema(e.cfg, e.client, e.table, e.set.Logger)
	e.ledger = newLedgerWriter(e.life, e.cfg.ClientConfig.Timeout, e.insertEntries)
	for range cap(e.places) {
		p, err := e.newPlace()
		if err != nil {
			return fmt.Errorf("compression: %w", err)
		}
		e.places <- p
	}
	e.started = true

	ctx, cancel := context.WithTimeout(ctx, min(e.check, e.cfg.ClientConfig.Timeout))
	defer cancel()
	if err := e.schema.ensure(ctx); err != nil {
		e.tel.failed(err)
		e.report(err)
	}
	return nil
}

// Shutdown breaks off running inserts (their callers hear that the outcome is unknown) and frees everything.
func (e *chExporter) Shutdown(ctx context.Context) error {
	var err error
	e.once.Do(func() {
		e.end()
		if e.tel != nil {
			e.tel.shutdown()
		}
		for range cap(e.places) {
			if !e.started {
				break
			}
			select {
			case p := <-e.places:
				p.builder.Release()
			case <-ctx.Done():
				err = fmt.Errorf("inserts still run: %w", ctx.Err())
				return
			}
		}
		if e.ledger != nil {
			err = e.ledger.wait(ctx)
		}
		if e.client != nil {
			e.client.http.CloseIdleConnections()
		}
	})
	return err
}

// ConsumeLogs stores log records.
func (e *chExporter) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	n := ld.LogRecordCount()
	return e.consume(ctx, n, func(b *columns.Builder) error { return b.AppendLogs(ld) })
}

// ConsumeMetrics stores data points.
func (e *chExporter) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	n := md.DataPointCount()
	return e.consume(ctx, n, func(b *columns.Builder) error { return b.AppendMetrics(md) })
}

// ConsumeTraces stores spans.
func (e *chExporter) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	n := td.SpanCount()
	return e.consume(ctx, n, func(b *columns.Builder) error { return b.AppendTraces(td) })
}

// consume is the way of a call. Its error is permanent (consumererror) only where the data is refused for good.
func (e *chExporter) consume(ctx context.Context, events int, fill func(*columns.Builder) error) error {
	if block.IntroductionOf(ctx) != nil {
		return nil // it asks for memories, and is no data
	}
	if _, inBlock := block.FromContext(ctx); events == 0 && !inBlock {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.life, func() { cancel(errNotRunning) })()
	p, err := e.take(ctx)
	if err != nil {
		return e.explain(ctx, events, err)
	}
	news := e.servers.news.Load()
	entries, err := e.store(ctx, p, events, fill)
	e.places <- p
	// The order is the contract: rows, then their entry, then the caller may commit.
	if err == nil && len(entries) > 0 {
		failpoint.Hit("clickhouse-inserted")
		if err = e.ledger.write(ctx, entries); err != nil {
			err = notInLedger(err)
		} else {
			failpoint.Hit("clickhouse-ledgered")
			err = e.sameServer(ctx, news)
		}
	}
	e.remember(ctx, entries, err)
	e.report(err)
	if err != nil {
		return e.explain(ctx, events, err)
	}
	return nil
}

// take waits for a place.
func (e *chExporter) take(ctx context.Context) (*place, error) {
	if e.life.Err() != nil {
		return nil, &storeError{class: retryable, code: codeOther, cause: errNotRunning}
	}
	select {
	case p := <-e.places:
		return p, nil
	case <-ctx.Done():
		return nil, &storeError{class: retryable, code: codeOther, cause: fmt.Errorf("waiting for one of max_concurrent_inserts %d: %w", e.cfg.MaxConcurrentInserts, context.Cause(ctx))}
	}
}

// store builds the rows and inserts those that are not stored yet. It returns what is to be written into the ledger.
func (e *chExporter) store(ctx context.Context, p *place, events int, fill func(*columns.Builder) error) ([]ledger.Entry, error) {
	rec, err := e.build(p, events, fill)
	if err != nil {
		return nil, err
	}
	todo, err := e.plan(ctx, rec)
	if rec != nil {
		rec.Release()
	}
	if err != nil {
		return nil, err
	}
	entries, err := e.insertPieces(ctx, p, todo)
	var se *storeError
	if errors.As(err, &se) && se.class == permanent {
		if b, ok := block.FromContext(ctx); ok {
			return e.settle(ctx, p, b, events, fill, err)
		}
	}
	return entries, err
}

// insertPieces inserts what is not stored yet. Entries of rows that were found stored without one go first: whoever goes on after a
// crash between here and there cuts the block as it was cut here.
func (e *chExporter) insertPieces(ctx context.Context, p *place, todo []piece) (entries []ledger.Entry, err error) {
	var found []ledger.Entry
	inserts := false
	for i := range todo {
		if todo[i].isStored {
			found = append(found, todo[i].entry)
		}
		inserts = inserts || todo[i].rows != nil
	}
	if inserts && len(found) > 0 {
		err = e.ledger.write(ctx, found)
	}
	for i := range todo {
		if err == nil {
			err = e.insertPiece(ctx, p, &todo[i])
		}
		todo[i].release()
		if todo[i].hasEntry {
			entries = append(entries, todo[i].entry)
		}
	}
	return entries, err
}

// remember tells the block's view how the call ended.
func (e *chExporter) remember(ctx context.Context, entries []ledger.Entry, err error) {
	var se *storeError
	if errors.As(err, &se) && ctx.Err() == nil && (se.code == codeNetwork || se.code == codeHTTP || se.class == badSchema) {
		e.trouble.Add(1)
	}
	b, ok := block.FromContext(ctx)
	if !ok {
		return
	}
	v, lockErr := e.views.enter(ctx, b)
	if lockErr != nil {
		return // a view that lacks entries sends their blocks again, under their tokens
	}
	defer v.leave()
	v.ended(b, err)
	if err == nil {
		v.add(entries)
	}
}

// build makes the call's rows a record batch, which the caller releases; nil where there are none.
func (e *chExporter) build(p *place, events int, fill func(*columns.Builder) error) (arrow.RecordBatch, error) {
	if events == 0 {
		return nil, nil
	}
	begun := time.Now()
	if err := fill(p.builder); err != nil {
		p.builder.Reset()
		return nil, &storeError{class: permanent, code: codeBuild, cause: err}
	}
	if p.builder.Rows() == 0 {
		return nil, nil // all of it belongs into another table
	}
	rec := p.builder.NewRecordBatch()
	e.tel.built(time.Since(begun))
	return rec, nil
}

// plan says what of the call is to be inserted.
func (e *chExporter) plan(ctx context.Context, rec arrow.RecordBatch) (todo []piece, err error) {
	b, ok := block.FromContext(ctx)
	if !ok && rec == nil {
		return nil, nil
	}
	if !ok {
		rec.Retain()
		// A name of its own: else rows that happen to equal an earlier call's would vanish.
		return []piece{{rows: rec, token: "call/" + rand.Text()}}, nil
	}
	if !e.cfg.Ledger {
		return nil, &storeError{class: retryable, code: codeOther, cause: errors.New("ledger is false, but the data comes in blocks"),
			hint: "set ledger: true: a block without an entry cannot be redone safely"}
	}
	v, err := e.views.enter(ctx, b)
	if err != nil {
		return nil, err
	}
	defer v.leave()
	err = e.onGoodTables(ctx, func() error {
		todo, err = e.pieces(ctx, v, b, rec, time.Now())
		if _, back := errors.AsType[*block.ResumeError](err); err != nil && !back {
			e.tel.failed(err)
		}
		return err
	})
	return todo, err
}

// onGoodTables runs do once the tables are as they should be. A table that turns out not to be is looked at again, once.
func (e *chExporter) onGoodTables(ctx context.Context, do func() error) error {
	for again := true; ; again = false {
		if err := e.schema.ensure(ctx); err != nil {
			e.tel.failed(err)
			return err
		}
		err := do()
		var se *storeError
		if !again || !errors.As(err, &se) || se.class != badSchema || !e.schema.invalidate() {
			return err
		}
	}
}

// insertPiece runs one INSERT. A piece without rows has none.
func (e *chExporter) insertPiece(ctx context.Context, p *place, piece *piece) error {
	if piece.rows == nil {
		return nil
	}
	begun := time.Now()
	first, _ := receivedRange(piece.rows)
	b := &batch{rows: piece.rows.NumRows(), bytes: sizeOf(piece.rows), received: time.Unix(0, first)}
	if err := p.encode(e.insert, piece.rows, b.bytes, e.mem); err != nil {
		return &storeError{class: permanent, code: codeBuild, cause: fmt.Errorf("encode the rows: %w", err)}
	}
	b.payload = p.payload
	e.tel.encoded(time.Since(begun))
	places := lineageOf(piece.rows)
	defer places.release()
	want := piece.toVerify()
	piece.release() // the payload holds them now
	if piece.hasEntry {
		failpoint.Hit("clickhouse-inserting")
	}
	insert := func(token string) error {
		return e.onGoodTables(ctx, func() error { return e.send(ctx, p, b, token) })
	}
	err := insert(piece.token)
	if err == nil && len(want) > 0 {
		var has bool
		if has, err = e.verify(ctx, piece.block, want, first); err == nil && !has {
			// The token names exactly these rows: the block's own is remembered for rows that somebody has deleted.
			err = insert(fmt.Sprintf("%s/compared/%d/%x", piece.token, piece.entry.Rows, piece.entry.IDSum))
		}
	}
	return places.locate(err)
}

// encode makes rec the place's payload. Doubling a buffer up to a block's size was a quarter of the aggregator's CPU once, for the
// pages that it touched first; so it gets its size at once, and is kept.
func (p *place) encode(statement string, rec arrow.RecordBatch, bytes int, mem memory.Allocator) error {
	if p.zstd == nil {
		p.payload = slices.Grow(p.payload[:0], bytes+payloadFraming)
		w := ipc.NewWriter(&p.payload, ipc.WithSchema(rec.Schema()), ipc.WithAllocator(mem))
		return errors.Join(w.Write(rec), w.Close())
	}
	p.payload = slices.Grow(p.payload[:0], (bytes+payloadFraming)/2)
	p.zstd.Reset(&p.payload)
	if _, err := io.WriteString(p.zstd, statement+"\n"); err != nil { // as newBody does it
		return err
	}
	w := ipc.NewWriter(p.zstd, ipc.WithSchema(rec.Schema()), ipc.WithAllocator(mem))
	return errors.Join(w.Write(rec), w.Close(), p.zstd.Close())
}

// send runs the INSERT.
func (e *chExporter) send(ctx context.Context, p *place, b *batch, token string) error {
	payload := newBody(e.insert, b.payload)
	if p.zstd != nil {
		payload = newZstdBody(b.payload)
	}
	begun := time.Now()
	err := e.client.insert(ctx, e.insertSettings(token), payload)
	e.tel.inserted(b, time.Since(begun), err)
	if err != nil && !payload.closed.Load() || cap(p.payload) > payloadKeepMax {
		p.payload = nil // net/http may still read it, or it is too large to keep
	}
	return err
}

// insertSettings keep a call one block of ClickHouse, whatever the server's or the user's profile says.
func (e *chExporter) insertSettings(token string) map[string]string {
	s := columns.InsertSettings(token)
	e.cfg.quorum(s)
	s["max_insert_block_size"] = maxRows
	s["min_insert_block_size_rows"] = maxRows
	s["min_insert_block_size_bytes"] = "0"
	s["max_insert_threads"] = "1"
	if e.cfg.InsertNice > 0 {
		s["os_thread_priority"] = strconv.Itoa(e.cfg.InsertNice)
	}
	return s
}

// maxRows is above any batch: what one Arrow column can address ends earlier.
const maxRows = "1073741824"

// receivedRange is the least and the greatest received time of rows, in Unix nanoseconds.
func receivedRange(rec arrow.RecordBatch) (oldest, newest int64) {
	values := columnOf[*array.Timestamp](rec, "ingest_time").Values()
	return int64(slices.Min(values)), int64(slices.Max(values))
}

// notInLedger is a call whose rows are stored: sending it again changes nothing in the table.
func notInLedger(err error) error {
	out := &storeError{class: unknown, code: codeOther, cause: fmt.Errorf("its rows are stored, their entry in the ledger is not: %w", err)}
	var se *storeError
	if errors.As(err, &se) {
		out.code = se.code
	}
	return out
}

// explain is what the caller hears: what was being done, to which block, and what to do.
func (e *chExporter) explain(ctx context.Context, events int, err error) error {
	of := ""
	if blk, ok := block.FromContext(ctx); ok {
		of = fmt.Sprintf(" of block %s (topic %s, partition %d, offsets %d to %d)", blk, blk.Topic, blk.Partition, blk.First, blk.Last)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	cl, code := unknown, codeOther
	var se *storeError
	if errors.As(err, &se) {
		cl, code = se.class, se.code
	}
	if _, back := errors.AsType[*block.ResumeError](err); back {
		cl = retryable
	}
	what := fmt.Sprintf("ClickHouse table %s.%s, %d events%s", e.cfg.Database, e.table.Name, events, of)
	switch cl {
	case permanent:
		e.tel.reject(int64(events), code)
		return consumererror.NewPermanent(fmt.Errorf("%s: refused: %w", what, err))
	case unknown:
		return fmt.Errorf("%s: outcome unknown, send it again: %w", what, err)
	}
	return fmt.Errorf("%s: not stored, send it again: %w", what, err)
}

// report tells the Collector when the exporter's health changes. Refused data is no matter of health.
func (e *chExporter) report(err error) {
	var se *storeError
	if errors.As(err, &se) && se.class == permanent {
		return
	}
	if _, back := errors.AsType[*block.ResumeError](err); back {
		return
	}
	if bad := err != nil; e.unhealthy.Swap(bad) != bad {
		if bad {
			componentstatus.ReportStatus(e.host, componentstatus.NewRecoverableErrorEvent(err))
		} else {
			componentstatus.ReportStatus(e.host, componentstatus.NewEvent(componentstatus.StatusOK))
		}
	}
}

// sizeOf is the bytes of a batch's buffers.
func sizeOf(rec arrow.RecordBatch) int {
	var size func(arrow.ArrayData) int
	size = func(d arrow.ArrayData) int {
		n := 0
		for _, b := range d.Buffers() {
			if b != nil {
				n += b.Len()
			}
		}
		for _, c := range d.Children() {
			n += size(c)
		}
		if dict, ok := d.Dictionary().(*array.Data); ok && dict != nil {
			n += size(dict)
		}
		return n
	}
	n := 0
	for _, c := range rec.Columns() {
		n += size(c.Data())
	}
	return n
}

// sliceWriter is a buffer whose bytes can be given away.
type sliceWriter []byte

func (w *sliceWriter) Write(b []byte) (int, error) {
	*w = append(*w, b...)
	return len(b), nil
}
