package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
)

// Scenario: Apache Kafka itself; records of this client with and of sarama without headers, one of them poison; members join and
// leave, the pipeline fails now and then, and the broker restarts.
// Guarantees: every event is stored, nothing is committed before it is, the poison is in quarantine, none is left behind.
func TestApacheKafka(t *testing.T) {
	const partitions = 4
	k := kafkatest.Start(t, 1)
	cl := testClient(t, k.Brokers())
	adm := kadm.NewClient(cl)
	for topic, n := range map[string]int32{logsTopic: partitions, signal.QuarantineTopic: 1} {
		_, err := adm.CreateTopic(t.Context(), n, 1, nil, topic)
		require.NoError(t, err)
	}
	var calls atomic.Int32
	s := newStore(func(context.Context, block.Block, plog.Logs) error {
		if calls.Add(1)%3 == 0 {
			return errors.New("now and then")
		}
		return nil
	})
	config := func() *Config {
		cfg := testConfig(k.Brokers(), "g")
		cfg.HeartbeatInterval, cfg.SessionTimeout = 200*time.Millisecond, 10*time.Second
		return cfg
	}
	_, stay := run(t, config(), s)

	want := allBodies(produce(t, cl, "franz", 200, partitions))
	sc := sarama.NewConfig()
	sc.Producer.Return.Successes = true
	p, err := sarama.NewSyncProducer(k.Brokers(), sc)
	require.NoError(t, err)
	for i := range 50 {
		body := fmt.Sprintf("sarama-%d", i)
		_, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: logsTopic, Value: sarama.ByteEncoder(logsRequest(body))})
		require.NoError(t, err)
		want = append(want, body)
	}
	_, _, err = p.SendMessage(&sarama.ProducerMessage{Topic: logsTopic, Value: sarama.StringEncoder("poison")})
	require.NoError(t, err)
	require.NoError(t, p.Close())

	_, leave := run(t, config(), s)
	more := produce(t, cl, "while-joining", 200, partitions)
	want = append(want, allBodies(more)...)
	require.NoError(t, leave())
	for id, next := range committed(t, cl, "g") {
		require.Empty(t, s.missingBelow(id, next, more[id]))
	}
	require.NoError(t, k.Terminate(0))
	require.NoError(t, k.Restart(0))
	want = append(want, allBodies(produce(t, cl, "after-restart", 100, partitions))...)

	eventually(t, "all stored", func() bool { return s.hasAll(want) })
	eventually(t, "all committed", func() bool { return sumOffsets(committed(t, cl, "g")) == 551 })
	qc := testClient(t, k.Brokers(), kgo.ConsumeTopics(signal.QuarantineTopic))
	ends, err := adm.ListEndOffsets(t.Context(), signal.QuarantineTopic)
	require.NoError(t, err)
	end, _ := ends.Lookup(signal.QuarantineTopic, 0)
	require.Positive(t, end.Offset)
	origins := map[string]bool{} // an owner that leaves after it has put the record there lets the next one do it again
	for n := int64(0); n < end.Offset; {
		for _, q := range qc.PollFetches(t.Context()).Records() {
			require.Equal(t, "poison", string(q.Value))
			offset, _ := header(q, envelope.HeaderOriginOffset)
			origins[offset] = true
			n++
		}
	}
	require.Len(t, origins, 1)
	require.NoError(t, stay())
	s.check(t)
}

// Scenario: Apache Kafka itself; an owner crashes with blocks begun, the next one has other limits and a memory; its store is then
// found to hold less than the group takes for finished.
// Guarantees: as over kfake: the same ranges are redone, the memory is told the window by append time, the partition goes back;
// and the longest metadata is one that Kafka stores.
func TestApacheKafkaKeepsTheSameBlocks(t *testing.T) {
	const partitions, records = 2, 200
	k := kafkatest.Start(t, 1)
	cl := testClient(t, k.Brokers())
	adm := kadm.NewClient(cl)
	appendTime := "LogAppendTime"
	_, err := adm.CreateTopic(t.Context(), partitions, 1, map[string]*string{"message.timestamp.type": &appendTime}, logsTopic)
	require.NoError(t, err)
	_, err = adm.CreateTopic(t.Context(), 1, 1, nil, signal.QuarantineTopic)
	require.NoError(t, err)

	longest := position{appended: time.UnixMilli(math.MaxInt64), intended: time.UnixMilli(math.MaxInt64), fresh: true}
	for i := range int64(maxEnds) {
		longest.ends = append(longest.ends, math.MaxInt64-maxEnds+i)
	}
	commitText(t, cl, "longest", 0, 0, longest.text())
	require.Equal(t, longest.text(), metadataOf(t, cl, "longest", 0))

	config := func(maxEvents int) *Config {
		cfg := testConfig(k.Brokers(), "g")
		cfg.HeartbeatInterval, cfg.SessionTimeout = 200*time.Millisecond, 10*time.Second
		cfg.Block.MaxEvents = maxEvents
		return cfg
	}
	produce(t, cl, "x", records, partitions)
	down := newStore(func(context.Context, block.Block, plog.Logs) error { return errors.New("down") })
	r, stop := run(t, config(14), down)
	eventually(t, "blocks are begun", func() bool { return len(down.offered(0)) == 4 && len(down.offered(1)) == 4 })
	crash(r, stop)

	var restored atomic.Bool
	s := newStore(func(_ context.Context, b block.Block, _ plog.Logs) error {
		if restored.Load() && b.Partition == 0 && b.Oldest > 50 && b.Oldest >= records/partitions {
			return &block.ResumeError{Topic: b.Topic, Partition: 0, Next: 50}
		}
		return nil
	})
	m := newMemory(time.Hour)
	s.memories = []block.Memory{m}
	_, stop = run(t, config(10), s)
	eventually(t, "all committed", func() bool { return sumOffsets(committed(t, cl, "g")) == records })
	for id := range int32(partitions) {
		ranges := s.offered(id)
		requireTiles(t, ranges, 0, records/partitions)
		for i, b := range down.offered(id) {
			require.Equal(t, b.String(), ranges[i].String())
			require.True(t, ranges[i].Redo)
		}
		require.True(t, ranges[0].Fresh, "nothing had been finished")
	}
	require.NoError(t, stop())
	require.Contains(t, metadataOf(t, cl, "g", 0), "v1 t=")

	_, stop = run(t, config(10), s)
	eventually(t, "the memory is told", func() bool { return len(m.offsets(0)) == records/partitions && len(m.offsets(1)) == records/partitions })
	restored.Store(true)
	more := produce(t, cl, "y", 2, partitions)
	eventually(t, "sent back, and told anew", func() bool { return len(m.offsets(0)) == 50 })
	restored.Store(false)
	eventually(t, "delivered", func() bool { return s.hasAll(allBodies(more)) })
	eventually(t, "all committed again", func() bool { return sumOffsets(committed(t, cl, "g")) == records+2 })
	s.mu.Lock()
	require.Equal(t, 2, s.count[place{0, 60, 0}], "what the store did not hold any more was delivered again")
	require.Equal(t, 1, s.count[place{0, 49, 0}])
	s.mu.Unlock()
	require.NoError(t, stop())
	require.Empty(t, m.faults)
	require.Empty(t, m.told)
	s.check(t)
}
