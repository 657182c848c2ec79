package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/confmap"
	"go.uber.org/zap"
	"gocloud.dev/blob"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
	"github.com/pulsegrid/pulsegrid/internal/bucket"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

// openedBackfill is a backfill with what it needs: what `job run` and a worker's activities run.
type openedBackfill struct {
	orchestration.Backfill
	pipes   *pipelines
	objects *blob.Bucket
	states  *blob.Bucket
	log     *zap.Logger
}

// openBackfill starts no pipeline. Its errors are a usageError where the request is at fault.
func openBackfill(ctx context.Context, conf *confmap.Conf, b orchestration.Backfill, log *zap.Logger) (_ *openedBackfill, err error) {
	o := &openedBackfill{Backfill: b, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	if o.pipes, err = newPipelines(conf, b.Request.Settings.Window, log); err != nil {
		return nil, err
	}
	if err := o.pipes.knows(ctx, b.Request.Spec.Tenant); err != nil {
		return nil, err
	}
	stateURL, err := o.stateURL()
	if err != nil {
		return nil, err
	}
	if o.objects, err = openObjects(ctx, b.Request.Spec.Objects); err != nil {
		return nil, usageError{fmt.Errorf("--objects: %w", err)}
	}
	if o.states, err = bucket.Open(ctx, stateURL); err != nil {
		return nil, usageError{fmt.Errorf("--state: %w", err)}
	}
	return o, nil
}

func (o *openedBackfill) close() error {
	var errs []error
	for _, b := range []*blob.Bucket{o.objects, o.states} {
		if b != nil {
			errs = append(errs, b.Close())
		}
	}
	return errors.Join(errs...)
}

func (o *openedBackfill) state() backfill.State { return backfill.NewState(o.states) }

// find returns the plan, and writes it where there is none. approved is Request.Approved.
func (o *openedBackfill) find(ctx context.Context, approved string) (backfill.Found, error) {
	r := o.Request
	r.Approved = approved
	return backfill.Find(ctx, o.state(), o.objects, r, time.Now())
}

// preview says what would be loaded, and stores nothing.
func (o *openedBackfill) preview(ctx context.Context) (backfill.Preview, error) {
	r := o.Request
	r.DryRun = true
	found, err := backfill.Find(ctx, o.state(), o.objects, r, time.Now())
	if err != nil {
		return backfill.Preview{}, err
	}
	return found.Preview(ctx, o.state(), o.objects, o.Rate)
}

func (o *openedBackfill) job(ctx context.Context, p *backfill.Plan) (*backfill.Job, error) {
	return backfill.Open(ctx, p, o.state(), o.objects)
}

// load loads what is left of the job, if anything is. watch is given what tells how far it is, and what it returns is called at the end.
func (o *openedBackfill) load(ctx context.Context, job *backfill.Job, watch func(read func() backfill.Reading) (stop func())) (err error) {
	if job.Progress().Done {
		return nil
	}
	defer func() { err = errors.Join(err, o.pipes.stop()) }()
	if err := o.pipes.start(ctx); err != nil {
		return err
	}
	options := backfill.Options{Stores: o.pipes.stores, InFlight: o.InFlight, Rate: o.Rate, Patience: o.Patience, Log: o.log}
	if o.YieldAfter > 0 {
		l, err := o.pipes.newLive(ctx, o.YieldAfter)
		if err != nil {
			return err
		}
		defer l.close()
		options.Live = l.behind
	}
	stop := watch(job.Gauge())
	defer stop()
	return job.Run(ctx, options)
}

// audit counts what the stores hold of a finished job.
func (o *openedBackfill) audit(ctx context.Context, job *backfill.Job) (*backfill.Audit, error) {
	stores, err := o.pipes.stored(ctx)
	if err != nil {
		return nil, err
	}
	defer closeAll(stores)
	a, err := job.Audit(ctx, stores)
	return &a, err
}

// stateURL is where plans are kept.
func (o *openedBackfill) stateURL() (string, error) {
	if o.State != "" {
		return o.State, nil
	}
	if lake := o.pipes.lake; lake != nil {
		u, err := url.Parse(lake.Catalog.Warehouse)
		switch {
		case err != nil:
		case u.Scheme == "file":
			return "file://" + path.Join(u.Path, stateFolder), nil
		case u.Scheme == "s3":
			prefix := url.Values{"prefix": {strings.TrimPrefix(path.Join(u.Path, stateFolder)+"/", "/")}}
			return "s3://" + u.Host + "?" + prefix.Encode(), nil
		}
	}
	return "", usageError{errors.New("--state: name a bucket for plans and progress: the configuration has no lake with a warehouse of its own")}
}

// openObjects opens a bucket to read from. A directory must be there.
func openObjects(ctx context.Context, address string) (*blob.Bucket, error) {
	if u, err := url.Parse(address); err == nil && u.Scheme == "file" {
		if _, err := os.Stat(u.Path); err != nil {
			return nil, err
		}
	}
	return bucket.Open(ctx, address)
}

// storesOptions say which aggregators' stores a job fills.
type storesOptions struct {
	config []string
	data   string // of the local cell, where config is empty
}

// flags adds those that name the aggregators.
func (o *storesOptions) flags(cmd *cobra.Command, help string) {
	cmd.Flags().StringArrayVar(&o.config, "config", nil, help)
	cmd.Flags().StringVar(&o.data, "data", defaultDataDir, "data directory of the running local cell")
}

// pipelines are those of the aggregators; none is started.
func (o *storesOptions) pipelines(cmd *cobra.Command) (*pipelines, error) {
	conf, err := aggregatorConfig(cmd.Context(), o.config, o.data)
	if err != nil {
		return nil, err
	}
	return newPipelines(conf, 0, jobLogger(cmd))
}

// hot is the part of these pipelines that fills ClickHouse with events.
func (o *storesOptions) hot(cmd *cobra.Command) (*pipelines, *hot, error) {
	pipes, err := o.pipelines(cmd)
	if err != nil {
		return nil, nil, err
	}
	h, err := pipes.hot()
	if err != nil {
		return nil, nil, fmt.Errorf("configuration of the aggregators: %w", err)
	}
	return pipes, h, nil
}

// aggregatorConfig is the configuration of the aggregators that fill the stores: the files at paths, or the one of the local cell in dir.
func aggregatorConfig(ctx context.Context, paths []string, dir string) (*confmap.Conf, error) {
	if len(paths) == 0 {
		state, err := cell.ReadState(dir)
		if err != nil {
			return nil, fmt.Errorf("%w; or name the aggregators' configuration with --config", err)
		}
		path, variables := state.Aggregator()
		paths = []string{path}
		for name, value := range variables {
			if err := os.Setenv(name, value); err != nil { // the Collector's resolver takes them from there
				return nil, err
			}
		}
	}
	conf, err := resolve(ctx, paths...)
	if err != nil {
		return nil, fmt.Errorf("configuration of the aggregators: %w", err)
	}
	return conf, nil
}

// jobRunner does the work of a worker's activities. It reads the configuration anew for each, so that one that was changed counts.
type jobRunner struct {
	stores       storesOptions
	gateway      []string // configuration of the gateways; empty: none is known
	certificates string   // directory of an audit's certificates; empty: none are kept
	reports      string   // directory of rehearsals' reports; empty: none are kept
	log          *zap.Logger
}

func (w *jobRunner) do(ctx context.Context, b orchestration.Backfill, work func(*openedBackfill) error) (err error) {
	defer func() {
		if _, ok := errors.AsType[usageError](err); ok {
			err = backfill.RequestError{Cause: err}
		}
	}()
	conf, err := aggregatorConfig(ctx, w.stores.config, w.stores.data)
	if err != nil {
		return err
	}
	o, err := openBackfill(ctx, conf, b, w.log)
	if err != nil {
		return err
	}
	return errors.Join(work(o), o.close())
}

// Preview implements orchestration.Jobs.
func (w *jobRunner) Preview(ctx context.Context, b orchestration.Backfill) (p backfill.Preview, err error) {
	err = w.do(ctx, b, func(o *openedBackfill) (err error) {
		p, err = o.preview(ctx)
		return err
	})
	return p, err
}

// Plan implements orchestration.Jobs.
func (w *jobRunner) Plan(ctx context.Context, b orchestration.Backfill, approved string) (name string, err error) {
	err = w.do(ctx, b, func(o *openedBackfill) error {
		found, err := o.find(ctx, approved)
		if err != nil {
			return err
		}
		name = found.Plan.Spec.Job()
		if !b.Again {
			return nil
		}
		job, err := o.job(ctx, found.Plan)
		if err != nil {
			return err
		}
		return job.Again(ctx)
	})
	return name, err
}

// named opens the job of a name, whose plan is written.
func (o *openedBackfill) named(ctx context.Context, name string) (*backfill.Job, error) {
	p, found, err := o.state().Plan(ctx, name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, backfill.RequestError{Cause: fmt.Errorf("job %s: its plan is gone", name)}
	}
	return o.job(ctx, p)
}

// Load implements orchestration.Jobs.
func (w *jobRunner) Load(ctx context.Context, b orchestration.Backfill, name string, read func(func() backfill.Reading)) error {
	return w.do(ctx, b, func(o *openedBackfill) error {
		job, err := o.named(ctx, name)
		if err != nil {
			return err
		}
		return o.load(ctx, job, func(r func() backfill.Reading) (stop func()) { read(r); return func() {} })
	})
}

// Report implements orchestration.Jobs.
func (w *jobRunner) Report(ctx context.Context, b orchestration.Backfill, name string) (r orchestration.Report, err error) {
	err = w.do(ctx, b, func(o *openedBackfill) error {
		job, err := o.named(ctx, name)
		if err != nil {
			return err
		}
		p := job.Progress()
		r = orchestration.Report{Job: name, Done: p.Done, Planned: job.Plan.Created, Objects: len(job.Plan.Objects), Failed: p.Failed(), Total: p.Total()}
		for i, object := range job.Plan.Objects {
			if out := p.Outcome(i); out.Failed() && len(r.Listed) < orchestration.MaxListed {
				r.Listed = append(r.Listed, orchestration.FailedObject{Key: object.Key, State: out.State, Reason: out.Reason})
			}
		}
		if p.Done {
			r.Audit, err = o.audit(ctx, job)
		}
		return err
	})
	return r, err
}
