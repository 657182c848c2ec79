package orchestration

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"go.temporal.io/sdk/workflow"
)

// Kinds of jobs that are one command each.
const (
	KindAggregate  = "aggregate"
	KindAudit      = "audit"
	KindErasure    = "erasure"
	KindExpiry     = "expiry"
	KindRehearsal  = "rehearsal"
	KindReplay     = "replay"
	KindRollout    = "rollout"
	KindRollups    = "rollups"
	KindSpillCheck = "spill-check"
	KindUpkeep     = "upkeep"
)

// commandKinds say what is particular to a kind.
var commandKinds = map[string]struct {
	destroys bool // it takes out what nothing brings back: somebody must approve what a dry run shows
	standing bool // it may be a standing job: a run does what the one before did not. Of one that destroys, the file of standing jobs is the approval
	watches  bool // it takes days, in which it only looks: it must not take the place of a command that works
}{
	KindAggregate:  {standing: true},
	KindAudit:      {standing: true},
	KindErasure:    {destroys: true},
	KindExpiry:     {destroys: true, standing: true},
	KindRehearsal:  {},
	KindReplay:     {},
	KindRollout:    {watches: true},
	KindRollups:    {},
	KindSpillCheck: {standing: true},
	KindUpkeep:     {standing: true},
}

// CommandKinds are the kinds of jobs that are one command each, in order.
func CommandKinds() []string { return slices.Sorted(maps.Keys(commandKinds)) }

// Command is the request of a job that is one command. The configuration of the stores is the worker's.
type Command struct {
	Kind     string    `json:"kind"`
	Flags    []string  `json:"flags,omitempty"`    // --NAME=VALUE
	Tenant   string    `json:"tenant,omitempty"`   // whose rows it is about, if it is about one's: for the list of jobs
	Standing *Standing `json:"standing,omitempty"` // nil: somebody started it
	Approved []string  `json:"approved,omitempty"` // the values of Outcome.Step that were approved
}

// ID is the workflow's id: one job of a kind runs at a time; an erasure, one of a tenant.
func (c *Command) ID() string {
	if c.Kind == KindErasure {
		return c.Kind + "." + c.Tenant
	}
	return c.Kind
}

// Destroys tells whether somebody must approve what a dry run of the job shows.
func (c *Command) Destroys() bool { return commandKinds[c.Kind].destroys && c.Standing == nil }

// Outcome is how a command came to its end.
type Outcome struct {
	State string `json:"state"`          // StateDone, StateDiffers, StateIncomplete, StateRejected, or StateWaitingForApproval
	Text  string `json:"text"`           // what it printed, up to MaxText
	Step  string `json:"step,omitempty"` // what it would do next, once that is approved, where State is StateWaitingForApproval
}

const (
	// MaxText bounds Outcome.Text: Temporal keeps results of up to 2 MB.
	MaxText = 128 << 10
	// maxSaid bounds a line of progress.
	maxSaid = 300
)

// cut shortens a text, and says so.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "... (cut)"
}

const activityCommand = "Command"

// CommandWorkflow runs a job that is one command, after an approval where it destroys. Where the command ends because its next step wants an approval, it is run again with that.
func CommandWorkflow(ctx workflow.Context, c Command) (*Outcome, error) {
	s := &steps{Status: Status{NeedsApproval: c.Destroys()}}
	if err := workflow.SetQueryHandler(ctx, queryStatus, func() (Status, error) { return s.Status, nil }); err != nil {
		return nil, err
	}
	err := s.command(ctx, c)
	state := ""
	if err == nil {
		state = s.Outcome.State
	}
	return s.Outcome, s.end(ctx, err, state)
}

func (s *steps) command(ctx workflow.Context, c Command) error {
	run := step{queue: QueueCommands, atMost: longestLoad}
	if commandKinds[c.Kind].watches {
		run.queue = QueueLoads
	}
	if c.Standing != nil {
		run.alone, run.atMost = true, longestStanding
	}
	if s.NeedsApproval {
		if err := s.approve(ctx, run, c); err != nil {
			return err
		}
	}
	for {
		if err := s.enter(ctx, StateRunning); err != nil {
			return err
		}
		var outcome *Outcome // a new value each time: queries read the old one meanwhile
		if err := s.do(ctx, run, &outcome, activityCommand, c, false); err != nil {
			return err
		}
		if s.Outcome = outcome; outcome.State != StateWaitingForApproval {
			return nil
		}
		s.Approved = nil
		if err := s.waitForApproval(ctx, digestOf(outcome)); err != nil {
			return err
		}
		c.Approved = append(c.Approved, outcome.Step)
	}
}

// digestOf is what an approval of an outcome must have.
func digestOf(o *Outcome) string {
	sum := sha256.Sum256([]byte(o.Step + o.Text))
	return hex.EncodeToString(sum[:])
}

// approve waits until somebody has approved what a dry run shows, and a further dry run shows the same.
func (s *steps) approve(ctx workflow.Context, run step, c Command) error {
	for {
		if err := s.enter(ctx, StatePlanning); err != nil {
			return err
		}
		s.DryRun = nil // a new value each time: queries read the old one meanwhile
		if err := s.do(ctx, run, &s.DryRun, activityCommand, c, true); err != nil {
			return err
		}
		digest := digestOf(s.DryRun)
		if s.Approved != nil {
			if digest == s.Digest {
				return nil
			}
			s.Approved, s.LastError = nil, "the stores have changed since the approval: it must be approved anew"
		}
		if err := s.waitForApproval(ctx, digest); err != nil {
			return err
		}
	}
}
