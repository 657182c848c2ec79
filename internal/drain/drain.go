package drain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
)

// Read returns the state of a cell, as its gateways read it.
func Read(ctx context.Context, c *Cell) (state cellhealth.State, err error) {
	err = inTree(ctx, c, func(tree fileset.Tree) error {
		state, err = cellhealth.Read(ctx, tree, c.Name)
		return err
	})
	return state, err
}

// Set drains a cell, or ends that, and returns the state before and the one that holds now. A cell that is as it shall be stays as it is, its reason and time too.
func Set(ctx context.Context, c *Cell, drained bool, reason string, now time.Time) (before, after cellhealth.State, err error) {
	err = inTree(ctx, c, func(tree fileset.Tree) error {
		if before, err = cellhealth.Read(ctx, tree, c.Name); err != nil {
			return err
		}
		if after = before; before.Drained == drained {
			return nil
		}
		next := cellhealth.State{Cell: c.Name, Drained: drained, Since: now.UTC().Truncate(time.Second), Reason: reason}
		if err := next.Validate(); err != nil {
			return err
		}
		if err := tree.Write(ctx, cellhealth.StateFile, next.Marshal()); err != nil {
			return fmt.Errorf("write %s of %s: %w", cellhealth.StateFile, tree, err)
		}
		if after, err = cellhealth.Read(ctx, tree, c.Name); err != nil {
			return err
		}
		if after != next {
			return fmt.Errorf("somebody has written %s of %s at the same moment: look at its status", cellhealth.StateFile, tree)
		}
		return nil
	})
	return before, after, err
}

func inTree(ctx context.Context, c *Cell, do func(fileset.Tree) error) error {
	tree, err := fileset.OpenTree(ctx, c.State)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return errors.Join(do(tree), tree.Close())
}

// ErrLast is returned where a drain would leave a jurisdiction without a cell.
var ErrLast = errors.New("would leave no cell of its jurisdiction that takes its tenants")

// CheckLast returns ErrLast where c is the last cell of its jurisdiction that is not drained. Of a cell whose state cannot be read nobody knows, so it does not count.
func CheckLast(ctx context.Context, cells []Cell, c *Cell) error {
	var unread []error
	for i := range cells {
		other := &cells[i]
		if other.Name == c.Name || other.Jurisdiction != c.Jurisdiction {
			continue
		}
		switch s, err := Read(ctx, other); {
		case err != nil:
			unread = append(unread, fmt.Errorf("cell %s cannot be told: %w", other.Name, err))
		case !s.Drained:
			return nil
		}
	}
	return errors.Join(append([]error{fmt.Errorf("draining %s %w (%s)", c.Name, ErrLast, c.Jurisdiction)}, unread...)...)
}
