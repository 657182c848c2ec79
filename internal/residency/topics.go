package residency

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
)

const (
	fetchBytes    = 8 << 20
	fetchBytesMax = 128 << 20
	// stall is how long a read may wait for the next record.
	stall = 30 * time.Second
)

// bookkeeping are topics of PulseGrid that hold positions and names, and nothing of what tenants send.
var bookkeeping = []string{"quarantine.repairs.v1", "replays.v1"}

// Topics reads the records of a Kafka that came on a day, all topics but its own. Whose a record is its header says; when it came, the header that gateways write, else the record's time.
func Topics(ctx context.Context, opts []kgo.Opt, day Day) ([]Place, error) {
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	var places []Place
	for _, name := range topics.Names() {
		if topics[name].IsInternal || slices.Contains(bookkeeping, name) {
			continue
		}
		t := newTally(KindTopic, name)
		if err := readTopic(ctx, opts, admin, name, day, t); err != nil {
			return places, fmt.Errorf("topic %s: %w", name, err)
		}
		if p, some := t.done(); some {
			places = append(places, p)
		}
	}
	return places, nil
}

// readTopic reads a topic from where the day may begin to where it ends now: a record that waited in the spill was appended later than it came.
func readTopic(ctx context.Context, opts []kgo.Opt, admin *kadm.Client, name string, day Day, t *tally) error {
	from, err := admin.ListOffsetsAfterMilli(ctx, day.Start.Add(-clockSlack).UnixMilli(), name)
	if err == nil {
		err = from.Error()
	}
	if err != nil {
		return err
	}
	ends, err := admin.ListEndOffsets(ctx, name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	left := map[int32]int64{} // the last offset to read
	starts := map[int32]kgo.Offset{}
	for partition, end := range ends[name] {
		if begin, ok := from[name][partition]; ok && begin.Offset < end.Offset {
			left[partition] = end.Offset - 1
			starts[partition] = kgo.NewOffset().At(begin.Offset)
		}
	}
	if len(left) == 0 {
		return nil
	}
	client, err := kgo.NewClient(slices.Concat(opts, []kgo.Opt{
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: starts}), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), // retention goes on
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()), // bytes of a transaction that was given up are bytes
		kgo.KeepControlRecords(),                       // the last offset may be one
		kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchBytes), kgo.BrokerMaxReadBytes(fetchBytesMax), kgo.MaxConcurrentFetches(1),
	})...)
	if err != nil {
		return err
	}
	defer client.Close()
	for len(left) > 0 {
		polling, cancel := context.WithTimeout(ctx, stall)
		fetches := client.PollFetches(polling)
		silent := polling.Err() != nil && fetches.NumRecords() == 0
		cancel()
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return fmt.Errorf("partition %d: %w", e.Partition, e.Err)
			}
		}
		if silent {
			return fmt.Errorf("no record for %v, and %d partitions are not at their end: see whether they have a leader", stall, len(left))
		}
		for r := range fetches.RecordsAll() {
			last, reading := left[r.Partition]
			if !reading {
				continue
			}
			if r.Offset <= last && !r.Attrs.IsControl() {
				if err := countRecord(t, r, day); err != nil {
					return err
				}
			}
			if r.Offset >= last {
				delete(left, r.Partition)
			}
		}
	}
	return nil
}

func countRecord(t *tally, r *kgo.Record, day Day) error {
	tenant, came, size := header(r.Headers, r.Timestamp)
	if !day.has(came) {
		return nil
	}
	return t.add(tenant, Amount{Items: 1, Bytes: size + int64(len(r.Key)+len(r.Value))})
}

// header says whose a record is and when it came.
func header(headers []kgo.RecordHeader, otherwise time.Time) (tenant string, came time.Time, size int64) {
	came = otherwise
	for _, h := range headers {
		size += int64(len(h.Key) + len(h.Value))
		switch h.Key {
		case envelope.HeaderTenant:
			tenant = string(h.Value)
		case envelope.HeaderReceivedNanos:
			if ns, err := strconv.ParseInt(string(h.Value), 10, 64); err == nil {
				came = time.Unix(0, ns)
			}
		}
	}
	return tenant, came.UTC(), size
}
