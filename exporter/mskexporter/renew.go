package mskexporter

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// producer is a Kafka client that can be replaced. A client knows topics by their ids, so one that was deleted and made anew it never finds
// again; and to make it forget the topic would begin its sequence numbers anew under the same producer id, which a broker takes for copies.
// A new client has a new producer id.
type producer struct {
	opts []kgo.Opt

	mu     sync.RWMutex
	kc     *kgo.Client // guarded by mu
	closed bool        // guarded by mu
}

func newProducer(opts []kgo.Opt) (*producer, error) {
	kc, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	return &producer{opts: opts, kc: kc}, nil
}

func (p *producer) client() *kgo.Client {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.kc
}

// replace returns the old client, whose records are still on their way.
func (p *producer) replace() (*kgo.Client, error) {
	kc, err := kgo.NewClient(p.opts...)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		kc.Close()
		return nil, errClosing
	}
	old := p.kc
	p.kc = kc
	return old, nil
}

// close gives up what is on its way.
func (p *producer) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.client().Close()
}

const metadataTimeout = 5 * time.Second

// topicIDs are the ids of topics as they were when the producers were made.
type topicIDs struct {
	asking sync.Mutex // held while they are looked at
	of     map[string][16]byte
}

// lost is told that a broker does not know a topic by its id: either it has not heard of the topic yet, or it is another topic now. Then the
// producers are made anew. It returns at once.
func (c *client) lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || !c.ids.asking.TryLock() {
		return
	}
	c.work.Go(func() {
		defer c.ids.asking.Unlock()
		if changed := c.learn(c.alive); changed != "" {
			c.renew(changed)
		}
	})
}

// renew is called with ids.asking held.
func (c *client) renew(changed string) {
	c.log.Warn("a topic was deleted and made anew: connecting again", zap.String("topic", changed))
	for _, p := range append([]*producer{c.kafka}, c.back...) {
		old, err := p.replace()
		if err != nil {
			c.log.Error("connecting again", zap.Error(err))
			continue
		}
		c.work.Go(func() {
			ctx, cancel := context.WithTimeout(c.alive, c.cfg.Timeout)
			defer cancel()
			_ = old.Flush(ctx) // records that it gives up fail, and are retried by whoever sent them
			old.Close()
		})
	}
}

// learn asks how many partitions the topics have, and which ids. What it is not told the first record of a topic will find out. It returns a
// topic whose id has changed; empty: none. But for the first time it is called with ids.asking held.
func (c *client) learn(ctx context.Context) (changed string) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	for _, s := range c.cfg.specs() {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(s.Name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, c.kafka.client())
	if err != nil {
		return ""
	}
	for _, t := range resp.Topics {
		if t.ErrorCode != 0 || t.Topic == nil || len(t.Partitions) == 0 {
			continue
		}
		c.router.learn(*t.Topic, len(t.Partitions))
		if was, known := c.ids.of[*t.Topic]; known && was != t.TopicID {
			changed = *t.Topic
		}
		c.ids.of[*t.Topic] = t.TopicID
	}
	return changed
}
