package cell

import (
	"fmt"
	"net"
	"strconv"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Limits of the embedded Kafka. A request of an agent becomes one record, so a batch must hold the largest request.
const (
	kafkaPartitions      = 3
	kafkaMaxMessageBytes = 32 << 20
	kafkaRetentionMillis = 24 * 60 * 60 * 1000
	kafkaRetentionBytes  = 2 << 30 // a partition
)

// startKafka runs the broker in this process. Like Kafka itself it acknowledges what the kernel has, without fsync: it survives
// any kill of the process, not a loss of power.
func startKafka(l layout, port int) (*kfake.Cluster, error) {
	cluster, err := kfake.NewCluster(
		kfake.Ports(port),
		kfake.ListenFn(listenFrames),
		kfake.DataDir(l.kafka()),
		kfake.ClusterID("pulsegrid-local"),
		kfake.DefaultNumPartitions(kafkaPartitions),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": strconv.Itoa(kafkaMaxMessageBytes)}),
	)
	if err != nil {
		return nil, fmt.Errorf("start Kafka on port %d over %s: %w", port, l.kafka(), err)
	}
	topics := []string{signal.QuarantineTopic, signal.RefusedTopic}
	for _, s := range signal.All {
		topics = append(topics, s.Topic())
	}
	for _, topic := range topics {
		if cluster.TopicInfo(topic) != nil {
			continue
		}
		err := cluster.CreateTopic(topic, kafkaPartitions, map[string]string{
			"message.timestamp.type": "LogAppendTime",
			"max.message.bytes":      strconv.Itoa(kafkaMaxMessageBytes),
			"retention.ms":           strconv.Itoa(kafkaRetentionMillis),
			"retention.bytes":        strconv.Itoa(kafkaRetentionBytes),
		})
		if err != nil {
			cluster.Close()
			return nil, fmt.Errorf("create topic %s: %w", topic, err)
		}
	}
	return cluster, nil
}

func kafkaAddress(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
