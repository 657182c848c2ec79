package backfill

import (
	"context"
	"errors"
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// findingsListed is how many findings of an audit are listed.
const findingsListed = 20

// Audit is what the stores hold of a job, beside what became of its lines.
type Audit struct {
	Rows        int64    `json:"rows"`            // of events, that each store must have
	Quarantined int64    `json:"quarantine_rows"` // that the first store has
	Different   int      `json:"different"`       // objects of which something is not as it must be
	Findings    []string `json:"findings,omitempty"`
}

// Equal tells that everything is as it must be.
func (a *Audit) Equal() bool { return a.Different == 0 }

// sums of the rows of one object, by stream.
type sums [streams]certificate.Sums

// Audit counts the rows of a finished job in the stores, object by object: as many as there were events that are no copies, with the same ids at the same
// lines in each store. It reads ids and places, no content.
func (j *Job) Audit(ctx context.Context, stores []stored.Store) (a Audit, err error) {
	p := j.Progress()
	if !p.Done {
		return a, errors.New("audit: the job is not finished")
	}
	held := make([]map[int64]*sums, len(stores)) // by object
	for i, s := range stores {
		if held[i], err = j.held(ctx, s); err != nil {
			return a, fmt.Errorf("audit of %s: %w", s.Info().Where, err)
		}
	}
	of := func(store int, object int64) sums {
		if have := held[store][object]; have != nil {
			return *have
		}
		return sums{}
	}
	for object, o := range j.Plan.Objects {
		outcome, first := p.Outcome(object), of(0, int64(object))
		want := outcome.Events() - outcome.Duplicates
		a.Rows += want
		a.Quarantined += first[Quarantine].Rows
		var found []string
		for i, s := range stores {
			name, have := s.Info().Store, of(i, int64(object))
			if rows := have[Logs].Rows + have[Metrics].Rows + have[Traces].Rows; rows != want {
				found = append(found, fmt.Sprintf("%s has %d rows of events, want %d", name, rows, want))
			}
			if items := have[Quarantine].Rows; items > outcome.Quarantined || items == 0 && outcome.Quarantined > 0 {
				found = append(found, fmt.Sprintf("%s has %d rows in quarantine, where %d lines or events are", name, items, outcome.Quarantined))
			}
			for stream := range streams {
				if have[stream] != first[stream] {
					found = append(found, fmt.Sprintf("the rows of %s are others in %s than in %s", stream, name, stores[0].Info().Store))
				}
			}
		}
		a.note(j.Plan.Spec.name(o.Key), found)
	}
	for i, s := range stores {
		for object := range held[i] {
			if object < 0 || object >= int64(len(j.Plan.Objects)) {
				a.note(fmt.Sprintf("object %d", object), []string{s.Info().Store + " has rows of it, and the plan has no such object"})
			}
		}
	}
	return a, nil
}

// note takes what is wrong with an object.
func (a *Audit) note(object string, found []string) {
	if len(found) == 0 {
		return
	}
	a.Different++
	for _, f := range found {
		if len(a.Findings) < findingsListed {
			a.Findings = append(a.Findings, object+": "+f)
		}
	}
}

// held adds up what a store holds of the job.
func (j *Job) held(ctx context.Context, s stored.Store) (map[int64]*sums, error) {
	out := map[int64]*sums{}
	objects := stored.Buckets{First: map[int32]int64{0: 0}, Width: 1 << lineBits}
	for stream := range streams {
		table := columns.QuarantinePII
		if stream != Quarantine {
			table = columns.ForSignal(stream.signal())
		}
		topic := j.Plan.topic(stream)
		got, err := s.Sums(ctx, stored.Query{Table: table, Topic: topic, Ranges: []certificate.Range{{Topic: topic, Last: stored.Beyond}}}, objects)
		if err != nil {
			return nil, err
		}
		for bucket, sum := range got {
			if out[bucket.Number] == nil {
				out[bucket.Number] = &sums{}
			}
			out[bucket.Number][stream] = sum
		}
	}
	return out, nil
}
