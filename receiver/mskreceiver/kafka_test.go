package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
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
	ends, err := adm.ListEndOffsets(t.Context(), signal.QuarantineTopic)
	require.NoError(t, err)
	o, _ := ends.Lookup(signal.QuarantineTopic, 0)
	require.EqualValues(t, 1, o.Offset)
	require.NoError(t, stay())
	s.check(t)
}
