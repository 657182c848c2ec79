package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/processor/dedupeprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

const (
	// replaySuffix makes the name of the table that a replay fills before it hands the rows to a table.
	replaySuffix = "_replay"
	// replayPlace are the columns that tell one row from all others: its event, and its place in Kafka. A place alone does not: a topic that was made anew has other events there.
	replayPlace = "event_id, kafka_topic, kafka_partition, kafka_offset, event_index"
	// replayBatch is how many events are inserted at a time.
	replayBatch = 20_000
)

// Sources of a replay.
const (
	sourceKafka = "kafka"
	sourceLake  = "lake"
)

type replayOptions struct {
	auditOptions
	stores  storesOptions
	source  string
	signals []string // of the lake
	dryRun  bool

	// Of a replay into a topic.
	toTopic    string
	toLive     bool
	rate       int // events a second
	yieldAfter time.Duration
}

func newReplay() *cobra.Command {
	o := replayOptions{auditOptions: auditOptions{config: audit.DefaultConfig()}}
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Fill ClickHouse again with the events of Kafka, or of the lake, that it has lost; or copy Kafka's records into a topic",
		Long: `Compare ClickHouse with what Kafka holds, event by event as "pulsegrid audit" does, and put the rows back that are missing: deleted by hand, or lost with a disk. Nothing else
changes. Rows go through the aggregator's own processors, but for dedupe, into tables beside, and from there a partition at a time into the tables, so a query sees all of a partition's rows or none.
Then the audit is run again, rollups included.

With --source lake the lake is the truth, for what Kafka no longer has: --from and --to are times of receipt (ingest_time) then. A row of the lake is missing where ClickHouse has none of its id and
place, although its block is in ClickHouse's ledger, or although Kafka no longer has its record: nobody else would bring it. It becomes ClickHouse's row as it is, attributes of enrichment included. All
rows of that time go through tables beside first, so ClickHouse needs room for them.

Rollups are not touched: they still have events that were deleted by hand from the table. Where they lost them too, the end says so, and "pulsegrid job run rollups" builds them anew.

With --to-topic nothing is compared: the records of a signal are copied into that topic, with key, value and headers, so their events have the same ids for whoever reads it. The first run fixes
which records: --from and --to (times when Kafka appended them) or --range, and --tenant. The same command goes on with them. Copies and positions are written in transactions: a reader of
committed records has each record once, however often the job was killed. While live events wait for a store, the job gives way. The topic must be there, and no aggregator may read it,
unless --to-live says so: its stores may then have these events twice.

Run one at a time. Killed at any moment it can be run again. What was deleted lawfully must be declared (--erased), or it comes back.

Exit codes: 0 ClickHouse is equal to Kafka, or has the lake's rows, or the topic has the records; 1 it has not, or the replay failed: the text says why; 2 wrong command line, or not all could be audited; 3 no cell is running.`,
		Example: `  pulsegrid job run replay --from 2h --dry-run
  pulsegrid job run replay --from 2h --tenant acme
  pulsegrid job run replay --config aggregator.yaml --range otlp.logs.v1/3/120000-129999
  pulsegrid job run replay --source lake --from 2026-10-01T08:00:00Z --to 2026-10-01T10:00:00Z --tenant acme --signal logs
  pulsegrid job run replay --to-topic logs=incident-117.logs --from 2026-10-01T08:00:00Z --to 2026-10-01T10:00:00Z --tenant acme`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runReplay(cmd, o) },
	}
	f, c := cmd.Flags(), &o.config
	f.StringVar(&o.source, "source", sourceKafka, "where the events are taken from: kafka or lake")
	f.StringVar(&o.from, "from", "", "only records appended since: RFC 3339, or a duration ago such as 2h (default: the begin of the log; required of the lake)")
	f.StringVar(&o.to, "to", "", "only records appended before: RFC 3339, a duration ago, or now (default: what the group has finished; of the lake: now)")
	f.StringArrayVar(&o.signals, "signal", nil, "of the lake, only this signal: logs, metrics or traces; may be repeated (default: all)")
	f.StringArrayVar(&o.ranges, "range", nil, "only these offsets: TOPIC/PARTITION/FIRST-LAST, as blocks are named; may be repeated")
	f.StringVar(&c.Tenant, "tenant", "", "only this tenant (default: all)")
	f.StringArrayVar(&o.topics, "topic", nil, "only this topic, NAME or SIGNAL=NAME; may be repeated (default: all otlp.logs.*, otlp.metrics.*, otlp.traces.*)")
	f.StringArrayVar(&o.erased, "erased", nil, "file that declares lawful deletions (docs/formats/erasures.md), which are not put back; may be repeated")
	f.StringVar(&c.TempDir, "temp-dir", "", "directory of temporary files (default: the system's)")
	f.StringVar(&o.toTopic, "to-topic", "", "copy Kafka's records into this topic instead, SIGNAL=NAME")
	f.BoolVar(&o.toLive, "to-live", false, "--to-topic may be a topic that the aggregators read, or that is named like one")
	f.IntVar(&o.rate, "rate", defaultReplayRate, "with --to-topic, events a second, at most; 0: as fast as Kafka takes them")
	f.DurationVar(&o.yieldAfter, "yield-after", defaultYieldAfter, "with --to-topic, work less while live events wait longer than this for a store, by the aggregators' groups in Kafka; 0: never")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what is missing, or would be copied; change nothing")
	f.BoolVar(&o.json, "json", false, "print the report, or the certificate of the audit at the end, as JSON")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	o.stores.flags(cmd, "configuration of the aggregators that fill ClickHouse; may be repeated, as for the Collector (default: the local cell's)")
	return cmd
}

