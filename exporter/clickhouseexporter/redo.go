package clickhouseexporter

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
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
	// entriesMax bounds the ledger entries that one block's range may overlap.
	entriesMax = 20_000
)

// Outcomes of a block that may have been stored before: values of a metric attribute.
const (
	redoKnown    = "known"    // the ledger has it
	redoToken    = "token"    // inserted under its name, which the table recognises if it has it
	redoPartly   = "partly"   // the ledger has a part of it, the rest was inserted
	redoCompared = "compared" // beyond the window, compared with the table
	redoRefused  = "refused"  // beyond the window
)

// piece is a part of a block that is to be stored: its rows by an INSERT of their own, and an entry in the ledger.
type piece struct {
	rows     arrow.RecordBatch // the piece owns them; nil: there is nothing to insert
	token    string
	entry    ledger.Entry
	hasEntry bool // false: the rows did not come in a block
}

func (p *piece) release() {
	if p.rows != nil {
		p.rows.Release()
		p.rows = nil
	}
}

// extent is a range of offsets, both inclusive.
type extent struct{ first, last int64 }

type entryRow struct {
	First       int64 `json:"first_offset"`
	Last        int64 `json:"last_offset"`
	Events      int64 `json:"events"`
	Duplicates  int64 `json:"duplicates"`
	Quarantined int64 `json:"quarantined"`
}

