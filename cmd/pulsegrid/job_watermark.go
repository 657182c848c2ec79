package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/pulsegrid/pulsegrid/internal/aggregate"
	"github.com/pulsegrid/pulsegrid/internal/alerting"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

const (
	// watermarkMargin covers clocks that differ: Kafka's brokers stamp records by theirs.
	watermarkMargin = 10 * time.Second
	// watermarkOldest is how far behind a group may be for a watermark to be found.
	watermarkOldest = 30 * 24 * time.Hour
	// completeWithin bounds one look of alerts at Kafka.
	completeWithin = 10 * time.Second
)

// watermarks ask how far the store of a group is complete.
func (g *liveGroup) watermarks(c *mskreceiver.Config) aggregate.Watermark {
	topics := topicsOf(c)
	known := map[signal.Signal]time.Time{}
	return func(ctx context.Context, s signal.Signal) (time.Time, error) {
		if t, ok := known[s]; ok { // one for all models of a run
			return t, nil
		}
		t, err := g.completeThrough(ctx, topics[s], time.Now().Add(-watermarkMargin))
		if err == nil {
			known[s] = t
		}
		return t, err
	}
}

// completeFor is how long an answer of completeness is good.
const completeFor = time.Second

// complete asks how far the store of a group is complete, for alerts: many groups of rules ask at the same time, and share the answer.
func (g *liveGroup) complete(c *mskreceiver.Config) alerting.Complete {
	topics := topicsOf(c)
	type answer struct {
		at      time.Time
		through time.Time
		err     error
	}
	var mu sync.Mutex // held while Kafka is asked, so that others wait for the answer
	known := map[signal.Signal]answer{}
	return func(ctx context.Context, s signal.Signal) (time.Time, error) {
		mu.Lock()
		defer mu.Unlock()
		if a := known[s]; time.Since(a.at) < completeFor {
			return a.through, a.err
		}
		ctx, cancel := context.WithTimeout(ctx, completeWithin)
		defer cancel()
		through, err := g.completeThrough(ctx, topics[s], time.Now())
		known[s] = answer{time.Now(), through, err}
		return through, err
	}
}

func topicsOf(c *mskreceiver.Config) map[signal.Signal][]string {
	return map[signal.Signal][]string{signal.Logs: c.Topics.Logs, signal.Metrics: c.Topics.Metrics, signal.Traces: c.Topics.Traces}
}

// completeThrough returns the latest time, to a second and not after latest, for which the group has committed every record that was appended before. A partition without
// such records, as an idle one, holds nothing back. A group commits a record when the store has it.
func (g *liveGroup) completeThrough(ctx context.Context, topics []string, latest time.Time) (time.Time, error) {
	if len(topics) == 0 {
		return time.Time{}, fmt.Errorf("group %s reads no topic of it", g.name)
	}
	// What the group has is asked first: records that come later are then behind, never before.
	committed, err := g.admin.FetchOffsets(ctx, g.name)
	if errors.Is(err, kerr.GroupIDNotFound) {
		committed, err = nil, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("offsets of group %s: %w", g.name, err)
	}
	begins, err := g.admin.ListStartOffsets(ctx, topics...)
	if err == nil {
		err = begins.Error()
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("begin of %v: %w", topics, err)
	}
	latest = latest.Truncate(time.Second)
	steps := int(watermarkOldest / time.Second)
	var failed error
	// Times go back from latest; all of those before a time for which it is complete are so, too.
	complete := func(i int) bool {
		if failed != nil {
			return true
		}
		before, err := g.admin.ListOffsetsAfterMilli(ctx, latest.Add(-time.Duration(i)*time.Second).UnixMilli(), topics...)
		if err == nil {
			err = before.Error()
		}
		failed = err
		return err == nil && has(committed, begins, before)
	}
	// Mostly it is complete until some seconds ago.
	near, far := 0, 1
	for far < steps && !complete(far-1) {
		near, far = far, min(4*far, steps)
	}
	back := near + sort.Search(far-near, func(i int) bool { return complete(near + i) })
	switch {
	case failed != nil:
		return time.Time{}, fmt.Errorf("offsets of %v: %w", topics, failed)
	case back == steps:
		return time.Time{}, fmt.Errorf("group %s has not stored events of %v that are more than %v old", g.name, topics, watermarkOldest)
	}
	return latest.Add(-time.Duration(back) * time.Second), nil
}

// has tells whether a group has everything before some offsets.
func has(committed kadm.OffsetResponses, begins, before kadm.ListedOffsets) bool {
	for _, topic := range slices.Sorted(maps.Keys(before)) {
		for partition, o := range before[topic] {
			at := int64(-1)
			if c, ok := committed.Lookup(topic, partition); ok {
				at = c.At
			}
			if b, ok := begins.Lookup(topic, partition); ok {
				at = max(at, b.Offset) // before the begin there is nothing any more
			}
			if at < o.Offset {
				return false
			}
		}
	}
	return true
}
