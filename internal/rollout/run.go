package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/rehearsal"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// reportBytesMax bounds the file of a rehearsal's report.
const reportBytesMax = 256 << 20

// Config of a rollout. All of it is required.
type Config struct {
	Plan     Plan
	Proposed *schema.Registry
	Limits   schema.Limits // of the gateways
	Scrape   Scrape
	// Open opens a cell's registry; fileset.OpenTree does.
	Open func(ctx context.Context, location string) (fileset.Tree, error)
	// Approve is asked before each cell but the first, and before each cell's stage enforce if AskToEnforce.
	Approve      func(Step) bool
	AskToEnforce bool
	// Say tells what is being done.
	Say func(format string, args ...any)
}

// Step is what a rollout does next in a cell.
type Step struct {
	Cell  string
	Stage schema.Stage // that the cell is to have
	Since time.Time    // when the stage warn before it began: an approval is of that attempt; zero where Stage is warn
}

// String names the step.
func (s Step) String() string {
	text := string(s.Stage) + " in cell " + s.Cell
	if !s.Since.IsZero() {
		text += " after warn since " + s.Since.Format(time.RFC3339)
	}
	return text
}

// WaitsError says that a step was not approved. The same call goes on once it is.
type WaitsError struct{ Step Step }

func (e *WaitsError) Error() string {
	if e.Step.Stage == schema.StageWarn {
		return "waits for an approval; the cells before it have the version: run it again, with --yes where nobody can be asked"
	}
	return "stage warn has passed, and to enforce the version waits for an approval: the same command goes on, --rollback undoes"
}

// Ended is an error after which the same call would not go on: the version is refused, it was rolled back, or somebody else works on the cell.
type Ended struct{ error }

// Unwrap is the error itself.
func (e Ended) Unwrap() error { return e.error }

// Run brings the proposed version into all cells, from where they are. After an error that is not Ended the same call goes on.
func Run(ctx context.Context, c Config) error {
	for i, cell := range c.Plan.Cells {
		if err := c.cell(ctx, cell, i > 0); err != nil {
			return fmt.Errorf("cell %s: %w", cell.Name, err)
		}
	}
	return nil
}

// with opens a cell's registry for f.
func (c *Config) with(ctx context.Context, cell Cell, f func(*registry) error) (err error) {
	r, err := openRegistry(ctx, c.Open, cell.Registry)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	defer func() { err = errors.Join(err, r.tree.Close()) }()
	return f(r)
}

func (c *Config) cell(ctx context.Context, cell Cell, approve bool) error {
	return c.with(ctx, cell, func(r *registry) error {
		begun, err := c.begun(r)
		if err == nil && !begun {
			err = c.begin(ctx, cell, r, approve)
		}
		if err == nil && r.state.Stage == schema.StageWarn {
			err = c.stage(ctx, cell, r, schema.StageEnforce)
		}
		if err == nil && r.state.Stage == schema.StageEnforce {
			err = c.stage(ctx, cell, r, schema.StageDone)
		}
		if err != nil {
			return err
		}
		c.Say("cell %s: version %s is in force", cell.Name, c.Proposed.Version())
		return nil
	})
}

// begun tells whether the proposed version is on its way in a cell, or in force. It fails where another one is on its way.
func (c *Config) begun(r *registry) (bool, error) {
	s := r.state
	if trying := s.Stage == schema.StageWarn || s.Stage == schema.StageEnforce; !trying {
		return s.InForce() == c.Proposed.Version(), nil
	}
	if s.Proposed != c.Proposed.Version() {
		return false, Ended{fmt.Errorf("another rollout is under way: %s; end it, or roll it back, with its own plan", describe(s))}
	}
	return true, nil
}

