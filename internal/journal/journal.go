// Package journal keeps what a job has done in a compacted Kafka topic: one entry of JSON a key, the newest counts. Whoever opens it under a transactional id
// fences who did so before, so each id has one writer. Records for other topics may be written in the same transaction: then they and the entries are there, or none is.
package journal

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

	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	// openedKey is of the record by which a writer makes itself known: an empty transaction would not reach the brokers.
	openedKey = "opened"
	// transactionTimeout is when the brokers abort a transaction that nobody ends.
	transactionTimeout = time.Minute
	// deliveryTimeout is when records of a transaction that were not sent are given up: before the brokers abort it.
	deliveryTimeout = 45 * time.Second
	// endTimeout bounds the end of a transaction, whatever has happened to the caller's context.
	endTimeout = 30 * time.Second
	// idle is how long a read waits for the next record. Compaction leaves the last one, which says where a partition ends.
	idle = 30 * time.Second
	// settleEvery is how often the brokers are asked whether the transactions of others have ended.
	settleEvery = 200 * time.Millisecond
)

// ErrFenced: another writer has opened the journal under the same transactional id.
var ErrFenced = errors.New("another one has begun to write after this one")

// Control records are kept, so that an end that transactions have made is seen to be reached.
var readCommitted = []kgo.Opt{kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords()}

// Journal is a topic with entries of one type, held by this writer.
type Journal[E any] struct {
	Entries map[string]E // by key

	client *kgo.Client
	topic  string
}

// Open makes the topic if it is missing, fences whoever holds it under this transactional id, and reads it.
func Open[E any](ctx context.Context, opts []kgo.Opt, topic, transactionalID string) (*Journal[E], error) {
	client, err := kgo.NewClient(slices.Concat(readCommitted, []kgo.Opt{
		kgo.TransactionalID(transactionalID), kgo.TransactionTimeout(transactionTimeout),
	}, opts)...)
	if err != nil {
		return nil, err
	}
	j := &Journal[E]{client: client, topic: topic, Entries: map[string]E{}}
	if err := j.open(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("journal %s: %w", topic, err)
	}
	return j, nil
}

// Peek reads the entries and fences nobody. A journal that does not exist has none.
func Peek[E any](ctx context.Context, opts []kgo.Opt, topic string) (map[string]E, error) {
	client, err := kgo.NewClient(slices.Concat(readCommitted, opts)...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	j := &Journal[E]{client: client, topic: topic, Entries: map[string]E{}}
	if err := j.read(ctx); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, fmt.Errorf("journal %s: %w", topic, err)
	}
	return j.Entries, nil
}

func (j *Journal[E]) open(ctx context.Context) error {
	compact, forever, no := "compact", "-1", "false"
	made, err := kadm.NewClient(j.client).CreateTopic(ctx, 1, -1, map[string]*string{"cleanup.policy": &compact, "retention.ms": &forever, "unclean.leader.election.enable": &no}, j.topic)
	if err == nil {
		err = made.Err
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create it: %w", err)
	}
	// From here on nobody who began earlier can write.
	if err := j.write(ctx, &kgo.Record{Topic: j.topic, Key: []byte(openedKey), Value: []byte("{}")}); err != nil {
		return err
	}
	if err := j.settle(ctx); err != nil {
		return err
	}
	return j.read(ctx)
}

// settle waits until each transaction that has been begun is ended: what is committed behind an open one of another writer is not read, and may be this one's.
func (j *Journal[E]) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*transactionTimeout)
	defer cancel()
	admin := kadm.NewClient(j.client)
	ends, err := admin.ListEndOffsets(ctx, j.topic)
	if err == nil {
		err = ends.Error()
	}
	for err == nil {
		var committed kadm.ListedOffsets
		if committed, err = admin.ListCommittedOffsets(ctx, j.topic); err == nil {
			err = committed.Error()
		}
		behind := false
		ends.Each(func(end kadm.ListedOffset) {
			c, _ := committed.Lookup(end.Topic, end.Partition)
			behind = behind || c.Offset < end.Offset
		})
		if err != nil || !behind {
			break
		}
		err = sleep.For(ctx, settleEvery)
	}
	if err != nil {
		return fmt.Errorf("wait for the transactions of other writers: %w", err)
	}
	return nil
}

// read takes the newest entry of each key.
func (j *Journal[E]) read(ctx context.Context) error {
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

func (j *Journal[E]) readTo(ctx context.Context, partition int32, end int64) error {
	j.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{j.topic: {partition: kgo.NewOffset().AtStart()}})
	defer j.client.RemoveConsumePartitions(map[string][]int32{j.topic: {partition}})
	for next := int64(0); next < end; {
		polling, cancel := context.WithTimeout(ctx, idle)
		fetches := j.client.PollFetches(polling)
		cancel()
		if polling.Err() != nil && ctx.Err() == nil && fetches.Empty() { // what is not read must not be taken for what is not there
			return fmt.Errorf("partition %d: no record came for %v at offset %d of %d: see whether it has a leader", partition, idle, next, end)
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		for r := range fetches.RecordsAll() {
			if next = r.Offset + 1; r.Attrs.IsControl() || string(r.Key) == openedKey {
				continue
			}
			var e E
			if err := json.Unmarshal(r.Value, &e); err != nil {
				return fmt.Errorf("offset %d is no entry: %w", r.Offset, err)
			}
			j.Entries[string(r.Key)] = e
		}
	}
	return nil
}

// Write adds entries and further records: all or none. After an error it is not known which; whoever opens the journal again sees it.
func (j *Journal[E]) Write(ctx context.Context, entries map[string]E, records ...*kgo.Record) error {
	all := slices.Clone(records)
	for key, e := range entries {
		value, err := json.Marshal(e)
		if err != nil {
			return err
		}
		all = append(all, &kgo.Record{Topic: j.topic, Key: []byte(key), Value: value})
	}
	if err := j.write(ctx, all...); err != nil {
		return err
	}
	for key, e := range entries {
		j.Entries[key] = e
	}
	return nil
}

func (j *Journal[E]) write(ctx context.Context, records ...*kgo.Record) error {
	if err := j.client.BeginTransaction(); err != nil {
		return fenced(err)
	}
	// Not the client's own RecordDeliveryTimeout, which counts from a record's timestamp: that of a copy is old.
	producing, giveUp := context.WithTimeout(ctx, deliveryTimeout)
	defer giveUp()
	produced := make(chan error, 1) // a batch that was sent and not answered is waited for without end, whatever the context says; Close ends that
	go func() { produced <- j.client.ProduceSync(producing, records...).FirstErr() }()
	var err error
	select {
	case err = <-produced:
	case <-time.After(transactionTimeout):
		return fmt.Errorf("the brokers have not answered for %v; they abort the transaction", transactionTimeout)
	}
	end := kgo.TryAbort
	if err == nil {
		failpoint.Hit("journal-produced")
		end = kgo.TryCommit
	}
	// A client that leaves a transaction open keeps readers waiting.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if ended := j.client.EndTransaction(ending, end); err == nil { // else the first error says more
		err = ended
	}
	return fenced(err)
}

func fenced(err error) error {
	for _, is := range []error{kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState} {
		if errors.Is(err, is) {
			return fmt.Errorf("%w (%w)", ErrFenced, err)
		}
	}
	return err
}

// Close ends the client.
func (j *Journal[E]) Close() { j.client.Close() }
