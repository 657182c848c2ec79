package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
)

const partitions = 4

var topics atomic.Int64

// newTopic makes a topic of its own for one measurement.
func newTopic(ctx context.Context, kafka *kafkatest.Cluster) (string, error) {
	adm, err := admin(kafka)
	if err != nil {
		return "", err
	}
	defer adm.Close()
	name := fmt.Sprintf("bench-%d", topics.Add(1))
	maxBytes, timestamps := "8388608", "LogAppendTime"
	resp, err := adm.CreateTopic(ctx, partitions, 1, map[string]*string{"max.message.bytes": &maxBytes, "message.timestamp.type": &timestamps}, name)
	if err != nil {
		return "", err
	}
	return name, resp.Err
}

// deleteTopic frees the disk that a measurement took.
func deleteTopic(ctx context.Context, kafka *kafkatest.Cluster, name string) error {
	adm, err := admin(kafka)
	if err != nil {
		return err
	}
	defer adm.Close()
	resp, err := adm.DeleteTopic(ctx, name)
	if err != nil {
		return err
	}
	return resp.Err
}

func admin(kafka *kafkatest.Cluster) (*kadm.Client, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(kafka.Brokers()...))
	if err != nil {
		return nil, err
	}
	return kadm.NewClient(cl), nil
}
