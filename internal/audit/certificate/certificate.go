// Package certificate is what an audit hands over: what it looked at, what it found, its verdict, and a hash that chains it to the one before it
// (docs/formats/certificate.md).
package certificate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names of the stores in certificates.
const (
	Hot  = "clickhouse"
	Lake = "lake"
)

// Verdict is what an audit found.
type Verdict string

// The verdicts.
const (
	Equal      Verdict = "equal"      // each event of the ranges is in each store once, as it was sent
	Different  Verdict = "different"  // it is not; Differences say where
	Incomplete Verdict = "incomplete" // no difference found, but not all could be audited; Problems say what and why
)

// Certificate is an audit's result (docs/formats/certificate.md). Its JSON is what is hashed.
type Certificate struct {
	Format   int       `json:"format"` // Version
	Tool     string    `json:"tool"`
	Cell     string    `json:"cell,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Verdict  Verdict   `json:"verdict"`

	Asked      Asked             `json:"asked"`
	Stores     []StoreInfo       `json:"stores"`
	Totals     []Totals          `json:"totals"` // by store
	Partitions []PartitionResult `json:"partitions"`
	Rollups    []RollupResult    `json:"rollups,omitempty"`
	Copies     []SignalCopies    `json:"copies"`             // by signal: what Kafka holds twice
	Erasures   []ErasureResult   `json:"erasures,omitempty"` // declared

	Differences  []Difference  `json:"differences"`   // bounded; Totals are exact
	Stretches    []Stretch     `json:"stretches"`     // bounded
	LedgerFaults []LedgerFault `json:"ledger_faults"` // bounded
	Problems     []string      `json:"problems"`      // what could not be audited, and why
	Notes        []string      `json:"notes"`         // what a reader must know
	Warnings     []string      `json:"warnings"`      // what somebody should look at; no verdict depends on it

	Previous string `json:"previous"` // sha256 of the certificate before this one; empty: it is the first
	// Signature is Ed25519, in base64, of number and SHA256 (sign.go); empty: not signed.
	Signature string `json:"signature,omitempty"`
	SHA256    string `json:"sha256"` // of this JSON without signature and with an empty sha256
}

// Version is the version of the certificate's JSON.
const Version = 2

// Asked is what the audit was asked for.
type Asked struct {
	From   *time.Time `json:"from,omitempty"`
	To     *time.Time `json:"to,omitempty"`
	Ranges []Range    `json:"ranges,omitempty"`
	Topics []string   `json:"topics"`
	Tenant string     `json:"tenant,omitempty"`
	Window string     `json:"dedupe_window"`
	Quick  bool       `json:"quick"`
	Ledger bool       `json:"ledger"`
	Copies float64    `json:"copies_percent"` // above it a share of copies is a warning
}

// StoreInfo says what a store was.
type StoreInfo struct {
	Store string `json:"store"` // clickhouse or lake
	Where string `json:"where"`
	Group string `json:"group"`
}

// Totals of a store over all partitions.
type Totals struct {
	Store    string `json:"store"`
	Expected int64  `json:"expected"` // rows that Kafka says there must be
	Rows     int64  `json:"rows"`     // rows that there are
	Faults
	LedgerFaults int64 `json:"ledger_faults"`
}

// Faults count what differs, in events.
type Faults struct {
	Lost        int64 `json:"lost"`
	Doubled     int64 `json:"doubled"`
	Altered     int64 `json:"altered"`
	Foreign     int64 `json:"foreign"`
	Undecidable int64 `json:"undecidable"` // absent; either a duplicate of what retention has removed, or lost
	Erased      int64 `json:"erased"`      // absent, and declared to be erased: no fault
	Former      int64 `json:"former"`      // rows of a former topic of the same name: no fault
}

// Add adds o.
func (f *Faults) Add(o Faults) {
	f.Lost += o.Lost
	f.Doubled += o.Doubled
	f.Altered += o.Altered
	f.Foreign += o.Foreign
	f.Undecidable += o.Undecidable
	f.Erased += o.Erased
	f.Former += o.Former
}

func (f Faults) any() bool { return f.Lost+f.Doubled+f.Altered+f.Foreign > 0 }

// PartitionResult is a partition's.
type PartitionResult struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	First     int64  `json:"first"`
	Last      int64  `json:"last"`
	LogStart  int64  `json:"log_start"` // first offset that Kafka still has
	LogEnd    int64  `json:"log_end"`   // offset after the last one, when the audit began

	Records     int64 `json:"records"`
	Unreadable  int64 `json:"unreadable"` // of these, not an OTLP request of the topic's signal
	Events      int64 `json:"events"`
	Duplicates  int64 `json:"duplicates"`
	WindowFrom  int64 `json:"window_from"` // offset from which ids were remembered
	Quarantined int64 `json:"quarantined"` // records in quarantine for any store

	Stores []StoreResult `json:"stores"`
}

// StoreResult is a partition's in one store.
type StoreResult struct {
	Store string `json:"store"`
	First int64  `json:"first"`
	Last  int64  `json:"last"` // First-1: nothing of the partition was finished by the store's group

	QuarantinedRecords int64 `json:"quarantined_records"` // not expected in this store
	QuarantinedEvents  int64 `json:"quarantined_events"`
	Expected           Sums  `json:"expected"`
	Got                Sums  `json:"got"`
	Faults
	Ledger *LedgerResult `json:"ledger,omitempty"`
	Beyond *BeyondResult `json:"beyond_retention,omitempty"`
}

// Sums tell a set of rows. Two sets of equal sums are, but for a chance of 2^-64, equal in that.
type Sums struct {
	Rows    int64  `json:"rows"`
	IDs     Hex64  `json:"ids"`              // ledger.IDSum over the event ids
	Places  Hex64  `json:"places"`           // ids bound to their offsets and indexes
	Content Hex64  `json:"content"`          // hashes of all columns; 0 in a quick audit
	Digest  string `json:"digest,omitempty"` // sha256 over place, id and hash of each row, in the order of places
}

// Hex64 is a sum modulo 2^64, as 16 hexadecimal digits in JSON.
type Hex64 uint64

// MarshalText implements encoding.TextMarshaler.
func (h Hex64) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(h)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex64) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	*h = Hex64(n)
	return err
}

// LedgerResult is what the ledger of a store says of a partition's range.
type LedgerResult struct {
	Entries  int64 `json:"entries"`  // that overlap the range
	Compared int64 `json:"compared"` // of these, lie in it and were compared with the recount
	Faults   int64 `json:"faults"`
}

// BeyondResult is what was compared where Kafka has no records any more: a store's rows with its ledger.
type BeyondResult struct {
	First   int64 `json:"first"`
	Last    int64 `json:"last"`
	Entries int64 `json:"entries"`
	Rows    int64 `json:"rows"`
}

// Kind of a difference.
type Kind string

// The kinds.
const (
	Lost        Kind = "lost"        // in Kafka, not in the store
	Doubled     Kind = "doubled"     // in the store more than once, or there though it is a duplicate
	Altered     Kind = "altered"     // in the store with other content
	Foreign     Kind = "foreign"     // in the store, not in Kafka
	Undecidable Kind = "undecidable" // not in the store, but what it may be a duplicate of is gone from Kafka
)

// ErasureResult is a declared erasure (docs/formats/erasures.md) and what it explains.
type ErasureResult struct {
	ID     string    `json:"id"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	Tenant string    `json:"tenant"`
	// Attribute is the key by whose value somebody's events were chosen; empty: the declaration says otherwise which.
	Attribute string           `json:"attribute,omitempty"`
	Events    map[string]int64 `json:"events"` // by store: that are missing from it
}

