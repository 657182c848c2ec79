package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
)

// expectation is what one store must have of one partition's range, as the recount goes on.
type expectation struct {
	store  int // its number
	name   string
	former *formerTopic
	erased *erasures
	result *certificate.StoreResult
	ledger *ledgerCheck // nil: not compared
}

func (x *expectation) within(offset int64) bool {
	return offset >= x.result.First && offset <= x.result.Last
}

func (x *expectation) record(d *decoded) {
	if !x.within(d.offset) {
		return
	}
	away := &d.away[x.store]
	gone := int64(len(away.events))
	if away.whole {
		x.result.QuarantinedRecords++
		gone = int64(d.events())
	}
	x.result.QuarantinedEvents += gone
	if x.ledger != nil {
		x.ledger.record(d, gone, away.whole)
	}
}

// away tells whether the event is in quarantine instead of the store.
func (x *expectation) away(e *counted) bool { return e.record.away[x.store].has(e.Index) }

// expects tells whether the store must have a row of e, and adds it up.
func (x *expectation) expects(e *counted) bool {
	expected := !e.copy() && !x.away(e)
	if expected {
		stored.Add(&x.result.Expected, e.Row)
	}
	if x.ledger != nil {
		x.ledger.event(e, expected, x.away(e))
	}
	return expected
}

// join compares a store's rows of one partition, in the order of their places, with the events of Kafka.
type join struct {
	expectation
	topic  string
	cursor *stored.Cursor // of all partitions of the topic
	report *report

	missing   func(Missing) error         // Config.Missing; nil: nobody asks
	lost      map[*decoded]map[int32]bool // of the chunk, by position
	want, got hash.Hash                   // of the digests
	stretch   certificate.Stretch         // of the events that differ alike; Events 0: none
}

func newJoin(x expectation, topic string, cursor *stored.Cursor, r *report) *join {
	return &join{expectation: x, topic: topic, cursor: cursor, report: r, want: sha256.New(), got: sha256.New()}
}

// next gives the store's next row, which Peek has shown, as one of the present topic.
func (j *join) next(r stored.Row) error {
	stored.Add(&j.result.Got, r)
	r.Digest(j.got)
	return j.cursor.Next()
}

// until reports the rows before p: Kafka has no such events.
func (j *join) until(p stored.Place) error {
	for {
		r, ok := j.cursor.Peek()
		if !ok || r.Place().Compare(p) >= 0 {
			return nil
		}
		if j.former.has(r) {
			if err := j.ofFormer(); err != nil {
				return err
			}
			continue
		}
		if err := j.next(r); err != nil {
			return err
		}
		j.differs(certificate.Foreign, r, nil, "Kafka has no such event")
	}
}

// ofFormer goes on after a row of a former topic.
func (j *join) ofFormer() error {
	j.result.Former++
	return j.cursor.Next()
}

// rowsAt takes the store's rows at the place of e. Other ones than e's own may be of a former topic.
func (j *join) rowsAt(e *counted) (rows int64, altered bool, err error) {
	for {
		r, ok := j.cursor.Peek()
		if !ok || r.Place() != e.Place() {
			return rows, altered, nil
		}
		own := r.ID == e.ID && r.Received == e.Received
		if !own && j.former.has(r) {
			err = j.ofFormer()
		} else {
			rows++
			altered = altered || r.Hash != e.Hash || r.ID != e.ID
			err = j.next(r)
		}
		if err != nil {
			return rows, altered, err
		}
	}
}

// unreadable is a record that nobody can read. It must be in quarantine.
func (j *join) unreadable(d *decoded) {
	if j.within(d.offset) && !d.away[j.store].whole {
		j.differs(certificate.Lost, stored.Row{Partition: d.origin.Partition, Offset: d.offset, Index: -1}, nil, "the record is not an OTLP request of the topic's signal, and it is not in quarantine")
	}
}

