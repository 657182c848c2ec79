package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
	"github.com/pulsegrid/pulsegrid/internal/legacy"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

const (
	defaultBlockLines   = 10_000
	defaultBlockBytes   = 8 << 20
	defaultMaxLineBytes = 1 << 20
	maxLineBytesMost    = 16 << 20 // ClickHouse and Parquet take more, but several are under way at a time
	defaultInFlight     = 8
	defaultRate         = 20_000
	defaultYieldAfter   = 10 * time.Second
	defaultPatience     = 15 * time.Minute
	// stateFolder is where jobs are kept, in the lake's warehouse.
	stateFolder = "pulsegrid-jobs"
)

func newJob() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "job",
		Short: "Run a job over much data: a backfill, a replay, rollups, an erasure, aggregates, upkeep of the lake, expiry of the quarantine, a check of the spill, a rehearsal and a rollout of schemas",
		Long: `Jobs work on data that is not on its way from an agent. They may be killed at any moment and run again, by anybody, any number of times, and change nothing that is
done.

` + "`job run`" + ` runs a job in this process. ` + "`job start`" + ` hands a job to Temporal, whose workers (` + "`job worker`" + `) run it, start it again when one dies, wait for an
approval, and wait for a person when it keeps failing; list, show, approve, cancel and retry look after it. Both are the same job: either may go on with the other's.
` + "`job schedule`" + ` has Temporal start standing jobs again and again, and says which are late.`,
		Example: `  pulsegrid job run backfill --help
  pulsegrid job start backfill --help
  pulsegrid job schedule list`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	run := &cobra.Command{
		Use:     "run",
		Short:   "Run a job in this process",
		Example: "  pulsegrid job run backfill --objects file:///data/legacy --tenant acme --dry-run",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	run.AddCommand(newAggregate(), newBackfill(), newErasure(), newExpiry(), newRehearsal(), newReplay(), newRollout(), newRollups(), newSpillCheck(), newUpkeep())
	cmd.AddCommand(run, newJobStart(), newJobList(), newJobShow(), newJobApprove(), newJobCancel(), newJobRetry(), newJobSchedule(), newJobWorker())
	return cmd
}

type backfillOptions struct {
	stores                storesOptions
	state                 string
	objects               string
	prefixes              []string
	from, to              string
	tenant                string
	mapping               string
	equal                 string
	blockLines, lineBytes int
	window                time.Duration
	rate, inFlight        int
	patience, yieldAfter  time.Duration
	dryRun, fresh, again  bool
	audit                 bool
	json, quiet           bool
}

func newBackfill() *cobra.Command {
	var o backfillOptions
	cmd := &cobra.Command{
		Use:   "backfill",
		Short: "Load the old collectors' gzipped JSON lines into both stores",
		Long: `Load what the old REST collectors wrote, objects of JSON lines (gzip or plain), into ClickHouse and the lake: by the aggregator's own pipelines (dedupe, enrichment,
exporters), without Kafka, so live traffic does not queue behind it.

The first run writes a plan: the objects that match now. The same command again goes on with that plan. Each line is in each store once, however often the job
was killed. While live events wait for a store, the job gives way. Copies are removed as the aggregator does, within its window, counted in the time at which the
objects were written. Lines that are no events are rows of the table quarantine_pii, with object, line and reason. An object that was changed, deleted or damaged is
reported, and the others are loaded. At the end the rows of each object are counted in both stores, and must be there once, at the same lines.

A row's kafka_topic is the job's name, and its kafka_offset says where it came from: kafka_offset >> 32 is the object's number in the plan, from 0, and the lower 32 bits
are the line, from 1. Its ingest_time is when the plan was made: ClickHouse keeps it retention_days from then.

Without --config the stores are those of the running local cell. S3 takes credentials and region from the usual AWS variables.

Exit codes: 0 every object is loaded; 1 an object could not be, the stores hold something else, or the job did not come to its end (run it again); 2 wrong command line; 3 no cell is running.`,
		Example: `  pulsegrid local                                   # in another terminal
  pulsegrid job run backfill --objects file:///data/legacy --tenant acme --dry-run
  pulsegrid job run backfill --objects file:///data/legacy --tenant acme
  pulsegrid query "SELECT count() FROM logs WHERE kafka_topic LIKE 'backfill.%'"
  pulsegrid job run backfill --config aggregator.yaml --objects 's3://old-events?region=eu-central-1' --prefix eu/2026/10/ --to 2026-11-01 --tenant acme`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runBackfill(cmd, o) },
	}
	o.requestFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be loaded and how long it may take; store nothing")
	f.BoolVar(&o.audit, "audit", false, "audit a job that is finished once more; a run that comes to its end is audited anyway")
	f.BoolVar(&o.json, "json", false, "print the report as JSON, with every object")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	o.stores.flags(cmd, configHelp)
	return cmd
}

