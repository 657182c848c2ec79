package alerting

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/yamlfield"
)

// Bounds of rules.
const (
	fileMost    = 1 << 20 // bytes
	groupsMost  = 1_000   // of a file
	rulesMost   = 1_000   // of a group
	allMost     = 10_000  // rules of all files
	sqlMost     = 64 << 10
	textMost    = 4 << 10 // bytes of an annotation
	labelMost   = 1 << 10 // bytes of a label's value
	labelsMost  = 32
	limitMost   = 1_000 // alerts of a rule
	windowMost  = 7 * 24 * time.Hour
	forMost     = 24 * time.Hour
	latenessMax = 10 * time.Minute
	staleMost   = 3 * time.Hour // two of the longest intervals, and freshness, at least
)

// Tick is the width of the finest bucket: windows and intervals are multiples of it.
const Tick = 10 * time.Second

// AllTenants is the tenant of a group whose rules see the rows of all tenants.
const AllTenants = "*"

// Names of the alerts that tell that rules could not be evaluated.
const (
	StaleAlert  = "Stale"
	FailedAlert = "RuleFailed"
)

const (
	nameLabel   = "alertname"
	tenantLabel = "tenant"
	valueColumn = "value"
)

const (
	defaultInterval  = Tick
	defaultFreshness = 5 * time.Second
	defaultStale     = time.Minute
	defaultLimit     = 100
)

// Group is a set of rules that are evaluated on the same buckets, for one tenant or for all.
type Group struct {
	Name   string
	Tenant string // AllTenants: for all of them
	// Interval between two evaluations.
	Interval time.Duration
	// Freshness is how long after its end a bucket is evaluated at the earliest: what agents need to send.
	Freshness time.Duration
	// StaleAfter is how old the newest evaluated bucket may get before Stale fires, and how long a rule may fail before RuleFailed does.
	StaleAfter time.Duration
	Labels     map[string]string // of each alert
	Rules      []*Rule

	file string
}

// Rule is a query and what is made of its rows: each is an alert. docs/formats/alerts.md has the format.
type Rule struct {
	Alert string
	SQL   string // one SELECT: a column `value`, and labels
	// Window is how far back from the end of the newest complete bucket the query sees rows.
	Window        time.Duration
	For           time.Duration
	KeepFiringFor time.Duration
	Limit         int               // alerts at a time; more are an error
	Params        map[string]string // query parameters beside tenant, from and to
	Labels        map[string]string
	Annotations   map[string]string

	file    string
	line    int  // of the key's value
	column  int  // likewise
	indent  int  // columns before the SQL's lines
	literal bool // the SQL's lines are the file's, after line
}

//go:embed rules/*.yaml
var shipped embed.FS

// Shipped returns the file of rules that comes with PulseGrid.
func Shipped() (groups []*Group, content []byte, err error) {
	content, err = shipped.ReadFile("rules/default.yaml")
	if err != nil {
		return nil, nil, err
	}
	groups, err = Parse("default.yaml", content)
	return groups, content, err
}

// Load reads files, and the *.yaml and *.yml of directories. Its error names everything that is wrong, with file, line and column.
func Load(paths []string) ([]*Group, error) {
	var groups []*Group
	var errs []error
	for _, p := range paths {
		files := []string{p}
		if info, err := os.Stat(p); err != nil {
			return nil, err
		} else if info.IsDir() {
			entries, err := os.ReadDir(p)
			if err != nil {
				return nil, err
			}
			files = nil
			for _, e := range entries {
				if ext := path.Ext(e.Name()); ext == ".yaml" || ext == ".yml" {
					files = append(files, filepath.Join(p, e.Name()))
				}
			}
			if len(files) == 0 {
				return nil, fmt.Errorf("%s: holds no *.yaml", p)
			}
		}
		for _, file := range files {
			content, err := read(file)
			if err != nil {
				return nil, err
			}
			found, err := Parse(file, content)
			groups, errs = append(groups, found...), append(errs, err)
		}
	}
	errs = append(errs, checkTogether(groups))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return groups, nil
}

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, fileMost+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(content) > fileMost {
		return nil, &fs.PathError{Op: "read", Path: file, Err: fmt.Errorf("longer than %d bytes", fileMost)}
	}
	return content, nil
}

