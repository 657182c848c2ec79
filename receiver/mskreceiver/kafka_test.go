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
	end := endOfQuarantine(t, qc)
	require.Positive(t, end)
	origins := map[string]bool{} // an owner that leaves after it has put the record there lets the next one do it again
	for n := int64(0); n < end; {
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

	longest := position{topicID: block.TopicID{1}, appended: time.UnixMilli(math.MaxInt64), intended: time.UnixMilli(math.MaxInt64), fresh: true}
	for i := range int64(maxOmitted) {
		longest.omissions = append(longest.omissions, omission{math.MaxInt64 - maxOmitted + i, []int32{math.MaxInt32}})
	}
	for i := range int64(maxSteps) {
		longest.epochs = append(longest.epochs, step{math.MaxInt64 - maxSteps + i, math.MaxInt32, true})
	}
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
	require.Regexp(t, "^v1 id=[-_A-Za-z0-9]{22} t=", metadataOf(t, cl, "g", 0))

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

// Scenario: Apache Kafka itself, a topic that lets a replica lead that is not in sync. 150 records are delivered and committed, of which the
// one replica has 100; it is elected, and 60 others are written. The partition's next owner has a memory. Then the topic is deleted and
// made anew under it.
// Guarantees: the 50 that replaced delivered ones are in quarantine, the last 10 are delivered; of the new topic all is.
func TestApacheKafkaElectsAReplicaThatIsNotInSync(t *testing.T) {
	k := kafkatest.Start(t, 3)
	cl := testClient(t, k.Brokers(), kgo.RequiredAcks(kgo.AllISRAcks()))
	adm := kadm.NewClient(cl)
	yes, one := "true", "1"
	_, err := adm.CreateTopic(t.Context(), 1, 2, map[string]*string{"unclean.leader.election.enable": &yes, "min.insync.replicas": &one}, logsTopic)
	require.NoError(t, err)
	_, err = adm.CreateTopic(t.Context(), 1, 3, nil, signal.QuarantineTopic)
	require.NoError(t, err)
	leader := func() (leader, follower int32, isr int) {
		topics, err := adm.ListTopics(t.Context(), logsTopic)
		if p := topics[logsTopic].Partitions[0]; err == nil && len(p.Replicas) == 2 {
			return p.Leader, p.Replicas[0] + p.Replicas[1] - p.Leader, len(p.ISR)
		}
		return -1, -1, 0
	}
	config := func() *Config {
		cfg := testConfig(k.Brokers(), "g")
		cfg.HeartbeatInterval, cfg.SessionTimeout = 200*time.Millisecond, 10*time.Second
		return cfg
	}
	first := newStore(nil)
	_, stop := run(t, config(), first)
	produce(t, cl, "kept", 100, 1)
	eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 100 })
	old, other, _ := leader()
	require.NoError(t, k.Kill(int(other)))
	eventually(t, "one replica is left", func() bool { _, _, isr := leader(); return isr == 1 })
	produce(t, cl, "cut off", 50, 1)
	eventually(t, "committed", func() bool { return committed(t, cl, "g")[0] == 150 })
	require.NoError(t, stop())
	require.NoError(t, k.Kill(int(old)))
	require.NoError(t, k.Restart(int(other)))
	eventually(t, "the other leads", func() bool { l, _, _ := leader(); return l == other })
	again := testClient(t, k.Brokers())
	written := produce(t, again, "new", 60, 1)
	require.Contains(t, written[0], int64(100), "the log was not cut off")

	m := newMemory(time.Hour)
	s := newStore(nil)
	s.memories = []block.Memory{m}
	run(t, config(), s)
	eventually(t, "all committed", func() bool { return committed(t, again, "g")[0] == 160 })
	requireReplaced(t, again, 100, 150)
	require.Equal(t, seq(0, 100), m.offsets(0))
	requireTiles(t, s.offered(0), 150, 160)
	require.Len(t, s.stored(), 20)

	before := s.offered(0)[0].TopicID
	require.NotZero(t, before)
	require.NoError(t, k.Restart(int(old))) // else the new topic may get a replica on a dead node, and nothing can be written to it
	_, err = adm.DeleteTopic(t.Context(), logsTopic)
	require.NoError(t, err)
	eventually(t, "made anew", func() bool {
		_, err := adm.CreateTopic(t.Context(), 1, 2, nil, logsTopic)
		return err == nil
	})
	want := produce(t, testClient(t, k.Brokers()), "anew", 30, 1)
	eventually(t, "the new topic is read from its start", func() bool { return s.hasAll(allBodies(want)) })
	eventually(t, "committed", func() bool { return committed(t, again, "g")[0] == 30 })
	s.mu.Lock()
	for _, b := range s.blocks {
		require.Equal(t, b.First < 150, b.TopicID != before, b.Name())
	}
	s.mu.Unlock()
	s.check(t)
}
