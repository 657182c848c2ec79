package aggregate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	// failuresMost ends a model's build after so many partitions in a row that failed: the next ones would too.
	failuresMost = 5
	// closing bounds how long it may take to remove what was staged.
	closing = 30 * time.Second
)

// Options say what a build does. A zero From or To is the model's own.
type Options struct {
	From, To  time.Time
	Watermark Watermark
	// SourceRetention is how long after its arrival a row of a source is kept; 0: for ever.
	SourceRetention time.Duration
	// Lake keeps the tables of models that ask for it, too; nil: there is none.
	Lake *Lake
	// Again builds partitions that nothing has changed, too.
	Again bool
	// Expired builds partitions again whose sources have lost rows to retention since, too.
	Expired bool
	// AcceptRows publishes partitions whose number of rows has changed by more than the tests allow.
	AcceptRows bool
	// DryRun changes nothing.
	DryRun bool
	// Progress is told before each partition, with its number from 1. Nil: nobody.
	Progress func(m *Model, at time.Time, number, of int)
}

// State is what became of a partition.
type State string

// The states.
const (
	Built      State = "built"
	WouldBuild State = "would build" // of a dry run
	Failed     State = "failed"      // what was published before is still there
	Kept       State = "kept"        // its sources no longer have the rows of its last build
	NotTried   State = "not tried"   // too many before it failed
)

// Outcome is what became of a partition that is not as its sources are.
type Outcome struct {
	At         time.Time `json:"partition"`
	State      State     `json:"state"`
	Reason     string    `json:"reason"` // why it has to be built
	SourceRows int64     `json:"source_rows"`
	Rows       int64     `json:"rows"` // that were published, or that failed
	Seconds    float64   `json:"seconds"`
	Findings   []string  `json:"findings,omitempty"` // tests that failed, and the engine's refusal
}

// Report of a model's build.
type Report struct {
	Model     string    `json:"model"`
	Engine    string    `json:"engine"`
	Owner     string    `json:"owner"`
	Target    string    `json:"target"`
	Watermark time.Time `json:"watermark"` // the sources are complete through it
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Unchanged int       `json:"unchanged"` // partitions
	Waiting   int       `json:"waiting"`   // partitions of the range that the watermark has not passed
	Outcomes  []Outcome `json:"partitions"`
	Lake      *Copied   `json:"lake,omitempty"`  // nil: the table is not kept there
	Error     string    `json:"error,omitempty"` // that ended the build
}

// Count is how many partitions are in a state.
func (r *Report) Count(s State) (n int) {
	for _, o := range r.Outcomes {
		if o.State == s {
			n++
		}
	}
	return n
}

// Build brings the partitions of a range into the state of their sources. Its error is what ended it; what it has published counts, and the same call goes on from there.
// Partitions that failed are in the report.
func Build(ctx context.Context, e Engine, m *Model, o Options) (r Report, err error) {
	r = Report{Model: m.Name, Engine: e.Name(), Owner: m.Owner, Target: m.Target.Table}
	defer func() {
		if err != nil {
			err = fmt.Errorf("model %s: %w", m.Name, err)
			r.Error = err.Error()
		}
	}()
	if !slices.Contains(m.Engines, e.Name()) {
		return r, fmt.Errorf("engines: it allows %v, and this is %s", m.Engines, e.Name())
	}
	b := &build{Engine: e, m: m, o: o, r: &r, version: m.Version(e.Name()), size: m.Partition.Size.Duration(), now: time.Now(), marks: map[signal.Signal]time.Time{}}
	if err := b.window(ctx); err != nil {
		return r, err
	}
	if !o.DryRun {
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
			defer cancel()
			if closeErr := e.Close(ctx, m); err == nil {
				err = closeErr // else the next build removes what is left
			}
		}()
	}
	if err := e.Prepare(ctx, m, !o.DryRun); err != nil {
		return r, err
	}
	if o.Lake != nil && m.Target.Lake {
		r.Lake = &Copied{}
		if b.inLake, err = o.Lake.prepare(ctx, m, !o.DryRun); err != nil {
			return r, fmt.Errorf("table %s.%s of the lake: %w", o.Lake.Namespace, m.Target.Table, err)
		}
	}
	if !r.From.Before(r.To) {
		return r, b.publishWatermark(ctx)
	}
	due, err := b.due(ctx)
	if err != nil {
		return r, err
	}
	if err := b.all(ctx, due); err != nil {
		return r, err
	}
	if r.Lake != nil {
		if err := b.copyAll(ctx, due); err != nil {
			return r, fmt.Errorf("table %s.%s of the lake: %w", o.Lake.Namespace, m.Target.Table, err)
		}
	}
	return r, b.publishWatermark(ctx)
}

