package aggregate

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
)

// refusedFunctions give another answer each time, or one that depends on the order in which rows are read; by function, in small letters, with the advice.
var refusedFunctions = map[string]string{
	"any": adviceOrder, "any_value": adviceOrder, "anyheavy": adviceOrder, "anylast": adviceOrder, "anyrespectnulls": adviceOrder, "any_respect_nulls": adviceOrder,
	"anylast_respect_nulls": adviceOrder, "anylastrespectnulls": adviceOrder, "any_value_respect_nulls": adviceOrder, "first_value": adviceOrder, "last_value": adviceOrder,
	"first_value_respect_nulls": adviceOrder, "last_value_respect_nulls": adviceOrder, "firstvaluerespectnulls": adviceOrder, "lastvaluerespectnulls": adviceOrder,
	"quantile": adviceQuantile, "quantiles": adviceQuantile, "median": adviceQuantile,
	"histogram": adviceOrder, "singlevalueornull": adviceOrder,
	"quantiletdigest": adviceQuantile, "quantilestdigest": adviceQuantile, "mediantdigest": adviceQuantile, "quantiletdigestweighted": adviceQuantile,
	"quantilestdigestweighted": adviceQuantile, "mediantdigestweighted": adviceQuantile, "quantilegk": adviceQuantile, "quantilesgk": adviceQuantile, "mediangk": adviceQuantile,
	"topk": adviceOrder, "topkweighted": adviceOrder, "approx_top_k": adviceOrder, "approx_top_count": adviceOrder, "approx_top_sum": adviceOrder,
	"grouparray": adviceArray, "array_agg": adviceArray, "array_concat_agg": adviceArray, "grouparraysample": adviceArray, "grouparraylast": adviceArray, "group_concat": adviceArray,
	"groupconcat": adviceArray, "string_agg": adviceArray, "grouparrayarray": adviceArray, "grouparraymovingsum": adviceArray, "grouparraymovingavg": adviceArray, "groupuniqarray": adviceArray,
	"simplelinearregression": adviceOrder, "stochasticlinearregression": adviceOrder, "stochasticlogisticregression": adviceOrder, "deltasum": adviceOrder,
}

const (
	adviceOrder    = "its answer depends on the order in which rows are read: use min, max, argMin or argMax"
	adviceQuantile = "its answer depends on the order in which rows are read: use quantileDD or quantileExact"
	adviceArray    = "its order is that in which rows are read: use groupArraySorted or groupBitXor"
	adviceAgain    = "its answer is another one each time: use {from:...} and {to:...}, the partition's begin and end"
	adviceOutside  = "it reads what is not in the sources"
	adviceLimit    = "which rows it keeps depends on their order: use argMax, or a column for the place"
	adviceSettings = "the job decides the settings"
)

// refusedWords may not stand anywhere outside of texts.
var refusedWords = map[string]string{
	"any": adviceOrder, "limit": adviceLimit, "offset": adviceLimit, "top": adviceLimit, "fetch": adviceLimit, "sample": adviceLimit,
	"settings":     adviceSettings,
	"current_date": adviceAgain, "current_time": adviceAgain, "current_timestamp": adviceAgain, "localtime": adviceAgain, "localtimestamp": adviceAgain,
}

// combinators may end the name of an aggregate function, in small letters.
var combinators = []string{"if", "array", "map", "ornull", "ordefault", "distinct", "state", "merge", "foreach", "simplestate", "argmin", "argmax", "resample"}

// advice says why a function is refused; empty: it is not.
func advice(function string) string {
	for name := function; ; {
		switch {
		case clickhouse.Unsteady(name):
			return adviceAgain
		case clickhouse.ReadsOutside(name):
			return adviceOutside
		case refusedFunctions[name] != "":
			return refusedFunctions[name]
		}
		shorter := name
		for _, c := range combinators {
			if s, ok := strings.CutSuffix(name, c); ok && s != "" {
				shorter = s
				break
			}
		}
		if shorter == name {
			return ""
		}
		name = shorter
	}
}

// checkQuery refuses a query of an engine whose answer could be another one for the same rows, and one that is no single SELECT.
func checkQuery(engine, sql string) error {
	ts, err := tokens(sql)
	if err != nil {
		return err
	}
	if len(ts) == 0 {
		return errors.New("is empty")
	}
	if first := strings.ToLower(ts[0].text); ts[0].quoted || first != "select" && first != "with" {
		return fmt.Errorf("begins with %q: want one SELECT", ts[0].text)
	}
	if engine == EngineDuckDB {
		return checkDuckDB(ts)
	}
	return check(ts, advice)
}

// checkExpression is checkQuery for an expression of ClickHouse over a row's columns.
func checkExpression(sql string) error {
	ts, err := tokens(sql)
	if err != nil {
		return fmt.Errorf("holds: %w", err)
	}
	for _, t := range ts {
		if w := strings.ToLower(t.text); !t.quoted && (w == "select" || w == "from") {
			return errors.New("holds: want an expression over the columns of a row, without SELECT")
		}
	}
	if err := check(ts, advice); err != nil {
		return fmt.Errorf("holds: %w", err)
	}
	return nil
}

