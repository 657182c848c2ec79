package aggregate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	// partitionsMost bounds a table: each partition has files of its own.
	partitionsMost = 5_000
	lookbackMost   = 31 * 24 * time.Hour
	columnsMost    = 200
	day            = 24 * time.Hour
	// timeType is the type of the column that partitions go by.
	timeType = "DateTime('UTC')"
)

// Engines that a model may allow. Athena is not built (docs/decisions/0057-duckdb-computes-clickhouse-keeps.md).
const (
	EngineClickHouse = "clickhouse"
	EngineDuckDB     = "duckdb"
	EngineAthena     = "athena"
)

// CutoffPartitionEnd is the cut-off of a source of which only rows count that had arrived before the partition ended.
const CutoffPartitionEnd = "partition_end"

// KnowsEngine fails for a name that is none of the engines'.
func KnowsEngine(name string) error {
	if name != EngineClickHouse && name != EngineDuckDB && name != EngineAthena {
		return fmt.Errorf("%q: want %s, %s or %s", name, EngineClickHouse, EngineDuckDB, EngineAthena)
	}
	return nil
}

// Model is one aggregate: a query over tables of events, and the table that it fills. It is read from NAME.yaml and NAME.sql; docs/runbooks/aggregates.md has the format.
type Model struct {
	Name string `yaml:"-"` // of its files
	SQL  string `yaml:"-"` // one SELECT, over the names of the sources
	// EngineSQL is the query in the dialect of an engine, by its name, from NAME.ENGINE.sql. An engine without one has SQL.
	EngineSQL map[string]string `yaml:"-"`

	Description string `yaml:"description"`
	Owner       string `yaml:"owner"` // whom a failed build concerns
	// Engines may build it, the preferred first.
	Engines []string `yaml:"engines"`
	// Schedule is how often it should be built.
	Schedule time.Duration `yaml:"schedule"`
	Sources  []Source      `yaml:"sources"`
	// Partition is the unit in which the table is built and published.
	Partition Partition `yaml:"partition"`
	// AllowedLateness is how far the stores must be complete beyond a partition's end before it is built the first time.
	AllowedLateness time.Duration `yaml:"allowed_lateness"`
	// Rebuild is how far back a build looks for partitions whose sources have changed, unless it is told a range.
	Rebuild time.Duration `yaml:"rebuild"`
	Target  Target        `yaml:"target"`
	// Grain are the columns that tell the table's rows apart, in the table's order.
	Grain []string `yaml:"grain"`
	// AllowEmpty: the query may return nothing for a partition in which its sources have rows.
	AllowEmpty bool   `yaml:"allow_empty"`
	Tests      []Test `yaml:"tests"`
}

// Source is a table of events. The query sees, under the table's name, only the rows of the partition that is built.
type Source struct {
	Table string `yaml:"table"` // logs, metrics or spans
	// Lookback makes rows visible whose time is so much before the partition's begin. Whole hours, up to 31 days.
	Lookback time.Duration `yaml:"lookback"`
	// Cutoff: empty, or partition_end: only rows whose ingest_time is before the partition's end, so that a row of the aggregate says what could be known then.
	Cutoff string `yaml:"cutoff"`
}

// Partition is an hour or a day, in UTC, of a column.
type Partition struct {
	Column string `yaml:"column"`
	Size   Size   `yaml:"size"`
}

// Size of a partition.
type Size string

// The sizes.
const (
	Hour Size = "hour"
	Day  Size = "day"
)

// Duration of a partition.
func (s Size) Duration() time.Duration {
	if s == Day {
		return day
	}
	return time.Hour
}

// Target is the table that a model fills.
type Target struct {
	Table string `yaml:"table"`
	// RetentionDays is how many days after their time rows are kept.
	RetentionDays int `yaml:"retention_days"`
	// Lake: published partitions are kept in the lake, too, in a table of the same name.
	Lake    bool     `yaml:"lake"`
	Columns []Column `yaml:"columns"`
}

