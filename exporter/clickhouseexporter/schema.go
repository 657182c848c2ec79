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

// schemaRetryInterval is how long a failed look at the tables answers for the calls after it: many partitions retry at a time.
const schemaRetryInterval = 500 * time.Millisecond

// schema brings the tables and views of one signal into the state that the exporter needs, before the first insert and whenever an
// insert finds them not so.
type schema struct {
	cfg    *Config
	client *client
	tables []wantedTable
	views  []wantedView
	tools  []columns.ToolView
	logger *zap.Logger

	ready atomic.Bool   // everything was seen to be right
	turn  chan struct{} // capacity 1; holding it guards the rest, and lets a waiting call give up
	last  error         // of the last look
	at    time.Time     // of the last look
}

func newSchema(cfg *Config, c *client, table *columns.Table, logger *zap.Logger) *schema {
	s := &schema{cfg: cfg, client: c, logger: logger, turn: make(chan struct{}, 1)}
	s.tables, s.views = wantedTables(cfg, table)
	if cfg.ToolViews {
		s.tools = table.ToolViews(cfg.Rollups)
	}
	s.ready.Store(cfg.Schema == SchemaOff)
	return s
}

// ensure returns nil when all is as it should be. Its errors are *storeError and never permanent: nothing is known about the data.
func (s *schema) ensure(ctx context.Context) error {
	if s.ready.Load() {
		return nil
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return &storeError{class: retryable, code: codeOther, cause: fmt.Errorf("waiting for the check of the tables: %w", ctx.Err())}
	}
	defer func() { <-s.turn }()
	if s.ready.Load() {
		return nil
	}
	if s.last != nil && time.Since(s.at) < schemaRetryInterval {
		return s.last
	}
	s.last, s.at = s.look(ctx), time.Now()
	s.ready.Store(s.last == nil)
	return s.last
}

// invalidate makes the next ensure look again. It reports false where looking is off.
func (s *schema) invalidate() bool {
	if s.cfg.Schema == SchemaOff {
		return false
	}
	s.ready.Store(false)
	return true
}

// notStored makes a failure of a look a failure of a call whose rows were not sent.
func notStored(what string, err error) error {
	out := &storeError{class: retryable, code: codeOther, cause: fmt.Errorf("%s: %w", what, err)}
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

func (s *schema) look(ctx context.Context) error {
	for _, t := range s.tables {
		if err := s.lookAt(ctx, t); err != nil {
			return notStored("table "+s.name(t.name), err)
		}
	}
	for _, v := range s.views {
		if err := s.lookAtView(ctx, v); err != nil {
			return notStored("view "+s.name(v.name), err)
		}
	}
	return s.lookAtToolViews(ctx)
}

func (s *schema) name(table string) string { return s.cfg.Database + "." + table }

func (s *schema) key(table string) map[string]string {
	return map[string]string{"database": s.cfg.Database, "table": table}
}

func (s *schema) lookAt(ctx context.Context, t wantedTable) error {
	have, err := s.describe(ctx, t)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		if s.cfg.Schema != SchemaCreate {
			return s.missing(t.unless)
		}
		for _, statement := range t.create {
			if err := s.client.exec(ctx, statement); err != nil {
				return fmt.Errorf("create it: %w", err)
			}
		}
		s.logger.Info("created the table", zap.String("table", s.name(t.name)))
		if have, err = s.describe(ctx, t); err != nil {
			return err
		}
	}
	if err := s.checkColumns(ctx, t, have); err != nil {
		return err
	}
	if err := s.checkEngine(ctx, t); err != nil {
		return err
	}
	return s.checkIndexes(ctx, t)
}

func (s *schema) missing(unless string) error {
	if unless == "" {
		return mismatch("it does not exist: create it, or set schema: create")
	}
	return mismatch("it does not exist: create it, or set schema: create, or %s: false", unless)
}

