package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
	"github.com/pulsegrid/pulsegrid/internal/subject"
	"github.com/pulsegrid/pulsegrid/internal/upkeep"
	"github.com/pulsegrid/pulsegrid/internal/wholefile"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

const (
	// mutationPoll is how often ClickHouse is asked how far it is.
	mutationPoll = 500 * time.Millisecond
	// erasureTarget is the size of a file that is written in place of one with rows of the tenant, at most.
	erasureTarget = 256 << 20
	// kafkaPatience is how long Kafka may take to say how long it keeps records.
	kafkaPatience = 10 * time.Second
	// kafkaLongest caps a topic's retention, in milliseconds: a longer one counts as 100 years.
	kafkaLongest = 100 * 365 * 24 * 3600 * 1000
)

type erasureOptions struct {
	stores  storesOptions
	tenant  string
	id      string
	by      string
	reason  string
	declare string
	wait    time.Duration
	dryRun  bool
	json    bool

	attribute string // KEY or KEY=VALUE
	values    string // file

	subject  *subject.Subject // nil: all of the tenant
	declared bool             // the file has this declaration already
}

func newErasure() *cobra.Command {
	var o erasureOptions
	cmd := &cobra.Command{
		Use:   "erasure",
		Short: "Erase what the stores hold of a tenant, or of one person of it, and declare it to the audit",
		Long: `Take the rows of a tenant out of both stores for good: in ClickHouse from each table of the database that has a column tenant_id, rollups and quarantines included; in the lake
from the tables that PulseGrid writes, whose files are written anew without them. The lake's snapshots before that are expired, since they have the rows: a query that works on one of them fails. ClickHouse keeps
the files of what it has rewritten for some minutes; the job waits until they are gone.

Then the rows that are left are counted, and the erasure is added to a file of declarations (docs/formats/erasures.md), by which audits and replays know that these rows are not lost.

First take the tenant out of the registry, and wait until its events have left Kafka for the stores. Kafka itself forgets them when its retention ends; the job says when. What gateways put into the object
store while Kafka was away goes the same way. Killed at any moment, the job can be run again.

With --attribute only the events are erased that carry that value, exactly, as the attribute of an event, its resource or scope, a span event or link, or an exemplar; with them the items of the quarantine
that hold one, and rows of rollups and aggregates that are kept by the value. The declaration names these events by place and id, and the audit explains them and no others. The value is in no statement,
declaration, report or log. On the command line others of this machine see it while the job runs: --values FILE takes one or more of a file.

Exit codes: 0 nothing is left; 1 rows are left, or a store failed: the text says why; 2 wrong command line; 3 no cell is running.`,
		Example: `  pulsegrid job run erasure --tenant acme --dry-run
  pulsegrid job run erasure --tenant acme --id GDPR-2026-117 --by privacy@example.com --reason "Art. 17 request of 2026-11-03" --declare erasures.yaml
  pulsegrid audit --erased erasures.yaml
  pulsegrid job run erasure --tenant acme --attribute user.id --values ids.txt --dry-run`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runErasure(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.tenant, "tenant", "", "whose rows; required")
	f.StringVar(&o.attribute, "attribute", "", "erase only the events with a value of an attribute: KEY=VALUE, or KEY with --values")
	f.StringVar(&o.values, "values", "", "file of values of the attribute, one a line")
	f.StringVar(&o.id, "id", "", "name of the declaration, such as the number of the request; required but for a dry run")
	f.StringVar(&o.by, "by", "", "who erases; likewise")
	f.StringVar(&o.reason, "reason", "", "why; likewise")
	f.StringVar(&o.declare, "declare", "", "file that the declaration is added to; it need not exist; likewise")
	f.DurationVar(&o.wait, "wait", 30*time.Minute, "how long to wait for ClickHouse to remove the files of what it has rewritten")
	f.BoolVar(&o.dryRun, "dry-run", false, "count the rows; change nothing")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	o.stores.flags(cmd, "configuration of the aggregators that fill the stores; may be repeated, as for the Collector (default: the local cell's)")
	return cmd
}

func (o *erasureOptions) validate() error {
	wrong := func(flag, text string) error { return usageError{fmt.Errorf("--%s: %s", flag, text)} }
	if o.tenant == "" {
		return wrong("tenant", "whose rows are to be erased?")
	}
	if o.wait < 0 {
		return wrong("wait", "must not be negative")
	}
	if err := o.readSubject(); err != nil {
		return usageError{err}
	}
	if o.dryRun {
		return nil
	}
	for flag, value := range map[string]string{"id": o.id, "by": o.by, "reason": o.reason, "declare": o.declare} {
		if strings.TrimSpace(value) == "" {
			return wrong(flag, "an erasure is declared: want --id, --by, --reason and --declare")
		}
	}
	there, err := erasure.ReadFile(o.declare)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return usageError{fmt.Errorf("--declare: %w", err)}
	}
	if i := slices.IndexFunc(there, func(e erasure.Erasure) bool { return e.ID == o.id }); i >= 0 {
		if e := there[i]; e.Tenant != o.tenant || e.By != o.by || e.Reason != o.reason || e.Attribute != o.key() {
			return wrong("id", fmt.Sprintf("%s has a declaration %q already, of another erasure", o.declare, o.id))
		}
		o.declared, o.dryRun = true, true // whoever runs it did not hear that it was done
	}
	return nil
}

