package clickhouseexporter

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	// redoAge is how old a block's range may be before it is treated like one that an earlier owner may have stored: a consumer that was
	// frozen does not know that it has lost its partition.
	redoAge = time.Minute
	// clockSkew is how far apart two aggregators' clocks may be.
	clockSkew = 15 * time.Minute
	// countSkew is the same where blocks are counted. A clock that is further off leaves so many of them uncounted; the half of the
	// window that slotsPerBlock holds back is 10 minutes of 80 blocks a second by default.
	countSkew = time.Minute
	// slotsPerBlock is what a block takes of a table's deduplication window: a slot for each day that its rows lie in, which are two
	// around midnight and one otherwise.
	slotsPerBlock = 2
	// countAge is how old a count of stored blocks may be.
	countAge = 2 * time.Second
)

// Outcomes of a block that may have been stored before: values of a metric attribute.
const (
	redoKnown    = "known"     // the ledger has it
	redoToken    = "token"     // inserted under its name, which the table recognises if it has it
	redoPartly   = "partly"    // the ledger has a part of it, the rest was inserted
	redoCompared = "compared"  // beyond the window, or cut in another way: compared with the table
	redoRefused  = "refused"   // beyond the window
	redoSentBack = "sent_back" // ClickHouse lacks what comes before it
	redoSettled  = "settled"   // a later try was refused, and an earlier one had stored it
)

// piece is a part of a block that is to be stored: its rows by an INSERT of their own, and an entry in the ledger.
type piece struct {
	rows     arrow.RecordBatch // the piece owns them; nil: there is nothing to insert
	token    string
	entry    ledger.Entry
	hasEntry bool        // false: the rows did not come in a block
	block    block.Block // whose range is the piece's
	isStored bool        // the table has its rows, the ledger lacks the entry
	compared bool        // rows were looked for in the table
}

func (p *piece) release() {
	if p.rows != nil {
		p.rows.Release()
		p.rows = nil
	}
}

// extent is a range of offsets, both inclusive.
type extent struct{ first, last int64 }

// pieces says what of a block is to be stored. Mostly that is the block. Where the partition's view says that it may be stored, the
// ledger comes first: what it has is left out. The rest may have been stored just before a crash:
//
//	under the same name, by this worker or one whose begun blocks the group knew -> the deduplication token decides, as long as
//	                                                                                the table remembers it; after that, beyond_window
//	cut in another way, by a worker that nobody knows of                         -> its rows are compared with the table's
func (e *chExporter) pieces(ctx context.Context, v *view, b block.Block, rec arrow.RecordBatch, now time.Time) ([]piece, error) {
	again := mayBeStored(b, now)
	if err := e.look(ctx, v, b, rec, again); err != nil {
		return nil, err
	}
	other := !b.Redo && b.First < v.clear
	if !again && !other {
		return []piece{e.whole(b, rec, now)}, nil
	}
	have, err := e.entriesOf(ctx, v, b)
	if err != nil {
		return nil, err
	}
	left := uncovered(extentOf(b), have)
	if len(left) == 0 {
		e.tel.redone(redoKnown)
		return nil, nil
	}
	beyond := ""
	if !other {
		if beyond, err = e.beyondWindow(ctx, b, now); err != nil {
			return nil, err
		}
	}
	switch {
	case other:
		e.tel.redone(redoCompared)
	case len(have) == 0 && beyond == "":
		e.tel.redone(redoToken)
		return []piece{e.whole(b, rec, now)}, nil
	case beyond == "":
		e.tel.redone(redoPartly)
	case e.cfg.BeyondWindow == BeyondRefuse:
		e.tel.redone(redoRefused)
		return nil, &storeError{class: retryable, code: codeWindow, cause: fmt.Errorf("the block may be stored already, but %s", beyond), hint: e.adviceBeyond(b)}
	default:
		e.tel.redone(redoCompared)
	}
	return e.parts(ctx, v, b, left, rec, now, other || beyond != "")
}