func runReplay(cmd *cobra.Command, o replayOptions) error {
	if o.toTopic != "" {
		return runReplayToTopic(cmd, o)
	}
	for _, flag := range toTopicFlags {
		if cmd.Flags().Changed(flag) {
			return usageError{fmt.Errorf("--%s: is of a replay into a topic: name it with --to-topic", flag)}
		}
	}
	switch o.source {
	case sourceKafka:
		return runReplayOfKafka(cmd, o)
	case sourceLake:
		return runReplayOfLake(cmd, o)
	}
	return usageError{fmt.Errorf("--source: %q: want %s or %s", o.source, sourceKafka, sourceLake)}
}

func runReplayOfKafka(cmd *cobra.Command, o replayOptions) error {
	ctx := cmd.Context()
	if len(o.signals) > 0 {
		return usageError{errors.New("--signal: is of the lake; name the topics of Kafka with --topic")}
	}
	ask, err := o.asked(time.Now())
	if err != nil {
		return err
	}
	pipes, hot, err := o.stores.hot(cmd)
	if err != nil {
		return err
	}
	ask.Tool = "pulsegrid " + version
	if err := hot.asked(ctx, &ask); err != nil {
		return err
	}
	if !o.quiet {
		ask.Progress = progressTo(cmd.ErrOrStderr())
	}
	r := &replay{database: hot.exporter.Database}
	if r.clickHouse, err = questionTo(ctx, &hot.exporter); err != nil {
		return err
	}
	if !o.dryRun {
		if err := errors.Join(r.open(ctx, replaySuffix, signal.All[:]), r.process(ctx, pipes, hot)); err != nil {
			return errors.Join(err, pipes.stop(), r.drop(ctx))
		}
	}
	found := ask
	found.Missing = func(m audit.Missing) error { return r.take(ctx, m) }
	c, err := audit.Run(ctx, found)
	if err != nil {
		err = notAudited(ctx, err)
	} else {
		err = r.flush(ctx)
	}
	if err := errors.Join(err, pipes.stop()); err != nil {
		return errors.Join(err, r.drop(ctx))
	}
	failpoint.Hit("replay-staged")
	if o.dryRun {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%d events are missing in ClickHouse: nothing was changed\n", r.events); err != nil {
			return err
		}
		if len(c.Problems) > 0 {
			return auditError{exitNotAudited, fmt.Errorf("not all could be compared: %s", strings.Join(c.Problems, "; "))}
		}
		return nil
	}
	rows, err := r.publish(ctx)
	if err := errors.Join(err, r.drop(ctx)); err != nil {
		return fmt.Errorf("%d rows were put back: %w", rows, err)
	}
	if !o.json {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%d events were missing in ClickHouse: %d rows were put back\n\n", r.events, rows); err != nil {
			return err
		}
	}
	ask.Rollups = hot.exporter.Rollups
	if c, err = audit.Run(ctx, ask); err != nil {
		return notAudited(ctx, err)
	}
	if slices.ContainsFunc(c.Rollups, func(r certificate.RollupResult) bool { return r.Wrong > 0 }) {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), rollupsAdvice) // nobody may be listening
	}
	return reportAudit(cmd.OutOrStdout(), c, ask, o.json)
}

