// Package quarantine reads the quarantine topic: what the gateway or a store refused, why, and the bytes as they were (docs/formats/kafka.md).
package quarantine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// Item is one record of the quarantine topic.
type Item struct {
	Partition int32
	Offset    int64
	At        time.Time // when it went to quarantine

	Tenant          string
	Signal          string // empty: a body whose signal is not known
	Source          string
	Key             string // of its record, which is of those that it is sent again in
	Jurisdiction    string // where its data may be; empty: anywhere
	Repaired        string // the attempt to repair an item that sent it (envelope.HeaderRepaired)
	Gateway         string
	Received        time.Time // when the gateway had read it; zero: unknown
	Events          int       // 0: unknown
	ContentType     string    // envelope.TypeOTLP: a valid request of just the events at fault
	ContentEncoding string
	PII             bool   // a schema marks personal data in it
	Object          string // URL of the object that has the body, which is empty then
	Request         []byte // which request its events are of, and where in it (envelope.HeaderRequest); nil: the body is the request
	RegistryVersion string // of the schemas that the gateway held it against

	Code, Reason string          // of the first verdict
	Findings     schema.Findings // every verdict; nil where a store or the decoder refused it
	Verdicts     string          // the same as it was written

	// Origin is where the record was that an aggregator put into quarantine; an empty topic: the gateway did.
	OriginTopic     string
	OriginPartition int32
	OriginOffset    int64
	OriginGroup     string // consumer group whose store refused it

	Body []byte
}

// Place is "partition/offset", by which an item is named.
func (i Item) Place() string { return fmt.Sprintf("%d/%d", i.Partition, i.Offset) }

// ParsePlace is Place's inverse.
func ParsePlace(text string) (partition int32, offset int64, err error) {
	p, o, ok := strings.Cut(text, "/")
	id, errP := strconv.ParseInt(p, 10, 32)
	offset, errO := strconv.ParseInt(o, 10, 64)
	if !ok || errP != nil || errO != nil || id < 0 || offset < 0 {
		return 0, 0, fmt.Errorf("%q is no place: want PARTITION/OFFSET, as `pulsegrid quarantine list` prints it", text)
	}
	return int32(id), offset, nil
}

// FromRecord reads a record. What a header does not say stays empty: a record of another producer is an item too.
func FromRecord(r *kgo.Record) Item {
	i := newItem()
	i.Partition, i.Offset, i.At, i.Key, i.Body = r.Partition, r.Offset, r.Timestamp, string(r.Key), r.Value
	i.Source = strings.ToValidUTF8(i.Key, "\uFFFD")
	for _, h := range r.Headers {
		i.set(h.Key, string(h.Value))
	}
	return i
}

func newItem() Item {
	return Item{ContentType: envelope.TypeOTLP, OriginPartition: -1, OriginOffset: -1}
}

// set takes what a header says. Of several with one key the last counts.
func (i *Item) set(key, value string) {
	text := strings.ToValidUTF8(value, "\uFFFD")
	number := func(bits int) int64 {
		n, err := strconv.ParseInt(value, 10, bits)
		if err != nil {
			return -1
		}
		return n
	}
	switch key {
	case envelope.HeaderTenant:
		i.Tenant = text
	case envelope.HeaderSignal:
		i.Signal = text
	case envelope.HeaderSource:
		i.Source = text
	case envelope.HeaderGateway:
		i.Gateway = text
	case envelope.HeaderReceivedNanos:
		if n := number(64); n > 0 {
			i.Received = time.Unix(0, n).UTC()
		}
	case envelope.HeaderEvents:
		i.Events = int(max(0, number(64)))
	case envelope.HeaderContentType:
		i.ContentType = text
	case envelope.HeaderContentEncoding:
		i.ContentEncoding = text
	case envelope.HeaderPII:
		i.PII = text == "true"
	case envelope.HeaderQuarantineCode:
		i.Code = text
	case envelope.HeaderQuarantineReason:
		i.Reason = text
	case envelope.HeaderFindings:
		i.Verdicts = text
		if f, err := schema.DecodeFindings([]byte(value)); err == nil {
			i.Findings = f
		}
	case envelope.HeaderOriginTopic:
		i.OriginTopic = text
	case envelope.HeaderOriginPartition:
		i.OriginPartition = int32(number(32))
	case envelope.HeaderOriginOffset:
		i.OriginOffset = number(64)
	case envelope.HeaderOriginGroup:
		i.OriginGroup = text
	case envelope.HeaderJurisdiction:
		i.Jurisdiction = text
	case envelope.HeaderRepaired:
		i.Repaired = text
	case envelope.HeaderObject:
		i.Object = text
	case envelope.HeaderRequest:
		i.Request = []byte(value)
	case envelope.HeaderSchemaVersion:
		i.RegistryVersion = text
	}
}

// ErrStop ends Read without an error.
var ErrStop = errors.New("stop")

// Read calls each for every item that topic holds now and that went there since a time (zero: all), partition after partition in the order
// of their offsets. client must not consume anything. An error of each ends it.
func Read(ctx context.Context, client *kgo.Client, topic string, since time.Time, each func(Item) error) error {
	admin := kadm.NewClient(client)
	begins, err := admin.ListStartOffsets(ctx, topic)
	if err == nil && !since.IsZero() {
		begins, err = admin.ListOffsetsAfterMilli(ctx, since.UnixMilli(), topic)
	}
	if err == nil {
		err = begins.Error()
	}
	if err != nil {
		return fmt.Errorf("quarantine topic %s: %w", topic, err)
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("quarantine topic %s: %w", topic, err)
	}
	for _, end := range ends.Offsets().Sorted() {
		begin, ok := begins.Lookup(topic, end.Partition)
		if !ok || begin.Offset >= end.At {
			continue
		}
		if err := readPartition(ctx, client, topic, end.Partition, begin.Offset, end.At, each); err != nil {
			if errors.Is(err, ErrStop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// Get returns one item.
func Get(ctx context.Context, client *kgo.Client, topic string, partition int32, offset int64) (Item, error) {
	var found *Item
	err := readPartition(ctx, client, topic, partition, offset, offset+1, func(i Item) error {
		if i.Offset == offset {
			found = &i
		}
		return nil
	})
	if err == nil && found == nil {
		err = fmt.Errorf("quarantine topic %s holds no %d/%d: it was never there, or its retention has passed", topic, partition, offset)
	}
	if err != nil {
		return Item{}, err
	}
	return *found, nil
}

// readPartition reads offsets [from, to).
func readPartition(ctx context.Context, client *kgo.Client, topic string, partition int32, from, to int64, each func(Item) error) error {
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(from)}})
	defer client.RemoveConsumePartitions(map[string][]int32{topic: {partition}})
	for next := from; next < to; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("quarantine topic %s, partition %d, offset %d: %w", topic, partition, next, err)
		}
		for r := range fetches.RecordsAll() {
			if r.Offset >= to {
				return nil
			}
			next = r.Offset + 1
			if err := each(FromRecord(r)); err != nil {
				return err
			}
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) { // a range that holds nothing any more
			if len(p.Records) == 0 && p.LogStartOffset >= to {
				next = to
			}
		})
	}
	return nil
}