// begin writes the stage warn.
func (c *Config) begin(ctx context.Context, cell Cell, r *registry, approve bool) error {
	if err := c.verdict(cell, r); err != nil {
		return Ended{err}
	}
	if step := (Step{Cell: cell.Name, Stage: schema.StageWarn}); approve && !c.Approve(step) {
		return &WaitsError{step}
	}
	before, err := c.latency(ctx, cell)
	if err != nil {
		return err
	}
	for _, version := range []*schema.Registry{r.loader.Registry(), c.Proposed} { // before the file that names them
		if err := schema.WriteVersion(ctx, r.tree, version); err != nil {
			return err
		}
	}
	return r.write(ctx, schema.Rollout{Current: r.state.InForce(), Proposed: c.Proposed.Version(), Stage: schema.StageWarn, LatencyBefore: before})
}

// verdict fails where the proposed version may refuse what the one in force accepts, and no rehearsal says that it does not refuse too much.
func (c *Config) verdict(cell Cell, r *registry) error {
	current := r.loader.Registry()
	changes := schema.Diff(current, c.Proposed, c.Limits)
	breaking := 0
	for _, change := range changes {
		if change.Breaking {
			breaking++
		}
	}
	said := fmt.Sprintf("cell %s: version %s is in force, %s proposed: %d changes, %d of them breaking", cell.Name, current.Version(), c.Proposed.Version(), len(changes), breaking)
	if breaking == 0 {
		c.Say("%s: no rehearsal is needed", said)
		return nil
	}
	if cell.Rehearsed == "" {
		return fmt.Errorf("%d of %d changes are breaking, and `rehearsed` names no report: run `pulsegrid job run rehearsal --json` in this cell", breaking, len(changes))
	}
	report, err := readReport(cell.Rehearsed)
	switch {
	case err != nil:
		return fmt.Errorf("rehearsed: %w", err)
	case report.Current.Version != current.Version() || report.Proposed.Version != c.Proposed.Version():
		return fmt.Errorf("rehearsed: %s is of version %s against %s, and here it is %s against %s: run the rehearsal again", cell.Rehearsed,
			report.Proposed.Version, report.Current.Version, c.Proposed.Version(), current.Version())
	case report.Tenant != "":
		return fmt.Errorf("rehearsed: %s is of tenant %s alone: run the rehearsal without --tenant", cell.Rehearsed, report.Tenant)
	}
	if err := report.Verdict(c.Plan.refusePercent); err != nil {
		return fmt.Errorf("rehearsed: %w", err)
	}
	c.Say("%s; rehearsed with %d events from %s to %s: no tenant is above %s", said, report.Events, report.From.Format(time.RFC3339), report.To.Format(time.RFC3339), c.Plan.RefuseAbove)
	return nil
}

func readReport(path string) (report rehearsal.Report, err error) {
	f, err := os.Open(path)
	if err != nil {
		return report, err
	}
	defer func() { _ = f.Close() }() // it was only read
	if err := json.NewDecoder(io.LimitReader(f, reportBytesMax)).Decode(&report); err != nil {
		return report, fmt.Errorf("%s: %w", path, err)
	}
	return report, nil
}

// latency is how long a request takes before the rollout. A cell without requests cannot be watched.
func (c *Config) latency(ctx context.Context, cell Cell) (time.Duration, error) {
	measured := map[string]gateway{}
	takes := min(c.Plan.WarnFor, window)
	c.Say("cell %s: measuring latency for %v", cell.Name, takes)
	for _, wait := range []time.Duration{0, takes} {
		if err := sleep.For(ctx, wait); err != nil {
			return 0, err
		}
		for _, url := range cell.Gateways {
			m, err := c.Scrape(ctx, url)
			if err != nil {
				return 0, pause("nothing was begun: metrics of a gateway cannot be read: %v", err)
			}
			measured[url] = readGateway(m, schema.Rollout{}).since(measured[url])
		}
	}
	f := together(measured)
	if f.requests == 0 {
		return 0, pause("nothing was begun: its gateways have had no requests in %v", takes)
	}
	return f.latency.Round(time.Microsecond), nil
}

