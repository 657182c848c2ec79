package mskexporter

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/zeebo/xxh3"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// overflowShards is in how many partitions of an overflow topic a tenant's records lie. Its backlog then delays only tenants whose records lie in the same
// ones: the aggregator takes all partitions at an equal pace (docs/decisions/0029).
const overflowShards = 2

// router gives records their partitions: by the key, as Kafka's own clients do; in an overflow topic by the tenant, and among its shards by the key. Both are
// functions of the record and of the number of partitions, so that a request and its retries share a partition. It is asked before a record is produced, because
// what can be done with it depends on its partition; the Kafka client asks it again, and hears the same. It is safe for concurrent use.
type router struct {
	overflow map[string]bool // topics

	mu     sync.RWMutex
	counts map[string]int // guarded by mu; of partitions, by topic
}

func newRouter(c *TopicsConfig) *router {
	r := &router{overflow: map[string]bool{}, counts: map[string]int{}}
	if c.Overflow {
		for _, s := range signal.All {
			for _, class := range append([]string{""}, c.Classes...) {
				r.overflow[c.nameOf(envelope.Envelope{Signal: s, Lane: envelope.LaneOverflow, TopicClass: class})] = true
			}
		}
	}
	return r
}

// learn is told how many partitions a topic has.
func (r *router) learn(topic string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[topic] = n
}

// count is how many partitions a topic has, as last heard; zero: nobody knows.
func (r *router) count(topic string) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.counts[topic]
}

// partition is that of a record in a topic of n partitions. It is a function of the two.
func (r *router) partition(rec *kgo.Record, n int) int32 {
	switch {
	case r.overflow[rec.Topic]:
		return int32(overflowPartition(rec, n))
	case rec.Key == nil: // of an earlier version, from the spill
		return int32(xxh3.Hash(rec.Value) % uint64(n))
	}
	return int32(byKey.Partition(rec, n))
}

// byKey is Kafka's own function of the key, murmur2.
var byKey = kgo.StickyKeyPartitioner(nil).ForTopic("")

// ForTopic makes router a kgo.Partitioner.
func (r *router) ForTopic(topic string) kgo.TopicPartitioner { return topicRouter{r, topic} }

// topicRouter is asked by the Kafka client, which knows how many partitions a topic has now.
type topicRouter struct {
	*router
	topic string
}

// RequiresConsistency has the client count partitions without a leader, too.
func (topicRouter) RequiresConsistency(*kgo.Record) bool { return true }

func (t topicRouter) Partition(rec *kgo.Record, n int) int {
	if t.count(t.topic) != n {
		t.learn(t.topic, n)
	}
	if p := int(rec.Partition); p >= 0 && p < n {
		return p
	}
	return int(t.partition(rec, n))
}

// overflowPartition is one of the tenant's shards, of which there are fewer only where the topic has fewer partitions.
func overflowPartition(r *kgo.Record, n int) int {
	var id []byte
	for _, h := range r.Headers {
		if h.Key == envelope.HeaderTenant {
			id = h.Value
		}
	}
	tenant := xxh3.Hash(id)
	first := int(tenant % uint64(n))
	if n < overflowShards || xxh3.Hash(r.Key)%overflowShards == 0 {
		return first
	}
	return (first + 1 + int(tenant>>32%uint64(n-1))) % n
}