func (j *join) event(e *counted) error {
	if !j.within(e.Offset) {
		return nil
	}
	expected := j.expects(e)
	if expected {
		e.Digest(j.want)
	}
	if err := j.until(e.Place()); err != nil {
		return err
	}
	rows, altered, err := j.rowsAt(e)
	if err != nil {
		return err
	}
	switch {
	case !expected && rows == 0, expected && rows == 1 && !altered:
		j.ends()
	case !expected:
		kind, why := certificate.Doubled, fmt.Sprintf("it is a copy of %d#%d by rule %s, and stored all the same", e.verdict.Of.Offset, e.verdict.Of.Position, e.verdict.Rule)
		if j.away(e) {
			kind, why = certificate.Foreign, "it is in quarantine, and stored all the same"
		}
		for range rows {
			j.differs(kind, e.Row, nil, why)
		}
	case rows == 0 && j.erased.explain(j.name, e):
		j.result.Erased++
		j.ends()
	case rows == 0 && e.undecidable:
		j.differs(certificate.Undecidable, e.Row, nil, "retention has removed the records before")
	case rows == 0:
		why := ""
		if e.verdict.Differs {
			why = fmt.Sprintf("it is no copy: its header says that it is %d#%d once more, and their contents differ", e.verdict.Of.Offset, e.verdict.Of.Position)
		}
		j.differs(certificate.Lost, e.Row, nil, why)
		if j.missing != nil {
			if j.lost[e.record] == nil {
				j.lost[e.record] = map[int32]bool{}
			}
			j.lost[e.record][e.Index] = true
		}
	}
	if expected && rows > 1 {
		for range rows - 1 {
			j.differs(certificate.Doubled, e.Row, nil, fmt.Sprintf("%d rows", rows))
		}
	}
	if expected && altered {
		j.differs(certificate.Altered, e.Row, e.cells, "")
	}
	return nil
}

// chunk hands on what the store has lost of the records.
func (j *join) chunk(records []*decoded) error {
	if len(j.lost) == 0 {
		return nil
	}
	for _, d := range records { // in their order
		if lost := j.lost[d]; lost != nil {
			d.data.keep(lost)
			err := j.missing(Missing{Topic: j.topic, Signal: d.data.signal, Logs: d.data.logs, Metrics: d.data.metrics, Traces: d.data.traces, Events: len(lost)})
			if err != nil {
				return err
			}
		}
	}
	clear(j.lost)
	return nil
}

// differs counts an event that differs. Without cells the id is all that was compared.
func (j *join) differs(kind certificate.Kind, r stored.Row, cells func() [][]byte, detail string) {
	switch kind {
	case certificate.Lost:
		j.result.Lost++
	case certificate.Doubled:
		j.result.Doubled++
	case certificate.Altered:
		j.result.Altered++
	case certificate.Foreign:
		j.result.Foreign++
	case certificate.Undecidable:
		j.result.Undecidable++
	}
	d := certificate.Difference{Store: j.name, Kind: kind, Topic: j.topic, Partition: r.Partition, Offset: r.Offset, Index: r.Index, Detail: detail}
	if r.Index >= 0 {
		d.EventID = hex.EncodeToString(r.ID[:])
	}
	j.report.difference(d, j.store, cells)
	if j.stretch.Events > 0 && j.stretch.Kind != kind {
		j.ends()
	}
	if j.stretch.Events == 0 {
		j.stretch = certificate.Stretch{Store: j.name, Kind: kind, Topic: j.topic, Partition: r.Partition, First: r.Offset, FirstIndex: r.Index}
	}
	j.stretch.Last, j.stretch.LastIndex = r.Offset, r.Index
	j.stretch.Events++
}

// ends ends a run.
func (j *join) ends() {
	if j.stretch.Events > 0 {
		j.report.stretch(j.stretch)
		j.stretch = certificate.Stretch{}
	}
}

// finish reports what is left of the partition.
func (j *join) finish(partition int32) error {
	if err := j.until(stored.Place{Partition: partition, Offset: j.result.Last + 1}); err != nil {
		return err
	}
	j.ends()
	j.result.Expected.Digest, j.result.Got.Digest = hex.EncodeToString(j.want.Sum(nil)), hex.EncodeToString(j.got.Sum(nil))
	return nil
}

// report lists differences, a bounded number of each kind and store.
type report struct {
	cert   *certificate.Certificate
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

func newReport(c *certificate.Certificate, max int) *report {
	return &report{cert: c, max: max, listed: map[string]int{}}
}

func (r *report) full(list, store string, kind certificate.Kind) bool {
	key := list + store + string(kind)
	r.listed[key]++
	return r.listed[key] > r.max
}

func (r *report) difference(d certificate.Difference, store int, cells func() [][]byte) {
	if r.full("event", d.Store, d.Kind) {
		return
	}
	if d.Kind == certificate.Altered {
		if cells == nil {
			d.Columns = []string{"event_id"}
		} else {
			r.altered = append(r.altered, alteredRow{len(r.cert.Differences), store, cells()})
		}
	}
	r.cert.Differences = append(r.cert.Differences, d)
}

func (r *report) stretch(s certificate.Stretch) {
	if !r.full("stretch", s.Store, s.Kind) {
		r.cert.Stretches = append(r.cert.Stretches, s)
	}
}

func (r *report) ledgerFault(f certificate.LedgerFault) {
	if !r.full("ledger", f.Store, "") {
		r.cert.LedgerFaults = append(r.cert.LedgerFaults, f)
	}
}
