package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// registry is a cell's.
type registry struct {
	tree   fileset.Tree
	loader *schema.Loader
	// state is what this program has read or written last.
	state schema.Rollout
}

// openRegistry reads it, strictly: a version that leaves files out must not become the current one.
func openRegistry(ctx context.Context, open func(context.Context, string) (fileset.Tree, error), location string) (*registry, error) {
	tree, err := open(ctx, location)
	if err != nil {
		return nil, err
	}
	r := &registry{tree: tree, loader: schema.NewLoader(tree)}
	if err := r.read(ctx); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return r, nil
}

func (r *registry) read(ctx context.Context) error {
	report, err := r.loader.Reload(ctx)
	if err != nil {
		return err
	}
	if len(report.Refused) > 0 {
		return fmt.Errorf("%s: %w", r.tree, report.Refused[0])
	}
	r.state = r.found()
	return nil
}

// found is what the registry says now. Without a rollout's file the location's own files are in force.
func (r *registry) found() schema.Rollout {
	if s, ok := r.loader.Rollout(); ok {
		return s
	}
	return schema.Rollout{Current: r.loader.Registry().Version()}
}

// errChanged tells that somebody else works on the same cell.
var errChanged = Ended{errors.New("somebody has changed the registry meanwhile")}

// unchanged fails where the registry is no longer as this program has read or written it last.
func (r *registry) unchanged(ctx context.Context) error {
	was := r.state
	if err := r.read(ctx); err != nil {
		return err
	}
	if r.state != was {
		return fmt.Errorf("%w: %s says %s", errChanged, r.tree, describe(r.state))
	}
	return nil
}

// write is the one step that changes what gateways do.
func (r *registry) write(ctx context.Context, s schema.Rollout) error {
	if err := r.unchanged(ctx); err != nil {
		return err
	}
	if s.Stage != "" {
		s.Since = time.Now().UTC().Truncate(time.Second) // what a file and a metric can say
		if !s.Since.After(r.state.Since) {
			s.Since = r.state.Since.Add(time.Second) // another attempt has another time
		}
	}
	if err := r.tree.Write(ctx, schema.RolloutFile, s.Marshal()); err != nil {
		return fmt.Errorf("write %s of %s: %w", schema.RolloutFile, r.tree, err)
	}
	if err := r.read(ctx); err != nil {
		return err
	}
	if r.state != s {
		return fmt.Errorf("%w: %s says %s", errChanged, r.tree, describe(r.state))
	}
	return nil
}

func describe(s schema.Rollout) string {
	if s.Stage == "" {
		return "version " + s.Current + " is in force"
	}
	return fmt.Sprintf("version %s is in stage %s, from %s", s.Proposed, s.Stage, s.Current)
}
