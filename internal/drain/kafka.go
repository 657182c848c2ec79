package drain

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Waiting is what a consumer group has not stored yet.
type Waiting struct {
	Group   string
	Records int64 // of all its topics; what was committed is stored (docs/ARCHITECTURE.md)
}

// Backlog is what is in a cell's Kafka and perhaps not in its stores.
type Backlog struct {
	Groups []Waiting
	// Unread are topics of events that have records, and of which no group is known.
	Unread []string
}

// ReadBacklog asks a cell's Kafka.
func ReadBacklog(ctx context.Context, c *Cell) (Backlog, error) {
	opts, err := c.Kafka.Options(ctx, zap.NewNop())
	if err != nil {
		return Backlog{}, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return Backlog{}, err
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	topics, err := kafka.ListTopics(ctx, adm)
	if err != nil {
		return Backlog{}, err
	}
	var names []string
	for name := range topics {
		if signal.OfTopic(name) != 0 || name == signal.QuarantineTopic || slices.ContainsFunc(c.Groups, func(g Group) bool { return slices.Contains(g.Topics, name) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		return Backlog{}, errors.New("has no topic of events")
	}
	starts, err := adm.ListStartOffsets(ctx, names...)
	if err != nil {
		return Backlog{}, err
	}
	ends, err := adm.ListEndOffsets(ctx, names...)
	if err != nil {
		return Backlog{}, err
	}
	if err := errors.Join(starts.Error(), ends.Error()); err != nil { // a partition without a leader may hold anything
		return Backlog{}, err
	}
	var b Backlog
	for _, name := range names {
		known := slices.ContainsFunc(c.Groups, func(g Group) bool { return slices.Contains(g.Topics, name) })
		if !known && kafka.Lag(starts[name], ends[name], nil) > 0 {
			b.Unread = append(b.Unread, name)
		}
	}
	for _, g := range c.Groups {
		committed, err := adm.FetchOffsets(ctx, g.Name)
		if err == nil {
			err = committed.Error()
		}
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // a group that has never read has stored nothing
			return Backlog{}, fmt.Errorf("group %s: %w", g.Name, err)
		}
		w := Waiting{Group: g.Name}
		for _, topic := range g.Topics {
			if slices.Contains(names, topic) {
				w.Records += kafka.Lag(starts[topic], ends[topic], committed[topic])
			}
		}
		b.Groups = append(b.Groups, w)
	}
	return b, nil
}
