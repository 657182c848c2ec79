package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
)

// expectation is what one store must have of one partition's range, as the recount goes on.
type expectation struct {
	store  int // its number
	name   string
	result *StoreResult
	ledger *ledgerCheck // nil: not compared
}

func (x *expectation) within(offset int64) bool {
	return offset >= x.result.First && offset <= x.result.Last
}

func (x *expectation) record(offset, events int64, readable bool, away []bool) {
	if !x.within(offset) {
		return
	}
	if away[x.store] {
		x.result.QuarantinedRecords++
		x.result.QuarantinedEvents += events
	}
	if x.ledger != nil {
		x.ledger.record(offset, events, readable, away[x.store])
	}
}

// expects tells whether the store must have a row of e, and adds it up.
func (x *expectation) expects(e *counted) bool {
	expected := !e.duplicate && !e.away[x.store]
	if expected {
		x.result.Expected.add(e.row)
	}
	if x.ledger != nil {
		x.ledger.event(e, expected, e.away[x.store])
	}
	return expected
}

// join compares a store's rows of one partition, in the order of their places, with the events of Kafka.
type join struct {
	expectation
	topic  string
	cursor *rowCursor // of all partitions of the topic
	report *report

	want, got hash.Hash // of the digests
	stretch   Stretch   // of the events that differ alike; Events 0: none
}

func newJoin(x expectation, topic string, cursor *rowCursor, r *report) *join {
	return &join{expectation: x, topic: topic, cursor: cursor, report: r, want: sha256.New(), got: sha256.New()}
}

func write(h hash.Hash, r row) {
	var b [rowSize]byte
	r.encode(&b)
	_, _ = h.Write(b[:]) // a hash never fails
}

// take gives the store's next row if it lies at p.
func (j *join) take(p place) (row, bool, error) {
	r, ok := j.cursor.peek()
	if !ok || r.place() != p {
		return row{}, false, nil
	}
	if err := j.cursor.next(); err != nil {
		return row{}, false, err
	}
	j.result.Got.add(r)
	write(j.got, r)
	return r, true, nil
}

// until reports the rows before p: Kafka has no such events.
func (j *join) until(p place) error {
	for {
		r, ok := j.cursor.peek()
		if !ok || r.place().compare(p) >= 0 {
			return nil
		}
		if _, _, err := j.take(r.place()); err != nil {
			return err
		}
		j.differs(Foreign, r, nil, "Kafka has no such event")
	}
}

// unreadable is a record that nobody can read. It must be in quarantine.
func (j *join) unreadable(partition int32, offset int64, away []bool) {
	if j.within(offset) && !away[j.store] {
		j.differs(Lost, row{partition: partition, offset: offset, index: -1}, nil, "the record is not an OTLP request of the topic's signal, and it is not in quarantine")
	}
}

func (j *join) event(e *counted) error {
	if !j.within(e.offset) {
		return nil
	}
	expected := j.expects(e)
	if expected {
		write(j.want, e.row)
	}
	if err := j.until(e.place()); err != nil {
		return err
	}
	var rows int64
	altered := false
	for {
		r, ok, err := j.take(e.place())
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		rows++
		altered = altered || r.hash != e.hash || r.id != e.id
	}
	switch {
	case !expected && rows == 0, expected && rows == 1 && !altered:
		j.ends()
	case !expected:
		kind, why := Doubled, fmt.Sprintf("it is a duplicate of an event at offset %d, and stored all the same", e.duplicateOf)
		if e.away[j.store] {
			kind, why = Foreign, "its record is in quarantine, and stored all the same"
		}
		for range rows {
			j.differs(kind, e.row, nil, why)
		}
	case rows == 0 && e.undecidable:
		j.differs(Undecidable, e.row, nil, "retention has removed the records before")
	case rows == 0:
		j.differs(Lost, e.row, nil, "")
	}
	if expected && rows > 1 {
		for range rows - 1 {
			j.differs(Doubled, e.row, nil, fmt.Sprintf("%d rows", rows))
		}
	}
	if expected && altered {
		j.differs(Altered, e.row, e.cells, "")
	}
	return nil
}

// differs counts an event that differs. Without cells the id is all that was compared.
func (j *join) differs(kind Kind, r row, cells func() [][]byte, detail string) {
	switch kind {
	case Lost:
		j.result.Lost++
	case Doubled:
		j.result.Doubled++
	case Altered:
		j.result.Altered++
	case Foreign:
		j.result.Foreign++
	case Undecidable:
		j.result.Undecidable++
	}
	d := Difference{Store: j.name, Kind: kind, Topic: j.topic, Partition: r.partition, Offset: r.offset, Index: r.index, Detail: detail}
	if r.index >= 0 {
		d.EventID = hex.EncodeToString(r.id[:])
	}
	j.report.difference(d, j.store, cells)
	if j.stretch.Events > 0 && j.stretch.Kind != kind {
		j.ends()
	}
	if j.stretch.Events == 0 {
		j.stretch = Stretch{Store: j.name, Kind: kind, Topic: j.topic, Partition: r.partition, First: r.offset, FirstIndex: r.index}
	}
	j.stretch.Last, j.stretch.LastIndex = r.offset, r.index
	j.stretch.Events++
}

// ends ends a run.
func (j *join) ends() {
	if j.stretch.Events > 0 {
		j.report.stretch(j.stretch)
		j.stretch = Stretch{}
	}
}

// finish reports what is left of the partition.
func (j *join) finish(partition int32) error {
	if err := j.until(place{partition: partition, offset: j.result.Last + 1}); err != nil {
		return err
	}
	j.ends()
	j.result.Expected.Digest, j.result.Got.Digest = hex.EncodeToString(j.want.Sum(nil)), hex.EncodeToString(j.got.Sum(nil))
	return nil
}

// report lists differences, a bounded number of each kind and store.
type report struct {
	cert   *Certificate
	max    int
	listed map[string]int
	// altered are those of which the columns are not yet known.
	altered []alteredRow
}

// alteredRow is a difference whose columns are still to be named.
type alteredRow struct {
	difference int // in cert.Differences
	store      int
	cells      [][]byte // as they must be
}

func newReport(c *Certificate, max int) *report {
	return &report{cert: c, max: max, listed: map[string]int{}}
}

func (r *report) full(list, store string, kind Kind) bool {
	key := list + store + string(kind)
	r.listed[key]++
	return r.listed[key] > r.max
}

func (r *report) difference(d Difference, store int, cells func() [][]byte) {
	if r.full("event", d.Store, d.Kind) {
		return
	}
	if d.Kind == Altered {
		if cells == nil {
			d.Columns = []string{"event_id"}
		} else {
			r.altered = append(r.altered, alteredRow{len(r.cert.Differences), store, cells()})
		}
	}
	r.cert.Differences = append(r.cert.Differences, d)
}

func (r *report) stretch(s Stretch) {
	if !r.full("stretch", s.Store, s.Kind) {
		r.cert.Stretches = append(r.cert.Stretches, s)
	}
}

func (r *report) ledgerFault(f LedgerFault) {
	if !r.full("ledger", f.Store, "") {
		r.cert.LedgerFaults = append(r.cert.LedgerFaults, f)
	}
}
