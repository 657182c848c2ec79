package topicreplay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Request says which records are copied, and where to. The same request is the same job.
type Request struct {
	Target string        `json:"target"` // topic
	Signal signal.Signal `json:"-"`      // of the target and its sources
	// Topics are the sources; empty: all topics otlp.<signal>.* but the target.
	Topics []string `json:"topics,omitempty"`
	Tenant string   `json:"tenant,omitempty"` // empty: all
	// Ranges are copied and nothing else, if there are any.
	Ranges []certificate.Range `json:"ranges,omitempty"`
	// From and To bound the records by the time when Kafka appended them: From is in, To is not. Zero From: the begin of the log. Zero To: its end when the plan is
	// made. Unused with Ranges.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
}

// job is the name of the request's job. target is Kafka's id of the topic: one that is made anew gets another job.
func (r Request) job(target string) (string, error) {
	r.Topics = slices.Sorted(slices.Values(r.Topics))
	text, err := json.Marshal(struct {
		Request
		Signal string
		ID     string
	}{r, r.Signal.String(), target})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), err
}

// plan is what a job copies. It never changes.
type plan struct {
	Target  string    `json:"target"`
	ID      string    `json:"target_id"` // Kafka's, of the topic
	Tenant  string    `json:"tenant,omitempty"`
	Created time.Time `json:"created"`
	Ranges  []planned `json:"ranges"` // by topic and partition; none is empty
}

// planned is a range of a topic of that id.
type planned struct {
	certificate.Range
	ID string `json:"topic_id"`
}

// key names the entry of a range's position.
func (p planned) key(job string) string {
	return job + "/" + p.Topic + "/" + strconv.Itoa(int(p.Partition))
}

// position is how far a range is copied, and what became of the records before it.
type position struct {
	Next int64 `json:"next"` // offset
	Tally
}

// Tally counts records of a range.
type Tally struct {
	Copied     int64 `json:"copied"`     // records
	Events     int64 `json:"events"`     // of those
	Bytes      int64 `json:"bytes"`      // of their values
	Others     int64 `json:"others"`     // records of other tenants
	Erased     int64 `json:"erased"`     // records that were declared as erased
	Unreadable int64 `json:"unreadable"` // copied records that are no OTLP, so that their readers put them into quarantine
}

// entry of the journal: a job's plan under its name, or a range's position.
type entry struct {
	Plan     *plan     `json:"plan,omitempty"`
	Position *position `json:"position,omitempty"`
}

// RefusedError says why a request cannot be carried out, now or later.
type RefusedError struct{ Cause error }

func (e RefusedError) Error() string { return e.Cause.Error() }

// Unwrap returns the cause.
func (e RefusedError) Unwrap() error { return e.Cause }

func refused(format string, args ...any) error { return RefusedError{fmt.Errorf(format, args...)} }

// topics that a job reads and writes, as Kafka describes them.
type topics struct {
	admin      *kadm.Client
	sources    []string // sorted
	ids        map[string]string
	partitions int32 // of the target
	maxBytes   int32 // max.message.bytes of the target
}

// describe asks Kafka for a request's topics, and refuses a target that cannot take the records.
func describe(ctx context.Context, admin *kadm.Client, r Request) (*topics, error) {
	t := &topics{admin: admin, ids: map[string]string{}, sources: slices.Sorted(slices.Values(r.Topics))}
	all, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the topics: %w", err)
	}
	if len(t.sources) == 0 {
		for _, name := range all.Names() {
			if signal.OfTopic(name) == r.Signal && name != r.Target {
				t.sources = append(t.sources, name)
			}
		}
		if len(t.sources) == 0 {
			return nil, refused("kafka has no topic otlp.%s.*: name the topics to copy", r.Signal)
		}
	}
	if slices.Contains(t.sources, r.Target) {
		return nil, refused("topic %s cannot be copied into itself", r.Target)
	}
	for _, name := range append(slices.Clone(t.sources), r.Target) {
		switch d, known := all[name]; {
		case !known || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			return nil, refused("topic %s does not exist: this job makes no topic", name)
		case d.Err != nil:
			return nil, fmt.Errorf("topic %s: %w", name, d.Err)
		default:
			t.ids[name] = block.TopicID(d.ID).String()
			t.partitions = int32(len(d.Partitions)) // the target's is the last
		}
	}
	return t, t.fits(ctx, r)
}

