package block

import (
	"cmp"
	"slices"
	"sync"
)

// Account is what became of a block's events before the store, record by record: a store may be left to take only some offsets of the
// block. The receiver and the stages add, the store reads. It is safe for concurrent use.
type Account struct {
	mu      sync.Mutex
	records []tallied // in the order of their offsets
}

type tallied struct {
	offset int64
	Tally
}

// Tally counts events of one or several records.
type Tally struct {
	Events      int64 // decoded and delivered; Block.Events is the sum
	Duplicates  int64 // of these, removed by dedupe
	Quarantined int64 // went to quarantine; not part of Events
}

func (t *Tally) add(u Tally) {
	t.Events += u.Events
	t.Duplicates += u.Duplicates
	t.Quarantined += u.Quarantined
}

// Add adds to the tally of the record at an offset.
func (a *Account) Add(offset int64, t Tally) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, found := a.search(offset)
	if !found {
		a.records = slices.Insert(a.records, i, tallied{offset: offset})
	}
	a.records[i].add(t)
}

// Within is the sum of the records from first to last, both inclusive.
func (a *Account) Within(first, last int64) (sum Tally) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, _ := a.search(first)
	for ; i < len(a.records) && a.records[i].offset <= last; i++ {
		sum.add(a.records[i].Tally)
	}
	return sum
}

func (a *Account) search(offset int64) (int, bool) {
	if n := len(a.records); n == 0 || a.records[n-1].offset < offset { // mostly they come in order
		return n, false
	}
	return slices.BinarySearchFunc(a.records, offset, func(r tallied, o int64) int { return cmp.Compare(r.offset, o) })
}
