package icebergexporter

import (
	"fmt"
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
	// "pulsegrid.offset.<topic>@<topic id>.<partition>" = "<next offset>", without "@<topic id>" where it is not known. A summary has the
	// entries of the partitions that the snapshot moved.
	offsetPrefix = "pulsegrid.offset."
	// beforePrefix begins the summary's entries that hold where the partition was before.
	beforePrefix = "pulsegrid.offset-before."
	// formerPrefix begins the properties that hold where the topic ended that had the name before the present one: one a partition.
	formerPrefix = "pulsegrid.offset-former."
	// commitIDKey names, in both, the last commit that moved offsets.
	commitIDKey = "pulsegrid.commit-id"
	// countKey is, in both, how many properties begin with offsetPrefix (itself left out), or countUnknown. Another number than there are:
	// somebody removed some. Versions that know no topic ids stop at it ("names no partition") instead of writing everything again.
	countKey     = "pulsegrid.offset.count"
	countUnknown = "unknown"
	// trustKey is set by an operator: the snapshot as of which the properties are right, whatever the history before says.
	trustKey = "pulsegrid.offsets-trusted-at"
)

// partition is one partition of a topic. Topics that had one name after another differ in their ids.
type partition struct {
	topic string
	uid   block.TopicID // zero: not known
	id    int32
}

func partitionOf(b block.Block) partition { return partition{b.Topic, b.TopicID, b.Partition} }

// place is a partition whatever the topic's id.
type place struct {
	topic string
	id    int32
}

func (p partition) place() place { return place{p.topic, p.id} }

func (p partition) identified() bool { return p.uid != block.TopicID{} }

// key is the entry's name behind its prefix.
func (p partition) key() string {
	if p.identified() {
		return fmt.Sprintf("%s@%s.%d", p.topic, p.uid, p.id)
	}
	return fmt.Sprintf("%s.%d", p.topic, p.id)
}

func (p partition) property() string       { return offsetPrefix + p.key() }
func (p partition) beforeProperty() string { return beforePrefix + p.key() }
func (p partition) formerProperty() string { return formerPrefix + p.key() }

// offsets are the next offsets of partitions.
type offsets map[partition]int64

// entries are the offsets as properties or as entries of a summary.
func (o offsets) entries(name func(partition) string) iceberg.Properties {
	out := iceberg.Properties{}
	for p, next := range o {
		out[name(p)] = strconv.FormatInt(next, 10)
	}
	return out
}

// readOffsets returns the entries that begin with prefix. A value that is no number is an error: taking it for "unknown" would write
// everything again.
func readOffsets(props iceberg.Properties, prefix string) (offsets, error) {
	out := offsets{}
	for k, v := range props {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok || k == countKey {
			continue
		}
		p, err := parsePartition(rest)
		if err != nil {
			return nil, fmt.Errorf("table property %q names no partition: %w", k, err)
		}
		next, err := strconv.ParseInt(v, 10, 64)
		if err != nil || next < 0 {
			return nil, fmt.Errorf("table property %q: %q is no offset", k, v)
		}
		out[p] = next
	}
	return out, nil
}

// parsePartition reads what key has written. Names of topics have no "@", ids no ".".
func parsePartition(text string) (p partition, err error) {
	dot := strings.LastIndexByte(text, '.')
	id, err := strconv.ParseInt(text[dot+1:], 10, 32)
	if err != nil || dot <= 0 {
		return p, fmt.Errorf("want topic.partition or topic@id.partition")
	}
	topic, uid, identified := strings.Cut(text[:dot], "@")
	p = partition{topic: topic, id: int32(id)}
	if identified {
		p.uid, err = block.ParseTopicID(uid)
	}
	return p, err
}

// summaryOf are the entries of a snapshot's summary.
func summaryOf(snap *table.Snapshot) iceberg.Properties {
	if snap.Summary == nil {
		return nil
	}
	return snap.Summary.Properties
}

// commitID is the id of the commit that made a snapshot; empty: it was not made here.
func commitID(snap *table.Snapshot) string { return summaryOf(snap)[commitIDKey] }

func parent(tbl *table.Table, snap *table.Snapshot) *table.Snapshot {
	if snap.ParentSnapshotID == nil {
		return nil
	}
	return tbl.SnapshotByID(*snap.ParentSnapshotID)
}

const noSnapshot int64 = -1

func currentSnapshot(tbl *table.Table) int64 {
	if s := tbl.CurrentSnapshot(); s != nil {
		return s.SnapshotID
	}
	return noSnapshot
}
