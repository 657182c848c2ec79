package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// starvedRate is the least throttle that Kafka takes, in bytes a second.
	starvedRate = "1"
	// quotaWarmUp is how long the topic's records are counted against the throttle before a follower must be held by it.
	quotaWarmUp = 2 * time.Second
	starvedFor  = 2 * time.Second // a follower that is still out of sync after this is held
	starveTries = 5               // where nobody writes for a moment, the throttle lets followers through
)

// Starve takes one partition below its topic's min.insync.replicas, and leaves all others alone: its leader stays, and its followers are made
// anew under a replication throttle that they never get through. Fewer replicas would not do: since 3.7 Kafka never asks for more in-sync
// replicas than a partition has.
//
// Other partitions of the topic must be written to at each node, without a pause of more than a few seconds: what their followers fetch uses
// the throttle up, and only followers that are out of sync wait for it. feed ends it and returns when all replicas are in sync again.
func (c *Cluster) Starve(ctx context.Context, topic string, partition int32) (feed func(context.Context) error, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		return nil, err
	}
	s := &starved{admin: kadm.NewClient(client), topic: topic, partition: partition}
	for _, n := range c.nodes {
		s.nodes = append(s.nodes, int32(n.id))
	}
	if err := s.begin(ctx); err != nil {
		err = errors.Join(err, s.throttle(ctx, nil))
		client.Close()
		return nil, fmt.Errorf("starving the followers of %s/%d: %w", topic, partition, err)
	}
	return func(ctx context.Context) error {
		defer client.Close()
		if err := s.throttle(ctx, nil); err != nil {
			return err
		}
		return s.wait(ctx, func(p kadm.PartitionDetail) bool { return len(p.ISR) == len(s.replicas) })
	}, nil
}

// starved is a partition whose followers are out of sync.
type starved struct {
	admin     *kadm.Client
	topic     string
	partition int32
	replicas  []int32 // as they were
	nodes     []int32
}

func (s *starved) begin(ctx context.Context) error {
	p, err := s.describe(ctx)
	if err != nil {
		return err
	}
	s.replicas = append([]int32{p.Leader}, slices.DeleteFunc(slices.Clone(p.Replicas), func(id int32) bool { return id == p.Leader })...)
	rate := starvedRate
	if err := s.throttle(ctx, &rate); err != nil {
		return err
	}
	for range starveTries {
		time.Sleep(quotaWarmUp)
		if p, err = s.replace(ctx); err != nil || len(p.ISR) == 1 {
			return err
		}
	}
	return fmt.Errorf("replicas %v are in sync in spite of the throttle", p.ISR)
}

// replace makes the followers anew and tells how that went.
func (s *starved) replace(ctx context.Context) (p kadm.PartitionDetail, err error) {
	for _, to := range [][]int32{s.replicas[:1], s.replicas} {
		if err := s.assign(ctx, to); err != nil {
			return p, err
		}
		if err := s.wait(ctx, func(p kadm.PartitionDetail) bool { return len(p.Replicas) == len(to) }); err != nil {
			return p, err
		}
	}
	select {
	case <-ctx.Done():
		return p, ctx.Err()
	case <-time.After(starvedFor):
	}
	return s.describe(ctx)
}

// throttle sets the rate of all followers of the topic that are out of sync; nil: takes it off.
func (s *starved) throttle(ctx context.Context, rate *string) error {
	everyReplica, op := "*", kadm.SetConfig
	if rate == nil {
		op = kadm.DeleteConfig
	}
	topics, err := s.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: "follower.replication.throttled.replicas", Value: &everyReplica}}, s.topic)
	for _, r := range topics {
		err = errors.Join(err, r.Err)
	}
	brokers, berr := s.admin.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: "follower.replication.throttled.rate", Value: rate}}, s.nodes...)
	for _, r := range brokers {
		berr = errors.Join(berr, r.Err)
	}
	return errors.Join(err, berr)
}

func (s *starved) assign(ctx context.Context, to []int32) error {
	var req kadm.AlterPartitionAssignmentsReq
	req.Assign(s.topic, s.partition, to)
	done, err := s.admin.AlterPartitionAssignments(ctx, req)
	return errors.Join(err, done.Error())
}

func (s *starved) describe(ctx context.Context) (kadm.PartitionDetail, error) {
	topics, err := s.admin.ListTopics(ctx, s.topic)
	if err != nil {
		return kadm.PartitionDetail{}, err
	}
	p, ok := topics[s.topic].Partitions[s.partition]
	if !ok {
		return p, fmt.Errorf("no such partition: %w", topics.Error())
	}
	return p, nil
}

// wait waits until the partition is as wanted.
func (s *starved) wait(ctx context.Context, wanted func(kadm.PartitionDetail) bool) error {
	for {
		p, err := s.describe(ctx)
		if err == nil && wanted(p) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("replicas %v of %s/%d, in sync %v: %w", p.Replicas, s.topic, s.partition, p.ISR, errors.Join(err, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
