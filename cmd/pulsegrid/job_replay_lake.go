package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/backfill"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/rows"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// lakeSuffix makes the name of the table for all rows of the lake. The missing ones go from there to the table of replaySuffix.
const lakeSuffix = "_replay_lake"

// lakeReplay puts rows of the lake back into ClickHouse.
type lakeReplay struct {
	replay
	lake    *stored.Lake
	asked   stored.Received // but for the table
	signals []signal.Signal
	erased  []erasure.Erasure
	group   *liveGroup // nil: nobody else brings the lake's rows
	// of is the cell whose lake it is; empty: the one of ClickHouse. A row of another cell's lake is missing where ClickHouse has no row of its event. Its topic becomes one of
	// restoredTopics: this cell's Kafka has other events at its place.
	of     string
	tell   func(format string, args ...any)
	report lakeReport
}

// lakeReport is what a replay of the lake did.
type lakeReport struct {
	From   time.Time    `json:"from"` // of receipt
	To     time.Time    `json:"to"`
	Tables []*lakeTable `json:"tables"`
	Back   int64        `json:"rows_put_back"`
	DryRun bool         `json:"dry_run"`
	// Rollups are days of rollups that do not say what the rows say now.
	Rollups []string `json:"rollups_that_differ"`
}

// lakeTable counts a table's rows of the time and tenant.
type lakeTable struct {
	Table   string `json:"table"`
	Rows    int64  `json:"rows"`    // in the lake, but for erased ones
	Erased  int64  `json:"erased"`  // in the lake, and declared as erased
	Missing int64  `json:"missing"` // in ClickHouse
	// Left are missing, too, and are left to others: their blocks are not finished, so the aggregators, or a backfill, bring them; or ClickHouse refused them, and they are in
	// quarantine.
	Left int64 `json:"left"`
}

// lakeAsked checks the flags. kept is the number of days that ClickHouse keeps rows; 0: for ever.
func (o *replayOptions) lakeAsked(now time.Time, kept int) (c audit.Config, signals []signal.Signal, err error) {
	wrong := func(flag, format string, args ...any) (audit.Config, []signal.Signal, error) {
		return c, nil, usageError{fmt.Errorf("--%s: %w", flag, fmt.Errorf(format, args...))}
	}
	if c, err = o.asked(now); err != nil {
		return c, nil, err
	}
	if c.To.IsZero() {
		c.To = now
	}
	for _, text := range o.signals {
		s, err := signal.Parse(text)
		if err != nil {
			return wrong("signal", "%w", err)
		}
		if !slices.Contains(signals, s) {
			signals = append(signals, s)
		}
	}
	if len(signals) == 0 {
		signals = signal.All[:]
	}
	oldest := now.Add(retentionMargin - time.Duration(kept)*24*time.Hour)
	switch {
	case len(c.Topics) > 0:
		return wrong("topic", "is of Kafka; the lake has --tenant and --signal")
	case len(c.Ranges) > 0:
		return wrong("range", "is of Kafka; the lake has --from and --to, times of receipt")
	case c.From.IsZero():
		return wrong("from", "say since when the events were received")
	case !c.From.Before(c.To):
		return wrong("to", "%q is not after --from", o.to)
	case kept > 0 && c.From.Before(oldest):
		return wrong("from", "ClickHouse deletes rows for their age that were received before %s (retention_days: %d)", oldest.UTC().Format(time.RFC3339), kept)
	case c.Tenant != "" && !tenant.ValidID(c.Tenant):
		return wrong("tenant", "%q is not a tenant id: "+tenant.WantID, c.Tenant)
	}
	return c, signals, nil
}

func runReplayOfLake(cmd *cobra.Command, o replayOptions) error {
	ctx := cmd.Context()
	pipes, hot, err := o.stores.hot(cmd)
	if err != nil {
		return err
	}
	asked, signals, err := o.lakeAsked(time.Now(), hot.exporter.RetentionDays)
	if err != nil {
		return err
	}
	switch {
	case pipes.lake == nil:
		return usageError{errors.New("--config: the configuration has no lake: want an exporter iceberg with rows: events")}
	case !hot.exporter.Ledger:
		return errors.New("exporters: ledger: false: without a ledger nobody knows which rows the aggregators still bring")
	}
	r, err := o.newLakeReplay(cmd, hot, &asked, signals)
	if err != nil {
		return err
	}
	if r.group, err = pipes.newGroup(ctx, hot.receiver); err != nil {
		return err
	}
	defer r.group.admin.Close()
	if r.lake, err = stored.OpenLake(ctx, storedLake(pipes.lake)); err != nil {
		return err
	}
	defer r.lake.Close()
	if err := r.fill(ctx, hot, "put back"); err != nil {
		return err
	}
	return r.show(cmd, o.json, &r.report)
}

