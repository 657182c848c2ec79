package backfill

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"gocloud.dev/blob"
)

// Request is what a command asks for.
type Request struct {
	Spec     Spec // without Further
	Settings Settings
	// NewObjects plans what no job has, instead of going on with the job of the Spec where it is done.
	NewObjects bool
	// DryRun writes no plan.
	DryRun bool
	// Approved is the Digest that the plan must have; empty: any.
	Approved string
}

// Found is the plan of a Request.
type Found struct {
	Plan *Plan
	Old  bool // it was there
	// Left are objects that match and are in no plan: they came after it was made.
	Left int
}

// ErrNothing says that no object matches.
var ErrNothing = errors.New("no object matches")

// ErrOtherPlan says that the plan is not the one that was approved. No plan was written.
var ErrOtherPlan = errors.New("the objects are not those of the approved plan")

// RequestError is a Request that cannot be met as it is, however often it is tried.
type RequestError struct{ Cause error }

func (e RequestError) Error() string { return e.Cause.Error() }
func (e RequestError) Unwrap() error { return e.Cause }

func refused(format string, args ...any) (Found, error) {
	return Found{}, RequestError{fmt.Errorf(format, args...)}
}

// Find returns the plan of a Request: the one that is there, else a new one, which is written before it is returned. Its errors are a RequestError, ErrOtherPlan, or
// of the object stores.
func Find(ctx context.Context, state State, objects *blob.Bucket, r Request, now time.Time) (Found, error) {
	listed, err := List(ctx, objects, r.Spec)
	if err != nil {
		return Found{}, err
	}
	var last *Plan
	taken := map[Object]string{} // by job
	others := map[string]int{}
	if err := state.plans(ctx, func(p *Plan) {
		same := r.Spec.sameBut(p.Spec)
		if same && (last == nil || p.Spec.Further > last.Spec.Further) {
			last = p
		}
		if p.Spec.Objects == r.Spec.Objects {
			for _, o := range p.Objects {
				taken[o.identity()] = p.Spec.Job()
			}
		}
	}); err != nil {
		return Found{}, err
	}
	var left []Object
	for _, o := range listed {
		if job, ok := taken[o.identity()]; !ok {
			left = append(left, o)
		} else if last == nil || job != last.Spec.Job() {
			others[job]++
		}
	}
	if last != nil {
		goOn := !r.NewObjects
		if r.NewObjects {
			progress, err := state.Progress(ctx, last.Spec.Job())
			if err != nil {
				return Found{}, err
			}
			goOn = !progress.Done
		}
		if goOn {
			if d := last.Settings.differences(r.Settings); len(d) > 0 {
				return refused("job %s was planned with another --%s: a job goes on as it was planned; leave the flags as they were", last.Spec.Job(), strings.Join(d, ", --"))
			}
			return Found{Plan: last, Old: true, Left: len(left)}, r.check(last)
		}
		r.Spec.Further = last.Spec.Further + 1
	}
	switch {
	case len(listed) == 0:
		return refused("%w %s, --prefix %q and the time range", ErrNothing, r.Spec.Objects, r.Spec.Prefixes)
	case len(others) > 0 && !r.NewObjects:
		for job, n := range others {
			return refused("%d of the objects are in the plan of job %s, and would be loaded twice: choose another prefix or time range, or leave them out with --new-objects", n, job)
		}
	case len(left) == 0:
		return refused("%w that no job has: all %d are in plans already", ErrNothing, len(listed))
	}
	p := &Plan{Format: planFormat, Spec: r.Spec, Settings: r.Settings, Created: now.UTC().Truncate(time.Millisecond), Objects: left}
	if err := r.check(p); err != nil {
		return Found{}, err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return Found{}, err
	}
	sum := sha256.Sum256(text)
	p.ID = hex.EncodeToString(sum[:])
	if r.DryRun {
		return Found{Plan: p}, nil
	}
	written, err := state.create(ctx, p)
	if err != nil {
		return Found{}, err
	}
	return Found{Plan: written, Old: written.ID != p.ID}, r.check(written)
}

func (r *Request) check(p *Plan) error {
	if r.Approved != "" && r.Approved != p.Digest() {
		return ErrOtherPlan
	}
	return nil
}

// identity is what an object is known by in all plans.
func (o Object) identity() Object { return Object{Key: o.Key, Version: o.Version} }

// sameBut tells whether two Specs are one, whatever their Further.
func (s Spec) sameBut(other Spec) bool {
	s.Further, other.Further = 0, 0
	return s.Job() == other.Job()
}
