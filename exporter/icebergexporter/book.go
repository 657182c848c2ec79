package icebergexporter

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// book is where each partition ends in a table, as its properties and the history of its branch say together.
//
// The branch decides: rows and offsets enter the table in one snapshot, so the newest snapshot on the branch that moved a partition tells
// exactly which of its rows the table holds, whoever rolled the branch back or forward, and whatever became of the properties. Properties
// count where the snapshots that moved a partition are expired.
type book struct {
	active, former offsets  // former: of topics that had their names before
	fix            offsets  // entries of active that the properties lack or have wrong: the next commit puts them right
	drop           []string // properties that the branch refutes: the next commit removes them
	counted        bool     // no property is missing, so a partition without an entry is new to the table
}

// errUnknowable stops writing: what the table holds of a partition cannot be told.
var errUnknowable = errors.New("cannot tell which records the table holds")

// readBook reads the book for blocks of the asked partitions.
func readBook(tbl *table.Table, asked []partition) (book, error) {
	props := tbl.Properties()
	b := book{fix: offsets{}}
	var err error
	if b.active, err = readOffsets(props, offsetPrefix); err != nil {
		return b, err
	}
	if b.former, err = readOffsets(props, formerPrefix); err != nil {
		return b, err
	}
	count, hasCount := props[countKey]
	b.counted = count == strconv.Itoa(len(b.active)) || !hasCount && len(tbl.Metadata().Snapshots()) == 0
	h, err := walk(tbl, func(h *history) bool { return b.counted && h.lastMoved && h.hasAll(b, asked) })
	if err != nil {
		return b, err
	}
	b.counted = b.counted || h.end == endTrusted || !hasCount && h.lastMoved && h.uncounted && len(b.active) > 0
	if b.counted && h.lastMoved { // nearly always: properties and branch are of one commit
		for _, a := range asked {
			if as, _, known, _ := b.find(a); known {
				b.reconcile(as, h.newest)
			}
		}
		return b, nil
	}
	for p := range h.newest {
		if !h.succeeded(p) {
			b.reconcile(p, h.newest)
		}
	}
	if h.lastOnBranch || h.end == endTrusted {
		return b, nil
	}
	return b, b.undo(tbl, h)
}

// find returns the partition under which p's offset is kept, and the offset. remade is the partition of the topic that had p's name before,
// where p's topic is new to the table. A block whose topic has no id, and an entry without one, go by the name alone.
func (b book) find(p partition) (as partition, at int64, known bool, remade *partition) {
	for _, o := range []offsets{b.active, b.former} {
		if at, ok := o[p]; ok {
			return p, at, true, nil
		}
	}
	plain := partition{topic: p.topic, id: p.id}
	if p.identified() {
		if other := b.active.identified(p.place()); other != nil {
			return p, 0, false, other
		}
		at, ok := b.active[plain]
		if ok {
			return plain, at, true, nil
		}
		return p, 0, false, nil
	}
	if other := b.active.identified(p.place()); other != nil {
		return *other, b.active[*other], true, nil
	}
	return p, 0, false, nil
}

// identified is the entry of a place that has a topic id: of several, the one whose name is greatest.
func (o offsets) identified(at place) (out *partition) {
	for p := range o {
		if p.place() == at && p.identified() && (out == nil || cmp.Compare(p.key(), out.key()) > 0) {
			out = &p
		}
	}
	return out
}

// reconcile takes the branch's word for a partition.
func (b *book) reconcile(p partition, branch offsets) {
	at, ok := branch[p]
	if !ok {
		return
	}
	if have, ok := b.active[p]; ok && have == at {
		return
	}
	if have, formerly := b.former[p]; formerly {
		if have == at && b.active.identified(p.place()) != nil {
			return
		}
		delete(b.former, p) // a rollback has undone that its topic was made anew
		b.drop = append(b.drop, p.formerProperty())
	}
	b.active[p], b.fix[p] = at, at
}