// newLakeReplay is a replay into the hot store without a lake: its caller knows which.
func (o *replayOptions) newLakeReplay(cmd *cobra.Command, hot *hot, asked *audit.Config, signals []signal.Signal) (r *lakeReplay, err error) {
	r = &lakeReplay{
		replay: replay{database: hot.exporter.Database}, signals: signals, erased: asked.Erased, asked: stored.Received{Tenant: asked.Tenant, From: asked.From, To: asked.To},
		report: lakeReport{From: asked.From.UTC(), To: asked.To.UTC(), DryRun: o.dryRun, Rollups: []string{}}, tell: teller(cmd, o.quiet),
	}
	r.clickHouse, err = questionTo(cmd.Context(), &hot.exporter)
	return r, err
}

// fill does it, and looks at the rollups afterwards. done is what becomes of rows, for an error.
func (r *lakeReplay) fill(ctx context.Context, hot *hot, done string) error {
	if err := errors.Join(r.run(ctx), r.drop(ctx)); err != nil {
		if ctx.Err() != nil {
			err = errors.New("stopped; run it again")
		}
		return fmt.Errorf("%d rows were %s: %w", r.report.Back, done, err)
	}
	if r.report.DryRun || !hot.exporter.Rollups {
		return nil
	}
	return r.compareRollups(ctx, hot)
}

// show prints what was done, and fails where rollups differ.
func (r *lakeReplay) show(cmd *cobra.Command, asJSON bool, report interface{ print(w io.Writer) error }) (err error) {
	if asJSON {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = report.print(cmd.OutOrStdout())
	}
	if err == nil && len(r.report.Rollups) > 0 {
		return errors.New(rollupsAdvice)
	}
	return err
}