const rollupsAdvice = "rollups differ from the rows: `pulsegrid job run rollups` builds anew what differs"

// hot is the part of an aggregator that fills ClickHouse with events.
type hot struct {
	exporter   clickhouseexporter.Config
	receiver   *mskreceiver.Config
	window     time.Duration              // of dedupe; 0: there is none
	processors map[signal.Signal][]string // without dedupe
}

// asked has an audit ask the Kafka and the ClickHouse of the aggregator.
func (h *hot) asked(ctx context.Context, c *audit.Config) error {
	c.Kafka, c.QuarantineTopic, c.DefaultTenant, c.Window = h.receiver.ClientConfig, h.receiver.QuarantineTopic, h.receiver.DefaultTenant, h.window
	clickHouse, err := storedClickHouse(ctx, &h.exporter)
	clickHouse.Group = h.receiver.GroupID
	c.ClickHouse = &clickHouse
	return err
}

// auditedLake is the lake of events, with the group that fills it.
func (p *pipelines) auditedLake() (*stored.LakeConfig, error) {
	receiver, err := p.lakeReceiver()
	if err != nil {
		return nil, err
	}
	lake := storedLake(p.lake)
	lake.Group = receiver.GroupID
	return &lake, nil
}

// lakeReceiver is the receiver of a pipeline into the lake of events.
func (p *pipelines) lakeReceiver() (*mskreceiver.Config, error) {
	found, err := p.fromKafka()
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		pl := found[name]
		if len(pl.Exporters) != 1 || len(pl.Receivers) != 1 {
			continue
		}
		var id, from component.ID
		if id.UnmarshalText([]byte(pl.Exporters[0])) != nil || from.UnmarshalText([]byte(pl.Receivers[0])) != nil || p.lake == nil || p.exporters[id] != component.Config(p.lake) {
			continue
		}
		receiver := mskreceiver.NewFactory().CreateDefaultConfig().(*mskreceiver.Config)
		if err := p.configure("receivers", from, receiver); err != nil {
			return nil, err
		}
		return receiver, nil
	}
	return nil, errors.New("service::pipelines: none leads from a msk receiver to an iceberg exporter of events")
}

// hot finds the pipelines from Kafka to ClickHouse.
func (p *pipelines) hot() (*hot, error) {
	found, err := p.fromKafka()
	if err != nil {
		return nil, err
	}
	var out *hot
	var exporter component.ID
	for _, name := range slices.Sorted(maps.Keys(found)) {
		pl := found[name]
		kind, _, _ := strings.Cut(name, "/")
		s, err := signal.Parse(kind)
		if err != nil || len(pl.Exporters) != 1 || len(pl.Receivers) != 1 {
			continue
		}
		var id, from component.ID
		if id.UnmarshalText([]byte(pl.Exporters[0])) != nil || from.UnmarshalText([]byte(pl.Receivers[0])) != nil {
			continue
		}
		cfg, known := p.exporters[id].(*clickhouseexporter.Config)
		if !known || cfg.Rows != columns.RowsEvents {
			continue
		}
		receiver := mskreceiver.NewFactory().CreateDefaultConfig().(*mskreceiver.Config)
		if err := p.configure("receivers", from, receiver); err != nil {
			return nil, err
		}
		if out == nil {
			out, exporter = &hot{exporter: *cfg, receiver: receiver, processors: map[signal.Signal][]string{}}, id
		}
		if id != exporter || receiver.GroupID != out.receiver.GroupID {
			return nil, fmt.Errorf("service::pipelines: %s: a replay fills one ClickHouse of one group, and there are others", name)
		}
		for _, processor := range pl.Processors {
			var pid component.ID
			if err := pid.UnmarshalText([]byte(processor)); err != nil {
				return nil, err
			}
			if pid.Type() != dedupeprocessor.NewFactory().Type() {
				out.processors[s] = append(out.processors[s], processor)
				continue
			}
			d := dedupeprocessor.NewFactory().CreateDefaultConfig().(*dedupeprocessor.Config)
			if err := p.configure("processors", pid, d); err != nil {
				return nil, err
			}
			out.window = d.Window
		}
	}
	switch {
	case out == nil:
		return nil, errors.New("service::pipelines: none leads from a msk receiver to a pulsegrid_clickhouse exporter of events")
	case out.exporter.Cluster != "":
		return nil, errors.New("exporters: cluster: a replay into several shards is not supported: name one server's configuration")
	}
	return out, nil
}

