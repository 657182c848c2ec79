package icebergexporter

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"go.uber.org/zap"
)

// errUnwritable stops writing until an operator has changed the table.
var errUnwritable = errors.New("the table cannot be written")

// needsOperator tells whether an error stays until an operator has mended the table: trying again at once is of no use.
func needsOperator(err error) bool {
	return errors.Is(err, errTableReplaced) || errors.Is(err, errUnwritable) || errors.Is(err, errUnknowable)
}

// errAhead marks blocks of a log that ends before the table does.
var errAhead = errors.New("the log of the partition ends before what the table holds of it")

func aheadError(tbl *table.Table, b book, g gap) error {
	as, _, _, _ := b.find(partitionOf(g.call.block))
	return fmt.Errorf("%w (it ends at offset %d, the table holds what is before %d): Kafka was restored, or its log truncated. Make the topic anew, so that it gets another id; "+
		"or set the table's property %s to the offset from which on records are new, and %s to %d, its current snapshot",
		errAhead, g.call.block.LogEnd, g.at, as.property(), trustKey, currentSnapshot(tbl))
}

// The methods below are the committer's alone, and so are the fields that they use.

// refusing notes that blocks of a partition are refused, and says so once.
func (s *store) refusing(p partition, why error) {
	if s.refused[p] == nil {
		s.log.Error("blocks of a partition are refused until somebody mends this", zap.String("table", s.name()),
			zap.String("topic", p.topic), zap.Int32("partition", p.id), zap.Error(why))
	}
	s.refused[p] = why
	s.tel.refusals.Add(s.ctx, 1, s.tel.table)
}

// accept notes that a call's block is not refused.
func (s *store) accept(c *call) {
	p := partitionOf(c.block)
	if s.refused[p] == nil {
		return
	}
	delete(s.refused, p)
	s.log.Info("blocks of a partition are taken again", zap.String("table", s.name()), zap.String("topic", p.topic), zap.Int32("partition", p.id))
}

// refusal says that blocks of some partitions are refused, and why; nil: of none. The others are written, so it does not need an operator
// as an error of the whole table does.
func (s *store) refusal() error {
	for p, why := range s.refused {
		return fmt.Errorf("table %s: blocks of %d partitions are refused, of topic %s, partition %d: %s", s.name(), len(s.refused), p.topic, p.id, why.Error())
	}
	return nil
}

// announce says, once a partition, that its topic was made anew.
func (s *store) announce(r remade) {
	if s.announced[r.part] {
		return
	}
	s.announced[r.part] = true
	s.tel.topicsRemade.Add(s.ctx, 1, s.tel.table)
	s.log.Error("a topic was made anew, or is of another Kafka cluster: its records are written from where its consumer group begins", zap.String("table", s.name()),
		zap.String("topic", r.part.topic), zap.Int32("partition", r.part.id), zap.Stringer("topic_id", r.part.uid),
		zap.Stringer("former_topic_id", r.former.uid), zap.Int64("former_stored_before_offset", r.at))
}

// check refuses a table that this program cannot write.
func (s *store) check(tbl *table.Table) error {
	if v := tbl.Metadata().Version(); v > 2 {
		return fmt.Errorf("%w: it has format version %d, and this program writes version 2, which Iceberg cannot go back to: move the table away "+
			"(rename it), and restart: a new one is made and filled from Kafka", errUnwritable, v)
	}
	missing, err := compareSchema(tbl.Schema(), s.schema)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errUnwritable, err)
	case len(missing) > 0:
		return fmt.Errorf("%w: column %s was dropped: add it again, or restart with `tables: create`", errUnwritable, missing[0].Name)
	}
	return nil
}

// hasRowsOf tells whether a table has rows of a partition of any topic of that name.
func hasRowsOf(ctx context.Context, tbl *table.Table, p partition) (bool, error) {
	filter := iceberg.NewAnd(iceberg.EqualTo(iceberg.Reference(topicColumn), p.topic), iceberg.EqualTo(iceberg.Reference(partitionColumn), p.id))
	_, batches, err := tbl.Scan(table.WithRowFilter(filter), table.WithSelectedFields(topicColumn, partitionColumn), table.WithLimit(1)).ToArrowRecords(ctx)
	if err != nil {
		return false, fmt.Errorf("looking for rows of topic %s, partition %d: %w", p.topic, p.id, err)
	}
	found := false
	for b, err := range batches {
		if err != nil {
			return false, fmt.Errorf("looking for rows of topic %s, partition %d: %w", p.topic, p.id, err)
		}
		found = found || b.NumRows() > 0
		b.Release()
	}
	return found, nil
}