// checkTogether refuses what only several files can do wrong. The state of a group is kept by its key.
func checkTogether(groups []*Group) error {
	seen := map[string]string{}
	rules := 0
	for _, g := range groups {
		if file, ok := seen[g.key()]; ok {
			return fmt.Errorf("%s: group %q of tenant %s is in %s, too", g.file, g.Name, g.Tenant, file)
		}
		seen[g.key()] = g.file
		rules += len(g.Rules)
	}
	if rules > allMost {
		return fmt.Errorf("%d rules: at most %d", rules, allMost)
	}
	return nil
}

func (g *Group) key() string { return g.Tenant + "/" + g.Name }

var (
	groupForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$`)
	alertForm     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	labelForm     = alertForm
	templateForm  = regexp.MustCompile(`\{\{\s*(?:\$labels\.([A-Za-z_][A-Za-z0-9_]*)|\$value)\s*\}\}`)
	reservedParam = []string{"tenant", "from", "to"}
)

type reader struct {
	yamlfield.Reader
	lines []string
}

// Parse reads one file of rules.
func Parse(file string, content []byte) ([]*Group, error) {
	r := &reader{Reader: yamlfield.Reader{File: file, Columns: true}, lines: strings.Split(string(content), "\n")}
	doc, err := r.Document(content, "groups")
	if err != nil {
		return nil, err
	}
	var groups []*Group
	r.Object(doc, "", map[string]func(*yaml.Node, string){
		"groups": func(n *yaml.Node, field string) {
			r.List(n, field, groupsMost, func(n *yaml.Node, field string) { groups = append(groups, r.group(n, field)) })
		},
	})
	if len(groups) == 0 && r.Err() == nil {
		r.Bad(doc, "groups", "holds no group")
	}
	return groups, r.Err()
}

func (r *reader) group(n *yaml.Node, field string) *Group {
	g := &Group{file: r.File, Interval: defaultInterval, Freshness: defaultFreshness, StaleAfter: defaultStale}
	names := map[string]bool{}
	r.Object(n, field, map[string]func(*yaml.Node, string){
		"name": r.Text(&g.Name, "a name of at most 64 letters, digits, spaces and _.-", groupForm.MatchString),
		"tenant": r.Text(&g.Tenant, `a tenant's id, or "*" for rules over all tenants`, func(s string) bool {
			return s == AllTenants || tenant.ValidID(s)
		}),
		"interval":    r.ticks(&g.Interval, Tick, time.Hour),
		"freshness":   r.Duration(&g.Freshness, latenessMax),
		"stale_after": r.Duration(&g.StaleAfter, staleMost),
		"labels":      r.labels(&g.Labels),
		"rules": func(n *yaml.Node, field string) {
			r.List(n, field, rulesMost, func(n *yaml.Node, field string) {
				rule := r.rule(n, field)
				if names[rule.Alert] {
					r.Bad(n, field, "alert %s is there twice in this group", rule.Alert)
				}
				names[rule.Alert] = true
				g.Rules = append(g.Rules, rule)
			})
		},
	})
	if n.Kind != yaml.MappingNode {
		return g
	}
	r.want(n, field, map[string]bool{"name": g.Name != "", "tenant": g.Tenant != "", "rules": len(g.Rules) > 0})
	if least := 2*g.Interval + g.Freshness; g.StaleAfter < least {
		r.Bad(n, yamlfield.Join(field, "stale_after"), "%v: want two intervals and freshness at least, %v", g.StaleAfter, least)
	}
	return g
}

func (r *reader) want(n *yaml.Node, field string, has map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(has)) {
		if !has[name] {
			r.Bad(n, field, "%s is missing", name)
		}
	}
}

func (r *reader) rule(n *yaml.Node, field string) *Rule {
	rule := &Rule{file: r.File, Limit: defaultLimit}
	r.Object(n, field, map[string]func(*yaml.Node, string){
		"alert": r.Text(&rule.Alert, fmt.Sprintf("a name of letters, digits and _, other than %s and %s", StaleAlert, FailedAlert), func(s string) bool {
			return alertForm.MatchString(s) && s != StaleAlert && s != FailedAlert
		}),
		"window":          r.ticks(&rule.Window, Tick, windowMost),
		"for":             r.ticks(&rule.For, 0, forMost),
		"keep_firing_for": r.ticks(&rule.KeepFiringFor, 0, forMost),
		"limit":           r.Whole(&rule.Limit, 1, limitMost),
		"params":          func(n *yaml.Node, field string) { rule.Params = r.params(n, field) },
		"labels":          r.labels(&rule.Labels),
		"annotations":     func(n *yaml.Node, field string) { rule.Annotations = r.annotations(n, field) },
		"sql": func(n *yaml.Node, field string) {
			r.Text(&rule.SQL, fmt.Sprintf("one SELECT of at most %d bytes", sqlMost), func(s string) bool { return strings.TrimSpace(s) != "" && len(s) <= sqlMost })(n, field)
			r.place(rule, n)
		},
	})
	if n.Kind != yaml.MappingNode {
		return rule
	}
	r.want(n, field, map[string]bool{"alert": rule.Alert != "", "sql": rule.SQL != "", "window": rule.Window != 0})
	return rule
}