// replay puts events beside the tables, and then into them.
type replay struct {
	clickHouse question
	database   string
	into       map[signal.Signal]*replayTable // nil: events are only counted
	events     int
}

// replayTable is a signal's: events go through first to the builder, and as rows into the table beside.
type replayTable struct {
	component.StartFunc
	component.ShutdownFunc
	builder *columns.Builder
	first   component.Component
	to      string // the table beside, quoted
	waiting int    // events since the last insert
}

// Capabilities implements consumer.Logs and its like: the builder reads only.
func (*replayTable) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// ConsumeLogs implements consumer.Logs.
func (t *replayTable) ConsumeLogs(_ context.Context, ld plog.Logs) error {
	return t.builder.AppendLogs(ld)
}

// ConsumeMetrics implements consumer.Metrics.
func (t *replayTable) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	return t.builder.AppendMetrics(md)
}

// ConsumeTraces implements consumer.Traces.
func (t *replayTable) ConsumeTraces(_ context.Context, td ptrace.Traces) error {
	return t.builder.AppendTraces(td)
}

// table is a signal's table, or the one of that suffix beside it.
func (r *replay) table(s signal.Signal, suffix string) string {
	return quoted(r.database) + "." + quoted(columns.ForSignal(s).Name+suffix)
}

// open makes empty tables beside, of that suffix, for events.
func (r *replay) open(ctx context.Context, suffix string, signals []signal.Signal) error {
	if err := r.drop(ctx); err != nil { // of a replay that was killed
		return err
	}
	r.into = map[signal.Signal]*replayTable{}
	for _, s := range signals {
		if err := r.beside(ctx, s, suffix); err != nil {
			return err
		}
		t := &replayTable{builder: columns.NewBuilder(memory.DefaultAllocator, columns.ForSignal(s)), to: r.table(s, suffix)}
		t.first = t
		r.into[s] = t
	}
	return nil
}

// beside makes a table like a signal's.
func (r *replay) beside(ctx context.Context, s signal.Signal, suffix string) error {
	return r.clickHouse.exec(ctx, "CREATE TABLE "+r.table(s, suffix)+" AS "+r.table(s, ""))
}

// process puts the aggregators' processors before the tables.
func (r *replay) process(ctx context.Context, p *pipelines, h *hot) error {
	if err := p.startExtensions(ctx); err != nil {
		return err
	}
	for s, t := range r.into {
		var err error
		for _, name := range slices.Backward(h.processors[s]) {
			if t.first, err = p.createProcessor(ctx, s, name, t.first); err != nil {
				return err
			}
		}
	}
	return nil
}