// pieces says what of a block is to be stored. Mostly that is the block. One that may have been stored before is looked up in the
// ledger, which has an entry for whatever is stored: what it has is left out. For the rest the ledger knows nothing, and rows may
// have been stored just before a crash. Then the deduplication token decides, which is the same as then, as long as the table
// remembers it; after that, beyond_window.
func (e *chExporter) pieces(ctx context.Context, b block.Block, rec arrow.RecordBatch, now time.Time) ([]piece, error) {
	if !mayBeStored(b, now) {
		return []piece{e.whole(b, rec, now)}, nil
	}
	have, err := e.entriesOf(ctx, b)
	if err != nil {
		return nil, notStored("look the block up in table "+e.schema.name(e.cfg.ledgerName()), err)
	}
	left := uncovered(extent{b.First, b.Last}, have)
	if len(left) == 0 {
		e.tel.redone(redoKnown)
		return nil, nil
	}
	beyond, err := e.beyondWindow(ctx, b, now)
	if err != nil {
		return nil, err
	}
	var out []piece
	switch {
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
	rest := ledger.Of(b, 0, 0, now)
	for _, h := range have {
		if h.First >= b.First && h.Last <= b.Last {
			rest.Events, rest.Duplicates, rest.Quarantined = rest.Events-h.Events, rest.Duplicates-h.Duplicates, rest.Quarantined-h.Quarantined
		}
	}
	for i, x := range left {
		p, err := e.part(ctx, b, x, i == len(left)-1, rec, &rest, beyond != "")
		if err != nil {
			for _, done := range out {
				done.release()
			}
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// mayBeStored: an owner before this one, or this one before it was frozen, may have inserted the block.
func mayBeStored(b block.Block, now time.Time) bool {
	return b.Redo || !b.Intended.IsZero() && now.Sub(b.Intended) > redoAge
}

// whole is the block as it came.
func (e *chExporter) whole(b block.Block, rec arrow.RecordBatch, now time.Time) piece {
	p := piece{token: b.String(), entry: ledger.Of(b, 0, 0, now), hasEntry: true}
	if rec != nil {
		rec.Retain()
		p.rows = rec
		p.entry.Rows, p.entry.IDSum = sums(rec)
	}
	return p
}

// part is what of a block lies in x. Its name is that of the half that a refused block was divided into, if x is one: so is its token.
// The last part has all events that do not say where they lie, and what is left of the block's account: where duplicates lay that
// were removed is not known here.
func (e *chExporter) part(ctx context.Context, b block.Block, x extent, last bool, rec arrow.RecordBatch, rest *ledger.Entry, compare bool) (piece, error) {
	name := b
	name.First, name.Last = x.first, x.last
	p := piece{token: name.String(), entry: *rest, hasEntry: true}
	p.entry.First, p.entry.Last = x.first, x.last
	if rec != nil {
		mine := func(offset int64) bool {
			return offset >= x.first && offset <= x.last || last && (offset < b.First || offset > b.Last)
		}
		var err error
		if p.rows, err = selectRows(e.mem, rec, mine); err != nil {
			return piece{}, err
		}
		p.entry.Rows, p.entry.IDSum = sums(p.rows)
		if compare && p.rows != nil {
			if err := e.withoutStored(ctx, &p, rec, mine); err != nil {
				p.release()
				return piece{}, err
			}
		}
	}
	if last {
		p.entry.Events, p.entry.Duplicates, p.entry.Quarantined = max(rest.Events, p.entry.Rows), max(rest.Duplicates, 0), max(rest.Quarantined, 0)
	} else {
		p.entry.Events, p.entry.Duplicates, p.entry.Quarantined = p.entry.Rows, 0, 0
		rest.Events -= p.entry.Rows
	}
	return p, nil
}

// withoutStored takes the records out of p that the table holds. A record's rows lie in one day, so they were stored together or not at
// all. The token names exactly what is left: the block's own may still be remembered for rows that somebody has deleted since.
func (e *chExporter) withoutStored(ctx context.Context, p *piece, rec arrow.RecordBatch, mine func(int64) bool) error {
	oldest, newest := receivedRange(p.rows)
	found, err := rows[struct {
		Offsets []int64 `json:"offsets"`
	}](ctx, e.client, "SELECT arraySort(groupUniqArray(kafka_offset)) AS offsets FROM "+e.schema.quoted(e.table.Name)+
		" WHERE kafka_topic = {topic:String} AND kafka_partition = {partition:Int32} AND kafka_offset BETWEEN {first:Int64} AND {last:Int64}"+
		" AND ingest_time BETWEEN fromUnixTimestamp64Nano({oldest:Int64}) AND fromUnixTimestamp64Nano({newest:Int64})", map[string]string{
		"topic": p.entry.Topic, "partition": decimal(int64(p.entry.Partition)), "first": decimal(p.entry.First), "last": decimal(p.entry.Last),
		"oldest": decimal(oldest), "newest": decimal(newest),
	})
	if err != nil {
		return notStored("look for the block's rows in table "+e.schema.name(e.table.Name), err)
	}
	stored := map[int64]bool{}
	for _, row := range found {
		for _, o := range row.Offsets {
			stored[o] = true
		}
	}
	p.release()
	if p.rows, err = selectRows(e.mem, rec, func(offset int64) bool { return mine(offset) && !stored[offset] }); err != nil {
		return err
	}
	n, sum := sums(p.rows)
	p.token += fmt.Sprintf("/compared/%d/%x", n, sum)
	return nil
}

// entriesOf are the ledger's entries that overlap b, in order.
func (e *chExporter) entriesOf(ctx context.Context, b block.Block) ([]entryRow, error) {
	found, err := rows[entryRow](ctx, e.client, "SELECT first_offset, last_offset, events, duplicates, quarantined FROM "+e.schema.quoted(e.cfg.ledgerName())+" FINAL"+
		" WHERE kafka_topic = {topic:String} AND kafka_partition = {partition:Int32} AND first_offset <= {last:Int64} AND last_offset >= {first:Int64}"+
		" ORDER BY first_offset, last_offset LIMIT "+decimal(entriesMax+1), map[string]string{
		"topic": b.Topic, "partition": decimal(int64(b.Partition)), "first": decimal(b.First), "last": decimal(b.Last),
	})
	if err == nil && len(found) > entriesMax {
		err = fmt.Errorf("more than %d entries overlap it: look what writes them", entriesMax)
	}
	return found, err
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
	found, err := rows[struct {
		N int `json:"n"`
	}](ctx, e.client, "SELECT count() AS n FROM "+e.schema.quoted(e.cfg.ledgerName())+" WHERE signal = {signal:String} AND written_time >= fromUnixTimestamp64Milli({since:Int64})",
		map[string]string{"signal": b.Signal.String(), "since": decimal(b.Intended.Add(-countSkew).UnixMilli())})
	if err != nil {
		return "", notStored("count the entries of table "+e.schema.name(e.cfg.ledgerName()), err)
	}
	if since := found[0].N; since*slotsPerBlock >= e.cfg.DeduplicationWindow {
		return fmt.Sprintf("%d blocks were stored since, which may take %d places each of deduplication_window %d", since, slotsPerBlock, e.cfg.DeduplicationWindow), nil
	}
	return "", nil
}

func (e *chExporter) adviceBeyond(b block.Block) string {
	if e.cfg.Rows != columns.RowsEvents {
		return fmt.Sprintf("it waits for you: beyond_window: compare stores exactly what of it table %s lacks", e.schema.name(e.table.Name))
	}
	return fmt.Sprintf("it waits for you: `pulsegrid audit --range %s` says whether %s is stored; beyond_window: compare stores exactly what of it the table lacks",
		b, e.schema.name(e.table.Name))
}

// selectRows are the rows whose offsets are wanted, as one batch that the caller releases; nil where there are none. One: ClickHouse
// takes the same rows in two batches for another insert than the same rows in one, whatever their token.
func selectRows(mem memory.Allocator, rec arrow.RecordBatch, want func(offset int64) bool) (arrow.RecordBatch, error) {
	var runs []arrow.RecordBatch
	defer func() {
		for _, r := range runs {
			r.Release()
		}
	}()
	offsets := columnOf[*array.Int64](rec, "kafka_offset").Int64Values()
	for from := 0; from < len(offsets); {
		to := from
		for to < len(offsets) && want(offsets[to]) {
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
	var n int64
	for _, r := range runs {
		n += r.NumRows()
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
	return array.NewRecordBatch(rec.Schema(), cols, n), nil
}

// sums are the number of rows and the sum of their event ids.
func sums(rec arrow.RecordBatch) (n int64, idSum uint64) {
	if rec == nil {
		return 0, 0
	}
	ids := columnOf[*array.FixedSizeBinary](rec, "event_id")
	for i := range ids.Len() {
		idSum += ledger.IDSum(ids.Value(i))
	}
	return rec.NumRows(), idSum
}

func columnOf[A arrow.Array](rec arrow.RecordBatch, name string) A {
	return rec.Column(rec.Schema().FieldIndices(name)[0]).(A)
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