// build is one call of Build.
type build struct {
	Engine
	m    *Model
	o    Options
	r    *Report
	size time.Duration
	now  time.Time

	version string // of the model by this engine

	marks map[signal.Signal]time.Time // the watermarks of the sources

	records   map[time.Time]Record // of the range, as they are now
	published map[time.Time]Count  // likewise
	inLake    bool                 // the table is there
}

// window decides the range: partitions that end, with the allowed lateness, before the watermark.
func (b *build) window(ctx context.Context) error {
	for _, s := range b.m.Signals() {
		through, err := b.o.Watermark(ctx, s)
		if err != nil {
			return fmt.Errorf("watermark of %s: %w", s, err)
		}
		b.marks[s] = through
		if b.r.Watermark.IsZero() || through.Before(b.r.Watermark) {
			b.r.Watermark = through.UTC()
		}
	}
	ready := b.r.Watermark.Add(-b.m.AllowedLateness).Truncate(b.size)
	from, to := b.o.From.UTC().Truncate(b.size), b.o.To.UTC()
	if b.o.To.IsZero() {
		to = ready
	}
	if up := to.Truncate(b.size); up.Before(to) {
		to = up.Add(b.size)
	}
	if b.o.From.IsZero() {
		from = ready.Add(-b.m.Rebuild).Truncate(b.size)
	}
	if to.After(ready) {
		begin := ready
		if from.After(begin) {
			begin = from
		}
		b.r.Waiting = int(to.Sub(begin) / b.size)
		to = ready
	}
	// What is older would be deleted at once.
	if kept := b.oldest(); from.Before(kept) {
		from = kept
	}
	b.r.From, b.r.To = from, to
	if n := to.Sub(from) / b.size; n > partitionsMost {
		return fmt.Errorf("%d partitions from %s to %s: at most %d at a time", n, from.Format(time.RFC3339), to.Format(time.RFC3339), partitionsMost)
	}
	return nil
}

// job is a partition that has to be built.
type job struct {
	at       time.Time
	reason   string
	sources  Seen
	previous *Record // of the same version; nil: none
	kept     bool    // it must not be
}

// due are the partitions that are not as their sources are, in order.
func (b *build) due(ctx context.Context) ([]job, error) {
	var err error
	if b.records, err = b.Builds(ctx, b.m, b.r.From, b.r.To); err != nil {
		return nil, err
	}
	if b.published, err = b.Published(ctx, b.m, b.r.From, b.r.To); err != nil {
		return nil, err
	}
	// The sources are counted before they are read: rows that come in between are found by the next build.
	sources, err := b.Sources(ctx, b.m, b.r.From, b.r.To)
	if err != nil {
		return nil, err
	}
	var out []job
	for at := b.r.From; at.Before(b.r.To); at = at.Add(b.size) {
		record, known := b.records[at]
		reason := b.reason(record, known, b.published[at], sources[at])
		if reason == "" {
			if known {
				b.r.Unchanged++
			}
			continue
		}
		j := job{at: at, reason: reason, sources: sources[at], kept: b.expired(at, record, known, b.published[at])}
		if known && record.Version == b.version {
			j.previous = &record
		}
		out = append(out, j)
	}
	return out, nil
}

// reason says why a partition has to be built; empty: it has not.
func (b *build) reason(r Record, known bool, published Count, sources Seen) string {
	switch {
	case !known && published.Rows == 0 && sources.Rows == 0:
		return ""
	case !known && published.Rows == 0:
		return "it is new"
	case !known:
		return "nothing says which build made it"
	case r.Version != b.version:
		return "the model has changed, or another engine built it"
	case r.Sources.Digest != sources.Digest && sources.Rows > 0: // an empty partition has no digest
		return fmt.Sprintf("its sources have changed: they had %d rows, and have %d", r.Sources.Rows, sources.Rows)
	case r.Sources.Rows > 0 && sources.Rows == 0:
		return fmt.Sprintf("its sources have changed: they had %d rows, and have none", r.Sources.Rows)
	case r.Published != published:
		return fmt.Sprintf("the table is not as its build left it: it had %d rows, and has %d", r.Published.Rows, published.Rows)
	case b.o.Again:
		return "it was asked for"
	}
	return ""
}

// expired tells whether rows that were built into a partition may have been deleted since for their age: building it again would lose them there too.
func (b *build) expired(at time.Time, r Record, known bool, published Count) bool {
	if b.o.SourceRetention == 0 || b.o.Expired || !known && published.Rows == 0 {
		return false
	}
	oldest := at // nothing says when they came: as early as they happened
	if known {
		if r.Sources.Rows == 0 {
			return false
		}
		oldest = r.Sources.Oldest
	}
	return !oldest.Add(b.o.SourceRetention).After(b.now)
}

