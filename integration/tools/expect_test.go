package tools

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"time"
)

// answer is what a statement must return, computed from what was sent.
type answer struct {
	rows  [][]any // all of them, in any order
	by    int     // column that they are sorted by; -1: none that is shown
	desc  bool
	limit int // 0: none. Which rows come first of those that are equal in column by is the engine's choice
}

// oneOf is a value that any() chose.
type oneOf []any

// at is an instant that comes as text.
func at(t time.Time) any { return t.UTC() }

func grouped[K comparable, V any](of []V, key func(V) K) map[K][]V {
	out := map[K][]V{}
	for _, v := range of {
		out[key(v)] = append(out[key(v)], v)
	}
	return out
}

func bucketOf(t time.Time) time.Time { return t.UTC().Truncate(interval) }

// quantile is ClickHouse's quantile() of durations in nanoseconds: linear between neighbours.
func quantile(level float64, of []span) float64 {
	ds := make([]float64, len(of))
	for i, s := range of {
		ds[i] = float64(s.duration)
	}
	sort.Float64s(ds)
	index := level * float64(len(ds)-1)
	low := int(index)
	if low+1 >= len(ds) {
		return ds[len(ds)-1]
	}
	return ds[low] + (index-float64(low))*(ds[low+1]-ds[low])
}

func average(of []span) (sum float64) {
	for _, s := range of {
		sum += float64(s.duration)
	}
	return sum / float64(len(of))
}

func errors(of []span) (n int) {
	for _, s := range of {
		if s.status == "Error" {
			n++
		}
	}
	return n
}

func allServices() (out []string) {
	for _, s := range services {
		out = append(out, s.service)
	}
	return out
}

// Logs.

func lineMatches(c choice, r record) bool { return chosen(c.services, r.service) && c.finds(r.body) }

func countLines(of []record, key func(record) string, limit int) answer {
	a := answer{by: 1, desc: true, limit: limit}
	for k, v := range grouped(of, key) {
		a.rows = append(a.rows, []any{k, len(v)})
	}
	return a
}

func logsByService(in *input, c choice) answer {
	return countLines(in.linesInRange(func(r record) bool { return lineMatches(c, r) && chosen(c.levels, r.level()) }), func(r record) string { return r.service }, 15)
}

func logsByLevel(in *input, c choice) answer {
	return countLines(in.linesInRange(func(r record) bool { return lineMatches(c, r) }), record.level, 0)
}

// names are the keys alone, which are sorted by counts that are not shown.
func names(of answer) answer {
	out := answer{by: -1}
	for _, r := range of.rows {
		out.rows = append(out.rows, r[:1])
	}
	return out
}

func topServicesOfLogs(in *input, _ choice) answer { return names(logsByService(in, choice{})) }

func levels(in *input, _ choice) answer {
	a := names(logsByLevel(in, choice{}))
	a.by = 0
	return a
}

func logVolume(one bool) func(*input, choice) answer {
	return func(in *input, c choice) answer {
		type key struct {
			at    time.Time
			level string
		}
		if one {
			c.services = []string{service}
		}
		a := answer{}
		of := in.linesInRange(func(r record) bool { return lineMatches(c, r) && chosen(c.levels, r.level()) })
		for k, v := range grouped(of, func(r record) key { return key{bucketOf(r.at), r.level()} }) {
			a.rows = append(a.rows, []any{at(k.at), k.level, len(v)})
		}
		return a
	}
}

var variable = regexp.MustCompile(`(userId|orderId)=[0-9]+`)

func topErrorMessages(in *input, c choice) answer {
	type key struct{ level, service, text string }
	a := answer{by: 3, desc: true, limit: 20}
	of := in.linesInRange(func(r record) bool { return lineMatches(c, r) && slices.Contains([]string{"ERROR", "WARN"}, r.level()) })
	for k, v := range grouped(of, func(r record) key { return key{r.level(), r.service, variable.ReplaceAllString(r.body, "$1=…")} }) {
		a.rows = append(a.rows, []any{k.level, k.service, k.text, len(v)})
	}
	return a
}

