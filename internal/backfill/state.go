package backfill

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

// maxState bounds what is read of a plan or of progress, decompressed.
const maxState = 1 << 30

const (
	planFile     = "plan.json.gz"
	progressFile = "progress.json.gz"
)

// State keeps plans and progress: JOB/plan.json.gz and JOB/progress.json.gz of a bucket.
type State struct{ bucket *blob.Bucket }

// NewState keeps them in b.
func NewState(b *blob.Bucket) State { return State{b} }

func (s State) read(ctx context.Context, key string, into any) (found bool, err error) {
	r, err := s.bucket.NewReader(ctx, key, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", key, err)
	}
	defer func() { _ = r.Close() }() // it was only read
	z, err := gzip.NewReader(r)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(z, maxState)).Decode(into)
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", key, err)
	}
	return true, nil
}

func (s State) write(ctx context.Context, key string, v any, o *blob.WriterOptions) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := errors.Join(json.NewEncoder(z).Encode(v), z.Close()); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	if err := s.bucket.WriteAll(ctx, key, b.Bytes(), o); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// Plan returns a job's plan; false: it has none.
func (s State) Plan(ctx context.Context, job string) (*Plan, bool, error) {
	p := &Plan{}
	found, err := s.read(ctx, job+"/"+planFile, p)
	if found && p.Format != planFormat {
		return nil, false, fmt.Errorf("plan of job %s: format %d, this program reads %d", job, p.Format, planFormat)
	}
	return p, found, err
}

// create writes a plan unless the job has one, and returns the one that it has then.
func (s State) create(ctx context.Context, p *Plan) (*Plan, error) {
	err := s.write(ctx, p.Spec.Job()+"/"+planFile, p, &blob.WriterOptions{IfNotExist: true})
	if err != nil && gcerrors.Code(err) != gcerrors.FailedPrecondition {
		return nil, err
	}
	have, found, err := s.Plan(ctx, p.Spec.Job()) // as it is written: its id is made from that
	if err == nil && !found {
		err = fmt.Errorf("plan of job %s: it was written and is not there", p.Spec.Job())
	}
	return have, err
}

// Progress returns how far a job is.
func (s State) Progress(ctx context.Context, job string) (Progress, error) {
	var p Progress
	_, err := s.read(ctx, job+"/"+progressFile, &p)
	return p, err
}

func (s State) save(ctx context.Context, job string, p Progress) error {
	return s.write(ctx, job+"/"+progressFile, p, nil)
}

// plans calls each for every plan.
func (s State) plans(ctx context.Context, each func(*Plan)) error {
	for it := s.bucket.List(nil); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list the jobs: %w", err)
		}
		job, isPlan := strings.CutSuffix(o.Key, "/"+planFile)
		if !isPlan {
			continue
		}
		p, found, err := s.Plan(ctx, job)
		if err != nil {
			return err
		}
		if found {
			each(p)
		}
	}
}