// succeeded tells whether the branch has a newer entry of p's place: p's topic was made anew, or got its id.
func (h history) succeeded(p partition) bool {
	for other := range h.newest {
		if other != p && other.place() == p.place() && h.order[other] < h.order[p] {
			return true
		}
	}
	return false
}

// undo puts right what the properties count of snapshots that the branch no longer has, though it has no snapshot that moved those
// partitions either: it was rolled back to before, or what it had is expired.
func (b *book) undo(tbl *table.Table, h history) error {
	var baseless []partition
	for p := range b.active {
		if _, ok := h.newest[p]; !ok {
			baseless = append(baseless, p)
		}
	}
	if len(baseless) == 0 {
		return nil
	}
	before, known, err := undone(tbl, h)
	if err != nil {
		return err
	}
	for _, p := range baseless {
		switch at, ok := before[p]; {
		case ok:
			b.active[p], b.fix[p] = at, at
		case known: // the undone snapshots did not move it: what did is expired
		case h.end == endWhole: // no snapshot of the branch moved it
			delete(b.active, p)
			b.drop = append(b.drop, p.property())
			b.counted = false
		}
	}
	return nil
}

// undone returns where partitions were before the snapshots that the properties count and the branch no longer has. known: those
// snapshots were found.
func undone(tbl *table.Table, h history) (before offsets, known bool, err error) {
	last := tbl.Properties()[commitIDKey]
	if last == "" {
		return nil, false, nil
	}
	for _, s := range tbl.Metadata().Snapshots() {
		if commitID(&s) != last {
			continue
		}
		before, joined, err := h.beforeAll(tbl, &s)
		switch {
		case err != nil:
			return nil, false, err
		case joined:
			return before, true, nil
		case h.end == endWhole:
			return nil, false, nil // the whole branch is known: what it did not move, it has nothing of
		case h.oldest.SequenceNumber > s.SequenceNumber:
			return nil, true, nil // what lies between was expired, and this one kept by a tag: it is on the branch, as far as one can tell
		}
		return nil, false, unknowable(tbl, "the table was rolled back, and of the snapshots that this undid some are expired")
	}
	if h.end == endCut && h.newestSequence < tbl.Metadata().LastSequenceNumber() {
		return nil, false, unknowable(tbl, "the table was rolled back, and the snapshots that this undid are expired")
	}
	return nil, h.end == endCut, nil // cut: taken for expired, as a compaction and an expiry leave it
}

// beforeAll returns where partitions were before an undone snapshot and those before it. joined: down to the branch, none is missing.
func (h history) beforeAll(tbl *table.Table, tip *table.Snapshot) (before offsets, joined bool, err error) {
	before = offsets{}
	for snap := tip; snap != nil; snap = parent(tbl, snap) { // newest first: the oldest's word is the last
		if h.snapshots[snap.SnapshotID] {
			return before, true, nil
		}
		at, err := readOffsets(summaryOf(snap), beforePrefix)
		if err != nil {
			return nil, false, fmt.Errorf("summary of snapshot %d, which was rolled back: %w", snap.SnapshotID, err)
		}
		maps.Copy(before, at)
		switch up := snap.ParentSnapshotID; {
		case up == nil:
			joined = h.end == endWhole // else the branch may lead here, behind the snapshots that are expired
		case h.end == endCut && *up == *h.oldest.ParentSnapshotID:
			joined = true // they part at a snapshot that is expired
		}
	}
	return before, joined, nil
}

// unknowable says what an operator can do.
func unknowable(tbl *table.Table, why string) error {
	return fmt.Errorf("%w: %s: set its properties %s* to where its rows end (max(kafka_offset)+1 of each topic and partition), and %s to %d, its current snapshot",
		errUnknowable, why, offsetPrefix, trustKey, currentSnapshot(tbl))
}

// ending says why a walk along the branch ended.
type ending int

const (
	endEarly   ending = iota // all was found
	endWhole                 // at the branch's first snapshot
	endCut                   // at a snapshot whose parent is expired
	endTrusted               // at the snapshot as of which the operator vouches for the properties
)

