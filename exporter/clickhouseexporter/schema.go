package clickhouseexporter

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// schemaRetryInterval is how long a failed look at the table answers for the calls after it: many partitions retry at a time.
const schemaRetryInterval = 500 * time.Millisecond

// tokenSecondsMin is how long a replicated table must remember a block: a partition may wait that long for an operator.
const tokenSecondsMin = 7 * 24 * 3600

// schema brings one table into the state that the exporter needs, before the first insert and whenever an insert finds it not so.
type schema struct {
	mode    SchemaMode
	client  *client
	table   *columns.Table
	options columns.DDLOptions
	logger  *zap.Logger

	ready atomic.Bool   // the table was seen to be right
	turn  chan struct{} // capacity 1; holding it guards the rest, and lets a waiting call give up
	last  error         // of the last look
	at    time.Time     // of the last look
}

func newSchema(cfg *Config, c *client, table *columns.Table, logger *zap.Logger) *schema {
	s := &schema{
		mode: cfg.Schema, client: c, table: table, logger: logger, turn: make(chan struct{}, 1),
		options: columns.DDLOptions{
			Database: cfg.Database, TTLDays: cfg.RetentionDays, Cluster: cfg.Cluster, Engine: cfg.Engine, DedupWindow: cfg.DeduplicationWindow,
		},
	}
	s.ready.Store(cfg.Schema == SchemaOff)
	return s
}

func (s *schema) name() string { return s.options.Database + "." + s.table.Name }

// ensure returns nil when the table is as it should be. Its errors are *storeError and never permanent: nothing is known about the data.
func (s *schema) ensure(ctx context.Context) error {
	if s.ready.Load() {
		return nil
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return &storeError{class: retryable, code: codeOther, cause: fmt.Errorf("waiting for the check of table %s: %w", s.name(), ctx.Err())}
	}
	defer func() { <-s.turn }()
	if s.ready.Load() {
		return nil
	}
	if s.last != nil && time.Since(s.at) < schemaRetryInterval {
		return s.last
	}
	err := s.look(ctx)
	if err != nil {
		err = notStored(s.name(), err)
	}
	s.last, s.at = err, time.Now()
	s.ready.Store(err == nil)
	return err
}

// invalidate makes the next ensure look again. It reports false where looking is off.
func (s *schema) invalidate() bool {
	if s.mode == SchemaOff {
		return false
	}
	s.ready.Store(false)
	return true
}

// notStored makes a failure of a look a failure of a call whose rows were not sent.
func notStored(table string, err error) error {
	out := &storeError{class: retryable, code: codeOther, cause: fmt.Errorf("table %s: %w", table, err)}
	var se *storeError
	if errors.As(err, &se) {
		out.code = se.code
		if se.class == badSchema {
			out.class = badSchema
		}
	}
	return out
}

// mismatch is a table that is not as it should be and that the exporter does not, or may not, change.
func mismatch(format string, args ...any) error {
	return &storeError{class: badSchema, code: codeOther, cause: fmt.Errorf(format, args...)}
}

type columnRow struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

type tableRow struct {
	Engine string `json:"engine"`
	Full   string `json:"engine_full"`
}

func (s *schema) look(ctx context.Context) error {
	have, err := s.describe(ctx)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		if s.mode != SchemaCreate {
			return mismatch("it does not exist: create it, or set schema: create")
		}
		for _, statement := range s.table.ClickHouseDDL(s.options) {
			if err := s.client.exec(ctx, statement); err != nil {
				return fmt.Errorf("create it: %w", err)
			}
		}
		s.logger.Info("created the table", zap.String("table", s.name()))
		if have, err = s.describe(ctx); err != nil {
			return err
		}
	}
	if err := s.checkColumns(ctx, have); err != nil {
		return err
	}
	return s.checkEngine(ctx)
}

func (s *schema) key() map[string]string {
	return map[string]string{"database": s.options.Database, "table": s.table.Name}
}

// describe returns the table's column types by name; none where there is no table.
func (s *schema) describe(ctx context.Context) (map[string]string, error) {
	cols, err := rows[columnRow](ctx, s.client, "SELECT name, type FROM system.columns WHERE database = {database:String} AND table = {table:String}", s.key())
	if err != nil {
		return nil, fmt.Errorf("read its columns: %w", err)
	}
	have := make(map[string]string, len(cols))
	for _, c := range cols {
		have[c.Name] = c.Type
	}
	return have, nil
}

