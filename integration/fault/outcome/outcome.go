// Package outcome is what a fault run says of itself, a line of JSON a run, and the table that documents make of it.
package outcome

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Run is the outcome of one run.
type Run struct {
	Fault        string   `json:"fault"`
	Does         string   `json:"does"`
	Seed         uint64   `json:"seed"`
	Scale        float64  `json:"scale"`
	Events       int      `json:"events"`     // distinct ones that were sent
	Acked        int      `json:"acked"`      // of these, acknowledged
	Resent       int      `json:"resent"`     // requests sent more than once because an answer did not come
	Duplicates   int      `json:"duplicates"` // copies of events that were acknowledged once more
	Hot          Counts   `json:"hot"`        // ClickHouse
	Lake         Counts   `json:"lake"`
	Rollups      int      `json:"rollups"`                        // rollups that differ from their rows
	Verdict      string   `json:"verdict"`                        // the audit's
	Certificate  string   `json:"certificate"`                    // its SHA-256
	HotLongest   float64  `json:"hot_longest_freshness_seconds"`  // the oldest that the newest row of the slowest partition got
	LakeLongest  float64  `json:"lake_longest_freshness_seconds"` // from an event's time to the commit that shows it
	FaultSeconds float64  `json:"fault_seconds"`
	Seconds      float64  `json:"seconds"`
	Passed       bool     `json:"passed"`
	Seen         []string `json:"seen,omitempty"` // of a guard, or by a probe: what else was measured
}

// Counts are what is wrong in a store. All of them are to be 0.
type Counts struct {
	Lost    int `json:"lost"`    // acknowledged events that it has no row of
	Doubled int `json:"doubled"` // rows too many
	Sink    int `json:"sink"`    // of these, rows of a place in Kafka of which it had a row; the others are of a further copy in Kafka
	Unknown int `json:"unknown"` // events that nobody sent
}

// Append adds a line to a file of outcomes.
func Append(path string, line []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// Read reads lines of JSON, each of which is a run.
func Read[T any](r io.Reader) ([]T, error) {
	var out []T
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var run T
		if err := json.Unmarshal(lines.Bytes(), &run); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(out)+1, err)
		}
		out = append(out, run)
	}
	return out, lines.Err()
}

// Guards is a table with a row for each run of a guard, in their order.
func Guards(runs []Run) string {
	var b strings.Builder
	b.WriteString("| guard | what it does | scale, seed | events | acknowledged | lost | doubled | audit | seen |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range runs {
		failed := ""
		if !r.Passed {
			failed = ", **failed**"
		}
		fmt.Fprintf(&b, "| `%s`%s | %s | %v, %d | %d | %d | %d | %d | %s | %s |\n", r.Fault, failed, r.Does, r.Scale, r.Seed, r.Events, r.Acked,
			r.Hot.Lost+r.Lake.Lost, r.Hot.Doubled+r.Lake.Doubled, r.Verdict, strings.Join(r.Seen, "; "))
	}
	return b.String()
}

// Markdown is a table with a row for each fault, in the order of its first run, and a last row that adds everything up; then one with a row for each run that a probe has measured.
func Markdown(runs []Run) string {
	var order []string
	byFault := map[string][]Run{}
	for _, r := range runs {
		if byFault[r.Fault] == nil {
			order = append(order, r.Fault)
		}
		byFault[r.Fault] = append(byFault[r.Fault], r)
	}
	var b strings.Builder
	b.WriteString("| fault | what it does | runs | events | acknowledged | sent again | lost | doubled | longest freshness: hot, lake (s) | audit |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, name := range order {
		row(&b, "`"+name+"`", byFault[name][0].Does, byFault[name])
	}
	row(&b, "all", "", runs)
	header := "\n| fault, seed | seen by the probe |\n|---|---|\n"
	for _, r := range runs {
		if len(r.Seen) > 0 {
			fmt.Fprintf(&b, "%s| `%s`, %d | %s |\n", header, r.Fault, r.Seed, strings.Join(r.Seen, "; "))
			header = ""
		}
	}
	return b.String()
}

// row adds runs up. Lost and doubled are of both stores; a run that broke off has no counts, and says so.
func row(b *strings.Builder, name, does string, runs []Run) {
	var events, acked, copies, lost, doubled, failed, equal int
	var hot, lake float64
	for _, r := range runs {
		events, acked, copies = events+r.Events, acked+r.Acked, copies+r.Duplicates
		lost += r.Hot.Lost + r.Lake.Lost
		doubled += r.Hot.Doubled + r.Lake.Doubled
		hot, lake = max(hot, r.HotLongest), max(lake, r.LakeLongest)
		if !r.Passed {
			failed++
		}
		if r.Verdict == "equal" {
			equal++
		}
	}
	count := fmt.Sprint(len(runs))
	if failed > 0 {
		count += fmt.Sprintf(", **%d failed**", failed)
	}
	verdict := "equal"
	if equal < len(runs) {
		verdict = fmt.Sprintf("equal in %d", equal)
	}
	fmt.Fprintf(b, "| %s | %s | %s | %d | %d | %d | %d | %d | %.0f, %.0f | %s |\n", name, does, count, events, acked, copies, lost, doubled, hot, lake, verdict)
}
