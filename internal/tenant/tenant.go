package tenant

import (
	"slices"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Status of a tenant.
type Status string

// The statuses.
const (
	Active    Status = "active"
	Suspended Status = "suspended" // its credentials are right, and nothing of it is taken
)

// Cell is one region's gateways, Kafka, aggregators and stores, as the registry has it.
type Cell struct {
	Name         string
	Jurisdiction string          // where its data is
	Endpoint     string          // by which senders reach this cell and no other one
	Gateways     int             // that it has, which share fleet quotas; zero: not said
	Away         bool            // it takes no part of fleet quotas: the gateways of the others share them
	Shed         map[string]Shed // by class of tenants; nil: nothing is shed
}

// Shed is what a cell that cannot take everything does with the requests of a class of tenants.
type Shed string

// The ways of shedding.
const (
	ShedOverflow Shed = "overflow" // they go by the overflow lane: as durable, stored later
	ShedRefuse   Shed = "refuse"   // they are sent back, to come again
)

// DefaultClass is the class of a tenant of which none is said.
const DefaultClass = "standard"

// Quota is what one gateway takes of one signal of one tenant. Zero is no limit.
type Quota struct {
	EventsPerSecond float64
	BytesPerSecond  float64       // of requests as OTLP protobuf, decompressed
	Burst           time.Duration // what may exceed the quota, as so much time's worth of it; zero: nothing
}

// Limited tells whether the quota limits anything.
func (q Quota) Limited() bool { return q.EventsPerSecond > 0 || q.BytesPerSecond > 0 }

// Tenant is one tenant as the gateway enforces it. It is immutable.
type Tenant struct {
	ID            string
	Status        Status
	Class         string        // metrics are counted by it: there are at most MaxClasses
	Plan          string        // what it pays for, as its events shall say; empty: nothing
	Jurisdiction  string        // where its data may be; empty: anywhere
	Home          string        // cell in which it lives; empty: none is said
	Cells         []string      // that may have its data, Home among them; nil: all of its jurisdiction
	Lane          string        // of envelope: the best lane that its requests get
	TopicClass    string        // of Kafka topics; empty: the common ones
	IDAttribute   string        // log attribute whose values its senders never use twice; empty: none
	Schema        schema.Policy // what is empty is as the gateway has it
	RetentionDays int           // as the registry has it; nothing enforces it. Zero: none of its own

	signals [signals]bool
	quotas  [signals]Quota
}

const signals = len(signal.All) + 1 // by signal.Signal; its zero is none

// MayBeIn tells whether a cell may have the tenant's data, as far as that is said by cells: its jurisdiction must be right, too.
func (t *Tenant) MayBeIn(cell string) bool { return t.Cells == nil || slices.Contains(t.Cells, cell) }

// Takes tells whether the tenant may send a signal.
func (t *Tenant) Takes(s signal.Signal) bool { return t.signals[s] }

// Quota of a signal at this gateway.
func (t *Tenant) Quota(s signal.Signal) Quota { return t.quotas[s] }

// Bounds of identifiers.
const (
	MaxIDBytes    = 128
	IDPunctuation = "._:/@+-"
	maxNameBytes  = 32
)

// What to write in an error about an id or a name that is refused.
const (
	WantID   = "want 1 to 128 letters, digits and " + IDPunctuation
	WantName = "want 1 to 32 of a-z, 0-9 and -, which does not begin with -"
)

// ValidID bounds what becomes a Kafka header or key, a path or a column's value: ids of tenants and of their agents.
func ValidID(s string) bool {
	if s == "" || len(s) > MaxIDBytes {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && strings.IndexByte(IDPunctuation, c) < 0 {
			return false
		}
	}
	return true
}

// ValidName bounds names of classes, jurisdictions and topic classes: they become values of metrics and parts of topics' names.
func ValidName(s string) bool {
	return len(s) > 0 && len(s) <= maxNameBytes && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-'
}