const configHelp = "configuration of the aggregators that fill the stores; may be repeated, as for the Collector; env:NAME is a variable that holds it (default: the local cell's)"

// requestFlags are those that say what to load and how, whoever runs the job.
func (o *backfillOptions) requestFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.objects, "objects", "", "bucket that holds the objects: s3://BUCKET?region=REGION, or file:///DIRECTORY (required)")
	f.StringArrayVar(&o.prefixes, "prefix", nil, "only objects whose key begins so; may be repeated (default: all)")
	f.StringVar(&o.from, "from", "", "only objects that were written since: 2026-10-01 or RFC 3339 (the time of the object, not of its events)")
	f.StringVar(&o.to, "to", "", "only objects that were written before")
	f.StringVar(&o.tenant, "tenant", "", "tenant whose events they are (required)")
	f.StringVar(&o.mapping, "mapping", "", "mapping of the JSON to OTLP, docs/formats/legacy.md (default: the one of POST /v1/events)")
	f.StringVar(&o.equal, "equal-lines", string(backfill.EqualCopies), "what lines are that are equal and have neither an id nor times finer than a millisecond: copies, or events")
	f.DurationVar(&o.window, "dedupe-window", 0, "how much later, by the time of the objects, a copy may come to be removed; up to 24h (default: the aggregator's)")
	f.IntVar(&o.blockLines, "block-lines", defaultBlockLines, "lines in a block")
	f.IntVar(&o.lineBytes, "max-line-bytes", defaultMaxLineBytes, "longer lines go to quarantine, cut off here")
	f.IntVar(&o.rate, "rate", defaultRate, "lines a second, at most; 0: as fast as the stores take them")
	f.DurationVar(&o.yieldAfter, "yield-after", defaultYieldAfter, "work less while live events wait longer than this for a store (for the lake: than this and its commit::max_age), by the aggregators' groups in Kafka; 0: never")
	f.IntVar(&o.inFlight, "in-flight", defaultInFlight, "how many times --block-lines lines each store is given at a time; they bound memory: up to 15 KB a line of 1 KB, garbage included")
	f.DurationVar(&o.patience, "patience", defaultPatience, "how long the stores may take nothing before the run ends with 1")
	f.BoolVar(&o.fresh, "new-objects", false, "load the objects that are in no job's plan yet, as a further job")
	f.BoolVar(&o.again, "again", false, "offer everything to the stores again, which take what they lack: after one was restored from a backup")
	f.StringVar(&o.state, "state", "", "bucket that keeps plans and progress, as --objects (default: "+stateFolder+" in the lake's warehouse)")
}