// parts are the pieces of b at the extents that the ledger lacks.
func (e *chExporter) parts(ctx context.Context, v *view, b block.Block, left []extent, rec arrow.RecordBatch, now time.Time, compare bool) (out []piece, err error) {
	defer func() {
		if err != nil {
			for i := range out {
				out[i].release()
			}
		}
	}()
	for i, x := range left {
		runs, lacks := []run{{extent: x}}, func(int) bool { return true }
		if compare && rec != nil {
			stored, err := e.storedRows(ctx, v, b, x, rec)
			if err != nil {
				return out, err
			}
			runs, lacks = runsOf(x, rec, stored), func(row int) bool { return !stored(row) }
		}
		for j, r := range runs {
			last := i == len(left)-1 && j == len(runs)-1
			p, err := e.part(b, r, last, rec, lacks, now)
			if err != nil {
				return out, err
			}
			p.compared = compare
			out = append(out, p)
		}
	}
	return out, nil
}

// extentOf is a block's range.
func extentOf(b block.Block) extent { return extent{b.First, b.Last} }

// mayBeStored: an owner before this one, or this one before it was frozen, may have inserted the block.
func mayBeStored(b block.Block, now time.Time) bool {
	return b.Redo || !b.Intended.IsZero() && now.Sub(b.Intended) > redoAge
}

// whole is the block as it came.
func (e *chExporter) whole(b block.Block, rec arrow.RecordBatch, now time.Time) piece {
	p := piece{block: b, token: b.Name(), entry: ledger.Of(b, 0, 0, now), hasEntry: true}
	if rec != nil {
		rec.Retain()
		p.rows = rec
		p.entry.Rows, p.entry.IDSum = sums(rec, func(int) bool { return true })
	}
	return p
}

// part is the piece of b within r. Its name is that of the half that a refused block was divided into, if r is one: so is its token.
// The last part has all rows that do not say where they lie. lacks says which rows the table lacks.
func (e *chExporter) part(b block.Block, r run, last bool, rec arrow.RecordBatch, lacks func(row int) bool, now time.Time) (piece, error) {
	part := b
	part.First, part.Last = r.first, r.last
	if b.Account != nil {
		part.Events = int(b.Account.Within(r.first, r.last).Events)
	}
	p := piece{block: part, token: part.Name(), entry: ledger.Of(part, 0, 0, now), hasEntry: true, isStored: r.stored}
	if rec != nil {
		offsets := columnOf[*array.Int64](rec, "kafka_offset").Int64Values()
		mine := func(row int) bool {
			o := offsets[row]
			return o >= r.first && o <= r.last || last && (o < b.First || o > b.Last)
		}
		p.entry.Rows, p.entry.IDSum = sums(rec, mine)
		if !r.stored {
			var err error
			if p.rows, err = selectRows(e.mem, rec, func(row int) bool { return mine(row) && lacks(row) }); err != nil {
				return piece{}, err
			}
		}
	}
	return p, nil
}

// toVerify are the sums of what the table must have after the piece's INSERT; nil: the INSERT's answer is enough.
func (p *piece) toVerify() map[int64]sum {
	if !p.compared || p.rows == nil {
		return nil
	}
	return recordSums(p.rows, extentOf(p.block))
}

// uncovered is what of x no entry covers, in order. The entries are in order.
func uncovered(x extent, have []entryRow) []extent {
	var out []extent
	next := x.first
	for _, h := range have {
		if h.First > next {
			out = append(out, extent{next, min(h.First-1, x.last)})
		}
		next = max(next, h.Last+1)
		if next > x.last {
			return out
		}
	}
	return append(out, extent{next, x.last})
}

// beyondWindow says why the table can no longer be trusted to recognise the block; empty: it can.
func (e *chExporter) beyondWindow(ctx context.Context, b block.Block, now time.Time) (string, error) {
	if b.Intended.IsZero() {
		return "when it was first tried is not known", nil
	}
	if age := now.Sub(b.Intended) + clockSkew; age > e.cfg.DeduplicationPeriod {
		return fmt.Sprintf("it was first tried at %s, and deduplication_period is %v (less %v for clocks that differ)",
			b.Intended.UTC().Format(time.RFC3339), e.cfg.DeduplicationPeriod, clockSkew), nil
	}
	since, err := e.storedSince(ctx, b.Signal, b.Intended.Add(-countSkew))
	if err != nil {
		return "", notStored("count the entries of table "+e.schema.name(e.cfg.ledgerName()), err)
	}
	if since*slotsPerBlock >= e.cfg.DeduplicationWindow {
		return fmt.Sprintf("%d blocks were stored since, which may take %d places each of deduplication_window %d", since, slotsPerBlock, e.cfg.DeduplicationWindow), nil
	}
	return "", nil
}