// Difference is one event that differs.
type Difference struct {
	Store     string   `json:"store"`
	Kind      Kind     `json:"kind"`
	Topic     string   `json:"topic"`
	Partition int32    `json:"partition"`
	Offset    int64    `json:"offset"`
	Index     int32    `json:"index"` // -1: the whole record
	EventID   string   `json:"event_id,omitempty"`
	Columns   []string `json:"columns,omitempty"` // altered: those that differ
	Detail    string   `json:"detail,omitempty"`
}

// String is for people.
func (d Difference) String() string {
	s := fmt.Sprintf("%s: %s %s/%d/%d", d.Store, d.Kind, d.Topic, d.Partition, d.Offset)
	if d.Index >= 0 {
		s += fmt.Sprintf("#%d", d.Index)
	}
	if d.EventID != "" {
		s += " event " + d.EventID
	}
	if len(d.Columns) > 0 {
		s += " columns " + strings.Join(d.Columns, ", ")
	}
	if d.Detail != "" {
		s += ": " + d.Detail
	}
	return s
}

// Stretch is a range of events that follow each other and differ alike.
type Stretch struct {
	Store      string `json:"store"`
	Kind       Kind   `json:"kind"`
	Topic      string `json:"topic"`
	Partition  int32  `json:"partition"`
	First      int64  `json:"first"`
	FirstIndex int32  `json:"first_index"`
	Last       int64  `json:"last"`
	LastIndex  int32  `json:"last_index"`
	Events     int64  `json:"events"`
}