// request is what the flags ask for, checked.
func (o *backfillOptions) request() (orchestration.Backfill, error) {
	b := orchestration.Backfill{
		Request: backfill.Request{
			Spec: backfill.Spec{Objects: o.objects, Prefixes: o.prefixes, Tenant: o.tenant}, NewObjects: o.fresh,
			Settings: backfill.Settings{
				EqualLines: backfill.Equal(o.equal), BlockLines: o.blockLines, BlockBytes: defaultBlockBytes, MaxLineBytes: o.lineBytes, Window: o.window,
			},
		},
		Again: o.again, State: o.state, Rate: o.rate, InFlight: o.inFlight, Patience: o.patience, YieldAfter: o.yieldAfter,
	}
	r := &b.Request
	wrong := func(flag, format string, args ...any) (orchestration.Backfill, error) {
		return b, usageError{fmt.Errorf("--%s: %w", flag, fmt.Errorf(format, args...))}
	}
	var err error
	if r.Spec.From, err = parseDay(o.from); err != nil {
		return wrong("from", "%w", err)
	}
	if r.Spec.To, err = parseDay(o.to); err != nil {
		return wrong("to", "%w", err)
	}
	if !r.Spec.To.IsZero() && !r.Spec.From.Before(r.Spec.To) {
		return wrong("to", "%s is not after --from", o.to)
	}
	mapping := legacy.DefaultText()
	if o.mapping != "" {
		if mapping, err = os.ReadFile(o.mapping); err != nil {
			return wrong("mapping", "%w", err)
		}
	}
	if _, err := legacy.Parse(mapping); err != nil {
		return wrong("mapping", "%w", err)
	}
	r.Settings.Mapping = string(mapping)
	switch {
	case o.objects == "":
		return wrong("objects", "name the bucket that holds the objects")
	case o.tenant == "":
		return wrong("tenant", "say whose events they are")
	case o.equal != string(backfill.EqualCopies) && o.equal != string(backfill.EqualEvents):
		return wrong("equal-lines", "%q: want %s or %s", o.equal, backfill.EqualCopies, backfill.EqualEvents)
	case o.blockLines < 1 || o.blockLines > 40_000: // so that a block fits in what the ClickHouse exporter reads ahead of one (offsetsPage)
		return wrong("block-lines", "%d: want 1 to 40000", o.blockLines)
	case o.lineBytes < 1 || o.lineBytes > maxLineBytesMost:
		return wrong("max-line-bytes", "%d: want 1 to %d", o.lineBytes, maxLineBytesMost)
	case o.rate < 0:
		return wrong("rate", "%d: must not be negative", o.rate)
	case o.inFlight < 1 || o.inFlight > 256:
		return wrong("in-flight", "%d: want 1 to 256", o.inFlight)
	case o.yieldAfter < 0:
		return wrong("yield-after", "%v: must not be negative", o.yieldAfter)
	case o.patience <= 0:
		return wrong("patience", "%v: must be positive", o.patience)
	}
	return b, nil
}

// parseDay reads a day or a point in time. How long ago it was would make each command another job.
func parseDay(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: want 2026-10-01 or RFC 3339 (2026-10-01T15:04:05Z)", text)
}

func runBackfill(cmd *cobra.Command, o backfillOptions) (err error) {
	ctx := cmd.Context()
	request, err := o.request()
	if err != nil {
		return err
	}
	conf, err := aggregatorConfig(ctx, o.stores.config, o.stores.data)
	if err != nil {
		return err
	}
	b, err := openBackfill(ctx, conf, request, jobLogger(cmd))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if o.dryRun {
		preview, err := b.preview(ctx)
		if err != nil {
			return err
		}
		if o.json {
			return printJSON(cmd.OutOrStdout(), preview)
		}
		return printPreview(cmd.OutOrStdout(), preview, o.rate)
	}
	found, err := b.find(ctx, "")
	if err != nil {
		return err
	}
	job, err := b.job(ctx, found.Plan)
	if err != nil {
		return err
	}
	if o.again {
		if err := job.Again(ctx); err != nil {
			return err
		}
	}
	began, finished := time.Now(), job.Progress().Done
	runErr := b.load(ctx, job, func(read func() backfill.Reading) (stop func()) { return o.watch(cmd, read) })
	var audit *backfill.Audit
	if runErr == nil && (o.audit || !finished) {
		audit, runErr = b.audit(ctx, job)
	}
	if err := printReport(cmd.OutOrStdout(), found, job, audit, time.Since(began), runErr, o.json); err != nil {
		return err
	}
	progress := job.Progress()
	switch failed := progress.Failed(); {
	case errors.Is(runErr, context.Canceled) && ctx.Err() != nil:
		return errors.New("stopped: the same command goes on from here")
	case runErr != nil:
		return fmt.Errorf("%w; what is loaded counts, and the same command goes on from there", runErr)
	case audit != nil && !audit.Equal():
		return fmt.Errorf("the stores do not hold %d of %d objects as they must", audit.Different, len(found.Plan.Objects))
	case failed > 0:
		return fmt.Errorf("%d of %d objects could not be loaded whole", failed, len(found.Plan.Objects))
	}
	return nil
}

// jobLogger logs what an operator should know, and no more, to standard error.
func jobLogger(cmd *cobra.Command) *zap.Logger {
	enc := zap.NewDevelopmentEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	enc.CallerKey, enc.StacktraceKey = zapcore.OmitKey, zapcore.OmitKey
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(enc), zapcore.AddSync(cmd.ErrOrStderr()), zap.WarnLevel))
}