func logSamples(explorer bool) func(*input, choice) answer {
	return func(in *input, c choice) answer {
		a := answer{desc: true, limit: 200}
		for _, r := range in.linesInRange(func(r record) bool {
			return r.service == service && c.finds(r.body) && (!explorer || chosen(c.levels, r.level()))
		}) {
			row := []any{at(r.at), r.body, r.level(), r.service, hexOf(r.trace[:]), hexOf(r.id[:])}
			if explorer {
				row = append(row, "", r.service+"-0")
			}
			a.rows = append(a.rows, row)
		}
		return a
	}
}

// Spans.

func countSpans(in *input, key func(span) string, match func(span) bool) answer {
	a := answer{by: 1, desc: true}
	for k, v := range grouped(in.inRange(match), key) {
		a.rows = append(a.rows, []any{k, len(v)})
	}
	return a
}

func everySpan(span) bool { return true }

func topServicesOfSpans(in *input, _ choice) answer {
	return names(countSpans(in, func(s span) string { return s.service }, everySpan))
}

func allServicesOfSpans(in *input, c choice) answer {
	a := topServicesOfSpans(in, c)
	a.by = 0
	return a
}

func operations(match func(choice, span) bool) func(*input, choice) answer {
	return func(in *input, c choice) answer {
		a := names(countSpans(in, func(s span) string { return s.name }, func(s span) bool { return match(c, s) }))
		a.by = 0
		return a
	}
}

func statuses(in *input, _ choice) answer {
	a := names(countSpans(in, func(s span) string { return s.status }, everySpan))
	a.by = 0
	return a
}

func nodes(in *input, _ choice) answer {
	a := answer{by: -1}
	for name, of := range grouped(in.inRange(everySpan), func(s span) string { return s.service }) {
		failed := float64(errors(of)) / float64(len(of))
		ms := strconv.FormatFloat(math.Round(average(of)/1e6*10)/10, 'f', -1, 64)
		a.rows = append(a.rows, []any{name, name, fmt.Sprintf("%d spans", len(of)), ms + " ms avg", 1 - failed, failed})
	}
	return a
}

func edges(in *input, _ choice) answer {
	type key struct {
		trace [16]byte
		id    [8]byte
	}
	spans, calls := map[key]span{}, map[[2]string]int{}
	of := in.inRange(everySpan)
	for _, s := range of {
		spans[key{s.trace, s.id}] = s
	}
	for _, s := range of {
		if parent, ok := spans[key{s.trace, s.parent}]; ok && parent.service != s.service {
			calls[[2]string{parent.service, s.service}]++
		}
	}
	a := answer{by: -1}
	for k, n := range calls {
		a.rows = append(a.rows, []any{k[0] + "-" + k[1], k[0], k[1], fmt.Sprintf("%d calls", n)})
	}
	return a
}