// run takes the lake's rows beside, chooses those that are missing, and hands them over.
func (r *lakeReplay) run(ctx context.Context) error {
	if err := r.open(ctx, lakeSuffix, r.signals); err != nil {
		return err
	}
	for _, s := range r.signals {
		if err := r.read(ctx, s); err != nil {
			return err
		}
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	failpoint.Hit("replay-read")
	r.events = 0
	for i, s := range r.signals {
		t := r.report.Tables[i]
		if err := r.beside(ctx, s, replaySuffix); err != nil {
			return err
		}
		if err := r.choose(ctx, s, t); err != nil {
			return fmt.Errorf("table %s: %w", t.Table, err)
		}
		r.events += int(t.Missing - t.Left)
	}
	failpoint.Hit("replay-staged")
	if r.report.DryRun {
		return nil
	}
	var err error
	if r.report.Back, err = r.publish(ctx); err != nil {
		return err
	}
	for i, s := range r.signals {
		t := r.report.Tables[i]
		left, err := r.clickHouse.number(ctx, "SELECT count() FROM ("+r.missing(s, replayPlace)+")"+joinsOnDisk)
		if err != nil {
			return err
		}
		if left > t.Left { // fewer are the aggregators' work
			return fmt.Errorf("table %s: %d rows of the lake are missing after all were put back", t.Table, left-t.Left)
		}
	}
	return nil
}

// read inserts the lake's rows of a signal into the table beside.
func (r *lakeReplay) read(ctx context.Context, s signal.Signal) error {
	q := r.asked
	q.Table = columns.ForSignal(s)
	count := &lakeTable{Table: q.Table.Name}
	r.report.Tables = append(r.report.Tables, count)
	var of int64
	var last time.Time
	return r.lake.ReadReceived(ctx, q, func(n int64) { of = n }, func(rec arrow.RecordBatch, which []int) (err error) {
		reader := rows.NewReader(q.Table, rec)
		all := len(which)
		if len(r.erased) > 0 {
			which = slices.DeleteFunc(slices.Clone(which), func(i int) bool { return r.isErased(s, reader, i) })
		}
		count.Rows, count.Erased = count.Rows+int64(len(which)), count.Erased+int64(all-len(which))
		m := audit.Missing{Topic: "lake table " + q.Table.Name, Signal: s, Events: len(which)}
		switch s {
		case signal.Logs:
			m.Logs, err = reader.StampedLogs(which)
		case signal.Metrics:
			m.Metrics, err = reader.StampedMetrics(which)
		case signal.Traces:
			m.Traces, err = reader.StampedTraces(which)
		}
		if err != nil {
			return err
		}
		if time.Since(last) > jobLine {
			last = time.Now()
			r.tell("%s: %d of at most %d rows", q.Table.Name, count.Rows, of)
		}
		return errors.Join(r.take(ctx, m), ctx.Err())
	})
}

// isErased tells whether a row was deleted from ClickHouse lawfully. When Kafka appended it is not known, and was after its receipt.
func (r *lakeReplay) isErased(s signal.Signal, row *rows.Reader, i int) bool {
	row.Seek(i)
	var id [16]byte
	copy(id[:], row.Bytes("event_id"))
	e := erasure.Event{
		Store: certificate.Hot, Tenant: row.Text("tenant_id"), Signal: s, Topic: row.Text("kafka_topic"), Partition: int32(row.Int("kafka_partition")), Offset: row.Int("kafka_offset"),
		ID: ledger.IDSum(id[:]), Time: row.Time("time"), Appended: time.Unix(0, row.Time("ingest_time")),
	}
	return slices.ContainsFunc(r.erased, func(d erasure.Erasure) bool { return d.Covers(e) })
}

// joinsOnDisk are the settings by which a join of more than 1 GiB uses the disk. A join to the nearest row, as with the ledger, cannot.
const joinsOnDisk = " SETTINGS join_algorithm = 'grace_hash,hash', max_bytes_in_join = 1073741824"

// missing returns a SELECT of these columns of the lake's rows that ClickHouse has not.
func (r *lakeReplay) missing(s signal.Signal, columns string) string {
	if r.of != "" {
		return "SELECT " + columns + " FROM " + r.table(s, lakeSuffix) + " AS l LEFT ANTI JOIN (SELECT event_id FROM " + r.table(s, "") + " WHERE tenant_id = " + literal(r.asked.Tenant) + ") AS t USING (event_id)"
	}
	within := fmt.Sprintf("ingest_time >= fromUnixTimestamp64Nano(%d) AND ingest_time < fromUnixTimestamp64Nano(%d)", r.asked.From.UnixNano(), r.asked.To.UnixNano())
	if r.asked.Tenant != "" {
		within += " AND tenant_id = " + literal(r.asked.Tenant)
	}
	return "SELECT " + columns + " FROM " + r.table(s, lakeSuffix) + " AS l LEFT ANTI JOIN (SELECT " + replayPlace + " FROM " + r.table(s, "") + " WHERE " + within +
		") AS t USING (" + replayPlace + ")"
}

// choose puts the missing rows of a signal that nobody else would bring into the table of replaySuffix.
func (r *lakeReplay) choose(ctx context.Context, s signal.Signal, t *lakeTable) error {
	var err error
	t.Missing, err = r.clickHouse.number(ctx, "SELECT count() FROM ("+r.missing(s, replayPlace)+")"+joinsOnDisk)
	if err != nil || t.Missing == 0 {
		return err
	}
	names := make([]string, 0)
	for _, c := range columns.ForSignal(s).Columns {
		names = append(names, quoted(c.Name))
	}
	list, where := strings.Join(names, ", "), ""
	values := list
	if r.of != "" {
		values = strings.Replace(list, quoted("kafka_topic"), "concat("+literal(restoredTopics+r.of+"/")+", l.kafka_topic) AS kafka_topic", 1)
	} else if where, err = r.notOthers(ctx, s); err != nil {
		return err
	}
	into := "INSERT INTO " + r.table(s, replaySuffix) + " (" + list + ")" + joinsOnDisk + ", insert_deduplicate = 0, max_partitions_per_insert_block = 0 "
	if err := r.clickHouse.exec(ctx, into+r.missing(s, values)+where); err != nil {
		return err
	}
	chosen, err := r.clickHouse.number(ctx, "SELECT count() FROM "+r.table(s, replaySuffix))
	t.Left = t.Missing - chosen
	return err
}

// restoredTopics begins the topics of rows of other cells: cell/NAME/TOPIC. Kafka has no topic with a slash.
const restoredTopics = "cell/"

// notOthers is the condition that leaves out rows which others bring.
func (r *lakeReplay) notOthers(ctx context.Context, s signal.Signal) (string, error) {
	floors, err := r.floors(ctx, s)
	if err != nil {
		return "", err
	}
	const record = "kafka_topic, kafka_partition, kafka_offset"
	// Records below a partition's floor are nobody's any more, whatever the ledger says.
	others := "SELECT " + record + " FROM (" + unfinished(r.database, r.table(s, lakeSuffix)) + ") AS u" +
		" LEFT JOIN (" + floors + ") AS f ON u.kafka_topic = f.topic AND u.kafka_partition = f.partition" +
		" WHERE u.kafka_offset >= f.floor AND u.kafka_topic NOT IN (SELECT topic FROM (" + floors + ") WHERE partition < 0)"
	for _, quarantine := range []*columns.Table{columns.Quarantine, columns.QuarantinePII} {
		there, err := r.clickHouse.number(ctx, "SELECT count() FROM system.tables WHERE database = "+literal(r.database)+" AND name = "+literal(quarantine.Name))
		if err != nil {
			return "", err
		}
		if there > 0 {
			others += " UNION ALL SELECT origin_topic, origin_partition, origin_offset FROM " + quoted(r.database) + "." + quoted(quarantine.Name) +
				" WHERE origin_group = " + literal(r.group.name)
		}
	}
	return " WHERE (" + record + ") NOT IN (" + others + ")", nil
}

// floors returns a SELECT of topic, partition and floor: no aggregator will ever store a record below it, as Kafka no longer has it and the group has gone past it. Where it
// is not known there is none, which reads as 0. A topic that is gone has a row of partition -1.
func (r *lakeReplay) floors(ctx context.Context, s signal.Signal) (string, error) {
	topics, err := r.clickHouse.texts(ctx, "SELECT DISTINCT kafka_topic FROM "+r.table(s, lakeSuffix)+" WHERE kafka_topic != ''")
	if err != nil {
		return "", err
	}
	topics = slices.DeleteFunc(topics, backfill.IsJob) // a job brings its own
	rows := []string{}
	if len(topics) > 0 {
		begins, err := r.group.admin.ListStartOffsets(ctx, topics...)
		if err != nil {
			return "", fmt.Errorf("begin of %v: %w", topics, err)
		}
		committed, err := r.group.admin.FetchOffsets(ctx, r.group.name)
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			return "", fmt.Errorf("offsets of group %s: %w", r.group.name, err)
		}
		for _, topic := range topics {
			for partition, begin := range begins[topic] {
				at, known := committed.Lookup(topic, partition)
				switch {
				case partition < 0 && errors.Is(begin.Err, kerr.UnknownTopicOrPartition): // as the client tells of a topic that is not there
					rows = append(rows, floorRow(topic, -1, 0))
				case begin.Err != nil:
					return "", fmt.Errorf("begin of topic %s, partition %d: %w", topic, partition, begin.Err)
				case known:
					rows = append(rows, floorRow(topic, partition, min(at.At, begin.Offset)))
				}
			}
		}
	}
	return "SELECT * FROM values('topic String, partition Int32, floor Int64', " + strings.Join(append(rows, floorRow("", -1, 0)), ", ") + ")", nil
}