// stage watches the stage that a cell is in, and then writes the next one.
func (c *Config) stage(ctx context.Context, cell Cell, r *registry, next schema.Stage) error {
	s := r.state
	c.Say("cell %s: stage %s since %s", cell.Name, s.Stage, s.Since.Format(time.RFC3339))
	w := watch{plan: &c.Plan, cell: cell, registry: r, scrape: c.Scrape}
	seen, err := w.run(ctx)
	if over, is := errors.AsType[overBudget](err); is {
		return c.back(ctx, cell, r, over)
	}
	if stopped, is := errors.AsType[paused](err); is {
		return fmt.Errorf("paused in stage %s: %w; the same command goes on, --rollback undoes", s.Stage, stopped)
	}
	if err != nil {
		return fmt.Errorf("stopped in stage %s: %w; the same command goes on, --rollback undoes", s.Stage, err)
	}
	c.Say("cell %s: stage %s has passed: %s", cell.Name, s.Stage, seen)
	if step := (Step{cell.Name, next, s.Since}); c.AskToEnforce && next == schema.StageEnforce && !c.Approve(step) {
		return &WaitsError{step}
	}
	s.Stage = next
	return r.write(ctx, s)
}

// back puts the version before in force again. It tries for some time, and is not stopped by who stops the program: events may be going to quarantine.
func (c *Config) back(ctx context.Context, cell Cell, r *registry, why overBudget) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settle)
	defer cancel()
	stage := r.state.Stage
	for {
		err := r.write(ctx, schema.Rollout{Current: r.state.Current})
		if err == nil {
			break
		}
		if errors.Is(err, errChanged) || sleep.For(ctx, time.Second) != nil {
			return fmt.Errorf("stage %s: %w; it could not be rolled back: %w", stage, why, err)
		}
	}
	c.Say("cell %s: %s; rolled back to version %s", cell.Name, why, r.state.Current)
	if behind := c.behind(ctx, cell); len(behind) > 0 {
		c.Say("cell %s: these gateways have not followed yet: %s", cell.Name, strings.Join(behind, ", "))
	}
	if stage == schema.StageEnforce {
		return Ended{fmt.Errorf("rolled back from stage %s: %w; what was quarantined meanwhile can be repaired (docs/formats/repair.md)", stage, why)}
	}
	return Ended{fmt.Errorf("rolled back from stage %s: %w; nothing was quarantined by it", stage, why)}
}

// behind waits until no gateway tries the version any more, and returns those that do, or cannot be asked.
func (c *Config) behind(ctx context.Context, cell Cell) []string {
	left := slices.Clone(cell.Gateways)
	for {
		left = slices.DeleteFunc(left, func(url string) bool {
			m, err := c.Scrape(ctx, url)
			return err == nil && !readGateway(m, schema.Rollout{}).trying
		})
		if len(left) == 0 || sleep.For(ctx, time.Second) != nil {
			return left
		}
	}
}

// Rollback puts the version before in force again, in each cell that has the proposed one or is on the way to it, the last cell first.
func Rollback(ctx context.Context, c Config) error {
	var errs []error
	for _, cell := range slices.Backward(c.Plan.Cells) {
		err := c.with(ctx, cell, func(r *registry) error {
			if r.state.Proposed != c.Proposed.Version() {
				c.Say("cell %s: nothing to roll back: %s", cell.Name, describe(r.state))
				return nil
			}
			if err := r.write(ctx, schema.Rollout{Current: r.state.Current}); err != nil {
				return err
			}
			c.Say("cell %s: rolled back to version %s", cell.Name, r.state.Current)
			return nil
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("cell %s: %w", cell.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Check says of each cell where it is, and fails where Run could not begin.
func Check(ctx context.Context, c Config) error {
	var errs []error
	for _, cell := range c.Plan.Cells {
		err := c.with(ctx, cell, func(r *registry) error {
			c.Say("cell %s: %s", cell.Name, describe(r.state))
			for _, url := range cell.Gateways {
				if _, err := c.Scrape(ctx, url); err != nil {
					return fmt.Errorf("metrics of a gateway cannot be read: %w", err)
				}
			}
			if begun, err := c.begun(r); err != nil || begun {
				return err
			}
			return c.verdict(cell, r)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("cell %s: %w", cell.Name, err))
		}
	}
	return errors.Join(errs...)
}