// Column of a target: its type as ClickHouse writes it.
type Column struct {
	Name string `yaml:"name"`
	Type string `yaml:"type"`
	Doc  string `yaml:"doc"`
}

// Test is what a partition must be like to be published. One of its fields is set. That the grain is unique is always tested.
type Test struct {
	Range     *RangeTest     `yaml:"range"`
	Freshness *FreshnessTest `yaml:"freshness"`
	Rows      *RowsTest      `yaml:"rows"`
	// Holds is an expression over the columns that is true of each row.
	Holds string `yaml:"holds"`
}

// RangeTest bounds a column's values, inclusive. NaN is out of every range.
type RangeTest struct {
	Column string   `yaml:"column"`
	Min    *float64 `yaml:"min"`
	Max    *float64 `yaml:"max"`
}

// FreshnessTest wants the newest row of the partition no longer before the partition's end.
type FreshnessTest struct {
	Within time.Duration `yaml:"within"`
}

// RowsTest bounds the rows of the partition, and their change against the partition's previous build, where there is one.
type RowsTest struct {
	Min         int64    `yaml:"min"`
	LosePercent *float64 `yaml:"lose_percent"`
	GrowPercent *float64 `yaml:"grow_percent"`
}

var (
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
	typeForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9(), '_]{0,99}$`)
	// typesWithout are of no use where each table must be the same bytes however it was built, and where NULL would hide a value from the tests.
	typesWithout = regexp.MustCompile(`\b(Nullable|AggregateFunction|SimpleAggregateFunction|Variant|Dynamic|JSON|Object)\b`)
)

// parse reads a model. queries has NAME.sql under the empty text, and others by engine. Errors name the YAML key.
func parse(name string, definition io.Reader, queries map[string]string) (*Model, error) {
	m := &Model{Name: name, SQL: queries[""], EngineSQL: queries}
	delete(queries, "")
	dec := yaml.NewDecoder(definition)
	dec.KnownFields(true)
	if err := dec.Decode(m); errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty")
	} else if err != nil {
		return nil, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file holds more than one document")
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Model) validate() error {
	var errs []error
	wrong := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %w", key, fmt.Errorf(format, args...)))
	}
	if !nameForm.MatchString(m.Name) {
		wrong("name", "%q: want small letters, digits and _, at most 63", m.Name)
	}
	if _, err := signal.Parse(m.Name); err == nil {
		wrong("name", "%q is a signal", m.Name)
	}
	for key, text := range map[string]string{"description": m.Description, "owner": m.Owner} {
		if strings.TrimSpace(text) == "" {
			wrong(key, "is missing")
		}
	}
	if m.Schedule <= 0 {
		wrong("schedule", "want how often it is built, such as 10m")
	}
	if len(m.Engines) == 0 {
		wrong("engines", "name at least one of %s, %s, %s", EngineClickHouse, EngineDuckDB, EngineAthena)
	}
	for _, e := range m.Engines {
		if err := KnowsEngine(e); err != nil {
			wrong("engines", "%w", err)
		}
	}
	m.validateSources(wrong)
	m.validateTarget(wrong)
	size := m.Partition.Size.Duration()
	switch {
	case m.Partition.Size != Hour && m.Partition.Size != Day:
		wrong("partition: size", "%q: want %s or %s", m.Partition.Size, Hour, Day)
	case m.Rebuild < size:
		wrong("rebuild", "%v: want a partition (%v) at least", m.Rebuild, size)
	case m.Rebuild > time.Duration(m.Target.RetentionDays)*day:
		wrong("rebuild", "%v is longer than target: retention_days: %d", m.Rebuild, m.Target.RetentionDays)
	case time.Duration(m.Target.RetentionDays)*day/size > partitionsMost:
		wrong("target: retention_days", "%d days are more than %d partitions of a %s", m.Target.RetentionDays, partitionsMost, m.Partition.Size)
	}
	if m.AllowedLateness < 0 || m.AllowedLateness > 7*day {
		wrong("allowed_lateness", "%v: want 0 to 168h", m.AllowedLateness)
	}
	for i, t := range m.Tests {
		if err := m.validateTest(t); err != nil {
			wrong(fmt.Sprintf("tests: %d", i+1), "%w", err)
		}
	}
	m.validateQueries(wrong)
	return errors.Join(errs...)
}