// checkColumns adds missing columns or names them, and names every column of another type. Columns that the exporter does not
// know are somebody's own; they get their defaults.
func (s *schema) checkColumns(ctx context.Context, have map[string]string) error {
	var wrong, missing, adds []string
	after := ""
	for i := range s.table.Columns {
		c := &s.table.Columns[i]
		want := c.Kind.ClickHouse()
		switch typ, ok := have[c.Name]; {
		case !ok:
			missing = append(missing, c.Name+" "+want)
			adds = append(adds, "ADD COLUMN IF NOT EXISTS "+c.ClickHouseDDL()+after)
		case typ != want:
			wrong = append(wrong, fmt.Sprintf("column %s has type %s, want %s", c.Name, typ, want))
		}
		after = " AFTER " + ident(c.Name)
	}
	if len(wrong) > 0 {
		return mismatch("%s: change the types, or move the table away", strings.Join(wrong, "; "))
	}
	if len(missing) == 0 {
		return nil
	}
	if s.mode != SchemaCreate {
		return mismatch("it lacks column %s: add it, or set schema: create", strings.Join(missing, ", column "))
	}
	if err := s.alter(ctx, strings.Join(adds, ", ")); err != nil {
		return fmt.Errorf("add column %s: %w", strings.Join(missing, ", column "), err)
	}
	s.logger.Info("added columns to the table", zap.String("table", s.name()), zap.Strings("columns", missing))
	return nil
}

var (
	ttlClause = regexp.MustCompile(`(?s) TTL (.*?)(?: SETTINGS |$)`)
	ttlOwn    = regexp.MustCompile(`^toDateTime\(ingest_time\) \+ toIntervalDay\((\d+)\)$`)
	window    = regexp.MustCompile(`\b(non_replicated_deduplication_window|replicated_deduplication_window_seconds) = (\d+)`)
)

// checkEngine looks at what a table needs besides columns: that it recognises blocks sent again, and its retention.
func (s *schema) checkEngine(ctx context.Context) error {
	found, err := rows[tableRow](ctx, s.client, "SELECT engine, engine_full FROM system.tables WHERE database = {database:String} AND name = {table:String}", s.key())
	if err != nil {
		return fmt.Errorf("read its engine: %w", err)
	}
	if len(found) != 1 {
		return mismatch("it is gone")
	}
	t := found[0]
	if !strings.HasSuffix(t.Engine, "MergeTree") {
		return mismatch("engine is %s, want one of the MergeTree family (schema: off inserts into any table)", t.Engine)
	}
	if err := s.checkWindow(ctx, t); err != nil {
		return err
	}
	return s.checkTTL(ctx, t)
}

// checkWindow: a plain MergeTree forgets every token unless it is told otherwise, and a replicated one after an hour.
func (s *schema) checkWindow(ctx context.Context, t tableRow) error {
	setting, least := "non_replicated_deduplication_window", 1
	want := s.options.DedupWindow
	if strings.HasPrefix(t.Engine, "Replicated") || strings.HasPrefix(t.Engine, "Shared") {
		setting, least, want = "replicated_deduplication_window_seconds", tokenSecondsMin, tokenSecondsMin
	}
	if m := window.FindStringSubmatch(t.Full); m != nil && m[1] == setting {
		if have, err := strconv.Atoi(m[2]); err == nil && have >= least {
			return nil
		}
	}
	change := fmt.Sprintf("MODIFY SETTING %s = %d", setting, want)
	if s.mode != SchemaCreate {
		return mismatch("it forgets inserts too soon, so a repeated block would be stored twice: ALTER TABLE %s %s, or set schema: create", s.name(), change)
	}
	if err := s.alter(ctx, change); err != nil {
		return fmt.Errorf("%s: %w", change, err)
	}
	s.logger.Info("set the deduplication window of the table", zap.String("table", s.name()), zap.String("setting", setting), zap.Int("value", want))
	return nil
}

// checkTTL: retention is retention_days and nothing else, except for a TTL that somebody has written otherwise (moves between
// disks, deletes by condition), which is theirs to keep.
func (s *schema) checkTTL(ctx context.Context, t tableRow) error {
	have := ""
	if m := ttlClause.FindStringSubmatch(t.Full); m != nil {
		have = m[1]
	}
	want := ""
	if s.options.TTLDays > 0 {
		want = fmt.Sprintf("toDateTime(ingest_time) + toIntervalDay(%d)", s.options.TTLDays)
	}
	if have == want {
		return nil
	}
	if have != "" && !ttlOwn.MatchString(have) {
		s.logger.Warn("the table has a TTL of its own, which is left as it is; retention_days is not applied",
			zap.String("table", s.name()), zap.String("ttl", have), zap.Int("retention_days", s.options.TTLDays))
		return nil
	}
	if s.mode != SchemaCreate {
		return mismatch("TTL is %q, want %q by retention_days %d: change one of them", have, want, s.options.TTLDays)
	}
	change := "MODIFY TTL " + want
	if want == "" {
		change = "REMOVE TTL"
	}
	if err := s.alter(ctx, change); err != nil {
		return fmt.Errorf("change its TTL from %q to %q: %w", have, want, err)
	}
	s.logger.Info("changed the TTL of the table", zap.String("table", s.name()), zap.String("from", have), zap.String("to", want))
	return nil
}

func (s *schema) alter(ctx context.Context, change string) error {
	onCluster := ""
	if s.options.Cluster != "" {
		onCluster = " ON CLUSTER " + ident(s.options.Cluster)
	}
	return s.client.exec(ctx, "ALTER TABLE "+ident(s.options.Database)+"."+ident(s.table.Name)+onCluster+" "+change)
}

func ident(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}