// readSubject reads whose events are to be erased, if not all. Its errors quote no value.
func (o *erasureOptions) readSubject() error {
	key, value, given := strings.Cut(o.attribute, "=")
	values := []string{value}
	switch {
	case o.attribute == "" && o.values == "":
		return nil
	case o.attribute == "" || given == (o.values != ""):
		return errors.New("--attribute: want KEY=VALUE, or KEY with --values FILE")
	case !given:
		var err error
		if values, err = subject.ReadValues(o.values); err != nil {
			return fmt.Errorf("--values: %w", err)
		}
	}
	s, err := subject.New(o.tenant, key, values)
	if err != nil {
		return fmt.Errorf("--attribute: %w", err)
	}
	o.subject = s
	return nil
}

// key is the attribute that the events are chosen by; empty: they are all of the tenant's.
func (o *erasureOptions) key() string {
	if o.subject == nil {
		return ""
	}
	return o.subject.Attribute
}

// erasedReport is what became of the tenant's rows.
type erasedReport struct {
	Tenant     string          `json:"tenant"`
	Attribute  string          `json:"attribute,omitempty"` // by whose value they were chosen; empty: they are all of the tenant's
	ClickHouse []erasedTable   `json:"clickhouse"`
	Lake       []upkeep.Erased `json:"lake"`
	OldFiles   int             `json:"clickhouse_parts_not_yet_removed"` // with rows of before
	Left       int64           `json:"rows_left"`
	Notes      []string        `json:"notes,omitempty"`
}

// erasedTable is a table of ClickHouse.
type erasedTable struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"` // before
	Left  int64  `json:"left"`
}

func runErasure(cmd *cobra.Command, o erasureOptions) error {
	ctx := cmd.Context()
	if err := o.validate(); err != nil {
		return err
	}
	pipes, err := o.stores.pipelines(cmd)
	if err != nil {
		return err
	}
	say := teller(cmd, o.json)
	report, planned := erasedReport{Tenant: o.tenant, Attribute: o.key()}, erasure.Erasure{Tenant: o.tenant}
	if o.subject == nil {
		err = errors.Join(o.eraseHot(ctx, pipes, &report, say), o.eraseLake(ctx, pipes, &report, say))
	} else {
		planned, err = o.eraseSubject(ctx, pipes, &report, say)
	}
	report.Notes = append(report.Notes, pipes.kafkaKeeps(ctx))
	for _, t := range report.ClickHouse {
		report.Left += t.Left
	}
	for _, t := range report.Lake {
		report.Left += t.Left
	}
	if printed := o.print(cmd.OutOrStdout(), report); err == nil {
		err = printed
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("stopped: what was erased stays erased; run it again")
	case err != nil:
		return err
	case o.declared && report.Left > 0:
		return usageError{fmt.Errorf("--id: %s has the declaration %q already, and the stores have %d rows of the tenant again: give another id to this erasure", o.declare, o.id, report.Left)}
	case o.declared:
		if err := o.forgetPlan(); err != nil {
			return err
		}
		say("erased and declared in %s already", o.declare)
		return nil
	case o.dryRun:
		return nil
	case report.Left > 0:
		return fmt.Errorf("%d rows are left: %s still sends, or its events were still on their way; nothing was declared: run it again", report.Left, map[bool]string{true: "the tenant", false: "somebody"}[o.subject == nil])
	case report.OldFiles > 0:
		return fmt.Errorf("ClickHouse has not removed %d old parts within %v (old_parts_lifetime); nothing was declared: run it again", report.OldFiles, o.wait)
	}
	if o.subject != nil && planned.Named == nil {
		say("no row has the value: nothing is declared")
		return nil
	}
	planned.ID, planned.By, planned.Reason, planned.At = o.id, o.by, o.reason, time.Now()
	if err := o.addDeclaration(&planned); err != nil {
		return fmt.Errorf("the rows are erased, and --declare: %w", err)
	}
	if err := o.forgetPlan(); err != nil {
		return err
	}
	say("declared in %s: audits and replays take it by --erased %s", o.declare, o.declare)
	return nil
}

