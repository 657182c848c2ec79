package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// A job that puts parts into tables beside live inserts must know two things: which rows are of blocks that an aggregator has finished, so that nobody stores them
// again; and that no insert came in between two of its steps.

// fencePoll is how often ClickHouse is asked whether inserts have ended.
const fencePoll = 100 * time.Millisecond

// unfinished returns a SELECT of the records (kafka_topic, kafka_partition, kafka_offset) of rows in from whose block is not in the ledger. The ledger's entry is the
// last step of a block, behind its rows and their rollups, and the aggregators leave out what it has. Rows that did not come in blocks are not among them, nor are restored ones, which no aggregator brings.
func unfinished(database, from string) string {
	return `SELECT r.kafka_topic AS kafka_topic, r.kafka_partition AS kafka_partition, r.kafka_offset AS kafka_offset
FROM (SELECT DISTINCT kafka_topic, kafka_partition, kafka_offset FROM ` + from + `) AS r
ASOF LEFT JOIN (SELECT kafka_topic, kafka_partition, first_offset, max(last_offset) OVER (PARTITION BY kafka_topic, kafka_partition ORDER BY first_offset) + 1 AS beyond
    FROM ` + quoted(database) + "." + quoted(ledger.NameFor(columns.RowsEvents)) + `) AS l
ON r.kafka_topic = l.kafka_topic AND r.kafka_partition = l.kafka_partition AND r.kafka_offset >= l.first_offset
WHERE r.kafka_partition >= 0 AND NOT startsWith(r.kafka_topic, ` + literal(restoredTopics) + `) AND r.kafka_offset >= l.beyond` // beyond is 0 where the ledger has no such entry
}

// insertsEnd waits until the INSERTs that now run into a table have ended, one way or the other. Later ones are not waited for.
func (q question) insertsEnd(ctx context.Context, table string) error {
	// The name is looked for as a word of the statement's head: INSERT INTO `pulsegrid`.`logs` (...
	const running = "SELECT query_id FROM system.processes WHERE query_kind IN ('Insert', 'AsyncInsertFlush') AND "
	ids, err := q.texts(ctx, running+"match(substring(query, 1, 1000), "+literal(`\b`+table+`\b`)+")")
	if err != nil {
		return err
	}
	for i := range ids {
		ids[i] = literal(ids[i])
	}
	for len(ids) > 0 {
		left, err := q.texts(ctx, running+"query_id IN ("+strings.Join(ids, ", ")+")")
		if err != nil || len(left) == 0 {
			return err
		}
		if err := sleep.For(ctx, fencePoll); err != nil {
			return err
		}
	}
	return nil
}

// partStates tells for each partition of a table what changes with every insert, attached part, mutation or dropped part, and not with merges. A partition without parts has none.
func (q question) partStates(ctx context.Context, database, table string) (map[string]string, error) {
	// A merge may remove rows that are marked as deleted, so their number may change without an insert: a job then looks once more.
	words, err := q.texts(ctx, "SELECT partition_id, max(max_block_number), max(data_version), sum(rows) FROM system.parts WHERE active AND database = "+literal(database)+
		" AND table = "+literal(table)+" GROUP BY partition_id")
	if err != nil {
		return nil, err
	}
	if len(words)%4 != 0 {
		return nil, fmt.Errorf("ClickHouse answered %q about the parts of %s", words, table)
	}
	out := map[string]string{}
	for i := 0; i < len(words); i += 4 {
		out[words[i]] = strings.Join(words[i+1:i+4], " ")
	}
	return out, nil
}

// idle tells whether a group has no member: nobody takes events from Kafka for its store.
func (g *liveGroup) idle(ctx context.Context) (bool, error) {
	groups, err := g.admin.DescribeGroups(ctx, g.name)
	if err != nil {
		return false, fmt.Errorf("members of group %s: %w", g.name, err)
	}
	d, ok := groups[g.name]
	switch {
	case !ok || errors.Is(d.Err, kerr.GroupIDNotFound):
		return true, nil
	case d.Err != nil:
		return false, fmt.Errorf("members of group %s: %w", g.name, d.Err)
	}
	return len(d.Members) == 0, nil
}
