package outcome

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Rehearsal is the outcome of one: a fault that an alert is expected of, and what operators heard and did. Times are in seconds.
type Rehearsal struct {
	Fault     string   `json:"fault"`
	Does      string   `json:"does"`
	Alert     string   `json:"alert,omitempty"`    // expected; empty: none may page
	Severity  string   `json:"severity,omitempty"` // page or ticket
	Trips     []string `json:"trips,omitempty"`    // of a burn rate: the windows that told
	Runbook   string   `json:"runbook,omitempty"`  // where the notification leads: FILE#SECTION
	Shortened int      `json:"shortened"`          // durations of the rules were divided by this
	Within    float64  `json:"within_seconds"`     // stated: from the fault to the notification
	Fired     float64  `json:"fired_seconds"`      // measured
	Recovered float64  `json:"recovered_seconds"`  // from the end of the fault to the notification that the alert is resolved
	Commands  int      `json:"commands"`           // of the runbook, executed as they are written
	Also      []string `json:"also,omitempty"`     // further pages, which the fault sets off too
	Tickets   []string `json:"tickets,omitempty"`
	False     []string `json:"false,omitempty"` // pages that nobody expected
	Seed      uint64   `json:"seed"`
	Seconds   float64  `json:"seconds"`
	Passed    bool     `json:"passed"`
}

// Rehearsals is a table with a row for each run, in their order, and a last row that adds them up.
func Rehearsals(runs []Rehearsal) string {
	var b strings.Builder
	b.WriteString("| fault | what it does | alert | severity | time to fire (stated) | runbook | commands executed | time to recover | further pages | tickets | false pages |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	lists := func(names []string) string {
		if len(names) == 0 {
			return "-"
		}
		return "`" + strings.Join(names, "`, `") + "`"
	}
	seconds := func(s float64) string {
		return time.Duration(s * float64(time.Second)).Round(time.Second).String()
	}
	commands, wrong, length := 0, 0, 0.0
	var shares []float64 // of the stated time, after which the alert was told
	for _, r := range runs {
		name := "`" + r.Fault + "`"
		if r.Shortened > 1 {
			name += fmt.Sprintf(", rules %d times as fast", r.Shortened)
		}
		if !r.Passed {
			name += ", **failed**"
		}
		commands, wrong, length = commands+r.Commands, wrong+len(r.False), length+r.Seconds
		if r.Alert == "" {
			fmt.Fprintf(&b, "| %s | %s, for %s | none | - | - | - | - | - | - | %s | %s |\n", name, r.Does, seconds(r.Seconds), lists(r.Tickets), lists(r.False))
			continue
		}
		fired, recovered, book := "never", "never", "-"
		if r.Fired > 0 {
			fired = seconds(r.Fired)
			shares = append(shares, r.Fired/r.Within)
		}
		if r.Recovered > 0 || r.Passed { // it may be over before everything is mended
			recovered = seconds(r.Recovered)
		}
		if page, section, ok := strings.Cut(strings.TrimPrefix(r.Runbook, "docs/"), "#"); ok {
			book = fmt.Sprintf("[%s](%s#%s)", strings.ReplaceAll(section, "-", " "), page, section)
		}
		alert := "`" + r.Alert + "`"
		if len(r.Trips) > 0 {
			alert += " of " + strings.Join(r.Trips, ", ")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s (%s) | %s | %d | %s | %s | %s | %s |\n", name, r.Does, alert, r.Severity, fired, seconds(r.Within), book, r.Commands, recovered,
			lists(r.Also), lists(r.Tickets), lists(r.False))
	}
	told := ""
	if slices.Sort(shares); len(shares) > 0 {
		told = fmt.Sprintf("median %.0f %%, worst %.0f %% of the stated", 100*shares[len(shares)/2], 100*shares[len(shares)-1])
	}
	fmt.Fprintf(&b, "| all | %d runs, %s |  |  | %s |  | %d |  |  |  | %d |\n", len(runs), seconds(length), told, commands, wrong)
	return b.String()
}
