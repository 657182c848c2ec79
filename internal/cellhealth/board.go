package cellhealth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/component"
)

// Board is what extension `cell_health` offers to other components. Its methods may be called by any goroutine.
type Board interface {
	// Watch has check called every few seconds, one call at a time, until forget, which returns when none runs any more. check returns why nothing can be
	// accepted of what comes to the component, nil where something can be. It should return when its context ends; until it does it counts as an error.
	Watch(component string, check func(ctx context.Context) error) (forget func())
	// Drained tells that senders are to go to other cells. It costs no more than reading a variable.
	Drained() bool
}

// Find returns the board that a host's extensions offer; nil: there is none, so that nobody watches, and the cell cannot be drained.
func Find(host component.Host) (Board, error) {
	var found Board
	var names []string
	for id, ext := range host.GetExtensions() {
		if b, ok := ext.(Board); ok {
			found = b
			names = append(names, id.String())
		}
	}
	if len(names) > 1 {
		slices.Sort(names)
		return nil, fmt.Errorf("extensions %s are all health checks of a cell: list one under service::extensions", strings.Join(names, ", "))
	}
	return found, nil
}
