package icebergexporter

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// What the exporter keeps in a table's properties and in the summaries of its snapshots. Properties survive the expiry of
// snapshots; summaries tell which snapshot did what, and so what a rollback undid.
const (
	// offsetPrefix begins the entries, in both, that hold the offset after the last record whose rows the table holds:
	// "pulsegrid.offset.<topic>.<partition>" = "<next offset>". A summary has those of the partitions that the snapshot moved.
	offsetPrefix = "pulsegrid.offset."
	// beforePrefix begins the summary's entries that hold where the partition was before.
	beforePrefix = "pulsegrid.offset-before."
	// commitIDKey names, in both, the last commit that moved offsets.
	commitIDKey = "pulsegrid.commit-id"
)

// partition is one partition of a topic.
type partition struct {
	topic string
	id    int32
}

func partitionOf(b block.Block) partition { return partition{b.Topic, b.Partition} }

func (p partition) property() string { return fmt.Sprintf("%s%s.%d", offsetPrefix, p.topic, p.id) }
func (p partition) beforeProperty() string {
	return fmt.Sprintf("%s%s.%d", beforePrefix, p.topic, p.id)
}

// offsets are the next offsets of partitions.
type offsets map[partition]int64

// readOffsets returns the entries that begin with prefix. A value that is no number is an error: taking it for "unknown" would write
// everything again.
func readOffsets(props iceberg.Properties, prefix string) (offsets, error) {
	out := offsets{}
	for k, v := range props {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok {
			continue
		}
		dot := strings.LastIndexByte(rest, '.')
		id, err := strconv.ParseInt(rest[dot+1:], 10, 32)
		if err != nil || dot <= 0 {
			return nil, fmt.Errorf("table property %q names no partition", k)
		}
		next, err := strconv.ParseInt(v, 10, 64)
		if err != nil || next < 0 {
			return nil, fmt.Errorf("table property %q: %q is no offset", k, v)
		}
		out[partition{rest[:dot], int32(id)}] = next
	}
	return out, nil
}

// tableOffsets returns the offsets at which the table's rows end, and those of them that its properties have wrong, because the
// table was rolled back to an older snapshot: a rollback leaves the properties alone.
func tableOffsets(tbl *table.Table) (have, corrected offsets, err error) {
	if have, err = readOffsets(tbl.Properties(), offsetPrefix); err != nil {
		return nil, nil, err
	}
	corrected = offsets{}
	for _, snap := range rolledBack(tbl) { // newest first: the oldest's word is the last
		before, err := readOffsets(snap.Summary.Properties, beforePrefix)
		if err != nil {
			return nil, nil, fmt.Errorf("summary of snapshot %d, which was rolled back: %w", snap.SnapshotID, err)
		}
		maps.Copy(corrected, before)
	}
	maps.Copy(have, corrected)
	return have, corrected, nil
}

// rolledBack returns the snapshots, newest first, whose commits the properties count and the branch no longer has. It is empty when
// the commit that moved the offsets last is on the branch, or is no longer known because it was expired.
func rolledBack(tbl *table.Table) []table.Snapshot {
	last := tbl.Properties()[commitIDKey]
	if last == "" {
		return nil
	}
	branch := map[int64]bool{}
	var oldest *table.Snapshot
	for snap := tbl.CurrentSnapshot(); snap != nil; snap = parent(tbl, snap) {
		if commitID(snap) == last {
			return nil // nearly always the first or, after a compaction, the second
		}
		branch[snap.SnapshotID], oldest = true, snap
	}
	var out []table.Snapshot
	for _, s := range tbl.Metadata().Snapshots() {
		if commitID(&s) != last {
			continue
		}
		if oldest != nil && oldest.ParentSnapshotID != nil && oldest.SequenceNumber > s.SequenceNumber {
			return nil // what lies between was expired, and this one kept (by a tag): it is on the branch, as far as one can tell
		}
		for snap := &s; snap != nil && !branch[snap.SnapshotID]; snap = parent(tbl, snap) {
			if commitID(snap) != "" {
				out = append(out, *snap)
			}
		}
	}
	return out
}

func parent(tbl *table.Table, snap *table.Snapshot) *table.Snapshot {
	if snap.ParentSnapshotID == nil {
		return nil
	}
	return tbl.SnapshotByID(*snap.ParentSnapshotID)
}

// commitID is the id of the commit that made a snapshot; empty: it was not made here.
func commitID(snap *table.Snapshot) string {
	if snap.Summary == nil {
		return ""
	}
	return snap.Summary.Properties[commitIDKey]
}
