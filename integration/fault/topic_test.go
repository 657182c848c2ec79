package fault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// withoutTopic is how long agents send while there is no topic.
const withoutTopic = 20 * time.Second

// topicMadeAnew deletes the topics and makes them anew. What the old ones held and nobody had read would be lost by that, and an agent's retry would
// find no first copy in the new ones; so agents wait until the groups have committed everything, and go on when the topics are gone.
func (r *run) topicMadeAnew() error {
	resume, err := r.pause()
	defer resume()
	if err != nil {
		return err
	}
	lag := ""
	if !until(func() bool { lag = r.lag(); return lag == "" }, freshTimeout) {
		return fmt.Errorf("the stores are not quiet after %v: %s", freshTimeout, lag)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scaled(withoutTopic)+startTimeout)
	defer cancel()
	names := fastLane.names()
	before, err := r.admin.ListTopics(ctx, names...)
	if err != nil {
		return err
	}
	configs, err := r.admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return err
	}
	deleted, err := r.admin.DeleteTopics(ctx, names...)
	if err := errors.Join(err, deleted.Error()); err != nil {
		return fmt.Errorf("deleting the topics: %w", err)
	}
	resume()
	time.Sleep(scaled(withoutTopic))
	for _, c := range configs {
		own := map[string]*string{}
		for _, k := range c.Configs {
			if k.Source.String() == "DYNAMIC_TOPIC_CONFIG" {
				own[k.Key] = k.Value
			}
		}
		parts := before[c.Name].Partitions
		made, err := r.admin.CreateTopic(ctx, int32(len(parts)), int16(parts.NumReplicas()), own, c.Name)
		if err := errors.Join(err, made.Err); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("making topic %s anew: %w", c.Name, err)
		}
	}
	var after kadm.TopicDetails
	is := until(func() bool {
		after, err = r.admin.ListTopics(ctx, names...)
		return err == nil && after.Error() == nil
	}, startTimeout)
	if !is {
		return fmt.Errorf("the topics are not there again: %w", errors.Join(err, after.Error()))
	}
	for _, name := range names {
		if after[name].ID == before[name].ID {
			return fmt.Errorf("topic %s has its old id: the fault was none", name)
		}
	}
	return nil
}
