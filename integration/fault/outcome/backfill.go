package outcome

import (
	"fmt"
	"strings"
)

// Backfill is the outcome of a backfill beside live load.
type Backfill struct {
	Seed      uint64 `json:"seed"`
	JSON      int64  `json:"json_bytes"` // of the objects, before compression
	Gzip      int64  `json:"gzip_bytes"`
	Objects   int64  `json:"objects"`
	Lines     int64  `json:"lines"`
	Rows      int    `json:"rows"` // distinct good lines
	Copies    int64  `json:"copies"`
	Malformed int    `json:"malformed"`

	LiveRate int     `json:"live_rate"` // events a second
	Live     int     `json:"live_events"`
	LiveCPU  float64 `json:"live_cpu"` // share of the machine's CPU that was in use while live load was alone
	Before   Latency `json:"before"`   // the backfill
	Beside   Latency `json:"beside"`
	After    Latency `json:"after"`
	Calm     Latency `json:"calm"` // before and after, taken together

	JobRate int `json:"job_rate"` // lines a second of each job, at most

	Killed        map[string]int `json:"killed"` // how often each process was
	Seconds       float64        `json:"seconds"`
	WorkerCPU     float64        `json:"worker_cpu_seconds"`     // of those that were killed too
	ClickHouseCPU float64        `json:"clickhouse_cpu_seconds"` // beyond what live traffic took of it alone
	WorkerMemory  int64          `json:"worker_peak_rss_bytes"`
	DuckDB        DuckDB         `json:"duckdb"`

	Audit  string `json:"audit"` // verdict on the live events
	Passed bool   `json:"passed"`
}

// Latency of live requests, P50 and P99 in milliseconds.
type Latency struct {
	Requests int        `json:"requests"`
	Acked    [2]float64 `json:"acked_ms"` // to the acknowledgement
	Looked   int        `json:"looked_for"`
	Seen     [2]float64 `json:"seen_ms"` // of those that were looked for, to the row in ClickHouse
}

// DuckDB is what it took DuckDB to read the same objects.
type DuckDB struct {
	Rows    int     `json:"rows"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu_seconds"`
}

// Ratios are how many times as long live requests took at P99 beside the backfill as alone.
func (b *Backfill) Ratios() (acked, seen float64) {
	return b.Beside.Acked[1] / b.Calm.Acked[1], b.Beside.Seen[1] / b.Calm.Seen[1]
}

// Backfills is a table with a column for each run.
func Backfills(runs []Backfill) string {
	rows := []struct {
		name string
		cell func(*Backfill) string
	}{
		{"seed", func(b *Backfill) string {
			if !b.Passed {
				return fmt.Sprintf("%d, **failed**", b.Seed)
			}
			return fmt.Sprint(b.Seed)
		}},
		{"objects", func(b *Backfill) string {
			return fmt.Sprintf("%d: %.2f GB of JSON, %.2f GB gzipped", b.Objects, float64(b.JSON)/1e9, float64(b.Gzip)/1e9)
		}},
		{"lines", func(b *Backfill) string {
			return fmt.Sprintf("%d: %d events, %d copies, %d malformed", b.Lines, b.Rows, b.Copies, b.Malformed)
		}},
		{"live load", func(b *Backfill) string {
			return fmt.Sprintf("%d events/s, %.0f %% of the machine's CPU; %d in all", b.LiveRate, 100*b.LiveCPU, b.Live)
		}},
		{"killed (SIGKILL)", func(b *Backfill) string {
			return fmt.Sprintf("worker %d times, Temporal's server %d times", b.Killed["worker"], b.Killed["server"])
		}},
		{"backfill took", func(b *Backfill) string {
			return fmt.Sprintf("%.0f s: %.0f lines/s, of %d at most; worker's memory %d MiB at most", b.Seconds, float64(b.Lines)/b.Seconds, 2*b.JobRate, b.WorkerMemory>>20)
		}},
		{"live, to the acknowledgement: P50, P99", func(b *Backfill) string {
			ratio, _ := b.Ratios()
			return besideAlone(b.Before.Acked, b.Beside.Acked, b.After.Acked, b.Calm.Acked, ratio)
		}},
		{"live, to the row in ClickHouse: P50, P99", func(b *Backfill) string {
			_, ratio := b.Ratios()
			return besideAlone(b.Before.Seen, b.Beside.Seen, b.After.Seen, b.Calm.Seen, ratio)
		}},
		{"audit of the live events", func(b *Backfill) string { return b.Audit }},
		{"events a core-second, of the worker", func(b *Backfill) string { return perCore(b.Rows, b.WorkerCPU) }},
		{"with ClickHouse's part", func(b *Backfill) string { return perCore(b.Rows, b.WorkerCPU+b.ClickHouseCPU) }},
		{"DuckDB", func(b *Backfill) string {
			return fmt.Sprintf("%s: %.2f times the worker's", perCore(b.DuckDB.Rows, b.DuckDB.CPU), float64(b.DuckDB.Rows)/b.DuckDB.CPU/(float64(b.Rows)/b.WorkerCPU))
		}},
	}
	var t strings.Builder
	t.WriteString("| |" + strings.Repeat(" |", len(runs)) + "\n|---|" + strings.Repeat("---|", len(runs)) + "\n")
	for _, row := range rows {
		t.WriteString("| " + row.name + " |")
		for i := range runs {
			t.WriteString(" " + row.cell(&runs[i]) + " |")
		}
		t.WriteString("\n")
	}
	return t.String()
}

// besideAlone tells of P50 and P99, in milliseconds.
func besideAlone(before, beside, after, calm [2]float64, ratio float64) string {
	return fmt.Sprintf("%.1f, %.1f ms before; %.1f, %.1f after; %.1f, %.1f of both; %.1f, %.1f beside: P99 x %.2f", before[0], before[1], after[0], after[1], calm[0], calm[1], beside[0], beside[1], ratio)
}

func perCore(events int, cpu float64) string {
	return fmt.Sprintf("%.1f K", float64(events)/cpu/1000)
}
