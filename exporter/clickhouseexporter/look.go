package clickhouseexporter

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	// lookAge is how old a look may be that decides about a block that may be stored: another owner may have stored it since. Blocks
	// that are redone together share a look.
	lookAge = 5 * time.Second
	// holesAmong is how many of a partition's newest entries are searched for holes: those of days, at a block a second.
	holesAmong = 200_000
	// entriesPage and offsetsPage are what one query reads ahead.
	entriesPage = 10_000
	offsetsPage = 50_000
	// An INSERT that a look must wait for is asked for so often, and so long.
	runsInterval = 200 * time.Millisecond
	runsTimeout  = 20 * time.Second
	// strayed is how much older than the first block's rows later ones may be: requests wait in the gateways' spill.
	strayed = 48 * time.Hour
)

type entryRow struct {
	First int64 `json:"first_offset"`
	Last  int64 `json:"last_offset"`
}

func compareEntries(a, b entryRow) int {
	return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// held is what the ledger holds of a partition.
type held struct {
	Entries int64 `json:"entries"`
	Next    int64 `json:"next"`    // behind the last entry
	Holes   int64 `json:"holes"`   // between entries
	Hole    int64 `json:"hole"`    // where the first of them begins
	Strange int64 `json:"strange"` // entries of other topics with this name
}

// whole is the offset up to which the ledger has everything.
func (h held) whole() int64 {
	if h.Holes > 0 {
		return h.Hole
	}
	return h.Next
}

// look makes v answer for b: at a worker's first block, after ClickHouse could not be reached (it may be another one now, or one that
// was restored), and where a block may be stored. Its error is a block.ResumeError if ClickHouse lacks what the group takes for stored.
func (e *chExporter) look(ctx context.Context, v *view, b block.Block, rec arrow.RecordBatch, mayBeStored bool) error {
	if err := e.recognise(ctx); err != nil {
		return err
	}
	trouble := e.trouble.Load()
	same := v.looked && v.worker == b.Worker
	if !same || v.trouble != trouble || mayBeStored && time.Since(v.at) > lookAge {
		at := time.Now()
		if !same {
			v.seen = seen{}
		}
		v.ledger, v.table = ledgerPage{}, tablePage{}
		h, err := e.heldOf(ctx, b)
		if err != nil {
			return err
		}
		if err := e.sendBack(ctx, b, h); err != nil {
			return err
		}
		if !same {
			v.clear = h.Next
			if h.Entries == 0 {
				v.clear = b.Oldest
			}
			// Blocks that were cut otherwise may have been stored just before a crash, without an entry. A topic made anew has its
			// predecessor's rows at these offsets.
			v.unseen = h.Strange == 0 && (b.Unstated || b.First < h.Next)
		}
		v.looked, v.at, v.worker, v.trouble = true, at, b.Worker, trouble
	}
	if v.unseen && rec != nil {
		return e.lookBehind(ctx, v, b, rec)
	}
	return nil
}

// heldOf asks the ledger. Entries without a topic id are an older version's. They do not count for a group that begins anew: so it
// does when a topic was made anew.
func (e *chExporter) heldOf(ctx context.Context, b block.Block) (held, error) {
	found, err := row[held](ctx, e.client, `SELECT count() AS entries, if(entries = 0, 0, max(last_offset) + 1) AS next, countIf(behind < first_offset) AS holes, minIf(behind, behind < first_offset) AS hole,
	(SELECT count() FROM `+e.schema.quoted(e.cfg.ledgerName())+` WHERE kafka_topic = {topic:String} AND kafka_partition = {partition:Int32} AND topic_id NOT IN ({id:String}, '')) AS strange
FROM (
	SELECT first_offset, last_offset, if((row_number() OVER w) = 1, first_offset, max(last_offset + 1) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS behind
	FROM (
		SELECT first_offset, last_offset FROM `+e.schema.quoted(e.cfg.ledgerName())+e.ofPartition()+`
		ORDER BY first_offset DESC LIMIT `+decimal(holesAmong)+`
	) WINDOW w AS (ORDER BY first_offset, last_offset)
)`, partitionParams(b, nil))
	if err != nil {
		return held{}, notStored("look the partition up in table "+e.schema.name(e.cfg.ledgerName()), err)
	}
	return found, nil
}

// ofPartition is the condition of ledger entries that count for a block.
func (e *chExporter) ofPartition() string {
	return " WHERE kafka_topic = {topic:String} AND kafka_partition = {partition:Int32} AND topic_id IN ({id:String}, {old:String})"
}

func partitionParams(b block.Block, more map[string]string) map[string]string {
	id := ""
	if b.TopicID != (block.TopicID{}) {
		id = b.TopicID.String()
	}
	old := ""
	if b.Fresh {
		old = id
	}
	params := map[string]string{"topic": b.Topic, "partition": decimal(int64(b.Partition)), "id": id, "old": old}
	for k, v := range more {
		params[k] = v
	}
	return params
}

// sendBack returns the ResumeError with which the receiver fills ClickHouse again; nil: it has what the group takes for stored.
func (e *chExporter) sendBack(ctx context.Context, b block.Block, h held) error {
	back := &block.ResumeError{Topic: b.Topic, Partition: b.Partition, Next: h.whole()}
	switch {
	case h.Entries > 0 && back.Next >= b.Oldest:
		return nil
	case h.Entries > 0:
	case b.Fresh || b.Oldest == 0:
		return nil // the group begins
	default:
		if h.Strange == 0 {
			has, err := e.hasRows(ctx, b)
			if err != nil {
				return err
			}
			if has {
				e.set.Logger.Warn("the ledger knows nothing of a partition that the table has rows of: it was lost, or is new. The exporter goes on where the consumer group is; "+
					"`pulsegrid audit` names what has no entry", zap.String("table", e.schema.name(e.cfg.ledgerName())), zap.String("topic", b.Topic), zap.Int32("partition", b.Partition))
				return nil
			}
		}
		back.Next = block.FromStart
	}
	e.tel.redone(redoSentBack)
	e.set.Logger.Warn("ClickHouse lacks what the consumer group takes for stored: it was restored or replaced, or the group's offset was moved. It is filled again from Kafka; "+
		"what Kafka no longer has, the lake may have", zap.String("table", e.schema.name(e.cfg.ledgerName())), zap.Int64("group_offset", b.Oldest), zap.Error(back))
	return back
}

func (e *chExporter) hasRows(ctx context.Context, b block.Block) (bool, error) {
	found, err := rows[struct{}](ctx, e.client, "SELECT 1 FROM "+e.schema.quoted(e.table.Name)+
		" WHERE kafka_topic = {topic:String} AND kafka_partition = {partition:Int32} LIMIT 1", partitionParams(b, nil))
	if err != nil {
		return false, notStored("look for the partition's rows in table "+e.schema.name(e.table.Name), err)
	}
	return len(found) > 0, nil
}

// lookBehind moves v.clear behind rows that have no entry.
func (e *chExporter) lookBehind(ctx context.Context, v *view, b block.Block, rec arrow.RecordBatch) error {
	if err := e.noneRuns(ctx, b, extent{0, math.MaxInt64}); err != nil {
		return err
	}
	oldest, _ := receivedRange(rec)
	found, err := row[struct {
		Next int64 `json:"next"`
	}](ctx, e.client, "SELECT if(count() = 0, 0, max(kafka_offset) + 1) AS next FROM "+e.schema.quoted(e.table.Name)+
		" WHERE kafka_topic = {topic:String} AND kafka_partition = {partition:Int32} AND kafka_offset >= {from:Int64}"+
		" AND ingest_time >= fromUnixTimestamp64Nano({oldest:Int64})", partitionParams(b, map[string]string{
		"from": decimal(v.clear), "oldest": decimal(oldest - strayed.Nanoseconds()),
	}))
	if err != nil {
		return notStored("look for the partition's newest rows in table "+e.schema.name(e.table.Name), err)
	}
	v.clear, v.unseen = max(v.clear, found.Next), false
	return nil
}

// noneRuns waits until ClickHouse works on no INSERT of a block that overlaps x: its rows cannot be seen yet. A caller that gave up does
// not end it.
func (e *chExporter) noneRuns(ctx context.Context, b block.Block, x extent) error {
	for waited := time.Duration(0); ; waited += runsInterval {
		token, err := e.running(ctx, b, x)
		if err != nil || token == "" {
			return err
		}
		if waited >= runsTimeout {
			return &storeError{class: retryable, code: codeOther, cause: fmt.Errorf("an earlier INSERT of it still runs (%s)", token)}
		}
		if err := sleep.For(ctx, runsInterval); err != nil {
			return notStored("wait for an INSERT that runs", err)
		}
	}
}

// running is the token of such an INSERT; empty: there is none.
func (e *chExporter) running(ctx context.Context, b block.Block, x extent) (string, error) {
	whole := b.Name()
	prefix := whole[:strings.LastIndexByte(whole, '/')+1]
	found, err := rows[struct {
		Token string `json:"token"`
	}](ctx, e.client, "SELECT Settings['insert_deduplication_token'] AS token FROM system.processes WHERE startsWith(token, {prefix:String})", map[string]string{"prefix": prefix})
	if err != nil {
		return "", notStored("ask for INSERTs that run", err)
	}
	for _, f := range found {
		var first, last int64
		of, _ := strings.CutPrefix(f.Token, prefix)
		if n, _ := fmt.Sscanf(of, "%d-%d", &first, &last); n == 2 && first <= x.last && last >= x.first {
			return f.Token, nil
		}
	}
	return "", nil
}

// entriesOf are the ledger's entries that overlap b, in order.
func (e *chExporter) entriesOf(ctx context.Context, v *view, b block.Block) ([]entryRow, error) {
	x := extentOf(b)
	if !v.ledger.has(x) {
		found, err := e.readEntries(ctx, b)
		if err != nil {
			return nil, err
		}
		v.ledger = ledgerPage{from: min(b.Oldest, b.First), upto: math.MaxInt64, entries: found}
		if len(found) == entriesPage {
			v.ledger.upto = found[entriesPage-1].First
		}
		if !v.ledger.has(x) {
			return nil, notStored("look the block up in table "+e.schema.name(e.cfg.ledgerName()),
				fmt.Errorf("more than %d entries overlap it: look what writes them", entriesPage))
		}
	}
	return v.ledger.in(x), nil
}

// readEntries reads without FINAL: an entry that was written twice is the same.
func (e *chExporter) readEntries(ctx context.Context, b block.Block) ([]entryRow, error) {
	found, err := rows[entryRow](ctx, e.client, "SELECT first_offset, last_offset FROM "+e.schema.quoted(e.cfg.ledgerName())+
		e.ofPartition()+" AND last_offset >= {first:Int64} ORDER BY first_offset, last_offset LIMIT 1 BY first_offset, last_offset LIMIT "+decimal(entriesPage),
		partitionParams(b, map[string]string{"first": decimal(min(b.Oldest, b.First))}))
	if err != nil {
		return nil, notStored("look the block up in table "+e.schema.name(e.cfg.ledgerName()), err)
	}
	return found, nil
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
