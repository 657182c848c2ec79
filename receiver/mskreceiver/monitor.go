package mskreceiver

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

const (
	monitorInterval = 10 * time.Second
	// missingInterval is how often a topic that does not exist yet is looked for.
	missingInterval = time.Second
	monitorTimeout  = 10 * time.Second
)

// monitor asks the brokers now and then for the ends of partitions: a paused partition is not fetched, and its lag is the very
// one to know. It also waits for topics that do not exist yet, and finds those that were deleted and made anew: the client goes on
// asking for the topic that it knew.
type monitor struct {
	client *kgo.Client
	topics []string
	group  *group
	log    *zap.Logger

	missing map[string]bool
	other   map[string]block.TopicID // topics that seem to have been made anew, as of the last look
	failing bool
	hurry   chan struct{} // holds one token: look before it is time

	mu      sync.Mutex
	fetched map[string]block.TopicID // guarded by mu: by topic, the id that the client has asked brokers for
}

func newMonitor(client *kgo.Client, topics []string, g *group, log *zap.Logger) *monitor {
	return &monitor{client: client, topics: topics, group: g, log: log, missing: map[string]bool{}, hurry: make(chan struct{}, 1), fetched: map[string]block.TopicID{}}
}

// lookNow makes it look at once, but not more often than each missingInterval. It does not wait.
func (m *monitor) lookNow() {
	select {
	case m.hurry <- struct{}{}:
	default:
	}
}

// hear takes down the id by which the client asks for a topic; zero: it is not known.
func (m *monitor) hear(topic string, id block.TopicID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fetched[topic] = id
}

// heard is that id.
func (m *monitor) heard(topic string) block.TopicID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fetched[topic]
}

func (m *monitor) run(ctx context.Context) {
	for {
		m.look(ctx)
		if !sleep(ctx, nil, missingInterval) {
			return
		}
		if len(m.missing) > 0 || len(m.other) > 0 || m.failing {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-m.hurry:
		case <-time.After(monitorInterval - missingInterval):
		}
	}
}

func (m *monitor) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	ends, err := kadm.NewClient(m.client).ListEndOffsets(ctx, m.topics...)
	if err != nil {
		if !m.failing && !errors.Is(ctx.Err(), context.Canceled) {
			m.log.Warn("cannot ask Kafka for the ends of partitions; lag is as last heard", zap.Strings("topics", m.topics), zap.Error(err))
			m.failing = true
		}
		return
	}
	m.failing = false
	for _, p := range m.group.partitions() {
		if o, ok := ends.Lookup(p.topic, p.id); ok && o.Err == nil {
			p.highWatermark.Store(o.Offset)
		}
	}
	for _, topic := range m.topics {
		m.exists(topic, ends[topic])
	}
	m.madeAnew(ctx)
}

// madeAnew has the group begin topics anew that have another id than when their partitions were placed, or than the client asks for: a partition
// may have been placed since, and the client takes no other id for a topic that it knows. It must be seen twice: a broker may be behind the others
// for a moment.
func (m *monitor) madeAnew(ctx context.Context) {
	ids, failed, err := topicIDs(ctx, m.client, m.topics)
	if err != nil {
		return // the ends were had, so it is asked again
	}
	other := map[string]block.TopicID{}
	for _, p := range m.group.partitions() {
		if id := ids[p.topic]; failed[p.topic] == nil && p.isPlaced() && (isOther(id, p.plan.topic) || isOther(id, m.heard(p.topic))) {
			other[p.topic] = id
		}
	}
	for topic, id := range other {
		if m.other[topic] == id {
			m.group.beginAgain(topic, id)
			m.hear(topic, block.TopicID{})
			delete(other, topic)
		}
	}
	m.other = other
}

// isOther tells that two ids, if both are known, are of two topics.
func isOther(a, b block.TopicID) bool {
	return a != b && a != (block.TopicID{}) && b != (block.TopicID{})
}

// exists logs when a topic begins or ends to be missing.
func (m *monitor) exists(topic string, partitions map[int32]kadm.ListedOffset) {
	missing := len(partitions) == 0
	for _, o := range partitions {
		missing = missing || errors.Is(o.Err, kerr.UnknownTopicOrPartition) && o.Partition < 0
	}
	switch {
	case missing && !m.missing[topic]:
		m.missing[topic] = true
		m.log.Warn("topic does not exist yet; waiting for it", zap.String("topic", topic))
	case !missing && m.missing[topic]:
		delete(m.missing, topic)
		m.log.Info("topic exists now", zap.String("topic", topic))
		m.client.ForceMetadataRefresh() // or the client would find it only when its metadata is old enough
	}
}
