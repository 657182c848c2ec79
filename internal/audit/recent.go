package audit

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/oracle"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// bounds of Recent, over all topics.
type bounds struct{ records, bytes int64 }

var recentBounds = bounds{records: 50_000, bytes: 64 << 20}

// RecentCopies are what Recent has found.
type RecentCopies struct {
	Copies []certificate.SignalCopies `json:"signals"`
	Since  time.Time                  `json:"since"`
	// Partial: there was more than the bounds allow, so a part of the time was left out.
	Partial bool `json:"partial"`
}

// errBudget ends the reading of a partition.
var errBudget = errors.New("enough")

// Recent counts the copies among the records that were appended since a time, in no more than a bounded last part of Kafka: of one tenant, or of all.
// Stores are not read. What repeats an event from before that part is not counted, so there may be more.
func Recent(ctx context.Context, config Config, since time.Time) (*RecentCopies, error) {
	return recentWithin(ctx, config, since, recentBounds)
}

func recentWithin(ctx context.Context, config Config, since time.Time, max bounds) (*RecentCopies, error) {
	log, err := openKafka(ctx, &config)
	if err != nil {
		return nil, err
	}
	defer log.close()
	config.From = since
	p := &planner{Config: &config, log: log, cert: &certificate.Certificate{}}
	topics, err := p.topics(ctx)
	if err != nil {
		return nil, err
	}
	out := &RecentCopies{Since: since.UTC()}
	counts := map[signal.Signal]*certificate.SignalCopies{}
	for _, s := range signal.All {
		counts[s] = &certificate.SignalCopies{Signal: s.String(), Rules: []certificate.RuleCopies{}}
	}
	partitions := int64(0)
	found := make([]offsets, len(topics))
	for i, t := range topics {
		if found[i], err = p.offsets(ctx, t.Name); err != nil {
			return nil, err
		}
		partitions += int64(len(found[i].ends[t.Name]))
	}
	for i, t := range topics {
		for _, end := range found[i].ends.Offsets().Sorted() {
			r := recent{
				decoder: decoder{t.Signal, config.DefaultTenant}, tenant: config.Tenant, memory: oracle.NewMemory(config.Window), copies: counts[t.Signal],
				bytes: max.bytes / partitions,
			}
			first := at(found[i].from, t.Name, end.Partition)
			if least := end.At - max.records/partitions; first < least {
				first, out.Partial = least, true
			}
			err := log.each(ctx, t.Name, end.Partition, first, end.At-1, r.record)
			if errors.Is(err, errBudget) {
				out.Partial, err = true, nil
			}
			if err != nil {
				return nil, err
			}
		}
	}
	for _, s := range signal.All {
		out.Copies = append(out.Copies, *counts[s])
	}
	return out, nil
}

// recent reads one partition.
type recent struct {
	decoder
	tenant string
	memory *oracle.Memory
	copies *certificate.SignalCopies
	bytes  int64 // that may still be read
}

func (r *recent) record(rec *kgo.Record) error {
	if r.bytes -= int64(len(rec.Value)); r.bytes < 0 {
		return errBudget
	}
	if o, _, _ := r.headers(rec); r.tenant != "" && o.Tenant != r.tenant {
		return nil
	}
	d, err := r.decode(rec, false)
	if err != nil || !d.readable {
		return err
	}
	verdicts, repeats := r.memory.Add(d.request)
	r.copies.Counted(int64(len(verdicts)))
	for i, v := range verdicts {
		if v.Rule != 0 {
			r.copies.Add(v.Rule.String(), example(rec.Topic, d, placeOf(rec, i), v, repeats))
		}
	}
	return nil
}