// place keeps where the SQL's lines are, so that what ClickHouse says of one can be told with its line of the file.
func (r *reader) place(rule *Rule, n *yaml.Node) {
	rule.line, rule.column = n.Line, n.Column
	if n.Style&yaml.LiteralStyle == 0 {
		return
	}
	rule.literal = true
	for i := n.Line; i < len(r.lines); i++ {
		if text := strings.TrimLeft(r.lines[i], " "); strings.TrimSpace(text) != "" {
			rule.indent = len(r.lines[i]) - len(text)
			return
		}
	}
}

// ticks reads a multiple of Tick.
func (r *reader) ticks(into *time.Duration, least, most time.Duration) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		v, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v < least || v > most || v%Tick != 0 {
			r.Bad(n, field, "want a duration from %v to %v in steps of %v, like 30s or 5m", least, most, Tick)
			return
		}
		*into = v
	}
}

// texts reads a mapping of names to texts.
func (r *reader) texts(n *yaml.Node, field string, valid func(key *yaml.Node, value *yaml.Node, field string) bool) map[string]string {
	out := map[string]string{}
	r.Mapping(n, field, 0, func(key, value *yaml.Node, _ bool) {
		value = yamlfield.Resolved(value)
		at := yamlfield.Join(field, key.Value)
		_, twice := out[key.Value]
		switch {
		case twice:
			r.Bad(key, at, "is there twice")
		case len(out) == labelsMost:
			r.Bad(key, field, "more than %d", labelsMost)
		case value.Kind != yaml.ScalarNode || value.Tag == "!!null":
			r.Bad(value, at, "want a text")
		case valid(key, value, at):
			out[key.Value] = value.Value
		}
	})
	return out
}

func (r *reader) labels(into *map[string]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		*into = r.texts(n, field, func(key, value *yaml.Node, at string) bool {
			switch {
			case !labelForm.MatchString(key.Value):
				r.Bad(key, at, "want a name of letters, digits and _")
			case key.Value == nameLabel || key.Value == tenantLabel:
				r.Bad(key, at, "is the evaluator's to set")
			case value.Value == "" || len(value.Value) > labelMost:
				r.Bad(value, at, "want 1 to %d bytes", labelMost)
			default:
				return true
			}
			return false
		})
	}
}

func (r *reader) params(n *yaml.Node, field string) map[string]string {
	return r.texts(n, field, func(key, value *yaml.Node, at string) bool {
		switch {
		case !labelForm.MatchString(key.Value):
			r.Bad(key, at, "want a name of letters, digits and _")
		case slices.Contains(reservedParam, key.Value):
			r.Bad(key, at, "is the evaluator's to set")
		case len(value.Value) > labelMost:
			r.Bad(value, at, "want at most %d bytes", labelMost)
		default:
			return true
		}
		return false
	})
}

func (r *reader) annotations(n *yaml.Node, field string) map[string]string {
	return r.texts(n, field, func(key, value *yaml.Node, at string) bool {
		switch left := templateForm.ReplaceAllString(value.Value, ""); {
		case !labelForm.MatchString(key.Value):
			r.Bad(key, at, "want a name of letters, digits and _")
		case len(value.Value) > textMost:
			r.Bad(value, at, "want at most %d bytes", textMost)
		case strings.Contains(left, "{{") || strings.Contains(left, "}}"):
			r.Bad(value, at, "want {{ $labels.NAME }} or {{ $value }} between braces")
		default:
			return true
		}
		return false
	})
}

// bad is what is wrong with a rule's query. line and column are of its SQL, from 1; 0: not known.
func (r *Rule) bad(line, column int, format string, args ...any) error {
	e := &yamlfield.Error{File: r.file, Line: r.line, Column: r.column, Field: r.Alert + ".sql", Reason: fmt.Sprintf(format, args...)}
	if r.literal {
		e.Line, e.Column = r.line+max(line, 1), r.indent+max(column, 1)
	}
	return e
}