// String is for people.
func (r Stretch) String() string {
	return fmt.Sprintf("%s: %s %s/%d/%d#%d to %d#%d, %d events", r.Store, r.Kind, r.Topic, r.Partition, r.First, r.FirstIndex, r.Last, r.LastIndex, r.Events)
}

// LedgerFault is a range of which a ledger is wrong.
type LedgerFault struct {
	Store string `json:"store"`
	Range
	Kind   string `json:"kind"` // hole, overlap or wrong
	Detail string `json:"detail"`
}

// String is for people.
func (f LedgerFault) String() string {
	return fmt.Sprintf("%s: ledger %s %s: %s", f.Store, f.Kind, f.Range, f.Detail)
}

// RollupResult is a rollup table's.
type RollupResult struct {
	Table  string   `json:"table"`
	Groups int64    `json:"groups"` // compared
	Wrong  int64    `json:"wrong"`
	Shown  []string `json:"shown"` // some of the wrong ones
}

// Problem notes what could not be audited, once.
func (c *Certificate) Problem(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(c.Problems, text) {
		c.Problems = append(c.Problems, text)
	}
}

// Conclude sums up and gives the verdict.
func (c *Certificate) Conclude() {
	c.Totals = nil
	c.Warnings = nil
	different, undecidable := false, int64(0)
	for _, s := range c.Stores {
		t := Totals{Store: s.Store}
		for _, p := range c.Partitions {
			for _, r := range p.Stores {
				if r.Store != s.Store {
					continue
				}
				t.Expected, t.Rows = t.Expected+r.Expected.Rows, t.Rows+r.Got.Rows
				t.Add(r.Faults)
				if r.Ledger != nil {
					t.LedgerFaults += r.Ledger.Faults
				}
			}
		}
		different = different || t.any() || t.LedgerFaults > 0
		undecidable += t.Undecidable
		c.Totals = append(c.Totals, t)
	}
	for _, r := range c.Rollups {
		different = different || r.Wrong > 0
	}
	for _, s := range c.Copies {
		if text := s.Warning(c.Asked.Copies); text != "" {
			c.Warnings = append(c.Warnings, text)
		}
	}
	if undecidable > 0 {
		c.Problem("%d events are in no store or only one and may be duplicates of events that retention has removed from Kafka: audit a range that begins later", undecidable)
	}
	switch {
	case different:
		c.Verdict = Different
	case len(c.Problems) > 0:
		c.Verdict = Incomplete
	default:
		c.Verdict = Equal
	}
}

// Seal computes the certificate's own hash.
func (c *Certificate) Seal() error {
	c.SHA256, c.Signature = "", ""
	b, err := c.encode()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	c.SHA256 = hex.EncodeToString(sum[:])
	return nil
}

func (c *Certificate) encode() ([]byte, error) {
	for _, nilled := range []func(){
		func() { c.Differences = orEmpty(c.Differences) }, func() { c.Stretches = orEmpty(c.Stretches) }, func() { c.LedgerFaults = orEmpty(c.LedgerFaults) },
		func() { c.Problems = orEmpty(c.Problems) }, func() { c.Notes = orEmpty(c.Notes) }, func() { c.Warnings = orEmpty(c.Warnings) },
		func() { c.Copies = orEmpty(c.Copies) },
	} {
		nilled()
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return append(b, '\n'), nil
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
