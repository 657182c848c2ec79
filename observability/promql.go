package observability

import (
	"regexp"
	"slices"
	"strings"
)

// Selector is a series that a PromQL expression names, and what it asks of labels.
type Selector struct {
	Name   string
	Labels map[string]string // as written, with whatever operator
}

var (
	token   = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|[A-Za-z_:][A-Za-z0-9_:]*|[0-9][0-9A-Za-z.]*|\S`)
	word    = regexp.MustCompile(`^[A-Za-z_:]`)
	keyword = []string{"and", "or", "unless", "offset", "bool"}
	grouped = []string{"by", "without", "on", "ignoring"} // a list of labels follows
)

// Selectors are those of an expression that Prometheus takes; of others anything may be found.
func Selectors(expr string) (out []Selector) {
	tokens := token.FindAllString(expr, -1)
	is := func(i int, what ...string) bool { return i < len(tokens) && slices.Contains(what, tokens[i]) }
	to := func(i int, what string) int {
		for i < len(tokens) && tokens[i] != what {
			i++
		}
		return i
	}
	for i := 0; i < len(tokens); i++ {
		name := tokens[i]
		switch {
		case !word.MatchString(name), is(i, keyword...):
		case is(i, grouped...):
			i = to(i, ")")
		case is(i+1, "("), is(i+1, "by", "without"): // a function, an aggregation
		case is(i+1, "{"):
			s := Selector{name, map[string]string{}}
			end := to(i, "}")
			label := ""
			for _, t := range tokens[i+2 : end] {
				if word.MatchString(t) {
					label = t
				} else if strings.HasPrefix(t, `"`) {
					s.Labels[label] = strings.Trim(t, `"`)
				}
			}
			i, out = end, append(out, s)
		default:
			out = append(out, Selector{Name: name})
		}
	}
	return out
}
