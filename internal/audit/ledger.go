package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// ledgerCheck compares a store's ledger of one partition with the recount, while the recount goes on. Entries that reach beyond the range on
// either side can be checked for holes only.
//
// Rows and id_sum must be right in each entry. A block that was stored in parts has an entry a part, and where its duplicates and quarantined
// events lay is not known then: all but the last part say that there were none. So those numbers must be right over such entries together.
type ledgerCheck struct {
	store    string
	result   *certificate.LedgerResult
	report   *report
	entries  []ledger.Entry // in the order of their offsets
	whole    func(ledger.Entry) bool
	deaf     bool // one tenant only was asked for: counts are not comparable
	finished bool // the range ends where the store's group has finished: there are no more parts behind it

	at   int // the entry that the recount is in
	seen tally

	// Parts so far of which the counts are not yet right.
	parts []ledger.Entry
	short counts // what they have too little
}

// partsMax bounds the parts of one block.
const partsMax = 64

// counts of an entry but its rows.
type counts struct{ events, duplicates, quarantined int64 }

func (c counts) plus(o counts, factor int64) counts {
	return counts{c.events + factor*o.events, c.duplicates + factor*o.duplicates, c.quarantined + factor*o.quarantined}
}

// tally is what an entry must say.
type tally struct {
	counts
	rows      int64
	ids       uint64
	uncertain bool // it holds undecidable events
	uncounted bool // it holds records in quarantine whose events only the data path could count
}

// newLedgerCheck checks that the entries tile the range, and is then told of the range's records.
func newLedgerCheck(store string, rg certificate.Range, entries []ledger.Entry, deaf bool, result *certificate.LedgerResult, r *report) *ledgerCheck {
	c := &ledgerCheck{store: store, result: result, report: r, deaf: deaf}
	for _, e := range entries {
		if e.Partition == rg.Partition && e.Last >= rg.First && e.First <= rg.Last {
			c.entries = append(c.entries, e)
		}
	}
	slices.SortFunc(c.entries, func(a, b ledger.Entry) int { return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last)) })
	c.whole = func(e ledger.Entry) bool { return e.First >= rg.First && e.Last <= rg.Last }
	result.Entries = int64(len(c.entries))
	c.tiles(rg)
	return c
}

func (c *ledgerCheck) fault(kind string, rg certificate.Range, format string, args ...any) {
	c.result.Faults++
	c.report.ledgerFault(certificate.LedgerFault{Store: c.store, Range: rg, Kind: kind, Detail: fmt.Sprintf(format, args...)})
}

func (c *ledgerCheck) tiles(rg certificate.Range) {
	next := rg.First // the offset that the next entry must begin at; the first one may begin before the range
	for i, e := range c.entries {
		switch {
		case e.First > next:
			c.fault("hole", certificate.Range{Topic: rg.Topic, Partition: rg.Partition, First: next, Last: e.First - 1}, "no entry covers it")
		case e.First < next && i > 0:
			c.fault("overlap", certificate.Range{Topic: rg.Topic, Partition: rg.Partition, First: e.First, Last: min(e.Last, next-1)}, "entries %s and %s both cover it", nameOf(c.entries[i-1]), nameOf(e))
		}
		next = max(next, e.Last+1)
	}
	if next <= rg.Last {
		c.fault("hole", certificate.Range{Topic: rg.Topic, Partition: rg.Partition, First: next, Last: rg.Last}, "no entry covers it")
	}
}

func nameOf(e ledger.Entry) certificate.Range {
	return certificate.Range{Topic: e.Topic, Partition: e.Partition, First: e.First, Last: e.Last}
}

// reach goes on to the entry of an offset.
func (c *ledgerCheck) reach(offset int64) bool {
	for c.at < len(c.entries) && c.entries[c.at].Last < offset {
		c.compare()
		c.at++
		c.seen = tally{}
	}
	return c.at < len(c.entries) && c.entries[c.at].First <= offset
}

// record counts a record of which so many events are in quarantine.
func (c *ledgerCheck) record(d *decoded, gone int64, whole bool) {
	if !c.reach(d.offset) {
		return
	}
	c.seen.quarantined += gone
	c.seen.events += int64(d.events()) - gone
	c.seen.uncounted = c.seen.uncounted || whole && !d.readable
}

func (c *ledgerCheck) event(e *counted, expected, away bool) {
	if !c.reach(e.Offset) {
		return
	}
	c.seen.uncertain = c.seen.uncertain || e.undecidable
	if e.copy() && !away {
		c.seen.duplicates++
	}
	if expected {
		c.seen.rows++
		c.seen.ids += ledger.IDSum(e.ID[:])
	}
}