// check refuses functions of which advice says why, by their names in small letters.
func check(ts []token, advice func(function string) string) error {
	depth := 0
	for i, t := range ts {
		word := strings.ToLower(t.text)
		called := i+1 < len(ts) && ts[i+1].text == "(" && !ts[i+1].quoted
		switch {
		case t.text == "(" && !t.quoted:
			depth++
		case t.text == ")" && !t.quoted:
			if depth--; depth < 0 {
				return fmt.Errorf("line %d: a ) without its (", t.line)
			}
		case t.parameter && t.text != "from" && t.text != "to":
			return fmt.Errorf("line %d: {%s:...}: want from or to, the partition's begin and end", t.line, t.text)
		case !t.word && !t.quoted, t.parameter:
		case called && advice(word) != "":
			return fmt.Errorf("line %d: %s(): %s", t.line, t.text, advice(word))
		case !t.quoted && refusedWords[word] != "" && !named(ts, i):
			return fmt.Errorf("line %d: %s: %s", t.line, t.text, refusedWords[word])
		}
	}
	if depth > 0 {
		return fmt.Errorf("%d ( without their )", depth)
	}
	return nil
}

// named tells whether a word is the name of a column: behind AS or a dot.
func named(ts []token, i int) bool {
	return i > 0 && !ts[i-1].quoted && (strings.EqualFold(ts[i-1].text, "as") || ts[i-1].text == ".")
}

// token of a query. Numbers and operators are tokens of one character or more that nobody asks for.
type token struct {
	text      string
	line      int
	word      bool // a keyword, or a name without quotes
	quoted    bool // a name in quotes
	parameter bool // the name of {name:type}
	// Of a parameter:
	typ        string
	begin, end int // where it stands in the query, in bytes
}

// tokens divides a query as ClickHouse does, without texts and comments.
func tokens(sql string) (out []token, err error) {
	line := 1
	end := func(i int, close, what string) (int, error) {
		at := strings.Index(sql[i:], close)
		if at < 0 {
			return 0, fmt.Errorf("line %d: %s that does not end", line, what)
		}
		return i + at + len(close), nil
	}
	for i := 0; i < len(sql); {
		next := i + 1
		switch c := sql[i]; {
		case c == '\'' || c == '"' || c == '`':
			text, n, ok := quotedText(sql[i:])
			if !ok {
				return nil, fmt.Errorf("line %d: a text or name in %c that does not end", line, c)
			}
			next = i + n
			if c != '\'' {
				out = append(out, token{text: text, line: line, quoted: true})
			} else {
				out = append(out, token{text: "''", line: line}) // a text is no word
			}
		case strings.HasPrefix(sql[i:], "--"):
			if at := strings.IndexByte(sql[i:], '\n'); at >= 0 {
				next = i + at
			} else {
				next = len(sql)
			}
		case strings.HasPrefix(sql[i:], "/*"):
			if next, err = end(i+2, "*/", "a comment"); err != nil {
				return nil, err
			}
		case c == ';' || c == '#' || c == '$' || c == 0:
			return nil, fmt.Errorf("line %d: %q: want one SELECT, with no end mark, and comments by --", line, c)
		case c == '{':
			m := parameterForm.FindStringSubmatch(sql[i:])
			if m == nil {
				return nil, fmt.Errorf("line %d: a { that begins no parameter: want {from:TYPE} or {to:TYPE}", line)
			}
			next = i + len(m[0])
			out = append(out, token{text: m[1], line: line, parameter: true, typ: strings.TrimSpace(m[2]), begin: i, end: next})
		case isWord(c) && (c < '0' || c > '9'):
			for next < len(sql) && isWord(sql[next]) {
				next++
			}
			out = append(out, token{text: sql[i:next], line: line, word: true})
		case isWord(c): // a number, with what belongs to it
			for next < len(sql) && isWord(sql[next]) {
				next++
			}
			out = append(out, token{text: sql[i:next], line: line})
		case c > ' ':
			out = append(out, token{text: sql[i:next], line: line})
		}
		line += strings.Count(sql[i:next], "\n")
		i = next
	}
	return out, nil
}

var parameterForm = regexp.MustCompile(`^\{\s*([A-Za-z_]\w*)\s*:([^{}]*)\}`)

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// quotedText reads a text or name in quotes, and how many bytes it takes.
func quotedText(sql string) (text string, n int, ok bool) {
	quote := sql[0]
	var b strings.Builder
	for i := 1; i < len(sql); i++ {
		switch {
		case sql[i] == '\\' && i+1 < len(sql):
			i++
			b.WriteByte(sql[i])
		case sql[i] == quote && i+1 < len(sql) && sql[i+1] == quote:
			i++
			b.WriteByte(quote)
		case sql[i] == quote:
			return b.String(), i + 1, true
		default:
			b.WriteByte(sql[i])
		}
	}
	return "", 0, false
}
