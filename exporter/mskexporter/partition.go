package mskexporter

import (
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/zeebo/xxh3"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// overflowShards is in how many partitions of an overflow topic a tenant's records lie. Its backlog then delays only tenants whose records lie in the same
// ones: the aggregator takes all partitions at an equal pace (docs/decisions/0029).
const overflowShards = 2

// partitioner chooses by the key, as the client does by default; in an overflow topic by the tenant, and among its shards by the key. Both are functions of the
// record, so that a request and its retries share a partition.
type partitioner struct {
	kgo.Partitioner                 // of other topics
	overflow        map[string]bool // topics
}

func (c *TopicsConfig) partitioner() kgo.Partitioner {
	p := partitioner{kgo.UniformBytesPartitioner(64<<10, true, true, nil), map[string]bool{}}
	if c.Overflow {
		for _, s := range signal.All {
			for _, class := range append([]string{""}, c.Classes...) {
				p.overflow[c.nameOf(envelope.Envelope{Signal: s, Lane: envelope.LaneOverflow, TopicClass: class})] = true
			}
		}
	}
	return p
}

var byTenant = kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int { return overflowPartition })

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if p.overflow[topic] {
		return byTenant.ForTopic(topic)
	}
	return p.Partitioner.ForTopic(topic)
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