// compare compares the entry that the recount has gone through.
func (c *ledgerCheck) compare() {
	e := c.entries[c.at]
	if c.deaf || c.seen.uncertain || !c.whole(e) {
		c.parts, c.short = nil, counts{}
		return
	}
	c.result.Compared++
	if e.Rows != c.seen.rows || e.IDSum != c.seen.ids {
		c.fault("wrong", nameOf(e), "rows %d with id_sum %016x, must be %d with %016x; it says events %d, duplicates %d, quarantined %d, where there are %d, %d, %d",
			e.Rows, e.IDSum, c.seen.rows, c.seen.ids, e.Events, e.Duplicates, e.Quarantined, c.seen.events, c.seen.duplicates, c.seen.quarantined)
		return // its other counts are likely wrong as well
	}
	said := counts{e.Events, e.Duplicates, e.Quarantined}
	if c.seen.uncounted {
		said.quarantined = c.seen.quarantined
	}
	c.short = c.short.plus(c.seen.counts, 1).plus(said, -1)
	if c.short == (counts{}) {
		c.parts = nil
		return
	}
	isPart := e.Duplicates == 0 && e.Quarantined == 0 && e.Events == e.Rows
	switch {
	case isPart && len(c.parts) < partsMax:
		c.parts = append(c.parts, e)
		return
	case c.result.Compared == 1 && e.First > 0 && max(c.short.events, c.short.duplicates, c.short.quarantined) <= 0:
		c.short = counts{} // perhaps a last part, and the others lie before the range
		return
	}
	c.parts = append(c.parts, e)
	c.wrongCounts()
}

// wrongCounts ends parts whose counts are not right together.
func (c *ledgerCheck) wrongCounts() {
	first, last := c.parts[0], c.parts[len(c.parts)-1]
	rg := nameOf(first)
	rg.Last = last.Last
	var wrong []string
	for _, n := range []struct {
		name  string
		short int64
	}{{"events", c.short.events}, {"duplicates", c.short.duplicates}, {"quarantined", c.short.quarantined}} {
		if n.short > 0 {
			wrong = append(wrong, fmt.Sprintf("%s %d too few", n.name, n.short))
		} else if n.short < 0 {
			wrong = append(wrong, fmt.Sprintf("%s %d too many", n.name, -n.short))
		}
	}
	detail := strings.Join(wrong, ", ")
	if len(c.parts) > 1 {
		detail += fmt.Sprintf(", in one of %d entries", len(c.parts))
	}
	c.fault("wrong", rg, "%s", detail)
	c.parts, c.short = nil, counts{}
}

// finish compares the last entries.
func (c *ledgerCheck) finish() {
	for c.at < len(c.entries) {
		c.compare()
		c.at++
		c.seen = tally{}
	}
	if len(c.parts) > 0 && c.finished {
		c.wrongCounts()
	}
}

// rowsAgainstLedger compares a store's rows of a range with the entries that lie in it.
func (t *topicAudit) rowsAgainstLedger(i int, rg certificate.Range, cursor *stored.Cursor, result *certificate.StoreResult) error {
	c := newLedgerCheck(result.Store, rg, t.ledgers[i], false, result.Ledger, t.report)
	j := newJoin(expectation{store: i, name: result.Store, result: result}, rg.Topic, cursor, t.report)
	result.Beyond = &certificate.BeyondResult{First: rg.First, Last: rg.Last, Entries: int64(len(c.entries))}
	var previous stored.Place
	sums := make([]tally, len(c.entries))
	erased := t.erased.named(result.Store, rg)
	for at := 0; ; {
		r, ok := cursor.Peek()
		if !ok || r.Partition != rg.Partition {
			break
		}
		if err := cursor.Next(); err != nil {
			return err
		}
		for at < len(c.entries) && c.entries[at].Last < r.Offset {
			at++
		}
		switch {
		case at == len(c.entries) || c.entries[at].First > r.Offset:
			j.differs(certificate.Foreign, r, nil, "Kafka's retention has removed its record, and no ledger entry covers it")
		case result.Beyond.Rows > 0 && previous == r.Place():
			j.differs(certificate.Doubled, r, nil, "Kafka's retention has removed its record")
		default:
			j.ends()
		}
		previous = r.Place()
		result.Beyond.Rows++
		delete(erased, namedEvent{r.Offset, ledger.IDSum(r.ID[:])}) // it is there
		if at < len(c.entries) {
			sums[at].rows++
			sums[at].ids += ledger.IDSum(r.ID[:])
		}
	}
	j.ends()
	// What was erased by name must be exactly what lacks: an entry's rows and id_sum are those that are there and those.
	for e, declaration := range erased {
		n := slices.IndexFunc(c.entries, func(of ledger.Entry) bool { return e.offset >= of.First && e.offset <= of.Last })
		if n < 0 || !c.whole(c.entries[n]) {
			continue
		}
		sums[n].rows++
		sums[n].ids += e.id
		result.Erased++
		t.cert.Erasures[declaration].Events[result.Store]++
	}
	for n, e := range c.entries {
		if lack := e.Rows - sums[n].rows; c.whole(e) && lack > 0 && t.erased.might(result.Store, e) {
			result.Erased += lack
			t.cert.Problem("%s, %s: %d rows lack, and a declared erasure may cover them: Kafka's retention has removed the records that would tell", result.Store, nameOf(e), lack)
			continue
		}
		if c.whole(e) && (e.Rows != sums[n].rows || e.IDSum != sums[n].ids) {
			c.fault("wrong", nameOf(e), "rows %d with id_sum %016x, and the table has %d with %016x", e.Rows, e.IDSum, sums[n].rows, sums[n].ids)
		}
	}
	return nil
}