// history is the current branch, newest first, as far as it was walked.
type history struct {
	newest         offsets           // by the newest snapshot that moved each partition
	order          map[partition]int // how many snapshots are newer than that
	snapshots      map[int64]bool
	oldest         *table.Snapshot
	newestSequence int64
	uncounted      bool // the newest snapshot that moved offsets is of a version that did not count them
	lastMoved      bool // the newest snapshot that moved offsets is of the properties' last commit
	lastOnBranch   bool // the properties' last commit is on the branch
	end            ending
}

func walk(tbl *table.Table, enough func(*history) bool) (history, error) {
	h := history{newest: offsets{}, order: map[partition]int{}, snapshots: map[int64]bool{}, end: endWhole}
	last := tbl.Properties()[commitIDKey]
	trusted, _ := strconv.ParseInt(tbl.Properties()[trustKey], 10, 64)
	moved := false
	for snap := tbl.CurrentSnapshot(); snap != nil; snap = parent(tbl, snap) {
		if h.oldest == nil {
			h.newestSequence = snap.SequenceNumber
		}
		if h.snapshots[snap.SnapshotID] {
			return h, fmt.Errorf("snapshot %d is its own ancestor", snap.SnapshotID)
		}
		if snap.SnapshotID == trusted {
			h.end = endTrusted
			return h, nil
		}
		h.snapshots[snap.SnapshotID], h.oldest, h.end = true, snap, endWhole
		if snap.ParentSnapshotID != nil {
			h.end = endCut // unless it is there
		}
		id := commitID(snap)
		if id == "" {
			continue
		}
		at, err := readOffsets(summaryOf(snap), offsetPrefix)
		if err != nil {
			return h, fmt.Errorf("summary of snapshot %d: %w", snap.SnapshotID, err)
		}
		for p, next := range at {
			if _, ok := h.newest[p]; !ok {
				h.newest[p], h.order[p] = next, len(h.snapshots)
			}
		}
		h.lastOnBranch = h.lastOnBranch || id == last
		if !moved {
			moved, h.lastMoved = true, id == last
			h.uncounted = summaryOf(snap)[countKey] == ""
		}
		if enough(&h) {
			h.end = endEarly
			return h, nil
		}
	}
	return h, nil
}

// hasAll tells whether the walk has found what the asked partitions need.
func (h *history) hasAll(b book, asked []partition) bool {
	for _, a := range asked {
		as, _, known, _ := b.find(a)
		if _, found := h.newest[as]; known && !found {
			return false
		}
	}
	return true
}

// commitEntries are the properties that a commit sets and removes, which moves partitions to next.
func (b book) commitEntries(next offsets) (set iceberg.Properties, remove []string) {
	active := maps.Clone(b.active)
	set = b.fix.entries(partition.property)
	remove = slices.Clone(b.drop)
	for p, at := range next {
		active[p] = at
		set[p.property()] = strconv.FormatInt(at, 10)
		if _, ok := b.former[p]; ok {
			remove = append(remove, p.formerProperty())
		}
	}
	for other, at := range b.active { // whose place another takes
		if _, moved := next[other]; moved || !slices.ContainsFunc(slices.Collect(maps.Keys(next)), func(p partition) bool { return p.place() == other.place() }) {
			continue
		}
		delete(active, other)
		delete(set, other.property())
		remove = append(remove, other.property())
		if !other.identified() {
			continue // it got its id
		}
		set[other.formerProperty()] = strconv.FormatInt(at, 10)
		for older := range b.former {
			if older.place() == other.place() && older != other {
				remove = append(remove, older.formerProperty())
			}
		}
	}
	set[countKey] = countUnknown
	if b.counted {
		set[countKey] = strconv.Itoa(len(active))
	}
	remove = slices.DeleteFunc(remove, func(key string) bool { return set[key] != "" })
	slices.Sort(remove)
	return set, slices.Compact(remove)
}
