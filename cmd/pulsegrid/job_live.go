package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

// live looks at the consumer groups of an aggregator's configuration. Live traffic is behind where a group has not committed a record that is older than a
// bound: its events are not in the group's store.
type live struct{ groups []liveGroup }

type liveGroup struct {
	name   string
	topics []string
	after  time.Duration // the bound
	admin  *kadm.Client
}

// newLive asks nobody anything yet. The lake commits blocks of several seconds at once: a group is behind where events wait longer than after and than such a commit waits for them.
func (p *pipelines) newLive(ctx context.Context, after time.Duration) (_ *live, err error) {
	l := &live{}
	found, err := p.fromKafka()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	receivers, err := p.receivers()
	if err != nil {
		return nil, err
	}
	for _, id := range slices.SortedFunc(maps.Keys(receivers), compareIDs) {
		cfg := receivers[id]
		if len(cfg.Topics.Quarantine) > 0 {
			continue // nobody waits for these
		}
		g, err := p.newGroup(ctx, cfg)
		if err != nil {
			return nil, fmt.Errorf("receivers: %s: %w", id, err)
		}
		g.after = after + p.commitWait(found, id)
		l.groups = append(l.groups, *g)
	}
	return l, nil
}

// receivers are the configuration's msk receivers.
func (p *pipelines) receivers() (map[component.ID]*mskreceiver.Config, error) {
	f, out := mskreceiver.NewFactory(), map[component.ID]*mskreceiver.Config{}
	for _, id := range p.ids("receivers", f.Type().String()) {
		cfg := f.CreateDefaultConfig().(*mskreceiver.Config)
		if err := p.configure("receivers", id, cfg); err != nil {
			return nil, err
		}
		out[id] = cfg
	}
	return out, nil
}

func compareIDs(a, b component.ID) int { return strings.Compare(a.String(), b.String()) }

// commitWait is how long the aggregators let the events of a receiver wait for a commit of its store.
func (p *pipelines) commitWait(found map[string]pipeline, receiver component.ID) (wait time.Duration) {
	for _, pl := range found {
		if !slices.Contains(pl.Receivers, receiver.String()) {
			continue
		}
		for _, name := range pl.Exporters {
			var id component.ID
			if id.UnmarshalText([]byte(name)) == nil {
				wait = max(wait, p.commitWaits[id])
			}
		}
	}
	return wait
}

// newGroup asks nobody anything yet. The caller closes its admin.
func (p *pipelines) newGroup(ctx context.Context, cfg *mskreceiver.Config) (*liveGroup, error) {
	opts, err := cfg.Options(ctx, p.log)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	return &liveGroup{name: cfg.GroupID, topics: slices.Concat(cfg.Topics.Logs, cfg.Topics.Metrics, cfg.Topics.Traces), admin: kadm.NewClient(client)}, nil
}

func (l *live) close() {
	for _, g := range l.groups {
		g.admin.Close()
	}
}

// behind is a yield.Live.
func (l *live) behind(ctx context.Context) (string, error) {
	var errs []error
	for _, g := range l.groups {
		topic, err := g.behind(ctx, time.Now().Add(-g.after))
		if topic != "" {
			return fmt.Sprintf("live events of %s wait longer than %v for group %s", topic, g.after, g.name), nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// behind returns a topic with a record that was appended before that time and that the group has not committed; empty: there is none.
func (g *liveGroup) behind(ctx context.Context, before time.Time) (topic string, err error) {
	since, err := g.admin.ListOffsetsAfterMilli(ctx, before.UnixMilli(), g.topics...)
	if err != nil {
		return "", err
	}
	committed, err := g.admin.FetchOffsets(ctx, g.name)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return "", nil // nobody reads yet
	}
	if err != nil {
		return "", err
	}
	var errs []error
	for _, topic := range slices.Sorted(maps.Keys(since)) {
		for partition, o := range since[topic] {
			at, known := committed.Lookup(topic, partition)
			switch {
			case o.Err != nil:
				errs = append(errs, fmt.Errorf("topic %s, partition %d: %w", topic, partition, o.Err))
			case known && at.At < o.Offset: // where nothing is committed, nobody reads yet
				return topic, nil
			}
		}
	}
	return "", errors.Join(errs...)
}