// hotStores are the ClickHouse databases of a configuration.
func (p *pipelines) hotStores() (out []*clickhouseexporter.Config, err error) {
	has := map[string]bool{}
	for _, id := range p.exporterIDs() {
		c, ok := p.exporters[id].(*clickhouseexporter.Config)
		if !ok || has[c.ClientConfig.Endpoint+" "+c.Database] {
			continue
		}
		if c.Cluster != "" {
			return nil, fmt.Errorf("exporters: %s: cluster: erasing from several shards is not supported: run it with each server's configuration, without cluster", id)
		}
		has[c.ClientConfig.Endpoint+" "+c.Database] = true
		out = append(out, c)
	}
	return out, nil
}

func (o *erasureOptions) eraseHot(ctx context.Context, p *pipelines, report *erasedReport, say func(string, ...any)) error {
	stores, err := p.hotStores()
	if err != nil {
		return err
	}
	for _, c := range stores {
		q, err := questionTo(ctx, c)
		if err != nil {
			return err
		}
		e := &hotEraser{erasureOptions: o, question: q, database: c.Database, say: say}
		if err := e.run(ctx, report); err != nil {
			return fmt.Errorf("ClickHouse %s, database %s: %w", redacted(c.ClientConfig.Endpoint), c.Database, err)
		}
	}
	return nil
}

type hotEraser struct {
	*erasureOptions
	question question
	database string
	say      func(string, ...any)
}

// tables are those with rows of tenants.
func (e *hotEraser) tables(ctx context.Context) ([]string, error) {
	return e.question.texts(ctx, "SELECT t.name FROM system.tables AS t JOIN system.columns AS c ON c.database = t.database AND c.table = t.name WHERE t.database = "+literal(e.database)+
		" AND t.engine LIKE '%MergeTree' AND c.name = 'tenant_id' ORDER BY 1")
}

func (e *hotEraser) run(ctx context.Context, report *erasedReport) error {
	tables, err := e.tables(ctx)
	if err != nil {
		return err
	}
	for _, table := range tables {
		where := " WHERE tenant_id = " + literal(e.tenant)
		name := quoted(e.database) + "." + quoted(table)
		rows, err := e.question.number(ctx, "SELECT count() FROM "+name+where)
		if err != nil {
			return err
		}
		t := erasedTable{Table: table, Rows: rows, Left: rows}
		if rows > 0 && !e.dryRun {
			e.say("ClickHouse, %s: %d rows ...", table, rows)
			// The statement is asynchronous: a large table takes longer than a connection lives.
			if err := e.question.exec(ctx, "ALTER TABLE "+name+" DELETE"+where+" SETTINGS mutations_sync = 0"); err != nil {
				return err
			}
			if err := e.mutated(ctx, table); err != nil {
				return err
			}
			if t.Left, err = e.question.number(ctx, "SELECT count() FROM "+name+where); err != nil {
				return err
			}
		}
		report.ClickHouse = append(report.ClickHouse, t)
	}
	if e.dryRun {
		return nil
	}
	n, err := e.oldParts(ctx, "tenant_id = "+literal(e.tenant))
	report.OldFiles += n
	return err
}

// mutated waits until the table has no mutation that is not done.
func (e *hotEraser) mutated(ctx context.Context, table string) error {
	said := time.Now()
	for {
		state, err := e.question.texts(ctx, "SELECT count(), sum(parts_to_do), max(latest_fail_reason != '') FROM system.mutations WHERE NOT is_done AND database = "+literal(e.database)+" AND table = "+literal(table))
		if err != nil {
			return err
		}
		switch {
		case len(state) != 3:
			return fmt.Errorf("ClickHouse answered %q about the mutations of %s", state, table)
		case state[0] == "0":
			return nil
		case state[2] == "1":
			return fmt.Errorf("a mutation of table %s fails: SELECT * FROM system.mutations WHERE NOT is_done", table)
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			e.say("ClickHouse, %s: %s parts to do", table, state[1])
		}
		if err := sleep.For(ctx, mutationPoll); err != nil {
			return err
		}
	}
}

