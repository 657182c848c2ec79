package rehearsal

import (
	"context"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// Lake is what a rehearsal asks of the lake; stored.Lake has it.
type Lake interface {
	ReadReceived(ctx context.Context, q stored.Received, planned func(rows int64), f stored.RowsFunc) error
}

// Config of a rehearsal. All of it is required but Tenant and Progress.
type Config struct {
	Lake Lake
	// Current and Proposed have the limits of the gateways.
	Current, Proposed *schema.Checker
	// Policy of a tenant, nothing of it empty.
	Policy func(tenant string) schema.Policy
	// Tenant, empty: all.
	Tenant string
	// From and To are of when the gateways had read the requests; To is not included.
	From, To time.Time
	// Progress is told now and then, by the goroutine that runs.
	Progress func(Progress)
}

// Progress is how far a rehearsal has come in a table.
type Progress struct {
	Table string
	Rows  int64 // read, of files that may hold rows of the time
	Of    int64
}