func (b *build) all(ctx context.Context, due []job) error {
	failed := 0
	for i, j := range due {
		out := Outcome{At: j.at, Reason: j.reason, SourceRows: j.sources.Rows}
		switch {
		case j.kept:
			out.State = Kept
		case b.o.DryRun:
			out.State = WouldBuild
		case failed >= failuresMost:
			out.State = NotTried
		default:
			if b.o.Progress != nil {
				b.o.Progress(b.m, j.at, i+1, len(due))
			}
			began := time.Now()
			count, findings, err := b.one(ctx, j)
			if refusal := refused(err); refusal != nil && ctx.Err() == nil {
				findings, err = append(findings, refusal.Error()), nil
			} else if err == nil && len(findings) == 0 {
				err = b.record(ctx, j, count)
			}
			if err != nil {
				return fmt.Errorf("partition %s: %w", j.at.Format(time.RFC3339), err)
			}
			out.Rows, out.Seconds, out.Findings = count.Rows, time.Since(began).Seconds(), findings
			if out.State = Built; len(findings) > 0 {
				out.State = Failed
				failed++
			} else {
				failed = 0
			}
		}
		b.r.Outcomes = append(b.r.Outcomes, out)
	}
	return nil
}

// record keeps a build. A copy in the lake of rows that are published again is a copy still.
func (b *build) record(ctx context.Context, j job, count Count) error {
	r := Record{At: j.at, Version: b.version, Sources: j.sources, Published: count}
	if j.previous != nil && j.previous.Published == count {
		r.Lake = j.previous.Lake
	}
	if err := b.Record(ctx, b.m, r); err != nil {
		return fmt.Errorf("it is published, and not recorded: %w", err)
	}
	b.records[j.at], b.published[j.at] = r, count
	failpoint.Hit("aggregate-recorded")
	return nil
}

// one stages, tests and publishes a partition, in this order; it is recorded afterwards. Killed in between, the next build finds a table that no record describes, and makes
// the same again.
func (b *build) one(ctx context.Context, j job) (Count, []string, error) {
	count, err := b.Stage(ctx, b.m, j.at)
	if err != nil {
		return count, nil, err
	}
	failpoint.Hit("aggregate-staged")
	findings := b.rowTests(count, j)
	more, err := b.Test(ctx, b.m, j.at)
	if findings = append(findings, more...); err != nil || len(findings) > 0 {
		return count, findings, err
	}
	failpoint.Hit("aggregate-tested")
	if err := b.Publish(ctx, b.m, j.at, count.Rows == 0); err != nil {
		return count, nil, err
	}
	failpoint.Hit("aggregate-published")
	return count, nil, nil
}

// rowTests hold the number of rows against the tests, and against the previous build. Where the sources have no rows any more, none is right.
func (b *build) rowTests(count Count, j job) (out []string) {
	if j.sources.Rows == 0 {
		return nil
	}
	if count.Rows == 0 && !b.m.AllowEmpty {
		out = append(out, fmt.Sprintf("rows: the query gives none of %d rows of its sources (allow_empty: true would publish that)", j.sources.Rows))
	}
	for _, t := range b.m.Tests {
		if t.Rows == nil {
			continue
		}
		if count.Rows < t.Rows.Min {
			out = append(out, fmt.Sprintf("rows: %d, want %d or more", count.Rows, t.Rows.Min))
		}
		if j.previous == nil || j.previous.Published.Rows == 0 || b.o.AcceptRows {
			continue
		}
		before := float64(j.previous.Published.Rows)
		change := 100 * (float64(count.Rows) - before) / before
		if l := t.Rows.LosePercent; l != nil && -change > *l {
			out = append(out, fmt.Sprintf("rows: %d, %.1f %% fewer than the previous build's %.0f: at most %v %% may go", count.Rows, -change, before, *l))
		}
		if g := t.Rows.GrowPercent; g != nil && change > *g {
			out = append(out, fmt.Sprintf("rows: %d, %.1f %% more than the previous build's %.0f: at most %v %% may come", count.Rows, change, before, *g))
		}
	}
	return out
}

// oldest is the begin of the first partition that ClickHouse keeps whole.
func (b *build) oldest() time.Time {
	return b.now.AddDate(0, 0, -b.m.Target.RetentionDays).UTC().Truncate(b.size).Add(b.size)
}

// publishWatermark says how far the signals and the model are complete. A build of a range of its own says nothing of the model.
func (b *build) publishWatermark(ctx context.Context) error {
	if b.o.DryRun || !b.o.From.IsZero() || !b.o.To.IsZero() {
		return nil
	}
	through := b.r.To
	for _, o := range b.r.Outcomes {
		if (o.State == Failed || o.State == NotTried) && o.At.Before(through) {
			through = o.At
		}
	}
	for s, mark := range b.marks {
		if err := b.PublishWatermark(ctx, s.String(), mark); err != nil {
			return err
		}
	}
	return b.PublishWatermark(ctx, b.m.Name, through)
}