// oldParts waits until the parts from before the mutations with a text in their command, of this run or one that was killed, are removed from the disk. It returns how many
// are not.
func (e *hotEraser) oldParts(ctx context.Context, command string) (int, error) {
	sql := fmt.Sprintf(`SELECT count() FROM system.parts AS p
JOIN (SELECT table, max(arrayMax(block_numbers.number)) AS version FROM system.mutations WHERE database = %[1]s AND position(command, %[2]s) > 0 GROUP BY table) AS m ON m.table = p.table
WHERE p.database = %[1]s AND NOT p.active AND p.data_version < m.version`, literal(e.database), literal(command))
	var said time.Time
	for deadline := time.Now().Add(e.wait); ; {
		n, err := e.question.number(ctx, sql)
		if err != nil || n == 0 || time.Now().After(deadline) {
			return int(n), err
		}
		if time.Since(said) > 30*time.Second {
			said = time.Now()
			e.say("ClickHouse has not yet removed %d old parts (old_parts_lifetime, by default 8 minutes) ...", n)
		}
		if err := sleep.For(ctx, mutationPoll); err != nil {
			return int(n), err
		}
	}
}

// lakes are the namespaces of a configuration.
func (p *pipelines) lakes() (out []*icebergexporter.Config) {
	has := map[string]bool{}
	for _, id := range p.exporterIDs() {
		c, ok := p.exporters[id].(*icebergexporter.Config)
		if !ok {
			continue
		}
		if key := fmt.Sprint(c.Catalog.URI, " ", c.Catalog.Warehouse, " ", c.Namespace); !has[key] {
			has[key] = true
			out = append(out, c)
		}
	}
	return out
}

func (o *erasureOptions) eraseLake(ctx context.Context, p *pipelines, report *erasedReport, say func(string, ...any)) error {
	var errs []error
	for _, c := range p.lakes() {
		errs = append(errs, o.eraseNamespace(ctx, c, report, say))
	}
	return errors.Join(errs...)
}

func (o *erasureOptions) eraseNamespace(ctx context.Context, c *icebergexporter.Config, report *erasedReport, say func(string, ...any)) error {
	cat, closeCatalog, err := openCatalog(ctx, c)
	if err != nil {
		return err
	}
	defer closeCatalog()
	var errs []error
	err = eachTenantTable(ctx, cat, c.Namespace, func(name string, _ *table.Table) {
		say("lake, %s ...", name)
		r, err := upkeep.Erase(ctx, cat, table.Identifier{c.Namespace, name}, upkeep.Match{Within: ofTenant(o.tenant)}, o.rewriting(c))
		report.Lake = append(report.Lake, r)
		errs = append(errs, err)
	})
	return errors.Join(append(errs, err)...)
}

// ofTenant is the condition of the lake's rows of a tenant.
func ofTenant(tenant string) iceberg.BooleanExpression {
	return iceberg.EqualTo(iceberg.Reference("tenant_id"), tenant)
}

// rewriting is how an erasure writes files of the lake.
func (o *erasureOptions) rewriting(c *icebergexporter.Config) upkeep.Options {
	return upkeep.Options{TargetBytes: erasureTarget, Within: c.Orphans.MinAge / 2, DryRun: o.dryRun}
}

// eachTenantTable calls f for the tables of a namespace that have rows of tenants, those that can be loaded.
func eachTenantTable(ctx context.Context, cat catalog.Catalog, namespace string, f func(name string, tbl *table.Table)) error {
	names, err := writtenTables(ctx, cat, namespace)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		tbl, err := cat.LoadTable(ctx, table.Identifier{namespace, name})
		if err != nil {
			errs = append(errs, fmt.Errorf("table %s: %w", name, err))
			continue
		}
		if _, ok := tbl.Schema().FindFieldByName("tenant_id"); ok { // else a ledger
			f(name, tbl)
		}
	}
	return errors.Join(errs...)
}

