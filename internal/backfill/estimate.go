package backfill

import (
	"context"
	"time"

	"gocloud.dev/blob"

	"github.com/pulsegrid/pulsegrid/internal/legacy"
)

// Bounds of a sample.
const (
	sampleObjects = 5
	sampleLines   = 20_000
)

// Preview is what a job would load.
type Preview struct {
	Job      string    `json:"job"`
	Planned  bool      `json:"planned"` // the plan is written already
	Digest   string    `json:"digest"`  // of the plan
	Objects  int       `json:"objects"`
	Bytes    int64     `json:"bytes"`
	Oldest   time.Time `json:"oldest"` // when the first of the objects was written
	Newest   time.Time `json:"newest"`
	Estimate Estimate  `json:"estimate"`
	Loaded   Tally     `json:"loaded"`      // by earlier runs
	Left     int       `json:"not_in_plan"` // objects that match and came later
}

// Preview describes what was found, after reading a sample. It stores nothing. rate is that of Sample.
func (f Found) Preview(ctx context.Context, state State, objects *blob.Bucket, rate int) (Preview, error) {
	p := f.Plan
	e, err := Sample(ctx, p, objects, rate)
	if err != nil {
		return Preview{}, err
	}
	var progress Progress
	if f.Old {
		if progress, err = state.Progress(ctx, p.Spec.Job()); err != nil {
			return Preview{}, err
		}
	}
	return Preview{
		Job: p.Spec.Job(), Planned: f.Old, Digest: p.Digest(), Objects: len(p.Objects), Bytes: p.Bytes(), Oldest: p.Objects[0].Modified, Newest: p.Objects[len(p.Objects)-1].Modified,
		Estimate: e, Loaded: progress.Total(), Left: f.Left,
	}, nil
}

// Estimate is what a plan will take, counted from a sample: lines and their kinds in the proportion of the objects' bytes.
type Estimate struct {
	Sampled Tally // of the sample itself
	Failed  int   // objects of the sample that cannot be loaded whole
	Lines   int64 // of all objects
	Seconds float64
}

// Sample reads a few objects, spread over the plan, and stores nothing. rate bounds lines a second, 0 does not; the time is that of decoding and twice as much for
// the stores, which take about so long.
func Sample(ctx context.Context, p *Plan, objects *blob.Bucket, rate int) (Estimate, error) {
	m, err := legacy.Parse([]byte(p.Settings.Mapping))
	if err != nil {
		return Estimate{}, err
	}
	var e Estimate
	r, d := newReader(p, objects), newDecoder(p, m)
	n := min(sampleObjects, len(p.Objects))
	begun := time.Now()
	for i := range n {
		lines := 0
		err := r.object(ctx, i*len(p.Objects)/n, 0, func(c *chunk) error {
			e.Sampled.add(d.decode(c).tally)
			if c.ended && c.state != StateLoaded {
				e.Failed++
			}
			if lines += len(c.lines); lines >= sampleLines {
				return errStopped
			}
			return nil
		})
		if err != nil && lines < sampleLines {
			return Estimate{}, err
		}
	}
	took := time.Since(begun)
	if read := r.read.Load(); read > 0 {
		e.Lines = int64(float64(e.Sampled.Lines) * float64(p.Bytes()) / float64(read))
		e.Seconds = 3 * took.Seconds() * float64(p.Bytes()) / float64(read)
	}
	if rate > 0 {
		e.Seconds = max(e.Seconds, float64(e.Lines)/float64(rate))
	}
	return e, nil
}
