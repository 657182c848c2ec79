package repair

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/quarantine"
)

// JournalTopic holds an entry for each item that has been sent again, under the item's key.
const JournalTopic = "quarantine.repairs.v1"

// transactionalID is one for all operators: who begins later fences who began earlier, so that there is one at a time.
const transactionalID = "pulsegrid-quarantine-repair"

// entry is what the journal says of an item.
type entry struct {
	State   string    `json:"state"`             // intent or done
	Done    []int     `json:"done,omitempty"`    // ordinals of the events that have been sent
	Doing   []int     `json:"doing,omitempty"`   // of an intent: those that are being sent
	Attempt string    `json:"attempt,omitempty"` // of an intent: what its record names
	Rules   string    `json:"rules,omitempty"`   // the file's name, for people
	At      time.Time `json:"at"`
}

const (
	stateIntent = "intent"
	stateDone   = "done"
)

// keyOf names an item, in the journal and in the record that is sent.
func keyOf(topic string, i quarantine.Item) string { return topic + "/" + i.Place() }

// ErrFenced: another operator has begun to repair.
var ErrFenced = errors.New("another operator has begun to repair after this one: this run has stopped; what it sent is in the journal")

// journal is the topic, held by this operator.
type journal struct {
	client  *kgo.Client
	topic   string
	entries map[string]entry
}

// openJournal makes the topic if it is missing, fences whoever holds it, and reads it.
func openJournal(ctx context.Context, opts []kgo.Opt, topic string) (*journal, error) {
	client, err := kgo.NewClient(slices.Concat(opts, readCommitted, []kgo.Opt{kgo.TransactionalID(transactionalID), kgo.TransactionTimeout(transactionTimeout)})...)
	if err != nil {
		return nil, err
	}
	j := &journal{client: client, topic: topic, entries: map[string]entry{}}
	if err := j.open(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("journal %s: %w", topic, err)
	}
	return j, nil
}

const transactionTimeout = time.Minute

// Control records are kept, so that an end that transactions have made is seen to be reached.
var readCommitted = []kgo.Opt{kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords()}

// idle ends the reading of a partition whose last records compaction has taken away, which cannot be told from one that is slow.
const idle = 10 * time.Second

func (j *journal) open(ctx context.Context) error {
	compact, forever, no := "compact", "-1", "false"
	made, err := kadm.NewClient(j.client).CreateTopic(ctx, 1, -1, map[string]*string{"cleanup.policy": &compact, "retention.ms": &forever, "unclean.leader.election.enable": &no}, j.topic)
	if err == nil {
		err = made.Err
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create it: %w", err)
	}
	// An empty transaction: from here on nobody who began earlier can write.
	if err := j.write(ctx, nil); err != nil {
		return err
	}
	return j.read(ctx)
}

// read takes the newest entry of each item.
func (j *journal) read(ctx context.Context) error {
	ends, err := kadm.NewClient(j.client).ListCommittedOffsets(ctx, j.topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	for _, end := range ends.Offsets().Sorted() {
		if err := j.readTo(ctx, end.Partition, end.At); err != nil {
			return err
		}
	}
	return nil
}

func (j *journal) readTo(ctx context.Context, partition int32, end int64) error {
	j.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{j.topic: {partition: kgo.NewOffset().AtStart()}})
	defer j.client.RemoveConsumePartitions(map[string][]int32{j.topic: {partition}})
	for next := int64(0); next < end; {
		polling, cancel := context.WithTimeout(ctx, idle)
		fetches := j.client.PollFetches(polling)
		cancel()
		if polling.Err() != nil && ctx.Err() == nil && fetches.Empty() {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		for r := range fetches.RecordsAll() {
			if next = r.Offset + 1; r.Attrs.IsControl() {
				continue
			}
			var e entry
			if err := json.Unmarshal(r.Value, &e); err != nil {
				return fmt.Errorf("offset %d is no entry: %w", r.Offset, err)
			}
			j.entries[string(r.Key)] = e
		}
	}
	return nil
}

// write adds entries, all or none.
func (j *journal) write(ctx context.Context, entries map[string]entry) error {
	if err := j.client.BeginTransaction(); err != nil {
		return fenced(err)
	}
	var records []*kgo.Record
	for key, e := range entries {
		value, err := json.Marshal(e)
		if err != nil {
			return err
		}
		records = append(records, &kgo.Record{Topic: j.topic, Key: []byte(key), Value: value})
	}
	if entries == nil { // something must be in a transaction for the broker to see it
		value, err := json.Marshal(entry{State: "opened", At: time.Now().UTC()})
		if err != nil {
			return err
		}
		records = []*kgo.Record{{Topic: j.topic, Key: []byte("opened"), Value: value}}
	}
	if err := j.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		_ = j.client.EndTransaction(ctx, kgo.TryAbort) // the first error says more
		return fenced(err)
	}
	if err := j.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fenced(err)
	}
	for key, e := range entries {
		j.entries[key] = e
	}
	return nil
}

func fenced(err error) error {
	for _, is := range []error{kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState} {
		if errors.Is(err, is) {
			return fmt.Errorf("%w (%w)", ErrFenced, err)
		}
	}
	return err
}

func (j *journal) close() { j.client.Close() }

// resolve finds out which intents without an end were carried out: the record that they were about names them.
func (j *journal) resolve(ctx context.Context, client *kgo.Client, topics []string) error {
	open := map[string]string{} // attempt -> key
	var since time.Time
	for key, e := range j.entries {
		if e.State != stateIntent {
			continue
		}
		open[e.Attempt] = key
		if since.IsZero() || e.At.Before(since) {
			since = e.At
		}
	}
	if len(open) == 0 {
		return nil
	}
	done := map[string]entry{}
	for _, topic := range topics {
		err := quarantine.Read(ctx, client, topic, since.Add(-clockSlack), func(i quarantine.Item) error {
			if key, ok := open[i.Repaired]; ok && i.Repaired != "" {
				e := j.entries[key]
				done[key] = entry{State: stateDone, Done: append(e.Done, e.Doing...), At: time.Now().UTC(), Rules: e.Rules}
			}
			return nil
		})
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			continue // nothing was ever sent there
		}
		if err != nil {
			return fmt.Errorf("look for what an interrupted repair has sent: %w", err)
		}
	}
	if len(done) == 0 {
		return nil
	}
	return j.write(ctx, done)
}

// clockSlack is how much an operator's clock may be ahead of the brokers'.
const clockSlack = 10 * time.Minute
