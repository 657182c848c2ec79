package cells

import (
	"fmt"
	"testing"
	"time"
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
}

func killed(r *run) error  { return each(r.struck, func(c *Cell) error { return c.Kill() }) }
func revived(r *run) error { return each(r.struck, func(c *Cell) error { return c.Revive() }) }

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
		}
	}
}
