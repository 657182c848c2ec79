package aggregate

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Copied is what became of the copy in the lake, in partitions.
type Copied struct {
	Written   int `json:"written"` // in a dry run: that would be
	Unchanged int `json:"unchanged"`
	Dropped   int `json:"dropped"` // older than the model keeps them
}

// copyAll brings the lake's table into the state of ClickHouse's. A partition that is not as its build left it is left to the next build. A copy is recorded when it is
// committed; killed in between, the next run finds files that no record describes, and makes the same again.
func (b *build) copyAll(ctx context.Context, due []job) error {
	has := map[time.Time]Count{}
	if b.inLake {
		var err error
		if has, err = b.o.Lake.partitions(ctx, b.m, b.r.From, b.r.To); err != nil {
			return err
		}
	}
	failed := 0
	for at := b.r.From; at.Before(b.r.To); at = at.Add(b.size) {
		record, known := b.records[at]
		isDue := b.o.DryRun && slices.ContainsFunc(due, func(j job) bool { return j.at.Equal(at) && !j.kept })
		switch {
		case isDue:
			b.r.Lake.Written++ // as far as anybody knows
			continue
		case !known || record.Published != b.published[at]:
			continue
		case has[at] == record.Lake && has[at].Rows == record.Published.Rows:
			b.r.Lake.Unchanged++
			continue
		case b.o.DryRun:
			b.r.Lake.Written++
			continue
		case failed >= failuresMost:
			b.r.Outcomes = append(b.r.Outcomes, Outcome{At: at, State: NotTried, Reason: reasonLake})
			continue
		}
		copied, err := b.o.Lake.replace(ctx, b.m, at, record.Published, b.Rows(ctx, b.m, at))
		if refusal := refused(err); refusal != nil && ctx.Err() == nil {
			failed++
			b.r.Outcomes = append(b.r.Outcomes, Outcome{At: at, State: Failed, Reason: reasonLake, Rows: record.Published.Rows, Findings: []string{"lake: " + refusal.Error()}})
			continue
		}
		if err == nil {
			record.Lake = copied
			err = b.Record(ctx, b.m, record)
		}
		if err != nil {
			return fmt.Errorf("partition %s is published in ClickHouse, and not copied: %w", at.Format(time.RFC3339), err)
		}
		b.r.Lake.Written++
		failed = 0
	}
	if b.o.DryRun {
		return nil
	}
	var err error
	if b.r.Lake.Dropped, err = b.o.Lake.drop(ctx, b.m, b.oldest()); err != nil {
		return fmt.Errorf("drop partitions that are older than %d days: %w", b.m.Target.RetentionDays, err)
	}
	return nil
}

// reasonLake is why a partition has to be copied.
const reasonLake = "the lake has not what is published"