// take keeps events that ClickHouse lacks.
func (r *replay) take(ctx context.Context, m audit.Missing) (err error) {
	r.events += m.Events
	t := r.into[m.Signal]
	if t == nil {
		return nil
	}
	switch m.Signal {
	case signal.Logs:
		err = t.first.(consumer.Logs).ConsumeLogs(ctx, m.Logs)
	case signal.Metrics:
		err = t.first.(consumer.Metrics).ConsumeMetrics(ctx, m.Metrics)
	case signal.Traces:
		err = t.first.(consumer.Traces).ConsumeTraces(ctx, m.Traces)
	}
	if err != nil {
		return fmt.Errorf("topic %s: %w", m.Topic, err)
	}
	if t.waiting += m.Events; t.waiting < replayBatch {
		return nil
	}
	return r.insert(ctx, m.Signal)
}

// flush inserts what waits.
func (r *replay) flush(ctx context.Context) error {
	var errs []error
	for s, t := range r.into {
		if t.waiting > 0 {
			errs = append(errs, r.insert(ctx, s))
		}
		t.builder.Release()
	}
	return errors.Join(errs...)
}

// insert is tried once: where its outcome is not known, a second try could store the rows twice.
func (r *replay) insert(ctx context.Context, s signal.Signal) error {
	t := r.into[s]
	rec := t.builder.NewRecordBatch()
	defer rec.Release()
	t.waiting = 0
	var names []string
	for _, f := range rec.Schema().Fields() {
		names = append(names, quoted(f.Name))
	}
	var sql bytes.Buffer
	_, _ = fmt.Fprintf(&sql, "INSERT INTO %s (%s) FORMAT ArrowStream\n", t.to, strings.Join(names, ", "))
	w := ipc.NewWriter(&sql, ipc.WithSchema(rec.Schema()))
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		return fmt.Errorf("encode %d rows: %w", rec.NumRows(), err)
	}
	return r.clickHouse.exec(ctx, sql.String())
}

func (r *replay) drop(ctx context.Context) error {
	var errs []error
	for _, s := range signal.All {
		for _, suffix := range []string{replaySuffix, lakeSuffix} {
			errs = append(errs, r.clickHouse.exec(context.WithoutCancel(ctx), "DROP TABLE IF EXISTS "+r.table(s, suffix)+" SYNC"))
		}
	}
	return errors.Join(errs...)
}

// publish hands the rows to the tables, a partition at a time, and returns how many.
func (r *replay) publish(ctx context.Context) (rows int64, err error) {
	staged := int64(0)
	for s := range r.into {
		for _, count := range []string{"count()", "uniqExact(" + replayPlace + ")"} {
			n, err := r.clickHouse.number(ctx, "SELECT "+count+" FROM "+r.table(s, replaySuffix))
			if err != nil {
				return 0, err
			}
			staged += n
		}
	}
	if staged != 2*int64(r.events) {
		return 0, fmt.Errorf("%d events are missing, and beside the tables are %d rows and places of rows, which is not twice as many: nothing was put back", r.events, staged)
	}
	for _, s := range signal.All {
		if r.into[s] == nil {
			continue
		}
		to, from := r.table(s, ""), r.table(s, replaySuffix)
		partitions, err := r.clickHouse.texts(ctx, "SELECT DISTINCT _partition_id FROM "+from+" ORDER BY 1")
		if err != nil {
			return rows, err
		}
		for _, partition := range partitions {
			mine := " FROM " + from + " WHERE _partition_id = '" + partition + "'"
			n, err := r.clickHouse.number(ctx, "SELECT count()"+mine)
			if err != nil {
				return rows, err
			}
			there, err := r.clickHouse.number(ctx, "SELECT count() FROM "+to+" WHERE _partition_id = '"+partition+"' AND ("+replayPlace+") IN (SELECT "+replayPlace+mine+")")
			if err != nil {
				return rows, err
			}
			if there > 0 {
				return rows, fmt.Errorf("table %s: %d rows have come meanwhile, by the aggregators or another replay: run it again", to, there)
			}
			if err := r.clickHouse.exec(ctx, "ALTER TABLE "+to+" ATTACH PARTITION ID '"+partition+"' FROM "+from); err != nil {
				return rows, fmt.Errorf("table %s, partition %s: %w", to, partition, err)
			}
			failpoint.Hit("replay-attached")
			rows += n
		}
	}
	return rows, nil
}
