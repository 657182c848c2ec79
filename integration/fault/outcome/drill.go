package outcome

import (
	"fmt"
	"strings"
)

// Drill is the outcome of a drill with several cells.
type Drill struct {
	Drill   string  `json:"drill"`
	Does    string  `json:"does"`
	Seed    uint64  `json:"seed"`
	Scale   float64 `json:"scale"`
	Rate    int     `json:"rate"` // events a second, of all senders together
	TTL     float64 `json:"ttl_seconds"`
	Detects float64 `json:"detects_seconds"` // interval of DNS's health checks times their threshold

	Requests int `json:"requests"`
	Acked    int `json:"acked"` // events

	Away Felt `json:"away"` // from the fault to the cell's return
	Back Felt `json:"back"` // from then on

	Lost      int     `json:"lost"`      // acknowledged events that no cell has, in ClickHouse and in the lake
	Doubled   int     `json:"doubled"`   // events that more than one cell has in ClickHouse: what is to be settled
	Settled   bool    `json:"settled"`   // what two cells had was removed from one
	Unsettled int     `json:"unsettled"` // events that two cells have all the same
	Within    int     `json:"within"`    // rows too many within a cell, in either store
	Unknown   int     `json:"unknown"`   // events that nobody sent
	Markers   int     `json:"markers"`   // files, records, rows and Parquet rows of the EU's that cells elsewhere have
	Control   int     `json:"control"`   // the same of their own senders'
	Searched  bool    `json:"searched"`
	Fresh     float64 `json:"fresh_seconds"`              // from the fault until each sender's newest row, in whichever cell, is fresh for good
	Home      float64 `json:"home_seconds"`               // from the cell's return to the last event that another cell took in its place; 0: none did
	Restored  float64 `json:"restored_seconds,omitempty"` // of a cell that never comes back: what it took to restore its tenants elsewhere
	RPO       float64 `json:"rpo_seconds,omitempty"`      // how long before the cell the oldest event was sent that is lost with it
	Safe      float64 `json:"safe_seconds,omitempty"`     // from the drain until it is safe to take the cell away
	Verdict   string  `json:"verdict"`                    // of all cells' audits
	Seconds   float64 `json:"seconds"`
	Passed    bool    `json:"passed"`
	Bystander int     `json:"bystanders_failed"` // requests of senders that have nothing to do with the cell, which failed at least once
}

// Felt is what senders felt.
type Felt struct {
	Failed  int     `json:"failed_requests"` // that failed at least once; each was sent again until it was acknowledged
	Seconds float64 `json:"seconds"`         // from the sending of the first of them to the acknowledgement of the last
	Longest float64 `json:"longest_seconds"` // that one request took to be acknowledged
}

func (f Felt) String() string {
	if f.Failed == 0 {
		return "0"
	}
	return fmt.Sprintf("%d in %.0f s, one for %.0f s", f.Failed, f.Seconds, f.Longest)
}

// Drills is a table with a row for each drill.
func Drills(runs []Drill) string {
	var b strings.Builder
	b.WriteString("| drill | what is done | scale, seed | DNS: notices in, TTL (s) | events/s, acknowledged | requests that failed | while it comes back | lost | in two cells | EU markers elsewhere | fresh after (s) | senders home after (s) | audits |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range runs {
		failed := ""
		if !r.Passed {
			failed = ", **failed**"
		}
		does := r.Does
		if r.Safe > 0 {
			does += fmt.Sprintf("; safe to take away after %.0f s", r.Safe)
		}
		lost := fmt.Sprint(r.Lost)
		if r.Restored > 0 {
			does += fmt.Sprintf("; restored within %.0f s", r.Restored)
			lost += fmt.Sprintf(", of the last %.0f s", r.RPO)
		}
		doubled := fmt.Sprint(r.Doubled)
		if r.Settled {
			doubled += fmt.Sprintf("; %d after settling", r.Unsettled)
		}
		markers := "not searched"
		if r.Searched {
			markers = fmt.Sprintf("%d (of %d of its own)", r.Markers, r.Control)
		}
		fmt.Fprintf(&b, "| `%s`%s | %s | %v, %d | %.0f, %.0f | %d, %d | %v | %v | %s | %s | %s | %.0f | %.0f | %s |\n", r.Drill, failed, does, r.Scale, r.Seed, r.Detects, r.TTL, r.Rate, r.Acked,
			r.Away, r.Back, lost, doubled, markers, r.Fresh, r.Home, r.Verdict)
	}
	return b.String()
}