func (o *erasureOptions) print(w io.Writer, r erasedReport) error {
	if o.json {
		return printJSON(w, r)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	of := r.Tenant
	if r.Attribute != "" {
		of += " by " + r.Attribute
	}
	_, _ = fmt.Fprintf(tw, "store\ttable\trows of %s\tleft\n", printable(of))
	for _, t := range r.ClickHouse {
		_, _ = fmt.Fprintf(tw, "ClickHouse\t%s\t%d\t%d\n", t.Table, t.Rows, t.Left)
	}
	for _, t := range r.Lake {
		_, _ = fmt.Fprintf(tw, "lake\t%s\t%d\t%d\n", t.Table, t.Rows, t.Left)
	}
	for _, note := range r.Notes {
		_, _ = fmt.Fprintln(tw, printable(note))
	}
	if o.dryRun {
		_, _ = fmt.Fprintln(tw, "nothing was changed")
	}
	return tw.Flush()
}

// addDeclaration adds an erasure to the file of declarations, which is replaced as a whole.
func (o *erasureOptions) addDeclaration(e *erasure.Erasure) error {
	dir, err := os.Open(filepath.Dir(o.declare))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()                                    // which unlocks
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil { // another erasure may add to the file at the same time
		return fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	before, err := os.ReadFile(o.declare)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return writeDeclarations(o.declare, before, e)
}

// writeDeclarations gives a file the declarations that are there before, as they are, and one more.
func writeDeclarations(path string, before []byte, e *erasure.Erasure) error {
	if len(before) == 0 {
		before = fmt.Appendf(nil, "format: %d\nerasures:\n", erasure.Version)
	}
	entry, err := e.Declaration()
	if err != nil {
		return err
	}
	whole := append(bytes.TrimRight(before, "\n"), '\n')
	for line := range bytes.Lines(entry) {
		whole = append(append(whole, "  "...), line...)
	}
	if _, err := erasure.Read(bytes.NewReader(whole)); err != nil {
		return fmt.Errorf("the declaration does not fit behind what %s has; add it by hand:\n%.2000s%w", path, entry, err)
	}
	return wholefile.Write(path, whole, 0o644)
}

// kafkaKeeps says for how long Kafka keeps what the stores have no longer. It is the same text until somebody changes that: what an approval was given for is compared.
func (p *pipelines) kafkaKeeps(ctx context.Context) string {
	longest, err := p.kafkaRetention(ctx)
	switch {
	case err != nil:
		return fmt.Sprintf("Kafka keeps it until the retention of its topics ends, which could not be asked: %v", err)
	case longest < 0:
		return "Kafka keeps it for ever: retention.ms of a topic is -1"
	case longest == 0:
		return "Kafka keeps it until the retention of its topics ends: the configuration has no receiver to ask by"
	}
	return fmt.Sprintf("Kafka has forgotten it %v after it was sent, at the latest (retention.ms and segment.ms of its topics)", longest)
}

// kafkaRetention is the longest time that a topic of the configuration's receivers keeps a record: its retention, and before it the time until its segment is full. 0: there is
// no receiver; negative: for ever.
func (p *pipelines) kafkaRetention(ctx context.Context) (longest time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, kafkaPatience)
	defer cancel()
	f := mskreceiver.NewFactory()
	for _, id := range p.ids("receivers", f.Type().String()) {
		cfg := f.CreateDefaultConfig().(*mskreceiver.Config)
		if err := p.configure("receivers", id, cfg); err != nil {
			return 0, err
		}
		group, err := p.newGroup(ctx, cfg)
		if err != nil {
			return 0, err
		}
		defer group.admin.Close()
		all, err := group.admin.DescribeTopicConfigs(ctx, slices.Concat(group.topics, cfg.Topics.Quarantine)...)
		if err != nil {
			return 0, err
		}
		for _, topic := range all {
			if errors.Is(topic.Err, kerr.UnknownTopicOrPartition) {
				continue
			}
			if topic.Err != nil {
				return 0, fmt.Errorf("topic %s: %w", topic.Name, topic.Err)
			}
			sum, told := time.Duration(0), false
			for _, c := range topic.Configs {
				if c.Key != "retention.ms" && c.Key != "segment.ms" {
					continue
				}
				told = told || c.Key == "retention.ms"
				ms, err := strconv.ParseInt(c.MaybeValue(), 10, 64)
				if err != nil {
					return 0, fmt.Errorf("topic %s: %s: %w", topic.Name, c.Key, err)
				}
				if ms < 0 {
					return -1, nil
				}
				sum += time.Duration(min(ms, kafkaLongest)) * time.Millisecond
			}
			if !told {
				return 0, fmt.Errorf("topic %s: the broker does not tell its retention.ms", topic.Name)
			}
			longest = max(longest, sum)
		}
	}
	return longest, nil
}