// fits refuses a target whose settings would lose records.
func (t *topics) fits(ctx context.Context, r Request) error {
	const maxMessage, cleanup = "max.message.bytes", "cleanup.policy"
	configs, err := t.admin.DescribeTopicConfigs(ctx, append(slices.Clone(t.sources), r.Target)...)
	if err != nil {
		return fmt.Errorf("settings of the topics: %w", err)
	}
	most := map[string]int64{}
	for _, c := range configs {
		if c.Err != nil {
			return fmt.Errorf("settings of topic %s: %w", c.Name, c.Err)
		}
		for _, setting := range c.Configs {
			switch value := setting.MaybeValue(); {
			case setting.Key == cleanup && c.Name == r.Target && strings.Contains(value, "compact"):
				return refused("topic %s: %s is %s, which keeps one record of each key: want delete", c.Name, cleanup, value)
			case setting.Key == maxMessage:
				if most[c.Name], err = strconv.ParseInt(value, 10, 32); err != nil {
					return fmt.Errorf("topic %s: %s: %w", c.Name, maxMessage, err)
				}
			}
		}
	}
	for _, source := range t.sources {
		if most[r.Target] < most[source] {
			return refused("topic %s: %s is %d, and %s has records of up to %d: raise it", r.Target, maxMessage, most[r.Target], source, most[source])
		}
	}
	t.maxBytes = int32(most[r.Target])
	return nil
}

// plan fixes the offsets of a request.
func (t *topics) plan(ctx context.Context, r Request, now time.Time) (*plan, error) {
	p := &plan{Target: r.Target, ID: t.ids[r.Target], Tenant: r.Tenant, Created: now.UTC()}
	list := func(what string, ask func(context.Context, ...string) (kadm.ListedOffsets, error)) (kadm.ListedOffsets, error) {
		l, err := ask(ctx, t.sources...)
		if err == nil {
			err = l.Error()
		}
		if err != nil {
			err = fmt.Errorf("%s offsets of %s: %w", what, strings.Join(t.sources, ", "), err)
		}
		return l, err
	}
	since := func(at time.Time) func(context.Context, ...string) (kadm.ListedOffsets, error) {
		return func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return t.admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), topics...)
		}
	}
	starts, err := list("first", t.admin.ListStartOffsets)
	if err != nil {
		return nil, err
	}
	ends, err := list("last", t.admin.ListCommittedOffsets) // what is appended behind them, or is not committed, is none of the plan's
	if err != nil {
		return nil, err
	}
	from, to := starts, ends
	if !r.From.IsZero() {
		if from, err = list("first", since(r.From)); err != nil {
			return nil, err
		}
	}
	if !r.To.IsZero() {
		if to, err = list("last", since(r.To)); err != nil {
			return nil, err
		}
	}
	if len(r.Ranges) > 0 {
		return p, t.ranges(p, r.Ranges, starts, ends)
	}
	for _, start := range starts.Offsets().Sorted() {
		first, _ := from.Lookup(start.Topic, start.Partition)
		next, _ := to.Lookup(start.Topic, start.Partition)
		end, _ := ends.Lookup(start.Topic, start.Partition)
		p.add(t, certificate.Range{Topic: start.Topic, Partition: start.Partition, First: max(first.Offset, start.At), Last: min(next.Offset, end.Offset) - 1})
	}
	return p, nil
}

func (p *plan) add(t *topics, r certificate.Range) {
	if r.First <= r.Last {
		p.Ranges = append(p.Ranges, planned{r, t.ids[r.Topic]})
	}
}

// ranges takes those that were asked for as they are.
func (t *topics) ranges(p *plan, ranges []certificate.Range, starts, ends kadm.ListedOffsets) error {
	for i, r := range ranges {
		start, known := starts.Lookup(r.Topic, r.Partition)
		end, _ := ends.Lookup(r.Topic, r.Partition)
		switch {
		case !known:
			return refused("range %s: no topic to copy has this partition", r)
		case r.First < start.Offset || r.Last >= end.Offset:
			return refused("range %s: the log has offsets %d to %d", r, start.Offset, end.Offset-1)
		case slices.ContainsFunc(ranges[:i], func(o certificate.Range) bool { return o.Topic == r.Topic && o.Partition == r.Partition }):
			return refused("range %s: name one range of a partition", r)
		}
		p.add(t, r)
	}
	return nil
}

// check refuses a plan whose topics have been made anew, or whose records another job has copied into the target.
func (p *plan) check(job string, t *topics, entries map[string]entry) error {
	for _, r := range p.Ranges {
		if t.ids[r.Topic] != r.ID {
			return refused("topic %s was made anew since the job was planned: its records are others", r.Topic)
		}
	}
	for name, e := range entries {
		if e.Plan == nil || name == job || e.Plan.ID != p.ID || e.Plan.Tenant != "" && p.Tenant != "" && e.Plan.Tenant != p.Tenant {
			continue
		}
		for _, r := range p.Ranges {
			for _, o := range e.Plan.Ranges {
				if o.ID == r.ID && o.Partition == r.Partition && o.First <= r.Last && o.Last >= r.First {
					return refused("job %s of %s copies %s into %s, and %s is asked for: two copies would be there: choose other records, or another topic",
						name, e.Plan.Created.Format(time.RFC3339), o.Range, p.Target, r.Range)
				}
			}
		}
	}
	return nil
}