func anyOf[V any](of []V, value func(V) (any, bool)) any {
	var out oneOf
	for _, v := range of {
		if x, ok := value(v); ok {
			out = append(out, x)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return out
}

func longest(of []span) (d time.Duration) {
	for _, s := range of {
		d = max(d, s.duration)
	}
	return d
}

func first(of []span) time.Time {
	return slices.MinFunc(of, func(a, b span) int { return a.start.Compare(b.start) }).start
}

func foundTraces(in *input, c choice) answer {
	a := answer{by: 3, desc: true, limit: 200}
	least, _ := strconv.Atoi(c.minDuration)
	match := func(s span) bool {
		return chosen(c.services, s.service) && chosen(c.operations, s.name) && chosen(c.statuses, s.status) && c.finds(s.name)
	}
	for id, of := range grouped(in.inRange(match), func(s span) [16]byte { return s.trace }) {
		if longest(of) < time.Duration(least)*time.Millisecond {
			continue
		}
		a.rows = append(a.rows, []any{hexOf(id[:]), anyOf(of, func(s span) (any, bool) { return s.service, true }), anyOf(of, func(s span) (any, bool) { return s.name, true }),
			at(first(of)), int(longest(of)), len(of), anyOf(of, func(s span) (any, bool) { return s.status, s.status == "Error" })})
	}
	return a
}

func ofChosen(in *input, c choice) []span {
	return in.inRange(func(s span) bool { return chosen(c.services, s.service) && c.finds(s.name) })
}

func heatMap(in *input, c choice) (a answer) {
	for _, s := range ofChosen(in, c) {
		if in.sampled[hexOf(s.id[:])] {
			a.rows = append(a.rows, []any{at(bucketOf(s.start)), float64(s.duration) / 1e6})
		}
	}
	return a
}

func perBucket(value func([]span) any) func(*input, choice) answer {
	return func(in *input, c choice) (a answer) {
		for t, of := range grouped(ofChosen(in, c), func(s span) time.Time { return bucketOf(s.start) }) {
			a.rows = append(a.rows, []any{at(t), value(of)})
		}
		return a
	}
}

func topOperations(in *input, c choice) answer {
	a := answer{by: 1, desc: true, limit: 15}
	for name, of := range grouped(ofChosen(in, c), func(s span) string { return s.name }) {
		percent := math.Round(float64(errors(of))/float64(len(of))*100*100) / 100
		a.rows = append(a.rows, []any{name, len(of), errors(of), percent, quantile(0.5, of), quantile(0.99, of),
			anyOf(of, func(s span) (any, bool) { return s.message, s.status == "Error" })})
	}
	return a
}

func ofService(in *input, c choice, kinds []string) []span {
	return in.inRange(func(s span) bool {
		return s.service == service && slices.Contains(kinds, s.kind) && chosen(c.operations, s.name) && c.finds(s.name)
	})
}

func ofKinds(kinds []string, values func([]span) []any) func(*input, choice) answer {
	return func(in *input, c choice) (a answer) {
		for t, of := range grouped(ofService(in, c, kinds), func(s span) time.Time { return bucketOf(s.start) }) {
			a.rows = append(a.rows, append([]any{at(t)}, values(of)...))
		}
		return a
	}
}

func slowest(kinds []string) func(*input, choice) answer {
	return func(in *input, c choice) answer {
		a := answer{by: 3, desc: true, limit: 20}
		if len(kinds) > 1 {
			a.by = 4
		}
		for k, of := range grouped(ofService(in, c, kinds), func(s span) [2]string { return [2]string{s.name, s.kind} }) {
			row := []any{k[0], k[1], len(of), quantile(0.5, of), quantile(0.99, of)}
			if len(kinds) == 1 {
				row = slices.Delete(row, 1, 2)
			}
			a.rows = append(a.rows, row)
		}
		return a
	}
}

func topErrors(in *input, c choice) answer {
	type key struct{ name, kind, message string }
	a := answer{by: 3, desc: true, limit: 20}
	of := in.inRange(func(s span) bool { return s.service == service && s.status == "Error" && c.finds(s.name) })
	for k, v := range grouped(of, func(s span) key { return key{s.name, s.kind, s.message} }) {
		last := slices.MaxFunc(v, func(a, b span) int { return a.start.Compare(b.start) }).start
		a.rows = append(a.rows, []any{k.name, k.kind, k.message, len(v), at(last)})
	}
	return a
}

// deployments are the buckets of 30 s in which most spans have another version than in the bucket before.
func deployments(one bool) func(*input, choice) answer {
	return func(in *input, c choice) (a answer) {
		match := func(s span) bool { return chosen(c.services, s.service) }
		if one {
			match = func(s span) bool { return s.service == service }
		}
		for name, of := range grouped(in.inRange(match), func(s span) string { return s.service }) {
			before := ""
			buckets := grouped(of, func(s span) time.Time { return bucketOf(s.start) })
			for _, t := range slices.SortedFunc(maps.Keys(buckets), time.Time.Compare) {
				versions := grouped(buckets[t], func(s span) string { return s.version })
				most := slices.MaxFunc(slices.Collect(maps.Keys(versions)), func(x, y string) int { return cmp.Compare(len(versions[x]), len(versions[y])) })
				if before != "" && before != most {
					a.rows = append(a.rows, []any{at(t), name, fmt.Sprintf("%s deployed %s (was %s)", name, most, before), "Deployment"})
				}
				before = most
			}
		}
		return a
	}
}