func (m *Model) validateQueries(wrong func(key, format string, args ...any)) {
	for _, engine := range slices.Sorted(maps.Keys(m.EngineSQL)) {
		if !slices.Contains(m.Engines, engine) {
			wrong("engines", "%v do not have %s, of which there is a query", m.Engines, engine)
		}
	}
	checked := map[string]bool{}
	for _, engine := range m.Engines {
		key, sql := "query", m.Query(engine)
		if _, own := m.EngineSQL[engine]; own {
			key = engine + ".sql: query"
		}
		// Of an engine that is unknown there is nothing to say: that is said already.
		if err := checkQuery(engine, sql); err != nil && !checked[err.Error()] {
			wrong(key, "%w", err)
			checked[err.Error()] = true // two engines may read the same text
		}
	}
	if slices.Contains(m.Engines, EngineDuckDB) {
		if _, err := m.duckTypes(); err != nil {
			wrong("target: columns", "%w", err)
		}
	}
}

// Query is the one that an engine runs.
func (m *Model) Query(engine string) string {
	if own, ok := m.EngineSQL[engine]; ok {
		return own
	}
	return m.SQL
}

func (m *Model) validateSources(wrong func(key, format string, args ...any)) {
	if len(m.Sources) == 0 {
		wrong("sources", "name at least one table")
	}
	seen := map[string]bool{}
	for _, s := range m.Sources {
		if _, err := s.signal(); err != nil {
			wrong("sources: table", "%q: want logs, metrics or spans", s.Table)
		}
		if seen[s.Table] {
			wrong("sources: table", "%q is named twice", s.Table)
		}
		seen[s.Table] = true
		if s.Lookback < 0 || s.Lookback > lookbackMost || s.Lookback%time.Hour != 0 {
			wrong("sources: lookback", "%v: want whole hours, up to %v", s.Lookback, lookbackMost)
		}
		if s.Cutoff != "" && s.Cutoff != CutoffPartitionEnd {
			wrong("sources: cutoff", "%q: want %s, or nothing", s.Cutoff, CutoffPartitionEnd)
		}
	}
}

// signal is the one whose table the source is.
func (s Source) signal() (signal.Signal, error) {
	for _, one := range signal.All {
		if columns.ForSignal(one).Name == s.Table {
			return one, nil
		}
	}
	return 0, fmt.Errorf("no signal has the table %q", s.Table)
}

// Signals are those of the sources.
func (m *Model) Signals() []signal.Signal {
	var out []signal.Signal
	for _, s := range m.Sources {
		if one, err := s.signal(); err == nil { // held by validate
			out = append(out, one)
		}
	}
	return out
}