// counted is a count of entries, for blocks that ask the same soon after.
type counted struct {
	mu    sync.Mutex
	since time.Time
	at    time.Time
	n     int
}

// storedSince counts the blocks of the table, of all partitions: so its deduplication window does.
func (e *chExporter) storedSince(ctx context.Context, s signal.Signal, since time.Time) (int, error) {
	c := &e.count
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.Equal(since) && time.Since(c.at) < countAge {
		return c.n, nil
	}
	at := time.Now()
	found, err := row[struct {
		N int `json:"n"`
	}](ctx, e.client, "SELECT count() AS n FROM "+e.schema.quoted(e.cfg.ledgerName())+" WHERE signal = {signal:String} AND written_time >= fromUnixTimestamp64Milli({since:Int64})",
		map[string]string{"signal": s.String(), "since": decimal(since.UnixMilli())})
	if err != nil {
		return 0, err
	}
	c.since, c.at, c.n = since, at, found.N
	return c.n, nil
}

func (e *chExporter) adviceBeyond(b block.Block) string {
	if e.cfg.Rows != columns.RowsEvents {
		return fmt.Sprintf("it waits for you: beyond_window: compare stores exactly what of it table %s lacks", e.schema.name(e.table.Name))
	}
	return fmt.Sprintf("it waits for you: `pulsegrid audit --range %s` says whether %s is stored; beyond_window: compare stores exactly what of it the table lacks",
		b, e.schema.name(e.table.Name))
}

// selectRows are the rows that are wanted, as one batch that the caller releases; nil where there are none. One: ClickHouse
// takes the same rows in two batches for another insert than the same rows in one, whatever their token.
func selectRows(mem memory.Allocator, rec arrow.RecordBatch, want func(row int) bool) (arrow.RecordBatch, error) {
	var runs []arrow.RecordBatch
	defer func() {
		for _, r := range runs {
			r.Release()
		}
	}()
	n := int(rec.NumRows())
	for from := 0; from < n; {
		to := from
		for to < n && want(to) {
			to++
		}
		if to > from {
			runs = append(runs, rec.NewSlice(int64(from), int64(to)))
		}
		from = to + 1
	}
	switch len(runs) {
	case 0:
		return nil, nil
	case 1:
		runs[0].Retain()
		return runs[0], nil
	}
	var selected int64
	for _, r := range runs {
		selected += r.NumRows()
	}
	cols := make([]arrow.Array, 0, rec.NumCols())
	defer func() {
		for _, c := range cols {
			c.Release()
		}
	}()
	for i := range int(rec.NumCols()) {
		parts := make([]arrow.Array, len(runs))
		for j, r := range runs {
			parts[j] = r.Column(i)
		}
		c, err := array.Concatenate(parts, mem)
		if err != nil {
			return nil, &storeError{class: permanent, code: codeBuild, cause: fmt.Errorf("join rows of column %s: %w", rec.ColumnName(i), err)}
		}
		cols = append(cols, c)
	}
	return array.NewRecordBatch(rec.Schema(), cols, selected), nil
}

// sums are the number of some rows and the sum of their event ids.
func sums(rec arrow.RecordBatch, of func(row int) bool) (n int64, idSum uint64) {
	ids := columnOf[*array.FixedSizeBinary](rec, "event_id")
	for row := range ids.Len() {
		if of(row) {
			n, idSum = n+1, idSum+ledger.IDSum(ids.Value(row))
		}
	}
	return n, idSum
}

func columnOf[A arrow.Array](rec arrow.RecordBatch, name string) A {
	return rec.Column(rec.Schema().FieldIndices(name)[0]).(A)
}
