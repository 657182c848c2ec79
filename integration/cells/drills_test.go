package cells

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// drill is one row of the table in docs/regions.md. What is expected is the same of all: nothing that was acknowledged is lost, nothing is doubled within a cell, and no byte of the EU's
// senders is elsewhere.
type drill struct {
	name, does string
	cells      []string // which take part in `make test`, where it is part of that
	strikes    []string // cells that something is done to
	moves      bool     // senders of these cells must go elsewhere
	strike     func(*run) error
	maintain   func(r *run, since time.Time) error // when senders have moved, before mend; nil: nothing
	mend       func(*run) error
	gone       bool // the cells never come back: mend has others take their place, and what had not left them is lost
}

var central = []string{"eu-central"}

var drills = []drill{
	{
		name: "kill", does: "SIGKILL of every process of eu-central; all start again", cells: []string{"eu-central", "eu-west"}, strikes: central, moves: true,
		strike: killed, mend: revived,
	},
	{
		name: "network", does: "nothing reaches eu-central, or leaves it", strikes: central, moves: true,
		strike: func(r *run) error { return each(r.struck, (*Cell).Cut) }, mend: func(r *run) error { return each(r.struck, (*Cell).Heal) },
	},
	{
		name: "kafka", does: "SIGKILL of eu-central's Kafka; it starts again", strikes: central,
		strike: func(r *run) error { return each(r.struck, func(c *Cell) error { return c.Kafka.Kill(0) }) },
		mend:   func(r *run) error { return each(r.struck, func(c *Cell) error { return c.Kafka.Restart(0) }) },
	},
	{
		name: "evacuation", does: "`pulsegrid cell drain eu-central`; when it is safe, SIGKILL of every process; all start again, `pulsegrid cell undrain`", strikes: central, moves: true,
		strike: func(r *run) error { return r.operator("pulsegrid cell drain eu-central --reason drill") },
		maintain: func(r *run, since time.Time) error {
			if err := r.operator("pulsegrid cell status eu-central --wait --timeout 20m"); err != nil {
				return err
			}
			r.out.Safe = time.Since(since).Seconds()
			return killed(r)
		},
		mend: func(r *run) error {
			if err := revived(r); err != nil {
				return err
			}
			return r.operator("pulsegrid cell undrain eu-central")
		},
	},
	{
		name: "jurisdiction", does: "SIGKILL of every process of both cells of the EU; all start again", strikes: []string{"eu-central", "eu-west"}, moves: true,
		strike: killed, mend: revived,
	},
	{
		name: "loss", does: "SIGKILL of every process of eu-central, which never comes back; `pulsegrid cell restore` of its tenants into eu-west, from the replica of its lake", strikes: central, moves: true,
		gone: true, strike: lost, mend: restored,
	},
}

func killed(r *run) error  { return each(r.struck, func(c *Cell) error { return c.Kill() }) }
func revived(r *run) error { return each(r.struck, func(c *Cell) error { return c.Revive() }) }

// lost is killed, and what is on its way to the replica never arrives.
func lost(r *run) error {
	return errors.Join(killed(r), r.replication.stop())
}

// restored has eu-west take the place of eu-central for the tenants whose home it was.
func restored(r *run) error {
	began, into := time.Now(), r.Cell("eu-west")
	for _, f := range r.fleets {
		if !r.isStruck(f.home) {
			continue
		}
		command := fmt.Sprintf("pulsegrid cell restore eu-central --into eu-west --tenant %s --from %s --tenants %s --jurisdiction eu", f.tenant, r.started.UTC().Format(time.RFC3339), into.Registry)
		out, err := r.Shell().Run(command)
		r.t.Logf("%s (%v)\n%s", command, err, out)
		if err != nil && !strings.Contains(out, "job run rollups") { // which waits until the day is over
			return fmt.Errorf("%s: %w: %s", command, err, out)
		}
	}
	r.out.Restored = time.Since(began).Seconds()
	return nil
}

// operator has a command line run, which must succeed.
func (r *run) operator(command string) error {
	out, err := r.Shell().Run(command)
	r.t.Logf("%s\n%s", command, out)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

// Scenario: senders of several tenants find their cell by DNS, and something happens to one.
// Guarantees: senders go where DNS leads them, and come back; every acknowledged event is in ClickHouse and in the lake of a cell, once; what two cells have is counted; of the EU's events, each of
// which has a marker, nothing is found in a cell elsewhere, where other markers are.
func TestDrill(t *testing.T) {
	for _, d := range drills {
		if d.cells != nil || *all {
			t.Run(d.name, d.run)
			if d.gone {
				require.NoError(t, closeShared())
			}
		}
	}
}