type columnRow struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// describe returns the table's column types by name; none where there is no table.
func (s *schema) describe(ctx context.Context, t wantedTable) (map[string]string, error) {
	cols, err := rows[columnRow](ctx, s.client, "SELECT name, type FROM system.columns WHERE database = {database:String} AND table = {table:String}", s.key(t.name))
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
func (s *schema) checkColumns(ctx context.Context, t wantedTable, have map[string]string) error {
	var wrong, missing, adds []string
	after, newKey := "", false
	for _, c := range t.columns {
		switch typ, ok := have[c.Name]; {
		case !ok:
			missing = append(missing, c.Name+" "+c.Type)
			adds = append(adds, "ADD COLUMN IF NOT EXISTS "+c.DDL+after)
			newKey = newKey || strings.Contains(t.key, c.Name)
		case typ != c.Type:
			wrong = append(wrong, fmt.Sprintf("column %s has type %s, want %s", c.Name, typ, c.Type))
		}
		after = " AFTER " + ident(c.Name)
	}
	if len(wrong) > 0 {
		return mismatch("%s: change the types, or move the table away", strings.Join(wrong, "; "))
	}
	if len(missing) == 0 {
		return nil
	}
	if !t.extensible {
		return mismatch("it lacks column %s: move the table and its view away, so that schema: create makes them anew", strings.Join(missing, ", column "))
	}
	if newKey {
		adds = append(adds, "MODIFY ORDER BY "+t.key)
	}
	if s.cfg.Schema != SchemaCreate {
		return mismatch("it lacks column %s: ALTER TABLE %s %s, or set schema: create", strings.Join(missing, ", column "), s.name(t.name), strings.Join(adds, ", "))
	}
	if err := s.alter(ctx, t, strings.Join(adds, ", ")); err != nil {
		return fmt.Errorf("add column %s: %w", strings.Join(missing, ", column "), err)
	}
	s.logger.Info("added columns to the table", zap.String("table", s.name(t.name)), zap.Strings("columns", missing))
	return nil
}

// checkIndexes adds skip indexes that an older table lacks. Parts that are there get them when they are merged. No row depends on an index, so with schema: verify one that
// is missing is a warning.
func (s *schema) checkIndexes(ctx context.Context, t wantedTable) error {
	if len(t.indexes) == 0 {
		return nil
	}
	found, err := rows[struct {
		Name string `json:"name"`
	}](ctx, s.client, "SELECT name FROM system.data_skipping_indices WHERE database = {database:String} AND table = {table:String}", s.key(t.name))
	if err != nil {
		return fmt.Errorf("read its indexes: %w", err)
	}
	have := map[string]bool{}
	for _, f := range found {
		have[f.Name] = true
	}
	var missing, adds []string
	for _, x := range t.indexes {
		if !have[x.Name] {
			missing, adds = append(missing, x.Name), append(adds, "ADD INDEX IF NOT EXISTS "+x.DDL)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	change := strings.Join(adds, ", ")
	if s.cfg.Schema != SchemaCreate {
		s.logger.Warn("the table lacks skip indexes, and queries that they would help read more", zap.String("table", s.name(t.name)), zap.Strings("indexes", missing),
			zap.String("mend", "ALTER TABLE "+s.name(t.name)+" "+change+", or set schema: create"))
		return nil
	}
	if err := s.alter(ctx, t, change); err != nil {
		return fmt.Errorf("add index %s: %w", strings.Join(missing, ", "), err)
	}
	s.logger.Info("added skip indexes to the table", zap.String("table", s.name(t.name)), zap.Strings("indexes", missing))
	return nil
}

type tableRow struct {
	Engine string `json:"engine"`
	Full   string `json:"engine_full"`
}

// checkEngine looks at what a table needs besides columns: that it recognises blocks sent again, its retention, and how it is merged.
func (s *schema) checkEngine(ctx context.Context, t wantedTable) error {
	found, err := rows[tableRow](ctx, s.client, "SELECT engine, engine_full FROM system.tables WHERE database = {database:String} AND name = {table:String}", s.key(t.name))
	if err != nil {
		return fmt.Errorf("read its engine: %w", err)
	}
	if len(found) != 1 {
		return mismatch("it is gone")
	}
	if !strings.HasSuffix(found[0].Engine, t.engine) {
		return mismatch("engine is %s, want one of the %s family (schema: off inserts into any table)", found[0].Engine, t.engine)
	}
	if t.promises {
		if err := s.checkSettings(ctx, t, found[0]); err != nil {
			return err
		}
	}
	if err := s.checkTTL(ctx, t, found[0]); err != nil {
		return err
	}
	return s.checkMerges(ctx, t, found[0])
}

// checkMerges gives an older table the setting columns.FewerMerges. A value that somebody has set is left. No row depends on it, so with schema: verify a table without it is a
// warning.
func (s *schema) checkMerges(ctx context.Context, t wantedTable, row tableRow) error {
	if name, _, _ := strings.Cut(columns.FewerMerges, " = "); strings.Contains(row.Full, name) {
		return nil
	}
	const change = "MODIFY SETTING " + columns.FewerMerges
	if s.cfg.Schema != SchemaCreate {
		s.logger.Warn("the table lacks a setting, and ClickHouse merges its parts more often than it must", zap.String("table", s.name(t.name)),
			zap.String("mend", "ALTER TABLE "+s.name(t.name)+" "+change+", or set schema: create"))
		return nil
	}
	if err := s.alter(ctx, t, change); err != nil {
		return fmt.Errorf("%s: %w", change, err)
	}
	s.logger.Info("changed a setting of the table", zap.String("table", s.name(t.name)), zap.String("setting", columns.FewerMerges))
	return nil
}

// tableSetting is a table's setting that what is promised rests on.
type tableSetting struct {
	name, key string // in ClickHouse, in the config
	least     int
	below     string // what happens below that
}

const (
	belowWindow = "a block that comes again may be stored twice"
	belowFsync  = "a power cut may remove what has been acknowledged"
)

// tableSettings are those that the engine goes by.
func tableSettings(engine string, cfg *Config) (out []tableSetting) {
	if columns.Replicated(engine) {
		out = []tableSetting{
			{"replicated_deduplication_window", "deduplication_window", cfg.DeduplicationWindow, belowWindow},
			{"replicated_deduplication_window_seconds", "deduplication_period", int(cfg.DeduplicationPeriod.Seconds()), belowWindow},
		}
	} else {
		out = []tableSetting{{"non_replicated_deduplication_window", "deduplication_window", cfg.DeduplicationWindow, belowWindow}}
	}
	if cfg.Fsync && !strings.HasPrefix(engine, "Shared") {
		out = append(out, tableSetting{"fsync_after_insert", "fsync", 1, belowFsync}, tableSetting{"fsync_part_directory", "fsync", 1, belowFsync})
	}
	return out
}

// in is the setting's value in a table's engine clause; false where the server's default applies.
func (w tableSetting) in(engineFull string) (int, bool) {
	m := regexp.MustCompile(`\b` + w.name + ` = (\d+)`).FindStringSubmatch(engineFull)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil
}

// checkSettings: unless a table or the server says otherwise, a plain MergeTree forgets every token at once, and a replicated one
// after an hour. A table that remembers more than it must is left as it is.
func (s *schema) checkSettings(ctx context.Context, t wantedTable, row tableRow) error {
	for _, w := range tableSettings(row.Engine, s.cfg) {
		have, ok := w.in(row.Full)
		if !ok {
			var err error
			if have, err = s.serverDefault(ctx, row.Engine, w.name); err != nil {
				return err
			}
		}
		if have >= w.least {
			continue
		}
		change := fmt.Sprintf("MODIFY SETTING %s = %d", w.name, w.least)
		if s.cfg.Schema != SchemaCreate {
			return mismatch("%s is %d, %s needs at least %d; below that %s: ALTER TABLE %s %s, or set schema: create",
				w.name, have, w.key, w.least, w.below, s.name(t.name), change)
		}
		if err := s.alter(ctx, t, change); err != nil {
			return fmt.Errorf("%s: %w", change, err)
		}
		s.logger.Info("changed a setting of the table", zap.String("table", s.name(t.name)), zap.String("setting", w.name), zap.Int("from", have), zap.Int("value", w.least))
	}
	return nil
}

// serverDefault is a table setting's value where the table does not say.
func (s *schema) serverDefault(ctx context.Context, engine, setting string) (int, error) {
	from := "system.merge_tree_settings"
	if columns.Replicated(engine) {
		from = "system.replicated_merge_tree_settings"
	}
	found, err := rows[struct {
		Value int `json:"value"`
	}](ctx, s.client, "SELECT toInt64(value) AS value FROM "+from+" WHERE name = {name:String}", map[string]string{"name": setting})
	if err != nil {
		return 0, fmt.Errorf("read the server's default of %s: %w", setting, err)
	}
	if len(found) == 0 {
		return 0, mismatch("the server has no setting %s: it is too old for this exporter", setting)
	}
	return found[0].Value, nil
}

var (
	ttlClause = regexp.MustCompile(`(?s) TTL (.*?)(?: SETTINGS |$)`)
	ttlDays   = regexp.MustCompile(`^ \+ toIntervalDay\(\d+\)$`)
)

// checkTTL: retention is what the config says and nothing else, except for a TTL that somebody has written otherwise (moves between
// disks, deletes by condition), which is theirs to keep.
func (s *schema) checkTTL(ctx context.Context, t wantedTable, row tableRow) error {
	have := ""
	if m := ttlClause.FindStringSubmatch(row.Full); m != nil {
		have = m[1]
	}
	want := ""
	if t.ttlDays > 0 {
		want = fmt.Sprintf("%s + toIntervalDay(%d)", t.ttlFrom, t.ttlDays)
	}
	if have == want {
		return nil
	}
	if rest, ours := strings.CutPrefix(have, t.ttlFrom); have != "" && (!ours || !ttlDays.MatchString(rest)) {
		s.logger.Warn("the table has a TTL of its own, which is left as it is; the config's is not applied",
			zap.String("table", s.name(t.name)), zap.String("ttl", have), zap.String("key", t.ttlKey), zap.Int("days", t.ttlDays))
		return nil
	}
	if s.cfg.Schema != SchemaCreate {
		return mismatch("TTL is %q, want %q by %s %d: change one of them", have, want, t.ttlKey, t.ttlDays)
	}
	change := "MODIFY TTL " + want
	if want == "" {
		change = "REMOVE TTL"
	}
	if err := s.alter(ctx, t, change); err != nil {
		return fmt.Errorf("change its TTL from %q to %q: %w", have, want, err)
	}
	s.logger.Info("changed the TTL of the table", zap.String("table", s.name(t.name)), zap.String("from", have), zap.String("to", want))
	return nil
}

// lookAtView creates a view that is missing. One of another definition is not replaced: what was rolled up in between would be lost
// without a word.
func (s *schema) lookAtView(ctx context.Context, v wantedView) error {
	type viewRow struct {
		Comment string `json:"comment"`
	}
	const query = "SELECT comment FROM system.tables WHERE database = {database:String} AND name = {table:String}"
	found, err := rows[viewRow](ctx, s.client, query, s.key(v.name))
	if err != nil {
		return fmt.Errorf("read its definition: %w", err)
	}
	if len(found) == 0 {
		if s.cfg.Schema != SchemaCreate {
			return s.missing("rollups")
		}
		if err := s.client.exec(ctx, v.create); err != nil {
			return fmt.Errorf("create it: %w", err)
		}
		s.logger.Info("created the view", zap.String("view", s.name(v.name)))
		if found, err = rows[viewRow](ctx, s.client, query, s.key(v.name)); err != nil {
			return fmt.Errorf("read its definition: %w", err)
		}
	}
	if len(found) != 1 || found[0].Comment != v.definition {
		return mismatch("it is not the view that this version makes (its comment is %q, want %q): drop it, so that schema: create makes it anew, or set rollups: false",
			found, v.definition)
	}
	return nil
}

func (s *schema) alter(ctx context.Context, t wantedTable, change string) error {
	onCluster := ""
	if s.cfg.Cluster != "" {
		onCluster = " ON CLUSTER " + ident(s.cfg.Cluster)
	}
	return s.client.exec(ctx, "ALTER TABLE "+s.quoted(t.name)+onCluster+" "+change)
}

func (s *schema) quoted(table string) string { return ident(s.cfg.Database) + "." + ident(table) }

func ident(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}