func (m *Model) validateTarget(wrong func(key, format string, args ...any)) {
	t := m.Target
	if !nameForm.MatchString(t.Table) || strings.Contains(t.Table, stagedMark) {
		wrong("target: table", "%q: want small letters, digits and _, at most 63, without %s", t.Table, stagedMark)
	}
	if taken(t.Table) {
		wrong("target: table", "%q is a table of PulseGrid's own", t.Table)
	}
	if t.RetentionDays < 1 {
		wrong("target: retention_days", "%d: want at least 1", t.RetentionDays)
	}
	if len(t.Columns) == 0 || len(t.Columns) > columnsMost {
		wrong("target: columns", "%d of them: want 1 to %d", len(t.Columns), columnsMost)
	}
	seen := map[string]bool{}
	for _, c := range t.Columns {
		switch {
		case !nameForm.MatchString(c.Name):
			wrong("target: columns: name", "%q: want small letters, digits and _, at most 63", c.Name)
		case seen[c.Name]:
			wrong("target: columns: name", "%q is named twice", c.Name)
		case !typeForm.MatchString(c.Type):
			wrong("target: columns: "+c.Name, "type %q: want a type of ClickHouse", c.Type)
		case typesWithout.MatchString(c.Type):
			wrong("target: columns: "+c.Name, "type %q: columns have values, none that is NULL and no state of an aggregate", c.Type)
		case strings.TrimSpace(c.Doc) == "":
			wrong("target: columns: "+c.Name, "doc is missing")
		}
		seen[c.Name] = true
	}
	if t.Lake {
		if _, err := m.lakeColumns(); err != nil {
			wrong("target: columns", "%w", err)
		}
	}
	if c := m.column(m.Partition.Column); c == nil || c.Type != timeType {
		wrong("partition: column", "%q: want a column of the type %s", m.Partition.Column, timeType)
	}
	if len(m.Grain) == 0 {
		wrong("grain", "name the columns that tell rows apart")
	}
	for i, g := range m.Grain {
		if m.column(g) == nil {
			wrong("grain", "%q is no column of the target", g)
		}
		if slices.Contains(m.Grain[:i], g) {
			wrong("grain", "%q is named twice", g)
		}
	}
}

// taken tells whether PulseGrid has a table of that name in ClickHouse.
func taken(name string) bool {
	names := []string{columns.Quarantine.Name, columns.QuarantinePII.Name, BuildsTable, WatermarksTable}
	for _, s := range signal.All {
		names = append(names, columns.ForSignal(s).Name)
		for _, r := range columns.ForSignal(s).Rollups() {
			names = append(names, r.Name, r.View)
		}
	}
	for _, rows := range []string{columns.RowsEvents, columns.RowsQuarantine, columns.RowsQuarantinePII} {
		names = append(names, ledger.NameFor(rows))
	}
	return slices.Contains(names, name)
}

func (m *Model) column(name string) *Column {
	i := slices.IndexFunc(m.Target.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &m.Target.Columns[i]
}

func (m *Model) validateTest(t Test) error {
	set := 0
	for _, is := range []bool{t.Range != nil, t.Freshness != nil, t.Rows != nil, t.Holds != ""} {
		if is {
			set++
		}
	}
	if set != 1 {
		return errors.New("want one of range, freshness, rows and holds")
	}
	switch {
	case t.Range != nil && m.column(t.Range.Column) == nil:
		return fmt.Errorf("range: column: %q is no column of the target", t.Range.Column)
	case t.Range != nil && t.Range.Min == nil && t.Range.Max == nil:
		return errors.New("range: want min, max or both")
	case t.Range != nil && t.Range.Min != nil && t.Range.Max != nil && *t.Range.Min > *t.Range.Max:
		return fmt.Errorf("range: min %v is more than max %v", *t.Range.Min, *t.Range.Max)
	case t.Freshness != nil && t.Freshness.Within <= 0:
		return errors.New("freshness: within: want how long before the partition's end, such as 10m")
	case t.Rows != nil && (t.Rows.Min < 0 || negative(t.Rows.LosePercent) || negative(t.Rows.GrowPercent)):
		return errors.New("rows: want no negative numbers")
	case t.Rows != nil && t.Rows.Min == 0 && t.Rows.LosePercent == nil && t.Rows.GrowPercent == nil:
		return errors.New("rows: want min, lose_percent or grow_percent")
	case t.Holds != "":
		return checkExpression(t.Holds)
	}
	return nil
}

func negative(f *float64) bool { return f != nil && !(*f >= 0) }

// Version is a digest of all that decides what the table holds when an engine builds it: a model that was changed is another version, and its partitions are built anew.
func (m *Model) Version(engine string) string {
	text, err := json.Marshal([]any{m.Query(engine), m.Sources, m.Partition, m.Target.Columns, m.Grain})
	if err != nil {
		panic(err) // these are texts and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