func floorRow(topic string, partition int32, floor int64) string {
	return "(" + literal(topic) + ", " + strconv.Itoa(int(partition)) + ", " + strconv.FormatInt(floor, 10) + ")"
}

// compareRollups looks whether the rollups of the days that were asked for say what the rows say now.
func (r *lakeReplay) compareRollups(ctx context.Context, hot *hot) error {
	recount, err := openClickHouse(ctx, &hot.exporter)
	if err != nil {
		return err
	}
	defer recount.Close()
	var days []time.Time
	for day := r.asked.From.UTC().Truncate(24 * time.Hour); day.Before(r.asked.To); day = day.AddDate(0, 0, 1) {
		days = append(days, day)
	}
	for _, s := range r.signals {
		found, err := compareRollups(ctx, recount, columns.ForSignal(s), days)
		if err != nil {
			return err
		}
		for _, d := range found {
			r.report.Rollups = append(r.report.Rollups, d.Table+" "+d.day.Format(time.DateOnly))
		}
	}
	return nil
}

func (l *lakeReport) print(w io.Writer) error {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "table\trows in the lake\terased\tmissing in ClickHouse\tleft to others")
	missing, left := int64(0), int64(0)
	for _, t := range l.Tables {
		_, _ = fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\n", t.Table, t.Rows, t.Erased, t.Missing, t.Left)
		missing, left = missing+t.Missing, left+t.Left
	}
	_ = tw.Flush() // a strings.Builder does not fail
	if left > 0 {
		b.WriteString("left to others: rows whose blocks ClickHouse's ledger does not have yet, so that the aggregators or a backfill bring them;" +
			" and rows that ClickHouse has in quarantine\n")
	}
	if l.DryRun {
		_, _ = fmt.Fprintf(&b, "%d events are missing in ClickHouse: nothing was changed\n", missing-left)
	} else {
		_, _ = fmt.Fprintf(&b, "%d events were missing in ClickHouse: %d rows were put back\n", missing-left, l.Back)
	}
	l.printRollups(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (l *lakeReport) printRollups(b *strings.Builder) {
	for _, r := range l.Rollups {
		_, _ = fmt.Fprintf(b, "rollup %s differs from the rows\n", r) // a strings.Builder does not fail
	}
}
